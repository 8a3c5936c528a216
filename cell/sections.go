package cell

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ForwarderProtocol is how a forwarder is asked.
type ForwarderProtocol string

const (
	ForwardPlain ForwarderProtocol = "dns"   // UDP with TCP on truncation (RFC 1035)
	ForwardTLS   ForwarderProtocol = "tls"   // DNS over TLS (RFC 7858)
	ForwardHTTPS ForwarderProtocol = "https" // DNS over HTTPS (RFC 8484)
)

// Forwarder is a resolver that names outside our zones are sent to.
type Forwarder struct {
	Protocol ForwarderProtocol `json:"protocol"`
	// Address is IP:port; names are not allowed here, or resolving the
	// resolver would need a resolver.
	Address netip.AddrPort `json:"address"`
	// ServerName is verified in the certificate (tls, https).
	ServerName string `json:"server_name"`
	// Path of the DoH endpoint; default /dns-query.
	Path string `json:"path"`
}

// View is an audience of the DNS server.
type View string

const (
	ViewPeer     View = "peer"
	ViewLAN      View = "lan"
	ViewInternet View = "internet"
)

// Record is one resource record the admin added to the cell's zone.
type Record struct {
	// Name is relative to the effective domain ("@" is the apex) and may begin with "*.".
	Name string `json:"name"`
	// Type is A, AAAA, CNAME, TXT, MX, SRV or CAA.
	Type string `json:"type"`
	// Value is the RDATA in presentation format (RFC 1035 §5.1).
	Value string `json:"value"`
	// TTL in seconds, 0 (the zone's default, 300) to 604800.
	TTL uint32 `json:"ttl"`
	// Views that see the record; empty means peer and lan.
	Views []View `json:"views"`
}

// DNS is the name server's configuration.
type DNS struct {
	// Forwarders are tried in order; empty means the uplink's own resolvers
	// (learned) and refusal where there are none.
	Forwarders []Forwarder `json:"forwarders"`
	Records    []Record    `json:"records"`
	// CacheSize is the most forwarded RRsets kept; 0 means 10,000.
	CacheSize int `json:"cache_size"`
	// RebindAllow lists domains outside ours whose answers may be private addresses.
	RebindAllow []string `json:"rebind_allow"`
	// Public answers the public view on the uplink. Off by default.
	Public bool `json:"public"`
}

func (d *DNS) validate(v *validation, t *Tunnel) {
	if len(d.Forwarders) > 8 {
		v.add("forwarders", "at most 8 forwarders")
	}
	for i := range d.Forwarders {
		f := &d.Forwarders[i]
		v.in("forwarders/"+strconv.Itoa(i), func() {
			switch f.Protocol {
			case ForwardPlain:
			case ForwardTLS, ForwardHTTPS:
				v.domain("server_name", f.ServerName)
			default:
				v.add("protocol", "must be dns, tls or https")
			}
			if !f.Address.IsValid() || f.Address.Port() == 0 || f.Address.Addr().IsUnspecified() || f.Address.Addr().IsMulticast() {
				v.add("address", "must be an IP address and port, such as 9.9.9.9:53")
			}
			// Forwarders may be on this machine and on the LAN (API-8): but not the
			// cell itself, which would ask itself, nor an address that only tells
			// machines in a cloud about themselves (RFC 3927).
			switch a := f.Address.Addr().Unmap(); {
			case a.IsValid() && (a == t.Gateway4() || a == t.Gateway6()):
				v.add("address", "%s is the cell itself", a)
			case a.Is4() && a.IsLinkLocalUnicast():
				v.add("address", "%s is no name server's address", a)
			}
			if f.Path != "" && !strings.HasPrefix(f.Path, "/") {
				v.add("path", "must begin with /")
			}
		})
	}
	for i := range d.Records {
		r := &d.Records[i]
		v.in("records/"+strconv.Itoa(i), func() { r.validate(v) })
	}
	if d.CacheSize < 0 || d.CacheSize > 1_000_000 {
		v.add("cache_size", "must be 0 (the default) to 1000000")
	}
	for i, n := range d.RebindAllow {
		v.domain("rebind_allow/"+strconv.Itoa(i), n)
	}
}

var recordTypes = []string{"A", "AAAA", "CNAME", "TXT", "MX", "SRV", "CAA"}

func (r *Record) validate(v *validation) {
	v.ownerName("name", r.Name)
	if !slices.Contains(recordTypes, r.Type) {
		v.add("type", "must be one of %s", strings.Join(recordTypes, ", "))
	}
	if r.Value == "" || len(r.Value) > 1024 || strings.ContainsAny(r.Value, "\r\n\x00") {
		v.add("value", "must be one line of 1 to 1024 bytes")
	}
	a, err := netip.ParseAddr(r.Value)
	if r.Type == "A" && (err != nil || !a.Is4()) {
		v.add("value", "an A record holds an IPv4 address")
	}
	if r.Type == "AAAA" && (err != nil || !a.Is6() || a.Is4In6() || a.Zone() != "") {
		v.add("value", "an AAAA record holds an IPv6 address")
	}
	if r.TTL > 604800 {
		v.add("ttl", "must be at most 604800 seconds")
	}
	for i, w := range r.Views {
		if w != ViewPeer && w != ViewLAN && w != ViewInternet {
			v.add("views/"+strconv.Itoa(i), "must be peer, lan or internet")
		}
	}
}

// Discipline says who steers the host clock.
type Discipline string

const (
	DisciplineAuto Discipline = "auto" // leave it alone when another daemon does it
	DisciplineOff  Discipline = "off"
)

// Clock is the NTP server's and clients' configuration.
type Clock struct {
	// Sources are NTP servers, host or host:port, used when the cell
	// disciplines the clock itself.
	Sources    []string   `json:"sources"`
	Discipline Discipline `json:"discipline"`
}

func (c *Clock) validate(v *validation) {
	if len(c.Sources) > 16 {
		v.add("sources", "at most 16 sources")
	}
	for i, s := range c.Sources {
		v.endpoint("sources/"+strconv.Itoa(i), s)
	}
	if c.Discipline != DisciplineAuto && c.Discipline != DisciplineOff {
		v.add("discipline", "must be auto or off")
	}
}

// Authority is one internal CA: a root, an issuing intermediate, and the
// references of their keys. A change of domain makes a second one.
type Authority struct {
	ID string `json:"id"`
	// Root and Issuing are certificates in PEM.
	Root       string    `json:"root"`
	Issuing    string    `json:"issuing"`
	RootKey    SecretRef `json:"root_key"`
	IssuingKey SecretRef `json:"issuing_key"`
	// Domains are the permitted DNS name constraints (RFC 5280 §4.2.1.10).
	Domains []string  `json:"domains"`
	Created time.Time `json:"created"`
	// Retired authorities are no longer offered for trust and sign nothing.
	Retired bool `json:"retired"`
}

// TLS is where certificates come from.
type TLS struct {
	// Authorities in order of creation; the last one not retired signs.
	Authorities []Authority `json:"authorities"`
	// Solver answers ACME challenges; empty means the domain mode's default.
	Solver      string    `json:"solver"`
	SolverToken SecretRef `json:"solver_token"`
	// Email is the ACME account's contact; may be empty.
	Email string `json:"email"`
}

// Signing returns the authority that signs, or nil when there is none.
func (t *TLS) Signing() *Authority {
	for i := len(t.Authorities) - 1; i >= 0; i-- {
		if !t.Authorities[i].Retired {
			return &t.Authorities[i]
		}
	}
	return nil
}

// Covers reports whether a's name constraints permit every domain: a permitted
// name covers all that end in it (RFC 5280 §4.2.1.10).
func (a *Authority) Covers(domains []string) bool {
	for _, d := range domains {
		if !slices.ContainsFunc(a.Domains, func(p string) bool { return d == p || strings.HasSuffix(d, "."+p) }) {
			return false
		}
	}
	return true
}

// SigningFor returns the authority that signs for the domains: of those that
// are not retired the youngest that covers them all, else the youngest; nil
// when there is none. After a rollback to an old domain the old one signs again.
func (t *TLS) SigningFor(domains []string) *Authority {
	for i := len(t.Authorities) - 1; i >= 0; i-- {
		if a := &t.Authorities[i]; !a.Retired && a.Covers(domains) {
			return a
		}
	}
	return t.Signing()
}

func (t *TLS) validate(v *validation) {
	ids := v.unique("id")
	for i := range t.Authorities {
		a := &t.Authorities[i]
		v.in("authorities/"+strconv.Itoa(i), func() {
			ids.label(a.ID)
			if !strings.Contains(a.Root, "BEGIN CERTIFICATE") || !strings.Contains(a.Issuing, "BEGIN CERTIFICATE") {
				v.add("root", "an authority needs its root and issuing certificates in PEM")
			}
			if a.IssuingKey == "" {
				v.add("issuing_key", "an authority needs its issuing key")
			}
		})
	}
	if len(t.Email) > 254 || (t.Email != "" && !strings.Contains(t.Email, "@")) {
		v.add("email", "must be an e-mail address")
	}
}

// DDNS publishes the cell's address under its public name.
type DDNS struct {
	// Provider is empty (the domain mode's default) or one of pic_ngo,
	// cloudflare, duckdns, noip, freedns, rfc2136, none.
	Provider string `json:"provider"`
	// APIBaseURL of the pic_ngo service; https only.
	APIBaseURL string    `json:"api_base_url"`
	TOTPSecret SecretRef `json:"totp_secret"`
	Token      SecretRef `json:"token"`
}

var ddnsProviders = []string{"", "none", "pic_ngo", "cloudflare", "duckdns", "noip", "freedns", "rfc2136"}

func (d *DDNS) validate(v *validation) {
	if !slices.Contains(ddnsProviders, d.Provider) {
		v.add("provider", "must be empty or one of %s", strings.Join(ddnsProviders[1:], ", "))
	}
	if d.APIBaseURL != "" && !strings.HasPrefix(d.APIBaseURL, "https://") {
		v.add("api_base_url", "must begin with https://")
	}
}

// Role is what a user may do.
type Role string

const (
	RoleAdmin Role = "admin"
	RolePeer  Role = "peer"
)

// User is a person with a login.
type User struct {
	Name         string    `json:"name"`
	Role         Role      `json:"role"`
	PasswordHash SecretRef `json:"password_hash"`
	Created      time.Time `json:"created"`
	// Tokens and SecondFactor go with the user: they are as monotonic in a
	// rollback, and end when the user does.
	Tokens       []Token       `json:"tokens,omitempty"`
	SecondFactor *SecondFactor `json:"second_factor,omitempty"`
}

func (u *User) validate(v *validation) {
	if u.Role != RoleAdmin && u.Role != RolePeer {
		v.add("role", "must be admin or peer")
	}
	if u.PasswordHash == "" {
		v.add("password_hash", "a user needs a password")
	}
	v.max("tokens", len(u.Tokens), MaxTokensPerUser)
	for i := range u.Tokens {
		v.in("tokens/"+strconv.Itoa(i), func() { u.Tokens[i].validate(v) })
	}
	if u.SecondFactor != nil {
		v.in("second_factor", func() { u.SecondFactor.validate(v) })
	}
}
