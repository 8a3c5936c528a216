package cell

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// DefaultProbes are what health checks of an exit connect to when it names
// nothing else: anycast resolvers, reached only through the exit itself.
func DefaultProbes() []netip.AddrPort {
	return []netip.AddrPort{netip.MustParseAddrPort("9.9.9.9:443"), netip.MustParseAddrPort("1.1.1.1:443")}
}

// WireGuardExit is the client side of somebody else's WireGuard server. The
// private key is the exit's Credentials, the addresses are the exit's.
type WireGuardExit struct {
	// PublicKey is the public half of our own key.
	PublicKey Key `json:"public_key"`
	// PeerKey is the server's public key.
	PeerKey      Key       `json:"peer_key"`
	PresharedKey SecretRef `json:"preshared_key"`
	// Endpoint is host:port; a name is looked up around the exits, and again
	// when the handshake goes stale.
	Endpoint string `json:"endpoint"`
	// AllowedIPs are what the server carries; a family without a default route
	// here is not carried, and refused.
	AllowedIPs []netip.Prefix `json:"allowed_ips"`
	// Keepalive in seconds, 0 (off) to 65535.
	Keepalive uint16 `json:"keepalive"`
	// MTU of the link, 1280 to 9000, 0 for 1420.
	MTU int `json:"mtu"`
	// DNS are resolvers behind the exit, asked through it; may be empty.
	DNS []netip.Addr `json:"dns"`
}

// OpenVPNExit is a profile for a supervised openvpn. The profile as it is kept
// is the allow-listed rest of what was given, with its certificates inline.
type OpenVPNExit struct {
	Profile SecretRef `json:"profile"`
	// Remotes are host:port/proto of the profile, for people.
	Remotes []string `json:"remotes"`
	// Username of auth-user-pass; the password is the exit's Credentials.
	Username string `json:"username"`
}

// TorExit is how a supervised tor leaves.
type TorExit struct {
	// Countries are ISO 3166-1 alpha-2 codes in lower case; empty: any.
	Countries []string `json:"countries"`
	// Bridges are bridge lines without the word Bridge; only the vanilla and
	// obfs4 transports.
	Bridges []string `json:"bridges"`
}

// SSHAuth is how we prove ourselves to an SSH server.
type SSHAuth string

const (
	SSHKey      SSHAuth = "key"
	SSHPassword SSHAuth = "password"
)

// SSHExit is any SSH server that forwards TCP (RFC 4254 §7.2).
type SSHExit struct {
	Host string  `json:"host"`
	Port uint16  `json:"port"`
	User string  `json:"user"`
	Auth SSHAuth `json:"auth"`
	// HostKey is the pinned key as in authorized_keys (type and base64). Empty
	// means that the first key seen is pinned, in the history, and shown.
	HostKey string `json:"host_key"`
}

// ProxyProtocol is how a proxy is spoken to.
type ProxyProtocol string

const (
	ProxySOCKS5 ProxyProtocol = "socks5" // RFC 1928, names resolved by the proxy; UDP where it offers it
	ProxyHTTP   ProxyProtocol = "http"   // CONNECT (RFC 9110 §9.3.6)
	ProxyHTTPS  ProxyProtocol = "https"  // CONNECT inside TLS
)

// ProxyExit is somebody's proxy. The password is the exit's Credentials.
type ProxyExit struct {
	Protocol ProxyProtocol `json:"protocol"`
	Host     string        `json:"host"`
	Port     uint16        `json:"port"`
	Username string        `json:"username"`
}

const (
	maxProbes    = 8
	maxBridges   = 32
	maxCountries = 64
	maxRemotes   = 64
)

func (e *Exit) validateConfig(v *validation) {
	for _, c := range []struct {
		field string
		set   bool
		t     ExitType
	}{
		{"wireguard", e.WireGuard != nil, ExitWireGuard},
		{"openvpn", e.OpenVPN != nil, ExitOpenVPN},
		{"tor", e.Tor != nil, ExitTor},
		{"ssh", e.SSH != nil, ExitSSHuttle},
		{"proxy", e.Proxy != nil, ExitProxy},
	} {
		if c.set && c.t != e.Type {
			v.add(c.field, "belongs to exits of type %s, not %s", c.t, e.Type)
		}
	}
	if len(e.Name) > 100 {
		v.add("name", "a name has at most 100 bytes")
	}
	if len(e.Probes) > maxProbes {
		v.add("probes", "at most %d, not %d", maxProbes, len(e.Probes))
	}
	for i, p := range e.Probes {
		if !p.IsValid() || p.Port() == 0 || !p.Addr().IsGlobalUnicast() {
			v.add("probes/"+strconv.Itoa(i), "must be the address and port of a server on the internet, such as 9.9.9.9:443")
		}
	}
	if e.WireGuard != nil {
		v.in("wireguard", func() { e.WireGuard.validate(v) })
		if e.Enabled && !e.Address4.IsValid() && !e.Address6.IsValid() {
			v.add("address4", "the exit needs an address of its own: the Address line of its configuration")
		}
	}
	if e.OpenVPN != nil {
		v.in("openvpn", func() { e.OpenVPN.validate(v) })
	}
	if e.Tor != nil {
		v.in("tor", func() { e.Tor.validate(v) })
	}
	if e.SSH != nil {
		v.in("ssh", func() { e.SSH.validate(v) })
	}
	if e.Proxy != nil {
		v.in("proxy", func() { e.Proxy.validate(v) })
	}
}

func (w *WireGuardExit) validate(v *validation) {
	v.key("public_key", w.PublicKey)
	v.key("peer_key", w.PeerKey)
	if w.PeerKey != "" && w.PeerKey == w.PublicKey {
		v.add("peer_key", "this is our own key; the [Peer] section holds the server's")
	}
	host, port, ok := strings.Cut(w.Endpoint, "]:")
	host = strings.TrimPrefix(host, "[")
	if !ok {
		if i := strings.LastIndexByte(w.Endpoint, ':'); i >= 0 {
			host, port = w.Endpoint[:i], w.Endpoint[i+1:]
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		v.add("endpoint", "must be host:port, such as vpn.example.net:51820")
	} else {
		v.serverName("endpoint", host)
	}
	if w.MTU != 0 && (w.MTU < 1280 || w.MTU > 9000) {
		v.add("mtu", "must be 1280 to 9000, or 0 for 1420")
	}
	if len(w.AllowedIPs) == 0 || len(w.AllowedIPs) > 64 {
		v.add("allowed_ips", "1 to 64 prefixes, 0.0.0.0/0 and ::/0 for an exit to everywhere")
	}
	for i, p := range w.AllowedIPs {
		if !p.IsValid() {
			v.add("allowed_ips/"+strconv.Itoa(i), "must be a prefix")
		}
	}
	if len(w.DNS) > 4 {
		v.add("dns", "at most 4 resolvers")
	}
	for i, a := range w.DNS {
		if !a.IsValid() || a.Zone() != "" || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() {
			v.add("dns/"+strconv.Itoa(i), "must be the address of a resolver behind the exit")
		}
	}
}

// Carries reports whether the exit has a default route of that family.
func (w *WireGuardExit) Carries(v6 bool) bool {
	return slices.ContainsFunc(w.AllowedIPs, func(p netip.Prefix) bool { return p.Bits() == 0 && p.Addr().Is6() == v6 }) ||
		!v6 && halves(w.AllowedIPs, "0.0.0.0/1", "128.0.0.0/1") || v6 && halves(w.AllowedIPs, "::/1", "8000::/1")
}

// halves are the old way to write a default route beside another one.
func halves(ps []netip.Prefix, a, b string) bool {
	return slices.Contains(ps, netip.MustParsePrefix(a)) && slices.Contains(ps, netip.MustParsePrefix(b))
}

func (o *OpenVPNExit) validate(v *validation) {
	if o.Profile == "" {
		v.add("profile", "paste or upload the .ovpn file")
	}
	if len(o.Remotes) > maxRemotes {
		v.add("remotes", "at most %d, not %d", maxRemotes, len(o.Remotes))
	}
	v.text("username", o.Username, 255)
}

func (t *TorExit) validate(v *validation) {
	if len(t.Countries) > maxCountries {
		v.add("countries", "at most %d, not %d", maxCountries, len(t.Countries))
	}
	for i, c := range t.Countries {
		if len(c) != 2 || c[0] < 'a' || c[0] > 'z' || c[1] < 'a' || c[1] > 'z' {
			v.add("countries/"+strconv.Itoa(i), "%q must be a country's two-letter code in lower case, such as nl", clip(c))
		}
	}
	if len(t.Bridges) > maxBridges {
		v.add("bridges", "at most %d, not %d", maxBridges, len(t.Bridges))
	}
	for i, b := range t.Bridges {
		v.text("bridges/"+strconv.Itoa(i), b, 1000)
		if b == "" {
			v.add("bridges/"+strconv.Itoa(i), "must be a bridge line")
		}
	}
}

func (s *SSHExit) validate(v *validation) {
	v.serverName("host", s.Host)
	if s.Port == 0 {
		v.add("port", "must be 1 to 65535; SSH servers listen on 22")
	}
	v.text("user", s.User, 255)
	if s.User == "" {
		v.add("user", "who logs in on the server?")
	}
	if s.Auth != SSHKey && s.Auth != SSHPassword {
		v.add("auth", "must be key or password")
	}
	v.text("host_key", s.HostKey, 4096)
}

func (p *ProxyExit) validate(v *validation) {
	if p.Protocol != ProxySOCKS5 && p.Protocol != ProxyHTTP && p.Protocol != ProxyHTTPS {
		v.add("protocol", "must be socks5, http or https")
	}
	v.serverName("host", p.Host)
	if p.Port == 0 {
		v.add("port", "must be 1 to 65535")
	}
	v.text("username", p.Username, 255)
}

// serverName is a host name or an IP address.
func (v *validation) serverName(field, host string) {
	if a, err := netip.ParseAddr(host); err == nil && a.Zone() == "" && !a.IsUnspecified() && !a.IsMulticast() {
		return
	}
	if h := strings.ToLower(host); ValidDomain(h) || ValidLabel(h) {
		return
	}
	v.add(field, "%q must be a host name or an IP address", clip(host))
}

// text is one line without control characters, of at most limit bytes: it goes
// into files that other programs read line by line.
func (v *validation) text(field, s string, limit int) {
	if len(s) > limit {
		v.add(field, "at most %d bytes", limit)
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
		v.add(field, "must be one line without control characters")
	}
}
