package firewall_test

import (
	"encoding/base64"
	"net/netip"

	"github.com/personal-internet-cell/pic/cell"
)

func key(n byte) cell.Key {
	var b [32]byte
	b[0], b[31] = n, 1
	return cell.Key(base64.StdEncoding.EncodeToString(b[:]))
}

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func ip(s string) netip.Addr    { return netip.MustParseAddr(s) }

// empty is a claimed cell with nothing in it: tunnel 10.17.0.0/24, fd02:304:506::/64.
func empty() *cell.State {
	s := cell.Factory([16]byte{1, 2, 3, 4, 5, 6}, "tunnel", key(1))
	s.Identity = cell.Identity{Name: "home", Mode: cell.ModeLAN}
	s.Users = append(s.Users, cell.User{Name: "admin", Role: cell.RoleAdmin, PasswordHash: "pw"})
	return s
}

func addPeer(s *cell.State, name, exit string) *cell.Peer {
	v4, v6, err := s.FreeAddresses()
	if err != nil {
		panic(err)
	}
	n := len(s.Peers)
	k := key(byte(n + 10))
	if n > 200 {
		var b [32]byte
		b[0], b[1], b[2], b[31] = byte(n), byte(n>>8), 7, 1
		k = cell.Key(base64.StdEncoding.EncodeToString(b[:]))
	}
	s.Peers = append(s.Peers, cell.Peer{
		Name: name, PublicKey: k, Address4: v4, Address6: v6, Exit: exit, Enabled: true,
		Destinations: cell.FullTunnel, Trust: cell.TrustOwner,
	})
	return &s.Peers[n]
}

// household is a cell with every kind of exit, peers on each of the first
// three, services, a LAN and a port forward.
func household() *cell.State {
	s := empty()
	s.Network.Uplink = "eth0"
	s.Network.LAN = []cell.LAN{{
		Name: "home", Interface: "eth1", Prefixes: []netip.Prefix{pfx("192.168.5.0/24"), pfx("2001:db8:5::/64")},
		Addresses: []netip.Addr{ip("192.168.5.1"), ip("2001:db8:5::1")},
	}}
	s.Links = []cell.Link{{Name: "aunt", Domain: "aunt.example.org", PublicKey: key(200), Enabled: true, Prefixes: []netip.Prefix{pfx("10.99.0.0/24"), pfx("fd99::/64")}}}
	s.Exits = []cell.Exit{
		{ID: "nl", Name: "Netherlands", Type: cell.ExitWireGuard, Enabled: true, Address4: ip("10.200.0.2"), Address6: ip("fd20::2")},
		{ID: "work", Type: cell.ExitOpenVPN, Enabled: true, Address4: ip("10.201.0.2")},
		{ID: "tor", Type: cell.ExitTor, Enabled: true},
		{ID: "ssh", Type: cell.ExitSSHuttle, Enabled: true},
		{ID: "socks", Type: cell.ExitProxy, Enabled: true},
		{ID: "aunt", Type: cell.ExitCell, Link: "aunt", Enabled: true, Address4: ip("10.202.0.2"), Address6: ip("fd22::2")},
	}
	s.Services = []cell.Service{
		{
			ID: "mail", Name: "Mail", Subdomain: "mail", Upstream: "http://172.20.1.2:8080", Access: cell.AccessGranted, Bridge: "br-mail",
			Prefix4: pfx("172.20.1.0/24"), Prefix6: pfx("fd30:1::/64"), Ports: []cell.ServicePort{{Protocol: cell.TCP, Port: 993}}, Enabled: true,
		},
		{
			ID: "chat", Name: "Chat", Subdomain: "chat", Upstream: "http://172.20.2.2:80", Access: cell.AccessPeers, Bridge: "br-chat",
			Prefix4: pfx("172.20.2.0/24"), Ports: []cell.ServicePort{{Protocol: cell.UDP, Port: 3478}}, Egress: "nl", Enabled: true,
		},
	}
	addPeer(s, "laptop", "").Services = []string{"mail"}
	addPeer(s, "phone", "nl")
	addPeer(s, "tv", "tor")
	addPeer(s, "tablet", "work")
	addPeer(s, "camera", "ssh")
	s.Peers[0].Peers = []string{"phone", "camera"}
	s.Peers[1].LAN = []string{"home"}
	s.Network.Forwards = []cell.Forward{{Name: "game", Protocol: cell.UDP, Port: 7777, TargetPort: 7000, Peer: "laptop", Enabled: true}}
	s.Normalize()
	if err := s.Validate(); err != nil {
		panic(err)
	}
	return s
}

// facts are those of the router the namespace tests build.
func facts(scope cell.Scope) cell.Facts {
	link := func(i int, as ...string) cell.LinkFact {
		l := cell.LinkFact{Index: i, Up: true}
		for _, a := range as {
			l.Addresses = append(l.Addresses, pfx(a))
		}
		return l
	}
	return cell.Facts{
		Host: cell.Host{Scope: scope, HTTPPort: 8080, HTTPSPort: 8443, DNSPort: 5353, NTPPort: 123},
		Uplink: cell.Uplink{
			Name: "eth0", Addresses: []netip.Prefix{pfx("192.0.2.2/24"), pfx("2001:db8:1::2/64")},
			Gateway4: ip("192.0.2.1"), Gateway6: ip("2001:db8:1::1"),
		},
		Links: map[string]cell.LinkFact{
			"lo":      link(1, "127.0.0.1/8", "::1/128"),
			"eth0":    link(2, "192.0.2.2/24", "2001:db8:1::2/64"),
			"eth1":    link(3, "192.168.5.1/24", "2001:db8:5::1/64"),
			"pic0":    link(4, "10.17.0.1/24", "fd02:304:506::1/64"),
			"wg_ext0": link(5, "10.200.0.2/24", "fd20::2/64"),
			"br-mail": link(6, "172.20.1.1/24", "fd30:1::1/64"),
			"br-chat": link(7, "172.20.2.1/24"),
		},
	}
}
