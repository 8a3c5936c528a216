package cell_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/personal-internet-cell/pic/cell"
)

func key(n byte) cell.Key {
	var b [32]byte
	b[0], b[31] = n, 1
	return cell.Key(base64.StdEncoding.EncodeToString(b[:]))
}

func claimed() *cell.State {
	s := cell.Factory([16]byte{1, 2, 3, 4, 5, 6}, "tunnel", key(1))
	s.Identity = cell.Identity{Name: "home", Mode: cell.ModeLAN}
	s.Users = append(s.Users, cell.User{Name: "admin", Role: cell.RoleAdmin, PasswordHash: "pw"})
	return s
}

func addPeer(t testing.TB, s *cell.State, name string, n byte) {
	t.Helper()
	v4, v6, err := s.FreeAddresses()
	if err != nil {
		t.Fatal(err)
	}
	s.Peers = append(s.Peers, cell.Peer{
		Name: name, PublicKey: key(n), Address4: v4, Address6: v6, Enabled: true,
		Destinations: cell.FullTunnel, Trust: cell.TrustOwner,
	})
}

func TestFactoryStateIsValidAndUnclaimed(t *testing.T) {
	s := cell.Factory([16]byte{9}, "tunnel", key(1))
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	if s.Claimed() {
		t.Fatal("a factory state must not be claimed")
	}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b), "null") {
		t.Fatalf("the document carries null: %s", b)
	}
}

func TestValidationNamesEveryMistakeByPointer(t *testing.T) {
	for _, c := range []struct {
		name, pointer string
		edit          func(*cell.State)
	}{
		{"bad label", "/identity/name", func(s *cell.State) { s.Identity.Name = "My Home" }},
		{"no mode", "/identity/domain_mode", func(s *cell.State) { s.Identity.Mode = "what" }},
		{"duplicate peer name", "/peers/1/name", func(s *cell.State) { s.Peers[1].Name = s.Peers[0].Name }},
		{"duplicate key", "/peers/1/public_key", func(s *cell.State) { s.Peers[1].PublicKey = s.Peers[0].PublicKey }},
		{"the cell's own key", "/peers/0/public_key", func(s *cell.State) { s.Peers[0].PublicKey = s.Network.Tunnel.PublicKey }},
		{"short key", "/peers/0/public_key", func(s *cell.State) { s.Peers[0].PublicKey = "AAAA" }},
		{"duplicate address", "/peers/1/address4", func(s *cell.State) { s.Peers[1].Address4 = s.Peers[0].Address4 }},
		{"address elsewhere", "/peers/0/address4", func(s *cell.State) { s.Peers[0].Address4 = netip.MustParseAddr("192.0.2.1") }},
		{"the gateway's address", "/peers/0/address4", func(s *cell.State) { s.Peers[0].Address4 = s.Network.Tunnel.Gateway4() }},
		{"broadcast address", "/peers/0/address4", func(s *cell.State) { s.Peers[0].Address4 = netip.MustParseAddr("10.17.0.255") }},
		{"unknown exit", "/peers/0/exit", func(s *cell.State) { s.Peers[0].Exit = "nl" }},
		{"unknown service", "/peers/0/services/0", func(s *cell.State) { s.Peers[0].Services = []string{"files"} }},
		{"port 0", "/network/tunnel/listen_port", func(s *cell.State) { s.Network.Tunnel.ListenPort = 0 }},
		{"mtu", "/network/tunnel/mtu", func(s *cell.State) { s.Network.Tunnel.MTU = 100 }},
		{"host bits", "/network/tunnel/prefix4", func(s *cell.State) { s.Network.Tunnel.Prefix4 = netip.MustParsePrefix("10.17.0.1/24") }},
		{"overlapping LAN", "/network/lan/0/prefixes/0", func(s *cell.State) {
			s.Network.LAN = append(s.Network.LAN, cell.LAN{Name: "lan", Interface: "eth1", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.17.0.0/23")}})
		}},
		{"own port forwarded", "/network/forwards/0/port", func(s *cell.State) {
			s.Network.Forwards = append(s.Network.Forwards, cell.Forward{Name: "x", Protocol: cell.TCP, Port: 443, TargetPort: 1, Peer: "laptop"})
		}},
		{"upstream on the cell itself", "/services/0/upstream", func(s *cell.State) {
			s.Services = append(s.Services, cell.Service{ID: "x", Subdomain: "x", Access: cell.AccessPeers, Upstream: "http://127.0.0.1:80"})
		}},
		{"upstream by name", "/services/0/upstream", func(s *cell.State) {
			s.Services = append(s.Services, cell.Service{ID: "x", Subdomain: "x", Access: cell.AccessPeers, Upstream: "http://localhost:80"})
		}},
		{"newline in a record", "/dns/records/0/value", func(s *cell.State) {
			s.DNS.Records = append(s.DNS.Records, cell.Record{Name: "a", Type: "TXT", Value: "a\nb"})
		}},
		{"user without password", "/users/1/password_hash", func(s *cell.State) {
			s.Users = append(s.Users, cell.User{Name: "eve", Role: cell.RolePeer})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := claimed()
			addPeer(t, s, "laptop", 2)
			addPeer(t, s, "phone", 3)
			if err := s.Validate(); err != nil {
				t.Fatalf("before the mistake: %v", err)
			}
			c.edit(s)
			err := s.Validate()
			var bad *cell.InvalidError
			if !errors.As(err, &bad) {
				t.Fatalf("accepted: %v", err)
			}
			for _, f := range bad.Fields {
				if f.Pointer == c.pointer {
					return
				}
			}
			t.Fatalf("no error at %s: %v", c.pointer, err)
		})
	}
}

func TestForwardToAPeerWithAnExitIsRefused(t *testing.T) {
	s := claimed()
	s.Exits = append(s.Exits, cell.Exit{ID: "nl", Type: cell.ExitWireGuard, Enabled: true})
	addPeer(t, s, "laptop", 2)
	s.Peers[0].Exit = "nl"
	s.Network.Forwards = append(s.Network.Forwards, cell.Forward{Name: "game", Protocol: cell.UDP, Port: 7777, TargetPort: 7777, Peer: "laptop", Enabled: true})
	if err := s.Validate(); err == nil || !strings.Contains(err.Error(), "port forward") {
		t.Fatalf("want the forward refused, got %v", err)
	}
}

// An edit of a clone must never show in the original: Running() is shared.
func TestCloneIsCopyOnWrite(t *testing.T) {
	s := claimed()
	addPeer(t, s, "laptop", 2)
	before, _ := json.Marshal(s)
	c := s.Clone()
	c.Identity.Name = "other"
	c.Peers[0].Note = "changed"
	c.Peers[0].Services = []string{"*"}
	c.Peers = append(c.Peers, cell.Peer{Name: "new"})
	c.Users[0].Role = cell.RolePeer
	c.DNS.Records = append(c.DNS.Records, cell.Record{Name: "x"})
	after, _ := json.Marshal(s)
	if d := cmp.Diff(string(before), string(after)); d != "" {
		t.Fatalf("the original changed: %s", d)
	}
}

func TestAddressesAreUniqueAndTheSubnetFillsUp(t *testing.T) {
	s := claimed()
	for i := range 253 {
		v4, v6, err := s.FreeAddresses()
		if err != nil {
			t.Fatalf("peer %d: %v", i, err)
		}
		s.Peers = append(s.Peers, cell.Peer{
			Name: fmt.Sprintf("p%d", i), PublicKey: key(byte(i + 2)), Address4: v4, Address6: v6,
			Enabled: true, Destinations: cell.FullTunnel, Trust: cell.TrustGuest,
		})
	}
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.FreeAddresses(); err == nil {
		t.Fatal("a full subnet gave an address")
	}
	// Growth keeps every address.
	s.Network.Tunnel.Prefix4 = netip.PrefixFrom(s.Network.Tunnel.Reserved4.Addr(), 23)
	if _, _, err := s.FreeAddresses(); err != nil {
		t.Fatalf("after growth: %v", err)
	}
}

func TestSlotsAreKeptForLife(t *testing.T) {
	s := claimed()
	for i := range 3 {
		slot, err := s.FreeSlot(cell.ExitTor)
		if err != nil || slot != i {
			t.Fatalf("slot %d: %d, %v", i, slot, err)
		}
		s.Exits = append(s.Exits, cell.Exit{ID: fmt.Sprintf("tor%d", i), Type: cell.ExitTor, Slot: slot})
	}
	last := s.Exits[2].Mark()
	s.Exits = append(s.Exits[:1:1], s.Exits[2])
	if got := s.Exit("tor2").Mark(); got != last {
		t.Fatalf("removing tor1 moved tor2 from mark %#x to %#x", last, got)
	}
	if slot, _ := s.FreeSlot(cell.ExitTor); slot != 1 {
		t.Fatalf("want the freed slot 1, got %d", slot)
	}
}

func TestSecretsRedactThemselves(t *testing.T) {
	x := struct{ S cell.Secret }{cell.NewSecret("canary-7f3a")}
	b, _ := json.Marshal(x)
	var text, structured bytes.Buffer
	slog.New(slog.NewTextHandler(&text, nil)).Info("said", "secret", x.S, "inside", x)
	slog.New(slog.NewJSONHandler(&structured, nil)).Info("said", "secret", x.S, "inside", x)
	for _, out := range []string{fmt.Sprint(x), fmt.Sprintf("%+v %#v %s %q", x, x, x.S, x.S), string(b), text.String(), structured.String()} {
		if strings.Contains(out, "canary") {
			t.Fatalf("leaked: %s", out)
		}
	}
	if x.S.Reveal() != "canary-7f3a" {
		t.Fatal("lost the value")
	}
}

func TestImpactNamesWhatIsCutOff(t *testing.T) {
	from := claimed()
	from.Services = append(from.Services, cell.Service{ID: "files", Subdomain: "files", Access: cell.AccessGranted, Enabled: true})
	addPeer(t, from, "laptop", 2)
	addPeer(t, from, "phone", 3)
	from.Peers[0].Services = []string{"files"}
	to := from.Clone()
	to.Peers = to.Peers[:1]
	to.Peers[0].Services = nil
	want := []string{"peer laptop", "peer phone"}
	var got []string
	for _, c := range cell.Impact(from, to) {
		got = append(got, c.Kind+" "+c.Subject)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatal(d)
	}
	if n := len(cell.Impact(from, from)); n != 0 {
		t.Fatalf("no change cuts %d things", n)
	}
}

func FuzzStateDocument(f *testing.F) {
	b, _ := json.Marshal(claimed())
	f.Add(b)
	f.Fuzz(func(t *testing.T, doc []byte) {
		var s cell.State
		if json.Unmarshal(doc, &s) != nil {
			return
		}
		_ = s.Validate()
		_, _, _ = s.FreeAddresses()
		_ = cell.Impact(claimed(), &s)
		_ = s.OurPrefixes()
	})
}
