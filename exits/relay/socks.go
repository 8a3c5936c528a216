package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/armon/go-socks5"

	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

// SOCKSConfig describes the SOCKS5 server of one exit.
type SOCKSConfig struct {
	ID     string           // of the exit
	Listen []netip.AddrPort // the cell's tunnel addresses; they need not be there yet
	// Allow is asked at every connection.
	Allow func(netip.Addr) bool
	// Dial connects; address is IP:port or name:port, names as the client gave
	// them. It must end with its context.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	MaxConns     int           // in all; 0 means 2048
	MaxPerSource int           // of one source; 0 means 512
	Idle         time.Duration // how long a connection may be quiet; 0 means 2 h 4 min
	Handshake    time.Duration // how long a client may take to say where it wants to go; 0 means 10 s
	Log          *slog.Logger  // nil means none
}

// SOCKS is a SOCKS5 server (RFC 1928) for CONNECT, without authentication:
// the tunnel proves who a client is.
type SOCKS struct {
	cfg   SOCKSConfig
	j     joiner
	once  sync.Once
	ready chan struct{}
}

var _ lifecycle.Task = (*SOCKS)(nil)

// NewSOCKS returns a server that does not listen yet. It copies cfg.
func NewSOCKS(cfg *SOCKSConfig) *SOCKS {
	s := &SOCKS{cfg: *cfg, ready: make(chan struct{})}
	c := &s.cfg
	c.MaxConns = or(c.MaxConns, 2048)
	c.MaxPerSource = or(c.MaxPerSource, 512)
	c.Idle = or(c.Idle, defaultIdle)
	c.Handshake = or(c.Handshake, 10*time.Second)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s.j = joiner{table: newTable(c.MaxConns, c.MaxPerSource), count: new(counters), free: make(pipes, freePipes), idle: c.Idle, log: c.Log}
	return s
}

// Run listens and serves until ctx ends; then it ends all that is open and
// returns when nothing is.
func (s *SOCKS) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer s.j.free.close()
	tasks := []lifecycle.Task{
		lifecycle.Func("socks sweep", func(ctx context.Context) error {
			return s.j.table.sweep(ctx, sweepEvery(s.cfg.Idle), func() { s.j.count.idle.Add(1) })
		}),
		lifecycle.Func("socks end", func(ctx context.Context) error {
			<-ctx.Done()
			closeFrom(netip.Addr{}, s.j.table)
			return nil
		}),
	}
	for _, at := range s.cfg.Listen {
		l, err := listenTCP(ctx, at, freebind)
		if err != nil {
			return fmt.Errorf("listening for the SOCKS server of exit %s: %w", s.cfg.ID, err)
		}
		defer l.Close()
		name := "socks " + at.String()
		tasks = append(tasks, lifecycle.Func(name, func(ctx context.Context) error {
			defer context.AfterFunc(ctx, func() { _ = l.Close() })()
			return lifecycle.Guard(ctx, s.cfg.Log, name, func() { s.j.count.panics.Add(1) }, func(ctx context.Context) error {
				return accept(l, func(c *net.TCPConn) { s.serve(ctx, c) })
			})
		}))
	}
	s.once.Do(func() { close(s.ready) })
	return lifecycle.Run(ctx, tasks...)
}

func (s *SOCKS) serve(ctx context.Context, c *net.TCPConn) {
	src := addrPort(c.RemoteAddr()).Addr()
	if s.cfg.Allow == nil || !s.cfg.Allow(src) {
		s.j.count.refused.Add(1)
		reset(c)
		return
	}
	e := s.j.admit(c, src)
	if e == nil {
		return
	}
	defer s.j.table.remove(e)
	if ctx.Err() != nil { // after "socks end" looked
		e.abort()
	}
	_ = s.j.protect(e, "socks connection", func() error { return s.talk(ctx, e, c) })
	_ = c.Close()
}

// talk has go-socks5 do the protocol. It has no deadlines, so the connection
// has one until the destination is known; it looks names up, so its resolver
// does nothing; it asserts that local addresses are TCP, so the upstream's is;
// and it copies with buffers, so the upstream takes the copying over.
func (s *SOCKS) talk(ctx context.Context, e *entry, c *net.TCPConn) error {
	var t *tunnel
	server, err := socks5.New(&socks5.Config{
		Resolver: noResolver{},
		Logger:   log.New(io.Discard, "", 0),
		Dial: func(_ context.Context, network, address string) (net.Conn, error) {
			_ = c.SetDeadline(time.Now().Add(dialTimeout + s.cfg.Handshake)) // the reply follows
			if !relayableName(address) {
				return nil, replyError("the destination is refused")
			}
			up, err := s.j.dial(ctx, e, func(ctx context.Context) (net.Conn, error) { return s.cfg.Dial(ctx, network, address) })
			if err != nil {
				s.cfg.Log.Debug("socks server could not connect", "exit", s.cfg.ID, "error", err)
				return nil, reply(err)
			}
			t = &tunnel{Conn: up, abort: e.abort, done: make(chan struct{}), join: func() {
				_ = c.SetDeadline(time.Time{})
				_ = s.j.protect(e, "socks connection", func() error {
					s.j.join(e, c, up)
					return nil
				})
			}}
			return t, nil
		},
	})
	if err != nil {
		return fmt.Errorf("starting SOCKS: %w", err)
	}
	_ = c.SetDeadline(time.Now().Add(s.cfg.Handshake))
	// It starts a goroutine for each direction, which touch nothing but the
	// tunnel and end with it.
	_ = server.ServeConn(&plain{Conn: c})
	if t != nil {
		t.end(func() { _ = t.Conn.Close() })
	}
	return nil
}

// plain hides from go-socks5 what a TCP connection can do besides.
type plain struct{ net.Conn }

// tunnel is an upstream as go-socks5 sees it: an end that copies by itself.
type tunnel struct {
	net.Conn
	join  func()
	abort func()
	once  sync.Once
	done  chan struct{}
}

// LocalAddr is a TCP address whatever the upstream is, and no news to anybody.
func (t *tunnel) LocalAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4zero} }

// Write takes what the client sent along with its request.
func (t *tunnel) Write(p []byte) (int, error) {
	n, err := t.Conn.Write(p)
	if err != nil {
		t.abort()
		t.end(func() {})
	}
	return n, err
}

// ReadFrom takes over copying, both ways: nothing that the client sent is left
// to go before.
func (t *tunnel) ReadFrom(io.Reader) (int64, error) {
	t.end(t.join)
	return 0, nil
}

// WriteTo waits until the other direction has copied for both.
func (t *tunnel) WriteTo(io.Writer) (int64, error) {
	<-t.done
	return 0, nil
}

// end does f, if nothing was done before, and waits until what was is over.
func (t *tunnel) end(f func()) {
	t.once.Do(func() {
		defer close(t.done)
		f()
	})
	<-t.done
}

// CloseWrite does nothing: join has done it.
func (t *tunnel) CloseWrite() error { return nil }

// Close does nothing: join does it.
func (t *tunnel) Close() error { return nil }

// noResolver leaves names to the exit.
type noResolver struct{}

func (noResolver) Resolve(ctx context.Context, _ string) (context.Context, net.IP, error) {
	return ctx, nil, nil
}

// relayableName reports whether an address is worth asking the exit for:
// nothing of this host, nor of the exit's.
func relayableName(address string) bool {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" || port == "0" {
		return false
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return relayable(netip.AddrPortFrom(a.Unmap(), 1))
	}
	// RFC 6761 §6.3: it is never looked up, and there it would be the server.
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host != "localhost" && !strings.HasSuffix(host, ".localhost")
}

// replyError is an error by whose words go-socks5 chooses the reply.
type replyError string

func (e replyError) Error() string { return string(e) }

// reply keeps the server's answers to: refused, network unreachable, host
// unreachable.
func reply(err error) error {
	text := err.Error()
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return replyError("host unreachable")
	case strings.Contains(text, "refused"):
		return replyError("refused")
	case strings.Contains(text, "network is unreachable"), strings.Contains(text, "network unreachable"):
		return replyError("network is unreachable")
	}
	return replyError("host unreachable")
}

// Ready is closed once the server listens.
func (s *SOCKS) Ready() <-chan struct{} { return s.ready }

func (s *SOCKS) String() string { return "socks server of exit " + s.cfg.ID }

// Stats returns the counts; those of UDP are zero.
func (s *SOCKS) Stats() Stats {
	c := s.j.count
	return Stats{
		Active: s.j.table.size(), Accepted: c.accepted.Load(), Refused: c.refused.Load(), Failed: c.failed.Load(),
		Idle: c.idle.Load(), Panics: c.panics.Load(), BytesUp: c.up.Load(), BytesDown: c.down.Load(),
	}
}

// CloseFrom ends all connections of a source, which may not use the server any
// more, and returns how many that were.
func (s *SOCKS) CloseFrom(src netip.Addr) int { return closeFrom(src, s.j.table) }
