package firewall

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/personal-internet-cell/pic/cell"
)

// Packet is the first packet of a flow as it meets the cell, for [Policy.Trace].
type Packet struct {
	In       string     `json:"in"` // interface; "" is a socket of the cell's own
	Src      netip.Addr `json:"src"`
	Dst      netip.Addr `json:"dst"`
	Protocol string     `json:"protocol"` // tcp, udp, or icmp (an echo request)
	SrcPort  uint16     `json:"src_port"`
	DstPort  uint16     `json:"dst_port"`
	// ICMPType of an icmp packet; 0 is an echo request.
	ICMPType uint8 `json:"icmp_type"`
	// HopLimit is the TTL or hop limit; 0 is 64.
	HopLimit uint8 `json:"hop_limit"`
	// Invalid makes it a packet that belongs to no connection and begins none.
	Invalid bool `json:"invalid"`
	// Established makes it a later packet of a flow that was let through.
	Established bool `json:"established"`
	// Mark is the socket's own, where In is "".
	Mark uint32 `json:"mark"`
	// RelayDown assumes that no relay listens.
	RelayDown bool `json:"relay_down"`
}

// Outcome is what becomes of a packet.
type Outcome string

const (
	Accepted      Outcome = "accepted"    // forwarded by Out, or delivered where Out is ""
	Relayed       Outcome = "relayed"     // taken by a dialed exit's relay
	Dropped       Outcome = "dropped"     // without an answer
	Rejected      Outcome = "rejected"    // answered at once
	NoRoute       Outcome = "unreachable" // answered at once: the exit is down, or nobody is there
	ProhibitedWay Outcome = "prohibited"  // answered at once: no way is left for this mark
)

// Answer is what the cell sends back to who sent a packet that does not pass.
type Answer string

const (
	Silence         Answer = ""
	TCPReset        Answer = "tcp reset"                        // RFC 9293 §3.5.2
	AdminProhibited Answer = "icmp administratively prohibited" // RFC 1812 §5.2.7.1, code 13; RFC 4443 §3.1, code 1
	HostUnreachable Answer = "icmp host unreachable"            // RFC 792, code 1; for IPv6 Linux says no route, code 0
	NetUnreachable  Answer = "icmp network unreachable"         // RFC 792, code 0; RFC 4443 §3.1, code 0
)

// Result is the answer of [Policy.Trace]: what happens, and why.
type Result struct {
	Outcome Outcome `json:"outcome"`
	// Answer to the sender where the packet does not pass; the cell's own
	// sockets get an error instead.
	Answer Answer `json:"answer"`
	// Rule is the comment of the rule that decided, in Chain ("table chain");
	// for the packet table's rules it is the row's name.
	Rule  string `json:"rule"`
	Chain string `json:"chain"`
	Mark  uint32 `json:"mark"`
	// Table is the routing table that decided; 255 is local, 254 main.
	Table uint32 `json:"table"`
	Out   string `json:"out"` // interface it leaves by
	NAT   string `json:"nat"` // translation on the way, in words
	// Dst is where it ends up, after a port forward or redirection.
	Dst netip.AddrPort `json:"dst"`
	// Clamped says that a TCP connection's segments are made to fit the tunnel.
	Clamped bool `json:"clamped"`
	// Counter of table pic_acct that counted it, "" for none.
	Counter string `json:"counter"`
	// Pointer is the line of the state that decided (RFC 6901), "" when none did.
	Pointer string `json:"pointer"`
	Reason  string `json:"reason"` // for a person
}

// Passes reports whether the packet gets where it wants to go.
func (r Result) Passes() bool { return r.Outcome == Accepted || r.Outcome == Relayed }

const tableLocal = 255

// Trace says what the kernel does with a packet under this policy, without a
// kernel: it walks the same chains, rules and routes that Apply writes.
func (p Policy) Trace(pk Packet) Result {
	r, _ := p.walk(pk, false)
	return r
}

func (p *Policy) walk(pk Packet, record bool) (Result, []Step) {
	t := &tracer{p: p, pk: pk, record: record, mark: pk.Mark, src: pk.Src.Unmap(), dst: pk.Dst.Unmap(), dport: pk.DstPort}
	t.family = 4
	if t.dst.Is6() {
		t.family = 6
	}
	r := t.run()
	r.Mark, r.Table, r.Out, r.NAT = t.mark, t.table, t.out, t.nat
	r.Dst, r.Clamped, r.Counter = netip.AddrPortFrom(t.dst, t.dport), t.clamped, t.counter
	if t.table != tableLocal && t.table != cell.TableCell { // the mark chose the table
		r.Pointer = cmp.Or(r.Pointer, t.markLine)
	}
	r.Reason = cmp.Or(r.Reason, r.Rule)
	if pk.In == "" {
		r.Answer = Silence
	}
	return r, t.steps
}

// tracer is a packet on its way.
type tracer struct {
	p        *Policy
	pk       Packet
	family   uint8
	src, dst netip.Addr
	dport    uint16
	mark     uint32
	markLine string // the state's line that gave the mark
	out      string
	table    uint32
	nat      string
	dnat     bool
	relayed  bool
	clamped  bool
	counter  string
	refusal  Answer // of a look-up that found no way
	record   bool
	steps    []Step
}

// end is how a chain ended; a zero end goes on.
type end struct {
	kind    ActionKind // Accept, Drop, Reject, RejectTCP
	table   string
	chain   string
	rule    string
	why     string // the rule in words
	pointer string
}

func (t *tracer) run() Result {
	t.ingress()
	if t.pk.In != "" {
		if e := t.hook("prerouting"); e.stops() {
			return e.result()
		}
	}
	way, pointer := t.route()
	if way != Accepted {
		why := fmt.Sprintf("mark 0x%02x has no way to %s", t.mark, t.dst)
		if t.table == cell.TableCell {
			why = fmt.Sprintf("the interface that leads to %s is not there", t.dst)
		}
		return Result{Outcome: way, Answer: t.refusal, Chain: "policy rules", Rule: fmt.Sprintf("table %d", t.table), Pointer: pointer, Reason: why}
	}
	at := "forward"
	switch {
	case t.pk.In == "":
		at = "output"
	case t.out == "":
		at = "input"
	}
	e := t.hook(at)
	if e.kind == Reject && at == "input" && t.family == 4 && !t.local(t.dst) {
		e.kind = Drop // the ICMP error would come from that destination: see relayChains
	}
	if e.stops() {
		return e.result()
	}
	if t.out != "" {
		if last := t.hook("postrouting"); last.stops() {
			return last.result()
		}
	}
	r := e.result()
	if t.relayed && at == "input" {
		r.Outcome = Relayed
	}
	return r
}

func (e end) stops() bool { return e.kind == Drop || e.kind == Reject || e.kind == RejectTCP }

func (e end) result() Result {
	r := Result{Outcome: Accepted, Rule: e.rule, Pointer: e.pointer, Reason: e.why}
	if e.chain != "" {
		r.Chain = e.table + " " + e.chain
	}
	switch e.kind {
	case Drop:
		r.Outcome = Dropped
	case Reject:
		r.Outcome, r.Answer = Rejected, AdminProhibited
	case RejectTCP:
		r.Outcome, r.Answer = Rejected, TCPReset
	}
	return r
}

// hook runs the base chains of a hook in the order of their priorities. Each
// may drop; of those that accept, table pic's names the reason.
func (t *tracer) hook(at string) end {
	type base struct {
		table *Table
		chain *Chain
	}
	var list []base
	for _, tb := range []*Table{&t.p.Guard, &t.p.Main, &t.p.Acct} {
		for i := range tb.Chains {
			if h := tb.Chains[i].Hook; h != nil && h.At == at {
				list = append(list, base{tb, &tb.Chains[i]})
			}
		}
	}
	slices.SortStableFunc(list, func(a, b base) int { return cmp.Compare(a.chain.Hook.Priority, b.chain.Hook.Priority) })
	var out end
	for _, b := range list {
		if b.chain.Hook.Type == "nat" && t.pk.Established {
			continue // translations are made by a flow's first packet
		}
		e, ended := t.chain(b.table, b.chain)
		if !ended {
			e = end{kind: Accept, table: b.table.Name, chain: b.chain.Name, rule: "policy accept"}
			if b.chain.Hook.Drop {
				e.kind, e.rule = Drop, "policy drop"
			}
		}
		if e.stops() {
			t.stopped(e)
			return e
		}
		t.passed(b.chain, e)
		if b.chain.Hook.Type == "filter" && (out.chain == "" || b.table == &t.p.Main) {
			out = e
		}
	}
	return out
}

// chain runs a chain's rules; ended is false when it falls off the end.
func (t *tracer) chain(tb *Table, c *Chain) (e end, ended bool) {
	for i := range c.Rules {
		r := &c.Rules[i]
		pointer, ok := t.matches(tb, r)
		if !ok {
			continue
		}
		e = end{kind: Accept, table: tb.Name, chain: c.Name, rule: r.Comment, why: r.Why, pointer: cmp.Or(pointer, r.Pointer)}
		next := ""
		switch r.Do.Kind {
		case Accept, Drop, Reject, RejectTCP:
			e.kind = r.Do.Kind
			return e, true
		case Return:
			return end{}, false
		case Goto:
			next = r.Do.Chain
		case Relay:
			t.relayed = true
			t.nat = fmt.Sprintf("to the relay on port %d", r.Do.Port)
			t.step("nat", e.pointer, "handed to the exit's relay on port %d", r.Do.Port)
			return e, true
		case Masquerade:
			t.nat = join(t.nat, "masqueraded on "+t.out)
			t.step("nat", "", "its source becomes the cell's address on %s (masquerade)", t.out)
			return e, true
		case Continue:
			t.counter = r.Comment
		case ClampMSS:
			t.clamped = true
		case SetMark:
			t.mark = r.Do.Mark
		case Verdict, MapMark, DNAT:
			el := t.find(tb.set(r.Do.Map), r.Do.Fields)
			if el == nil {
				continue
			}
			switch r.Do.Kind {
			case MapMark:
				t.mark, t.markLine = el.Data[0].Num, el.Pointer
				t.step("mark", el.Pointer, "its source %s has the mark 0x%02x", t.src, t.mark)
			case DNAT:
				t.dst, t.dport, t.dnat = el.Data[0].Addr, uint16(el.Data[1].Num), true
				t.nat = fmt.Sprintf("to %s", netip.AddrPortFrom(t.dst, t.dport))
				t.step("nat", el.Pointer, "its destination becomes %s (%s)", netip.AddrPortFrom(t.dst, t.dport), r.Comment)
				return e, true
			case Verdict:
				next = el.Chain
			}
		}
		if next != "" {
			return t.chain(tb, tb.chain(next))
		}
	}
	return end{}, false
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + ", " + b
}

func (t *Table) chain(n string) *Chain {
	i := slices.IndexFunc(t.Chains, func(c Chain) bool { return c.Name == n })
	return &t.Chains[i] // Compile has checked that it exists
}

func (t *Table) set(n string) *Set {
	i := slices.IndexFunc(t.Sets, func(s Set) bool { return s.Name == n })
	return &t.Sets[i]
}

// matches reports whether all of a rule's conditions hold; pointer is the line
// of the state behind the last element that was found.
func (t *tracer) matches(tb *Table, r *Rule) (pointer string, ok bool) {
	if r.Do.Family != 0 && r.Do.Family != t.family || r.Do.Kind == RejectTCP && t.proto() != protoTCP {
		return "", false
	}
	for _, m := range r.Match {
		for _, f := range m.Fields {
			if !t.has(f) {
				return "", false
			}
		}
		var hit bool
		if m.Set != "" {
			el := t.find(tb.set(m.Set), m.Fields)
			hit = el != nil
			if hit {
				pointer = cmp.Or(el.Pointer, pointer)
			}
		} else {
			hit = t.equal(&m)
		}
		if hit == m.Not {
			return "", false
		}
	}
	return pointer, true
}

func (t *tracer) equal(m *Match) bool {
	f := m.Fields[0]
	v := t.value(f)
	switch {
	case f.bitmask():
		return v.Num&m.Value.Num != 0
	case m.Mask != 0:
		return v.Num&m.Mask == m.Value.Num
	}
	return v == m.Value
}

// has reports whether the packet has the field at all.
func (t *tracer) has(f Field) bool {
	i := fields[f]
	if i.family != 0 && i.family != t.family || i.proto != 0 && i.proto != t.proto() {
		return false
	}
	return true
}

func (t *tracer) proto() uint8 {
	switch t.pk.Protocol {
	case "tcp":
		return protoTCP
	case "udp":
		return protoUDP
	}
	if t.family == 6 {
		return protoICMP6
	}
	return protoICMP
}

func (t *tracer) value(f Field) Value {
	switch f {
	case InIf:
		return name(t.pk.In)
	case OutIf:
		if t.pk.In == "" && t.out == "" {
			return name("lo") // what the cell sends to itself
		}
		return name(t.out)
	case Mark:
		return num(t.mark)
	case SAddr4, SAddr6:
		return addr(t.src)
	case DAddr4, DAddr6:
		return addr(t.dst)
	case L4Proto:
		return num(t.proto())
	case SPort:
		return num(t.pk.SrcPort)
	case DPort:
		return num(t.dport)
	case CTState:
		switch {
		case t.pk.Invalid:
			return num(uint32(ctInvalid))
		case t.pk.Established:
			return num(uint32(ctEstablished))
		}
		return num(uint32(ctNew))
	case CTStatus:
		if t.dnat {
			return num(uint32(ctDNAT))
		}
	case ICMPType:
		return num(uint32(cmp.Or(t.pk.ICMPType, 8)))
	case ICMP6Type:
		return num(uint32(cmp.Or(t.pk.ICMPType, 128)))
	case DAddrType:
		if t.local(t.dst) {
			return num(uint32(addrLocal))
		}
		return num(uint32(1))
	case Transparent:
		if t.relayed && !t.pk.RelayDown {
			return num(uint32(1))
		}
	case HopLimit:
		return num(uint32(cmp.Or(t.pk.HopLimit, 64)))
	case TCPFlags:
		if !t.pk.Established {
			return num(uint32(2))
		}
		return num(uint32(16))
	}
	return Value{}
}

func (t *tracer) local(a netip.Addr) bool {
	_, ok := slices.BinarySearchFunc(t.p.World.Local, a, netip.Addr.Compare)
	return ok || a.IsLoopback()
}

// find looks the packet's fields up in a set.
func (t *tracer) find(s *Set, fs []Field) *Element {
	key := make([]Value, len(fs))
	for i, f := range fs {
		if !t.has(f) {
			return nil
		}
		key[i] = t.value(f)
	}
	last := len(key) - 1
	for i := range s.Elements {
		e := &s.Elements[i]
		switch {
		case !e.Last.IsValid():
			if slices.Equal(e.Key, key) {
				return e
			}
		case slices.Equal(e.Key[:last], key[:last]):
			if a := key[last].Addr; e.Key[last].Addr.Compare(a) <= 0 && a.Compare(e.Last) <= 0 {
				return e
			}
		}
	}
	return nil
}

// route decides where the packet goes next: the local table, then the policy
// rules in order, then main. It sets out ("" is here) and table.
func (t *tracer) route() (Outcome, string) {
	if t.table = tableLocal; t.local(t.dst) {
		t.step("table", "", "table local: %s is an address of the cell", t.dst)
		return Accepted, ""
	}
	for _, r := range t.p.Rules {
		if r.Family != t.family || r.InIf != "" && r.InIf != t.pk.In || r.From.IsValid() && r.From != t.src || r.Mask != 0 && t.mark&r.Mask != r.Mark {
			continue
		}
		t.table = r.Table
		if r.Action == Prohibit {
			t.step("table", "", "policy rule %d: nothing is left for the mark 0x%02x", r.Priority, t.mark)
			t.refusal = AdminProhibited
			return ProhibitedWay, ""
		}
		if way := t.lookup(r.Table); way != "" {
			t.way(way, fmt.Sprintf("policy rule %d: ", r.Priority))
			return way, ""
		}
	}
	t.table = tableMain
	if way := t.lookup(tableMain); way != "" {
		t.way(way, "")
		return way, ""
	}
	t.refusal = NetUnreachable
	return NoRoute, ""
}

// lookup finds the longest prefix, then the lowest metric; "" is "not here".
func (t *tracer) lookup(table uint32) Outcome {
	routes := t.p.Routes
	if table == tableMain {
		routes = t.p.World.Main
	}
	var best *Route
	for i := range routes {
		r := &routes[i]
		if r.Table != table || !r.Prefix.Contains(t.dst) || (table != tableMain && t.p.World.missing(*r)) {
			continue
		}
		if best == nil || r.Prefix.Bits() > best.Prefix.Bits() || r.Prefix.Bits() == best.Prefix.Bits() && r.Metric < best.Metric {
			best = r
		}
	}
	switch {
	case best == nil:
		return ""
	case best.Kind == Unreachable:
		t.refusal = HostUnreachable
		return NoRoute
	case best.Kind == Local:
		t.out = ""
	default:
		t.out = best.Dev
	}
	return Accepted
}

// AdminFlow is the packet that opens a connection from an address to the web
// port the cell is being administered through; in is where it arrives.
func AdminFlow(in string, src, dst netip.Addr, f cell.Facts) Packet {
	return Packet{In: in, Src: src, Dst: dst, Protocol: "tcp", SrcPort: 40000, DstPort: cmp.Or(f.Host.HTTPSPort, 443)}
}
