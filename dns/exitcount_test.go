package dns_test

import (
	"errors"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	mdns "github.com/miekg/dns"

	"github.com/personal-internet-cell/pic/dns"
)

// Answers are counted by the exit of who asked, and the sums are what they
// were; a change of the plan resets nothing.
func TestAnswersAreCountedByExit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := &fakeNet{answer: says(0, "@ 600 IN A 198.51.101.1")}
		s := forwarding(t, &dns.Config{Direct: up, Dial: func(string) (dns.Dialer, error) { return nil, errors.New("down") }}, nil)
		q := question("www.example.org.", mdns.TypeA)
		ask(t, s, q, "pic0", laptop, false)
		ask(t, s, q, "pic0", torPeer, false)
		ask(t, s, q, "pic0", torPeer, false)
		ask(t, s, question("wiki.home.pic.ngo.", mdns.TypeA), "pic0", torPeer, false)
		want := []dns.QueryCount{
			{View: "peer", RCode: "NOERROR", Count: 1},
			{View: "peer", RCode: "NOERROR", Exit: "nl", Count: 1},
			{View: "peer", RCode: "SERVFAIL", Exit: "nl", Count: 2},
		}
		if d := cmp.Diff(want, s.QueryCounts()); d != "" {
			t.Error(d)
		}
		if _, err := s.Apply(t.Context(), s.Plan()); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, s.QueryCounts()); d != "" {
			t.Error(d)
		}
		if d := cmp.Diff(map[string]map[string]uint64{"peer": {"NOERROR": 2, "SERVFAIL": 2}}, s.Status().Queries); d != "" {
			t.Error(d)
		}
	})
}
