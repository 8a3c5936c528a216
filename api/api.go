package api

import (
	"context"
	"io/fs"
	"log/slog"
	"net/http"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humagin"
	"github.com/gin-gonic/gin"

	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/reconcile"
)

const (
	maxBody       = 1 << 20
	commitTimeout = 2 * time.Minute
)

// Flow is the connection a request came on: what a commit must not cut off.
type Flow struct {
	Remote, Local netip.AddrPort
}

// PeerStats are a peer's counters as the device has them.
type PeerStats struct {
	Online        bool       `json:"online" doc:"a handshake in the last 180 seconds"`
	Endpoint      string     `json:"endpoint"`
	LastHandshake *time.Time `json:"last_handshake"`
	RxBytes       int64      `json:"rx_bytes" doc:"received from the peer"`
	TxBytes       int64      `json:"tx_bytes" doc:"sent to the peer"`
}

// TunnelStatus is the WireGuard device's state.
type TunnelStatus struct {
	Backend string // kernel, userspace, or none
	Peers   map[cell.Key]PeerStats
}

// ClockStatus is what the NTP server says of itself.
type ClockStatus struct {
	Running        bool    `json:"running"`
	Synchronised   bool    `json:"synchronised"`
	Stratum        int     `json:"stratum" doc:"16 when not synchronised (RFC 5905 §7.3)"`
	Leap           int     `json:"leap" doc:"3 when not synchronised"`
	OffsetSeconds  float64 `json:"offset_seconds"`
	RootDelay      float64 `json:"root_delay_seconds"`
	RootDispersion float64 `json:"root_dispersion_seconds"`
	Reference      string  `json:"reference"`
	Source         string  `json:"source" doc:"who disciplines the clock"`
	Clients        int     `json:"clients"`
	Answers        uint64  `json:"answers"`
}

// DNSStatus is the name server's state.
type DNSStatus struct {
	Listeners []string          `json:"listeners" nullable:"false"`
	Queries   map[string]uint64 `json:"queries" doc:"by view and rcode"`
	CacheSize int               `json:"cache_size"`
	Panics    uint64            `json:"panics"`
	Limited   uint64            `json:"limited" doc:"answers that told an unproven source of the internet to come over TCP"`
	Quick     uint64            `json:"quick" doc:"answers that were kept in wire form"`
}

// DNSRecord is a record as an audience sees it.
type DNSRecord struct {
	Name  string    `json:"name"`
	Type  string    `json:"type"`
	Value string    `json:"value"`
	TTL   uint32    `json:"ttl"`
	View  cell.View `json:"view"`
}

// Certificate describes one that the proxy serves.
type Certificate struct {
	Serial    string    `json:"serial"`
	Subject   string    `json:"subject"`
	Names     []string  `json:"names" nullable:"false"`
	Issuer    string    `json:"issuer"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	Authority bool      `json:"authority" doc:"issued by the cell's own authority"`
}

// File is a download.
type File struct {
	Name, ContentType string
	Data              []byte
}

// Config is what the API needs of the rest of the house, as values and
// functions; cmd/pic fills it. Every field is required unless it says otherwise.
type Config struct {
	Log     *slog.Logger
	Now     func() time.Time
	Version string
	Engine  *reconcile.Engine

	Passwords     *auth.Passwords
	Sessions      *auth.Sessions
	Backoff       *auth.Backoff
	SetupCode     *auth.SetupCode
	Tokens        *auth.Tokens
	SecondFactors *auth.SecondFactors
	Audit         Audit

	NewRef func(kind string) cell.SecretRef
	Secret func(cell.SecretRef) (cell.Secret, error)

	// Tunnel reads the device; GenerateKey and GeneratePSK make keys.
	Tunnel       func(context.Context) (TunnelStatus, error)
	GenerateKey  func() (cell.Secret, cell.Key)
	GeneratePSK  func() cell.Secret
	ClientConfig func(s *cell.State, f cell.Facts, p *cell.Peer, psk cell.Secret, private string) (string, error)
	FileName     func(peer string) string

	// NewAuthority makes an internal CA for the domains; the references in it are empty.
	NewAuthority func(domains []string, now time.Time) (a cell.Authority, root, issuing cell.Secret, err error)
	// Trust renders an authority's root as pem, der or mobileconfig.
	Trust        func(a *cell.Authority, cellName, format string) (File, error)
	Certificates func() []Certificate
	// Fingerprint of the leaf served before the claim, SHA-256 in hex.
	Fingerprint func() string

	Clock      func() ClockStatus
	DNS        func() DNSStatus
	DNSRecords func(*cell.State, cell.Facts) ([]DNSRecord, error)
	// Export renders a plan by name: nft, wg, zone.
	Export map[string]func(*cell.State, cell.Facts) (string, error)
	// Reachable refuses a change under which the flow would be dropped; may be nil.
	Reachable func(Flow, *cell.State, map[string]reconcile.Plan) error
	// Explain follows a flow; a question that can't be understood is a [*cell.InvalidError].
	Explain func(*cell.State, cell.Facts, ExplainQuery) (Explanation, error)
	// Policy evaluates the state's policy tests, in their order.
	Policy func(*cell.State, cell.Facts) ([]PolicyResult, error)
	// Exits are the ways out; see there.
	Exits Exits
	// NetworkTest reports on the uplink; the error says what is wrong.
	NetworkTest func(context.Context) []Check
	// UI is the built web app, rooted at index.html; an empty tree serves a note.
	UI fs.FS
	// Ports of the web for URLs shown to people.
	HTTPSPort uint16
	Started   time.Time
	// Metrics adds what the rest of the house counts; nil adds nothing.
	Metrics func(context.Context, *Metrics)
}

// Check is one line of a self-test.
type Check struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	Text string `json:"text" doc:"what was found and, when not ok, what to do"`
}

// API serves the routes. Make one with [New].
type API struct {
	cfg       *Config
	huma      huma.API
	router    *gin.Engine
	rows      []row
	web       http.Handler
	socket    http.Handler
	tokenOnly http.Handler
	refusals  allowance
	drafts    *auth.SetupSessions[Draft]
	conns     connLog
	traffic   traffic
	scraping  chan struct{} // held while metrics are collected
	scraped   int           // bytes of the last metrics; by who holds scraping

	auditing sync.Mutex // held while revisions are recorded

	mu      sync.Mutex
	pending map[cell.Revision]time.Time // when a confirmed commit had settled
}

// New builds the route table.
func New(cfg *Config) *API {
	useProblems()
	gin.SetMode(gin.ReleaseMode)
	g := gin.New()
	g.HandleMethodNotAllowed = true
	g.RedirectTrailingSlash, g.RedirectFixedPath = false, false
	if err := g.SetTrustedProxies(nil); err != nil { // gin trusts every proxy by default
		panic("api: nil is a valid list of proxies: " + err.Error())
	}
	hc := huma.DefaultConfig("Personal Internet Cell", cfg.Version)
	hc.OpenAPIPath, hc.DocsPath, hc.SchemasPath = "", "", ""
	hc.CreateHooks = nil // no $schema URLs in answers
	hc.Components.Schemas = huma.NewMapRegistry("#/components/schemas/", schemaName)
	hc.Info.Description = "The API of one cell. Everything the UI does, this does."
	a := &API{cfg: cfg, router: g, huma: humagin.New(g, hc)}
	a.drafts = auth.NewSetupSessions[Draft](cfg.Now)
	a.pending = map[cell.Revision]time.Time{}
	a.scraping = make(chan struct{}, 1)
	a.routes()
	g.NoRoute(a.fallback)
	g.NoMethod(func(c *gin.Context) {
		a.writeHTTPProblem(c.Writer, c.Request, problem(http.StatusMethodNotAllowed, "method_not_allowed", "%s is not a method of %s", c.Request.Method, c.Request.URL.Path))
	})
	a.web = a.webChain(g)
	a.socket = a.socketChain(g)
	a.tokenOnly = a.tokenChain(g)
	return a
}

// schemaName tells the document's types ("StatePeer") from the API's ("Peer").
func schemaName(t reflect.Type, hint string) string {
	name := huma.DefaultSchemaNamer(t, hint)
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if strings.HasSuffix(t.PkgPath(), "/cell") && !strings.HasPrefix(name, "State") {
		return "State" + name
	}
	return name
}

// Web is the handler for browsers and tokens, behind the proxy.
func (a *API) Web() http.Handler { return a.web }

// Socket is the handler for the local socket; its server must set
// [auth.SocketPeers.ConnContext], which proves who connects.
func (a *API) Socket() http.Handler { return a.socket }

// OpenAPI is the document of all routes, OpenAPI 3.1 in JSON.
func (a *API) OpenAPI() ([]byte, error) { return a.huma.OpenAPI().MarshalJSON() }

// routes is the one route table.
func (a *API) routes() {
	a.setupRoutes()
	a.authRoutes()
	a.tokenRoutes()
	a.secondFactorRoutes()
	a.auditRoutes()
	a.statusRoutes()
	a.configRoutes()
	a.revisionRoutes()
	a.peerRoutes()
	a.connectivityRoutes()
	a.networkRoutes()
	a.explainRoutes()
	a.vaultRoutes()
	a.eventRoutes()
	a.metricsRoutes()
	a.docRoutes()
}
