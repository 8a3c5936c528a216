package firewall

import (
	"reflect"
	"slices"
	"time"

	"github.com/google/nftables"
)

// trustFor is how long the tables are not read in full while the kernel says
// that nothing changed. It is a little less than the time between two resyncs,
// so that of those at most every second one goes by without a full reading.
const trustFor = 4 * time.Minute

// knowledge is what the kernel's tables are known to hold. The kernel counts
// the commits to its ruleset, anybody's, per network namespace (the generation,
// NFT_MSG_GETGEN): while that number stands at gen, every table here is as it
// was read, or as a batch for exactly the generation before made it. A change
// by another program moves the number, and everything is read again. The zero
// value knows nothing.
type knowledge struct {
	gen    uint32 // 0: nothing is known; the kernel never counts to 0
	read   time.Time
	tables map[string]*Table
	// foreign is what [foreignDrop] found, and passed what was last asked of
	// [Controller.passDocker] and is so.
	foreign *foreignChain
	passed  *bool
}

type foreignChain struct {
	name  string
	found bool
}

// forget is for whatever makes the knowledge doubtful.
func (k *knowledge) forget() { *k = knowledge{} }

// at keeps what is known if the ruleset's generation is still gen.
func (k *knowledge) at(gen uint32) bool {
	if k.gen != gen {
		k.forget()
	}
	return k.gen != 0
}

// note adds a table that was read at gen. Plans are never written to, so the
// table may be kept.
func (k *knowledge) note(t *Table, gen uint32, now time.Time) {
	if !k.at(gen) {
		*k = knowledge{gen: gen, read: now, tables: map[string]*Table{}}
	}
	k.tables[t.Name] = t
}

// step follows a commit of ours from one generation to the next. If another
// program committed in between, nothing is known.
func (k *knowledge) step(from, to uint32) bool {
	next := from + 1
	if next == 0 {
		next = 1 // as the kernel does
	}
	if k.gen != from || to != next {
		k.forget()
		return false
	}
	k.gen = to
	return true
}

// knownNow reports whether the kernel is known, now, to hold all the tables.
func (c *Controller) knownNow(tables ...*Table) bool {
	if slices.ContainsFunc(tables, func(t *Table) bool { return !c.known.tables[t.Name].is(t) }) {
		return false
	}
	return c.still()
}

// is reports whether two values are one table: plans share what they don't
// change, and nobody writes to them.
func (t *Table) is(o *Table) bool {
	return t != nil && t.Name == o.Name && shared(t.Sets, o.Sets) && shared(t.Chains, o.Chains)
}

func shared[T any](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// sameStructure reports whether two tables differ in elements only.
func (t *Table) sameStructure(o *Table) bool {
	return reflect.DeepEqual(t.Chains, o.Chains) && slices.EqualFunc(t.Sets, o.Sets, func(a, b Set) bool {
		a.Elements, b.Elements = nil, nil
		return reflect.DeepEqual(a, b)
	})
}

// still reports whether anything is known, and the ruleset has not changed since.
func (c *Controller) still() bool {
	if c.known.gen == 0 {
		return false
	}
	gen, err := generation()
	return err == nil && c.known.at(gen)
}

func generation() (uint32, error) {
	c, err := dialNFT()
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.CloseLasting() }()
	gen, err := c.GetGen()
	if err != nil {
		return 0, err
	}
	return gen.ID, nil
}

// patch changes the elements of a table that is known, without reading it.
// done is false when the long way is to be gone: the table is not known, its
// structure changes, or the batch was refused, because somebody else committed
// first or for a reason that only a closer look can tell.
func (c *Controller) patch(t *Table, cut *[]session) (done, changed bool) {
	old := c.known.tables[t.Name]
	if old == nil {
		return false, false
	}
	if time.Since(c.known.read) > trustFor {
		c.known.forget()
		return false, false
	}
	conn, err := dialNFT()
	if err != nil {
		return false, false
	}
	defer func() { _ = conn.CloseLasting() }()
	gen, err := conn.GetGen()
	if err != nil || !c.known.at(gen.ID) {
		return false, false
	}
	if old.is(t) {
		return true, false
	}
	if !old.sameStructure(t) {
		return false, false
	}
	diffs := elementDiffs(old, t)
	if len(diffs) == 0 {
		c.known.tables[t.Name] = t
		return true, false
	}
	if !c.commitPatch(conn, t, diffs, gen.ID) {
		c.known.forget()
		return false, false
	}
	if cut != nil {
		for i := range diffs {
			*cut = append(*cut, diffs[i].sessions()...)
		}
	}
	return true, true
}

// commitPatch writes the differences in one batch for generation gen and
// reports whether the kernel took it and nothing else since.
func (c *Controller) commitPatch(conn *nftables.Conn, t *Table, diffs []diff, gen uint32) bool {
	if queueDiffs(conn, t.Name, diffs) != nil || conn.FlushWithGenID(gen) != nil {
		return false
	}
	now, err := conn.GetGen()
	if err != nil || !c.known.step(gen, now.ID) {
		return false
	}
	c.known.tables[t.Name] = t
	return true
}

// elementDiffs compares the elements of two tables of equal structure, whose
// sets are in the same order, and returns the sets that differ.
func elementDiffs(old, t *Table) []diff {
	var out []diff
	for i := range t.Sets {
		a, b := &old.Sets[i], &t.Sets[i]
		d := diff{set: b}
		x, y := 0, 0 // elements are in the order of their keys, see [Table.finish]
		for x < len(a.Elements) || y < len(b.Elements) {
			switch n := a.compareAt(b, x, y); {
			case n < 0:
				d.remove = append(d.remove, a.wanted(&a.Elements[x]))
				x++
			case n > 0:
				d.add = append(d.add, b.wanted(&b.Elements[y]))
				y++
			default:
				if !a.Elements[x].same(&b.Elements[y]) {
					d.remove = append(d.remove, a.wanted(&a.Elements[x]))
					d.add = append(d.add, b.wanted(&b.Elements[y]))
				}
				x, y = x+1, y+1
			}
		}
		if len(d.add) > 0 || len(d.remove) > 0 {
			out = append(out, d)
		}
	}
	return out
}

// compareAt orders element x of s and element y of o; what is past the end
// comes last.
func (s *Set) compareAt(o *Set, x, y int) int {
	switch {
	case x == len(s.Elements):
		return 1
	case y == len(o.Elements):
		return -1
	}
	return compareKeys(s.Key, s.Elements[x].Key, o.Elements[y].Key)
}

// same reports whether two elements are one to the kernel.
func (e *Element) same(o *Element) bool {
	return e.Last == o.Last && e.Chain == o.Chain && slices.Equal(e.Key, o.Key) && slices.Equal(e.Data, o.Data)
}
