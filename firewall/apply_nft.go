package firewall

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// chunk bounds one message's elements: its length field has 16 bits.
	chunk = 1000
	tries = 6
)

func kernelTable(n string) *nftables.Table {
	return &nftables.Table{Name: n, Family: nftables.TableFamilyINet}
}

// marker is the object whose name says which structure a table has.
func (t *Table) marker() string {
	sum := sha256.Sum256([]byte(t.structure()))
	return "plan_" + hex.EncodeToString(sum[:8])
}

// applyTable makes one table equal to the plan: by element adds and deletes
// where the structure is the plan's, else by replacing it in one batch. The
// batch carries the generation it was made from, so that a change by another
// program in between (ERESTART) has it made again; the last try goes without,
// because a program that changes its own tables all the time must not keep us
// from ours. cut collects the sessions
// that the change takes the ground from; nil where nobody asks.
// k is brought up to what was seen; nil where nobody keeps it.
func applyTable(ctx context.Context, k *knowledge, t *Table, cut *[]session) (bool, error) {
	if k == nil {
		k = &knowledge{}
	}
	for try := 1; ; try++ {
		changed, lost, err := tryTable(k, t, cut != nil, try < tries)
		switch {
		case err == nil:
			if cut != nil {
				*cut = append(*cut, lost...)
			}
			return changed, nil
		case errors.Is(err, unix.ERESTART) && try < tries:
			if err := pause(ctx, time.Duration(try)*20*time.Millisecond); err != nil {
				return false, err
			}
			continue
		}
		k.forget()
		// An error is no proof that nothing happened: acknowledgements can be
		// lost (ENOBUFS) after the commit. The kernel knows.
		if same, again := tableMatches(t); again == nil && same {
			if cut != nil {
				*cut = append(*cut, lost...)
			}
			return true, nil
		}
		return false, fmt.Errorf("writing table %s: %w", t.Name, err)
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// tryTable makes and commits one batch, of one generation of the ruleset when
// strict. lost is set even when committing failed.
func tryTable(k *knowledge, t *Table, sessions, strict bool) (changed bool, lost []session, err error) {
	c, err := dialNFT()
	if err != nil {
		return false, nil, err
	}
	defer func() { _ = c.CloseLasting() }()
	gen, err := c.GetGen()
	if err != nil {
		return false, nil, fmt.Errorf("reading the ruleset's generation: %w", err)
	}
	exists, same, err := t.compareStructure(c)
	if err != nil {
		return false, nil, err
	}
	diffs, err := t.compareElements(c, exists, same)
	if err != nil {
		return false, nil, err
	}
	for i := range diffs {
		if sessions {
			lost = append(lost, diffs[i].sessions()...)
		}
		changed = changed || len(diffs[i].add) > 0 || len(diffs[i].remove) > 0
	}
	if same && !changed {
		// The library does not tell when a dump was interrupted by a change.
		if now, err := c.GetGen(); err != nil || (strict && now.ID != gen.ID) {
			return false, nil, cmp.Or(err, error(unix.ERESTART))
		} else if now.ID == gen.ID {
			k.note(t, gen.ID, time.Now())
		}
		return false, nil, nil
	}
	if same {
		err = queueDiffs(c, t.Name, diffs)
	} else {
		err = t.queue(c)
	}
	if err != nil {
		return false, nil, err
	}
	if !strict {
		k.forget()
		return true, lost, c.Flush()
	}
	if err := c.FlushWithGenID(gen.ID); err != nil {
		return true, lost, err
	}
	delete(k.tables, t.Name) // it is read back before anything relies on it
	if now, err := c.GetGen(); err != nil || !k.step(gen.ID, now.ID) {
		k.forget()
	}
	return true, lost, nil
}

// queue adds the whole table to the batch, in place of what is there.
func (t *Table) queue(c *nftables.Conn) error {
	c.AddTable(kernelTable(t.Name)) // adding what exists is no error, so the deletion finds one
	c.DelTable(kernelTable(t.Name))
	kt := c.AddTable(kernelTable(t.Name))
	c.AddObj(&nftables.NamedObj{Table: kt, Name: t.marker(), Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}})
	// Chains first: verdict maps and jumps refer to them.
	for i := range t.Chains {
		c.AddChain(t.Chains[i].kernelChain(kt))
	}
	sets := make(map[string]*nftables.Set, len(t.Sets))
	for i := range t.Sets {
		s := &t.Sets[i]
		ks, err := s.kernelSet(kt)
		if err != nil {
			return err
		}
		if err := c.AddSet(ks, nil); err != nil {
			return fmt.Errorf("adding set %s: %w", s.Name, err)
		}
		sets[s.Name] = ks
		var els []nftables.SetElement
		for j := range s.Elements {
			els = append(els, s.kernelElements(&s.Elements[j])...)
		}
		if err := addElements(c.SetAddElements, ks, els); err != nil {
			return fmt.Errorf("filling set %s: %w", s.Name, err)
		}
	}
	for i := range t.Chains {
		ch := &nftables.Chain{Table: kt, Name: t.Chains[i].Name}
		for j := range t.Chains[i].Rules {
			r := &t.Chains[i].Rules[j]
			c.AddRule(&nftables.Rule{
				Table: kt, Chain: ch, Exprs: r.exprs(sets),
				UserData: userdata.AppendString(nil, userdata.TypeComment, r.Comment),
			})
		}
	}
	return nil
}

// addElements queues elements in chunks that fit a message. Ranges take two
// elements, which chunk, being even, never separates.
func addElements(queue func(*nftables.Set, []nftables.SetElement) error, s *nftables.Set, els []nftables.SetElement) error {
	for part := range slices.Chunk(els, chunk) {
		if err := queue(s, part); err != nil {
			return err
		}
	}
	return nil
}

// compareStructure reports whether the table exists and whether everything but
// its elements is the plan's: the marker, chains with their policies, the
// comments of the rules in order, and the sets.
func (t *Table) compareStructure(c *nftables.Conn) (exists, same bool, err error) {
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, false, fmt.Errorf("listing tables: %w", err)
	}
	if !slices.ContainsFunc(tables, func(x *nftables.Table) bool { return x.Name == t.Name }) {
		return false, false, nil
	}
	kt := kernelTable(t.Name)
	objects, err := c.GetNamedObjects(kt)
	if err != nil {
		return true, false, fmt.Errorf("listing objects of %s: %w", t.Name, err)
	}
	marked := slices.ContainsFunc(objects, func(o nftables.Obj) bool {
		n, ok := o.(*nftables.NamedObj)
		return ok && n.Name == t.marker()
	})
	if !marked {
		return true, false, nil
	}
	sets, err := c.GetSets(kt)
	if err != nil {
		return true, false, fmt.Errorf("listing sets of %s: %w", t.Name, err)
	}
	have := make([]string, 0, len(sets))
	for _, s := range sets {
		have = append(have, s.Name)
	}
	want := make([]string, 0, len(t.Sets))
	for i := range t.Sets {
		want = append(want, t.Sets[i].Name)
	}
	slices.Sort(have)
	slices.Sort(want)
	if !slices.Equal(have, want) {
		return true, false, nil
	}
	same, err = t.compareChains(c, kt)
	return true, same, err
}

func (t *Table) compareChains(c *nftables.Conn, kt *nftables.Table) (bool, error) {
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, fmt.Errorf("listing chains: %w", err)
	}
	chains = slices.DeleteFunc(chains, func(x *nftables.Chain) bool { return x.Table.Name != t.Name })
	if len(chains) != len(t.Chains) {
		return false, nil
	}
	for i := range t.Chains {
		want := &t.Chains[i]
		n := slices.IndexFunc(chains, func(x *nftables.Chain) bool { return x.Name == want.Name })
		if n < 0 || !want.sameHook(chains[n]) {
			return false, nil
		}
		rules, err := c.GetRules(kt, chains[n])
		if err != nil {
			return false, fmt.Errorf("listing rules of chain %s: %w", want.Name, err)
		}
		if !slices.EqualFunc(rules, want.Rules, func(k *nftables.Rule, r Rule) bool {
			comment, _ := userdata.GetString(k.UserData, userdata.TypeComment)
			return comment == r.Comment
		}) {
			return false, nil
		}
	}
	return true, nil
}

func (c *Chain) sameHook(k *nftables.Chain) bool {
	want := c.kernelChain(k.Table)
	if want.Hooknum == nil || k.Hooknum == nil {
		return want.Hooknum == nil && k.Hooknum == nil
	}
	return *want.Hooknum == *k.Hooknum && k.Priority != nil && *want.Priority == *k.Priority &&
		k.Policy != nil && *want.Policy == *k.Policy && want.Type == k.Type
}

// tableMatches reports whether the kernel's table is the plan's. It looks a
// few times, because a change elsewhere can garble what is read.
func tableMatches(t *Table) (same bool, err error) {
	for try := 1; try < tries && !same && err == nil; try++ {
		same, err = tableMatchesNow(t)
	}
	return same, err
}

func tableMatchesNow(t *Table) (bool, error) {
	c, err := dialNFT()
	if err != nil {
		return false, err
	}
	defer func() { _ = c.CloseLasting() }()
	exists, same, err := t.compareStructure(c)
	if err != nil || !same {
		return false, err
	}
	diffs, err := t.compareElements(c, exists, same)
	if err != nil {
		return false, err
	}
	for i := range diffs {
		if len(diffs[i].add) > 0 || len(diffs[i].remove) > 0 {
			return false, nil
		}
	}
	return true, nil
}

// deleteTables removes tables that exist.
func deleteTables(ctx context.Context, names ...string) error {
	for try := 1; ; try++ {
		c, err := dialNFT()
		if err != nil {
			return err
		}
		for _, n := range names {
			c.AddTable(kernelTable(n))
			c.DelTable(kernelTable(n))
		}
		err = c.Flush()
		_ = c.CloseLasting()
		if err == nil || try == tries {
			return err
		}
		if err := pause(ctx, time.Duration(try)*20*time.Millisecond); err != nil {
			return err
		}
	}
}

// entry is one element of a set as the kernel holds it.
type entry struct {
	key, value string
	els        []nftables.SetElement
}

// diff is what one set of the kernel lacks and has too much.
type diff struct {
	set         *Set
	add, remove []entry
}

// compareElements compares every set. For a table that is going to be replaced
// it still tells what is lost, as far as the old sets go.
func (t *Table) compareElements(c *nftables.Conn, exists, same bool) ([]diff, error) {
	if !exists {
		return nil, nil
	}
	var out []diff
	for i := range t.Sets {
		s := &t.Sets[i]
		have, err := s.kernelEntries(c, t.Name)
		if err != nil {
			if !same { // the old table's set may be of another make
				continue
			}
			return nil, fmt.Errorf("reading set %s: %w", s.Name, err)
		}
		want := make(map[string]string, len(s.Elements))
		d := diff{set: s}
		kept := map[string]bool{}
		for j := range s.Elements {
			e := s.wanted(&s.Elements[j])
			want[e.key] = e.value
		}
		for _, e := range have {
			if v, ok := want[e.key]; ok && v == e.value && !kept[e.key] {
				kept[e.key] = true
			} else {
				d.remove = append(d.remove, e)
			}
		}
		for j := range s.Elements {
			if e := s.wanted(&s.Elements[j]); !kept[e.key] {
				d.add = append(d.add, e)
			}
		}
		out = append(out, d)
	}
	return out, nil
}

func (s *Set) wanted(e *Element) entry {
	els := s.kernelElements(e)
	out := entry{key: string(els[0].Key), els: els}
	switch {
	case len(els) == 2:
		out.key += "-" + string(els[1].Key)
	case s.Interval:
		out.key += "-" + string(els[0].KeyEnd)
	}
	if s.Verdicts {
		out.value = e.Chain
	} else {
		out.value = string(els[0].Val)
	}
	return out
}

// kernelEntries reads a set. The order the kernel lists ranges in means
// nothing, so starts and ends are paired after sorting.
func (s *Set) kernelEntries(c *nftables.Conn, table string) ([]entry, error) {
	ks, err := s.kernelSet(kernelTable(table))
	if err != nil {
		return nil, err
	}
	els, err := c.GetSetElements(ks)
	if err != nil {
		return nil, err
	}
	plain := s.Interval && len(s.Key) == 1
	if plain {
		slices.SortStableFunc(els, func(a, b nftables.SetElement) int {
			if n := bytes.Compare(a.Key, b.Key); n != 0 || a.IntervalEnd == b.IntervalEnd {
				return n
			} else if a.IntervalEnd {
				return -1
			}
			return 1
		})
	}
	var out []entry
	for _, e := range els {
		if e.IntervalEnd {
			if n := len(out) - 1; plain && n >= 0 && len(out[n].els) == 1 {
				out[n].key += "-" + string(e.Key)
				out[n].els = append(out[n].els, e)
			}
			continue
		}
		x := entry{key: string(e.Key), value: string(e.Val), els: []nftables.SetElement{e}}
		if s.Verdicts {
			x.value = verdictChain(e.Val)
			x.els[0].VerdictData = &expr.Verdict{Kind: expr.VerdictGoto, Chain: x.value}
		}
		if s.Interval && !plain {
			x.key += "-" + string(e.KeyEnd)
		}
		out = append(out, x)
	}
	return out, nil
}

// verdictChain reads the target of a goto from a verdict map's element; "" for
// any other verdict.
func verdictChain(b []byte) string {
	ad, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return ""
	}
	var chain string
	for ad.Next() {
		if ad.Type() == unix.NFTA_VERDICT_CHAIN {
			chain = ad.String()
		}
	}
	if ad.Err() != nil {
		return ""
	}
	return chain
}

// queueDiffs adds the element changes to the batch; deletions first, because a
// range may give way to a larger one.
func queueDiffs(c *nftables.Conn, table string, diffs []diff) error {
	flat := func(es []entry) (out []nftables.SetElement) {
		for _, e := range es {
			out = append(out, e.els...)
		}
		return out
	}
	for _, d := range diffs {
		if len(d.add) == 0 && len(d.remove) == 0 {
			continue
		}
		ks, err := d.set.kernelSet(kernelTable(table))
		if err != nil {
			return err
		}
		if err := addElements(c.SetDeleteElements, ks, flat(d.remove)); err != nil {
			return fmt.Errorf("deleting from set %s: %w", d.set.Name, err)
		}
		if err := addElements(c.SetAddElements, ks, flat(d.add)); err != nil {
			return fmt.Errorf("adding to set %s: %w", d.set.Name, err)
		}
	}
	return nil
}
