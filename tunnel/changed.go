package tunnel

import (
	"maps"
	"sync"
)

// Kinds of objects in the world, as [Controller.Changed] counts them.
const (
	KindLink    = "link" // made, removed, brought up, or its MTU or port set
	KindAddress = "address"
	KindPeer    = "peer" // also the device's own key
)

// changes counts what one Apply changed. The zero value is ready.
type changes struct {
	mu sync.Mutex
	m  map[string]int
}

func (c *changes) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.m = map[string]int{}
}

func (c *changes) note(kind string, changed bool, n int) {
	if !changed {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.m[kind] += n
}

// Changed counts what the last Apply had to change: peers one by one, links
// and addresses by the device.
func (c *Controller) Changed() map[string]int {
	c.changes.mu.Lock()
	defer c.changes.mu.Unlock()
	return maps.Clone(c.changes.m)
}
