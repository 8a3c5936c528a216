package firewall_test

import (
	"fmt"
	"regexp"
	"slices"
	"testing"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/firewall"
)

// part is one rule, policy rule or route that can be left out of a policy.
type part struct {
	name    string
	without func(firewall.Policy) firewall.Policy
}

// parts of a policy, each with a name of its own.
func parts(p firewall.Policy) []part {
	var out []part
	for _, pick := range []func(*firewall.Policy) *firewall.Table{
		func(p *firewall.Policy) *firewall.Table { return &p.Guard },
		func(p *firewall.Policy) *firewall.Table { return &p.Main },
		func(p *firewall.Policy) *firewall.Table { return &p.Acct },
	} {
		t := pick(&p)
		for c := range t.Chains {
			for r, rule := range t.Chains[c].Rules {
				same := 0
				for _, o := range t.Chains[c].Rules[:r] {
					if o.Comment == rule.Comment {
						same++
					}
				}
				out = append(out, part{fmt.Sprintf("%s %s: %s/%d", t.Name, t.Chains[c].Name, rule.Comment, same), func(p firewall.Policy) firewall.Policy {
					t := pick(&p)
					t.Chains = slices.Clone(t.Chains)
					t.Chains[c].Rules = slices.DeleteFunc(slices.Clone(t.Chains[c].Rules), func(o firewall.Rule) bool {
						return fmt.Sprint(o) == fmt.Sprint(rule)
					})
					return p
				}})
			}
		}
	}
	for _, r := range p.Rules {
		name := fmt.Sprintf("rule %d/v%d %s", r.Priority, r.Family, r.InIf)
		if r.From.IsValid() {
			name += r.From.String()
		}
		out = append(out, part{name, func(p firewall.Policy) firewall.Policy {
			p.Rules = slices.DeleteFunc(slices.Clone(p.Rules), func(o firewall.RoutingRule) bool { return o == r })
			return p
		}})
	}
	for _, r := range p.Routes {
		out = append(out, part{fmt.Sprintf("route %d %s kind %d", r.Table, r.Prefix, r.Kind), func(p firewall.Policy) firewall.Policy {
			p.Routes = slices.DeleteFunc(slices.Clone(p.Routes), func(o firewall.Route) bool { return o == r })
			return p
		}})
	}
	return out
}

// crowd is the household with somebody on every exit, and services that have
// IPv6 ports or leave by a dialed exit: there is a packet for every rule.
func crowd() *cell.State {
	s := household()
	addPeer(s, "radio", "socks")
	addPeer(s, "guest", "aunt")
	addPeer(s, "doorbell", cell.ExitBlock)
	s.Services = append(s.Services,
		cell.Service{
			ID: "web", Name: "Web", Subdomain: "web", Upstream: "http://[fd31:1::2]:80", Access: cell.AccessPeers, Bridge: "br-web", Egress: "tor",
			Prefix4: pfx("172.20.3.0/24"), Prefix6: pfx("fd31:1::/64"), Ports: []cell.ServicePort{{Protocol: cell.TCP, Port: 993}}, Enabled: true,
		},
		cell.Service{
			ID: "wiki", Name: "Wiki", Subdomain: "wiki", Upstream: "http://[fd31:2::2]:80", Access: cell.AccessGranted, Bridge: "br-wiki",
			Prefix4: pfx("172.20.4.0/24"), Prefix6: pfx("fd31:2::/64"), Ports: []cell.ServicePort{{Protocol: cell.TCP, Port: 993}}, Enabled: true,
		})
	s.Peers[0].Services = []string{"mail", "wiki"}
	s.Exit("tor").Socks, s.Peers[0].Socks = true, []string{"tor"}
	s.Normalize()
	if err := s.Validate(); err != nil {
		panic(err)
	}
	return s
}

// world is a policy and the results of the packets under it.
type world struct {
	policy  firewall.Policy
	results []firewall.Result
}

// worlds are the crowd's policies: both scopes, with every link up and with
// none but the tunnel and the outside.
func worlds(t *testing.T, packets []firewall.Packet) []world {
	var out []world
	for _, scope := range []cell.Scope{cell.ScopeFull, cell.ScopeTunnel} {
		for _, up := range []bool{true, false} {
			f := facts(scope)
			for i, dev := range []string{"wg_ext0", "tun0", "wg_cell0", "br-mail", "br-chat", "br-web", "br-wiki"} {
				if up {
					l := f.Links[dev]
					l.Index, l.Up = 20+i, true
					f.Links[dev] = l
				} else {
					delete(f.Links, dev)
				}
			}
			if up {
				f.Exits = map[string]cell.ExitFact{"tor": {UDP: true}, "ssh": {UDP: true}, "socks": {UDP: true}}
			} else {
				delete(f.Links, "eth1")
				delete(f.Links, "pic0")
			}
			p, err := firewall.Compile(crowd(), f)
			if err != nil {
				t.Fatal(err)
			}
			w := world{policy: p}
			for _, pk := range packets {
				w.results = append(w.results, p.Trace(pk))
			}
			out = append(out, w)
		}
	}
	return out
}

// special are packets that tell apart the rules that no ordinary first packet
// of a flow meets.
func special() []firewall.Packet {
	pk := func(in, src, dst, protocol string, sport, dport uint16, edit func(*firewall.Packet)) firewall.Packet {
		p := firewall.Packet{In: in, Src: ip(src), Dst: ip(dst), Protocol: protocol, SrcPort: sport, DstPort: dport}
		if edit != nil {
			edit(&p)
		}
		return p
	}
	icmp := func(typ, hops uint8) func(*firewall.Packet) {
		return func(p *firewall.Packet) { p.ICMPType, p.HopLimit = typ, hops }
	}
	established := func(p *firewall.Packet) { p.Established = true }
	bad := func(p *firewall.Packet) { p.Invalid = true }
	down := func(p *firewall.Packet) { p.RelayDown = true }
	marked := func(m uint32) func(*firewall.Packet) { return func(p *firewall.Packet) { p.Mark = m } }
	out := []firewall.Packet{
		pk("pic0", "fe80::9", "fd02:304:506::1", "icmp", 0, 0, icmp(135, 255)),
		pk("br-mail", "fe80::9", "fd30:1::1", "icmp", 0, 0, icmp(136, 255)),
		pk("wg_ext0", "fe80::9", "fd20::2", "icmp", 0, 0, icmp(135, 255)),
		pk("eth0", "fe80::9", "2001:db8:1::2", "icmp", 0, 0, icmp(135, 255)),
		pk("eth0", "fe80::9", "2001:db8:1::2", "icmp", 0, 0, icmp(134, 255)),
		pk("eth0", "fe80::9", "2001:db8:1::2", "icmp", 0, 0, icmp(143, 1)),
		pk("pic0", "10.17.0.99", "203.0.113.9", "tcp", 40000, 443, marked(0x02)),
		pk("pic0", "fd02:304:506::99", "2001:db8:99::9", "tcp", 40000, 443, marked(0x02)),
		pk("eth0", "203.0.113.9", "192.0.2.2", "udp", 67, 68, nil),
		pk("eth0", "fe80::9", "2001:db8:1::2", "udp", 547, 546, nil),
		pk("lo", "192.0.2.2", "192.0.2.2", "tcp", 40000, 9999, nil),
		pk("eth9", "203.0.113.9", "192.0.2.2", "udp", 40000, 51820, nil),
		pk("eth9", "203.0.113.9", "10.17.0.2", "tcp", 40000, 443, nil),
		pk("eth9", "2001:db8:77::9", "fd02:304:506::2", "tcp", 40000, 443, nil),
		pk("eth0", "203.0.113.9", "10.17.0.2", "tcp", 443, 40000, established),
		pk("eth0", "203.0.113.9", "192.0.2.2", "tcp", 443, 40000, established),
		pk("eth0", "203.0.113.9", "192.0.2.2", "tcp", 443, 8443, bad),
		pk("eth0", "192.0.2.9", "192.0.2.2", "tcp", 443, 8443, bad),
		pk("wg_ext0", "203.0.113.9", "10.200.0.2", "tcp", 443, 40000, established),
		pk("wg_ext0", "203.0.113.9", "10.200.0.2", "tcp", 443, 40000, nil),
		pk("wg_ext0", "203.0.113.9", "10.200.0.2", "udp", 443, 51820, nil),
		pk("pic0", "10.17.0.2", "203.0.113.9", "udp", 51820, 9, nil),
		pk("br-mail", "172.20.1.2", "203.0.113.9", "udp", 51820, 9, nil),
		pk("pic0", "10.17.0.2", "203.0.113.9", "tcp", 40000, 443, bad),
		pk("br-mail", "172.20.1.2", "203.0.113.9", "tcp", 40000, 443, bad),
		pk("pic0", "fd02:304:506::3", "fd31:1::2", "tcp", 40000, 993, nil),
		pk("pic0", "fd02:304:506::2", "fd31:2::2", "tcp", 40000, 993, nil),
		pk("pic0", "10.17.0.2", "10.17.0.1", "tcp", 40000, 10800+0x30, nil),
		pk("pic0", "fd02:304:506::2", "fd02:304:506::1", "tcp", 40000, 10800+0x30, nil),
	}
	for _, to := range []string{"172.20.3.2", "172.20.4.2", "10.17.0.2", "10.99.0.5"} {
		out = append(out, pk("eth0", "203.0.113.9", to, "tcp", 443, 40000, established), pk("", "192.0.2.2", to, "tcp", 40000, 443, nil))
	}
	for _, to := range []string{"fd02:304:506::2", "fd99::5"} {
		out = append(out, pk("", "2001:db8:1::2", to, "tcp", 40000, 443, nil))
	}
	for _, in := range []string{"br-mail", "br-chat", "br-web", "br-wiki", "pic0"} { // nobody's
		out = append(out, pk(in, "10.17.0.99", "203.0.113.9", "tcp", 40000, 443, nil), pk(in, "fd02:304:506::99", "2001:db8:99::9", "tcp", 40000, 443, nil),
			pk(in, "198.18.0.9", "203.0.113.9", "tcp", 40000, 443, nil), pk(in, "2001:db8:5555::9", "2001:db8:99::9", "tcp", 40000, 443, nil))
	}
	out = append(out, pk("pic0", "10.99.0.8", "203.0.113.9", "tcp", 40000, 443, nil), pk("pic0", "fd99::8", "2001:db8:99::9", "tcp", 40000, 443, nil),
		pk("br-wiki", "172.20.4.2", "203.0.113.9", "tcp", 40000, 443, nil), pk("br-wiki", "fd31:2::2", "2001:db8:99::9", "tcp", 40000, 443, nil))
	for _, src := range []string{"10.17.0.4", "10.17.0.6", "10.17.0.7"} { // on dialed exits, to the cell's other addresses
		out = append(out, pk("pic0", src, "192.0.2.2", "tcp", 40000, 8443, nil), pk("pic0", src, "192.168.5.1", "tcp", 40000, 8443, nil))
	}
	n := &out
	for _, v := range [][2]string{{"10.17.0.%d", "203.0.113.9"}, {"fd02:304:506::%d", "2001:db8:99::9"}} {
		for peer := 2; peer <= 9; peer++ { // one on every exit, and on none
			src := fmt.Sprintf(v[0], peer)
			for _, protocol := range []string{"tcp", "udp", "icmp"} {
				*n = append(*n, pk("pic0", src, v[1], protocol, 40000, 443, nil), pk("pic0", src, v[1], protocol, 40000, 443, down))
				for _, to := range [][2]string{{"10.17.0.1", "fd02:304:506::1"}, {"10.17.0.2", "fd02:304:506::2"}, {"192.168.5.9", "2001:db8:5::9"}, {"172.20.2.2", "fd31:1::2"}} {
					dst := to[0]
					if peer, v6 := ip(src), ip(v[1]).Is6(); v6 && peer.Is6() {
						dst = to[1]
					}
					*n = append(*n, pk("pic0", src, dst, protocol, 40000, 993, nil), pk("pic0", src, dst, protocol, 40000, 5353, nil))
				}
			}
		}
		for _, bridge := range [][3]string{{"br-web", "172.20.3.2", "fd31:1::2"}, {"br-chat", "172.20.2.2", ""}, {"br-mail", "172.20.1.2", "fd30:1::2"}} {
			src := bridge[1]
			if ip(v[1]).Is6() {
				src = bridge[2]
			}
			if src != "" {
				*n = append(*n, pk(bridge[0], src, v[1], "tcp", 40000, 443, nil), pk(bridge[0], src, v[1], "tcp", 40000, 443, down), pk(bridge[0], src, v[1], "udp", 40000, 443, nil))
			}
		}
		for _, m := range []uint32{0x10, 0x20, 0x30, 0x40, 0x50, 0x60} {
			own := "192.0.2.2"
			if ip(v[1]).Is6() {
				own = "2001:db8:1::2"
			}
			*n = append(*n, pk("", own, v[1], "tcp", 40000, 443, marked(m)))
		}
	}
	for _, own := range []string{"10.200.0.2", "10.201.0.2", "10.202.0.2"} {
		*n = append(*n, pk("", own, "203.0.113.9", "tcp", 40000, 443, nil))
	}
	for _, own := range []string{"fd20::2", "fd22::2"} {
		*n = append(*n, pk("", own, "2001:db8:99::9", "tcp", 40000, 443, nil))
	}
	return out
}

// distinct keeps a few packets of each kind of result and sender.
func distinct(t *testing.T, packets []firewall.Packet) []firewall.Packet {
	p, err := firewall.Compile(household(), facts(cell.ScopeFull))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	return slices.DeleteFunc(packets, func(pk firewall.Packet) bool {
		r := p.Trace(pk)
		k := fmt.Sprint(pk.In, pk.Mark, pk.Dst.Is4(), r.Rule, r.Chain, r.Out, r.Table, r.Mark, r.NAT, r.Pointer)
		seen[k]++
		return seen[k] > 2
	})
}

// behaviour is what of a result the kernel shows: the rule's name is not.
func behaviour(r firewall.Result) firewall.Result {
	r.Rule, r.Chain, r.Pointer, r.Reason, r.Table = "", "", "", "", 0
	return r
}

// shows reports whether some packet fares differently without a part. already
// are parts that are left out of both sides.
func (w *world) shows(packets []firewall.Packet, x part, already []part) bool {
	p, results := w.policy, w.results
	for _, a := range already {
		p = a.without(p)
	}
	q := x.without(p)
	for i, pk := range packets {
		r := results[i]
		if len(already) > 0 {
			r = p.Trace(pk)
		}
		if behaviour(r) != behaviour(q.Trace(pk)) {
			return true
		}
	}
	return false
}

// layers are the parts that no packet misses, because another part stands
// behind them: the pattern of a part's name, those behind it (patterns too),
// and why there are two. Without those behind, some packet misses the part.
var layers = []struct {
	part   string
	behind []string
	why    string
}{
	{`pic from_peer: peer: not granted/\d`, []string{`pic from_peer: peer: no way/0`}, "names and counts what is dropped"},
	{`pic from_service: service: ours/\d`, []string{`pic from_service: service: (no way|private)/\d`}, "names and counts what is dropped"},
	{`pic from_peer: peer: no way/0`, []string{`pic_guard forward: guard: another way/0`, `policy pic forward`, `rule (10|30).*`}, "the guard holds while table pic is replaced, this while the guard is"},
	{`pic_guard forward: guard: another way/0`, []string{`pic from_(peer|service): .*`, `policy pic forward`, `rule (10|30).*`}, "holds while table pic is replaced"},
	{`pic_guard forward: guard: no mark/0`, []string{`pic mark_ours: unknown source/0`, `pic from_(peer|service): .*`, `policy pic forward`, `rule (90|3001)/.*`, `pic_guard prerouting: guard: unknown source/\d`, `pic_guard forward: guard: another way/0`}, "holds while table pic is replaced"},
	{`pic_guard prerouting: guard: unknown source/\d`, []string{`pic mark_ours: unknown source/0`}, "holds while table pic is replaced"},
	{`pic_guard input: guard: unsolicited from an exit/0`, []string{`pic in_exit: exit: closed/0`, `policy pic input`, `pic input: any other interface/0`}, "holds while table pic is replaced"},
	{`pic in_exit: exit: closed/0`, []string{`pic_guard input: guard: unsolicited from an exit/0`}, "the packet table's row; the guard holds while it is replaced"},
	{`pic in_(lan|uplink): (lan|uplink): closed/0`, []string{`policy pic input`}, "counts what the chain's policy drops"},
	{`pic_guard input: relay: not carried/0`, []string{`pic relay_\w+: relay: not carried/0`}, "holds while table pic is replaced, without an answer in IPv4"},
	{`pic_guard input: relay: down/0`, []string{`pic_guard input: relay: not carried/0`}, "TCP is told by a reset instead of an ICMP error"},
	{`pic_acct postrouting: leak/\d`, []string{`rule (10|30).*`, `pic from_peer: peer: no way/0`, `pic_guard forward: guard: another way/0`, `policy pic forward`}, "counts what must not happen: the kill switch's other layers let nothing get here"},
	{`route (1[345]\d) (\S+) kind 2`, []string{`route $1 $2 kind 1`}, "remains when something takes the local route away"},
	{`rule 3001/v(\d) (br-mail|br-wiki|pic0)`, []string{`rule 3000/v$1 $2`}, "nothing but direct ever sees table main"},
	{`rule 3001/v6 br-chat`, []string{`pic mark_ours: unknown source/0`, `pic_guard prerouting: guard: unknown source/\d`, `rule 90/v6 br-chat`}, "the same; it has no IPv6, so only a packet without a mark"},
	{`rule 3001/v(\d) br-chat`, []string{`rule 103[23]/v$1 `}, "the same, for an egress by nl"},
	{`rule 3001/v(\d) br-web`, []string{`rule 109[67]/v$1 `, `pic relay_30: relay tor/\d`}, "the same, for an egress by tor"},
	{`rule 1007/v(\d) `, []string{`rule 3001/v$1 pic0`}, "says it of the mark itself, whatever the interface"},
	{`rule 90/v(\d) (\S+)`, []string{`pic mark_ours: unknown source/0`, `pic_guard prerouting: guard: unknown source/\d`, `rule 3001/v$1 $2`}, "a packet that table pic did not mark, because it was being replaced"},
	{`rule 3000/v\d br-(chat|web)`, nil, "one for each interface of ours: this one's traffic is never direct while its egress is an exit"},
}

// exitTables are the routing tables by the priority of the rule that ends
// their look-up: the table's own unreachable route answers before it, so the
// rule is for the moment in which somebody has flushed the table.
var exitTables = map[string]string{
	"1033": "110", "1065": "120", "1097": "130", "1129": "140", "1161": "150", "1193": "160",
	"2033": "110", "2065": "120", "2193": "160",
}

// behind returns the parts that stand behind one that no packet misses.
func behind(name string, all []part) (found bool, out []part) {
	var patterns []string
	for _, l := range layers {
		re := regexp.MustCompile("^" + l.part + "$")
		if m := re.FindStringSubmatchIndex(name); m != nil {
			found = true
			for _, b := range l.behind {
				patterns = append(patterns, string(re.ExpandString(nil, b, name, m)))
			}
			break
		}
	}
	if m := regexp.MustCompile(`^rule (\d+)/v`).FindStringSubmatch(name); m != nil && exitTables[m[1]] != "" {
		found, patterns = true, []string{"route " + exitTables[m[1]] + " .*", `pic relay_.*: relay .*`}
	}
	for _, x := range all {
		if slices.ContainsFunc(patterns, func(b string) bool { return regexp.MustCompile("^" + b + "$").MatchString(x.name) }) {
			out = append(out, x)
		}
	}
	return found, out
}

// policies are the base chains' drop policies, which can be left out as well.
func policies() []part {
	var out []part
	for _, at := range []string{"input", "forward"} {
		out = append(out, part{"policy pic " + at, func(p firewall.Policy) firewall.Policy {
			p.Main.Chains = slices.Clone(p.Main.Chains)
			for i := range p.Main.Chains {
				if c := &p.Main.Chains[i]; c.Hook != nil && c.Hook.Type == "filter" && c.Hook.At == at {
					h := *c.Hook
					h.Drop = false
					c.Hook = &h
				}
			}
			return p
		}})
	}
	return out
}

// No rule, policy rule or route is there for nothing: without it some packet
// fares differently; or else another one stands behind it by design, and
// without both some packet does. With TestTraceAgreesWithTheKernel this means
// that a rule that is lost turns a test red.
func TestEveryPartOfThePolicyIsMissed(t *testing.T) {
	s, _ := samples()
	packets := append(distinct(t, s), special()...)
	all := worlds(t, packets)
	list := make([][]part, len(all))
	var names []string
	for i, w := range all {
		list[i] = parts(w.policy)
		for _, x := range list[i] {
			names = append(names, x.name)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	missed := func(name string, already func([]part) []part) bool {
		for i := range all {
			j := slices.IndexFunc(list[i], func(x part) bool { return x.name == name })
			if j >= 0 && all[i].shows(packets, list[i][j], already(list[i])) {
				return true
			}
		}
		return false
	}
	layered := 0
	for _, name := range names {
		alone := missed(name, func([]part) []part { return nil })
		found, _ := behind(name, nil)
		switch {
		case alone:
		case !found:
			t.Errorf("no packet misses %q, and nothing is listed behind it", name)
		default:
			layered++
			_, some := behind(name, slices.Concat(slices.Concat(list...), policies()))
			if len(some) > 0 && !missed(name, func(l []part) []part { _, b := behind(name, append(policies(), l...)); return b }) {
				t.Errorf("no packet misses %q even without what is behind it", name)
			}
		}
	}
	t.Logf("%d packets, %d parts, %d of them layered by design", len(packets)*len(all), len(names), layered)
	if len(names) < 200 || layered > len(names)/3 {
		t.Errorf("%d parts, %d layered: the test proves little", len(names), layered)
	}
}
