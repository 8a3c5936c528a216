package firewall_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/firewall"
)

func compile(t *testing.T, s *cell.State, f cell.Facts) firewall.Policy {
	t.Helper()
	p, err := firewall.Compile(s, f)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// UDP goes into a relay that takes it, and is refused at once where it does
// not; which it is has been learned and costs one element.
func TestUDPIsRelayedOnlyWhereTheExitCarriesIt(t *testing.T) {
	s := household()
	tv := s.Peer("tv")
	for _, to := range []string{"192.0.2.80", "2001:db8:80::1"} {
		src := tv.Address4
		if ip(to).Is6() {
			src = tv.Address6
		}
		pk := firewall.Packet{In: cell.TunnelLink, Src: src, Dst: ip(to), Protocol: "udp", SrcPort: 4000, DstPort: 443}
		if r := compile(t, s, facts(cell.ScopeFull)).Trace(pk); r.Outcome != firewall.Rejected {
			t.Errorf("%s without UDP: %s by %s", to, r.Outcome, r.Rule)
		}
		f := facts(cell.ScopeFull)
		f.Exits = map[string]cell.ExitFact{"tor": {UDP: true}}
		if r := compile(t, s, f).Trace(pk); r.Outcome != firewall.Relayed {
			t.Errorf("%s with UDP: %s by %s", to, r.Outcome, r.Rule)
		}
		pk.RelayDown = true
		if r := compile(t, s, f).Trace(pk); r.Passes() {
			t.Errorf("%s with UDP and no relay: %s by %s", to, r.Outcome, r.Rule)
		}
	}
}

// The SOCKS server of an exit is reached by who was granted it, and by them only.
func TestSOCKSServersAreReachedByGrant(t *testing.T) {
	s := household()
	s.Exit("tor").Socks = true
	s.Peer("laptop").Socks = []string{"tor"}
	port := s.Exit("tor").SocksPort()
	try := func(peer string, port uint16) firewall.Result {
		return compile(t, s, facts(cell.ScopeFull)).Trace(firewall.Packet{
			In: cell.TunnelLink, Src: s.Peer(peer).Address4, Dst: s.Network.Tunnel.Gateway4(), Protocol: "tcp", SrcPort: 4000, DstPort: port,
		})
	}
	if r := try("laptop", port); r.Outcome != firewall.Accepted || r.Rule != "peer: SOCKS server" {
		t.Errorf("granted: %s by %s", r.Outcome, r.Rule)
	}
	if r := try("phone", port); r.Passes() {
		t.Errorf("not granted: %s by %s", r.Outcome, r.Rule)
	}
	if r := try("laptop", s.Exit("socks").SocksPort()); r.Passes() {
		t.Errorf("granted another exit's: %s by %s", r.Outcome, r.Rule)
	}
	s.Exit("tor").Enabled = false
	if r := try("laptop", port); r.Passes() {
		t.Errorf("of an exit that is off: %s by %s", r.Outcome, r.Rule)
	}
}

// A chain leads where it was learned to lead, and nowhere before that.
func TestAChainLeadsWhereItWasLearnedToLead(t *testing.T) {
	s := household()
	s.Exits = append(s.Exits, cell.Exit{ID: "de", Type: cell.ExitWireGuard, Slot: 1, Enabled: true, Address4: ip("10.203.0.2")})
	s.Chains = []cell.Chain{{ID: "away", Members: []string{"nl", "de"}}}
	s.Peer("phone").Exit = "away"
	pk := firewall.Packet{In: cell.TunnelLink, Src: s.Peer("phone").Address4, Dst: ip("192.0.2.80"), Protocol: "tcp", SrcPort: 4000, DstPort: 443}
	for way, out := range map[string]string{"": "", "nl": "wg_ext0", "de": "wg_ext1", cell.ExitDirect: "", "gone": ""} {
		f := facts(cell.ScopeFull)
		f.Links["wg_ext1"] = cell.LinkFact{Index: 40, Up: true, Addresses: []netip.Prefix{pfx("10.203.0.2/32")}}
		f.Chains = map[string]string{"away": way}
		r := compile(t, s, f).Trace(pk)
		if r.Out != out || r.Passes() != (out != "") {
			t.Errorf("learned %q: %s by %q", way, r.Outcome, r.Out)
		}
		if out == "" && r.Outcome != firewall.ProhibitedWay {
			t.Errorf("learned %q: %s, where the client should get an answer at once", way, r.Outcome)
		}
	}
}

// An exit whose server carries no IPv6 has no way for it, whatever addresses it has.
func TestAnExitHasOnlyTheFamiliesItsServerCarries(t *testing.T) {
	s := household()
	s.Exit("nl").WireGuard = &cell.WireGuardExit{PublicKey: key(60), PeerKey: key(61), Endpoint: "192.0.2.1:51820", AllowedIPs: []netip.Prefix{pfx("0.0.0.0/0")}}
	p := compile(t, s, facts(cell.ScopeFull))
	way := func(all string) bool {
		return slices.ContainsFunc(p.Routes, func(r firewall.Route) bool { return r.Table == 110 && r.Prefix == pfx(all) && r.Dev == "wg_ext0" })
	}
	if !way("0.0.0.0/0") || way("::/0") {
		t.Errorf("v4 %t, v6 %t", way("0.0.0.0/0"), way("::/0"))
	}
}

// What a server gave us stays ours to guard when the link has lost it.
func TestALearnedExitAddressIsGuardedWithoutItsLink(t *testing.T) {
	s := household()
	s.Exit("work").Address4 = netip.Addr{}
	f := facts(cell.ScopeFull)
	f.Exits = map[string]cell.ExitFact{"work": {Address4: ip("10.201.0.77")}}
	p := compile(t, s, f)
	if !slices.ContainsFunc(p.Rules, func(r firewall.RoutingRule) bool { return r.From == ip("10.201.0.77") && r.Action == firewall.Prohibit }) {
		t.Error("no policy rule prohibits it")
	}
	if r := p.Trace(firewall.Packet{Src: ip("10.201.0.77"), Dst: ip("192.0.2.80"), Protocol: "tcp", SrcPort: 1, DstPort: 2}); r.Passes() && r.Out == "eth0" {
		t.Errorf("it leaves by %s", r.Out)
	}
}
