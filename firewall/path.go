package firewall

import (
	"cmp"
	"fmt"
	"slices"
)

// Step is one thing that happens to a packet on its way.
type Step struct {
	// Kind is ingress, mark, nat, table, rule or out.
	Kind string `json:"kind"`
	Text string `json:"text"`
	// Pointer is the line of the state behind it (RFC 6901), "" when there is none.
	Pointer string `json:"pointer"`
}

// Path is [Policy.Trace] with the steps on the way, in their order.
func (p Policy) Path(pk Packet) (Result, []Step) { return p.walk(pk, true) }

func (t *tracer) step(kind, pointer, format string, a ...any) {
	if t.record {
		t.steps = append(t.steps, Step{kind, fmt.Sprintf(format, a...), pointer})
	}
}

func (t *tracer) ingress() {
	if t.pk.In == "" {
		t.step("ingress", "", "a socket of the cell itself sends it")
		return
	}
	t.step("ingress", "", "it comes in by %s", t.pk.In)
}

// passed notes what let the packet through; a chain's bare policy says nothing.
func (t *tracer) passed(c *Chain, e end) {
	if c.Hook.Type == "filter" && e.kind == Accept && e.rule != "policy accept" && c.Hook.At != "prerouting" {
		t.step("rule", e.pointer, "table %s, chain %s lets it pass: %s", e.table, e.chain, cmp.Or(e.why, e.rule))
	}
}

func (t *tracer) stopped(e end) {
	what := "drops it"
	if e.kind != Drop {
		what = "rejects it"
	}
	t.step("rule", e.pointer, "table %s, chain %s %s: %s", e.table, e.chain, what, cmp.Or(e.why, e.rule))
}

// way notes the route that was found.
func (t *tracer) way(found Outcome, rule string) {
	name := fmt.Sprintf("table %d", t.table)
	if t.table == tableMain {
		name = "table main"
	}
	switch {
	case found == NoRoute:
		t.step("table", "", "%s%s: %s can't be reached", rule, name, t.dst)
	case t.out == "":
		t.step("table", "", "%s%s: delivered to the exit's relay", rule, name)
	default:
		t.step("table", "", "%s%s: to %s by %s", rule, name, t.dst, t.out)
	}
}

// Ports lists every port that a rule or set of the policy tells from others,
// ascending and unique. No rule compares ranges of ports, so packets to two
// ports that are not listed fare alike.
func (p *Policy) Ports() []uint16 {
	var out []uint16
	add := func(fs []Field, vs []Value) {
		for i, f := range fs {
			if f == DPort && i < len(vs) && vs[i].Num != 0 {
				out = append(out, uint16(vs[i].Num))
			}
		}
	}
	for _, t := range []*Table{&p.Guard, &p.Main, &p.Acct} {
		for i := range t.Sets {
			s := &t.Sets[i]
			for j := range s.Elements {
				add(s.Key, s.Elements[j].Key)
				add(s.Data, s.Elements[j].Data)
			}
		}
		for i := range t.Chains {
			for _, r := range t.Chains[i].Rules {
				for _, m := range r.Match {
					if m.Set == "" {
						add(m.Fields, []Value{m.Value})
					}
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
