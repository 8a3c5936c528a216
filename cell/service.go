package cell

import (
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Access is who may reach a service by its host name.
type Access string

const (
	AccessGranted  Access = "granted"  // peers that are granted it
	AccessPeers    Access = "peers"    // every peer
	AccessLAN      Access = "lan"      // every peer, and sources on a configured LAN
	AccessInternet Access = "internet" // anybody, when the public web is on
	AccessAdmin    Access = "admin"    // peers granted it by name
)

// ServicePort is a port of a service that granted peers reach directly,
// without the proxy (mail, for one).
type ServicePort struct {
	Protocol Protocol `json:"protocol"`
	Port     uint16   `json:"port"`
}

// Service is something the cell offers under a host name of its own,
// <subdomain>.<domain>: an installed one with a bridge of its own, or a server
// elsewhere on a network of ours.
type Service struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Subdomain string `json:"subdomain"`
	// Upstream is the URL the proxy sends requests to: http or https, an IP
	// address and a port, no path.
	Upstream string `json:"upstream"`
	Access   Access `json:"access"`
	// Bridge is the interface of the service's own network; empty for a server
	// that is not on one of our bridges.
	Bridge  string       `json:"bridge"`
	Prefix4 netip.Prefix `json:"prefix4"`
	Prefix6 netip.Prefix `json:"prefix6"`
	// Egress is the id of the exit its traffic leaves by; empty means direct.
	Egress  string        `json:"egress"`
	Ports   []ServicePort `json:"ports"`
	Enabled bool          `json:"enabled"`
	// Capabilities as in the manifest (has_subdomain, has_accounts, …).
	Capabilities []string  `json:"capabilities"`
	Created      time.Time `json:"created"`
}

// UpstreamAddr returns the address and port of Upstream; invalid when unset.
func (s *Service) UpstreamAddr() netip.AddrPort {
	u, err := url.Parse(s.Upstream)
	if err != nil {
		return netip.AddrPort{}
	}
	ap, _ := netip.ParseAddrPort(u.Host)
	return ap
}

func (s *Service) validate(v *validation, st *State) {
	v.label("subdomain", s.Subdomain)
	if s.Subdomain == "peers" || s.Subdomain == "api" || s.Subdomain == "pic" {
		v.add("subdomain", "%q is a name of the cell itself", s.Subdomain)
	}
	switch s.Access {
	case AccessGranted, AccessPeers, AccessLAN, AccessInternet, AccessAdmin:
	default:
		v.add("access", "must be granted, peers, lan, internet or admin")
	}
	if s.Upstream != "" {
		s.validateUpstream(v, st)
	}
	if s.Bridge != "" {
		v.ifname("bridge", s.Bridge)
		if ourLink(s.Bridge) {
			v.add("bridge", "%q is the name of a tunnel or exit link", s.Bridge)
		}
		if !s.Prefix4.IsValid() {
			v.add("prefix4", "a service with a bridge needs its subnet")
		}
	}
	if s.Prefix4.IsValid() && (s.Prefix4 != s.Prefix4.Masked() || !st.Network.ServicesPrefix.Contains(s.Prefix4.Addr()) ||
		s.Prefix4.Bits() < st.Network.ServicesPrefix.Bits()) {
		v.add("prefix4", "must be a subnet of services_prefix (%s)", st.Network.ServicesPrefix)
	}
	if s.Prefix6.IsValid() && (s.Prefix6 != s.Prefix6.Masked() || !ula.Contains(s.Prefix6.Addr())) {
		v.add("prefix6", "must be a unique local prefix (RFC 4193)")
	}
	v.exitRef("egress", s.Egress, st)
	for i, p := range s.Ports {
		if (p.Protocol != TCP && p.Protocol != UDP) || p.Port == 0 {
			v.add("ports/"+strconv.Itoa(i), "must be tcp or udp and a port of 1 to 65535")
		}
	}
}

// validateUpstream keeps the proxy from being turned against the cell itself
// (API-8): only unicast addresses outside the machine.
func (s *Service) validateUpstream(v *validation, st *State) {
	u, err := url.Parse(s.Upstream)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.User != nil ||
		strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		v.add("upstream", "must look like http://192.168.1.20:8080: http or https, an IP address, a port, no path")
		return
	}
	ap, err := netip.ParseAddrPort(u.Host)
	if err != nil || ap.Port() == 0 {
		v.add("upstream", "%q must be an IP address and a port", u.Host)
		return
	}
	a := ap.Addr().Unmap()
	t := st.Network.Tunnel
	switch {
	case a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast() || a.Zone() != "":
		v.add("upstream", "%s is not an address of another machine", a)
	case a == t.Gateway4() || a == t.Gateway6():
		v.add("upstream", "%s is the cell itself", a)
	case !a.IsPrivate():
		v.add("upstream", "%s is not on a network of yours: use a private address", a)
	}
}

// Link is a connection to another cell.
type Link struct {
	Name         string         `json:"name"`
	Domain       string         `json:"domain"`
	PublicKey    Key            `json:"public_key"`
	PresharedKey SecretRef      `json:"preshared_key"`
	Endpoint     string         `json:"endpoint"`
	Address4     netip.Addr     `json:"address4"`
	Address6     netip.Addr     `json:"address6"`
	Prefixes     []netip.Prefix `json:"prefixes"`
	Enabled      bool           `json:"enabled"`
}

func (l *Link) validate(v *validation) {
	v.key("public_key", l.PublicKey)
	if l.Endpoint != "" {
		v.endpoint("endpoint", l.Endpoint)
	}
	for i, p := range l.Prefixes {
		if !p.IsValid() || p != p.Masked() || p.Bits() == 0 || !p.Addr().IsPrivate() {
			v.add("prefixes/"+strconv.Itoa(i), "must be a private prefix with its host bits zero")
		}
	}
}
