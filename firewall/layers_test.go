package firewall_test

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/firewall"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// closing are the parts of a policy that keep a packet from where it must not
// go. Without all of them everything that has a mark leaves by the uplink.
var closing = []string{
	`pic_guard prerouting: guard: unknown source/\d`,
	`pic_guard forward: guard: (no mark|exit link to elsewhere|another way)/0`,
	`pic_guard input: (guard: unsolicited from an exit|relay: .*)/\d`,
	`pic_guard output: own: exit (address )?elsewhere/\d`,
	`pic mark_ours: unknown source/0`,
	`pic relay_\w+: relay: not carried/0`,
	`pic prerouting: spoofed source/\d`,
	`pic forward: (by ingress|elsewhere to ours)/0`,
	`pic input: (by ingress|any other interface)/0`,
	`policy pic (input|forward)`,
	`rule (90|[123]\d\d\d)/v.*`,
	`route 1[1-9]\d .*`,
}

// only is the policy with none of the closing parts but the named ones.
func only(p firewall.Policy, keep ...string) firewall.Policy {
	match := func(list []string, name string) bool {
		return slices.ContainsFunc(list, func(e string) bool { return regexp.MustCompile("^" + e + "$").MatchString(name) })
	}
	out := p
	for _, x := range append(parts(p), policies()...) {
		if match(closing, x.name) && !match(keep, x.name) {
			out = x.without(out)
		}
	}
	return out
}

// Each layer that closes a way does so by itself, in both families: with all
// the others gone the packets that it is there for don't pass, and without it
// they do. So a layer that is weakened is noticed although others stand behind
// it. That a trace is what the kernel does is TestTraceAgreesWithTheKernel's.
func TestEachLayerStopsItsPacketsByItself(t *testing.T) {
	s := crowd()
	s.Normalize()
	f := facts(cell.ScopeFull)
	f.Links["wg_ext0"] = cell.LinkFact{Index: 5, Up: true, Addresses: f.Links["wg_ext0"].Addresses}
	whole, err := firewall.Compile(s, f)
	if err != nil {
		t.Fatal(err)
	}
	from := func(in, src4, src6 string, edit ...func(*firewall.Packet)) (out []firewall.Packet) {
		for _, a := range [][2]string{{src4, "203.0.113.9"}, {src6, "2001:db8:99::9"}} {
			pk := firewall.Packet{In: in, Src: ip(a[0]), Dst: ip(a[1]), Protocol: "udp", SrcPort: 40000, DstPort: 443}
			for _, e := range edit {
				e(&pk)
			}
			out = append(out, pk)
		}
		return out
	}
	marked := func(m uint32) func(*firewall.Packet) { return func(p *firewall.Packet) { p.Mark = m } }
	to := func(v4, v6 string) func(*firewall.Packet) {
		return func(p *firewall.Packet) {
			if p.Dst = ip(v4); p.Src.Is6() {
				p.Dst = ip(v6)
			}
		}
	}
	phone := from("pic0", "10.17.0.3", "fd02:304:506::3") // exit nl, mark 0x10
	nobody := from("pic0", "10.17.0.99", "fd02:304:506::99")
	stranger := from("pic0", "203.0.113.7", "2001:db8:77::7")
	own := func(edit ...func(*firewall.Packet)) []firewall.Packet {
		return from("", "192.0.2.2", "2001:db8:1::2", edit...)
	}
	ownOfExit := from("", "10.200.0.2", "fd20::2")
	late := from("wg_ext0", "198.51.100.9", "2001:db8:55::9")
	for _, c := range []struct {
		name    string
		keep    []string
		packets []firewall.Packet
	}{
		{"guard: a source that is nobody's", []string{`pic_guard prerouting: .*`}, stranger},
		{"guard: no mark", []string{`pic_guard forward: guard: no mark/0`}, nobody},
		{"guard: no mark, although the packet came with one", []string{`pic_guard forward: guard: no mark/0`}, from("pic0", "10.17.0.99", "fd02:304:506::99", marked(0x02))},
		{"guard: another way", []string{`pic_guard forward: guard: another way/0`}, phone},
		{"guard: an exit's link to the uplink", []string{`pic_guard forward: guard: exit link to elsewhere/0`}, late},
		{"guard: unsolicited from an exit", []string{`pic_guard input: guard: unsolicited from an exit/0`}, from("wg_ext0", "198.51.100.9", "2001:db8:55::9", to("10.200.0.2", "fd20::2"))},
		{"guard: the cell's own, with an exit's mark", []string{`pic_guard output: own: exit elsewhere/0`}, own(marked(0x10))},
		{"guard: the cell's own, from an exit's address", []string{`pic_guard output: own: exit address elsewhere/\d`}, ownOfExit},
		{"rules: unknown source", []string{`pic mark_ours: unknown source/0`}, nobody},
		{"rules: a peer's address on the LAN", []string{`pic prerouting: spoofed source/\d`}, from("eth1", "10.17.0.2", "fd02:304:506::2")},
		{"rules: a peer's address on the uplink", []string{`pic prerouting: spoofed source/\d`}, from("eth0", "10.17.0.2", "fd02:304:506::2", to("192.0.2.2", "2001:db8:1::2"))},
		{"rules: another way", []string{`pic forward: by ingress/0`}, phone},
		{"rules: the chain's policy", []string{`policy pic forward`}, phone},
		{"rules: the chain's policy for the cell itself", []string{`policy pic input`}, from("eth0", "203.0.113.5", "2001:db8:77::5", to("192.0.2.2", "2001:db8:1::2"))},
		{"policy rules: no mark", []string{`rule 90/v\d pic0`}, nobody},
		{"policy rules: not direct", []string{`rule 3001/v\d pic0`}, phone},
		{"policy rules: an exit's mark and an empty table", []string{`rule 103[23]/v\d `}, phone},
		{"policy rules: an exit's address and an empty table", []string{`rule 203[23]/v\d .*`}, ownOfExit},
		{"exit table: without its link", []string{`rule 1032/v\d `, `route 110 .* kind 2`}, phone},
		{"exit table of a relay: not by the uplink", []string{`rule 1096/v\d `, `route 130 .* kind 1`, `pic_guard input: relay: .*`}, from("pic0", "10.17.0.4", "fd02:304:506::4")},
	} {
		t.Run(c.name, func(t *testing.T) {
			kept, none := only(whole, c.keep...), only(whole)
			for _, pk := range c.packets {
				if r := kept.Trace(pk); r.Passes() {
					t.Errorf("%s %s → %s passes: %+v", pk.In, pk.Src, pk.Dst, r)
				}
				if r := none.Trace(pk); !r.Passes() {
					t.Errorf("%s %s → %s is stopped although nothing is left: %+v", pk.In, pk.Src, pk.Dst, r)
				}
			}
		})
	}
}

// What a dialed exit's relay does not take is refused with an answer, so that
// programs fall back at once, and never by the destination's own voice.
func TestWhatARelayDoesNotTakeIsRefused(t *testing.T) {
	p, err := firewall.Compile(household(), facts(cell.ScopeFull))
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range [][2]string{{"10.17.0.4", "203.0.113.9"}, {"fd02:304:506::4", "2001:db8:99::9"}} {
		for _, protocol := range []string{"tcp", "udp", "icmp"} {
			r := p.Trace(firewall.Packet{In: "pic0", Src: ip(a[0]), Dst: ip(a[1]), Protocol: protocol, SrcPort: 40000, DstPort: 443, RelayDown: true})
			if r.Outcome != firewall.Rejected {
				t.Errorf("%s %s: %+v", protocol, a[0], r)
			}
		}
	}
}

// Where the rules can't be written, here because another program owns a table
// of that name, nothing is forwarded.
func TestWithoutItsRulesNothingIsForwarded(t *testing.T) {
	netnstest.Need(t, "nft")
	t.Parallel()
	for _, table := range []string{"pic_guard", "pic", "pic_acct"} {
		n := netnstest.New(t, "owned")
		c := n.Command("nft", "-i")
		in, err := c.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		r, w := io.Pipe()
		c.Stdout, c.Stderr = w, w
		stop := netnstest.Start(t, c)
		fmt.Fprintf(in, "add table inet %s { flags owner; }\nlist tables\n", table)
		lines := bufio.NewScanner(r)
		for lines.Scan() && !strings.Contains(lines.Text(), "table inet "+table) {
		}
		go func() { _, _ = io.Copy(io.Discard, r) }()
		if _, err := tryApply(n, order{State: household(), Facts: facts(cell.ScopeFull)}); err == nil || !strings.Contains(err.Error(), "table") {
			t.Errorf("%s is another's: %v", table, err)
		}
		for _, path := range []string{"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"} {
			if v := strings.TrimSpace(n.Exec("cat", path)); v != "0" {
				t.Errorf("%s is %s although table %s could not be written", path, v, table)
			}
		}
		_ = in.Close()
		stop()
		_ = w.Close()
		apply(t, n, household(), facts(cell.ScopeFull))
		if v := strings.TrimSpace(n.Exec("cat", "/proc/sys/net/ipv4/ip_forward")); v != "1" {
			t.Errorf("ip_forward is %s when the table is free again", v)
		}
	}
}
