package tunnel_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/tunnel"
)

// fixed is a household whose keys are the same in every run.
func fixed() *cell.State {
	s := cell.Factory([16]byte{1, 2, 3, 4, 5, 6}, "tunnel", testKey(1))
	s.Identity = cell.Identity{Name: "home", Mode: cell.ModeLAN}
	s.Users = append(s.Users, cell.User{Name: "admin", Role: cell.RoleAdmin, PasswordHash: "pw"})
	for i, name := range []string{"phone", "laptop"} {
		v4, v6, err := s.FreeAddresses()
		if err != nil {
			panic(err)
		}
		s.Peers = append(s.Peers, cell.Peer{
			Name: name, PublicKey: testKey(byte(i + 2)), Address4: v4, Address6: v6,
			Enabled: true, Destinations: cell.FullTunnel, Trust: cell.TrustOwner, Keepalive: 25,
		})
	}
	s.Peers[1].PresharedKey = "psk-7"
	return s
}

func TestPlanInTheFieldsNotation(t *testing.T) {
	d, err := tunnel.Compile(fixed(), cell.Facts{})
	must(t, err)
	want := `ip link add pic0 type wireguard
ip address add 10.17.0.1/24 dev pic0
ip address add fd02:304:506::1/64 dev pic0
ip link set pic0 mtu 1420 up

# pic0, public key AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=
[Interface]
PrivateKey = secret:tunnel
ListenPort = 51820
FwMark = 0x1

# peer laptop
[Peer]
PublicKey = AwAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=
PresharedKey = secret:psk-7
AllowedIPs = 10.17.0.3/32, fd02:304:506::3/128

# peer phone
[Peer]
PublicKey = AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=
AllowedIPs = 10.17.0.2/32, fd02:304:506::2/128
`
	if x := cmp.Diff(want, d.String()); x != "" {
		t.Fatal(x)
	}
}

func TestCompileIsDeterministicAndIgnoresTheOrderOfPeers(t *testing.T) {
	a, b := fixed(), fixed()
	b.Peers[0], b.Peers[1] = b.Peers[1], b.Peers[0]
	da, err := tunnel.Compile(a, cell.Facts{})
	must(t, err)
	db, err := tunnel.Compile(b, cell.Facts{})
	must(t, err)
	if x := cmp.Diff(da, db, cmpopts.EquateComparable(netip.Prefix{}, netip.AddrPort{})); x != "" {
		t.Fatal(x)
	}
}

func TestAnUnclaimedCellHasNoTunnel(t *testing.T) {
	s := fixed()
	s.Users = nil
	d, err := tunnel.Compile(s, cell.Facts{})
	must(t, err)
	if len(d) != 0 || d.String() != "" {
		t.Fatalf("want no device, got %s", d)
	}
}

func TestDisabledAndExpiredPeersAreNotLetIn(t *testing.T) {
	s := fixed()
	s.Peers[0].Enabled = false
	d, err := tunnel.Compile(s, cell.Facts{Expired: []string{"laptop"}})
	must(t, err)
	if n := len(d[0].Peers); n != 0 {
		t.Fatalf("%d peers are let in", n)
	}
	d, err = tunnel.Compile(s, cell.Facts{})
	must(t, err)
	if len(d[0].Peers) != 1 || d[0].Peers[0].Name != "laptop" {
		t.Fatalf("want laptop alone, got %s", d)
	}
}

// WireGuard would move a shared address to the last peer without a word.
func TestCompileRefusesWhatWireGuardWouldSilentlyMove(t *testing.T) {
	for _, c := range []struct {
		name, want string
		edit       func(*cell.State)
	}{
		{"address", "has the address 10.17.0.2 of", func(s *cell.State) { s.Peers[1].Address4 = s.Peers[0].Address4 }},
		{"IPv6 address", "has the address fd02:304:506::2 of", func(s *cell.State) { s.Peers[1].Address6 = s.Peers[0].Address6 }},
		{"key", "has the public key of", func(s *cell.State) { s.Peers[1].PublicKey = s.Peers[0].PublicKey }},
		{"the cell's key", "has the public key of the cell", func(s *cell.State) { s.Peers[1].PublicKey = s.Network.Tunnel.PublicKey }},
		{"the cell's address", "of the cell", func(s *cell.State) { s.Peers[1].Address4 = s.Network.Tunnel.Gateway4() }},
		{"no address", "has no address", func(s *cell.State) { s.Peers[1].Address4, s.Peers[1].Address6 = netip.Addr{}, netip.Addr{} }},
		{"bad key", "not a WireGuard key", func(s *cell.State) { s.Peers[1].PublicKey = "AAAA" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := fixed()
			c.edit(s)
			if d, err := tunnel.Compile(s, cell.Facts{}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("want an error with %q, got %v and\n%s", c.want, err, d)
			}
			// Out of the plan, the peer is no clash.
			s.Peers[1].Enabled = false
			if _, err := tunnel.Compile(s, cell.Facts{}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestKeysAreX25519InTheNotationOfWG(t *testing.T) {
	private, public := tunnel.GenerateKey()
	again, err := tunnel.PublicKey(private)
	must(t, err)
	if !public.Valid() || again != public {
		t.Fatalf("public key %q, derived again %q", public, again)
	}
	// RFC 7748 §6.1, Alice.
	got, err := tunnel.PublicKey(cell.NewSecret("dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo="))
	must(t, err)
	if want := cell.Key("hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="); got != want {
		t.Fatalf("want %s, got %s", want, got)
	}
	if a, b := tunnel.GeneratePSK().Reveal(), tunnel.GeneratePSK().Reveal(); a == b || !cell.Key(a).Valid() {
		t.Fatal("preshared keys must be 32 random bytes")
	}
	if _, err := tunnel.PublicKey(cell.NewSecret("canary")); err == nil || strings.Contains(err.Error(), "canary") {
		t.Fatalf("want an error that keeps the key to itself, got %v", err)
	}
}
