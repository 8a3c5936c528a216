package cell_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/personal-internet-cell/pic/cell"
)

// Whatever is not known for sure leads nowhere.
func TestWayIsBlockedUnlessKnown(t *testing.T) {
	s := full(t)
	chain := func(way string) *cell.Facts { return &cell.Facts{Chains: map[string]string{"away": way}} }
	for _, c := range []struct {
		name, exit string
		f          *cell.Facts
		want       string
		mark       uint32
	}{
		{"nothing said", "", &cell.Facts{}, cell.ExitDirect, cell.MarkDirect},
		{"direct", cell.ExitDirect, &cell.Facts{}, cell.ExitDirect, cell.MarkDirect},
		{"block", cell.ExitBlock, &cell.Facts{}, cell.ExitBlock, cell.MarkBlock},
		{"an exit", "nl", &cell.Facts{}, "nl", 0x10},
		{"no such exit", "gone", &cell.Facts{}, cell.ExitBlock, cell.MarkBlock},
		{"a chain of which nothing is known", "away", &cell.Facts{}, cell.ExitBlock, cell.MarkBlock},
		{"a chain", "away", chain("aunt"), "aunt", 0x60},
		{"a chain that was learned to lead where it no longer does", "away", chain(cell.ExitDirect), cell.ExitBlock, cell.MarkBlock},
		{"a chain that leads to itself", "away", chain("away"), cell.ExitBlock, cell.MarkBlock},
	} {
		got := s.Way(c.exit, c.f)
		if got != c.want || s.MarkOf(got) != c.mark {
			t.Errorf("%s: %s with mark %#x, want %s with %#x", c.name, got, s.MarkOf(got), c.want, c.mark)
		}
	}
}

func TestAnExitChosenForATimeLapses(t *testing.T) {
	s := full(t)
	p := s.Peer("laptop")
	p.ExitUntil, p.ExitThen = &soon, cell.ExitBlock
	if got := s.PeerWay(p, &cell.Facts{}); got != "nl" {
		t.Errorf("before its time: %s", got)
	}
	if got := s.PeerWay(p, &cell.Facts{ExitLapsed: []string{"laptop"}}); got != cell.ExitBlock {
		t.Errorf("after its time: %s", got)
	}
	p.ExitUntil = nil
	if got := s.PeerWay(p, &cell.Facts{ExitLapsed: []string{"laptop"}}); got != "nl" {
		t.Errorf("a fact that is older than the state: %s", got)
	}
}

func TestChainWindow(t *testing.T) {
	at := func(s string) time.Time {
		x, err := time.Parse("Mon 15:04", s)
		if err != nil {
			t.Fatal(err)
		}
		// Year 0 begins on a Saturday; only the weekday counts.
		for x.Weekday().String()[:3] != s[:3] {
			x = x.AddDate(0, 0, 1)
		}
		return x
	}
	evening := cell.ChainWindow{Days: []int{1, 2, 3, 4, 5}, From: 22 * 60, Until: 6 * 60}
	noon := cell.ChainWindow{From: 12 * 60, Until: 13 * 60}
	for _, c := range []struct {
		w    cell.ChainWindow
		at   string
		want bool
	}{
		{evening, "Mon 21:59", false},
		{evening, "Mon 22:00", true},
		{evening, "Tue 05:59", true},
		{evening, "Tue 06:00", false},
		{evening, "Sat 05:00", true}, // Friday's
		{evening, "Sat 23:00", false},
		{evening, "Mon 05:00", false}, // Sunday has none
		{noon, "Sun 12:00", true},
		{noon, "Sun 13:00", false},
	} {
		if got := c.w.On(at(c.at)); got != c.want {
			t.Errorf("%v at %s: %t", c.w, c.at, got)
		}
	}
}

func TestExitUsersCountChains(t *testing.T) {
	s := full(t)
	if diff := cmp.Diff([]string{"peer laptop", "service files", "service mail"}, s.ExitUsers("nl")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"service mail"}, s.ExitUsers("away")); diff != "" {
		t.Error(diff)
	}
}

func TestPeersMayChooseOnlyWhatIsListed(t *testing.T) {
	p := cell.Peer{ExitChoice: []string{cell.GrantAll}}
	for way, want := range map[string]bool{"nl": true, cell.ExitBlock: true, cell.ExitDirect: false, "": false} {
		if p.MayChoose(way) != want {
			t.Errorf("all: %q %t", way, !want)
		}
	}
	p.ExitChoice = []string{cell.ExitDirect}
	if !p.MayChoose(cell.ExitDirect) || p.MayChoose("nl") {
		t.Error("direct only")
	}
}

func TestExitConfigurationIsChecked(t *testing.T) {
	for _, c := range []struct {
		name, pointer string
		edit          func(*cell.State)
	}{
		{"config of another type", "/exits/0/tor", func(s *cell.State) { s.Exits[0].Tor = &cell.TorExit{} }},
		{"endpoint without a port", "/exits/0/wireguard/endpoint", func(s *cell.State) { s.Exits[0].WireGuard.Endpoint = "vpn.example.net" }},
		{"our own key", "/exits/0/wireguard/peer_key", func(s *cell.State) { s.Exits[0].WireGuard.PeerKey = s.Exits[0].WireGuard.PublicKey }},
		{"carries nothing", "/exits/0/wireguard/allowed_ips", func(s *cell.State) { s.Exits[0].WireGuard.AllowedIPs = nil }},
		{"loopback resolver", "/exits/0/wireguard/dns/0", func(s *cell.State) { s.Exits[0].WireGuard.DNS = []netip.Addr{netip.MustParseAddr("127.0.0.1")} }},
		{"probe on a multicast address", "/exits/0/probes/0", func(s *cell.State) { s.Exits[0].Probes = []netip.AddrPort{netip.MustParseAddrPort("224.0.0.1:1")} }},
		{"two lines in a bridge", "/exits/0/tor/bridges/0", func(s *cell.State) {
			s.Exits[0].Type, s.Exits[0].WireGuard, s.Exits[0].Tor = cell.ExitTor, nil, &cell.TorExit{Bridges: []string{"1.2.3.4:5\nControlPort 1"}}
		}},
		{"country by name", "/exits/0/tor/countries/0", func(s *cell.State) {
			s.Exits[0].Type, s.Exits[0].WireGuard, s.Exits[0].Tor = cell.ExitTor, nil, &cell.TorExit{Countries: []string{"Holland"}}
		}},
		{"chain to nowhere", "/chains/0/members/1", func(s *cell.State) { s.Chains[0].Members = []string{"nl", "gone"} }},
		{"chain that goes on after direct", "/chains/0/members/0", func(s *cell.State) { s.Chains[0].Members = []string{cell.ExitDirect, "nl"} }},
		{"chain of a chain", "/chains/0/members/0", func(s *cell.State) { s.Chains[0].Members = []string{"away"} }},
		{"chain with an exit's id", "/chains/0/id", func(s *cell.State) { s.Chains[0].ID, s.Services[1].Egress = "nl", "nl" }},
		{"then without until", "/peers/0/exit_until", func(s *cell.State) { s.Peers[0].ExitThen = "aunt" }},
		{"SOCKS of no exit", "/peers/0/socks/0", func(s *cell.State) { s.Peers[0].Socks = []string{"gone"} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := full(t)
			s.Exits[0].WireGuard = &cell.WireGuardExit{PublicKey: key(60), PeerKey: key(61), Endpoint: "[2001:db8::1]:51820", AllowedIPs: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}}
			if err := s.Validate(); err != nil {
				t.Fatalf("before the edit: %v", err)
			}
			c.edit(s)
			err := s.Validate()
			if err == nil || !strings.Contains(err.Error(), c.pointer+":") {
				t.Fatalf("no error at %s: %v", c.pointer, err)
			}
		})
	}
}

func TestWireGuardExitCarriesAFamilyByDefaultRouteOnly(t *testing.T) {
	w := cell.WireGuardExit{AllowedIPs: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/1"), netip.MustParsePrefix("128.0.0.0/1"), netip.MustParsePrefix("fd00::/8")}}
	if !w.Carries(false) || w.Carries(true) {
		t.Errorf("v4 %t, v6 %t", w.Carries(false), w.Carries(true))
	}
}
