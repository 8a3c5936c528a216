package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/textproto"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Limits of the connections to upstreams.
const (
	dialTimeout     = 5 * time.Second
	headerTimeout   = 5 * time.Minute // long polls answer late
	connsPerHost    = 512
	maxAnswerHeader = 256 << 10
	retryAfter      = "10" // seconds
)

// upstream is a server behind the proxy with its own pool of connections. It
// outlives the table as long as the address stays, so that a change of routes
// costs no connection.
type upstream struct {
	url       *url.URL
	proxy     *httputil.ReverseProxy
	transport *http.Transport
}

// errLoop stands for an upstream that is this proxy.
var errLoop = errors.New("the upstream is the cell's own web server")

// elsewhere dials what is not this proxy itself. The state can't refuse such an
// upstream, because it does not know the addresses that the machine was given;
// and a request that came back would come from the machine's own address.
func (s *Server) elsewhere(dial func(context.Context, string, string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		t := s.table.Load()
		if ap, err := netip.ParseAddrPort(address); err == nil && (t.own[ap.Addr().Unmap()] || ap.Addr().Unmap().IsLoopback()) &&
			(ap.Port() == t.routes.HTTPSPort || ap.Port() == t.routes.HTTPPort) {
			return nil, &net.OpError{Op: "dial", Net: network, Err: errLoop}
		}
		return dial(ctx, network, address)
	}
}

// passage is what the handler has found out about a request and the rewriter needs.
type passage struct {
	host string // as the client should see it: with the port that it used
	peer string // "" unless the tunnel proves it and the service may know it
	src  string
	name string // of the service, for people
	body *slowBody
}

type passageKey struct{}

func newUpstream(raw string, dial func(context.Context, string, string) (net.Conn, error), log *slog.Logger) (*upstream, error) {
	to, err := url.Parse(raw)
	if err != nil {
		return nil, err
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	u := &upstream{url: to, transport: &http.Transport{
		Proxy:                  nil, // the environment must not redirect what is inside the house
		DialContext:            dial,
		Protocols:              &protocols,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    connsPerHost, // fewer, and a burst dials for each request
		MaxConnsPerHost:        connsPerHost,
		IdleConnTimeout:        90 * time.Second,
		TLSHandshakeTimeout:    10 * time.Second,
		ResponseHeaderTimeout:  headerTimeout,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: maxAnswerHeader,
	}}
	u.proxy = &httputil.ReverseProxy{
		Rewrite:        u.rewrite,
		Transport:      u.transport,
		FlushInterval:  0, // httputil flushes event streams and answers of unknown length at once
		BufferPool:     buffers{},
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ModifyResponse: cleanAnswer,
		ErrorHandler:   answerError,
	}
	return u, nil
}

// rewrite runs after net/http/httputil has removed hop-by-hop fields (RFC 9110
// §7.6.1), so that a Connection field can't name ours away.
func (u *upstream) rewrite(r *httputil.ProxyRequest) {
	p, _ := r.In.Context().Value(passageKey{}).(passage)
	r.SetURL(u.url)
	r.Out.Host = p.host
	// As it came: httputil drops parameters that net/url can't parse, which
	// guards proxies that decide by them. This one does not look.
	r.Out.URL.RawQuery = r.In.URL.RawQuery
	h := r.Out.Header
	cleanRequest(h)
	h.Set("X-Forwarded-For", p.src)
	h.Set("X-Forwarded-Host", p.host)
	h.Set("X-Forwarded-Proto", "https")
	h.Set("X-Real-Ip", p.src)
	// Trailer fields would pass unlooked at (RFC 9110 §6.5.1 lets us drop them).
	r.Out.Trailer = nil
	if p.peer != "" {
		h.Set("X-Pic-Peer", p.peer)
	}
	if _, ok := h["User-Agent"]; !ok {
		h.Set("User-Agent", "") // or the transport would put its own
	}
}

// cleanRequest removes what a client may not say about itself. Some servers
// read an underscore like a hyphen (RFC 3875 §4.1.18 turns both into one), so
// both spellings go.
func cleanRequest(h http.Header) {
	for key := range h {
		if claimsIdentity(key) || claimsFraming(key) {
			delete(h, key)
		}
	}
	cookies := h["Cookie"]
	if len(cookies) == 0 {
		return
	}
	var kept []string
	for _, line := range cookies {
		if line = foreignCookies(line); line != "" {
			kept = append(kept, line)
		}
	}
	if len(kept) == 0 {
		h.Del("Cookie")
		return
	}
	h["Cookie"] = kept
}

// claimsIdentity reports whether a field tells who or where the client is, or
// changes what was asked for on the way.
func claimsIdentity(key string) bool {
	k := strings.ToLower(strings.ReplaceAll(key, "_", "-"))
	for _, prefix := range []string{"x-forwarded-", "x-pic-", "remote-", "x-remote-", "x-auth-request-"} {
		if strings.HasPrefix(k, prefix) {
			return true
		}
	}
	switch k {
	case "forwarded", "x-forwarded", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip", "cf-connecting-ip",
		"fastly-client-ip", "x-original-url", "x-rewrite-url", "x-original-host", "x-host", "x-webauth-user", "x-user",
		"proxy", "proxy-connection", "http2-settings":
		return true
	}
	return false
}

// claimsFraming reports whether a field would say how long the request is, or
// whose hop it belongs to, to a server that reads an underscore like a hyphen.
// The same fields with hyphens are net/http's to read and to write.
func claimsFraming(key string) bool {
	if !strings.Contains(key, "_") {
		return false
	}
	switch strings.ToLower(strings.ReplaceAll(key, "_", "-")) {
	case "content-length", "transfer-encoding", "keep-alive", "proxy-authorization", "proxy-authenticate", "proxy-connection":
		return true
	}
	return false
}

// foreignCookies drops the cell's own cookies from a Cookie field (RFC 6265 §4.2.1).
func foreignCookies(line string) string {
	if !strings.Contains(strings.ToLower(line), "__host-pic") {
		return line
	}
	var kept []string
	for pair := range strings.SplitSeq(line, ";") {
		pair = textproto.TrimString(pair)
		if pair != "" && !strings.HasPrefix(strings.ToLower(pair), "__host-pic") {
			kept = append(kept, pair)
		}
	}
	return strings.Join(kept, "; ")
}

// cleanAnswer removes what a service may not say about its host: HSTS would
// lock people out where the authority signs (they could no longer accept its
// certificate), and Alt-Svc would send browsers past this proxy.
func cleanAnswer(r *http.Response) error {
	for _, k := range []string{"Server", "X-Powered-By", "Strict-Transport-Security", "Public-Key-Pins", "Alt-Svc"} {
		r.Header.Del(k)
	}
	// Refused here, the connection is closed; net/http/httputil would refuse an
	// unasked 101 as well, and leak it (golang/go#80875).
	if r.StatusCode == http.StatusSwitchingProtocols &&
		(r.Request.Header.Get("Upgrade") == "" || !strings.EqualFold(r.Header.Get("Upgrade"), "websocket")) {
		return errProtocol
	}
	return nil
}

var errProtocol = errors.New("the service switched to a protocol that was not asked for")

// answerError tells the client why its service did not answer.
func answerError(w http.ResponseWriter, r *http.Request, err error) {
	p, _ := r.Context().Value(passageKey{}).(passage)
	slow := p.body.late()
	if r.Context().Err() != nil && !slow {
		panic(http.ErrAbortHandler) // the client is gone, or was cut off: nobody reads an answer
	}
	var timeout net.Error
	var op *net.OpError
	switch {
	case slow:
		w.Header().Set("Connection", "close")
		problem(w, http.StatusRequestTimeout, "request_timeout", "The request came too slowly.")
	case errors.As(err, &op) && op.Op == "dial":
		unavailable(w, r, p.name)
	case errors.As(err, &timeout) && timeout.Timeout():
		problem(w, http.StatusGatewayTimeout, "upstream_timeout", p.name+" did not answer in time.")
	default:
		problem(w, http.StatusBadGateway, "upstream_failed", p.name+" gave no proper answer: look at its log.")
	}
}

// onlyWebSocket removes a request for any other upgrade. httputil.ReverseProxy
// passes them all on (golang/go#80416): after a 101 to "h2c" the connection
// would be a tunnel past every rule of this package.
func onlyWebSocket(r *http.Request) {
	up := r.Header["Upgrade"]
	if len(up) == 0 && r.Header["Http2-Settings"] == nil {
		return
	}
	// RFC 6455 §4.1: GET, HTTP/1.1, the one token "websocket".
	if r.Method == http.MethodGet && r.ProtoMajor == 1 && r.ProtoMinor == 1 && len(up) == 1 && strings.EqualFold(up[0], "websocket") {
		return
	}
	r.Header.Del("Upgrade")
	r.Header.Del("Http2-Settings")
}

// buffers lends the copying loops their 32 KiB.
type buffers struct{}

var pool = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

func (buffers) Get() []byte  { return *pool.Get().(*[]byte) }
func (buffers) Put(b []byte) { pool.Put(&b) }
