package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

// Config describes the transparent relay of one exit.
type Config struct {
	ID   string // of the exit
	Port uint16 // on 127.0.0.1 and [::1], as the firewall's tproxy rules say
	UDP  bool   // relay UDP too
	// Dial connects to dst for a client at src; network is "tcp" or "udp". It
	// must end with its context. Connections that are a plain *net.TCPConn are
	// spliced. Its errors are told to the client as a reset.
	Dial func(ctx context.Context, network string, dst netip.AddrPort, src netip.Addr) (net.Conn, error)

	MaxConns     int           // TCP, in all; 0 means 16384
	MaxPerSource int           // TCP, of one source; 0 means 4096
	MaxFlows     int           // UDP, in all and of one source a quarter of it; 0 means 4096
	Idle         time.Duration // how long a connection may be quiet; 0 means 2 h 4 min (RFC 5382)
	UDPIdle      time.Duration // … a flow; 0 means 2 min (RFC 4787), and 15 s to port 53
	Log          *slog.Logger  // nil means none
}

// Relay is the way from the firewall to a dialer.
type Relay struct {
	cfg   Config
	tcp   joiner
	flows *table
	udp   udpCounters
	once  sync.Once
	ready chan struct{}
}

var _ lifecycle.Task = (*Relay)(nil)

// Stats are counts since the relay was made, and what is open now.
type Stats struct {
	Active    int    // connections open
	Flows     int    // UDP flows open
	Accepted  uint64 // connections and flows let in
	Refused   uint64 // … turned away: too many, or addressed to the relay itself
	Failed    uint64 // … that the dialer could not connect
	Idle      uint64 // … ended because they were quiet
	Panics    uint64 // … that crashed, and ended alone
	Dropped   uint64 // datagrams that found no way
	BytesUp   uint64 // from clients
	BytesDown uint64 // to clients
}

// New returns a relay that does not listen yet. It copies cfg.
func New(cfg *Config) *Relay {
	r := &Relay{cfg: *cfg, ready: make(chan struct{})}
	c := &r.cfg
	c.MaxConns = or(c.MaxConns, 16384)
	c.MaxPerSource = or(c.MaxPerSource, 4096)
	c.MaxFlows = or(c.MaxFlows, 4096)
	c.Idle = or(c.Idle, defaultIdle)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	r.tcp = joiner{table: newTable(c.MaxConns, c.MaxPerSource), count: new(counters), free: make(pipes, freePipes), idle: c.Idle, log: c.Log}
	r.flows = newTable(c.MaxFlows, max(1, c.MaxFlows/4))
	return r
}

func or[T comparable](v, d T) T {
	if v == *new(T) {
		return d
	}
	return v
}

// Run listens and serves until ctx ends; then it ends all that is open and
// returns when nothing is. A host without IPv6 is served for IPv4.
func (r *Relay) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var tasks []lifecycle.Task
	var closers []func() error
	defer func() {
		for _, f := range closers {
			_ = f()
		}
		r.tcp.free.close()
	}()
	for _, a := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
		at := netip.AddrPortFrom(a, r.cfg.Port)
		l, err := listenTCP(ctx, at, transparent)
		if noFamily(err) && a.Is6() {
			r.cfg.Log.Warn("relay without ipv6", "exit", r.cfg.ID, "error", err)
			continue
		}
		if err != nil {
			return fmt.Errorf("listening for the relay of exit %s: %w", r.cfg.ID, err)
		}
		closers = append(closers, l.Close)
		tasks = append(tasks, r.task("relay tcp "+at.String(), func(ctx context.Context) error {
			defer context.AfterFunc(ctx, func() { _ = l.Close() })()
			return accept(l, func(c *net.TCPConn) { r.serve(ctx, c) })
		}))
		if !r.cfg.UDP {
			continue
		}
		u, err := listenUDP(ctx, at)
		if err != nil {
			return fmt.Errorf("listening for the relay of exit %s: %w", r.cfg.ID, err)
		}
		closers = append(closers, u.Close)
		tasks = append(tasks, r.task("relay udp "+at.String(), func(ctx context.Context) error {
			defer context.AfterFunc(ctx, func() { _ = u.Close() })()
			return r.datagrams(ctx, u)
		}))
	}
	tasks = append(tasks,
		r.task("relay sweep", func(ctx context.Context) error {
			return r.tcp.table.sweep(ctx, sweepEvery(r.cfg.Idle), func() { r.tcp.count.idle.Add(1) })
		}),
		r.task("relay sweep udp", func(ctx context.Context) error {
			return r.flows.sweep(ctx, sweepEvery(or(r.cfg.UDPIdle, dnsIdle)), func() { r.udp.idle.Add(1) })
		}),
		r.task("relay end", func(ctx context.Context) error {
			<-ctx.Done()
			closeFrom(netip.Addr{}, r.tcp.table, r.flows)
			return nil
		}))
	r.once.Do(func() { close(r.ready) })
	return lifecycle.Run(ctx, tasks...)
}

// task runs under Guard: a panic outside of a connection restarts the task.
func (r *Relay) task(name string, run func(context.Context) error) lifecycle.Task {
	return lifecycle.Func(name, func(ctx context.Context) error {
		return lifecycle.Guard(ctx, r.cfg.Log, name, func() { r.tcp.count.panics.Add(1) }, run)
	})
}

func noFamily(err error) bool {
	return errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)
}

func sweepEvery(idle time.Duration) time.Duration {
	return min(max(idle/4, 20*time.Millisecond), 30*time.Second)
}

// serve relays one connection. Its local address is where the client wanted to
// go; what was addressed to the relay itself is refused.
func (r *Relay) serve(ctx context.Context, c *net.TCPConn) {
	src, dst := addrPort(c.RemoteAddr()), addrPort(c.LocalAddr())
	if !relayable(dst) {
		r.tcp.count.refused.Add(1)
		reset(c)
		return
	}
	e := r.tcp.admit(c, src.Addr())
	if e == nil {
		return
	}
	defer r.tcp.table.remove(e)
	if ctx.Err() != nil { // after "relay end" looked
		e.abort()
	}
	_ = r.tcp.protect(e, "relay connection", func() error {
		up, err := r.tcp.dial(ctx, e, func(ctx context.Context) (net.Conn, error) {
			return r.cfg.Dial(ctx, "tcp", dst, src.Addr())
		})
		if err != nil {
			r.cfg.Log.Debug("relay could not connect", "exit", r.cfg.ID, "error", err)
			e.abort()
			return nil
		}
		r.tcp.join(e, c, up)
		return nil
	})
}

// relayable reports whether a destination is one that the firewall sends here.
func relayable(dst netip.AddrPort) bool {
	a := dst.Addr()
	return a.IsValid() && dst.Port() != 0 && !a.IsLoopback() && !a.IsUnspecified() && !a.IsMulticast()
}

func addrPort(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	p := t.AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap().WithZone(""), p.Port())
}

// Ready is closed once the relay listens.
func (r *Relay) Ready() <-chan struct{} { return r.ready }

func (r *Relay) String() string { return "relay of exit " + r.cfg.ID }

// Stats returns the counts.
func (r *Relay) Stats() Stats {
	c, u := r.tcp.count, &r.udp
	return Stats{
		Active: r.tcp.table.size(), Flows: r.flows.size(),
		Accepted: c.accepted.Load() + u.accepted.Load(), Refused: c.refused.Load() + u.refused.Load(),
		Failed: c.failed.Load() + u.failed.Load(), Idle: c.idle.Load() + u.idle.Load(), Panics: c.panics.Load() + u.panics.Load(),
		Dropped: u.dropped.Load(), BytesUp: c.up.Load() + u.up.Load(), BytesDown: c.down.Load() + u.down.Load(),
	}
}

// CloseFrom ends all connections and flows of a source, which has moved to
// another exit, and returns how many that were. The clients see resets.
func (r *Relay) CloseFrom(src netip.Addr) int { return closeFrom(src, r.tcp.table, r.flows) }
