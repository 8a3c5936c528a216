package firewall

import (
	"net/netip"
	"reflect"
	"slices"
)

// Policy is the plan: everything the kernel has to hold. It is a value made by
// [Compile]; equal policies print equal text.
type Policy struct {
	Guard Table // inet pic_guard: the few fail-closed invariants
	Main  Table // inet pic: everything else
	Acct  Table // inet pic_acct: counters, only ever changed by deltas

	Rules   []RoutingRule
	Routes  []Route
	Sysctls []Sysctl
	// Forwarding is set last, after the rest has been read back.
	Forwarding []Sysctl

	// World is what [Policy.Trace] assumes of the machine; it is never applied.
	World World
}

// Equal reports whether both policies ask the same of the kernel and assume
// the same of the machine.
func (p Policy) Equal(o Policy) bool { return reflect.DeepEqual(p, o) }

// Table is an nft table of family inet.
type Table struct {
	Name   string
	Sets   []Set
	Chains []Chain
}

// Set is an nft set, map (Data) or verdict map (Verdicts). Its elements are
// what routine changes change; the rest is structure.
type Set struct {
	Name     string
	Key      []Field
	Data     []Field // non-empty: a map
	Verdicts bool    // a verdict map; Element.Chain is where it goes
	Interval bool    // elements may be ranges, on the last field only
	Counted  bool    // every element counts packets and bytes
	Elements []Element
}

// Element is one entry of a set. Pointer is the JSON pointer (RFC 6901) of the
// line of the state that asked for it; the kernel does not see it.
type Element struct {
	Key     []Value
	Last    netip.Addr // end of a range (inclusive) in the last field; zero: one value
	Data    []Value
	Chain   string
	Pointer string
}

// Value is a constant: an address, an interface name, or a number, by the type
// of the field it stands for.
type Value struct {
	Addr netip.Addr
	Name string
	Num  uint32
}

// Chain is a base chain when Hook is set, else the target of a jump.
type Chain struct {
	Name  string
	Hook  *Hook
	Rules []Rule
}

// Hook says where a base chain is called.
type Hook struct {
	Type     string // filter or nat
	At       string // prerouting, input, forward, output, postrouting
	Priority int
	Drop     bool // the chain's policy
}

// Rule is one line of a chain. Comment is kept in the kernel and names the row
// of the packet table; Pointer as in [Element].
type Rule struct {
	Match   []Match
	Count   bool
	Do      Action
	Comment string
	// Why is the row of the packet table in words, for a person; "" where the
	// rule is of none. The kernel does not see it.
	Why     string
	Pointer string
}

// Match compares a field with a value, or looks one or more fields up in a set.
type Match struct {
	Fields []Field
	Set    string // "" compares the single field with Value
	Not    bool
	Mask   uint32 // non-zero: only these bits of the field
	Value  Value
}

// ActionKind is what a rule does when everything matches.
type ActionKind uint8

// The actions. Those up to Goto end the chain.
const (
	Continue   ActionKind = iota // only matches (and counts)
	Accept                       //
	Drop                         //
	Return                       //
	Goto                         // Chain
	Verdict                      // by the verdict map Map of Fields
	Relay                        // tproxy to the loopback address of Family, Port; accept
	RejectTCP                    // TCP reset
	Reject                       // ICMP administratively prohibited
	DNAT                         // to address and port by map Map of Fields
	Masquerade                   // fully random ports
	SetMark                      // to Mark
	MapMark                      // by map Map of Fields
	ClampMSS                     // TCP maximum segment size to the route's MTU
)

// Action is what a rule does; which fields count depends on Kind.
type Action struct {
	Kind   ActionKind
	Chain  string
	Map    string
	Fields []Field
	Mark   uint32
	Family uint8 // 4 or 6
	Port   uint16
}

// RuleAction is what a policy rule does.
type RuleAction uint8

const (
	Lookup   RuleAction = iota // in Table
	Prohibit                   // answer "administratively prohibited"
)

// RoutingRule is a policy rule (ip rule) of one family.
type RoutingRule struct {
	Family   uint8 // 4 or 6
	Priority uint32
	From     netip.Addr // zero: any source
	InIf     string     // "": any interface
	Mark     uint32
	Mask     uint32 // 0: any mark
	Action   RuleAction
	Table    uint32
}

// RouteKind is the type of a route (rtnetlink(7), rtm_type).
type RouteKind uint8

const (
	Unicast     RouteKind = iota // to Dev
	Local                        // delivered here: a relay's transparent socket takes it
	Unreachable                  // answers "no route to host"
)

// WorstMetric is that of the routes that remain when a link is gone.
const WorstMetric uint32 = 0xffffffff

// Route is an entry of a routing table of ours.
type Route struct {
	Table  uint32
	Prefix netip.Prefix
	Kind   RouteKind
	Dev    string // "" for Unreachable
	Metric uint32
}

// Sysctl is a kernel parameter. Path is below /proc/sys, a segment each,
// because interface names hold dots.
type Sysctl struct {
	Path  [5]string
	Value string
	// OnlyIf changes the parameter only when it has this value; "" always.
	OnlyIf string
	// Optional parameters may be absent: the interface is not there (yet).
	Optional bool
}

// World is the part of the machine that the policy does not own but that
// decides where a packet goes.
type World struct {
	Local []netip.Addr // the machine's addresses
	Main  []Route      // table main: connected prefixes and the default route
	Links []string     // the interfaces, sorted; nil: nobody knows, all are there
}

// missing reports whether a route's interface is known not to be there.
func (w *World) missing(r Route) bool {
	if w.Links == nil || r.Kind != Unicast {
		return false
	}
	_, ok := slices.BinarySearch(w.Links, r.Dev)
	return !ok
}
