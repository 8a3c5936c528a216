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
	conf      []cell.Forwarder
	rebindOK  []string
	upstreams map[string][]*upstream // by exit
	flights   map[key]*flight
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
	changed := !slices.Equal(r.conf, v.Forwarders)
	if changed {
		r.conf = v.Forwarders
		r.closeUpstreams()
	}
	// What was let through by an older list must not be served under this one.
	flush := changed || !slices.Equal(r.rebindOK, v.RebindAllow)
	r.rebindOK = v.RebindAllow
	r.cache.resize(v.CacheSize, flush)
}

// closeUpstreams is called with mu held.
func (r *resolver) closeUpstreams() {
	for _, us := range r.upstreams {
		for _, u := range us {
			u.close()
		}
	}
	r.upstreams = map[string][]*upstream{}
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
		for _, c := range r.conf {
			us = append(us, newUpstream(c, r.roots, func() (Dialer, error) { return r.dialer(k.exit) }))
		}
		r.upstreams[k.exit] = us
	}
	rebind := !slices.ContainsFunc(r.rebindOK, func(d string) bool { return under(k.name, d) })
	f := &flight{done: make(chan struct{}), reply: servFail}
	r.flights[k] = f
	r.work.Go(func() {
		defer func() {
			r.mu.Lock()
			delete(r.flights, k)
			r.mu.Unlock()
			close(f.done)
		}()
		if err := lifecycle.Protect(r.log, "dns forwarder", func() error {
			f.reply = r.ask(us, k, rebind)
			return nil
		}); err != nil {
			r.onPanic()
		}
	})
	return f
}

// ask tries the forwarders in order, those that failed of late last.
func (r *resolver) ask(us []*upstream, k key, rebind bool) reply {
	ctx, cancel := context.WithTimeout(r.base, resolveTimeout)
	defer cancel()
	now := time.Now()
	order := slices.Clone(us)
	slices.SortStableFunc(order, func(a, b *upstream) int {
		return boolOrder(a.resting(now)) - boolOrder(b.resting(now))
	})
	for _, u := range order {
		actx, acancel := context.WithTimeout(ctx, attemptTimeout)
		m, err := u.exchange(actx, k)
		acancel()
		if err == nil && (m.Rcode == mdns.RcodeSuccess || m.Rcode == mdns.RcodeNameError) {
			u.answered()
			rep, ttl := accept(m, k, rebind)
			r.cache.put(k, rep, ttl, time.Now())
			return rep
		}
		if err != nil {
			u.failed(time.Now(), err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	r.cache.put(k, servFail, failureTTL, time.Now())
	return servFail
}

func boolOrder(b bool) int {
	if b {
		return 1
	}
	return 0
}
