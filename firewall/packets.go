package firewall

import "slices"

// Ingress is where a packet comes from.
type Ingress string

// Destination is where it wants to go.
type Destination string

const (
	FromOurs    Ingress = "peer or service bridge"
	FromPeer    Ingress = "peer"
	FromService Ingress = "service bridge"
	FromLink    Ingress = "link"
	FromExit    Ingress = "exit link"
	FromLAN     Ingress = "LAN"
	FromUplink  Ingress = "uplink"
	FromOwn     Ingress = "own output"

	ToCell     Destination = "the cell"
	ToOurs     Destination = "prefix of ours"
	ToLAN      Destination = "LAN"
	ToInternet Destination = "internet"
	ToAny      Destination = "anything else"
)

// Row is one line of the packet table: who may go where, and how. The filter
// chains are made of the rows in their order, the first that matches decides;
// Trace names the row; docs/packet-table.md is rendered from them.
type Row struct {
	ID   string // the comment of its rules
	From Ingress
	To   Destination
	What string // which packets, in words
	// Match and Do are the rule. Generic fields make one rule for each family,
	// with sets named after it (ours → ours4, ours6).
	Match []Match
	Do    Action
	// Mark, Table, NAT and Counter are for the reader: what the packet carries
	// and meets on its way.
	Mark, Table, NAT, Counter string
	// Full rows exist only where the whole box belongs to the cell.
	Full bool
}

// guarded reports whether the row's rules live in the guard table.
func (r *Row) guarded() bool { return r.From == FromOwn || r.From == FromOurs }

// chain is where a row's rules live.
func (r *Row) chain() string {
	switch r.From {
	case FromOwn:
		return "output"
	case FromOurs:
		return "input"
	}
	c := map[Ingress]string{FromPeer: "peer", FromService: "service", FromLink: "link", FromExit: "exit", FromLAN: "lan", FromUplink: "uplink"}[r.From]
	if r.To == ToCell {
		return "in_" + c
	}
	return "from_" + c
}

func in(set string, fs ...Field) Match    { return Match{Fields: fs, Set: set} }
func notIn(set string, fs ...Field) Match { return Match{Fields: fs, Set: set, Not: true} }
func is(f Field, v Value) Match           { return Match{Fields: []Field{f}, Value: v} }
func not(f Field, v Value) Match          { return Match{Fields: []Field{f}, Value: v, Not: true} }

var (
	accept  = Action{Kind: Accept}
	drop    = Action{Kind: Drop}
	invalid = []Match{is(CTState, num(ctInvalid))}
	echo    = is(Echo, Value{})
	toLocal = is(DAddrType, num(addrLocal))
)

// PacketTable returns the packet table, in the order the rules have.
func PacketTable() []Row {
	return slices.Concat(peerRows(), serviceRows(), relayRows(), outsideRows(), ownRows())
}

const (
	asItsExit = "its exit's, or direct"
	byMark    = "the mark's"
	cellTable = "100"
)

func peerRows() []Row {
	return []Row{
		{
			ID: "peer: invalid", From: FromPeer, To: ToAny, What: "no connection it could belong to", Match: invalid, Do: drop,
			Mark: asItsExit, Counter: "rule",
		},
		{
			ID: "peer: port shadow", From: FromPeer, To: ToAny, What: "UDP from the WireGuard port: masqueraded, it would take that port from the cell",
			Match: []Match{is(L4Proto, num(protoUDP)), in("wireguard_port", SPort)}, Do: drop, Mark: asItsExit, Counter: "rule",
		},
		{
			ID: "peer: open service port", From: FromPeer, To: ToOurs, What: "port of a service that every peer may use",
			Match: []Match{in("open_port", DAddr, L4Proto, DPort)}, Do: accept, Mark: asItsExit, Table: cellTable,
		},
		{
			ID: "peer: granted service port", From: FromPeer, To: ToOurs, What: "port of a service granted to the peer",
			Match: []Match{in("grant", SAddr, DAddr), in("service_port", DAddr, L4Proto, DPort)}, Do: accept, Mark: asItsExit, Table: cellTable,
		},
		{
			ID: "peer: granted peer", From: FromPeer, To: ToOurs, What: "a peer granted to the peer",
			Match: []Match{in("peer_peer", SAddr, DAddr)}, Do: accept, Mark: asItsExit, Table: cellTable,
		},
		{
			ID: "peer: not granted", From: FromPeer, To: ToOurs, What: "all else", Match: []Match{in("ours", DAddr)}, Do: drop,
			Mark: asItsExit, Table: cellTable, Counter: "rule",
		},
		{
			ID: "peer: LAN", From: FromPeer, To: ToLAN, What: "a configured network: accepted when granted, else dropped",
			Match: []Match{}, Do: Action{Kind: Verdict, Fields: []Field{DAddr}, Map: "lan_of"}, Mark: asItsExit, Table: cellTable,
			NAT: "masquerade on the network's interface",
		},
		{
			ID: "peer: private", From: FromPeer, To: ToLAN, What: "direct to a private or on-link address nobody granted",
			Match: []Match{is(Mark, num(markDirect)), in("private", DAddr)}, Do: drop, Mark: "0x02", Table: "main", Counter: "rule",
		},
		{
			ID: "peer: internet", From: FromPeer, To: ToInternet, What: "by its mark's own interface: the uplink or the exit's link",
			Match: []Match{in("way", Mark, OutIf)}, Do: accept, Mark: asItsExit, Table: byMark,
			NAT: "masquerade on the uplink or exit link", Counter: "forwarded",
		},
		{ID: "peer: no way", From: FromPeer, To: ToAny, What: "all else", Do: drop, Mark: asItsExit, Table: byMark, Counter: "rule, leak"},

		{
			ID: "peer: relayed", From: FromPeer, To: ToCell, What: "TCP, and UDP where the exit carries it, to the internet through a dialed exit: its relay's socket",
			Match: []Match{not(DAddrType, num(addrLocal)), is(Transparent, num(uint8(1)))}, Do: accept, Mark: "0x30 to 0x59", Table: "130 to 159", NAT: "tproxy",
		},
		{
			ID: "peer: cell", From: FromPeer, To: ToCell, What: "DNS, NTP, HTTP, HTTPS",
			Match: []Match{toLocal, in("peer_ports", L4Proto, DPort)}, Do: accept, Mark: asItsExit, Table: "local", NAT: "to the listening port where it differs",
		},
		{
			ID: "peer: SOCKS server", From: FromPeer, To: ToCell, What: "the SOCKS server of an exit that is granted to the peer",
			Match: []Match{toLocal, is(L4Proto, num(protoTCP)), in("socks", SAddr, DPort)}, Do: accept, Mark: asItsExit, Table: "local",
		},
		{ID: "peer: echo", From: FromPeer, To: ToCell, What: "ICMP echo", Match: []Match{echo, toLocal}, Do: accept, Mark: asItsExit, Table: "local"},
		{ID: "peer: closed", From: FromPeer, To: ToCell, What: "all else", Do: drop, Mark: asItsExit, Table: "local", Counter: "rule"},
	}
}

func serviceRows() []Row {
	return []Row{
		{ID: "service: invalid", From: FromService, To: ToAny, What: "no connection it could belong to", Match: invalid, Do: drop, Mark: asItsExit, Counter: "rule"},
		{
			ID: "service: port shadow", From: FromService, To: ToAny, What: "UDP from the WireGuard port",
			Match: []Match{is(L4Proto, num(protoUDP)), in("wireguard_port", SPort)}, Do: drop, Mark: asItsExit, Counter: "rule",
		},
		{
			ID: "service: ours", From: FromService, To: ToOurs, What: "peers, links and other services", Match: []Match{in("ours", DAddr)}, Do: drop,
			Mark: asItsExit, Table: cellTable, Counter: "rule",
		},
		{
			ID: "service: private", From: FromService, To: ToLAN, What: "direct to a private or on-link address",
			Match: []Match{is(Mark, num(markDirect)), in("private", DAddr)}, Do: drop, Mark: "0x02", Table: "main", Counter: "rule",
		},
		{
			ID: "service: internet", From: FromService, To: ToInternet, What: "by its egress' own interface",
			Match: []Match{in("way", Mark, OutIf)}, Do: accept, Mark: asItsExit, Table: byMark,
			NAT: "masquerade on the uplink or exit link", Counter: "forwarded",
		},
		{ID: "service: no way", From: FromService, To: ToAny, What: "all else", Do: drop, Mark: asItsExit, Table: byMark, Counter: "rule, leak"},

		{
			ID: "service: relayed", From: FromService, To: ToCell, What: "TCP, and UDP where the exit carries it, to the internet through a dialed exit: its relay's socket",
			Match: []Match{not(DAddrType, num(addrLocal)), is(Transparent, num(uint8(1)))}, Do: accept, Mark: "0x30 to 0x59", Table: "130 to 159", NAT: "tproxy",
		},
		{
			ID: "service: cell", From: FromService, To: ToCell, What: "DNS, NTP, HTTPS",
			Match: []Match{toLocal, in("service_ports", L4Proto, DPort)}, Do: accept, Mark: asItsExit, Table: "local",
		},
		{ID: "service: echo", From: FromService, To: ToCell, What: "ICMP echo", Match: []Match{echo, toLocal}, Do: accept, Mark: asItsExit, Table: "local"},
		{ID: "service: closed", From: FromService, To: ToCell, What: "all else", Do: drop, Mark: asItsExit, Table: "local", Counter: "rule"},

		{ID: "link: unsolicited", From: FromLink, To: ToAny, What: "everything but answers", Do: drop, Mark: "0x02", Table: cellTable, Counter: "rule"},
		{ID: "link: echo", From: FromLink, To: ToCell, What: "ICMP echo", Match: []Match{echo, toLocal}, Do: accept, Mark: "0x02", Table: "local"},
		{ID: "link: closed", From: FromLink, To: ToCell, What: "all else", Do: drop, Mark: "0x02", Table: "local", Counter: "rule"},
	}
}

func outsideRows() []Row {
	dhcp4 := []Match{is(L4Proto, num(protoUDP)), is(SPort, num(67)), is(DPort, num(68))}
	forwarded := []Match{is(CTStatus, num(ctDNAT)), in("forwarded", DAddr, L4Proto, DPort)}
	lanAddr := []Match{in("lan_port", DAddr, L4Proto, DPort), in("private", SAddr)}
	return []Row{
		{ID: "exit: unsolicited", From: FromExit, To: ToAny, What: "everything but answers", Do: drop, Table: cellTable, Counter: "rule"},
		{ID: "exit: closed", From: FromExit, To: ToCell, What: "everything but answers", Do: drop, Table: "local", Counter: "rule"},

		{ID: "lan: ours", From: FromLAN, To: ToOurs, What: "everything but answers", Match: []Match{in("ours_if", OutIf)}, Do: drop, Table: cellTable, Counter: "rule"},
		{ID: "lan: wireguard", From: FromLAN, To: ToCell, What: "WireGuard", Match: []Match{in("public_ports", L4Proto, DPort)}, Do: accept, Table: "local", Full: true},
		{ID: "lan: web", From: FromLAN, To: ToCell, What: "HTTP, HTTPS", Match: []Match{in("web_ports", L4Proto, DPort)}, Do: accept, Table: "local", Full: true},
		{ID: "lan: address", From: FromLAN, To: ToCell, What: "DNS, NTP on the configured addresses", Match: lanAddr, Do: accept, Table: "local", Full: true},
		{ID: "lan: echo", From: FromLAN, To: ToCell, What: "ICMP echo", Match: []Match{echo}, Do: accept, Table: "local", Full: true},
		{ID: "lan: closed", From: FromLAN, To: ToCell, What: "all else", Do: drop, Table: "local", Counter: "rule", Full: true},

		{ID: "uplink: port forward", From: FromUplink, To: ToOurs, What: "a forwarded port", Match: forwarded, Do: accept, Table: cellTable, NAT: "to the target"},
		{ID: "uplink: ours", From: FromUplink, To: ToOurs, What: "everything but answers", Match: []Match{in("ours_if", OutIf)}, Do: drop, Table: cellTable, Counter: "rule"},
		{ID: "uplink: dhcp", From: FromUplink, To: ToCell, What: "answers of a DHCP server", Match: dhcp4, Do: accept, Table: "local", Full: true},
		{
			ID: "uplink: dhcpv6", From: FromUplink, To: ToCell, What: "answers of a DHCPv6 server",
			Match: []Match{in("private6", SAddr6), is(L4Proto, num(protoUDP)), is(DPort, num(546))}, Do: accept, Table: "local", Full: true,
		},
		{
			ID: "uplink: public port", From: FromUplink, To: ToCell, What: "WireGuard; HTTPS and HTTP when the public web is on; DNS when the public zone is",
			Match: []Match{in("public_ports", L4Proto, DPort)}, Do: accept, Table: "local", Full: true,
		},
		{
			ID: "uplink: web", From: FromUplink, To: ToCell, What: "HTTP, HTTPS from a private or on-link source",
			Match: []Match{in("private", SAddr), in("web_ports", L4Proto, DPort)}, Do: accept, Table: "local", Full: true,
		},
		{ID: "uplink: address", From: FromUplink, To: ToCell, What: "DNS, NTP on the configured LAN addresses", Match: lanAddr, Do: accept, Table: "local", Full: true},
		{ID: "uplink: echo", From: FromUplink, To: ToCell, What: "ICMP echo from a private or on-link source", Match: []Match{in("private", SAddr), echo}, Do: accept, Table: "local", Full: true},
		{ID: "uplink: closed", From: FromUplink, To: ToCell, What: "all else", Do: drop, Table: "local", Counter: "rule", Full: true},
	}
}

// relayRows live in the guard table, before all others: what an exit table
// delivers here has a relay's socket or no answer. Without them the cell's own
// stack would answer in the destination's place.
func relayRows() []Row {
	ours, stray := in("ours_if", InIf), not(DAddrType, num(addrLocal))
	dialed := Row{From: FromOurs, To: ToInternet, Mark: "0x30 to 0x59", Table: "130 to 159", Counter: "rule"}
	row := func(id, what, nat string, do ActionKind, m ...Match) Row {
		r := dialed
		r.ID, r.What, r.NAT, r.Do, r.Match = id, what, nat, Action{Kind: do}, append([]Match{ours, stray}, m...)
		return r
	}
	return []Row{
		row("relay: listens", "TCP or UDP through a dialed exit whose relay listens", "tproxy", Accept, is(Transparent, num(uint8(1)))),
		row("relay: down", "TCP through a dialed exit whose relay does not listen", "", RejectTCP, is(L4Proto, num(protoTCP))),
		row("relay: not carried", "ICMP, UDP that the exit does not carry, and all else through a dialed exit", "", Reject),
	}
}

// ownRows live in the guard table: a socket of the cell's own that carries an
// exit's mark, or an exit's address, leaves by that exit or not at all.
func ownRows() []Row {
	return []Row{
		{ID: "own: inside", From: FromOwn, To: ToOurs, What: "to ours or to itself", Match: []Match{in("inside_if", OutIf)}, Do: accept, Mark: "any", Table: cellTable},
		{ID: "own: exit link", From: FromOwn, To: ToInternet, What: "an exit's mark, by that exit's link", Match: []Match{in("way", Mark, OutIf)}, Do: accept, Mark: "the exit's", Table: byMark, Counter: "forwarded"},
		{ID: "own: exit elsewhere", From: FromOwn, To: ToAny, What: "an exit's mark, by any other interface", Match: []Match{in("exit_mark", Mark)}, Do: drop, Mark: "the exit's", Table: byMark, Counter: "rule, leak"},
		{ID: "own: exit address", From: FromOwn, To: ToInternet, What: "from an exit's address, by that exit's link", Match: []Match{in("exit_source", SAddr, OutIf)}, Do: accept, Mark: "any", Table: "the exit's, by source"},
		{ID: "own: exit address elsewhere", From: FromOwn, To: ToAny, What: "from an exit's address, by any other interface", Match: []Match{in("exit_address", SAddr)}, Do: drop, Mark: "any", Table: "the exit's, by source", Counter: "rule"},
		{ID: "own: direct", From: FromOwn, To: ToInternet, What: "all else (the chain's policy)", Do: Action{Kind: Continue}, Mark: "0x01 or none", Table: "main"},
	}
}
