package relay

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// clock is the time since a table was made, in nanoseconds: what idleness is
// measured by.
type clock struct{ began time.Time }

func (c clock) now() int64 { return int64(time.Since(c.began)) }

// entry is a connection or a flow that counts against the limits.
type entry struct {
	src   netip.Addr
	idle  atomic.Int64 // how long it may be quiet, ns
	last  atomic.Int64 // when something last passed, by the clock
	mu    sync.Mutex
	ended bool
	end   []func() // what ends it, in order
}

// onEnd adds what to do when the entry is ended from outside; when it was
// already, f is called at once.
func (e *entry) onEnd(f func()) {
	e.mu.Lock()
	if !e.ended {
		e.end = append(e.end, f)
		e.mu.Unlock()
		return
	}
	e.mu.Unlock()
	f()
}

// abort ends the entry; its owner notices and removes it.
func (e *entry) abort() {
	e.mu.Lock()
	end := e.end
	e.ended, e.end = true, nil
	e.mu.Unlock()
	for _, f := range end {
		f()
	}
}

// table holds entries up to a limit in all and one for each source.
type table struct {
	clock
	max, maxSource int

	mu      sync.Mutex
	n       int
	sources map[netip.Addr]map[*entry]struct{}
}

func newTable(limit, perSource int) *table {
	return &table{clock: clock{time.Now()}, max: limit, maxSource: perSource, sources: map[netip.Addr]map[*entry]struct{}{}}
}

// add makes an entry, nil when a limit is reached.
func (t *table) add(src netip.Addr, idle time.Duration) *entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	of := t.sources[src]
	if t.n >= t.max || len(of) >= t.maxSource {
		return nil
	}
	if of == nil {
		of = map[*entry]struct{}{}
		t.sources[src] = of
	}
	e := &entry{src: src}
	e.idle.Store(int64(idle))
	e.last.Store(t.now())
	of[e] = struct{}{}
	t.n++
	return e
}

func (t *table) remove(e *entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	of := t.sources[e.src]
	if _, there := of[e]; !there {
		return
	}
	delete(of, e)
	if len(of) == 0 {
		delete(t.sources, e.src)
	}
	t.n--
}

func (t *table) size() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.n
}

// from returns the entries of a source; of all when src is the zero value.
func (t *table) from(src netip.Addr) []*entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []*entry
	if src.IsValid() {
		for e := range t.sources[src] {
			out = append(out, e)
		}
		return out
	}
	for _, of := range t.sources {
		for e := range of {
			out = append(out, e)
		}
	}
	return out
}

// sweep ends idle entries until ctx does; it calls idle for each.
func (t *table) sweep(ctx context.Context, every time.Duration, idle func()) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := t.now()
		for _, e := range t.from(netip.Addr{}) {
			if now-e.last.Load() > e.idle.Load() {
				idle()
				e.abort()
			}
		}
	}
}
