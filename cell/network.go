package cell

import (
	"net/netip"
	"strconv"
)

// Network is the tunnel, the interfaces around it, and what is let through.
type Network struct {
	Tunnel Tunnel `json:"tunnel"`
	// Uplink names the interface to the internet; empty means "the one with
	// the default route", which is learned.
	Uplink string `json:"uplink"`
	// LAN lists the networks on which DNS and NTP are served and which peers may be granted.
	LAN []LAN `json:"lan"`
	// Forwards are port forwards from the uplink.
	Forwards []Forward `json:"forwards"`
	// PublicWeb opens 443/tcp on the uplink to internet sources, for routes
	// whose access is "internet". Off by default.
	PublicWeb bool `json:"public_web"`
	// ServicesPrefix is where service bridges get their subnets from; default 172.20.0.0/16.
	ServicesPrefix netip.Prefix `json:"services_prefix"`
	// Policy are the policy tests, see [ParseAssertion]: a commit under which one
	// does not hold is refused.
	Policy []string `json:"policy"`
}

// Tunnel is the WireGuard device that peers join.
type Tunnel struct {
	// Reserved4 is the /16 of 10/8 set aside at setup; Prefix4 lies in it.
	Reserved4 netip.Prefix `json:"reserved4"`
	// Prefix4 is the peers' subnet, at first the first /24 of Reserved4; growth keeps addresses.
	Prefix4 netip.Prefix `json:"prefix4"`
	// Prefix6 is a ULA /64 (RFC 4193).
	Prefix6    netip.Prefix `json:"prefix6"`
	ListenPort uint16       `json:"listen_port"`
	PrivateKey SecretRef    `json:"private_key"`
	PublicKey  Key          `json:"public_key"`
	// MTU of the link, 1280 to 9000; default 1420.
	MTU int `json:"mtu"`
	// Endpoint is the host or host:port that clients are told; empty means the
	// effective domain in public modes and the uplink's address in mode lan.
	Endpoint string `json:"endpoint"`
}

// Gateway4 is the cell's own address in the tunnel (the first of Prefix4).
func (t Tunnel) Gateway4() netip.Addr { return hostAddr(t.Prefix4, 1) }

// Gateway6 is the cell's own IPv6 address in the tunnel.
func (t Tunnel) Gateway6() netip.Addr { return hostAddr(t.Prefix6, 1) }

// LAN is a local network on an interface that is not ours.
type LAN struct {
	Name      string         `json:"name"`
	Interface string         `json:"interface"`
	Prefixes  []netip.Prefix `json:"prefixes"`
	// Addresses are the cell's own addresses there, on which DNS and NTP are
	// served; empty serves nothing.
	Addresses []netip.Addr `json:"addresses"`
}

// Protocol is a transport of a port forward or service port.
type Protocol string

const (
	TCP Protocol = "tcp"
	UDP Protocol = "udp"
)

// Forward sends a port of the uplink to a peer or service address.
type Forward struct {
	Name     string   `json:"name"`
	Protocol Protocol `json:"protocol"`
	Port     uint16   `json:"port"`
	// Peer or Service (one of them) is the target; Port there is TargetPort.
	Peer       string `json:"peer"`
	Service    string `json:"service"`
	TargetPort uint16 `json:"target_port"`
	Enabled    bool   `json:"enabled"`
}

func (n *Network) validate(v *validation, s *State) {
	v.in("tunnel", func() { n.Tunnel.validate(v) })
	if n.Uplink != "" {
		v.ifname("uplink", n.Uplink)
		if ourLink(n.Uplink) {
			v.add("uplink", "%q is an interface of the cell's own; name the one that leads to the internet", n.Uplink)
		}
	}
	p := n.ServicesPrefix
	if !p.IsValid() || p != p.Masked() || !p.Addr().Is4() || p.Bits() < 8 || p.Bits() > 24 || !p.Addr().IsPrivate() {
		v.add("services_prefix", "must be a private IPv4 prefix between /8 and /24, such as 172.20.0.0/16")
	}
	names := v.unique("name")
	for i := range n.LAN {
		l := &n.LAN[i]
		v.in("lan/"+strconv.Itoa(i), func() {
			names.label(l.Name)
			v.ifname("interface", l.Interface)
			if len(l.Prefixes) == 0 {
				v.add("prefixes", "name at least one prefix of this network")
			}
			for j, p := range l.Prefixes {
				if !p.IsValid() || p != p.Masked() || p.Bits() == 0 {
					v.add("prefixes/"+strconv.Itoa(j), "must be a network prefix with its host bits zero, such as 192.168.1.0/24")
				}
			}
			for j, a := range l.Addresses {
				if !inAny(a, l.Prefixes) {
					v.add("addresses/"+strconv.Itoa(j), "%s is in none of this network's prefixes", a)
				}
			}
		})
	}
	n.validateForwards(v, s)
	n.validatePolicy(v, s)
	n.validateOverlaps(v, s)
}

func (t *Tunnel) validate(v *validation) {
	if !t.Reserved4.IsValid() || t.Reserved4 != t.Reserved4.Masked() || !t.Reserved4.Addr().Is4() ||
		!t.Reserved4.Addr().IsPrivate() || t.Reserved4.Bits() < 8 || t.Reserved4.Bits() > 24 {
		v.add("reserved4", "must be a private IPv4 prefix, such as 10.86.0.0/16")
	}
	switch {
	case !t.Prefix4.IsValid() || t.Prefix4 != t.Prefix4.Masked() || !t.Prefix4.Addr().Is4() || t.Prefix4.Bits() < 8 || t.Prefix4.Bits() > 29:
		v.add("prefix4", "must be an IPv4 prefix of /29 or larger with its host bits zero, such as 10.86.0.0/24")
	case t.Reserved4.IsValid() && (!t.Reserved4.Contains(t.Prefix4.Addr()) || t.Prefix4.Bits() < t.Reserved4.Bits()):
		v.add("prefix4", "must lie in reserved4 (%s)", t.Reserved4)
	}
	if !t.Prefix6.IsValid() || t.Prefix6 != t.Prefix6.Masked() || t.Prefix6.Bits() != 64 || !ula.Contains(t.Prefix6.Addr()) {
		v.add("prefix6", "must be a unique local /64 (RFC 4193), such as fd12:3456:789a::/64")
	}
	if t.ListenPort == 0 {
		v.add("listen_port", "must be 1 to 65535; the usual port is 51820")
	}
	if t.MTU < 1280 || t.MTU > 9000 {
		v.add("mtu", "must be 1280 to 9000 bytes; the usual value is 1420")
	}
	if t.PrivateKey == "" {
		v.add("private_key", "the tunnel needs a private key")
	}
	v.key("public_key", t.PublicKey)
	if t.Endpoint != "" {
		v.endpoint("endpoint", t.Endpoint)
	}
}

func (n *Network) validateForwards(v *validation, s *State) {
	names, ports := v.unique("name"), map[string]int{}
	for i := range n.Forwards {
		f := &n.Forwards[i]
		v.in("forwards/"+strconv.Itoa(i), func() {
			names.label(f.Name)
			if f.Protocol != TCP && f.Protocol != UDP {
				v.add("protocol", "must be tcp or udp")
			}
			if f.Port == 0 {
				v.add("port", "must be 1 to 65535")
			}
			if f.TargetPort == 0 {
				v.add("target_port", "must be 1 to 65535")
			}
			if reservedPort(f.Protocol, f.Port, n.Tunnel.ListenPort) {
				v.add("port", "%d/%s is the cell's own port and can't be forwarded", f.Port, f.Protocol)
			}
			k := string(f.Protocol) + strconv.Itoa(int(f.Port))
			if j, ok := ports[k]; ok {
				v.add("port", "%d/%s is already forwarded by /network/forwards/%d", f.Port, f.Protocol, j)
			}
			ports[k] = i
			switch {
			case (f.Peer == "") == (f.Service == ""):
				v.add("peer", "name either a peer or a service as the target")
			case f.Peer != "":
				p := s.Peer(f.Peer)
				if p == nil {
					v.add("peer", "there is no peer %q", f.Peer)
				} else if p.Exit != "" && p.Exit != ExitDirect {
					// Answers would leave by the exit, not by the uplink they came from.
					v.add("peer", "%s leaves by exit %s, so a port forward to it can't be answered: give it the exit %q or drop the forward", f.Peer, p.Exit, ExitDirect)
				}
			default:
				if svc := s.Service(f.Service); svc == nil {
					v.add("service", "there is no service %q", f.Service)
				} else if svc.Egress != "" && svc.Egress != ExitDirect {
					v.add("service", "%s leaves by exit %s, so a port forward to it can't be answered", f.Service, svc.Egress)
				}
			}
		})
	}
}

// reservedPort names the ports of the cell itself (spec: product.md, "Ports").
func reservedPort(p Protocol, port, wireguard uint16) bool {
	switch p {
	case TCP:
		return port == 53 || port == 80 || port == 443
	case UDP:
		return port == 53 || port == 123 || port == wireguard
	}
	return false
}
