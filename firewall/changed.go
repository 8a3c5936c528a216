package firewall

import (
	"maps"
	"strings"
	"sync"
)

// Kinds of objects in the kernel, as [Controller.Changed] counts them.
const (
	KindTable      = "table" // with its chains, sets and elements
	KindPolicyRule = "policy_rule"
	KindRoute      = "route"
	KindParameter  = "parameter"
	KindOther      = "other" // connections, Docker's chain, the early table
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

// note counts a step of Apply, by what it was doing.
func (c *changes) note(doing string) {
	kind := KindOther
	switch {
	case strings.HasSuffix(doing, " table"):
		kind = KindTable
	case strings.HasSuffix(doing, "policy rules"):
		kind = KindPolicyRule
	case strings.HasSuffix(doing, "routes"):
		kind = KindRoute
	case strings.HasSuffix(doing, "parameters"), strings.HasSuffix(doing, "forwarding"):
		kind = KindParameter
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.m[kind]++
}

// Changed counts the steps of the last Apply that had to change something, by
// the kind of object.
func (c *Controller) Changed() map[string]int {
	c.changes.mu.Lock()
	defer c.changes.mu.Unlock()
	return maps.Clone(c.changes.m)
}
