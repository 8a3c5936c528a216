package reconcile

import (
	"maps"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/datastore"
)

// changes remembers which revision last changed a resource.
type changes struct {
	last  map[string]cell.Revision
	floor cell.Revision // what is not in last did not change since
}

func newChanges(history []datastore.Change) changes {
	c := changes{last: map[string]cell.Revision{}}
	for i, h := range history {
		if i == 0 {
			c.floor = h.Revision
		}
		c.note(h.Revision, h.Keys)
	}
	return c
}

func (c changes) note(n cell.Revision, keys []string) {
	for _, k := range keys {
		c.last[k] = n
	}
}

func (c changes) at(key string) cell.Revision {
	if n, ok := c.last[key]; ok {
		return n
	}
	return c.floor
}

func (c changes) clone() changes { return changes{maps.Clone(c.last), c.floor} }
