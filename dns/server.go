package dns

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	mdns "github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/lifecycle"
	"github.com/personal-internet-cell/pic/internal/listen"
)

// Config is what a [Server] needs of the rest of the cell.
type Config struct {
	// Logger is required.
	Logger *slog.Logger
	// Dial returns the dialer of an exit, for peers whose exit is not direct.
	// Where it is nil or fails, their foreign names get SERVFAIL and no packet
	// leaves by the uplink.
	Dial func(exit string) (Dialer, error)
	// Direct reaches forwarders by the uplink; nil means sockets of our own
	// that carry [cell.MarkBypass].
	Direct Dialer
	// Roots verify DoT and DoH forwarders; nil means the system's.
	Roots *x509.CertPool
}

// Server answers from the plan it was last given. It is a [lifecycle.Task].
type Server struct {
	log      *slog.Logger
	tables   atomic.Pointer[tables]
	resolver *resolver
	counters counters
	limits   limits
	rate     rate
	bakery   bakery

	base  context.Context // ends when Run does
	stop  context.CancelFunc
	work  sync.WaitGroup
	ready chan struct{}

	mu        sync.Mutex // Apply, Run's end, Status
	listeners *listen.Set[*listener]

	inject  func(name string) // tests: called before a query is answered
	longWay bool              // tests: no answer from wire forms
}

// New makes a server that listens nowhere yet.
func New(c *Config) *Server {
	s := &Server{log: c.Logger, ready: make(chan struct{})}
	s.listeners = listen.New(&listen.Config[*listener]{
		Open: s.open, Close: (*listener).close,
		Opened: func(a netip.AddrPort) { s.log.Info("serving names", "address", a) },
		Closed: func(a netip.AddrPort) { s.log.Info("no longer serving names", "address", a) },
	})
	s.base, s.stop = context.WithCancel(context.Background())
	direct := c.Direct
	if direct == nil {
		direct = &net.Dialer{Control: markBypass}
	}
	s.resolver = &resolver{
		log: c.Logger, cache: newCache(defaultCache), roots: c.Roots, base: s.base, work: &s.work, onPanic: s.counters.panicked,
		upstreams: map[string][]*upstream{}, flights: map[key]*flight{},
		dialer: func(exit string) (Dialer, error) {
			switch {
			case exit == "":
				return direct, nil
			case c.Dial == nil:
				return nil, fmt.Errorf("exit %s carries no names yet", exit)
			}
			return c.Dial(exit)
		},
	}
	_, _ = rand.Read(s.bakery.secret[:]) // never fails (crypto/rand)
	s.rate.seed = maphash.MakeSeed()
	s.limits.perSource = map[netip.Addr]int{}
	s.tables.Store(&tables{})
	return s
}

// markBypass keeps our own questions out of every exit.
func markBypass(_, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(cell.MarkBypass))
	}); cerr != nil {
		return cerr
	}
	return err
}

func (s *Server) String() string { return "dns" }

// Ready is closed once Run has begun; listeners come with Apply.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run keeps the server going until ctx is done, then closes every socket and
// waits for all queries under way. It must be called once.
func (s *Server) Run(ctx context.Context) error {
	close(s.ready)
	<-ctx.Done()
	s.mu.Lock()
	s.stop()
	s.listeners.CloseAll()
	s.mu.Unlock()
	s.work.Wait()
	s.resolver.close()
	return nil
}

// Apply makes the server answer from v: tables by a pointer swap, then
// listeners by address, new ones first; a listener that stays is not touched.
// The error names every address that can't be served; the others are.
func (s *Server) Apply(ctx context.Context, v Views) (changed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.base.Err() != nil {
		return false, errors.New("applying the views: the name server has stopped")
	}
	if err := ctx.Err(); err != nil {
		return false, fmt.Errorf("applying the views: %w", err)
	}
	old := s.tables.Load()
	if !old.plan.Equal(v) {
		t, err := buildTables(v, old)
		if err != nil {
			return false, err
		}
		s.resolver.configure(&v)
		s.tables.Store(t)
		changed = true
	}
	moved, err := s.listeners.Apply(v.Listen)
	return changed || moved, err
}

// Plan returns the plan that is answered from. It is read-only.
func (s *Server) Plan() Views { return s.tables.Load().plan }

// Flush empties the cache of forwarded answers.
func (s *Server) Flush() { s.resolver.flush() }

// origin is where a query came from, as far as the kernel vouches for it.
type origin struct {
	src  netip.Addr
	link string // ingress interface; "" when unknown
	tcp  bool
}

// respond answers one message by send. What has to wait for a forwarder is
// returned instead, as a function that the caller must call once, in a
// goroutine of its own; nil means done. wire is not kept.
func (s *Server) respond(wire []byte, from origin, send func([]byte)) (later func()) {
	q, ok := parseQuery(wire)
	if !ok {
		s.counters.dropped.Add(1)
		return nil
	}
	if s.inject != nil {
		s.inject(q.lower)
	}
	lifecycle.Fault("dns slow path")
	t := s.tables.Load()
	a := t.audience(from.link, from.src)
	genuine := false
	if q.cookie != nil {
		now := time.Now()
		genuine = s.bakery.genuine(q.cookie, from.src, now)
		q.baked = s.bakery.bake(q.cookie, from.src, now)
	}
	finish := func(r reply) {
		limit := q.size
		switch {
		case from.tcp:
			limit = mdns.MaxMsgSize - 1
		case a != nil && a == t.internet && !genuine:
			// Whoever pretends to be another gets little for what it sends.
			limit = min(limit, amplification*len(wire))
			if !s.rate.take(from.src, time.Now()) {
				limit = 0
				s.counters.limited.Add(1)
			}
		}
		s.counters.count(a, r.rcode)
		if b := q.pack(&r, a != nil && a.recursive, limit); b != nil {
			send(b)
		}
	}
	r, k, done := a.answer(&q)
	if done {
		finish(r)
		return nil
	}
	instead, have := s.resolver.peek(k)
	if have || !s.limits.enter(from.src) {
		finish(join(&q, r, instead))
		return nil
	}
	return func() {
		defer s.limits.leave(from.src)
		ctx, cancel := context.WithTimeout(s.base, resolveTimeout+time.Second)
		defer cancel()
		finish(join(&q, r, s.resolver.resolve(ctx, k, instead)))
	}
}

// answer says what needs no forwarder; otherwise it reports false, with the
// aliases of ours that came first and what to ask.
func (a *audience) answer(q *query) (r reply, k key, done bool) {
	if q.rcodeEarly != 0 {
		return reply{rcode: q.rcodeEarly}, k, true
	}
	if a == nil {
		return reply{rcode: mdns.RcodeRefused}, k, true
	}
	r, ours := a.lookup(q)
	switch {
	case r.chase == "":
		return r, k, true
	case !ours:
		if early, done := a.foreign(q); done {
			return early, k, true
		}
	case !q.rd || !a.recursive:
		return r, k, true // the client may follow the alias itself
	case a.down:
		return servFail, k, true
	case a.noV6 && q.qtype == mdns.TypeAAAA:
		return join(q, r, withoutV6(r.chase)), k, true
	case !a.forwards:
		return r, k, true
	}
	return r, key{exit: a.exit, name: r.chase, qtype: q.qtype, do: q.do, cd: q.cd}, false
}

// foreign says what to answer at once about a name that is not ours.
func (a *audience) foreign(q *query) (reply, bool) {
	switch {
	case !a.recursive || !q.rd || !a.forwards && !a.down:
		return reply{rcode: mdns.RcodeRefused}, true
	case local(q):
		return reply{rcode: mdns.RcodeNameError}, true
	case a.down:
		return servFail, true
	case a.noV6 && q.qtype == mdns.TypeAAAA:
		return withoutV6(q.name), true
	case q.qtype == mdns.TypeANY:
		return reply{answer: []mdns.RR{anyAnswer(q.name)}}, true // RFC 8482 §4.2
	}
	return reply{}, false
}

// join puts what a forwarder said behind the aliases of ours that led there.
func join(q *query, ours, theirs reply) reply {
	if len(ours.answer) == 0 {
		for i, rr := range theirs.answer {
			if rr.Header().Name == q.lower && q.name != q.lower {
				if i == 0 {
					theirs.answer = append([]mdns.RR(nil), theirs.answer...)
				}
				theirs.answer[i] = mdns.Copy(rr)
				theirs.answer[i].Header().Name = q.name
			}
		}
		return theirs
	}
	if theirs.rcode == mdns.RcodeServerFailure {
		return theirs
	}
	return reply{rcode: theirs.rcode, aa: ours.aa, answer: append(ours.answer[:len(ours.answer):len(ours.answer)], theirs.answer...), ns: theirs.ns}
}

const (
	maxPending       = 1024 // queries waiting for forwarders
	maxPendingSource = 128  // of one source, so that one peer can't take all
)

// limits bounds what waits for forwarders.
type limits struct {
	mu        sync.Mutex
	total     int
	perSource map[netip.Addr]int
}

func (l *limits) enter(a netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= maxPending || l.perSource[a] >= maxPendingSource {
		return false
	}
	l.total++
	l.perSource[a]++
	return true
}

func (l *limits) leave(a netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.perSource[a]--; l.perSource[a] == 0 {
		delete(l.perSource, a)
	}
}

// listenError adds the cure to what the kernel says.
func listenError(network string, a netip.AddrPort, err error) error {
	return listen.Problem(network, a, err, fmt.Sprintf("another name server holds it (ss -lnp 'sport = :%d' names it): stop that one, or start the cell with another --dns-port", a.Port()))
}
