package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

// Limits of requests to us. There is no limit on how long an answer may take:
// downloads, event streams and WebSockets last.
const (
	readHeaderTimeout = 5 * time.Second
	idleTimeout       = 60 * time.Second
	maxHeader         = 32 << 10
	maxStreams        = 128 // of one HTTP/2 connection
	relisten          = 5 * time.Second
	shutdownGrace     = 2 * time.Second
)

// Config is what a [Server] needs.
type Config struct {
	// Local answers for the cell's own names: UI and API.
	Local http.Handler
	// TLS is the configuration of the HTTPS listener; it chooses certificates.
	TLS *tls.Config
	// HTTPAddr and HTTPSAddr are where to listen, such as ":443"; empty means not at all.
	HTTPAddr, HTTPSAddr string
	// Listen opens a listener; nil listens on TCP, without multipath TCP: its
	// sockets can't be matched by rules that look at the plain protocol.
	Listen func(ctx context.Context, addr string) (net.Listener, error)
	// Dial connects to upstreams; nil dials directly.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// ACME answers validation requests on the HTTP listener; may be nil.
	ACME http.Handler
	Log  *slog.Logger
}

// Server is the reverse proxy. It implements [lifecycle.Task]: Run owns the
// listeners and their connections.
type Server struct {
	cfg   Config
	table atomic.Pointer[table]
	ready chan struct{}
	conns counter

	mu        sync.Mutex // serialises Apply
	applied   Routes
	upstreams map[string]*upstream // by URL

	liveMu sync.Mutex
	live   map[*stream]struct{}

	portMu sync.Mutex
	ports  map[string]error // by listener; nil: listening

	requests, refused, panics atomic.Uint64
}

var _ lifecycle.Task = (*Server)(nil)

// New makes a server without routes: it lets nobody in before the first Apply
// but loopback and private networks, whom it answers 421.
func New(cfg *Config) *Server {
	s := &Server{cfg: *cfg, ready: make(chan struct{}), upstreams: map[string]*upstream{}, live: map[*stream]struct{}{}, ports: map[string]error{}}
	if s.cfg.Listen == nil {
		lc := net.ListenConfig{}
		lc.SetMultipathTCP(false)
		s.cfg.Listen = func(ctx context.Context, addr string) (net.Listener, error) { return lc.Listen(ctx, "tcp", addr) }
	}
	if s.cfg.Dial == nil {
		d := net.Dialer{Timeout: dialTimeout}
		d.SetMultipathTCP(false)
		s.cfg.Dial = d.DialContext
	}
	s.table.Store(newTable(Routes{}, nil, nil))
	return s
}

// Apply swaps the routes. Requests that are under way keep the route they
// began on, except those that are no longer allowed, which it ends.
func (s *Server) Apply(_ context.Context, r Routes) (changed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.applied.Equal(r) {
		return false, nil
	}
	next := make(map[string]*upstream, len(r.Services))
	for i := range r.Services {
		raw := r.Services[i].Upstream
		if next[raw] != nil {
			continue
		}
		if next[raw] = s.upstreams[raw]; next[raw] == nil {
			if next[raw], err = newUpstream(raw, s.cfg.Dial, s.cfg.Log); err != nil {
				return false, fmt.Errorf("routing service %s: %w", r.Services[i].ID, err)
			}
		}
	}
	t := newTable(r, s.table.Load(), func(v *Route) *upstream { return next[v.Upstream] })
	s.table.Store(t)
	s.cut(t)
	for raw, u := range s.upstreams {
		if next[raw] == nil {
			u.transport.CloseIdleConnections()
		}
	}
	s.upstreams, s.applied = next, r
	return true, nil
}

// Run listens until ctx ends. A port that is taken is tried again every 5 s
// while the other one works; [Server.Listening] and [Server.Notices] say so.
// At the end requests have 2 s to finish.
func (s *Server) Run(ctx context.Context) error {
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var wg, tried sync.WaitGroup
	for _, l := range s.listeners(base) {
		tried.Add(1)
		first := sync.OnceFunc(tried.Done)
		wg.Go(func() {
			defer first()
			_ = lifecycle.Guard(ctx, s.cfg.Log, "listener "+l.name, func() { s.panics.Add(1) }, func(ctx context.Context) error {
				s.listen(ctx, l, first)
				return nil
			})
		})
	}
	wg.Go(func() { tried.Wait(); close(s.ready) })
	<-ctx.Done()
	// Guarded loops shut their servers down; what is left after that is cut.
	stop := time.AfterFunc(shutdownGrace, cancel)
	defer stop.Stop()
	wg.Wait()
	cancel()
	s.drain()
	return nil
}

// drain waits for the handlers of connections that were cut, at most 1 s.
func (s *Server) drain() {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 100 {
		s.liveMu.Lock()
		n := len(s.live)
		s.liveMu.Unlock()
		if n == 0 {
			return
		}
		<-tick.C
	}
	s.cfg.Log.Warn("requests did not end in time")
}

// Ready is closed when each listener works or has been found taken.
func (s *Server) Ready() <-chan struct{} { return s.ready }

func (s *Server) String() string { return "proxy" }

// listener is one port and the server on it.
type listener struct {
	name, flag, addr string
	plain            bool
	server           func() *http.Server
}

func (s *Server) listeners(base context.Context) []listener {
	serve := func(h http.Handler, tlsConfig *tls.Config) func() *http.Server {
		return func() *http.Server {
			var p http.Protocols
			p.SetHTTP1(true)
			p.SetHTTP2(tlsConfig != nil)
			return &http.Server{
				Handler:           h,
				TLSConfig:         tlsConfig,
				Protocols:         &p,
				ReadHeaderTimeout: readHeaderTimeout, // covers the TLS handshake too
				IdleTimeout:       idleTimeout,
				MaxHeaderBytes:    maxHeader,
				HTTP2: &http.HTTP2Config{
					MaxConcurrentStreams: maxStreams,
					SendPingTimeout:      30 * time.Second,
					PingTimeout:          15 * time.Second,
					WriteByteTimeout:     time.Minute,
				},
				BaseContext: func(net.Listener) context.Context { return base },
				ErrorLog:    lifecycle.ErrorLog(s.cfg.Log, "proxy connection"),
			}
		}
	}
	var out []listener
	if s.cfg.HTTPSAddr != "" {
		out = append(out, listener{"https", "--https", s.cfg.HTTPSAddr, false, serve(s.Handler(), s.cfg.TLS)})
	}
	if s.cfg.HTTPAddr != "" {
		out = append(out, listener{"http", "--http", s.cfg.HTTPAddr, true, serve(s.RedirectHandler(), nil)})
	}
	return out
}

// listen opens the port, again and again until it can, and serves on it until
// ctx ends.
func (s *Server) listen(ctx context.Context, l listener, tried func()) {
	for ctx.Err() == nil {
		ln, err := s.cfg.Listen(ctx, l.addr)
		if err == nil {
			s.report(l, nil)
			tried()
			err = s.serve(ctx, l, ln)
		}
		if ctx.Err() != nil {
			return
		}
		s.report(l, explain(l, err))
		tried()
		select {
		case <-ctx.Done():
		case <-time.After(relisten):
		}
	}
}

func (s *Server) serve(ctx context.Context, l listener, ln net.Listener) error {
	srv, f := l.server(), &filter{Listener: ln, server: s, name: "listener " + l.name, plain: l.plain}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		grace, cancel := context.WithTimeout(context.Background(), shutdownGrace)
		defer cancel()
		// Shutdown too waits for clients that don't read what closes them.
		cut := time.AfterFunc(shutdownGrace, f.cutAll)
		defer cut.Stop()
		if srv.Shutdown(grace) != nil {
			f.cutAll()
			_ = srv.Close() // all that it could report is closed
		}
	})
	var err error
	if l.plain {
		err = srv.Serve(f)
	} else {
		err = srv.ServeTLS(f, "", "")
	}
	if stop() {
		return errors.Join(err, srv.Close()) // the listener broke, not the context
	}
	<-done
	return nil
}

// explain adds the cure to the failure of a listener.
func explain(l listener, err error) error {
	_, port, splitErr := net.SplitHostPort(l.addr)
	if splitErr != nil {
		port = l.addr
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("port %s/tcp is taken by another program: stop it (ss -ltnp 'sport = :%s' names it) or start pic with %s :PORT: %w", port, port, l.flag, err)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("port %s/tcp needs the capability CAP_NET_BIND_SERVICE: grant it or start pic with %s :PORT above 1023: %w", port, l.flag, err)
	}
	return fmt.Errorf("listening on %s for %s: %w", l.addr, l.name, err)
}

func (s *Server) report(l listener, err error) {
	s.portMu.Lock()
	old, seen := s.ports[l.name]
	s.ports[l.name] = err
	s.portMu.Unlock()
	switch {
	case err == nil:
		s.cfg.Log.Info("web port opened", "listener", l.name, "address", l.addr)
	case !seen || old == nil || old.Error() != err.Error():
		s.cfg.Log.Error("web port not available", "listener", l.name, "error", err)
	}
}

// Listening returns nil when every listener works, and else what is wrong and
// how to mend it. It is apart from [Server.Apply], which must not fail, and
// with it roll a commit back, because of somebody else's port.
func (s *Server) Listening() error {
	s.portMu.Lock()
	defer s.portMu.Unlock()
	return errors.Join(s.ports["https"], s.ports["http"])
}

// Notices tells about listeners that don't work.
func (s *Server) Notices() []cell.Notice {
	s.portMu.Lock()
	defer s.portMu.Unlock()
	var out []cell.Notice
	for name, err := range s.ports {
		if err != nil {
			out = append(out, cell.Notice{Code: "port_unavailable", Subject: name, Severity: cell.Alarm, Text: err.Error()})
		}
	}
	slices.SortFunc(out, func(a, b cell.Notice) int { return strings.Compare(a.Subject, b.Subject) })
	return out
}

// Stats are counters since the start, and Connections open now.
type Stats struct {
	Connections int    `json:"connections"`
	Requests    uint64 `json:"requests"`
	// Refused connections: not admitted, or over a limit.
	Refused uint64 `json:"refused"`
	Panics  uint64 `json:"panics"`
}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	return Stats{s.conns.open(), s.requests.Load(), s.refused.Load(), s.panics.Load()}
}
