package cell_test

import (
	"net/netip"
	"testing"

	"github.com/personal-internet-cell/pic/cell"
)

func TestNamesOfAnExitAreAskedOfItsOwnResolversOrOfPublicOnes(t *testing.T) {
	addr, at := netip.MustParseAddr, netip.MustParseAddrPort
	plain := func(a string) cell.Forwarder { return cell.Forwarder{Protocol: cell.ForwardPlain, Address: at(a)} }
	configured := []cell.Forwarder{
		plain("192.168.1.1:53"), plain("100.64.0.1:53"), plain("127.0.0.1:53"), plain("9.9.9.9:53"), plain("[2620:fe::fe]:53"),
		{Protocol: cell.ForwardTLS, Address: at("1.1.1.1:853"), ServerName: "one.one.one.one"},
	}
	uplink := []netip.AddrPort{at("198.51.100.53:53")}
	wg := cell.Exit{ID: "x", Type: cell.ExitWireGuard, WireGuard: &cell.WireGuardExit{DNS: []netip.Addr{addr("10.64.0.1"), addr("fd00::53")}}}
	for name, c := range map[string]struct {
		exit       cell.Exit
		fact       cell.ExitFact
		forwarders []cell.Forwarder
		want       []string
	}{
		"its own":                         {wg, cell.ExitFact{V6: true}, configured, []string{"10.64.0.1:53", "[fd00::53]:53"}},
		"its own that it reaches":         {wg, cell.ExitFact{}, configured, []string{"10.64.0.1:53"}},
		"its server's":                    {cell.Exit{ID: "x"}, cell.ExitFact{DNS: []netip.AddrPort{at("10.8.0.1:53")}}, configured, []string{"10.8.0.1:53"}},
		"public ones":                     {cell.Exit{ID: "x"}, cell.ExitFact{}, configured, []string{"9.9.9.9:53", "1.1.1.1:853"}},
		"public ones, v6 too":             {cell.Exit{ID: "x"}, cell.ExitFact{V6: true}, configured, []string{"9.9.9.9:53", "[2620:fe::fe]:53", "1.1.1.1:853"}},
		"nobody, and never the uplink's":  {cell.Exit{ID: "x"}, cell.ExitFact{}, nil, nil},
		"nobody where all are local ones": {cell.Exit{ID: "x"}, cell.ExitFact{V6: true}, configured[:3], nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := &cell.State{Exits: []cell.Exit{c.exit}}
			s.DNS.Forwarders = c.forwarders
			got := s.ExitForwarders(&c.exit, &cell.Facts{Resolvers: uplink, Exits: map[string]cell.ExitFact{"x": c.fact}})
			if len(got) != len(c.want) {
				t.Fatalf("got %v, want %v", got, c.want)
			}
			for i := range got {
				if got[i].Address != at(c.want[i]) {
					t.Errorf("got %v, want %v", got, c.want)
				}
			}
		})
	}
}
