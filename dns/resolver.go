package dns

import (
	"context"
	"crypto/x509"
	"log/slog"
	"slices"
	"sync"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

const (
	attemptTimeout = 2 * time.Second
	resolveTimeout = 5 * time.Second
	// exitTimeout is attemptTimeout through an exit, which may be three relays
	// around the world, and may carry TCP only.
	exitTimeout = 4 * time.Second
	// clientTimeout is when a stale answer is given instead of waiting on
	// (RFC 8767 §5).
	clientTimeout = 1800 * time.Millisecond
	maxFlights    = 512 // questions asked of forwarders at a time
)

// resolver asks forwarders and keeps what they said.
type resolver struct {
	log     *slog.Logger
	dialer  func(exit string) (Dialer, error)
	cache   *cache
	roots   *x509.CertPool
	base    context.Context // ends with the server
	work    *sync.WaitGroup // every flight
	onPanic func()

	mu        sync.Mutex
	conf      map[string][]cell.Forwarder // by exit, "" being the uplink
	rebindOK  []string
	upstreams map[string][]*upstream // by exit
	flights   map[key]*flight
	epoch     int // of the rules that answers are let in by
}

// flight is one question under way; all who ask it wait for the same answer.
type flight struct {
	done  chan struct{}
	reply reply
}

// configure takes over the forwarding part of a plan.
func (r *resolver) configure(v *Views) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := map[string][]cell.Forwarder{"": v.Forwarders}
	for i := range v.Exits {
		if e := &v.Exits[i]; e.Up && len(e.Forwarders) > 0 {
			next[e.ID] = e.Forwarders
		}
	}
	// What an exit was told before it was down, or by other resolvers, may be
	// meant for a place that its users no longer come from.
	var stale []string
	for exit, old := range r.conf {
		if now, ok := next[exit]; !ok || !slices.Equal(old, now) {
			stale = append(stale, exit)
		}
	}
	r.conf = next
	for _, exit := range stale {
		closeAll(r.upstreams[exit])
		delete(r.upstreams, exit)
	}
	// What was let through by an older list must not be served under this one.
	flush := !slices.Equal(r.rebindOK, v.RebindAllow)
	r.rebindOK = v.RebindAllow
	if flush || len(stale) > 0 {
		r.startOver()
	}
	r.cache.forget(stale)
	r.cache.resize(v.CacheSize, flush)
}

// startOver is called with mu held. Flights under way were begun by the old
// rules: whoever waits gets their answers, nobody else does.
func (r *resolver) startOver() {
	r.epoch++
	r.flights = map[key]*flight{}
}

func (r *resolver) flush() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.startOver()
	r.cache.resize(r.cache.status().Limit, true)
}

// closeUpstreams is called with mu held.
func (r *resolver) closeUpstreams() {
	for _, us := range r.upstreams {
		closeAll(us)
	}
	r.upstreams = map[string][]*upstream{}
}

func closeAll(us []*upstream) {
	for _, u := range us {
		u.close()
	}
}

func (r *resolver) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closeUpstreams()
}

// peek answers from the cache alone. Where an answer is about to end, it is
// asked for again meanwhile. When it reports false, the reply is what to say
// if nobody answers: something stale, or SERVFAIL.
func (r *resolver) peek(k key) (reply, bool) {
	rep, f := r.cache.peek(k, time.Now())
	switch f {
	case absent:
		return servFail, false
	case expired:
		return rep, false
	case fading:
		r.start(k)
	}
	return rep, true
}

var servFail = reply{rcode: mdns.RcodeServerFailure}

// resolve asks the forwarders, or waits for the answer to the same question
// asked by somebody else. It gives instead when nobody answers in time.
func (r *resolver) resolve(ctx context.Context, k key, instead reply) reply {
	f := r.start(k)
	if f == nil {
		return instead
	}
	wait := resolveTimeout
	if instead.rcode != mdns.RcodeServerFailure {
		wait = clientTimeout
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-f.done:
		if f.reply.rcode == mdns.RcodeServerFailure {
			return instead
		}
		return f.reply
	case <-timer.C:
	case <-ctx.Done():
	}
	return instead
}

// start begins a flight or joins one; nil means that too many are under way.
func (r *resolver) start(k key) *flight {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f := r.flights[k]; f != nil {
		return f
	}
	if len(r.flights) >= maxFlights || r.base.Err() != nil {
		return nil
	}
	us := r.upstreams[k.exit]
	if us == nil {
		for _, c := range r.conf[k.exit] {
			us = append(us, newUpstream(c, r.roots, func() (Dialer, error) { return r.dialer(k.exit) }))
		}
		r.upstreams[k.exit] = us
	}
	rebind := !slices.ContainsFunc(r.rebindOK, func(d string) bool { return under(k.name, d) })
	epoch := r.epoch
	f := &flight{done: make(chan struct{}), reply: servFail}
	r.flights[k] = f
	r.work.Go(func() {
		defer func() {
			r.mu.Lock()
			if r.flights[k] == f {
				delete(r.flights, k)
			}
			r.mu.Unlock()
			close(f.done)
		}()
		if err := lifecycle.Protect(r.log, "dns forwarder", func() error {
			lifecycle.Fault("dns forwarder")
			var ttl uint32
			f.reply, ttl = r.ask(us, k, rebind)
			r.keep(k, f.reply, ttl, epoch)
			return nil
		}); err != nil {
			r.onPanic()
		}
	})
	return f
}

// keep puts an answer into the cache if the rules it was let in by still hold.
func (r *resolver) keep(k key, rep reply, ttl uint32, epoch int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.epoch == epoch {
		r.cache.put(k, rep, ttl, time.Now())
	}
}

// ask tries the forwarders in order, those that failed of late last. ttl is
// how long the answer may be kept.
func (r *resolver) ask(us []*upstream, k key, rebind bool) (rep reply, ttl uint32) {
	ctx, cancel := context.WithTimeout(r.base, resolveTimeout)
	defer cancel()
	attempt := attemptTimeout
	if k.exit != "" {
		attempt = exitTimeout
	}
	now := time.Now()
	order := slices.Clone(us)
	slices.SortStableFunc(order, func(a, b *upstream) int {
		return boolOrder(a.resting(now)) - boolOrder(b.resting(now))
	})
	for _, u := range order {
		actx, acancel := context.WithTimeout(ctx, attempt)
		m, err := u.exchange(actx, k)
		acancel()
		if err == nil && (m.Rcode == mdns.RcodeSuccess || m.Rcode == mdns.RcodeNameError) {
			u.answered()
			return accept(m, k, rebind)
		}
		if err != nil {
			u.failed(time.Now(), err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return servFail, failureTTL
}

func boolOrder(b bool) int {
	if b {
		return 1
	}
	return 0
}
