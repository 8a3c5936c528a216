package ntp

import (
	"container/list"
	"net/netip"
	"sync"
	"time"
)

const (
	burst      = 16                     // packets a client may send at once: iburst, a restart, a few programs
	refill     = 500 * time.Millisecond // then one per
	kissEvery  = 5 * time.Second        // a client that goes on gets silence in between
	maxClients = 8192
	clientKept = time.Hour // a client that is silent for longer is forgotten
)

type verdict int

const (
	serve verdict = iota
	kiss
	drop
)

// limiter bounds what each source gets. The table is bounded as well: the
// source that was silent longest makes room.
type limiter struct {
	mu      sync.Mutex
	entries map[netip.Addr]*list.Element
	lru     *list.List // front: heard last
}

type client struct {
	addr   netip.Addr
	tokens float64
	heard  time.Time
	kissed time.Time
}

func newLimiter() *limiter {
	return &limiter{entries: map[netip.Addr]*list.Element{}, lru: list.New()}
}

func (l *limiter) take(a netip.Addr, now time.Time) verdict {
	l.mu.Lock()
	defer l.mu.Unlock()
	el := l.entries[a]
	if el == nil {
		l.forget(now)
		if len(l.entries) >= maxClients {
			l.remove(l.lru.Back())
		}
		l.entries[a] = l.lru.PushFront(&client{addr: a, tokens: burst - 1, heard: now})
		return serve
	}
	l.lru.MoveToFront(el)
	c := el.Value.(*client)
	c.tokens = min(c.tokens+float64(max(now.Sub(c.heard), 0))/float64(refill), burst)
	c.heard = now
	switch {
	case c.tokens >= 1:
		c.tokens--
		return serve
	case now.Sub(c.kissed) >= kissEvery:
		c.kissed = now
		return kiss
	}
	return drop
}

// forget drops clients that were not heard of for long.
func (l *limiter) forget(now time.Time) {
	for el := l.lru.Back(); el != nil && now.Sub(el.Value.(*client).heard) > clientKept; el = l.lru.Back() {
		l.remove(el)
	}
}

func (l *limiter) remove(el *list.Element) {
	delete(l.entries, l.lru.Remove(el).(*client).addr)
}

func (l *limiter) clients(now time.Time) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget(now)
	return len(l.entries)
}
