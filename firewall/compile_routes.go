package firewall

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/personal-internet-cell/pic/cell"
)

const (
	tableMain = 254 // RT_TABLE_MAIN

	// Priorities of the policy rules, all between local (0) and main (32766)
	// and ahead of those that other VPN programs use (5210 and up).
	prioNoMark = 90   // from ours without a mark: never
	prioCell   = 100  // prefixes of ours, whatever the mark
	prioExit   = 1000 // + 2·mark: look up the exit's table; + 1: nothing else
	prioSource = 2000 // + 2·mark: the same by the exit's own address
	prioDirect = 3000 // from ours and direct: main; + 1: from ours, nothing else

	metricLink = 100
)

// rules are the policy rules of both families: layers 0, 1, 2 and 4 of the
// kill switch. Only packets marked direct ever see table main.
func (c *compiler) rules() []RoutingRule {
	var out []RoutingRule
	for _, family := range []uint8{4, 6} {
		add := func(r RoutingRule) { r.Family = family; out = append(out, r) }
		add(RoutingRule{Priority: prioCell, Table: cell.TableCell})
		for _, dev := range c.ourIfs() {
			add(RoutingRule{Priority: prioNoMark, InIf: dev, Mask: cell.MarkMask, Action: Prohibit})
			add(RoutingRule{Priority: prioDirect, InIf: dev, Mark: markDirect, Mask: cell.MarkMask, Table: tableMain})
			add(RoutingRule{Priority: prioDirect + 1, InIf: dev, Action: Prohibit})
		}
		add(RoutingRule{Priority: prioExit + 2*cell.MarkBlock + 1, Mark: cell.MarkBlock, Mask: cell.MarkMask, Action: Prohibit})
		for i := range c.s.Exits {
			e := &c.s.Exits[i]
			prio := prioExit + 2*e.Mark()
			add(RoutingRule{Priority: prio, Mark: e.Mark(), Mask: cell.MarkMask, Table: uint32(e.Table())})
			add(RoutingRule{Priority: prio + 1, Mark: e.Mark(), Mask: cell.MarkMask, Action: Prohibit})
			prio = prioSource + 2*e.Mark()
			for _, a := range c.exitAddrs(e) {
				if a.Is4() == (family == 4) {
					add(RoutingRule{Priority: prio, From: a, Table: uint32(e.Table())})
					add(RoutingRule{Priority: prio + 1, From: a, Action: Prohibit})
				}
			}
		}
	}
	slices.SortFunc(out, compareRules)
	return slices.Compact(out)
}

func compareRules(a, b RoutingRule) int {
	return cmp.Or(cmp.Compare(a.Family, b.Family), cmp.Compare(a.Priority, b.Priority), strings.Compare(a.InIf, b.InIf),
		a.From.Compare(b.From), cmp.Compare(a.Mark, b.Mark), cmp.Compare(a.Mask, b.Mask), cmp.Compare(a.Action, b.Action), cmp.Compare(a.Table, b.Table))
}

var (
	all4 = netip.MustParsePrefix("0.0.0.0/0")
	all6 = netip.MustParsePrefix("::/0")
)

// routes fill table 100 and every exit table. Each prefix is doubled by an
// unreachable route of the worst metric, so that a link that goes away leaves
// an answer behind and not a look-up in the next table. Routes by links that
// are not there are part of the plan: Apply passes over them and adds them when
// the link has come, so that nothing waits for the facts to be learned anew.
func (c *compiler) routes() []Route {
	var out []Route
	via := func(table uint32, p netip.Prefix, dev string) {
		out = append(out, Route{Table: table, Prefix: p, Dev: dev, Metric: metricLink})
	}
	for _, p := range slices.Concat(c.ours, c.granted) {
		via(cell.TableCell, p.prefix, p.dev)
		out = append(out, Route{Table: cell.TableCell, Prefix: p.prefix, Kind: Unreachable, Metric: WorstMetric})
	}
	for i := range c.s.Exits {
		e := &c.s.Exits[i]
		table := uint32(e.Table())
		addrs := c.exitAddrs(e)
		for _, all := range []netip.Prefix{all4, all6} {
			switch {
			case !e.Routed():
				out = append(out, Route{Table: table, Prefix: all, Kind: Local, Dev: "lo", Metric: metricLink})
			case e.WireGuard != nil && !e.WireGuard.Carries(all.Addr().Is6()):
			case e.Enabled && slices.ContainsFunc(addrs, func(a netip.Addr) bool { return a.Is4() == all.Addr().Is4() }):
				via(table, all, e.LinkName())
			}
			out = append(out, Route{Table: table, Prefix: all, Kind: Unreachable, Metric: WorstMetric})
		}
	}
	slices.SortFunc(out, compareRoutes)
	return slices.Compact(out)
}

func compareRoutes(a, b Route) int {
	return cmp.Or(cmp.Compare(a.Table, b.Table), a.Prefix.Compare(b.Prefix), cmp.Compare(a.Metric, b.Metric),
		cmp.Compare(a.Kind, b.Kind), strings.Compare(a.Dev, b.Dev))
}

// sysctls make the interfaces behave as the rules assume: no reverse-path
// filter (it would kill answers through exits), no answers for addresses of
// another interface, no routes from router advertisements or redirects.
func (c *compiler) sysctls() []Sysctl {
	var out []Sysctl
	set := func(family, dev, key, value string) {
		out = append(out, Sysctl{Path: [5]string{"net", family, "conf", dev, key}, Value: value, Optional: true})
	}
	if c.full {
		// The kernel takes the stricter of "all" and the interface's own.
		set("ipv4", "all", "rp_filter", "0")
	}
	for _, dev := range slices.Concat(c.ourIfs(), c.exitIfs()) {
		set("ipv4", dev, "rp_filter", "0")
		set("ipv4", dev, "arp_ignore", "1")
		set("ipv4", dev, "accept_redirects", "0")
		set("ipv4", dev, "send_redirects", "0")
		set("ipv6", dev, "accept_ra", "0")
		set("ipv6", dev, "accept_redirects", "0")
	}
	if c.uplink != "" && c.s.Claimed() {
		// A host that forwards ignores router advertisements unless told
		// otherwise (accept_ra 2): without this the uplink loses IPv6.
		out = append(out, Sysctl{Path: [5]string{"net", "ipv6", "conf", c.uplink, "accept_ra"}, Value: "2", OnlyIf: "1", Optional: true})
	}
	return out
}

// forwarding is wanted once the cell has an owner.
func (c *compiler) forwarding() []Sysctl {
	if !c.s.Claimed() {
		return nil
	}
	return []Sysctl{
		{Path: [5]string{"net", "ipv4", "ip_forward"}, Value: "1"},
		{Path: [5]string{"net", "ipv6", "conf", "all", "forwarding"}, Value: "1", Optional: true},
	}
}

// world is what is known of the machine: its addresses, and the connected and
// default routes of table main.
func (c *compiler) world() World {
	t := c.s.Network.Tunnel
	local := append(c.f.LocalAddresses(), t.Gateway4(), t.Gateway6(), netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1"))
	w := World{}
	for _, a := range local {
		if a = a.Unmap().WithZone(""); a.IsValid() {
			w.Local = append(w.Local, a)
		}
	}
	slices.SortFunc(w.Local, netip.Addr.Compare)
	w.Local = slices.Compact(w.Local)
	if c.f.Links != nil {
		w.Links = slices.Sorted(maps.Keys(c.f.Links))
	}
	for dev, l := range c.f.Links {
		for _, p := range l.Addresses {
			w.Main = append(w.Main, Route{Table: tableMain, Prefix: p.Masked(), Dev: dev})
		}
	}
	if u := c.f.Uplink; c.uplink != "" {
		unknown := !u.Gateway4.IsValid() && !u.Gateway6.IsValid()
		if u.Gateway4.IsValid() || unknown {
			w.Main = append(w.Main, Route{Table: tableMain, Prefix: all4, Dev: c.uplink})
		}
		if u.Gateway6.IsValid() || unknown {
			w.Main = append(w.Main, Route{Table: tableMain, Prefix: all6, Dev: c.uplink})
		}
	}
	slices.SortFunc(w.Main, compareRoutes)
	w.Main = slices.Compact(w.Main)
	return w
}
