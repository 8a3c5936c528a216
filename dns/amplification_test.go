package dns_test

import (
	"fmt"
	"testing"

	mdns "github.com/miekg/dns"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/dns"
)

// DNS-3: whatever is asked by whoever pretends to be another, with the longest
// records an admin can publish, no answer is more than three times as long as
// its question, none is longer than 1,232 bytes, and ANY stays below 512.
func TestNoQueryTypeAmplifies(t *testing.T) {
	publish := func(s *cell.State) {
		for i := range s.DNS.Records {
			if s.DNS.Records[i].Name == "big" {
				s.DNS.Records[i].Views = []cell.View{cell.ViewInternet, cell.ViewPeer}
			}
		}
		for i := range 20 {
			s.DNS.Records = append(s.DNS.Records, cell.Record{Name: "mx", Type: "MX", Value: fmt.Sprintf("%d a-long-mail-exchanger-%d.example.", i, i), Views: []cell.View{cell.ViewInternet}})
		}
		s.Normalize()
	}
	for _, long := range []bool{false, true} {
		s := inMemory(t, publish)
		if long {
			s.LongWay()
		}
		whole, cut, sources := 0, 0, 0
		ask := func(name string, qtype, size uint16) {
			m := question(name, qtype)
			if size > 0 {
				m.SetEdns0(size, true)
			}
			wire, err := m.Pack()
			if err != nil {
				t.Fatal(err)
			}
			sources++ // each of its own network, so that the rate limit does not help
			out := s.Serve(wire, "up0", fmt.Sprintf("23.%d.%d.9", sources>>8&255, sources&255), false)
			switch {
			case len(out) > 3*len(wire) || len(out) > 1232 || (size == 0 && len(out) > 512):
				t.Fatalf("%s %s, size %d: %d bytes for %d", name, mdns.Type(qtype), size, len(out), len(wire))
			case qtype == mdns.TypeANY && len(out) > 512:
				t.Fatalf("ANY: %d bytes", len(out))
			case len(out) > 2 && out[2]&2 != 0:
				cut++
			case len(out) > len(wire):
				whole++
			}
		}
		for qtype := range 1 << 16 {
			ask("big.home.pic.ngo.", uint16(qtype), 1232)
		}
		for qtype := range 300 {
			for _, name := range []string{"home.pic.ngo.", "big.home.pic.ngo.", "mx.home.pic.ngo.", "no.home.pic.ngo.", "pic.ngo.", "."} {
				for _, size := range []uint16{0, 512, 4096, 65535} {
					ask(name, uint16(qtype), size)
				}
			}
		}
		if whole == 0 || cut == 0 {
			t.Errorf("%d whole answers, %d cut short", whole, cut)
		}
		// Over TCP, and to peers, whose source is proven, everything is told.
		if r := askWire(t, s, pack(t, question("big.home.pic.ngo.", mdns.TypeTXT)), "up0", "198.51.100.9", true); len(r.Answer) != 60 {
			t.Errorf("over TCP:\n%v", r)
		}
	}
}

func pack(t testing.TB, m *mdns.Msg) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A negative answer must reach a resolver of the internet over UDP: it is the
// one that most of them ask for.
func TestCommonAnswersOfTheInternetViewAreWhole(t *testing.T) {
	bothWays(t, func(t *testing.T, s *dns.Server) {
		for _, q := range []*mdns.Msg{
			question("home.pic.ngo.", mdns.TypeA), question("home.pic.ngo.", mdns.TypeAAAA), question("home.pic.ngo.", mdns.TypeSOA),
			question("home.pic.ngo.", mdns.TypeNS), question("blog.home.pic.ngo.", mdns.TypeHTTPS), question("no.home.pic.ngo.", mdns.TypeA),
		} {
			if r := ask(t, s, q, "up0", "198.51.100.9", false); r.Truncated || len(r.Answer)+len(r.Ns) == 0 {
				t.Errorf("cut short:\n%v", r)
			}
		}
	})
}
