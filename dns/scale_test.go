package dns_test

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/dns"
)

// crowd is the household with many more peers.
func crowd(t testing.TB, n int) (*cell.State, cell.Facts) {
	t.Helper()
	s, f := household(t)
	s.Network.Tunnel.Prefix4 = netip.MustParsePrefix("10.17.0.0/16")
	v6 := s.Network.Tunnel.Prefix6.Addr().As16()
	for i := range n {
		var k [32]byte
		binary.BigEndian.PutUint32(k[4:], uint32(i+1))
		v6[14], v6[15] = byte((i+256)>>8), byte(i)
		s.Peers = append(s.Peers, cell.Peer{
			Name: fmt.Sprintf("peer-%d", i), PublicKey: cell.Key(base64.StdEncoding.EncodeToString(k[:])), Enabled: true,
			Address4: netip.AddrFrom4([4]byte{10, 17, byte((i + 256) >> 8), byte(i)}), Address6: netip.AddrFrom16(v6), Destinations: cell.FullTunnel, Trust: cell.TrustFamily,
		})
	}
	s.Normalize()
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	return s, f
}

// BenchmarkCompile10000 is the plan of 10,000 peers.
func BenchmarkCompile10000(b *testing.B) {
	s, f := crowd(b, 10_000)
	b.ReportAllocs()
	for b.Loop() {
		compile(b, s, f)
	}
}

// BenchmarkApplyGrant10000 is what a grant to one of 10,000 peers costs from
// the plan on: no zone changes.
func BenchmarkApplyGrant10000(b *testing.B) {
	st, f := crowd(b, 10_000)
	plans := []dns.Views{compileNoListen(b, st, f), {}}
	st.Peers[1].Services = []string{"files"}
	plans[1] = compileNoListen(b, st, f)
	s := start(b, &dns.Config{}, plans[0])
	i := 0
	for b.Loop() {
		i++
		if changed, err := s.Apply(b.Context(), plans[i%2]); !changed || err != nil {
			b.Fatal(changed, err)
		}
	}
}

// BenchmarkApplyPeer10000 is what one more peer costs: two large zones change.
func BenchmarkApplyPeer10000(b *testing.B) {
	st, f := crowd(b, 10_000)
	plans := []dns.Views{compileNoListen(b, st, f), {}}
	st.Peers[1].Name = "new"
	plans[1] = compileNoListen(b, st, f)
	s := start(b, &dns.Config{}, plans[0])
	i := 0
	for b.Loop() {
		i++
		if changed, err := s.Apply(b.Context(), plans[i%2]); !changed || err != nil {
			b.Fatal(changed, err)
		}
	}
}
