package firewall

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/personal-internet-cell/pic/cell"
)

const markDirect = cell.MarkDirect

// Compile makes the policy for a state and what has been learned. It is pure,
// deterministic, and succeeds for every valid state; s is only read.
func Compile(s *cell.State, f cell.Facts) (Policy, error) {
	c := &compiler{s: s, f: f, uplink: uplink(s, f), full: f.Host.Scope != cell.ScopeTunnel}
	c.learn()
	sets := c.mainSets()
	p := Policy{
		Guard:      c.guard(),
		Main:       c.main(sets),
		Acct:       c.acct(),
		Rules:      c.rules(),
		Routes:     c.routes(),
		Sysctls:    c.sysctls(),
		Forwarding: c.forwarding(),
		World:      c.world(),
	}
	for _, t := range []*Table{&p.Guard, &p.Main, &p.Acct} {
		if err := t.finish(); err != nil {
			return Policy{}, fmt.Errorf("compiling table %s: %w", t.Name, err)
		}
	}
	return p, nil
}

// uplink is the interface to the internet: the process flag, the state, then
// what was learned; "" when nobody knows.
func uplink(s *cell.State, f cell.Facts) string {
	return cmp.Or(f.Host.Uplink, s.Network.Uplink, f.Uplink.Name)
}

// compiler holds what several parts of the policy need.
type compiler struct {
	s      *cell.State
	f      cell.Facts
	uplink string
	full   bool

	peers    []int // indices of the active ones
	expired  map[string]bool
	bridges  []int           // indices of the services with a bridge
	ours     []prefixAt      // tunnel, bridges, links
	links    []prefixAt      // of the linked cells
	granted  []prefixAt      // LAN prefixes that some peer may reach
	lanIndex map[string]int  // by name
	lanUsed  map[string]bool // by name: some peer may reach it
	ports    hostPorts
}

// prefixAt is a prefix, its interface and the line that configures it.
type prefixAt struct {
	prefix  netip.Prefix
	dev     string
	pointer string
}

type hostPorts struct{ http, https, dns, ntp uint16 }

func (c *compiler) learn() {
	h := c.f.Host
	c.ports = hostPorts{cmp.Or(h.HTTPPort, 80), cmp.Or(h.HTTPSPort, 443), cmp.Or(h.DNSPort, 53), cmp.Or(h.NTPPort, 123)}
	c.expired = make(map[string]bool, len(c.f.Expired))
	for _, n := range c.f.Expired {
		c.expired[n] = true
	}
	c.lanIndex, c.lanUsed = map[string]int{}, map[string]bool{}
	for i := range c.s.Network.LAN {
		c.lanIndex[c.s.Network.LAN[i].Name] = i
	}
	if c.s.Claimed() {
		for i := range c.s.Peers {
			p := &c.s.Peers[i]
			if !p.Enabled || c.expired[p.Name] {
				continue
			}
			c.peers = append(c.peers, i)
			for _, n := range p.LAN {
				c.lanUsed[n] = true
			}
		}
	}
	t := c.s.Network.Tunnel
	c.ours = append(c.ours, prefixAt{t.Prefix4, cell.TunnelLink, "/network/tunnel/prefix4"},
		prefixAt{t.Prefix6, cell.TunnelLink, "/network/tunnel/prefix6"})
	for i := range c.s.Services {
		v := &c.s.Services[i]
		if !v.Enabled || v.Bridge == "" {
			continue
		}
		c.bridges = append(c.bridges, i)
		c.ours = append(c.ours, prefixAt{v.Prefix4, v.Bridge, at("services", i, "prefix4")})
		if v.Prefix6.IsValid() {
			c.ours = append(c.ours, prefixAt{v.Prefix6, v.Bridge, at("services", i, "prefix6")})
		}
	}
	for i := range c.s.Links {
		if !c.s.Links[i].Enabled {
			continue
		}
		for j, p := range c.s.Links[i].Prefixes {
			c.links = append(c.links, prefixAt{p, cell.TunnelLink, at("links", i, "prefixes/"+strconv.Itoa(j))})
		}
	}
	c.ours = append(c.ours, c.links...)
	for i, l := range c.s.Network.LAN {
		if !c.lanUsed[l.Name] {
			continue
		}
		for j, p := range l.Prefixes {
			c.granted = append(c.granted, prefixAt{p, l.Interface, at("network/lan", i, "prefixes/"+strconv.Itoa(j))})
		}
	}
}

// at makes a JSON pointer.
func at(list string, i int, field string) string {
	p := "/" + list + "/" + strconv.Itoa(i)
	if field != "" {
		p += "/" + field
	}
	return p
}

// main builds table inet pic: the packet table's chains, and before them the
// marks and the way into a relay, behind them the address translation.
func (c *compiler) main(sets []Set) Table {
	policy := Hook{Type: "filter", Drop: c.full}
	hook := func(at string, prio int) *Hook { h := policy; h.At, h.Priority = at, prio; return &h }
	t := Table{Name: "pic", Sets: sets}
	t.Chains = append(t.Chains,
		Chain{Name: "mark_ours", Rules: c.markRules()},
	)
	t.Chains = append(t.Chains, c.relayChains()...)
	t.Chains = append(t.Chains, c.rowChains(PacketTable())...)
	t.Chains = append(t.Chains, c.lanChains()...)
	t.Chains = append(t.Chains,
		Chain{Name: "prerouting", Hook: &Hook{Type: "filter", At: "prerouting", Priority: -150}, Rules: []Rule{
			{Match: []Match{in("ours_if", InIf)}, Do: Action{Kind: Goto, Chain: "mark_ours"}, Comment: "ours"},
			{Match: []Match{not(InIf, name("lo")), in("ours4", SAddr4)}, Count: true, Do: drop, Comment: "spoofed source"},
			{Match: []Match{not(InIf, name("lo")), in("ours6", SAddr6)}, Count: true, Do: drop, Comment: "spoofed source"},
		}},
		Chain{Name: "nat_in", Hook: &Hook{Type: "nat", At: "prerouting", Priority: -100}, Rules: natIn()},
		Chain{Name: "input", Hook: hook("input", 0), Rules: c.inputRules()},
		Chain{Name: "forward", Hook: hook("forward", 0), Rules: []Rule{
			{Match: []Match{{Fields: []Field{TCPFlags}, Mask: 6, Value: num(2)}, in("clamp_if", OutIf)}, Do: Action{Kind: ClampMSS}, Comment: "segments that fit the tunnel"},
			{Match: []Match{is(CTState, num(ctEstablished|ctRelated))}, Do: accept, Comment: "answers"},
			{Match: []Match{is(InIf, name(cell.TunnelLink)), in("link4", SAddr4)}, Do: Action{Kind: Goto, Chain: "from_link"}, Comment: "link"},
			{Match: []Match{is(InIf, name(cell.TunnelLink)), in("link6", SAddr6)}, Do: Action{Kind: Goto, Chain: "from_link"}, Comment: "link"},
			{Do: Action{Kind: Verdict, Fields: []Field{InIf}, Map: "forward_from"}, Comment: "by ingress"},
			{Match: []Match{in("ours_if", OutIf)}, Count: true, Do: drop, Comment: "elsewhere to ours"},
		}},
		Chain{Name: "nat_out", Hook: &Hook{Type: "nat", At: "postrouting", Priority: 100}, Rules: []Rule{
			{Match: []Match{in("exit_if", OutIf)}, Do: Action{Kind: Masquerade}, Comment: "exit"},
			{Match: []Match{in("ours4", SAddr4), in("masq_if", OutIf)}, Do: Action{Kind: Masquerade}, Comment: "uplink"},
			{Match: []Match{in("ours6", SAddr6), in("masq_if", OutIf)}, Do: Action{Kind: Masquerade}, Comment: "uplink"},
		}},
	)
	return t
}

// markRules give every packet from ours the mark of its source's exit. A
// source that is in no map is not who it says it is, or no longer let in.
func (c *compiler) markRules() []Rule {
	pic := is(InIf, name(cell.TunnelLink))
	mapMark := func(m string, fs ...Field) Action { return Action{Kind: MapMark, Map: m, Fields: fs} }
	return []Rule{
		neighbours(),
		{Do: Action{Kind: SetMark, Mark: 0}, Comment: "no mark from outside"},
		{Match: []Match{pic}, Do: mapMark("mark4", SAddr4), Comment: "peer"},
		{Match: []Match{pic}, Do: mapMark("mark6", SAddr6), Comment: "peer"},
		{Match: []Match{pic, in("link4", SAddr4)}, Do: Action{Kind: SetMark, Mark: markDirect}, Comment: "link"},
		{Match: []Match{pic, in("link6", SAddr6)}, Do: Action{Kind: SetMark, Mark: markDirect}, Comment: "link"},
		{Do: mapMark("service_mark4", InIf, SAddr4), Comment: "service"},
		{Do: mapMark("service_mark6", InIf, SAddr6), Comment: "service"},
		{Match: []Match{{Fields: []Field{Mark}, Mask: cell.MarkMask}}, Count: true, Do: drop, Comment: "unknown source"},
		{Do: Action{Kind: Verdict, Fields: []Field{Mark}, Map: "relay"}, Comment: "dialed exit"},
	}
}

// neighbours lets neighbour discovery through (RFC 4861 §7.1: hop limit 255,
// so that no router can have sent it): bridges don't work without it.
func neighbours() Rule {
	return Rule{Match: []Match{is(HopLimit, num(uint8(255))), in("nd", ICMP6Type)}, Do: accept, Comment: "neighbour discovery"}
}

// relayChains send TCP of a dialed exit to its relay, and UDP where its relay
// takes that, which is learned: one element. What no relay carries is refused
// here, before routing, because behind it IPv4 would be silent: an exit table
// delivers the packet to this machine, Linux then takes its destination for the
// source of the ICMP error, and finds no route from an address that is not its
// own. TCP without a listening relay goes on, to the guard's reset.
func (c *compiler) relayChains() []Chain {
	var out []Chain
	for i := range c.s.Exits {
		e := &c.s.Exits[i]
		if e.Routed() || !e.Enabled {
			continue
		}
		ch := Chain{Name: relayChain(e)}
		for _, m := range []Match{toLocal, in("ours4", DAddr4), in("ours6", DAddr6), in("lan4", DAddr4), in("lan6", DAddr6)} {
			ch.Rules = append(ch.Rules, Rule{Match: []Match{m}, Do: Action{Kind: Return}, Comment: "not for the relay"})
		}
		for _, family := range []uint8{4, 6} {
			do := Action{Kind: Relay, Family: family, Port: e.RelayPort()}
			ch.Rules = append(
				ch.Rules,
				Rule{Match: []Match{is(L4Proto, num(protoTCP))}, Comment: "relay " + e.ID, Do: do, Pointer: at("exits", i, "")},
				Rule{Match: []Match{is(L4Proto, num(protoUDP)), in("udp_relay", Mark)}, Comment: "relay " + e.ID, Do: do, Pointer: at("exits", i, "")},
			)
		}
		ch.Rules = append(ch.Rules, Rule{
			Match: []Match{not(L4Proto, num(protoTCP))}, Count: true, Do: Action{Kind: Reject}, Comment: "relay: not carried",
			Why: string(FromOurs) + " to " + string(ToInternet) + ": ICMP, UDP that the exit does not carry, and all else through a dialed exit", Pointer: at("exits", i, ""),
		})
		out = append(out, ch)
	}
	return out
}

func relayChain(e *cell.Exit) string { return fmt.Sprintf("relay_%02x", e.Mark()) }

// natIn redirects the well-known ports of the cell's tunnel addresses to where
// the process listens, and port forwards to their targets.
func natIn() []Rule {
	ports := in("transport", L4Proto)
	dnat := func(family uint8, m string, fs ...Field) Action {
		return Action{Kind: DNAT, Family: family, Map: m, Fields: fs}
	}
	return []Rule{
		{Match: []Match{in("ours_if", InIf), ports}, Do: dnat(4, "redirect4", DAddr4, L4Proto, DPort), Comment: "listening port"},
		{Match: []Match{in("ours_if", InIf), ports}, Do: dnat(6, "redirect6", DAddr6, L4Proto, DPort), Comment: "listening port"},
		{Match: []Match{in("uplink_if", InIf), toLocal, ports}, Do: dnat(4, "forward4", L4Proto, DPort), Comment: "port forward"},
		{Match: []Match{in("uplink_if", InIf), toLocal, ports}, Do: dnat(6, "forward6", L4Proto, DPort), Comment: "port forward"},
	}
}

func (c *compiler) inputRules() []Rule {
	link := func(set string, f Field) Rule {
		return Rule{Match: []Match{is(InIf, name(cell.TunnelLink)), in(set, f)}, Do: Action{Kind: Goto, Chain: "in_link"}, Comment: "link"}
	}
	rules := []Rule{
		{Match: []Match{is(InIf, name("lo"))}, Do: accept, Comment: "itself"},
		{Match: []Match{is(CTState, num(ctEstablished|ctRelated))}, Do: accept, Comment: "answers"},
		neighbours(),
	}
	if c.full {
		rules = append(rules,
			// Only the uplink may tell the cell its routes.
			Rule{Match: []Match{in("uplink_if", InIf), is(HopLimit, num(uint8(255))), is(ICMP6Type, num(134))}, Do: accept, Comment: "router advertisement"},
			// RFC 4890 §4.4.1: without these a switch that snoops forgets the cell.
			Rule{Match: []Match{in("private6", SAddr6), in("mld", ICMP6Type)}, Do: accept, Comment: "multicast listener discovery"},
			Rule{Match: invalid, Count: true, Do: drop, Comment: "invalid"})
	}
	rules = append(rules, link("link4", SAddr4), link("link6", SAddr6),
		Rule{Do: Action{Kind: Verdict, Fields: []Field{InIf}, Map: "input_from"}, Comment: "by ingress"})
	if c.full {
		// A machine that has not learned its uplink must still be set up from
		// the network it is plugged into.
		rules = append(rules, Rule{Do: Action{Kind: Goto, Chain: "in_uplink"}, Comment: "any other interface"})
	}
	return rules
}

// lanChains hold the peers granted each LAN, so that a grant is one element.
func (c *compiler) lanChains() []Chain {
	var out []Chain
	for i, l := range c.s.Network.LAN {
		if !c.lanUsed[l.Name] {
			continue
		}
		id := "lan_" + l.Name
		out = append(out, Chain{Name: id, Rules: []Rule{
			{Match: []Match{in(id+"_4", SAddr4)}, Do: accept, Comment: "peer: granted LAN", Pointer: at("network/lan", i, "")},
			{Match: []Match{in(id+"_6", SAddr6)}, Do: accept, Comment: "peer: granted LAN", Pointer: at("network/lan", i, "")},
			{Count: true, Do: drop, Comment: "peer: LAN not granted", Pointer: at("network/lan", i, "")},
		}})
	}
	return out
}

// rowChains makes the chains of the packet table, rows in their order.
func (c *compiler) rowChains(rows []Row) []Chain {
	var out []Chain
	for i := range rows {
		r := &rows[i]
		if r.guarded() || (r.Full && !c.full) {
			continue
		}
		n := slices.IndexFunc(out, func(ch Chain) bool { return ch.Name == r.chain() })
		if n < 0 {
			out, n = append(out, Chain{Name: r.chain()}), len(out)
		}
		out[n].Rules = append(out[n].Rules, r.rules()...)
	}
	return out
}

// rules of a row: one, or one for each family where it compares addresses.
func (r *Row) rules() []Rule {
	rule := Rule{Match: r.Match, Do: r.Do, Comment: r.ID, Why: string(r.From) + " to " + string(r.To) + ": " + r.What, Count: r.Do.Kind == Drop || r.Do.Kind == Reject || r.Do.Kind == RejectTCP}
	generic := slices.ContainsFunc(r.Do.Fields, Field.generic)
	for _, m := range r.Match {
		generic = generic || slices.ContainsFunc(m.Fields, Field.generic)
	}
	if !generic {
		return []Rule{rule}
	}
	return []Rule{rule.of(4), rule.of(6)}
}

// of resolves the generic fields and sets of a rule for a family.
func (r Rule) of(family uint8) Rule {
	resolve := func(fs []Field) (out []Field, suffix string) {
		for _, f := range fs {
			if f.generic() {
				suffix = strconv.Itoa(int(family))
			}
			out = append(out, f.of(family))
		}
		return out, suffix
	}
	m := make([]Match, len(r.Match))
	for i, x := range r.Match {
		var suffix string
		if x.Fields[0] == Echo {
			x.Value = num(map[uint8]uint8{4: 8, 6: 128}[family])
		}
		if x.Fields, suffix = resolve(x.Fields); x.Set != "" {
			x.Set += suffix
		}
		m[i] = x
	}
	var suffix string
	r.Match = m
	if r.Do.Fields, suffix = resolve(r.Do.Fields); r.Do.Map != "" {
		r.Do.Map += suffix
	}
	return r
}
