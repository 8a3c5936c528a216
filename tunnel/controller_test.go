package tunnel_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/tunnel"
)

func TestOnePeerMoreIsAPatchOfOnePeer(t *testing.T) {
	for _, userspace := range []bool{false, true} {
		h, k := newHousehold(), newFake()
		k.noWireGuard = userspace
		c := h.controller(k, false)
		h.add("laptop", "phone", "tv")
		_, err := settle(c, h.plan())
		must(t, err)
		k.take()
		h.add("tablet")
		_, err = settle(c, h.plan())
		must(t, err)
		ps := k.take()
		if len(ps) != 1 {
			t.Fatalf("userspace=%v: %d patches for one new peer", userspace, len(ps))
		}
		p := h.State.Peer("tablet")
		if d := cmp.Diff([]cell.Key{p.PublicKey}, touched(ps)); d != "" {
			t.Fatalf("userspace=%v: other peers were touched: %s", userspace, d)
		}
		if ps[0].ListenPort != nil || ps[0].FirewallMark != nil || !ps[0].PrivateKey.Empty() {
			t.Fatalf("the device was touched: %+v", ps[0])
		}
		x := ps[0].Peers[0]
		if x.PresharedKey == nil || x.PresharedKey.Reveal() != h.Secrets["psk-tablet"] || x.Keepalive != nil || len(x.AllowedIPs) != 2 {
			t.Fatalf("wrong peer: %+v", x)
		}
	}
}

func TestChangesTouchWhatChanged(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*household)
		want func(*household, tunnel.Patch) bool
	}{
		{"removal", func(h *household) { h.remove("phone") }, func(h *household, p tunnel.Patch) bool {
			return len(p.Peers) == 1 && p.Peers[0].Remove && p.Peers[0].PublicKey != h.State.Peers[0].PublicKey
		}},
		{"preshared key", func(h *household) {
			h.Secrets["psk-new"] = tunnel.GeneratePSK().Reveal()
			h.State.Peers[1].PresharedKey = "psk-new"
		}, func(h *household, p tunnel.Patch) bool {
			return len(p.Peers) == 1 && p.Peers[0].PublicKey == h.State.Peers[1].PublicKey &&
				p.Peers[0].PresharedKey.Reveal() == h.Secrets["psk-new"] && p.Peers[0].AllowedIPs == nil
		}},
		{"no preshared key", func(h *household) { h.State.Peers[1].PresharedKey = "" }, func(h *household, p tunnel.Patch) bool {
			return len(p.Peers) == 1 && p.Peers[0].PresharedKey != nil && p.Peers[0].PresharedKey.Empty()
		}},
		{"port", func(h *household) { h.State.Network.Tunnel.ListenPort = 4500 }, func(h *household, p tunnel.Patch) bool {
			return len(p.Peers) == 0 && p.ListenPort != nil && *p.ListenPort == 4500
		}},
		{"address", func(h *household) { h.State.Peers[1].Address4 = netip.MustParseAddr("10.17.0.77") }, func(h *household, p tunnel.Patch) bool {
			return len(p.Peers) == 1 && p.Peers[0].AllowedIPs[0] == netip.MustParsePrefix("10.17.0.77/32") && p.Peers[0].PresharedKey == nil
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, k := newHousehold(), newFake()
			ctl := h.controller(k, false)
			h.add("laptop", "phone")
			_, err := settle(ctl, h.plan())
			must(t, err)
			k.take()
			c.edit(h)
			changed, err := settle(ctl, h.plan())
			must(t, err)
			ps := k.take()
			if !changed || len(ps) != 1 || !c.want(h, ps[0]) {
				t.Fatalf("changed=%v, patches %+v", changed, ps)
			}
		})
	}
}

// A restart must find nothing to do, and must still notice a key that differs.
func TestRestartAdoptsAndComparesTheKeysThemselves(t *testing.T) {
	h, k := newHousehold(), newFake()
	h.add("laptop", "phone")
	_, err := settle(h.controller(k, false), h.plan())
	must(t, err)
	k.take()
	changed, err := settle(h.controller(k, false), h.plan())
	must(t, err)
	if changed || len(k.take()) != 0 {
		t.Fatal("a restart changed a settled device")
	}
	k.links["pic0"].device.Peers[0].PresharedKey = tunnel.GeneratePSK()
	k.links["pic0"].device.Peers[1].Keepalive = time.Minute
	changed, err = settle(h.controller(k, false), h.plan())
	must(t, err)
	if ps := k.take(); !changed || len(touched(ps)) != 2 || ps[0].Peers[0].AllowedIPs != nil {
		t.Fatalf("drift of keys and keepalive was not mended: %+v", ps)
	}
}

func TestSettledKeysAreNotReadAgain(t *testing.T) {
	h, k := newHousehold(), newFake()
	h.add("laptop")
	reads := 0
	c := tunnel.New(&tunnel.Config{Log: quiet, Kernel: k, Secret: func(r cell.SecretRef) (cell.Secret, error) { reads++; return h.secret(r) }})
	_, err := settle(c, h.plan())
	must(t, err)
	before := reads
	_, err = settle(c, h.plan())
	must(t, err)
	if reads != before || reads == 0 {
		t.Fatalf("%d reads, then %d", before, reads)
	}
}

func TestAddressesSwappedBetweenPeersEndWhereTheyShould(t *testing.T) {
	h, k := newHousehold(), newFake()
	h.add("laptop", "phone", "tv")
	c := h.controller(k, false)
	_, err := settle(c, h.plan())
	must(t, err)
	p := h.State.Peers
	p[0].Address4, p[1].Address4 = p[1].Address4, p[0].Address4
	h.remove("tv")
	h.add("box") // takes the addresses of tv
	_, err = settle(c, h.plan())
	must(t, err)
}

func TestAnUnreadableKeyHoldsUpItsPeerOnly(t *testing.T) {
	h, k := newHousehold(), newFake()
	h.add("laptop", "phone")
	delete(h.Secrets, "psk-laptop")
	changed, err := h.controller(k, false).Apply(bg, h.plan())
	if !changed || err == nil || !strings.Contains(err.Error(), "preshared key of peer laptop") {
		t.Fatalf("changed=%v err=%v", changed, err)
	}
	if got := touched(k.take()); len(got) != 1 || got[0] != h.State.Peer("phone").PublicKey || !k.links["pic0"].link.Up {
		t.Fatalf("want phone alone let in, got %v", got)
	}
}

func TestAPrivateKeyThatIsNotThePublicKeysIsRefused(t *testing.T) {
	h, k := newHousehold(), newFake()
	other, _ := tunnel.GenerateKey()
	h.Secrets["tunnel"] = other.Reveal()
	_, err := h.controller(k, false).Apply(bg, h.plan())
	if err == nil || !strings.Contains(err.Error(), "belongs to the public key") || strings.Contains(err.Error(), other.Reveal()) {
		t.Fatal(err)
	}
}

func TestAForeignLinkIsLeftAlone(t *testing.T) {
	for _, c := range []struct {
		kind      string
		userspace bool
	}{{"dummy", false}, {"tuntap", false}, {"tuntap", true}, {tunnel.KindWireGuard, true}} {
		h, k := newHousehold(), newFake()
		k.noWireGuard = c.userspace
		k.add("pic0", c.kind, 1500)
		ctl := h.controller(k, c.userspace)
		changed, err := ctl.Apply(bg, h.plan())
		if changed || !errors.Is(err, tunnel.ErrForeignLink) || !strings.Contains(err.Error(), "ip link delete pic0") {
			t.Fatalf("%+v: changed=%v err=%v", c, changed, err)
		}
		if d := cmp.Diff([]string{tunnel.NoticeForeign}, codes(ctl)); d != "" {
			t.Fatal(d)
		}
		if len(k.patches) != 0 || len(k.links["pic0"].addrs) != 0 || k.links["pic0"].link.MTU != 1500 {
			t.Fatal("a foreign link was touched")
		}
		if c.kind != tunnel.KindWireGuard {
			must(t, ctl.Flush(bg))
			if k.links["pic0"] == nil {
				t.Fatal("a foreign link was deleted")
			}
		}
		delete(k.links, "pic0")
		_, err = settle(ctl, h.plan())
		must(t, err)
		if slices.Contains(codes(ctl), tunnel.NoticeForeign) {
			t.Fatal("the notice outlived its cause")
		}
	}
}

func codes(c *tunnel.Controller) []string {
	var out []string
	for _, n := range c.Notices() {
		out = append(out, n.Code)
	}
	return out
}

func TestATakenPortIsNamedWithItsCureAndHoldsUpNothingElse(t *testing.T) {
	for _, userspace := range []bool{false, true} {
		h, k := newHousehold(), newFake()
		k.portTaken = 51820
		h.add("laptop")
		c := h.controller(k, userspace)
		_, err := c.Apply(bg, h.plan())
		if !errors.Is(err, tunnel.ErrPortTaken) || !strings.Contains(err.Error(), "UDP port 51820") || !strings.Contains(err.Error(), "listen_port") {
			t.Fatalf("userspace=%v: %v", userspace, err)
		}
		if !slices.Contains(codes(c), tunnel.NoticePortTaken) || len(touched(k.take())) != 1 || len(k.links["pic0"].addrs) != 2 {
			t.Fatal("no notice, or peers and addresses were held up")
		}
		k.portTaken = 0
		_, err = settle(c, h.plan())
		must(t, err)
		if slices.Contains(codes(c), tunnel.NoticePortTaken) || !k.links["pic0"].link.Up {
			t.Fatal("not mended once the port was free")
		}
	}
}

func TestTheEmbeddedDeviceIsAnnouncedWithItsCost(t *testing.T) {
	h, k := newHousehold(), newFake()
	k.noWireGuard = true
	c := h.controller(k, false)
	_, err := settle(c, h.plan())
	must(t, err)
	n := c.Notices()
	if len(n) != 1 || n[0].Code != tunnel.NoticeUserspace || !strings.Contains(n[0].Text, "while pic is stopped") || !strings.Contains(n[0].Text, "modprobe wireguard") {
		t.Fatalf("%+v", n)
	}
	must(t, c.Close())
	if k.links["pic0"] != nil {
		t.Fatal("the embedded device's link outlived it")
	}
}

func TestStopLeavesTheKernelLinkAndFlushTakesIt(t *testing.T) {
	h, k := newHousehold(), newFake()
	c := h.controller(k, false)
	_, err := settle(c, h.plan())
	must(t, err)
	must(t, c.Close())
	if k.links["pic0"] == nil {
		t.Fatal("stopping removed the kernel link")
	}
	// A new process, which has applied nothing, flushes too.
	must(t, h.controller(k, false).Flush(bg))
	if k.links["pic0"] != nil {
		t.Fatal("flush left the link")
	}
	must(t, h.controller(k, false).Flush(bg))
}

func TestOnlineIsAHandshakeWithin180Seconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, k := newHousehold(), newFake()
		h.add("laptop")
		c := h.controller(k, false)
		st, err := c.Status(bg)
		must(t, err)
		if st.Backend != "" || st.Peers == nil {
			t.Fatalf("%+v", st)
		}
		_, err = settle(c, h.plan())
		must(t, err)
		key := h.State.Peers[0].PublicKey
		online := func() bool {
			st, err := c.Status(bg)
			must(t, err)
			return st.Peers[key].Online
		}
		if online() {
			t.Fatal("online without a handshake")
		}
		k.links["pic0"].device.Peers[0].LastHandshake = time.Now()
		time.Sleep(179 * time.Second)
		if !online() {
			t.Fatal("offline after 179 s")
		}
		time.Sleep(time.Second)
		if online() {
			t.Fatal("online after 180 s")
		}
	})
}

func TestWatchReportsOursOnceAndSurvivesABrokenSubscription(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, k := newHousehold(), newFake()
		c := h.controller(k, false)
		_, err := settle(c, h.plan())
		must(t, err)
		calls := 0
		ctx, cancel := context.WithCancel(bg)
		done := make(chan error)
		go func() { done <- c.Watch(func() { calls++ }).Run(ctx) }()
		expect := func(want int, what string) {
			t.Helper()
			time.Sleep(10 * time.Second)
			synctest.Wait()
			if calls != want {
				t.Fatalf("after %s: %d calls, want %d", what, calls, want)
			}
		}
		k.events <- tunnel.Event{Name: "eth0", Index: 99}
		k.events <- tunnel.Event{Index: 98}
		expect(0, "events of others")
		for range 20 {
			k.events <- tunnel.Event{Name: "pic0"}
		}
		expect(2, "a burst: its first event, and the others")
		for range 5 { // 600 ms of events: at 0, 250, 500, and what was left at 750
			k.events <- tunnel.Event{Name: "pic0"}
			time.Sleep(150 * time.Millisecond)
		}
		expect(6, "a trickle")
		k.events <- tunnel.Event{Index: k.links["pic0"].link.Index}
		expect(7, "a lost address")
		k.events <- tunnel.Event{Name: "other", Index: k.links["pic0"].link.Index}
		expect(8, "a new name")
		k.breaks <- errors.New("events were lost")
		expect(9, "a break")
		k.events <- tunnel.Event{Name: "pic0"}
		expect(10, "the new subscription")
		cancel()
		must(t, <-done)
	})
}

// Linux tells nobody of a change of peers: a look every two seconds finds it.
func TestWatchFindsChangedPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, k := newHousehold(), newFake()
		h.add("laptop", "phone")
		c := h.controller(k, false)
		_, err := settle(c, h.plan())
		must(t, err)
		calls := 0
		ctx, cancel := context.WithCancel(bg)
		done := make(chan error)
		mend := func() {
			calls++
			_, err := settle(c, h.plan())
			must(t, err)
		}
		go func() { done <- c.Watch(mend).Run(ctx) }()
		d := k.links["pic0"]
		key, other := d.device.Peers[0].PublicKey, d.device.Peers[1].PublicKey
		allowed := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
		mark := uint32(7)
		for i, x := range []struct {
			name string
			p    tunnel.Patch
		}{
			{"a peer removed", tunnel.Patch{Peers: []tunnel.PeerPatch{{PublicKey: key, Remove: true}}}},
			{"a stranger added", tunnel.Patch{Peers: []tunnel.PeerPatch{{PublicKey: "c3RyYW5nZXJzdHJhbmdlcnN0cmFuZ2Vyc3RyYW5nZXI="}}}},
			{"allowed addresses widened", tunnel.Patch{Peers: []tunnel.PeerPatch{{PublicKey: other, AllowedIPs: allowed}}}},
			{"a preshared key taken away", tunnel.Patch{Peers: []tunnel.PeerPatch{{PublicKey: other, PresharedKey: new(cell.Secret)}}}},
			{"the mark changed", tunnel.Patch{FirewallMark: &mark}},
		} {
			must(t, d.Set(x.p))
			time.Sleep(2100 * time.Millisecond)
			synctest.Wait()
			if calls != i+1 {
				t.Errorf("%s: %d calls, want %d", x.name, calls, i+1)
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if calls != 5 {
			t.Errorf("%d calls when nothing changes", calls)
		}
		cancel()
		must(t, <-done)
	})
}

func TestAmongThousandsOneMoreIsStillOnePatch(t *testing.T) {
	h, k := newHousehold(), newFake()
	d := h.plan()
	for i := range 2000 {
		var b [4]byte
		b[0], b[1], b[2], b[3] = 10, 17, byte(i>>8), byte(i)
		_, pub := tunnel.GenerateKey()
		d[0].Peers = append(d[0].Peers, tunnel.Peer{Name: fmt.Sprint(i), PublicKey: pub, AllowedIPs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4(b), 32)}})
	}
	c := h.controller(k, false)
	all := d[0].Peers
	d[0].Peers = all[:1999]
	_, err := c.Apply(bg, d)
	must(t, err)
	k.take()
	d[0].Peers = all
	_, err = c.Apply(bg, d)
	must(t, err)
	if got := touched(k.take()); len(got) != 1 || got[0] != all[1999].PublicKey {
		t.Fatalf("%d peers touched", len(got))
	}
}
