package tunnel_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/tunnel"
)

var everywhere = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}

// exit adds a WireGuard exit, and returns the private key of its server.
func (h *household) exit(name, endpoint string, slot int) (e *cell.Exit, server cell.Secret) {
	private, public := tunnel.GenerateKey()
	server, peer := tunnel.GenerateKey()
	h.Secrets[cell.SecretRef("key-"+name)] = private.Reveal()
	h.Secrets[cell.SecretRef("psk-"+name)] = tunnel.GeneratePSK().Reveal()
	h.State.Exits = append(h.State.Exits, cell.Exit{
		ID: name, Name: name, Type: cell.ExitWireGuard, Slot: slot, Enabled: true,
		Address4: netip.AddrFrom4([4]byte{10, 99, byte(slot), 2}), Address6: netip.MustParseAddr(fmt.Sprintf("fd99:%d::2", slot)),
		Credentials: cell.SecretRef("key-" + name),
		WireGuard: &cell.WireGuardExit{
			PublicKey: public, PeerKey: peer, PresharedKey: cell.SecretRef("psk-" + name),
			Endpoint: endpoint, AllowedIPs: everywhere, Keepalive: 25,
		},
	})
	return &h.State.Exits[len(h.State.Exits)-1], server
}

func (h *household) dropExit(id string) {
	h.State.Exits = slices.DeleteFunc(h.State.Exits, func(e cell.Exit) bool { return e.ID == id })
}

func (h *household) planWith(f cell.Facts) tunnel.Devices {
	if err := h.State.Validate(); err != nil {
		panic(err)
	}
	d, err := tunnel.Compile(h.State, f)
	if err != nil {
		panic(err)
	}
	return d
}

func TestExitsInTheFieldsNotation(t *testing.T) {
	s := fixed()
	s.Peers = nil
	s.Exits = []cell.Exit{{
		ID: "nl", Type: cell.ExitWireGuard, Slot: 3, Enabled: true, Credentials: "key-nl",
		Address4: netip.MustParseAddr("10.2.0.2"), Address6: netip.MustParseAddr("2a07:b944::2:2"),
		WireGuard: &cell.WireGuardExit{
			PublicKey: testKey(7), PeerKey: testKey(8), PresharedKey: "psk-nl", Endpoint: "[2001:db8::9]:51820", Keepalive: 25, MTU: 1380,
			// As files have them: with host bits, and twice.
			AllowedIPs: append(slices.Clone(everywhere), netip.MustParsePrefix("10.2.0.1/24"), netip.MustParsePrefix("10.2.0.0/24")),
		},
	}}
	d, err := tunnel.Compile(s, cell.Facts{})
	must(t, err)
	want := `
ip link add wg_ext3 type wireguard
ip address add 10.2.0.2/32 dev wg_ext3
ip address add 2a07:b944::2:2/128 dev wg_ext3
ip link set wg_ext3 mtu 1380 up

# wg_ext3, public key BwAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=
[Interface]
PrivateKey = secret:key-nl
FwMark = 0x1

# peer server
[Peer]
PublicKey = CAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=
PresharedKey = secret:psk-nl
AllowedIPs = 0.0.0.0/0, ::/0, 10.2.0.0/24
Endpoint = [2001:db8::9]:51820
PersistentKeepalive = 25
`
	_, got, _ := strings.Cut(d.String(), "FwMark = 0x1\n")
	if x := cmp.Diff(want, got); x != "" {
		t.Fatal(x)
	}
}

func TestWhichExitsHaveALink(t *testing.T) {
	h := newHousehold()
	h.exit("two", "192.0.2.9:51820", 2)
	h.exit("zero", "vpn.example.net:51820", 0)
	h.exit("off", "192.0.2.9:51820", 1)
	h.State.Exits[2].Enabled = false
	h.State.Exits = append(h.State.Exits,
		cell.Exit{ID: "bare", Type: cell.ExitWireGuard, Slot: 4, Enabled: true},
		cell.Exit{ID: "onion", Type: cell.ExitTor, Enabled: true, Tor: &cell.TorExit{}})
	names := func(f cell.Facts) (out []string) {
		for _, d := range h.planWith(f)[1:] {
			out = append(out, d.Name+" "+d.Peers[0].Endpoint.String())
		}
		return out
	}
	if d := cmp.Diff([]string{"wg_ext0 invalid AddrPort", "wg_ext2 192.0.2.9:51820"}, names(cell.Facts{})); d != "" {
		t.Error(d)
	}
	known := cell.Facts{Exits: map[string]cell.ExitFact{
		"zero": {Endpoint: netip.MustParseAddrPort("[::ffff:198.51.100.4]:51820")},
		"two":  {Endpoint: netip.MustParseAddrPort("203.0.113.1:1")}, // of an older configuration
	}}
	if d := cmp.Diff([]string{"wg_ext0 198.51.100.4:51820", "wg_ext2 192.0.2.9:51820"}, names(known)); d != "" {
		t.Error(d)
	}
	h.State.Users = nil
	if d := h.planWith(known); len(d) != 0 {
		t.Errorf("an unclaimed cell has %s", d)
	}
}

func TestWhereTheServerRoamsToIsNoDrift(t *testing.T) {
	for _, userspace := range []bool{false, true} {
		h, k := newHousehold(), newFake()
		e, _ := h.exit("nl", "vpn.example.net:51820", 0)
		c := h.controller(k, userspace)
		_, err := settle(c, h.plan())
		must(t, err)
		p := func() *tunnel.ObservedPeer { return &k.links["wg_ext0"].device.Peers[0] }
		if p().Endpoint.IsValid() || !k.links["wg_ext0"].link.Up {
			t.Fatalf("before the name is looked up: %+v", p())
		}
		at := func(s string) tunnel.Devices {
			return h.planWith(cell.Facts{Exits: map[string]cell.ExitFact{"nl": {Endpoint: netip.MustParseAddrPort(s)}}})
		}
		for _, where := range []string{"192.0.2.9:51820", "[2001:db8::9]:51820", "192.0.2.9:51820"} {
			k.take()
			changed, err := settle(c, at(where))
			must(t, err)
			if ps := k.take(); !changed || len(ps) != 1 || len(ps[0].Peers) != 1 || p().Endpoint.String() != where {
				t.Fatalf("userspace=%v: server moved to %s: changed=%v, %+v, %+v", userspace, where, changed, p(), ps)
			}
			roamed := netip.MustParseAddrPort("203.0.113.7:4")
			p().Endpoint = roamed
			changed, err = settle(c, at(where))
			must(t, err)
			if changed || p().Endpoint != roamed {
				t.Fatalf("userspace=%v: where the server was met counts as drift", userspace)
			}
		}
		// A look-up that fails later takes nothing away.
		changed, err := settle(c, h.plan())
		must(t, err)
		if changed {
			t.Fatalf("userspace=%v: a lost endpoint changed the device", userspace)
		}
		// A device that is new again needs it again.
		must(t, k.DeleteLink("wg_ext0"))
		_, err = settle(c, at("192.0.2.9:51820"))
		must(t, err)
		if p().Endpoint.String() != "192.0.2.9:51820" {
			t.Fatalf("userspace=%v: a new device has no endpoint", userspace)
		}
		// Another process that finds it as wanted, and then sees it roam, too.
		if !userspace {
			c = h.controller(k, false)
			changed, err := settle(c, at("192.0.2.9:51820"))
			must(t, err)
			p().Endpoint = netip.MustParseAddrPort("203.0.113.8:4")
			again, err := settle(c, at("192.0.2.9:51820"))
			must(t, err)
			if changed || again {
				t.Fatalf("after a restart: changed=%v, then %v", changed, again)
			}
		}
		_ = e
	}
}

func TestAChosenPortIsKept(t *testing.T) {
	h, k := newHousehold(), newFake()
	h.exit("nl", "192.0.2.9:51820", 0)
	c := h.controller(k, false)
	_, err := settle(c, h.plan())
	must(t, err)
	k.links["wg_ext0"].device.ListenPort = 40123 // the kernel chose
	changed, err := settle(c, h.plan())
	must(t, err)
	if changed || k.links["wg_ext0"].device.ListenPort != 40123 {
		t.Fatal("the kernel's choice was taken for drift")
	}
}

func TestAnExitOfBrokenKeysHoldsUpNothingElse(t *testing.T) {
	h, k := newHousehold(), newFake()
	h.add("laptop")
	h.exit("bad", "192.0.2.8:51820", 0)
	h.exit("good", "192.0.2.9:51820", 1)
	delete(h.Secrets, "key-bad")
	changed, err := h.controller(k, false).Apply(bg, h.plan())
	if !changed || err == nil || !strings.Contains(err.Error(), "settling wg_ext0") {
		t.Fatalf("changed=%v err=%v", changed, err)
	}
	for _, name := range []string{"pic0", "wg_ext1"} {
		if l := k.links[name]; l == nil || !l.link.Up || len(l.device.Peers) != 1 || l.device.PublicKey == "" {
			t.Errorf("%s was held up", name)
		}
	}
}

// A process that knows nothing of an exit takes its link away: it was removed
// while no cell ran, or the machine is given back.
func TestLinksOfExitsThatAreGoneAreRemovedAlsoByAnotherProcess(t *testing.T) {
	h, k := newHousehold(), newFake()
	h.exit("nl", "192.0.2.9:51820", 9)
	_, err := settle(h.controller(k, false), h.plan())
	must(t, err)
	k.add("wg_ext5", "dummy", 1500) // another program's
	c := h.controller(k, false)
	h.dropExit("nl")
	changed, err := settle(c, h.plan())
	must(t, err)
	if !changed || k.links["wg_ext9"] != nil || k.links["pic0"] == nil || k.links["wg_ext5"] == nil {
		t.Fatalf("changed=%v, links %v", changed, k.links)
	}
	if _, ok := c.Handshake("wg_ext9"); ok {
		t.Error("a handshake with nobody")
	}
	h.exit("nl", "192.0.2.9:51820", 9)
	_, err = settle(c, h.plan())
	must(t, err)
	must(t, h.controller(k, false).Flush(bg))
	if k.links["wg_ext9"] != nil || k.links["pic0"] != nil {
		t.Fatal("flush left a link")
	}
}

// exitLife is a body of both worlds: see bodies.
func exitLife(k tunnel.Kernel, userspace bool) error {
	h := newHousehold()
	h.exit("nl", "192.0.2.9:51820", 0)
	h.exit("de", "192.0.2.10:51820", 1)
	c := h.controller(k, userspace)
	same := func(what string) error {
		for _, d := range h.plan() {
			if err := expectDevice(k, c, d, userspace); err != nil {
				return fmt.Errorf("%s: %s: %w", what, d.Name, err)
			}
		}
		return nil
	}
	stray := netip.MustParsePrefix("10.99.7.7/32")
	for _, x := range []struct {
		what string
		do   func() error
	}{
		{"creation", func() error { return nil }},
		{"a lost IPv4 address", func() error { return k.DeleteAddress("wg_ext0", netip.MustParsePrefix("10.99.0.2/32")) }},
		{"a lost IPv6 address", func() error { return k.DeleteAddress("wg_ext0", netip.MustParsePrefix("fd99:0::2/128")) }},
		{"a stray address", func() error { return k.AddAddress("wg_ext1", stray) }},
		{"another MTU", func() error { return k.SetMTU("wg_ext1", 1300) }},
		{"a deleted link", func() error { return k.DeleteLink("wg_ext0") }},
		{"a lost server", func() error {
			if userspace { // out of others' reach
				return k.DeleteLink("wg_ext1")
			}
			return k.WireGuard("wg_ext1").Set(tunnel.Patch{Peers: []tunnel.PeerPatch{{PublicKey: h.State.Exits[1].WireGuard.PeerKey, Remove: true}}})
		}},
		{"another endpoint", func() error { h.State.Exits[0].WireGuard.Endpoint = "[2001:db8::9]:443"; return nil }},
		{"no keepalive", func() error { h.State.Exits[0].WireGuard.Keepalive = 0; return nil }},
		{"no preshared key", func() error { h.State.Exits[1].WireGuard.PresharedKey = ""; return nil }},
		{"a narrower exit", func() error { h.State.Exits[1].WireGuard.AllowedIPs = everywhere[:1]; return nil }},
		{"one address less", func() error { h.State.Exits[1].Address6 = netip.Addr{}; return nil }},
		{"one disabled", func() error { h.State.Exits[1].Enabled = false; return nil }},
		{"one removed", func() error { h.dropExit("nl"); return nil }},
	} {
		if err := x.do(); err != nil {
			return fmt.Errorf("making %s: %w", x.what, err)
		}
		changed, err := settle(c, h.plan())
		if err == nil && !changed {
			err = errors.New("nothing was changed")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", x.what, err)
		}
		if err := same(x.what); err != nil {
			return err
		}
	}
	for _, name := range []string{"wg_ext0", "wg_ext1"} {
		if _, err := k.Link(name); !errors.Is(err, tunnel.ErrNoLink) {
			return fmt.Errorf("%s is still there (%v)", name, err)
		}
	}
	return nil
}

// expectDevice is expect for an exit: its port is the kernel's choice, its
// server has an endpoint.
func expectDevice(k tunnel.Kernel, c *tunnel.Controller, d tunnel.Device, userspace bool) error {
	st, err := c.DeviceStatus(bg, d.Name)
	if err != nil {
		return err
	}
	if d.ListenPort == 0 {
		d.ListenPort = st.ListenPort
	}
	if err := expectStatus(k, st, d, userspace); err != nil {
		return err
	}
	o := st.Peers
	for _, p := range d.Peers {
		if got := o[p.PublicKey]; p.Endpoint.IsValid() && got.Endpoint != p.Endpoint {
			return fmt.Errorf("endpoint %s, want %s", got.Endpoint, p.Endpoint)
		}
	}
	return nil
}

func TestHandshakeOfAnExit(t *testing.T) {
	h, k := newHousehold(), newFake()
	h.exit("nl", "192.0.2.9:51820", 0)
	c := h.controller(k, false)
	_, err := settle(c, h.plan())
	must(t, err)
	if _, ok := c.Handshake("wg_ext0"); ok {
		t.Fatal("a handshake that never was")
	}
	at := time.Unix(1700000000, 0)
	k.links["wg_ext0"].device.Peers[0].LastHandshake = at
	if got, ok := c.Handshake("wg_ext0"); !ok || !got.Equal(at) {
		t.Fatal(got, ok)
	}
	if _, ok := c.Handshake("wg_ext1"); ok {
		t.Fatal("a handshake of another exit")
	}
}

// addressed is a body of both worlds: what openvpn's link is given.
func addressed(k tunnel.Kernel, _ bool) error {
	e, err := k.Embed("tun5", 1500) // some TUN
	if err != nil {
		return err
	}
	defer e.Close()
	as := []netip.Prefix{netip.MustParsePrefix("10.9.0.2/32"), netip.MustParsePrefix("fd09::2/128")}
	if err := k.AddAddress("tun5", netip.MustParsePrefix("10.9.9.9/24")); err != nil {
		return err
	}
	for range 2 {
		if err := tunnel.AddressOf(k, "tun5", 1400, as); err != nil {
			return err
		}
		l, err := k.Link("tun5")
		if err != nil {
			return err
		}
		have, err := k.Addresses("tun5")
		if err != nil {
			return err
		}
		have = slices.DeleteFunc(have, func(p netip.Prefix) bool { return p.Addr().IsLinkLocalUnicast() })
		if !l.Up || l.MTU != 1400 || !sameSet(have, as) {
			return fmt.Errorf("%+v with %v", l, have)
		}
	}
	if err := tunnel.AddressOf(k, "tun6", 1400, as); !errors.Is(err, tunnel.ErrNoLink) {
		return fmt.Errorf("a link that is not there: %w", err)
	}
	return nil
}

func TestPlansDifferByEndpointAndKeepalive(t *testing.T) {
	h := newHousehold()
	e, _ := h.exit("nl", "192.0.2.9:51820", 0)
	for i, edit := range []func(){
		func() { e.WireGuard.Endpoint = "192.0.2.10:51820" },
		func() { e.WireGuard.Keepalive++ },
	} {
		before := h.plan()
		if !before.Equal(h.plan()) {
			t.Fatal("a plan differs from itself")
		}
		edit()
		if before.Equal(h.plan()) {
			t.Errorf("edit %d makes no difference", i)
		}
	}
}

// While the devices are watched, and the tunnel's is trusted, an exit's changes
// still arrive.
func TestExitsChangeWhileWatched(t *testing.T) {
	h, k := newHousehold(), newFake()
	h.add("laptop")
	e, _ := h.exit("nl", "192.0.2.9:51820", 0)
	c := h.controller(k, false)
	ctx, cancel := context.WithCancel(bg)
	done := make(chan error)
	go func() { done <- c.Watch(func() {}).Run(ctx) }()
	defer func() { cancel(); must(t, <-done) }()
	for range 3 {
		_, err := settle(c, h.plan())
		must(t, err)
		e.WireGuard.Endpoint = "192.0.2.10:51820"
		e.WireGuard.Keepalive++
	}
	_, err := settle(c, h.plan())
	must(t, err)
	o, err := k.WireGuard("wg_ext0").Show()
	must(t, err)
	if p := o.Peers[0]; p.Endpoint.String() != e.WireGuard.Endpoint || p.Keepalive != time.Duration(e.WireGuard.Keepalive)*time.Second {
		t.Fatalf("%+v, want %+v", p, e.WireGuard)
	}
}
