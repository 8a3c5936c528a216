package exits_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/exits"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	netnstest.Main(m, helpers())
	return 0
}

// fakeUpstream is a server behind a dialed exit.
type fakeUpstream struct {
	mu     sync.Mutex
	err    error // of Check
	dial   error // of DialContext
	udp    bool
	runs   int
	dials  int
	checks int
}

func (u *fakeUpstream) Run(ctx context.Context) error {
	u.mu.Lock()
	u.runs++
	u.mu.Unlock()
	<-ctx.Done()
	return nil
}

func (u *fakeUpstream) Check(context.Context) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.checks++
	return u.err
}

func (u *fakeUpstream) UDP() bool                 { u.mu.Lock(); defer u.mu.Unlock(); return u.udp }
func (u *fakeUpstream) set(f func(*fakeUpstream)) { u.mu.Lock(); defer u.mu.Unlock(); f(u) }

func (u *fakeUpstream) DialContext(context.Context, string, string) (net.Conn, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.dials++
	if u.dial != nil {
		return nil, u.dial
	}
	a, b := net.Pipe()
	_ = b.Close()
	return a, nil
}

// fakeRelay remembers what it was asked to end.
type fakeRelay struct {
	mu      sync.Mutex
	dial    exits.DialFrom
	ended   []netip.Addr
	running bool
	fail    error
}

func (r *fakeRelay) Run(ctx context.Context) error {
	r.mu.Lock()
	if r.running {
		panic("two relays on one port")
	}
	if r.fail != nil {
		defer r.mu.Unlock()
		return r.fail
	}
	r.running = true
	r.mu.Unlock()
	<-ctx.Done()
	time.Sleep(100 * time.Millisecond) // of the bubble: it takes a moment to end
	r.mu.Lock()
	r.running = false
	r.mu.Unlock()
	return nil
}

func (r *fakeRelay) CloseFrom(a netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = append(r.ended, a)
}

func (r *fakeRelay) Traffic() exits.Traffic {
	return exits.Traffic{Connections: 2, Received: 100, Sent: 10}
}

type fakeChild struct {
	mu sync.Mutex
	st exits.ChildStatus
}

func (c *fakeChild) Run(ctx context.Context) error { <-ctx.Done(); return nil }
func (c *fakeChild) Status() exits.ChildStatus     { c.mu.Lock(); defer c.mu.Unlock(); return c.st }
func (c *fakeChild) set(st exits.ChildStatus)      { c.mu.Lock(); defer c.mu.Unlock(); c.st = st }

type pins struct {
	mu sync.Mutex
	m  map[string]string
}

func (p *pins) LoadPin(s string) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.m[s], nil
}

func (p *pins) SavePin(s, k string) error { p.mu.Lock(); defer p.mu.Unlock(); p.m[s] = k; return nil }

// world is a controller among fakes, in a synctest bubble.
type world struct {
	t         *testing.T
	c         *exits.Controller
	state     *cell.State
	upstreams map[string]*fakeUpstream // by exit
	routed    map[string]*fakeUpstream
	relays    map[uint16]*fakeRelay
	children  map[string]*fakeChild
	around    map[string]*exits.Around
	pins      *pins
	names     map[string][]netip.Addr
	lookups   int
	handshake time.Time

	mu      sync.Mutex
	facts   map[string]cell.ExitFact
	chains  map[string]string
	reports int
}

func get[K comparable, V any](mu *sync.Mutex, m map[K]*V, k K) *V {
	mu.Lock()
	defer mu.Unlock()
	if m[k] == nil {
		m[k] = new(V)
	}
	return m[k]
}

// inBubble runs f around a running controller in a bubble of time.
func inBubble(t *testing.T, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{
			t: t, state: &cell.State{}, upstreams: map[string]*fakeUpstream{}, routed: map[string]*fakeUpstream{}, relays: map[uint16]*fakeRelay{},
			children: map[string]*fakeChild{}, around: map[string]*exits.Around{}, pins: &pins{m: map[string]string{}}, names: map[string][]netip.Addr{},
		}
		w.state.Identity.Timezone = "Europe/Berlin"
		w.c = exits.New(&exits.Config{
			Secret: func(r cell.SecretRef) (cell.Secret, error) {
				if r == "lost" {
					return cell.Secret{}, errors.New("no such file")
				}
				return cell.NewSecret(string(r)), nil
			},
			Report: func(e map[string]cell.ExitFact, c map[string]string) {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.facts, w.chains, w.reports = e, c, w.reports+1
			},
			Handshake: func(string) (time.Time, bool) { w.mu.Lock(); defer w.mu.Unlock(); return w.handshake, true },
			Resolve: func(_ context.Context, host string) ([]netip.Addr, error) {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.lookups++
				if w.names[host] == nil {
					return nil, errors.New("no such host")
				}
				return w.names[host], nil
			},
			Pins: w.pins, Echo: []string{}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
			Parts: &exits.Parts{
				Upstream: func(e *exits.Exit, _ cell.Secret, a *exits.Around) (exits.Upstream, error) {
					w.mu.Lock()
					w.around[e.ID] = a
					w.mu.Unlock()
					return get(&w.mu, w.upstreams, e.ID), nil
				},
				Tor: func(e *exits.Exit, _ func()) (exits.Child, exits.Upstream) {
					return get(&w.mu, w.children, e.ID), get(&w.mu, w.upstreams, e.ID)
				},
				OpenVPN: func(e *exits.Exit, _, _ cell.Secret, _ func(), _ func() bool) exits.Child {
					return get(&w.mu, w.children, e.ID)
				},
				Relay: func(e *exits.Exit, d exits.DialFrom) exits.Relay {
					r := get(&w.mu, w.relays, e.RelayPort)
					r.dial = d
					return r
				},
				Routed: func(e *exits.Exit) exits.Dialer { return get(&w.mu, w.routed, e.ID) },
			},
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.c.Run(ctx) }()
		f(w)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func (w *world) upstream(id string) *fakeUpstream { return get(&w.mu, w.upstreams, id) }

// apply applies the state twice; the second time must change nothing.
func (w *world) apply() {
	w.t.Helper()
	w.mu.Lock()
	facts := cell.Facts{Exits: maps.Clone(w.facts), Chains: maps.Clone(w.chains)}
	w.mu.Unlock()
	plan, err := exits.Compile(w.state, facts)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.c.Apply(w.t.Context(), plan); err != nil {
		w.t.Fatal(err)
	}
	again, _ := exits.Compile(w.state, facts)
	if changed, err := w.c.Apply(w.t.Context(), again); changed || err != nil {
		w.t.Errorf("applied twice: changed %v, %v", changed, err)
	}
}

// after lets time pass and everything come to rest.
func (w *world) after(d time.Duration) {
	time.Sleep(d) // of the bubble: no time passes outside
	synctest.Wait()
}

// checked waits until the exit was checked n times more.
func (w *world) checked(id string, n int) {
	w.t.Helper()
	u := w.upstream(id)
	u.mu.Lock()
	want := u.checks + n
	u.mu.Unlock()
	for range 1000 {
		w.after(100 * time.Millisecond)
		u.mu.Lock()
		done := u.checks >= want
		u.mu.Unlock()
		if done {
			w.after(time.Millisecond)
			return
		}
	}
	w.t.Fatalf("%s is not checked", id)
}

func (w *world) status(id string) exits.Status {
	for _, s := range w.c.Status() {
		if s.ID == id {
			return s
		}
	}
	w.t.Fatalf("no status of %s", id)
	return exits.Status{}
}

func (w *world) want(id string, s cell.ExitState) exits.Status {
	w.t.Helper()
	got := w.status(id)
	if got.State != s {
		w.t.Errorf("%s is %s (%s), want %s", id, got.State, got.Reason, s)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if f := w.facts[id]; f.State != s {
		w.t.Errorf("reported of %s: %s, want %s", id, f.State, s)
	}
	return got
}

func (w *world) way(chain, want string) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.chains[chain] != want {
		w.t.Errorf("chain %s leads by %q, want %q", chain, w.chains[chain], want)
	}
}

func (w *world) notice(code, subject string) *cell.Notice {
	for _, n := range w.c.Notices() {
		if n.Code == code && n.Subject == subject {
			return &n
		}
	}
	return nil
}

func proxyExit(id string, slot int) cell.Exit {
	return cell.Exit{ID: id, Type: cell.ExitProxy, Slot: slot, Enabled: true, Proxy: &cell.ProxyExit{Protocol: cell.ProxySOCKS5, Host: "proxy.example", Port: 1080}}
}
