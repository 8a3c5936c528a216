package firewall

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
)

// lastAddr is the highest address of a prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// ranges turns the prefixes of one family into disjoint ranges in order, as
// the kernel holds them. The very last address of a family can't end a range
// there and is left out; no host has it.
func ranges(ps []prefixAt, is4 bool) []Element {
	var list []Element
	for _, p := range ps {
		if !p.prefix.IsValid() || p.prefix.Addr().Is4() != is4 {
			continue
		}
		last := lastAddr(p.prefix)
		if !last.Next().IsValid() {
			last = last.Prev()
		}
		if first := p.prefix.Masked().Addr(); !last.Less(first) {
			list = append(list, Element{Key: []Value{addr(first)}, Last: last, Pointer: p.pointer})
		}
	}
	slices.SortStableFunc(list, func(a, b Element) int { return a.Key[0].Addr.Compare(b.Key[0].Addr) })
	var out []Element
	for _, e := range list {
		if n := len(out) - 1; n >= 0 && !out[n].Last.Next().Less(e.Key[0].Addr) {
			if out[n].Last.Less(e.Last) {
				out[n].Last = e.Last
			}
			continue
		}
		out = append(out, e)
	}
	return out
}

// finish puts elements in order, keeps the first of equal keys, and checks
// that every rule refers to a set and chain that exist with the right fields.
func (t *Table) finish() error {
	sets := map[string]*Set{}
	for i := range t.Sets {
		s := &t.Sets[i]
		if sets[s.Name] != nil {
			return fmt.Errorf("two sets are named %s", s.Name)
		}
		sets[s.Name] = s
		byKey := func(a, b Element) int { return compareKeys(s.Key, a.Key, b.Key) }
		if !slices.IsSortedFunc(s.Elements, byKey) { // peers are, most of the time
			slices.SortStableFunc(s.Elements, byKey)
		}
		s.Elements = slices.CompactFunc(s.Elements, func(a, b Element) bool { return slices.Equal(a.Key, b.Key) })
	}
	chains := map[string]bool{}
	for i := range t.Chains {
		chains[t.Chains[i].Name] = true
	}
	for i := range t.Chains {
		for _, r := range t.Chains[i].Rules {
			if err := r.check(sets, chains); err != nil {
				return fmt.Errorf("chain %s, rule %q: %w", t.Chains[i].Name, r.Comment, err)
			}
		}
	}
	for _, s := range sets {
		for _, e := range s.Elements {
			if s.Verdicts && !chains[e.Chain] {
				return fmt.Errorf("map %s leads to the chain %q, which does not exist", s.Name, e.Chain)
			}
		}
	}
	return nil
}

// compareKeys orders keys as their encodings are ordered.
func compareKeys(fs []Field, a, b []Value) int {
	for i, f := range fs {
		k := fields[f].kind
		if k == kindAddr4 || k == kindAddr6 {
			if n := a[i].Addr.Compare(b[i].Addr); n != 0 {
				return n
			}
		} else if a[i] != b[i] {
			if n := bytes.Compare(k.bytes(a[i]), k.bytes(b[i])); n != 0 {
				return n
			}
		}
	}
	return 0
}

func (r *Rule) check(sets map[string]*Set, chains map[string]bool) error {
	use := func(n string, fs []Field) error {
		s := sets[n]
		if s == nil {
			return fmt.Errorf("there is no set %s", n)
		}
		if !slices.EqualFunc(s.Key, fs, func(a, b Field) bool { return fields[a].kind == fields[b].kind }) {
			return fmt.Errorf("the set %s has other fields", n)
		}
		return nil
	}
	for _, m := range r.Match {
		if m.Set != "" {
			if err := use(m.Set, m.Fields); err != nil {
				return err
			}
		}
	}
	if r.Do.Map != "" {
		if err := use(r.Do.Map, r.Do.Fields); err != nil {
			return err
		}
	}
	if r.Do.Kind == Goto && !chains[r.Do.Chain] {
		return fmt.Errorf("there is no chain %s", r.Do.Chain)
	}
	return nil
}
