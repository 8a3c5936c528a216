package dns_test

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/personal-internet-cell/pic/dns"
)

// DNS-6: no name of the world leads to a machine on a local network.
func TestRebinding(t *testing.T) {
	for _, c := range []struct {
		qtype  uint16
		record string
		kept   string // "" for nothing
	}{
		{mdns.TypeA, "@ 60 IN A 10.0.0.1", ""},
		{mdns.TypeA, "@ 60 IN A 172.31.255.1", ""},
		{mdns.TypeA, "@ 60 IN A 192.168.1.1", ""},
		{mdns.TypeA, "@ 60 IN A 127.0.0.1", ""},
		{mdns.TypeA, "@ 60 IN A 169.254.1.1", ""},
		{mdns.TypeA, "@ 60 IN A 100.64.0.1", ""},
		{mdns.TypeA, "@ 60 IN A 0.0.0.0", ""},
		{mdns.TypeA, "@ 60 IN A 224.0.0.1", ""},
		{mdns.TypeA, "@ 60 IN A 255.255.255.255", ""},
		{mdns.TypeA, "@ 60 IN A 9.9.9.9", "9.9.9.9"},
		{mdns.TypeAAAA, "@ 60 IN AAAA ::1", ""},
		{mdns.TypeAAAA, "@ 60 IN AAAA ::", ""},
		{mdns.TypeAAAA, "@ 60 IN AAAA fd00::1", ""},
		{mdns.TypeAAAA, "@ 60 IN AAAA fe80::1", ""},
		{mdns.TypeAAAA, "@ 60 IN AAAA fec0::1", ""},
		{mdns.TypeAAAA, "@ 60 IN AAAA ::ffff:192.168.1.1", ""},
		{mdns.TypeAAAA, "@ 60 IN AAAA ::ffff:9.9.9.9", ""},
		{mdns.TypeAAAA, "@ 60 IN AAAA ::192.168.1.1", ""},
		{mdns.TypeAAAA, "@ 60 IN AAAA 64:ff9b::c0a8:101", ""},
		{mdns.TypeAAAA, "@ 60 IN AAAA 64:ff9b::909:909", "64:ff9b::909:909"},
		{mdns.TypeAAAA, "@ 60 IN AAAA 2002:c0a8:101::1", ""},
		{mdns.TypeAAAA, "@ 60 IN AAAA 2620:fe::fe", "2620:fe::fe"},
		{mdns.TypeHTTPS, "@ 60 IN HTTPS 1 . alpn=h2 ipv4hint=192.168.1.1,9.9.9.9 ipv6hint=fd00::1", `1 . alpn="h2" ipv4hint="9.9.9.9"`},
		{mdns.TypeHTTPS, "@ 60 IN HTTPS 1 . mandatory=ipv4hint ipv4hint=192.168.1.1", ""},
		{mdns.TypeSVCB, "@ 60 IN SVCB 1 x. ipv4hint=10.0.0.1", "1 x."},
	} {
		synctest.Test(t, func(t *testing.T) {
			up := &fakeNet{answer: says(0, c.record)}
			s := forwarding(t, &dns.Config{Direct: up}, func(v *dns.Views) { v.RebindAllow = []string{"plex.direct."} })
			for _, name := range []string{"evil.example.", "evilplex.direct.", "EVIL.example."} {
				r := ask(t, s, question(name, c.qtype), "pic0", laptop, false)
				got := ""
				if len(r.Answer) > 0 {
					got = strings.TrimPrefix(r.Answer[0].String(), r.Answer[0].Header().String())
				}
				if got != c.kept || r.Rcode != 0 {
					t.Errorf("%s: kept %q, want %q", c.record, got, c.kept)
				}
			}
			if r := ask(t, s, question("a.plex.direct.", c.qtype), "pic0", laptop, false); len(r.Answer) != 1 {
				t.Errorf("%s: the exception does not hold", c.record)
			}
		})
	}
}

func TestAnExceptionThatGoesTakesItsAnswersWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, f := household(t)
		v := compileNoListen(t, st, f)
		v.RebindAllow = []string{"plex.direct."}
		s := start(t, &dns.Config{Direct: &fakeNet{answer: says(0, "@ 600 IN A 192.168.1.1")}}, v)
		q := question("a.plex.direct.", mdns.TypeA)
		want(t, ask(t, s, q, "pic0", laptop, false), 0, 1)
		v.RebindAllow = nil
		if _, err := s.Apply(t.Context(), v); err != nil {
			t.Fatal(err)
		}
		want(t, ask(t, s, q, "pic0", laptop, false), 0, 0)
	})
}

// An answer that is on its way while the exception goes is not kept, and not
// given to those who ask afterwards.
func TestAnExceptionThatGoesLeavesNoneBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, f := household(t)
		v := compileNoListen(t, st, f)
		v.RebindAllow = []string{"plex.direct."}
		up := &fakeNet{}
		up.answer = func(n, a string, q *mdns.Msg) *mdns.Msg {
			time.Sleep(time.Second)
			return says(0, "@ 600 IN A 192.168.1.1")(n, a, q)
		}
		s := start(t, &dns.Config{Direct: up}, v)
		q := question("a.plex.direct.", mdns.TypeA)
		var wg sync.WaitGroup
		wg.Go(func() { want(t, ask(t, s, q, "pic0", laptop, false), 0, 1) })
		synctest.Wait()
		v.RebindAllow = nil
		if _, err := s.Apply(t.Context(), v); err != nil {
			t.Fatal(err)
		}
		want(t, ask(t, s, q, "pic0", phone, false), 0, 0)
		wg.Wait()
		want(t, ask(t, s, q, "pic0", laptop, false), 0, 0)
	})
}
