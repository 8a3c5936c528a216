package firewall

import (
	"net/netip"
	"slices"
	"strconv"

	"github.com/personal-internet-cell/pic/cell"
)

// mainSets are the sets of table inet pic: all that a new peer, grant, port
// forward or move to another exit changes.
func (c *compiler) mainSets() []Set {
	sets := c.interfaceSets()
	sets = append(sets, c.addressSets()...)
	sets = append(sets, c.markSets()...)
	sets = append(sets, c.grantSets()...)
	sets = append(sets, c.portSets()...)
	return append(sets, c.natSets()...)
}

func set(n string, key ...Field) Set { return Set{Name: n, Key: key} }

func (s Set) with(e ...Element) Set { s.Elements = e; return s }

func ifs(names ...string) []Element {
	var out []Element
	for _, n := range names {
		if n != "" {
			out = append(out, Element{Key: []Value{name(n)}})
		}
	}
	return out
}

// ourIfs are the tunnel and the service bridges.
func (c *compiler) ourIfs() []string {
	out := []string{cell.TunnelLink}
	for _, i := range c.bridges {
		out = append(out, c.s.Services[i].Bridge)
	}
	return out
}

// exitIfs are the links of routed exits, enabled or not: what comes in there
// is never trusted.
func (c *compiler) exitIfs() []string {
	var out []string
	for i := range c.s.Exits {
		if l := c.s.Exits[i].LinkName(); l != "" {
			out = append(out, l)
		}
	}
	return out
}

func (c *compiler) interfaceSets() []Set {
	masq := []string{c.uplink}
	for _, g := range c.granted {
		masq = append(masq, g.dev)
	}
	return []Set{
		set("ours_if", InIf).with(ifs(c.ourIfs()...)...),
		set("exit_if", OutIf).with(ifs(c.exitIfs()...)...),
		set("uplink_if", InIf).with(ifs(c.uplink)...),
		set("masq_if", OutIf).with(ifs(masq...)...),
		set("clamp_if", OutIf).with(ifs(append(c.exitIfs(), cell.TunnelLink)...)...),
		c.ingress("forward_from", "from_", false),
		c.ingress("input_from", "in_", !c.full),
	}
}

// ingress maps interfaces to the packet table's chains. An interface that is
// both uplink and LAN counts as the uplink, whose rows know private sources.
func (c *compiler) ingress(n, prefix string, oursOnly bool) Set {
	s := Set{Name: n, Key: []Field{InIf}, Verdicts: true}
	add := func(dev, chain, pointer string) {
		if dev != "" {
			s.Elements = append(s.Elements, Element{Key: []Value{name(dev)}, Chain: prefix + chain, Pointer: pointer})
		}
	}
	add(cell.TunnelLink, "peer", "/network/tunnel")
	for _, i := range c.bridges {
		add(c.s.Services[i].Bridge, "service", at("services", i, "bridge"))
	}
	for i := range c.s.Exits {
		add(c.s.Exits[i].LinkName(), "exit", at("exits", i, ""))
	}
	if oursOnly {
		return s
	}
	add(c.uplink, "uplink", "/network/uplink")
	for i, l := range c.s.Network.LAN {
		add(l.Interface, "lan", at("network/lan", i, "interface"))
	}
	return s
}

func (c *compiler) addressSets() []Set {
	var private []prefixAt
	for _, p := range privatePrefixes {
		private = append(private, prefixAt{netip.MustParsePrefix(p), "", ""})
	}
	for _, p := range c.f.Uplink.Addresses {
		private = append(private, prefixAt{p.Masked(), "", ""})
	}
	for i, l := range c.s.Network.LAN {
		for _, p := range l.Prefixes {
			private = append(private, prefixAt{p, "", at("network/lan", i, "prefixes")})
		}
	}
	out := families("ours", c.ours)
	out = append(out, families("link", c.links)...)
	out = append(out, families("lan", c.granted)...)
	return append(out, families("private", private)...)
}

// privatePrefixes never lead to the internet (RFC 1918, 3927, 4193, 4291, 6598).
var privatePrefixes = []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10", "fc00::/7", "fe80::/10"}

// families makes the interval sets n4 and n6.
func families(n string, ps []prefixAt) []Set {
	return []Set{
		{Name: n + "4", Key: []Field{SAddr4}, Interval: true, Elements: ranges(ps, true)},
		{Name: n + "6", Key: []Field{SAddr6}, Interval: true, Elements: ranges(ps, false)},
	}
}

// markSets say by which exit each source leaves.
func (c *compiler) markSets() []Set {
	m4, m6 := Set{Name: "mark4", Key: []Field{SAddr4}, Data: []Field{Mark}}, Set{Name: "mark6", Key: []Field{SAddr6}, Data: []Field{Mark}}
	m4.Elements, m6.Elements = c.peerMarks()
	s4 := Set{Name: "service_mark4", Key: []Field{InIf, SAddr4}, Data: []Field{Mark}, Interval: true}
	s6 := Set{Name: "service_mark6", Key: []Field{InIf, SAddr6}, Data: []Field{Mark}, Interval: true}
	for _, i := range c.bridges {
		v := &c.s.Services[i]
		add := func(s *Set, p netip.Prefix) {
			if p.IsValid() {
				s.Elements = append(s.Elements, Element{
					Key: []Value{name(v.Bridge), addr(p.Addr())}, Last: lastAddr(p),
					Data: []Value{num(c.s.MarkOf(c.s.Way(v.Egress, &c.f)))}, Pointer: at("services", i, "egress"),
				})
			}
		}
		add(&s4, v.Prefix4)
		add(&s6, v.Prefix6)
	}
	relay := Set{Name: "relay", Key: []Field{Mark}, Verdicts: true}
	for i := range c.s.Exits {
		if e := &c.s.Exits[i]; !e.Routed() && e.Enabled {
			relay.Elements = append(relay.Elements, Element{Key: []Value{num(e.Mark())}, Chain: relayChain(e), Pointer: at("exits", i, "")})
		}
	}
	udp := set("udp_relay", Mark)
	for i := range c.s.Exits {
		if e := &c.s.Exits[i]; !e.Routed() && e.Enabled && c.f.Exits[e.ID].UDP {
			udp.Elements = append(udp.Elements, Element{Key: []Value{num(e.Mark())}, Pointer: at("exits", i, "")})
		}
	}
	return []Set{m4, m6, s4, s6, relay, udp, c.way("way")}
}

// peerMarks are the elements of mark4 and mark6. There may be thousands, so
// they share what they are made of: one list of values, one text of pointers.
func (c *compiler) peerMarks() (v4, v6 []Element) {
	n := len(c.peers)
	v4, v6 = make([]Element, 0, n), make([]Element, 0, n)
	values := make([]Value, 0, 2*n)
	marks := make(map[string][]Value, len(c.s.Exits)+2)
	text, ends := make([]byte, 0, n*len("/peers/00000/exit")), make([]int, 0, n)
	for _, i := range c.peers {
		text = append(strconv.AppendInt(append(text, "/peers/"...), int64(i), 10), "/exit"...)
		ends = append(ends, len(text))
	}
	pointers, begin := string(text), 0
	for k, i := range c.peers {
		p := &c.s.Peers[i]
		exit := p.ExitNow(&c.f)
		mark, ok := marks[exit]
		if !ok {
			mark = []Value{num(c.s.MarkOf(c.s.Way(exit, &c.f)))}
			marks[exit] = mark
		}
		values = append(values, addr(p.Address4), addr(p.Address6))
		v4 = append(v4, Element{Key: values[2*k : 2*k+1 : 2*k+1], Data: mark, Pointer: pointers[begin:ends[k]]})
		v6 = append(v6, Element{Key: values[2*k+1 : 2*k+2 : 2*k+2], Data: mark, Pointer: pointers[begin:ends[k]]})
		begin = ends[k]
	}
	return v4, v6
}

// way pairs each mark with the one interface it may leave by.
func (c *compiler) way(n string) Set {
	s := set(n, Mark, OutIf)
	if c.uplink != "" {
		s.Elements = append(s.Elements, Element{Key: []Value{num(markDirect), name(c.uplink)}, Pointer: "/network/uplink"})
	}
	for i := range c.s.Exits {
		if e := &c.s.Exits[i]; e.Routed() && e.Enabled {
			s.Elements = append(s.Elements, Element{Key: []Value{num(e.Mark()), name(e.LinkName())}, Pointer: at("exits", i, "")})
		}
	}
	return s
}

// pair is a set for each family.
type pair struct{ v4, v6 Set }

func newPair(n string, fs ...Field) pair {
	s4, s6 := Set{Name: n + "4"}, Set{Name: n + "6"}
	for _, f := range fs {
		s4.Key, s6.Key = append(s4.Key, f.of(4)), append(s6.Key, f.of(6))
	}
	return pair{s4, s6}
}

// add puts an element into the set of the address' family; invalid addresses
// belong to a family that is not in use.
func (p *pair) add(a netip.Addr, pointer string, key []Value, data ...Value) {
	s := &p.v6
	if a.Is4() {
		s = &p.v4
	}
	if a.IsValid() {
		s.Elements = append(s.Elements, Element{Key: key, Data: data, Pointer: pointer})
	}
}

// grantSets open what is closed by default: direct ports of services, other
// peers, networks.
func (c *compiler) grantSets() []Set {
	open, ports := newPair("open_port", DAddr, L4Proto, DPort), newPair("service_port", DAddr, L4Proto, DPort)
	grant, peers := newPair("grant", SAddr, DAddr), newPair("peer_peer", SAddr, DAddr)
	for i := range c.s.Services {
		v := &c.s.Services[i]
		to := v.UpstreamAddr().Addr().Unmap()
		if !v.Enabled || len(v.Ports) == 0 || !to.IsValid() || !(v.Prefix4.Contains(to) || v.Prefix6.Contains(to)) {
			continue // a service elsewhere is reached through the proxy only
		}
		all := v.Access == cell.AccessPeers || v.Access == cell.AccessInternet
		for _, p := range v.Ports {
			key := []Value{addr(to), num(protoNumber(p.Protocol)), num(p.Port)}
			if all {
				open.add(to, at("services", i, "access"), key)
			} else {
				ports.add(to, at("services", i, "ports"), key)
			}
		}
		for _, j := range c.peers {
			p := &c.s.Peers[j]
			if from := p.Address4; !all && p.Granted(v) {
				if !to.Is4() {
					from = p.Address6
				}
				grant.add(to, at("peers", j, "services"), []Value{addr(from), addr(to)})
			}
		}
	}
	byName := make(map[string]*cell.Peer, len(c.peers))
	for _, i := range c.peers {
		byName[c.s.Peers[i].Name] = &c.s.Peers[i]
	}
	for _, i := range c.peers {
		p := &c.s.Peers[i]
		for k, n := range p.Peers {
			if q := byName[n]; q != nil {
				ptr := at("peers", i, "peers") + at("", k, "")[1:]
				peers.add(p.Address4, ptr, []Value{addr(p.Address4), addr(q.Address4)})
				peers.add(p.Address6, ptr, []Value{addr(p.Address6), addr(q.Address6)})
			}
		}
	}
	return append([]Set{open.v4, open.v6, ports.v4, ports.v6, grant.v4, grant.v6, peers.v4, peers.v6}, c.lanSets()...)
}

func (c *compiler) lanSets() []Set {
	of4 := Set{Name: "lan_of4", Key: []Field{DAddr4}, Verdicts: true, Interval: true}
	of6 := Set{Name: "lan_of6", Key: []Field{DAddr6}, Verdicts: true, Interval: true}
	var out []Set
	for i, l := range c.s.Network.LAN {
		if !c.lanUsed[l.Name] {
			continue
		}
		id := "lan_" + l.Name
		var ps []prefixAt
		for _, p := range l.Prefixes {
			ps = append(ps, prefixAt{p, "", at("network/lan", i, "")})
		}
		for _, is4 := range []bool{true, false} {
			for _, e := range ranges(ps, is4) {
				e.Chain = id
				if is4 {
					of4.Elements = append(of4.Elements, e)
				} else {
					of6.Elements = append(of6.Elements, e)
				}
			}
		}
		src := pair{set(id+"_4", SAddr4), set(id+"_6", SAddr6)}
		for _, j := range c.peers {
			if p := &c.s.Peers[j]; slices.Contains(p.LAN, l.Name) {
				src.add(p.Address4, at("peers", j, "lan"), []Value{addr(p.Address4)})
				src.add(p.Address6, at("peers", j, "lan"), []Value{addr(p.Address6)})
			}
		}
		out = append(out, src.v4, src.v6)
	}
	return append([]Set{of4, of6}, out...)
}

func protoNumber(p cell.Protocol) uint8 {
	if p == cell.UDP {
		return protoUDP
	}
	return protoTCP
}

// portSets are the ports of the cell itself, by audience (product.md, "Ports").
func (c *compiler) portSets() []Set {
	tcp, udp := num(protoTCP), num(protoUDP)
	port := func(proto Value, p uint16, pointer string) Element {
		return Element{Key: []Value{proto, num(p)}, Pointer: pointer}
	}
	dns := []Element{port(tcp, c.ports.dns, "/dns"), port(udp, c.ports.dns, "/dns")}
	ntp := port(udp, c.ports.ntp, "/clock")
	http, https := port(tcp, c.ports.http, "/identity"), port(tcp, c.ports.https, "/identity")
	wg := c.s.Network.Tunnel.ListenPort

	var peer, service, public []Element
	lan := newPair("lan_port", DAddr, L4Proto, DPort)
	if c.s.Claimed() {
		peer = append(slices.Clone(dns), ntp, http, https)
		service = append(slices.Clone(dns), ntp, https)
		public = append(public, port(udp, wg, "/network/tunnel/listen_port"))
		if c.s.Network.PublicWeb {
			public = append(public, port(tcp, c.ports.https, "/network/public_web"))
		}
		if c.s.Network.PublicWeb || c.s.Identity.Mode == cell.ModeHTTP01 {
			public = append(public, port(tcp, c.ports.http, "/network/public_web"))
		}
		if c.s.DNS.Public {
			public = append(public, dns...)
		}
		for i, l := range c.s.Network.LAN {
			for j, a := range l.Addresses {
				for _, e := range append(slices.Clone(dns), ntp) {
					lan.add(a, at("network/lan", i, "addresses")+at("", j, "")[1:], append([]Value{addr(a)}, e.Key...))
				}
			}
		}
	}
	socks := newPair("socks", SAddr, DPort)
	for _, i := range c.peers {
		p := &c.s.Peers[i]
		for j, id := range p.Socks {
			if e := c.s.Exit(id); e != nil && e.Enabled && e.Socks {
				ptr := at("peers", i, "socks") + at("", j, "")[1:]
				socks.add(p.Address4, ptr, []Value{addr(p.Address4), num(e.SocksPort())})
				socks.add(p.Address6, ptr, []Value{addr(p.Address6), num(e.SocksPort())})
			}
		}
	}
	key := []Field{L4Proto, DPort}
	return []Set{
		{Name: "peer_ports", Key: key, Elements: peer},
		{Name: "service_ports", Key: key, Elements: service},
		{Name: "public_ports", Key: key, Elements: public},
		{Name: "web_ports", Key: key, Elements: []Element{http, https}},
		lan.v4, lan.v6,
		socks.v4, socks.v6,
		set("wireguard_port", SPort).with(Element{Key: []Value{num(wg)}, Pointer: "/network/tunnel/listen_port"}),
		set("transport", L4Proto).with(Element{Key: []Value{tcp}}, Element{Key: []Value{udp}}),
		neighbourSet(),
		set("mld", ICMP6Type).with(Element{Key: []Value{num(130)}}, Element{Key: []Value{num(131)}}, Element{Key: []Value{num(132)}}, Element{Key: []Value{num(143)}}),
	}
}

func neighbourSet() Set {
	return set("nd", ICMP6Type).with(Element{Key: []Value{num(135)}}, Element{Key: []Value{num(136)}})
}

// natSets say where a port leads: redirect for the cell's own ports in the
// tunnel, forward for port forwards, forwarded for the targets' side of those.
func (c *compiler) natSets() []Set {
	redirect := newPair("redirect", DAddr, L4Proto, DPort)
	forward := newPair("forward", L4Proto, DPort)
	forwarded := newPair("forwarded", DAddr, L4Proto, DPort)
	for _, p := range []*pair{&redirect, &forward} {
		p.v4.Data, p.v6.Data = []Field{DAddr4, DPort}, []Field{DAddr6, DPort}
	}
	t := c.s.Network.Tunnel
	for _, gw := range []netip.Addr{t.Gateway4(), t.Gateway6()} {
		for _, r := range []struct {
			proto    uint8
			from, to uint16
		}{
			{protoTCP, 80, c.ports.http},
			{protoTCP, 443, c.ports.https},
			{protoTCP, 53, c.ports.dns},
			{protoUDP, 53, c.ports.dns},
			{protoUDP, 123, c.ports.ntp},
		} {
			if r.from != r.to && c.s.Claimed() {
				redirect.add(gw, "/network/tunnel", []Value{addr(gw), num(r.proto), num(r.from)}, addr(gw), num(r.to))
			}
		}
	}
	for i, f := range c.s.Network.Forwards {
		if !f.Enabled || !c.s.Claimed() {
			continue
		}
		for _, to := range c.forwardTargets(&f) {
			proto, ptr := num(protoNumber(f.Protocol)), at("network/forwards", i, "")
			forward.add(to, ptr, []Value{proto, num(f.Port)}, addr(to), num(f.TargetPort))
			forwarded.add(to, ptr, []Value{addr(to), proto, num(f.TargetPort)})
		}
	}
	return []Set{redirect.v4, redirect.v6, forward.v4, forward.v6, forwarded.v4, forwarded.v6}
}

func (c *compiler) forwardTargets(f *cell.Forward) []netip.Addr {
	if p := c.s.Peer(f.Peer); p != nil && p.Enabled && !c.expired[p.Name] {
		return []netip.Addr{p.Address4, p.Address6}
	}
	if v := c.s.Service(f.Service); v != nil && v.Enabled {
		return []netip.Addr{v.UpstreamAddr().Addr().Unmap()}
	}
	return nil
}
