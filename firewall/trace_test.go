package firewall_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/firewall"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// observer records, in the router, which packet left by which interface
// (before its source is translated) and which was let in. TCP and UDP packets
// are told apart by their source port, ICMP by the checksum, which stands
// where a destination port would.
const observer = `table inet watch {
	set out { type inet_proto . inet_service . inet_service . ifname; flags dynamic; size 65535; }
	set in { type inet_proto . inet_service . inet_service . ifname; flags dynamic; size 65535; }
	chain post { type filter hook postrouting priority 99; policy accept;
		add @out { meta l4proto . th sport . th dport . oifname }; }
	chain inp { type filter hook input priority 99; policy accept;
		add @in { meta l4proto . th sport . th dport . iifname }; }
}`

// sender is a source on a side of the router.
type sender struct {
	name   string
	ns     func(*lab) *netnstest.NS
	in     string
	v4, v6 string
	mark   uint32
}

var senders = func() []sender {
	peers := func(l *lab) *netnstest.NS { return l.peers }
	router := func(l *lab) *netnstest.NS { return l.router }
	return []sender{
		{"laptop", peers, "pic0", "10.17.0.2", "fd02:304:506::2", 0},
		{"phone", peers, "pic0", "10.17.0.3", "fd02:304:506::3", 0},
		{"tv", peers, "pic0", "10.17.0.4", "fd02:304:506::4", 0},
		{"tablet", peers, "pic0", "10.17.0.5", "fd02:304:506::5", 0},
		{"unknown peer", peers, "pic0", "10.17.0.99", "fd02:304:506::99", 0},
		{"stranger on the tunnel", peers, "pic0", "203.0.113.7", "2001:db8:77::7", 0},
		{"linked cell", peers, "pic0", "10.99.0.8", "fd99::8", 0},
		{"mail", func(l *lab) *netnstest.NS { return l.mail }, "br-mail", "172.20.1.2", "fd30:1::2", 0},
		{"mail as laptop", func(l *lab) *netnstest.NS { return l.mail }, "br-mail", "10.17.0.2", "fd02:304:506::2", 0},
		{"chat", func(l *lab) *netnstest.NS { return l.chat }, "br-chat", "172.20.2.2", "", 0},
		{"exit", func(l *lab) *netnstest.NS { return l.exit }, "wg_ext0", internet4, internet6, 0},
		{"lan host", func(l *lab) *netnstest.NS { return l.lan }, "eth1", "192.168.5.9", "2001:db8:5::9", 0},
		{"lan host as laptop", func(l *lab) *netnstest.NS { return l.lan }, "eth1", "10.17.0.2", "fd02:304:506::2", 0},
		{"internet", func(l *lab) *netnstest.NS { return l.inet }, "eth0", "203.0.113.5", "2001:db8:77::5", 0},
		{"neighbour", func(l *lab) *netnstest.NS { return l.inet }, "eth0", "192.0.2.9", "2001:db8:1::9", 0},
		{"own", router, "", "192.0.2.2", "2001:db8:1::2", 0},
		{"own by nl", router, "", "10.200.0.2", "fd20::2", 0x10},
		{"own by tor", router, "", "192.0.2.2", "2001:db8:1::2", 0x30},
		{"own from nl's address", router, "", "10.200.0.2", "fd20::2", 0},
	}
}()

var targets = []struct{ name, v4, v6 string }{
	{"gateway", "10.17.0.1", "fd02:304:506::1"},
	{"laptop", "10.17.0.2", "fd02:304:506::2"},
	{"camera", "10.17.0.6", "fd02:304:506::6"},
	{"mail", "172.20.1.2", "fd30:1::2"},
	{"chat", "172.20.2.2", ""},
	{"the cell on the LAN", "192.168.5.1", "2001:db8:5::1"},
	{"lan host", "192.168.5.8", "2001:db8:5::8"},
	{"the cell on the uplink", "192.0.2.2", "2001:db8:1::2"},
	{"neighbour", "192.0.2.1", "2001:db8:1::1"},
	{"internet", "198.51.100.77", "2001:db8:99::77"},
	{"linked cell", "10.99.0.5", "fd99::5"},
}

var probes = []struct {
	protocol string
	port     uint16
}{{"tcp", 443}, {"tcp", 8443}, {"tcp", 993}, {"tcp", 22}, {"udp", 53}, {"udp", 5353}, {"udp", 3478}, {"udp", 7777}, {"udp", 51820}, {"icmp", 0}}

// onLink are targets that an interface's hosts reach without the router.
var onLink = map[string]string{"pic0": "laptop", "eth0": "neighbour", "eth1": "lan host"}

// samples is every sender × target × probe × family that makes sense.
func samples() (packets []firewall.Packet, from []sender) {
	port := uint16(20000)
	for _, s := range senders {
		for _, to := range targets {
			for _, pr := range probes {
				for _, pair := range [][2]string{{s.v4, to.v4}, {s.v6, to.v6}} {
					local := strings.HasPrefix(to.name, "the cell") || to.name == "gateway"
					if pair[0] == "" || pair[1] == "" || pair[0] == pair[1] || (s.in == "" && local) ||
						onLink[s.in] == to.name { // never meets the router
						continue
					}
					port++
					packets = append(packets, firewall.Packet{
						In: s.in, Src: ip(pair[0]), Dst: ip(pair[1]), Protocol: pr.protocol,
						SrcPort: port, DstPort: pr.port, Mark: s.mark,
					})
					from = append(from, s)
				}
			}
		}
	}
	return packets, from
}

// strata are further packets to many addresses of the internet, by the ways
// that a plain product of senders and targets has too few of: to a relay that
// listens, over a relay what it does not carry, and by exits that are up and
// down; each verdict gets its share of the sample.
func strata(port uint16) (packets []firewall.Packet, from []sender) {
	peers := func(l *lab) *netnstest.NS { return l.peers }
	for _, x := range []struct {
		name   string
		v4, v6 string
		hosts  int
		probes []string
		ports  int
	}{
		{"tv", "10.17.0.4", "fd02:304:506::4", 34, []string{"tcp", "udp", "icmp"}, 8},
		{"camera", "10.17.0.6", "fd02:304:506::6", 34, []string{"tcp", "udp"}, 8},
		{"tablet", "10.17.0.5", "fd02:304:506::5", 34, []string{"tcp", "udp"}, 8},
		{"phone", "10.17.0.3", "fd02:304:506::3", 8, []string{"tcp", "udp", "icmp"}, 6},
		{"laptop", "10.17.0.2", "fd02:304:506::2", 8, []string{"tcp", "udp", "icmp"}, 6},
	} {
		s := sender{x.name, peers, "pic0", x.v4, x.v6, 0}
		sent := 0
		for host := range x.hosts {
			for _, pair := range [][2]string{{x.v4, fmt.Sprintf("198.51.100.%d", 100+host)}, {x.v6, fmt.Sprintf("2001:db8:99::%x", 0x100+host)}} {
				for _, protocol := range x.probes {
					n := x.ports
					if protocol == "icmp" {
						n = 1
					}
					for k := range n {
						port++
						src := ip(pair[0])
						if x.name == "tablet" { // shared with others like it: see manyTablets
							src = src.Unmap()
							for range 2 + sent%manyTablets {
								src = src.Next()
							}
							sent++
						}
						packets = append(packets, firewall.Packet{In: s.in, Src: src, Dst: ip(pair[1]), Protocol: protocol, SrcPort: port, DstPort: uint16(80 + 363*k)})
						from = append(from, s)
					}
				}
			}
		}
	}
	return packets, from
}

// Trace must say what the kernel does: of a few thousand packets, at least 15 %
// of them with each verdict, which pass, by which interface, and how those that
// don't are answered.
func TestTraceAgreesWithTheKernel(t *testing.T) {
	for _, scope := range []cell.Scope{cell.ScopeFull, cell.ScopeTunnel} {
		t.Run(string(scope), func(t *testing.T) {
			l := newLab(t)
			s, f := household(), facts(scope)
			l.addTablets(s)
			l.apply(s, f)
			p, err := firewall.Compile(s, f)
			if err != nil {
				t.Fatal(err)
			}
			l.relay("9040")
			l.relay("12300")
			l.router.Sh("nft -f - <<'X'\n" + observer + "\nX")

			packets, from := samples()
			more, by := strata(packets[len(packets)-1].SrcPort)
			packets, from = append(packets, more...), append(from, by...)
			byNS := map[*netnstest.NS][]shot{}
			var order []*netnstest.NS
			for i, pk := range packets {
				n := from[i].ns(l)
				if byNS[n] == nil {
					order = append(order, n)
				}
				byNS[n] = append(byNS[n], shot{pk, uint16(i), pk.In == ""})
			}
			ears := map[*netnstest.NS]*ear{}
			for _, n := range order {
				if n != l.router {
					ears[n] = l.listen(t, n)
				}
				send(t, n, byNS[n]...)
			}
			l.flush(t)
			out, in := observed(l.router, "out"), observed(l.router, "in")
			l.wantAnswers(t, p, packets, from, ears)

			outcomes, wrong := map[firewall.Outcome]int{}, 0
			for i, pk := range packets {
				r := p.Trace(pk)
				outcomes[r.Outcome]++
				want, got := "nowhere", "nowhere"
				switch {
				case r.Passes() && r.Out != "":
					want = r.Out
				case r.Passes():
					want = "the cell"
				}
				id := identity(pk, uint16(i))
				if dev, ok := out[id]; ok && dev != "lo" {
					got = dev
				} else if _, delivered := in[id]; ok || delivered {
					got = "the cell"
				}
				if got != want {
					if wrong++; wrong <= 20 {
						t.Errorf("%s: %s %s → %s:%d: traced to %s (%+v), the kernel sent it to %s", from[i].name, pk.Protocol, pk.Src, pk.Dst, pk.DstPort, want, r, got)
					}
				}
			}
			t.Logf("%d packets, %d wrong: %v", len(packets), wrong, outcomes)
			for _, o := range []firewall.Outcome{firewall.Accepted, firewall.Relayed, firewall.Dropped, firewall.Rejected, firewall.NoRoute} {
				if outcomes[o]*100 < 15*len(packets) {
					t.Errorf("only %d packets were %s: the sample proves little", outcomes[o], o)
				}
			}
		})
	}
}

// identity is what the observer knows a packet by.
func identity(pk firewall.Packet, id uint16) string {
	if pk.Protocol != "icmp" {
		return fmt.Sprintf("%s . %d", pk.Protocol, pk.SrcPort)
	}
	b := wire(pk, id)
	proto, off := "icmp", 20
	if pk.Dst.Is6() {
		proto, off = "ipv6-icmp", 40
	}
	return fmt.Sprintf("%s . %d . %d", proto, int(b[off])<<8, int(b[off+2])<<8|int(b[off+3]))
}

// observed maps identities to interfaces.
func observed(n *netnstest.NS, set string) map[string]string {
	text := n.Exec("nft", "list", "set", "inet", "watch", set)
	out := map[string]string{}
	_, text, _ = strings.Cut(text, "elements = {")
	for e := range strings.SplitSeq(text, ",") {
		f := strings.Split(strings.Trim(e, " \t\n}"), " . ")
		if len(f) != 4 {
			continue
		}
		id := f[0] + " . " + f[1]
		if strings.Contains(f[0], "icmp") {
			id += " . " + f[2]
		}
		out[id] = strings.Trim(f[3], `"`)
	}
	return out
}

// The admin's own flow: what a commit that would cut it off is refused by.
func TestTraceOfTheAdminsFlow(t *testing.T) {
	f := facts(cell.ScopeFull)
	for _, c := range []struct {
		name    string
		edit    func(*cell.State)
		in, src string
		dst     string
		passes  bool
		pointer string
	}{
		{"a peer on the tunnel", nil, "pic0", "10.17.0.2", "10.17.0.1", true, "/identity"},
		{"a disabled peer", func(s *cell.State) { s.Peers[0].Enabled = false }, "pic0", "10.17.0.2", "10.17.0.1", false, ""},
		{"a host on the LAN", nil, "eth1", "192.168.5.9", "192.168.5.1", true, "/identity"},
		{"a neighbour on the uplink", nil, "eth0", "192.0.2.9", "192.0.2.2", true, "/identity"},
		{"the internet", nil, "eth0", "203.0.113.5", "192.0.2.2", false, ""},
		{"the internet with the public web", func(s *cell.State) { s.Network.PublicWeb = true }, "eth0", "203.0.113.5", "192.0.2.2", true, "/network/public_web"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := household()
			if c.edit != nil {
				c.edit(s)
			}
			p, err := firewall.Compile(s, f)
			if err != nil {
				t.Fatal(err)
			}
			r := p.Trace(firewall.AdminFlow(c.in, ip(c.src), ip(c.dst), f))
			if r.Passes() != c.passes || (c.pointer != "" && r.Pointer != c.pointer) || r.Reason == "" {
				t.Fatalf("%+v", r)
			}
		})
	}
}

func TestTraceNamesTheLineThatDecided(t *testing.T) {
	p, err := firewall.Compile(household(), facts(cell.ScopeFull))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		src, dst, protocol string
		port               uint16
		rule, pointer      string
	}{
		{"10.17.0.2", "172.20.1.2", "tcp", 993, "peer: granted service port", "/services/0/ports"},
		{"10.17.0.3", "172.20.1.2", "tcp", 993, "peer: not granted", "/services/0/prefix4"},
		{"10.17.0.2", "10.17.0.3", "udp", 9, "peer: granted peer", "/peers/0/peers/0"},
		{"10.17.0.3", "192.168.5.9", "tcp", 80, "peer: granted LAN", "/peers/1/lan"},
		{"10.17.0.3", "203.0.113.9", "tcp", 80, "peer: internet", "/exits/0"},
		{"10.17.0.5", "203.0.113.9", "tcp", 80, "table 120", "/peers/3/exit"},
	} {
		r := p.Trace(firewall.Packet{In: "pic0", Src: netip.MustParseAddr(c.src), Dst: ip(c.dst), Protocol: c.protocol, SrcPort: 1, DstPort: c.port})
		if r.Rule != c.rule || r.Pointer != c.pointer {
			t.Errorf("%s → %s: %+v", c.src, c.dst, r)
		}
	}
}

// In most homes the LAN is the uplink: the same interface, and grants must
// still tell neighbours from the internet.
func TestLANOnTheUplink(t *testing.T) {
	s := household()
	s.Network.LAN[0] = cell.LAN{Name: "home", Interface: "eth0", Prefixes: []netip.Prefix{pfx("192.0.2.0/24")}, Addresses: []netip.Addr{ip("192.0.2.2")}}
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	p, err := firewall.Compile(s, facts(cell.ScopeFull))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		in, src, dst, protocol string
		port                   uint16
		passes                 bool
		out                    string
	}{
		{"pic0", "10.17.0.3", "192.0.2.9", "tcp", 80, true, "eth0"},  // granted, although its exit is nl
		{"pic0", "10.17.0.2", "192.0.2.9", "tcp", 80, false, "eth0"}, // direct, not granted
		{"pic0", "10.17.0.2", "198.51.100.9", "tcp", 80, true, "eth0"},
		{"pic0", "10.17.0.3", "198.51.100.9", "tcp", 80, true, "wg_ext0"},
		{"eth0", "192.0.2.9", "192.0.2.2", "udp", 5353, true, ""}, // DNS on the LAN address
		{"eth0", "203.0.113.9", "192.0.2.2", "udp", 5353, false, ""},
	} {
		r := p.Trace(firewall.Packet{In: c.in, Src: ip(c.src), Dst: ip(c.dst), Protocol: c.protocol, SrcPort: 4000, DstPort: c.port})
		if r.Passes() != c.passes || r.Out != c.out {
			t.Errorf("%+v: %+v", c, r)
		}
	}
}

// A machine fresh from the box, its uplink not known yet: set up from the
// network it is plugged into, closed to everybody else.
func TestUnclaimedCellIsSetUpFromPrivateSourcesOnly(t *testing.T) {
	f := facts(cell.ScopeFull)
	f.Uplink = cell.Uplink{}
	p, err := firewall.Compile(cell.Factory([16]byte{1, 2, 3, 4, 5, 6}, "tunnel", key(1)), f)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		src, protocol string
		port          uint16
		passes        bool
	}{
		{"192.168.5.9", "tcp", 8443, true},
		{"192.168.5.9", "tcp", 8080, true},
		{"192.168.5.9", "tcp", 22, false},
		{"192.168.5.9", "udp", 51820, false},
		{"192.168.5.9", "udp", 5353, false},
		{"203.0.113.9", "tcp", 8443, false},
	} {
		r := p.Trace(firewall.Packet{In: "eth1", Src: ip(c.src), Dst: ip("192.168.5.1"), Protocol: c.protocol, SrcPort: 4000, DstPort: c.port})
		if r.Passes() != c.passes {
			t.Errorf("%+v: %+v", c, r)
		}
	}
}
