package exits

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

// worker is one exit at work.
type worker struct {
	c      *Controller
	exit   atomic.Pointer[Exit]
	cancel context.CancelFunc
	done   chan struct{} // closed when run has returned
	poke   chan struct{} // look now

	mu      sync.Mutex
	health  health
	up      time.Time // since when it carries traffic; zero: it doesn't
	failed  bool      // it was degraded or blocked before
	problem *Problem  // why it is blocked, where a person must act
	latency time.Duration
	v6      sticky
	public  struct{ v4, v6 netip.Addr }
	restart int
	faults  map[string]error // parts that don't run
	servers servers          // of a WireGuard exit
	sources map[netip.Addr]bool

	// Of these the ones that the type has; set before the checks begin.
	upstream Upstream
	child    Child
	relay    Relay
	socks    Socks
	dialer   Dialer // of the exit, whatever its state
}

// maxSources bounds what is remembered of who used a relay.
const maxSources = 4096

func newWorker(c *Controller, e *Exit, cancel context.CancelFunc) *worker {
	w := &worker{c: c, cancel: cancel, done: make(chan struct{}), poke: make(chan struct{}, 1), faults: map[string]error{}, sources: map[netip.Addr]bool{}}
	w.exit.Store(e)
	s := cell.ExitConnecting
	if !e.Enabled {
		s = cell.ExitDisabled
	}
	w.health.enter(s, "", c.conf.Now())
	return w
}

// take takes over what needs no restart, and ends the connections of sources
// that may no longer use the exit.
func (w *worker) take(e *Exit) {
	old := w.exit.Swap(e)
	if !slices.Equal(old.Probes, e.Probes) {
		w.lookNow()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.relay != nil && !slices.Equal(old.Sources, e.Sources) {
		for _, p := range old.Sources {
			if p.IsSingleIP() && !e.leaves(p.Addr()) {
				w.relay.CloseFrom(p.Addr())
			}
		}
		for src := range w.sources { // of whole networks
			if !e.leaves(src) {
				w.relay.CloseFrom(src)
				delete(w.sources, src)
			}
		}
	}
	if w.socks != nil {
		for _, src := range old.Granted {
			if !e.granted(src) {
				w.socks.CloseFrom(src)
			}
		}
	}
}

// leaves reports whether a source leaves by the exit.
func (e *Exit) leaves(src netip.Addr) bool {
	_, ok := slices.BinarySearchFunc(e.Sources, netip.PrefixFrom(src, src.BitLen()), netip.Prefix.Compare)
	return ok || slices.ContainsFunc(e.Sources, func(p netip.Prefix) bool { return p.Contains(src) })
}

func (e *Exit) granted(src netip.Addr) bool {
	_, ok := slices.BinarySearchFunc(e.Granted, src, netip.Addr.Compare)
	return ok
}

func (w *worker) lookNow() {
	select {
	case w.poke <- struct{}{}:
	default:
	}
}

// run works until ctx ends.
func (w *worker) run(ctx context.Context) {
	e := w.exit.Load()
	if !e.Enabled {
		w.c.look()
		return
	}
	parts, err := w.build(ctx, e)
	if err != nil {
		var p *Problem
		if !errors.As(err, &p) {
			p = &Problem{Code: CodeBroken, Text: err.Error()}
		}
		w.mu.Lock()
		w.problem = p
		w.health.block(p.Text, w.c.conf.Now())
		w.mu.Unlock()
		w.c.log.Warn("exit can't be used", "exit", e.ID, "reason", p.Text)
		w.c.look()
		return
	}
	w.c.look() // the tunnel waits for the endpoint
	var wg sync.WaitGroup
	for name, run := range parts {
		wg.Go(func() { w.keep(ctx, name, run) })
	}
	_ = lifecycle.Guard(ctx, w.c.log, "exit "+e.ID, nil, func(ctx context.Context) error {
		w.watch(ctx)
		return nil
	})
	wg.Wait()
}

// build makes the parts of an exit and returns those that run.
func (w *worker) build(ctx context.Context, e *Exit) (map[string]func(context.Context) error, error) {
	if !e.configured() {
		return nil, &Problem{Code: CodeUnconfigured, Text: "the exit has no configuration: give it one, or remove it"}
	}
	credentials, err := w.secret(e.Credentials)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	parts := map[string]func(context.Context) error{}
	around := &Around{Resolve: w.c.resolve, Pin: func(key string) error { return w.pin(e, key) }}
	if w.c.parts.lack(e) {
		return nil, &Problem{Code: CodeBroken, Text: "this program was built without what an exit of its type needs"}
	}
	if e.SSH != nil {
		if around.Pinned, err = w.c.conf.Pins.LoadPin(serverName(e)); err != nil {
			return nil, &Problem{Code: CodeBroken, Text: fmt.Sprintf("the host key that was seen first can't be read (%v): set the server's key in its configuration", err)}
		}
	}
	switch {
	case e.WireGuard != nil:
		if a, err := netip.ParseAddrPort(e.WireGuard.Endpoint); err == nil {
			w.servers.now = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
		}
	case e.OpenVPN != nil:
		profile, err := w.secret(e.OpenVPN.Profile)
		if err != nil {
			return nil, err
		}
		w.child = w.c.parts.OpenVPN(e, credentials, profile, w.lookNow, func() bool { return w.c.base.Err() != nil && !w.c.conf.StopChildren })
	case e.Tor != nil:
		w.child, w.upstream = w.c.parts.Tor(e, w.lookNow)
	case e.SSH != nil || e.Proxy != nil:
		if w.upstream, err = w.c.parts.Upstream(e, credentials, around); err != nil {
			return nil, err
		}
	}
	if w.child != nil {
		parts["program"] = w.child.Run
	}
	if w.upstream != nil {
		parts["connection"] = w.upstream.Run
	}
	w.dialer = w.upstream
	if e.Link != "" {
		w.dialer = w.c.parts.Routed(e)
	}
	if e.RelayPort != 0 {
		w.relay = w.c.parts.Relay(e, w.dialFrom)
		parts["relay"] = w.relay.Run
	}
	if len(e.Socks) > 0 {
		w.socks = w.c.parts.Socks(e, func(src netip.Addr) bool { return w.exit.Load().granted(src.Unmap()) }, w.DialContext)
		parts["SOCKS5 server"] = w.socks.Run
	}
	return parts, nil
}

func (w *worker) secret(ref cell.SecretRef) (cell.Secret, error) {
	if ref == "" {
		return cell.Secret{}, nil
	}
	s, err := w.c.conf.Secret(ref)
	if err != nil {
		return s, &Problem{Code: CodeBroken, Text: fmt.Sprintf("its secret can't be read (%v): enter it again", err)}
	}
	return s, nil
}

// keep runs a part of the exit, again and again when it fails.
func (w *worker) keep(ctx context.Context, name string, run func(context.Context) error) {
	const least, most = time.Second, 30 * time.Second
	pause := least
	for {
		began := time.Now()
		err := lifecycle.Guard(ctx, w.c.log, name+" of exit "+w.exit.Load().ID, nil, run)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("it ended by itself")
		}
		if time.Since(began) > most {
			pause = least
		}
		w.mu.Lock()
		w.faults[name] = fmt.Errorf("its %s does not run: %w", name, err)
		w.restart++
		w.mu.Unlock()
		w.c.log.Warn("part of an exit ended", "exit", w.exit.Load().ID, "part", name, "error", err, "again_after", pause)
		w.lookNow()
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, most)
		w.mu.Lock()
		delete(w.faults, name)
		w.mu.Unlock()
	}
}

// carries returns nil when the exit carries traffic, or why it doesn't.
func (w *worker) carries() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.health.state.Carrying():
		return nil
	case w.health.reason == "":
		return fmt.Errorf("%w: %s", errDown, w.health.state)
	}
	return fmt.Errorf("%w: %s", errDown, w.health.reason)
}

// DialContext opens a connection through the exit, if it carries traffic.
func (w *worker) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if err := w.carries(); err != nil {
		return nil, err
	}
	if w.child != nil && w.upstream != nil {
		// A program of ours that answers names itself does so on a loopback
		// address, which is no destination behind the exit.
		if a, err := netip.ParseAddrPort(address); err == nil && a.Addr().IsLoopback() && slices.Contains(w.child.Status().DNS, a) {
			var d net.Dialer
			return d.DialContext(ctx, network, address)
		}
	}
	if w.upstream != nil && network == "udp" && !w.upstream.UDP() {
		return nil, errNoUDP
	}
	return w.dialer.DialContext(ctx, network, address)
}

// dialFrom dials for the relay. Who leaves by the exit is the firewall's to
// say, and it knows before we do; a source that was moved away while we dialed
// gets nothing.
func (w *worker) dialFrom(ctx context.Context, network string, dst netip.AddrPort, src netip.Addr) (net.Conn, error) {
	src = src.Unmap()
	before := w.exit.Load().leaves(src)
	w.mu.Lock()
	if len(w.sources) < maxSources {
		w.sources[src] = true
	}
	w.mu.Unlock()
	conn, err := w.DialContext(ctx, network, dst.String())
	if err == nil && before && !w.exit.Load().leaves(src) {
		_ = conn.Close()
		return nil, fmt.Errorf("relaying for %s: it was moved to another exit", src)
	}
	return conn, err
}

// fact is what plans depend on of the exit.
func (w *worker) fact() cell.ExitFact {
	e := w.exit.Load()
	w.mu.Lock()
	defer w.mu.Unlock()
	f := cell.ExitFact{State: w.health.state, Endpoint: w.servers.now}
	switch {
	case e.WireGuard != nil:
		f.V6, f.UDP = e.WireGuard.V6, true
	case w.child != nil && w.upstream == nil:
		st := w.child.Status()
		f.Address4, f.Address6, f.DNS, f.V6, f.UDP = st.Address4, st.Address6, slices.Clone(st.DNS), st.Address6.IsValid(), true
	case w.upstream != nil:
		f.V6, f.UDP = w.v6.value, w.upstream.UDP()
		if w.child != nil {
			f.DNS = slices.Clone(w.child.Status().DNS)
		}
	}
	return f
}

func (w *worker) view() view {
	w.mu.Lock()
	defer w.mu.Unlock()
	return view{w.health.state, w.up, !w.failed}
}
