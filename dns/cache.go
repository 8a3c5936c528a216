package dns

import (
	"container/list"
	"slices"
	"strings"
	"sync"
	"time"

	mdns "github.com/miekg/dns"
)

// staleFor is how long after its end an answer may still be served when no
// forwarder answers (RFC 8767 §5 suggests one to three days).
const staleFor = 24 * time.Hour

// key names one forwarded answer. The exit is part of it: what one exit was
// told, the user of another must not see.
type key struct {
	exit   string
	name   string // lower case
	qtype  uint16
	do, cd bool
}

// entry is one answer in the cache; only the fields below mu change.
type entry struct {
	key     key
	reply   reply
	stored  time.Time
	ttl     time.Duration
	cost    int
	wire    *wired    // nil: not an answer that is common
	hits    int       // guarded by cache.mu
	retryAt time.Time // guarded by cache.mu: no refresh before (RFC 8767 §5)
}

// cache keeps answers, least recently used go first. Both their number and
// their size are bounded.
type cache struct {
	mu      sync.Mutex
	max     int
	cost    int
	entries map[key]*list.Element
	lru     *list.List

	hits, misses, stale uint64
}

// costs: what an entry takes beside its records, and what a record takes.
const (
	entryCost  = 256
	recordCost = 128
	meanCost   = 1024 // of the bound on the whole, per entry allowed
)

func newCache(size int) *cache {
	return &cache{max: size, entries: map[key]*list.Element{}, lru: list.New()}
}

// freshness of what peek found.
type freshness int

const (
	absent freshness = iota
	fresh
	fading  // fresh, and due to be asked again (prefetch)
	expired // only good while nobody answers
	resting // expired, and asking again was tried a moment ago
)

// peek returns a copy of an answer with its TTLs counted down.
func (c *cache) peek(k key, now time.Time) (reply, freshness) {
	c.mu.Lock()
	el := c.entries[k]
	if el == nil {
		c.misses++
		c.mu.Unlock()
		return reply{}, absent
	}
	e := el.Value.(*entry)
	age := now.Sub(e.stored)
	f := fresh
	switch {
	case age >= e.ttl+staleFor || (age >= e.ttl && e.reply.rcode == mdns.RcodeServerFailure):
		c.remove(el)
		c.misses++
		c.mu.Unlock()
		return reply{}, absent
	case age >= e.ttl && now.Before(e.retryAt):
		f = resting
		c.stale++
	case age >= e.ttl:
		f = expired
		c.misses++
	case e.hits >= 2 && e.ttl >= 10*time.Second && age >= e.ttl*9/10:
		f = fading
		e.hits = 0 // one refresh is enough
		c.hits++
	default:
		c.hits++
	}
	e.hits++
	c.lru.MoveToFront(el)
	r := e.reply
	c.mu.Unlock()
	left := uint32(staleTTL)
	if f == fresh || f == fading {
		r.answer, r.ns = aged(r.answer, age), aged(r.ns, age)
		return r, f
	}
	r.answer, r.ns = withTTL(r.answer, left), withTTL(r.ns, left)
	return r, f
}

// wired returns a fresh answer in wire form that fits q, and its age in
// seconds. What peek would do more about than to return it, is left to peek.
func (c *cache) wired(exit string, name []byte, qtype uint16, do, cd bool, now time.Time, q *plain) (*wired, uint32, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	el := c.entries[key{exit: exit, name: string(name), qtype: qtype, do: do, cd: cd}]
	if el == nil {
		return nil, 0, false
	}
	e := el.Value.(*entry)
	age := now.Sub(e.stored)
	w := e.wire
	if w == nil || age >= e.ttl || (e.hits >= 2 && e.ttl >= 10*time.Second && age >= e.ttl*9/10) ||
		(w.exact && !q.exact) || len(w.body)+q.end+11 > q.limit {
		return nil, 0, false
	}
	c.hits++
	e.hits++
	c.lru.MoveToFront(el)
	return w, uint32(max(age, 0) / time.Second), true
}

// plainName reports whether the short way reads such a name.
func plainName(name string) bool {
	return name != "." && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
	})
}

// aged counts TTLs down by the whole seconds that passed.
func aged(rrs []mdns.RR, age time.Duration) []mdns.RR {
	secs := uint32(max(age, 0) / time.Second)
	out := make([]mdns.RR, len(rrs))
	for i, rr := range rrs {
		out[i] = mdns.Copy(rr)
		h := out[i].Header()
		h.Ttl -= min(secs, h.Ttl)
	}
	return out
}

func withTTL(rrs []mdns.RR, ttl uint32) []mdns.RR {
	out := make([]mdns.RR, len(rrs))
	for i, rr := range rrs {
		out[i] = mdns.Copy(rr)
		out[i].Header().Ttl = ttl
	}
	return out
}

// put keeps r for ttl seconds. A failure never displaces an answer that may
// still be served stale; it only delays the next attempt.
func (c *cache) put(k key, r reply, ttl uint32, now time.Time) {
	if ttl == 0 {
		return
	}
	e := &entry{key: k, reply: r, stored: now, ttl: time.Duration(ttl) * time.Second}
	e.cost = entryCost + len(k.name)
	for _, rrs := range [][]mdns.RR{r.answer, r.ns} {
		for _, rr := range rrs {
			e.cost += recordCost + mdns.Len(rr)
		}
	}
	if r.rcode == mdns.RcodeSuccess && len(k.name) < 255 && plainName(k.name) {
		e.wire = newWired(k.name, k.qtype, r.answer, r.ns)
	}
	if e.wire != nil {
		e.cost += len(e.wire.body) + 8*len(e.wire.ttls)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.cost > 64*meanCost || c.max < 1 {
		return
	}
	if el := c.entries[k]; el != nil {
		old := el.Value.(*entry)
		if r.rcode == mdns.RcodeServerFailure && old.reply.rcode != mdns.RcodeServerFailure {
			old.retryAt = now.Add(staleTTL * time.Second)
			return
		}
		c.remove(el)
	}
	c.entries[k] = c.lru.PushFront(e)
	c.cost += e.cost
	for len(c.entries) > c.max || c.cost > c.max*meanCost {
		c.remove(c.lru.Back())
	}
}

func (c *cache) remove(el *list.Element) {
	e := c.lru.Remove(el).(*entry)
	delete(c.entries, e.key)
	c.cost -= e.cost
}

// forget drops what was learned through exits, "" being the uplink.
func (c *cache) forget(exits []string) {
	if len(exits) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, el := range c.entries {
		if slices.Contains(exits, k.exit) {
			c.remove(el)
		}
	}
}

// resize changes the bound; flush empties the cache.
func (c *cache) resize(size int, flush bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.max = size
	if flush {
		clear(c.entries)
		c.lru.Init()
		c.cost = 0
	}
	for len(c.entries) > c.max {
		c.remove(c.lru.Back())
	}
}
