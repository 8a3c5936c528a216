package firewall

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/personal-internet-cell/pic/cell"
)

// guard builds table inet pic_guard: what must hold even while table inet pic
// is being replaced, which is not atomic for packets in flight. Its structure
// never depends on the state, so in practice only its elements change.
func (c *compiler) guard() Table {
	ours, exit := in("ours_if", InIf), in("exit_if", InIf)
	t := Table{Name: "pic_guard", Sets: c.guardSets()}
	t.Chains = []Chain{
		// Before routing: an error sent back to a made-up source would leave by
		// the uplink, with a piece of the packet in it.
		{Name: "prerouting", Hook: &Hook{Type: "filter", At: "prerouting", Priority: -160}, Rules: []Rule{
			neighbours(),
			{Match: []Match{ours, notIn("ours4", SAddr4)}, Count: true, Do: drop, Comment: "guard: unknown source"},
			{Match: []Match{ours, notIn("ours6", SAddr6)}, Count: true, Do: drop, Comment: "guard: unknown source"},
		}},
		{Name: "forward", Hook: &Hook{Type: "filter", At: "forward", Priority: -10}, Rules: []Rule{
			{Match: []Match{ours, {Fields: []Field{Mark}, Mask: cell.MarkMask}}, Count: true, Do: drop, Comment: "guard: no mark"},
			{Match: []Match{exit, notIn("ours_if", OutIf)}, Count: true, Do: drop, Comment: "guard: exit link to elsewhere"},
			{Match: []Match{in("ours_if", OutIf)}, Do: accept, Comment: "guard: to ours"},
			{Match: []Match{in("way", Mark, OutIf)}, Do: accept, Comment: "guard: its own way"},
			{Match: []Match{ours, in("lan4", DAddr4)}, Do: accept, Comment: "guard: granted LAN"},
			{Match: []Match{ours, in("lan6", DAddr6)}, Do: accept, Comment: "guard: granted LAN"},
			{Match: []Match{ours}, Count: true, Do: drop, Comment: "guard: another way"},
		}},
		{Name: "input", Hook: &Hook{Type: "filter", At: "input", Priority: -10}, Rules: slices.Concat(
			[]Rule{neighbours()}, rowRules(relayRows()), []Rule{
				{Match: []Match{exit, is(CTState, num(ctEstablished|ctRelated))}, Do: accept, Comment: "guard: answers"},
				{Match: []Match{exit}, Count: true, Do: drop, Comment: "guard: unsolicited from an exit"},
			})},
		{Name: "output", Hook: &Hook{Type: "filter", At: "output", Priority: -10}, Rules: rowRules(ownRows())},
	}
	return t
}

// rowRules are the rules of rows, those apart that only say what the chain's
// policy does.
func rowRules(rows []Row) []Rule {
	var out []Rule
	for i := range rows {
		if len(rows[i].Match) > 0 {
			out = append(out, rows[i].rules()...)
		}
	}
	return out
}

func (c *compiler) guardSets() []Set {
	marks := set("exit_mark", Mark)
	address, source := newPair("exit_address", SAddr), newPair("exit_source", SAddr, OutIf)
	for i := range c.s.Exits {
		e := &c.s.Exits[i]
		marks.Elements = append(marks.Elements, Element{Key: []Value{num(e.Mark())}, Pointer: at("exits", i, "")})
		for _, a := range c.exitAddrs(e) {
			address.add(a, at("exits", i, ""), []Value{addr(a)})
			source.add(a, at("exits", i, ""), []Value{addr(a), name(e.LinkName())})
		}
	}
	out := []Set{
		set("ours_if", InIf).with(ifs(c.ourIfs()...)...),
		set("inside_if", OutIf).with(ifs(append(c.ourIfs(), "lo")...)...),
		set("exit_if", InIf).with(ifs(c.exitIfs()...)...),
		c.way("way"), marks, address.v4, address.v6, source.v4, source.v6, neighbourSet(),
	}
	return append(append(out, families("ours", c.ours)...), families("lan", c.granted)...)
}

// exitAddrs are a routed exit's own addresses: configured, else those a server
// gave us, which are known longer than its link has them, else the link's.
// Link-local ones are of no use beyond the link.
func (c *compiler) exitAddrs(e *cell.Exit) []netip.Addr {
	if !e.Routed() {
		return nil
	}
	var out []netip.Addr
	learned := c.f.Exits[e.ID]
	for _, a := range []netip.Addr{cmp.Or(e.Address4, learned.Address4), cmp.Or(e.Address6, learned.Address6)} {
		if a.IsValid() {
			out = append(out, a)
		}
	}
	if len(out) > 0 {
		return out
	}
	for _, p := range c.f.Links[e.LinkName()].Addresses {
		if a := p.Addr().Unmap(); a.IsValid() && !a.IsLinkLocalUnicast() && len(out) < 16 {
			out = append(out, a.WithZone(""))
		}
	}
	return out
}

// acct builds table inet pic_acct: what left by each mark's own way, and what
// left by the uplink with an exit's mark, which must stay zero.
func (c *compiler) acct() Table {
	forwarded := c.way("forwarded")
	leak := set("leak", Mark, OutIf)
	forwarded.Counted, leak.Counted = true, true
	for i := range c.s.Exits {
		if c.uplink != "" {
			leak.Elements = append(leak.Elements, Element{Key: []Value{num(c.s.Exits[i].Mark()), name(c.uplink)}, Pointer: at("exits", i, "")})
		}
	}
	return Table{
		Name: "pic_acct",
		Sets: append([]Set{forwarded, leak}, families("lan", c.granted)...),
		Chains: []Chain{{Name: "postrouting", Hook: &Hook{Type: "filter", At: "postrouting", Priority: 300}, Rules: []Rule{
			{Match: []Match{in("forwarded", Mark, OutIf)}, Comment: "forwarded"},
			{Match: []Match{notIn("lan4", DAddr4), in("leak", Mark, OutIf)}, Comment: "leak"},
			{Match: []Match{notIn("lan6", DAddr6), in("leak", Mark, OutIf)}, Comment: "leak"},
		}}},
	}
}
