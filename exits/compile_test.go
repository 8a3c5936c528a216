package exits_test

import (
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/exits"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

func helpers() netnstest.Helpers { return netnstest.Helpers{} }

// claimed makes s a cell with an owner and tunnel prefixes.
func claimed(s *cell.State) {
	s.Users = []cell.User{{Name: "ada", Role: cell.RoleAdmin}}
	s.Network.Tunnel.Prefix4, s.Network.Tunnel.Prefix6 = netip.MustParsePrefix("10.1.2.0/24"), netip.MustParsePrefix("fd01::/64")
}

func household() (*cell.State, cell.Facts) {
	s := &cell.State{}
	claimed(s)
	s.Identity.Timezone = "Europe/Berlin"
	nl := proxyExit("nl", 0)
	nl.Socks, nl.Credentials = true, "proxy-1"
	s.Exits = []cell.Exit{
		{
			ID: "wg", Name: "Mullvad", Type: cell.ExitWireGuard, Slot: 3, Enabled: true, Address4: netip.MustParseAddr("10.64.0.2"),
			WireGuard: &cell.WireGuardExit{Endpoint: "vpn.example:51820", AllowedIPs: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}},
		},
		nl,
		{ID: "tor", Type: cell.ExitTor, Tor: &cell.TorExit{Countries: []string{"nl"}}},
	}
	s.Chains = []cell.Chain{{ID: "away", Members: []string{"wg", "nl"}, Hold: 60, Schedule: []cell.ChainWindow{{From: 60, Until: 120, Use: "nl"}}}}
	at := netip.MustParseAddr
	s.Peers = []cell.Peer{
		{Name: "laptop", Enabled: true, Address4: at("10.1.2.3"), Address6: at("fd01::3"), Exit: "away"},
		{Name: "phone", Enabled: true, Address4: at("10.1.2.4"), Exit: "nl", Socks: []string{"nl"}},
		{Name: "old", Enabled: true, Address4: at("10.1.2.5"), Exit: "nl", Socks: []string{"nl"}},
		{Name: "off", Address4: at("10.1.2.6"), Exit: "nl"},
	}
	s.Services = []cell.Service{{ID: "files", Enabled: true, Bridge: "br0", Prefix4: netip.MustParsePrefix("172.20.0.0/24"), Egress: "nl"}}
	return s, cell.Facts{
		Expired: []string{"old"}, Chains: map[string]string{"away": "wg"}, Resolvers: []netip.AddrPort{netip.MustParseAddrPort("192.168.1.1:53")},
		Uplink: cell.Uplink{Name: "eth0", Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.1.2/24")}},
	}
}

func TestPlanReads(t *testing.T) {
	s, f := household()
	plan, err := exits.Compile(s, f)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/household.txt")
	if err != nil {
		t.Fatal(err)
	}
	if plan.String() != string(want) {
		t.Errorf("got\n%s\nwant\n%s", plan, want)
	}
	again, _ := exits.Compile(s, f)
	if !reflect.DeepEqual(plan, again) {
		t.Error("compiled twice: not the same")
	}
}

func TestPlanFollowsTheChain(t *testing.T) {
	s, f := household()
	f.Chains["away"] = "nl"
	plan, _ := exits.Compile(s, f)
	if got := plan.Exit("nl").Sources; len(got) != 4 {
		t.Errorf("sources of nl: %v", got)
	}
	f.Chains = nil
	plan, _ = exits.Compile(s, f)
	if got := plan.Exit("wg").Sources; got != nil {
		t.Errorf("sources of wg while nothing is known: %v", got)
	}
}

func TestNobodysCellAssignsNobody(t *testing.T) {
	s, f := household()
	s.Users = nil
	plan, _ := exits.Compile(s, f)
	if strings.Contains(plan.String(), "10.1.2.") {
		t.Errorf("an unclaimed cell:\n%s", plan)
	}
}

func FuzzParseEcho(f *testing.F) {
	for _, s := range []string{"203.0.113.7\n", "fl=1\nip=2001:db8::1\nts=2\n", "ip=fe80::1%eth0", "<html>", "::ffff:192.0.2.1"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := exits.ParseEcho(b)
		if err == nil && (!a.IsValid() || a.Zone() != "" || a.Is4In6()) {
			t.Errorf("%q is %v", b, a)
		}
	})
}

func TestEchoAnswersAreRead(t *testing.T) {
	for in, want := range map[string]string{"203.0.113.7\n": "203.0.113.7", "fl=1\nip=2001:db8::1\nts=2\n": "2001:db8::1"} {
		if a, err := exits.ParseEcho([]byte(in)); err != nil || a.String() != want {
			t.Errorf("%q: %v, %v", in, a, err)
		}
	}
	if _, err := exits.ParseEcho([]byte("<html>403</html>")); err == nil {
		t.Error("a page is no address")
	}
}
