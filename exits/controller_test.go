package exits_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/exits"
)

var errGone = errors.New("connection refused")

func TestStatesHaveHysteresis(t *testing.T) {
	inBubble(t, func(w *world) {
		w.state.Exits = []cell.Exit{proxyExit("nl", 0)}
		w.apply()
		w.after(time.Second)
		w.want("nl", cell.ExitUp) // one good check is enough where none had failed

		w.upstream("nl").set(func(u *fakeUpstream) { u.err = errGone })
		w.checked("nl", 1)
		st := w.want("nl", cell.ExitDegraded) // one bad one degrades it
		if st.Reason != errGone.Error() {
			t.Errorf("reason %q", st.Reason)
		}
		w.upstream("nl").set(func(u *fakeUpstream) { u.err = nil })
		w.checked("nl", 1)
		w.want("nl", cell.ExitDegraded) // and one good one doesn't mend it
		w.checked("nl", 1)
		w.want("nl", cell.ExitUp)

		w.upstream("nl").set(func(u *fakeUpstream) { u.err = errGone })
		w.checked("nl", 2)
		w.want("nl", cell.ExitDegraded)
		began := time.Now()
		w.checked("nl", 1)
		w.want("nl", cell.ExitBlocked)
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("the checks that decide are %s apart", took)
		}
		if n := w.notice(exits.CodeDown, "nl"); n == nil || n.Severity != cell.Warning {
			t.Errorf("notice %v", n)
		}
		w.upstream("nl").set(func(u *fakeUpstream) { u.err = nil })
		w.checked("nl", 1)
		w.want("nl", cell.ExitBlocked)
		w.checked("nl", 1)
		w.want("nl", cell.ExitUp)
		if n := w.notice(exits.CodeDown, "nl"); n != nil {
			t.Errorf("notice of an exit that is up: %v", n)
		}
	})
}

func TestFactsAreReportedOnlyWhenTheyChange(t *testing.T) {
	inBubble(t, func(w *world) {
		w.state.Exits = []cell.Exit{proxyExit("nl", 0)}
		w.apply()
		w.after(time.Minute)
		before := w.reports
		w.after(time.Hour)
		if w.reports != before {
			t.Errorf("%d reports of nothing new in an hour", w.reports-before)
		}
		w.upstream("nl").set(func(u *fakeUpstream) { u.udp = true })
		w.after(time.Minute)
		if w.reports != before+1 || !w.facts["nl"].UDP {
			t.Errorf("%d reports, facts %+v", w.reports-before, w.facts["nl"])
		}
	})
}

func TestChainFailsOverAndReturnsAfterHold(t *testing.T) {
	inBubble(t, func(w *world) {
		w.state.Exits = []cell.Exit{proxyExit("de", 1), proxyExit("nl", 0)}
		w.state.Chains = []cell.Chain{{ID: "away", Members: []string{"nl", "de", "block"}, Hold: 120}}
		w.apply()
		w.after(time.Second)
		w.way("away", "nl")

		w.upstream("nl").set(func(u *fakeUpstream) { u.err = errGone })
		w.checked("nl", 2)
		w.way("away", "nl") // degraded still carries
		w.checked("nl", 1)
		w.way("away", "de")
		w.upstream("nl").set(func(u *fakeUpstream) { u.err = nil })
		w.after(20 * time.Second)
		w.want("nl", cell.ExitUp)
		w.way("away", "de") // held
		w.after(90 * time.Second)
		w.way("away", "de")
		w.after(40 * time.Second)
		w.way("away", "nl")

		for _, id := range []string{"nl", "de"} {
			w.upstream(id).set(func(u *fakeUpstream) { u.err = errGone })
		}
		w.after(time.Minute)
		w.way("away", "block")
		if n := w.notice(exits.CodeChain, "away"); n == nil {
			t.Error("no notice of a chain in which nothing carries")
		}
		w.upstream("de").set(func(u *fakeUpstream) { u.err = nil })
		w.after(20 * time.Second)
		w.way("away", "de") // from nothing to something there is no hold
	})
}

func TestChainGoesDirectOnlyIfListedAndOnlyAfterTheOthersFailed(t *testing.T) {
	inBubble(t, func(w *world) {
		w.state.Exits = []cell.Exit{proxyExit("nl", 0)}
		w.state.Chains = []cell.Chain{
			{ID: "lax", Members: []string{"nl", cell.ExitDirect}},
			{ID: "strict", Members: []string{"nl"}},
		}
		w.upstream("nl").set(func(u *fakeUpstream) { u.err = errGone })
		w.apply()
		w.after(time.Second)
		w.want("nl", cell.ExitConnecting)
		w.way("lax", cell.ExitBlock) // not decided yet
		w.after(10 * time.Second)
		w.want("nl", cell.ExitBlocked)
		w.way("lax", cell.ExitDirect)
		w.way("strict", cell.ExitBlock)
	})
}

func TestChainFollowsItsScheduleInTheCellsTimeZone(t *testing.T) {
	inBubble(t, func(w *world) { // the bubble begins on 2000-01-01T00:00:00Z, a Saturday, 01:00 in Berlin
		w.state.Exits = []cell.Exit{proxyExit("de", 1), proxyExit("nl", 0)}
		w.state.Chains = []cell.Chain{{ID: "away", Members: []string{"nl"}, Schedule: []cell.ChainWindow{{Days: []int{6}, From: 90, Until: 100, Use: "de"}}}}
		w.apply()
		w.after(29 * time.Minute)
		w.way("away", "nl")
		w.after(90 * time.Second)
		w.way("away", "de")
		w.upstream("de").set(func(u *fakeUpstream) { u.err = errGone })
		w.after(time.Minute)
		w.way("away", cell.ExitBlock) // it is de's time: nl takes no one's place
		w.after(10 * time.Minute)
		w.way("away", "nl")
	})
}

func TestOnlyTheWorkerOfAChangedExitStartsAnew(t *testing.T) {
	inBubble(t, func(w *world) {
		w.state.Exits = []cell.Exit{proxyExit("de", 1), proxyExit("nl", 0)}
		w.apply()
		w.after(time.Second)
		w.state.Exits[0].Proxy = &cell.ProxyExit{Protocol: cell.ProxySOCKS5, Host: "other.example", Port: 1080}
		w.state.Exits[1].Probes = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:443")}
		w.apply()
		w.after(time.Second) // fakeRelay panics if the old one still held the port
		if de, nl := w.upstream("de").runs, w.upstream("nl").runs; de != 2 || nl != 1 {
			t.Errorf("runs: de %d, nl %d; want 2 and 1", de, nl)
		}
		w.want("nl", cell.ExitUp)
		w.state.Exits = w.state.Exits[:1]
		w.apply()
		w.after(time.Second)
		if w.relays[12345].running {
			t.Error("the relay of a removed exit runs on")
		}
		if _, err := w.c.Dial("nl"); err == nil {
			t.Error("a removed exit was dialed")
		}
		if _, ok := w.facts["nl"]; ok {
			t.Error("facts of a removed exit")
		}
	})
}

func TestMovedSourcesLoseTheirConnections(t *testing.T) {
	inBubble(t, func(w *world) {
		a, b := netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("10.1.2.4")
		claimed(w.state)
		w.state.Exits = []cell.Exit{proxyExit("de", 1), proxyExit("nl", 0)}
		w.state.Peers = []cell.Peer{{Name: "a", Enabled: true, Address4: a, Exit: "nl"}, {Name: "b", Enabled: true, Address4: b, Exit: "nl"}}
		w.state.Services = []cell.Service{{ID: "files", Enabled: true, Bridge: "br0", Prefix4: netip.MustParsePrefix("172.20.0.0/24"), Egress: "nl"}}
		w.apply()
		w.after(time.Second)
		relay := w.relays[12345]
		inside := netip.MustParseAddr("172.20.0.9")
		if _, err := relay.dial(t.Context(), "tcp", netip.MustParseAddrPort("192.0.2.1:80"), inside); err != nil {
			t.Fatal(err)
		}
		w.state.Peers[0].Exit, w.state.Services[0].Egress = "de", cell.ExitBlock
		w.apply()
		w.after(time.Second)
		if want := []netip.Addr{a, inside}; !slices.Equal(relay.ended, want) {
			t.Errorf("ended %v, want %v", relay.ended, want)
		}
	})
}

func TestDialFailsAtOnceWhileDown(t *testing.T) {
	inBubble(t, func(w *world) {
		w.state.Exits = []cell.Exit{proxyExit("nl", 0)}
		w.upstream("nl").set(func(u *fakeUpstream) { u.err = errGone })
		w.apply()
		w.after(time.Second)
		if _, err := w.c.Dial("nl"); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("dialing an exit that never was up: %v", err)
		}
		w.upstream("nl").set(func(u *fakeUpstream) { u.err = nil })
		w.after(4 * time.Second)
		d, err := w.c.Dial("nl")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.DialContext(t.Context(), "udp", "192.0.2.1:53"); err == nil {
			t.Error("UDP through an exit that has none")
		}
		if _, err := d.DialContext(t.Context(), "tcp", "192.0.2.1:53"); err != nil {
			t.Error(err)
		}
		w.upstream("nl").set(func(u *fakeUpstream) { u.err = errGone })
		w.after(time.Minute)
		dials := w.upstream("nl").dials
		if _, err := d.DialContext(t.Context(), "tcp", "192.0.2.1:53"); err == nil || w.upstream("nl").dials != dials {
			t.Error("a dialer held from better times still dials")
		}
	})
}

func TestFirstHostKeyIsPinnedAndAnotherBlocks(t *testing.T) {
	inBubble(t, func(w *world) {
		w.state.Exits = []cell.Exit{{ID: "home", Type: cell.ExitSSHuttle, Enabled: true, SSH: &cell.SSHExit{Host: "ssh.example", Port: 22, User: "me", Auth: cell.SSHKey}}}
		w.apply()
		w.after(time.Second)
		pin := w.around["home"].Pin
		if err := pin("ssh-ed25519 AAAA"); err != nil {
			t.Fatal(err)
		}
		if got := w.status("home").HostKey; got != "ssh-ed25519 AAAA" {
			t.Errorf("shown key %q", got)
		}
		if err := pin("ssh-ed25519 AAAA"); err != nil {
			t.Fatal(err)
		}
		err := pin("ssh-ed25519 BBBB")
		if err == nil {
			t.Fatal("another key was accepted")
		}
		w.upstream("home").set(func(u *fakeUpstream) { u.err = err })
		w.after(20 * time.Second)
		st := w.want("home", cell.ExitBlocked) // at once, not at the third time
		if st.PendingHostKey != "ssh-ed25519 BBBB" || st.HostKey != "ssh-ed25519 AAAA" {
			t.Errorf("keys %q, pending %q", st.HostKey, st.PendingHostKey)
		}
		if n := w.notice(exits.CodeHostKey, "home"); n == nil {
			t.Error("no notice")
		}
	})
}

func TestBlockedForAReasonThatAPersonCanMend(t *testing.T) {
	inBubble(t, func(w *world) {
		w.state.Exits = []cell.Exit{
			{ID: "bare", Type: cell.ExitProxy, Slot: 1, Enabled: true},
			{ID: "broken", Type: cell.ExitProxy, Slot: 2, Enabled: true, Credentials: "lost", Proxy: &cell.ProxyExit{Protocol: cell.ProxyHTTP, Host: "p", Port: 1}},
			{ID: "off", Type: cell.ExitProxy, Slot: 3, Proxy: &cell.ProxyExit{Protocol: cell.ProxyHTTP, Host: "p", Port: 1}},
			{ID: "onion", Type: cell.ExitTor, Enabled: true, Tor: &cell.TorExit{}},
			{ID: "vpn", Type: cell.ExitOpenVPN, Enabled: true, OpenVPN: &cell.OpenVPNExit{Profile: "p"}},
			proxyExit("wrong", 4),
		}
		get(&w.mu, w.children, "onion").set(exits.ChildStatus{State: cell.ExitBlocked, Missing: true, Reason: "tor does not know its relays: run apt install tor-geoipdb"})
		get(&w.mu, w.children, "vpn").set(exits.ChildStatus{State: cell.ExitConnecting, Reason: "waiting for the server"})
		w.upstream("wrong").set(func(u *fakeUpstream) { u.err = &exits.Problem{Code: exits.CodeAuth, Text: "wrong password"} })
		w.apply()
		w.after(time.Minute)
		for id, code := range map[string]string{"bare": exits.CodeUnconfigured, "broken": exits.CodeBroken, "onion": exits.CodeMissing, "wrong": exits.CodeAuth} {
			st := w.want(id, cell.ExitBlocked)
			n := w.notice(code, id)
			if n == nil || !strings.Contains(n.Text, st.Reason) || st.Reason == "" {
				t.Errorf("%s: notice %v, reason %q", id, n, st.Reason)
			}
		}
		if n := w.notice(exits.CodeMissing, "onion"); n == nil || !strings.Contains(n.Text, "apt install tor-geoipdb") {
			t.Errorf("notice %v", n)
		}
		w.want("off", cell.ExitDisabled)
		w.want("vpn", cell.ExitConnecting) // a program may take its time
		w.after(2 * time.Minute)
		w.want("vpn", cell.ExitBlocked) // but not for ever
		get(&w.mu, w.children, "vpn").set(exits.ChildStatus{State: cell.ExitUp, Address4: netip.MustParseAddr("10.8.0.6"), DNS: []netip.AddrPort{netip.MustParseAddrPort("10.8.0.1:53")}})
		w.after(30 * time.Second)
		w.want("vpn", cell.ExitUp)
		if f := w.facts["vpn"]; f.Address4.String() != "10.8.0.6" || len(f.DNS) != 1 || f.V6 {
			t.Errorf("facts %+v", f)
		}
	})
}

func TestAllTenSlotsTakenIsSaid(t *testing.T) {
	inBubble(t, func(w *world) {
		for i := range 10 {
			w.state.Exits = append(w.state.Exits, proxyExit("x"+string(rune('0'+i)), i))
		}
		w.apply()
		if w.notice(exits.CodeSlots, string(cell.ExitProxy)) == nil {
			t.Error("no notice")
		}
		w.after(time.Second)
	})
}

func TestSilentWireGuardServerIsLookedUpAnewAndItsNextAddressTried(t *testing.T) {
	inBubble(t, func(w *world) {
		a1, a2, a6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::1")
		w.names["vpn.example"] = []netip.Addr{a6, a2, a1}
		w.state.Exits = []cell.Exit{{
			ID: "wg", Type: cell.ExitWireGuard, Enabled: true, Address4: netip.MustParseAddr("10.64.0.2"),
			WireGuard: &cell.WireGuardExit{Endpoint: "vpn.example:51820", AllowedIPs: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}},
		}}
		plan, _ := exits.Compile(w.state, cell.Facts{Uplink: cell.Uplink{Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.9/24")}, Gateway4: netip.MustParseAddr("192.0.2.254")}})
		if _, err := w.c.Apply(t.Context(), plan); err != nil {
			t.Fatal(err)
		}
		w.after(time.Second)
		endpoint := func(want netip.Addr) {
			t.Helper()
			w.mu.Lock()
			defer w.mu.Unlock()
			if got := w.facts["wg"].Endpoint; got != netip.AddrPortFrom(want, 51820) {
				t.Errorf("endpoint %s, want %s", got, want)
			}
		}
		endpoint(a1) // the uplink has no IPv6
		w.after(4 * time.Second)
		w.want("wg", cell.ExitUp)
		before := w.lookups
		w.after(time.Hour)
		if w.lookups != before {
			t.Errorf("%d look-ups although it works", w.lookups-before)
		}
		get(&w.mu, w.routed, "wg").set(func(u *fakeUpstream) { u.dial = errGone })
		w.after(17 * time.Second)
		endpoint(a2)
		w.after(30 * time.Second)
		w.want("wg", cell.ExitBlocked)
		if st := w.status("wg"); !strings.Contains(st.Reason, "no handshake") {
			t.Errorf("reason %q", st.Reason)
		}
		w.mu.Lock()
		w.names["vpn.example"] = []netip.Addr{netip.MustParseAddr("192.0.2.77")} // it moved
		w.mu.Unlock()
		w.after(30 * time.Second)
		endpoint(netip.MustParseAddr("192.0.2.77"))
	})
}

func TestRelayThatCannotListenBlocksItsExit(t *testing.T) {
	inBubble(t, func(w *world) {
		get(&w.mu, w.relays, uint16(12345)).fail = errors.New("address already in use")
		w.state.Exits = []cell.Exit{proxyExit("nl", 0)}
		w.apply()
		w.after(20 * time.Second)
		st := w.status("nl")
		if st.Restarts < 3 {
			t.Errorf("%d restarts", st.Restarts)
		}
		w.relays[12345].mu.Lock()
		w.relays[12345].fail = nil
		w.relays[12345].mu.Unlock()
		w.after(2 * time.Minute)
		w.want("nl", cell.ExitUp)
	})
}
