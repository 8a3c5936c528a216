package main

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/certs"
	"github.com/personal-internet-cell/pic/dns"
	"github.com/personal-internet-cell/pic/firewall"
	"github.com/personal-internet-cell/pic/internal/scenario"
	"github.com/personal-internet-cell/pic/ntp"
	"github.com/personal-internet-cell/pic/proxy"
	"github.com/personal-internet-cell/pic/tunnel"
)

func allStages() map[string]scenario.Compile {
	return map[string]scenario.Compile{
		"firewall": compile(firewall.Compile), "tunnel": compile(tunnel.Compile), "dns": compile(dns.Compile),
		"ntp": compile(ntp.Compile), "proxy": compile(proxy.Compile), "certs": compile(certs.Compile),
	}
}

// randomEdit changes a state in one of the ways people do; it may make it
// invalid, which the caller then throws away.
func randomEdit(r *rand.Rand, s *cell.State, n int) {
	pick := func(k int) int { return r.IntN(max(k, 1)) }
	exits := []string{"", cell.ExitDirect}
	for _, e := range s.Exits {
		exits = append(exits, e.ID)
	}
	switch r.IntN(12) {
	case 0, 1, 2:
		v4, v6, err := s.FreeAddresses()
		if err != nil {
			return
		}
		sum := sha256.Sum256(fmt.Append(nil, "key", n))
		s.Peers = append(s.Peers, cell.Peer{
			Name: fmt.Sprintf("p%d", n), PublicKey: cell.Key(base64.StdEncoding.EncodeToString(sum[:])),
			Address4: v4, Address6: v6, Destinations: []cell.Destinations{cell.FullTunnel, cell.SplitTunnel}[r.IntN(2)], Enabled: r.IntN(4) > 0,
			Trust: cell.TrustFamily, Exit: exits[pick(len(exits))], Services: [][]string{nil, {"*"}}[r.IntN(2)],
		})
	case 3:
		if len(s.Peers) > 0 {
			s.Peers = slices.Delete(s.Peers, 0, 1)
		}
	case 4:
		t := []cell.ExitType{cell.ExitWireGuard, cell.ExitOpenVPN, cell.ExitTor, cell.ExitSSHuttle, cell.ExitProxy}[r.IntN(5)]
		if slot, err := s.FreeSlot(t); err == nil {
			e := cell.Exit{ID: fmt.Sprintf("e%d", n), Type: t, Slot: slot, Enabled: r.IntN(3) > 0}
			if e.Routed() && r.IntN(2) == 0 {
				e.Address4 = netip.AddrFrom4([4]byte{10, 200, byte(n >> 8), byte(n)})
			}
			s.Exits = append(s.Exits, e)
		}
	case 5:
		if len(s.Exits) > 0 {
			i := pick(len(s.Exits))
			s.Exits = slices.Delete(s.Exits, i, i+1)
		}
	case 6:
		b := byte(n)
		s.Services = append(s.Services, cell.Service{
			ID: fmt.Sprintf("s%d", n), Subdomain: fmt.Sprintf("s%d", n), Enabled: r.IntN(4) > 0,
			Upstream: fmt.Sprintf("http://172.20.%d.2:80", b), Bridge: fmt.Sprintf("br-s%d", n), Prefix4: netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 20, b, 0}), 24),
			Access: []cell.Access{cell.AccessGranted, cell.AccessPeers, cell.AccessLAN, cell.AccessInternet, cell.AccessAdmin}[r.IntN(5)],
			Egress: exits[pick(len(exits))], Ports: []cell.ServicePort{{Protocol: cell.TCP, Port: uint16(1 + r.IntN(65535))}},
		})
	case 7:
		if len(s.Services) > 0 {
			s.Services = slices.Delete(s.Services, 0, 1)
		}
	case 8:
		if len(s.Peers) > 1 {
			p, q := &s.Peers[pick(len(s.Peers))], s.Peers[pick(len(s.Peers))]
			p.Peers = append(slices.Clone(p.Peers), q.Name)
		}
	case 9:
		s.Network.Tunnel.Prefix4 = netip.PrefixFrom(s.Network.Tunnel.Reserved4.Addr(), 20+r.IntN(5))
	case 10:
		s.DNS.Records = append(s.DNS.Records, cell.Record{Name: fmt.Sprintf("r%d", r.IntN(20)), Type: "A", Value: "192.0.2.7"})
	case 11:
		if len(s.Peers) > 0 {
			s.Network.Forwards = append(s.Network.Forwards, cell.Forward{
				Name: fmt.Sprintf("f%d", n), Protocol: cell.TCP, Port: uint16(1 + r.IntN(65535)),
				Peer: s.Peers[pick(len(s.Peers))].Name, TargetPort: 80, Enabled: true,
			})
		}
	}
}

// Architecture's properties over random histories of edits: a valid state
// compiles in every room, twice to the same text, also after a round trip
// through its document; addresses are unique; an exit keeps its numbers.
func TestValidStatesCompileEverywhere(t *testing.T) {
	stages := allStages()
	base := scenario.Load(t, "testdata/scenarios/solo.txtar")
	for seed := range uint64(6) {
		r := rand.New(rand.NewPCG(seed, 1))
		s := base.State.Clone()
		numbers := map[string]string{}
		kept := 0
		for n := 1; n <= 150; n++ {
			c := s.Clone()
			randomEdit(r, c, n)
			c.Normalize()
			if c.Validate() != nil {
				continue
			}
			s = c
			kept++
			for _, e := range s.Exits {
				now := fmt.Sprint(e.Mark(), e.Table(), e.RelayPort(), e.LinkName())
				if was, known := numbers[e.ID]; known && was != now {
					t.Fatalf("seed %d: exit %s moved from %s to %s", seed, e.ID, was, now)
				}
				numbers[e.ID] = now
			}
			if n%10 != 0 {
				continue
			}
			doc, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			var back cell.State
			if err := json.Unmarshal(doc, &back); err != nil {
				t.Fatal(err)
			}
			facts := base.Facts
			for name, f := range stages {
				one, err := f(s, facts)
				if err != nil {
					t.Fatalf("seed %d, edit %d: %s refuses a valid state: %v\n%s", seed, n, name, err, doc)
				}
				two, err := f(&back, facts)
				if err != nil || one.String() != two.String() {
					t.Fatalf("seed %d, edit %d: %s is not deterministic (%v)", seed, n, name, err)
				}
			}
		}
		if kept < 60 {
			t.Errorf("seed %d: only %d of 150 edits were valid", seed, kept)
		}
	}
}
