package cell_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/cell"
)

func TestIdenticalSeesEveryField(t *testing.T) {
	soon := time.Unix(2e9, 0)
	full := cell.Peer{
		Name: "a", PublicKey: "k", PresharedKey: "psk-1", Address4: netip.MustParseAddr("10.0.0.2"), Address6: netip.MustParseAddr("fd00::2"),
		Destinations: cell.FullTunnel, Keepalive: 25, Exit: "nl", Expires: &soon, Enabled: true, Note: "n", Owner: "o", Trust: cell.TrustGuest,
		ExitUntil: &soon, ExitThen: "de", ExitChoice: []string{"nl"}, Socks: []string{"nl"},
		Services: []string{"x"}, Peers: []string{"y"}, LAN: []string{"z"}, Created: time.Unix(1e9, 0),
	}
	same := full
	if !same.Identical(&full) {
		t.Fatal("a copy is not identical")
	}
	v := reflect.ValueOf(&full).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		if v.Field(i).IsZero() {
			t.Errorf("the test leaves %s empty", name)
		}
		other := full
		reflect.ValueOf(&other).Elem().Field(i).SetZero()
		if other.Identical(&full) || full.Identical(&other) {
			t.Errorf("a peer without %s is identical to one with it", name)
		}
	}
	other := full
	other.Services = []string{"x"}
	if other.Identical(&full) {
		t.Error("a list of its own is taken for a shared one")
	}
}

// TestFreeAddressesAreTheLowest compares with the plain way of looking.
func TestFreeAddressesAreTheLowest(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for round := range 200 {
		s := claimed()
		s.Network.Tunnel.Prefix4 = netip.MustParsePrefix([]string{"10.17.0.0/24", "10.17.0.0/28", "10.17.0.0/20"}[round%3])
		used := map[netip.Addr]bool{}
		at := func(p netip.Prefix, n int) netip.Addr {
			a := p.Addr()
			for range n {
				a = a.Next()
			}
			return a
		}
		t4, t6 := s.Network.Tunnel.Prefix4, s.Network.Tunnel.Prefix6
		for i := range r.IntN(20) {
			p := cell.Peer{Name: fmt.Sprint("p", i), Address4: at(t4, 2+r.IntN(14)), Address6: at(t6, 2+r.IntN(14))}
			if r.IntN(10) == 0 {
				p.Address6 = netip.Addr{}
			}
			used[p.Address4], used[p.Address6] = true, true
			s.Peers = append(s.Peers, p)
		}
		want := 2
		for used[at(t4, want)] || used[at(t6, want)] {
			want++
		}
		full := t4.Bits() == 28 && want >= 15
		v4, v6, err := s.FreeAddresses()
		if (err != nil) != full || (!full && (v4 != at(t4, want) || v6 != at(t6, want))) {
			t.Fatalf("round %d: %v %v %v, want number %d", round, v4, v6, err, want)
		}
	}
}

func crowd(t testing.TB, n int) *cell.State {
	t.Helper()
	s := claimed()
	s.Network.Tunnel.Prefix4 = s.Network.Tunnel.Reserved4
	v4, v6, err := s.FreeAddresses()
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		k := key(byte(i))
		k = cell.Key(fmt.Sprintf("%05d", i)) + k[5:]
		s.Peers = append(s.Peers, cell.Peer{
			Name: fmt.Sprintf("p%d", i), PublicKey: k, Address4: v4, Address6: v6, Enabled: true,
			Destinations: cell.FullTunnel, Trust: cell.TrustFamily,
		})
		v4, v6 = v4.Next(), v6.Next()
	}
	s.Normalize()
	return s
}

func BenchmarkEdit10000(b *testing.B) {
	s := crowd(b, 10_000)
	if err := s.Validate(); err != nil {
		b.Fatal(err)
	}
	b.Run("clone", func(b *testing.B) {
		for b.Loop() {
			s.Clone()
		}
	})
	b.Run("addresses", func(b *testing.B) {
		for b.Loop() {
			_, _, _ = s.FreeAddresses()
		}
	})
	b.Run("validate", func(b *testing.B) {
		for b.Loop() {
			_ = s.Validate()
		}
	})
	c := s.Clone()
	c.Peers[5000].Note = "x"
	b.Run("changed", func(b *testing.B) {
		for b.Loop() {
			cell.Changed(s, c)
		}
	})
}
