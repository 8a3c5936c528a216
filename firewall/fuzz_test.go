package firewall_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/firewall"
)

// randomState makes a valid state out of a seed.
func randomState(r *rand.Rand) *cell.State {
	s := empty()
	if r.IntN(8) == 0 {
		s.Users = s.Users[:0]
	}
	if r.IntN(2) == 0 {
		s.Network.Uplink = "eth0"
	}
	s.Network.PublicWeb, s.DNS.Public = r.IntN(2) == 0, r.IntN(2) == 0
	for i := range r.IntN(3) {
		s.Network.LAN = append(s.Network.LAN, cell.LAN{
			Name: fmt.Sprintf("lan%d", i), Interface: fmt.Sprintf("eth%d", r.IntN(3)),
			Prefixes:  []netip.Prefix{pfx(fmt.Sprintf("192.168.%d.0/24", i)), pfx(fmt.Sprintf("2001:db8:%d::/64", i+5)), pfx(fmt.Sprintf("255.255.25%d.0/24", 5-i))},
			Addresses: []netip.Addr{ip(fmt.Sprintf("192.168.%d.1", i))},
		})
	}
	for i := range r.IntN(3) {
		s.Links = append(s.Links, cell.Link{
			Name: fmt.Sprintf("link%d", i), PublicKey: key(byte(100 + i)), Enabled: r.IntN(2) == 0,
			Prefixes: []netip.Prefix{pfx(fmt.Sprintf("10.99.%d.0/24", i)), pfx(fmt.Sprintf("fd99:%d::/64", i))},
		})
	}
	types := []cell.ExitType{cell.ExitWireGuard, cell.ExitOpenVPN, cell.ExitTor, cell.ExitSSHuttle, cell.ExitProxy}
	if len(s.Links) > 0 {
		types = append(types, cell.ExitCell)
	}
	exits := []string{"", cell.ExitDirect}
	for i := range r.IntN(12) {
		e := cell.Exit{ID: fmt.Sprintf("exit%d", i), Type: types[r.IntN(len(types))], Enabled: r.IntN(4) > 0}
		slot, err := s.FreeSlot(e.Type)
		if err != nil {
			continue
		}
		e.Slot = slot
		if e.Type == cell.ExitCell {
			e.Link = s.Links[0].Name
		}
		if r.IntN(2) == 0 {
			e.Address4 = ip(fmt.Sprintf("10.200.%d.2", i))
		}
		if r.IntN(2) == 0 {
			e.Address6 = ip(fmt.Sprintf("fd20:%d::2", i))
		}
		s.Exits, exits = append(s.Exits, e), append(exits, e.ID)
	}
	for i := range r.IntN(5) {
		v := cell.Service{
			ID: fmt.Sprintf("svc%d", i), Subdomain: fmt.Sprintf("s%d", i), Enabled: r.IntN(4) > 0, Egress: exits[r.IntN(len(exits))],
			Access: []cell.Access{cell.AccessGranted, cell.AccessPeers, cell.AccessLAN, cell.AccessInternet, cell.AccessAdmin}[r.IntN(5)],
			Ports:  []cell.ServicePort{{Protocol: cell.TCP, Port: uint16(1 + r.IntN(65535))}, {Protocol: cell.UDP, Port: 53}},
		}
		if r.IntN(3) > 0 {
			v.Bridge, v.Prefix4 = fmt.Sprintf("br-%d", i), pfx(fmt.Sprintf("172.20.%d.0/24", i))
			if r.IntN(2) == 0 {
				v.Prefix6 = pfx(fmt.Sprintf("fd30:%d::/64", i))
			}
		}
		if r.IntN(3) > 0 {
			v.Upstream = fmt.Sprintf("http://172.20.%d.2:80", i)
		}
		s.Services = append(s.Services, v)
	}
	for i := range r.IntN(20) {
		p := addPeer(s, fmt.Sprintf("peer%d", i), exits[r.IntN(len(exits))])
		p.Enabled = r.IntN(5) > 0
		if r.IntN(3) == 0 {
			p.Services = []string{cell.GrantAll}
		}
		if i > 0 && r.IntN(3) == 0 {
			p.Peers = []string{fmt.Sprintf("peer%d", r.IntN(i))}
		}
		if n := len(s.Network.LAN); n > 0 && r.IntN(3) == 0 {
			p.LAN = []string{s.Network.LAN[r.IntN(n)].Name}
		}
		if p.Exit == "" && r.IntN(2) == 0 {
			s.Network.Forwards = append(s.Network.Forwards, cell.Forward{
				Name: fmt.Sprintf("f%d", i), Protocol: cell.TCP, Port: uint16(1000 + i),
				TargetPort: 80, Peer: p.Name, Enabled: r.IntN(3) > 0,
			})
		}
	}
	s.Normalize()
	return s
}

// FuzzPolicy: every valid state compiles, always to the same policy, and no
// packet of a peer with an exit is ever traced to the uplink.
func FuzzPolicy(f *testing.F) {
	for i := range 50 {
		f.Add(uint64(i), uint64(i*7))
	}
	f.Fuzz(func(t *testing.T, a, b uint64) {
		r := rand.New(rand.NewPCG(a, b))
		s := randomState(r)
		if err := s.Validate(); err != nil {
			t.Fatalf("the generator made an invalid state: %v", err)
		}
		fc := facts([]cell.Scope{cell.ScopeFull, cell.ScopeTunnel}[r.IntN(2)])
		if r.IntN(3) == 0 {
			fc.Links = nil
		}
		if len(s.Peers) > 0 && r.IntN(3) == 0 {
			fc.Expired = []string{s.Peers[0].Name}
		}
		p, err := firewall.Compile(s, fc)
		if err != nil {
			t.Fatal(err)
		}
		again, err := firewall.Compile(s.Clone(), fc)
		if err != nil || !p.Equal(again) || p.String() != again.String() {
			t.Fatalf("compiling again gives another policy: %v", err)
		}
		for range 50 {
			checkPacket(t, r, s, fc, p)
		}
	})
}

func checkPacket(t *testing.T, r *rand.Rand, s *cell.State, f cell.Facts, p firewall.Policy) {
	pk := firewall.Packet{
		In: cell.TunnelLink, Protocol: []string{"tcp", "udp", "icmp"}[r.IntN(3)], SrcPort: 40000,
		DstPort: []uint16{53, 80, 443, 993, 8443, 51820}[r.IntN(6)], Established: r.IntN(4) == 0, RelayDown: r.IntN(2) == 0,
	}
	six := r.IntN(2) == 0
	pk.Src, pk.Dst = ip("10.17.0.250"), ip([]string{"203.0.113.7", "192.168.0.9", "172.20.1.2", "10.17.0.1", "10.99.0.1", "255.255.255.9"}[r.IntN(6)])
	if six {
		pk.Src, pk.Dst = ip("fd02:304:506::fa"), ip([]string{"2001:db8:ffff::7", "2001:db8:5::9", "fd30:1::2", "fd02:304:506::1", "fd99:1::1"}[r.IntN(5)])
	}
	exit, active := "", false
	if len(s.Peers) > 0 && r.IntN(6) > 0 {
		q := &s.Peers[r.IntN(len(s.Peers))]
		if pk.Src = q.Address4; six {
			pk.Src = q.Address6
		}
		exit, active = q.Exit, s.Claimed() && q.Active(&f)
	}
	got := p.Trace(pk)
	if !active && got.Passes() {
		t.Fatalf("a packet of nobody passes: %+v %+v", pk, got)
	}
	e := s.Exit(exit)
	lan := slices.ContainsFunc(s.Network.LAN, func(l cell.LAN) bool {
		return slices.ContainsFunc(l.Prefixes, func(p netip.Prefix) bool { return p.Contains(pk.Dst) })
	})
	if e != nil && got.Out == "eth0" && got.Passes() && !lan {
		t.Fatalf("a packet of exit %s leaves by the uplink: %+v %+v", exit, pk, got)
	}
	if e != nil && got.Outcome == firewall.Relayed && (e.Routed() || pk.RelayDown || pk.Protocol != "tcp") {
		t.Fatalf("relayed without a relay: %+v %+v", pk, got)
	}
}
