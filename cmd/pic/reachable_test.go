package main

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/firewall"
	"github.com/personal-internet-cell/pic/internal/scenario"
	"github.com/personal-internet-cell/pic/reconcile"
)

// Who asks for a change over the tunnel or a LAN is told when it would cut off
// that very connection, and not otherwise.
func TestReachableSeesTheAuthorsOwnWay(t *testing.T) {
	h := scenario.Load(t, "testdata/scenarios/household.txtar")
	flow := func(remote, local string) api.Flow {
		return api.Flow{Remote: netip.MustParseAddrPort(remote), Local: netip.MustParseAddrPort(local)}
	}
	phone4 := flow("10.20.0.2:40000", "10.20.0.1:443")
	phone6 := flow("[fdab:cdef:102::2]:40000", "[fdab:cdef:102::1]:443")
	for _, c := range []struct {
		name string
		flow api.Flow
		edit func(*cell.State)
		ok   bool
	}{
		{"nothing changes", phone4, func(*cell.State) {}, true},
		{"nothing changes, v6", phone6, func(*cell.State) {}, true},
		{"another peer goes", phone4, func(s *cell.State) {
			s.Peers = slices.DeleteFunc(s.Peers, func(p cell.Peer) bool { return p.Name == "tv" })
		}, true},
		{"the peer itself goes", phone4, func(s *cell.State) {
			s.Peers = slices.DeleteFunc(s.Peers, func(p cell.Peer) bool { return p.Name == "phone" })
		}, false},
		{"the peer itself goes, v6", phone6, func(s *cell.State) {
			s.Peers = slices.DeleteFunc(s.Peers, func(p cell.Peer) bool { return p.Name == "phone" })
		}, false},
		{"the peer itself is disabled", phone4, func(s *cell.State) { s.Peer("phone").Enabled = false }, false},
		{"from the configured LAN", flow("192.168.7.30:40000", "192.168.7.1:443"), func(*cell.State) {}, true},
		{"from a private uplink", flow("192.168.1.30:40000", "192.168.1.5:443"), func(*cell.State) {}, true},
		{"from the machine itself", flow("127.0.0.1:40000", "127.0.0.1:443"), func(s *cell.State) { s.Peers = nil; s.Network.Forwards = nil }, true},
	} {
		s := h.State.Clone()
		c.edit(s)
		s.Network.Forwards = nil
		policy, err := firewall.Compile(s, h.Facts)
		if err != nil {
			t.Fatal(err)
		}
		err = reachable(c.flow, s, h.Facts, map[string]reconcile.Plan{"firewall": policy})
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
