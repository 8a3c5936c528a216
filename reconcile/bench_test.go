package reconcile_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/reconcile"
)

// crowd is a household of n peers.
func crowd(s *cell.State, n int) {
	t := &s.Network.Tunnel
	t.Prefix4 = t.Reserved4
	v4, v6 := t.Prefix4.Addr().Next(), t.Prefix6.Addr().Next()
	for i := range n {
		v4, v6 = v4.Next(), v6.Next()
		s.Peers = append(s.Peers, cell.Peer{
			Name: fmt.Sprintf("p%d", i), PublicKey: key(i + 2), Address4: v4, Address6: netip.AddrFrom16(v6.As16()),
			Enabled: true, Destinations: cell.FullTunnel, Trust: cell.TrustOwner,
		})
	}
	s.Normalize()
}

func TestManyPeersFitInARevision(t *testing.T) {
	c := boot(t, t.TempDir(), newWorld())
	c.must(t, func(s *cell.State) error { crowd(s, 10_000); return nil }, reconcile.Options{})
	c.must(t, note("p77", "x"), reconcile.Options{})
	c = c.restart(t)
	c.expect(t, 3, "3 committed")
	if c.ChangedAt("peers/p77") != 3 || c.ChangedAt("peers/p78") != 2 {
		t.Fatal("the changed keys are lost")
	}
	p, err := c.Preview(0, func(s *cell.State) error { s.Peers = s.Peers[:5000]; return nil })
	if err != nil || len(p.Settings) != 2000 || len(p.Cuts) != 5000 {
		t.Fatalf("%d settings, %d cuts, %v", len(p.Settings), len(p.Cuts), err)
	}
}

// BenchmarkCommit is what the engine and the disk cost; the stages are trivial.
func BenchmarkCommit(b *testing.B) {
	for _, n := range []int{100, 1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			c := boot(b, b.TempDir(), newWorld())
			if _, err := c.Commit(b.Context(), 0, func(s *cell.State) error { crowd(s, n); return nil }, reconcile.Options{}); err != nil {
				b.Fatal(err)
			}
			i := 0
			for b.Loop() {
				i++
				if _, err := c.Commit(b.Context(), 0, note("p7", fmt.Sprint(i)), reconcile.Options{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkChanged(b *testing.B) {
	s, _, _ := fresh()
	crowd(s, 10_000)
	c := s.Clone()
	c.Peers[77].Note = "x"
	for b.Loop() {
		if len(cell.Changed(s, c)) != 2 {
			b.Fatal("wrong")
		}
	}
}
