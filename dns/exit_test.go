package dns_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/dns"
)

// throughExit is the household whose third peer leaves by nl, with what is
// known of the exit changed by edit.
func throughExit(t testing.TB, s *cell.State, f cell.Facts, edit func(*cell.ExitFact)) dns.Views {
	t.Helper()
	fact := f.Exits["nl"]
	edit(&fact)
	f.Exits = map[string]cell.ExitFact{"nl": fact}
	return compileNoListen(t, s, f)
}

func apply(t testing.TB, s *dns.Server, v dns.Views) {
	t.Helper()
	for i := range 2 {
		if changed, err := s.Apply(t.Context(), v); err != nil || changed && i > 0 {
			t.Fatalf("applied %d times: changed %v, %v", i+1, changed, err)
		}
	}
}

func TestWhoCannotReachIPv6IsGivenNoIPv6Addresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		exit := &fakeNet{answer: says(0, "@ 600 IN AAAA 2001:db8::1")}
		st, f := household(t)
		s := start(t, &dns.Config{Direct: noNetwork{t}, Dial: func(string) (dns.Dialer, error) { return exit, nil }}, throughExit(t, st, f, func(*cell.ExitFact) {}))
		q := question("www.example.org.", mdns.TypeAAAA)
		want(t, ask(t, s, q, "pic0", torPeer, false), 0, 1)

		apply(t, s, throughExit(t, st, f, func(e *cell.ExitFact) { e.V6 = false }))
		for _, name := range []string{"www.example.org.", "other.example.org."} { // in the cache, and not
			r := ask(t, s, question(name, mdns.TypeAAAA), "pic0", torPeer, false)
			if want(t, r, 0, 0); len(r.Ns) != 1 || r.Ns[0].Header().Rrtype != mdns.TypeSOA || !mdns.IsSubDomain(r.Ns[0].Header().Name, name) {
				t.Errorf("no SOA that fits (RFC 2308 §2.2):\n%v", r)
			}
		}
		// An alias of ours that leads abroad is kept, without addresses.
		r := ask(t, s, question("out.home.pic.ngo.", mdns.TypeAAAA), "pic0", torPeer, false)
		if want(t, r, 0, 1); len(r.Ns) != 1 {
			t.Errorf("no SOA:\n%v", r)
		}
		if exit.count() != 1 {
			t.Errorf("%d questions, want 1", exit.count())
		}
		// Names of ours keep theirs: prefixes of ours are reached without the exit.
		want(t, ask(t, s, question("wiki.home.pic.ngo.", mdns.TypeAAAA), "pic0", torPeer, false), 0, 1)
	})
}

func TestAnExitThatIsDownAnswersNothingAndForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		exit := &fakeNet{answer: says(0, "@ 600 IN A 198.51.101.2")}
		uplink := &fakeNet{answer: says(0, "@ 600 IN A 198.51.101.1")}
		st, f := household(t)
		up := throughExit(t, st, f, func(*cell.ExitFact) {})
		s := start(t, &dns.Config{Direct: uplink, Dial: func(string) (dns.Dialer, error) { return exit, nil }}, up)
		q := question("www.example.org.", mdns.TypeA)
		for range 3 {
			want(t, ask(t, s, q, "pic0", torPeer, false), 0, 1)
		}
		want(t, ask(t, s, q, "pic0", laptop, false), 0, 1)
		if exit.count() != 1 || uplink.count() != 1 {
			t.Fatalf("asked %d and %d times", exit.count(), uplink.count())
		}
		for _, state := range []cell.ExitState{cell.ExitBlocked, cell.ExitConnecting, cell.ExitDisabled} {
			apply(t, s, throughExit(t, st, f, func(e *cell.ExitFact) { e.State = state }))
			for _, name := range []string{"www.example.org.", "other.example.org.", "out.home.pic.ngo."} {
				want(t, ask(t, s, question(name, mdns.TypeA), "pic0", torPeer, false), mdns.RcodeServerFailure, 0)
			}
			time.Sleep(time.Hour) // past its end, stale answers are not given either
		}
		if exit.count() != 1 || uplink.count() != 1 {
			t.Errorf("asked %d and %d times although it is down", exit.count(), uplink.count())
		}
		apply(t, s, throughExit(t, st, f, func(e *cell.ExitFact) { e.State = cell.ExitDegraded }))
		want(t, ask(t, s, q, "pic0", torPeer, false), 0, 1)
		if exit.count() != 2 {
			t.Errorf("asked %d times: what it was told before is kept", exit.count())
		}
	})
}

func TestOneExitsResolversAreItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		exit := &fakeNet{answer: says(0, "@ 600 IN A 198.51.101.2")}
		st, f := household(t)
		// The uplink's resolver is known, and none of the exit's.
		nobody := throughExit(t, st, f, func(e *cell.ExitFact) { e.DNS = nil })
		s := start(t, &dns.Config{Direct: noNetwork{t}, Dial: func(string) (dns.Dialer, error) { return exit, nil }}, nobody)
		want(t, ask(t, s, question("www.example.org.", mdns.TypeA), "pic0", torPeer, false), mdns.RcodeServerFailure, 0)
		if n := s.Notices(); !slices.ContainsFunc(n, func(n cell.Notice) bool { return n.Code == "exit_no_resolver" && n.Subject == "nl" }) {
			t.Errorf("notices: %v", n)
		}
		// With a forwarder on the internet there is somebody.
		st = st.Clone()
		st.DNS.Forwarders = []cell.Forwarder{{Protocol: cell.ForwardPlain, Address: netip.MustParseAddrPort("192.168.7.254:53")}, {Protocol: cell.ForwardPlain, Address: netip.MustParseAddrPort("9.9.9.9:53")}}
		apply(t, s, throughExit(t, st, f, func(e *cell.ExitFact) { e.DNS = nil }))
		want(t, ask(t, s, question("www.example.org.", mdns.TypeA), "pic0", torPeer, false), 0, 1)
		// Its own come first; what others said is forgotten.
		apply(t, s, throughExit(t, st, f, func(*cell.ExitFact) {}))
		want(t, ask(t, s, question("www.example.org.", mdns.TypeA), "pic0", torPeer, false), 0, 1)
		if want := []string{"udp 9.9.9.9:53 www.example.org.", "udp 10.64.0.1:53 www.example.org."}; !slices.Equal(exit.asked, want) {
			t.Errorf("asked %v, want %v", exit.asked, want)
		}
		if n := s.Notices(); slices.ContainsFunc(n, func(n cell.Notice) bool { return n.Code == "exit_no_resolver" }) {
			t.Errorf("notices: %v", n)
		}
	})
}

func TestBlockedPeersGetServfail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, f := household(t)
		st = st.Clone()
		st.Chains = []cell.Chain{{ID: "away", Members: []string{"nl"}}}
		for _, exit := range []string{cell.ExitBlock, "away"} { // nothing is known of the chain
			st.Peers[0].Exit = exit
			s := start(t, &dns.Config{Direct: noNetwork{t}}, compileNoListen(t, st, f))
			want(t, ask(t, s, question("www.example.org.", mdns.TypeA), "pic0", laptop, false), mdns.RcodeServerFailure, 0)
			want(t, ask(t, s, question("wiki.home.pic.ngo.", mdns.TypeA), "pic0", laptop, false), 0, 1)
		}
	})
}

func TestExitThatSwallowsUDPIsAskedByTCP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		exit := &fakeNet{answer: func(network, address string, q *mdns.Msg) *mdns.Msg {
			if network == "udp" {
				return nil
			}
			return says(0, "@ 600 IN A 198.51.101.2")(network, address, q)
		}}
		st, f := household(t)
		s := start(t, &dns.Config{Direct: noNetwork{t}, Dial: func(string) (dns.Dialer, error) { return exit, nil }}, compileNoListen(t, st, f))
		want(t, ask(t, s, question("www.example.org.", mdns.TypeA), "pic0", torPeer, false), 0, 1)
	})
}

func TestLookupThroughAnExit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		exit := &fakeNet{answer: says(0, "@ 600 IN A 198.51.101.2")}
		st, f := household(t)
		s := start(t, &dns.Config{Direct: noNetwork{t}, Dial: func(string) (dns.Dialer, error) { return exit, nil }}, compileNoListen(t, st, f))
		for range 2 { // the cache is not asked
			got, err := s.LookupThrough(t.Context(), "nl", "www.example.org")
			if err != nil || len(got) != 1 || got[0].String() != "198.51.101.2" {
				t.Fatalf("%v, %v", got, err)
			}
		}
		if exit.count() != 4 { // A and AAAA
			t.Errorf("asked %d times", exit.count())
		}
		for _, id := range []string{"de", ""} {
			if _, err := s.LookupThrough(t.Context(), id, "www.example.org"); err == nil {
				t.Errorf("looked up through %q", id)
			}
		}
		apply(t, s, throughExit(t, st, f, func(e *cell.ExitFact) { e.State = cell.ExitBlocked }))
		if _, err := s.LookupThrough(t.Context(), "nl", "www.example.org"); err == nil || !strings.Contains(err.Error(), "down") {
			t.Errorf("looked up through an exit that is down: %v", err)
		}
	})
}
