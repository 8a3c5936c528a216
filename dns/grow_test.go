package dns_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	mdns "github.com/miekg/dns"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/dns"
)

// editPeers changes one thing, most of the time by adding a peer.
func editPeers(r *rand.Rand, s *cell.State, n int) {
	i := r.IntN(len(s.Peers))
	switch r.IntN(12) {
	case 0:
		s.Peers = slices.Delete(s.Peers, i, i+1)
	case 1:
		s.Peers[i].Name = fmt.Sprintf("renamed-%d", n)
	case 2:
		s.Peers[i].Services = [][]string{{"files"}, {"*"}, {}}[r.IntN(3)]
	case 3:
		s.Peers[i].Enabled = !s.Peers[i].Enabled
	case 4:
		s.DNS.Records = append(slices.Clip(s.DNS.Records), cell.Record{Name: fmt.Sprintf("a%d.host", n), Type: "TXT", Value: "hello", Views: []cell.View{}, TTL: uint32(r.IntN(2) * 60)})
	case 5:
		s.DNS.Records = append(slices.Clip(s.DNS.Records), cell.Record{Name: "many.host", Type: "TXT", Value: fmt.Sprint(n), Views: []cell.View{}, TTL: uint32(60 + n)})
	default:
		var k [32]byte
		binary.BigEndian.PutUint32(k[4:], uint32(n+1000))
		v4, v6, err := s.FreeAddresses()
		if err != nil {
			panic(err)
		}
		s.Peers = append(s.Peers, cell.Peer{
			Name: fmt.Sprintf("n%d", r.IntN(1e6)), PublicKey: cell.Key(base64.StdEncoding.EncodeToString(k[:])), Enabled: true,
			Address4: v4, Address6: v6, Destinations: cell.FullTunnel, Trust: cell.TrustFamily,
			Services: [][]string{{}, {"*"}}[r.IntN(2)], Peers: []string{}, LAN: []string{},
		})
	}
}

// TestGrownTablesAnswerAsNewOnes edits at random and compares a server that
// lives through all of it with one that is new each time, to the bit: names,
// reverse names, names that are gone, types that are not there.
func TestGrownTablesAnswerAsNewOnes(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	st, f := household(t)
	st.DNS.Forwarders, f.Resolvers = []cell.Forwarder{}, nil
	old := start(t, &dns.Config{}, compileNoListen(t, st, f))
	questions := map[string]bool{"peers.home.internal.": true}
	for n := range 150 {
		next := st.Clone()
		editPeers(r, next, n)
		next.Normalize()
		if next.Validate() != nil || len(next.Peers) == 0 {
			continue
		}
		st = next
		plan := compileNoListen(t, st, f)
		if _, err := old.Apply(t.Context(), plan); err != nil {
			t.Fatal(err)
		}
		if changed, err := old.Apply(t.Context(), compileNoListen(t, st, f)); changed || err != nil {
			t.Fatalf("the second time: changed %t, %v", changed, err)
		}
		for _, z := range plan.Zones {
			for _, rec := range z.Records {
				questions[rec.Name] = true
				_, above, _ := strings.Cut(rec.Name, ".")
				questions[above] = true
			}
		}
		fresh := dns.New(&dns.Config{Logger: quiet})
		if _, err := fresh.Apply(t.Context(), plan); err != nil {
			t.Fatal(err)
		}
		sources := []netip.Addr{st.Peers[0].Address4, st.Peers[len(st.Peers)-1].Address6, netip.MustParseAddr("10.99.99.99")}
		for name := range questions {
			if r.IntN(8) > 0 {
				continue
			}
			for _, qtype := range []uint16{mdns.TypeA, mdns.TypePTR, mdns.TypeTXT, mdns.TypeSOA, mdns.TypeMX} {
				m := new(mdns.Msg).SetQuestion(name, qtype)
				m.Id = 1
				wire, err := m.Pack()
				if err != nil {
					t.Fatal(err)
				}
				src := sources[r.IntN(len(sources))].String()
				got, want := old.Serve(wire, cell.TunnelLink, src, false), fresh.Serve(wire, cell.TunnelLink, src, false)
				if !bytes.Equal(got, want) {
					a, b := new(mdns.Msg), new(mdns.Msg)
					_, _ = a.Unpack(got), b.Unpack(want)
					t.Fatalf("edit %d, %s %s from %s:\n%v\nnot\n%v", n, name, mdns.TypeToString[qtype], src, a, b)
				}
			}
		}
	}
}

// TestNothingOfAnOldTableIsWrittenTo answers from the old table while it grows;
// the race detector watches.
func TestNothingOfAnOldTableIsWrittenTo(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 8))
	st, f := household(t)
	s := start(t, &dns.Config{}, compileNoListen(t, st, f))
	src := st.Peers[0].Address4.String()
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := uint16(0); ; i++ {
			select {
			case <-done:
				return
			default:
			}
			m := new(mdns.Msg).SetQuestion([]string{"many.host.home.internal.", "peers.home.internal.", "home.internal."}[i%3], []uint16{mdns.TypeTXT, mdns.TypeSOA}[i%2])
			wire, _ := m.Pack()
			s.Serve(wire, cell.TunnelLink, src, i%5 == 0)
		}
	}()
	for n := range 100 {
		next := st.Clone()
		editPeers(r, next, n)
		next.Peers[0] = st.Peers[0]
		next.Normalize()
		if next.Validate() != nil {
			continue
		}
		st = next
		if _, err := s.Apply(t.Context(), compileNoListen(t, st, f)); err != nil {
			t.Fatal(err)
		}
	}
	close(done)
	<-stopped
}
