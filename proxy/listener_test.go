package proxy_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/certs"
	"github.com/personal-internet-cell/pic/internal/netnstest"
	"github.com/personal-internet-cell/pic/proxy"
)

// pipes is a listener whose connections have the addresses a test gives them.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func newPipes() *pipes { return &pipes{make(chan net.Conn), make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	select {
	case <-p.done:
	default:
		close(p.done)
	}
	return nil
}
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial(src, local string) net.Conn {
	a, b := net.Pipe()
	tcp := func(s string) net.Addr {
		return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(s), 1))
	}
	p.conns <- addressed{b, tcp(local), tcp(src)}
	return a
}

type addressed struct {
	net.Conn
	local, remote net.Addr
}

func (a addressed) LocalAddr() net.Addr  { return a.local }
func (a addressed) RemoteAddr() net.Addr { return a.remote }

// onPipes starts a server whose plain and HTTPS listeners are pipes. It must
// be called in a synctest bubble.
func onPipes(t *testing.T, r proxy.Routes) (s *proxy.Server, https, plain *pipes, stop func()) {
	t.Helper()
	https, plain = newPipes(), newPipes()
	s = newServer(t, r, proxy.Config{HTTPSAddr: "s", HTTPAddr: "p", TLS: ephemeral(t), Listen: func(_ context.Context, addr string) (net.Listener, error) {
		if addr == "s" {
			return https, nil
		}
		return plain, nil
	}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	<-s.Ready()
	return s, https, plain, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// Who is not admitted gets not one byte, on either port, not even a TLS alert.
func TestTheAcceptFilter(t *testing.T) {
	s, f := household(t)
	unclaimed := s.Clone()
	unclaimed.Users, unclaimed.Identity = nil, cell.Identity{}
	public := s.Clone()
	public.Network.PublicWeb = true
	http01 := s.Clone()
	http01.Identity.Mode, http01.Identity.Domain = cell.ModeHTTP01, "home.example.net"
	for _, c := range []struct {
		state        *cell.State
		src, local   string
		https, plain bool
	}{
		{unclaimed, "127.0.0.1", "127.0.0.1", true, true},
		{unclaimed, "192.168.1.50", "192.168.1.10", true, true},
		{unclaimed, "fe80::2", "fe80::1", true, true},
		{unclaimed, "198.51.100.7", "203.0.113.9", false, false},
		{unclaimed, "198.51.100.7", "192.168.1.10", false, false},
		{unclaimed, "192.168.1.50", "203.0.113.9", false, false},
		{unclaimed, "::ffff:198.51.100.7", "::ffff:192.168.1.10", false, false},
		{unclaimed, "::ffff:192.168.1.50", "::ffff:192.168.1.10", true, true},
		{s, "10.17.0.2", "10.17.0.1", true, true},
		{s, "10.17.0.4", "10.17.0.1", false, false},  // expired
		{s, "10.17.0.99", "10.17.0.1", false, false}, // nobody
		{s, "192.168.77.5", "192.168.1.10", true, true},
		{s, "2001:db8:1::5", "2001:db8:1::1", true, true},
		{s, "2001:db8:2::5", "2001:db8:1::1", false, false},
		{s, "172.20.0.2", "172.20.0.1", false, false},
		{s, "198.51.100.7", "203.0.113.9", false, false},
		{public, "198.51.100.7", "203.0.113.9", true, true},
		{public, "10.17.0.99", "10.17.0.1", false, false},
		{http01, "198.51.100.7", "203.0.113.9", false, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			srv, https, plain, stop := onPipes(t, compile(t, c.state, f))
			defer stop()
			check := func(name string, p *pipes, want bool) {
				conn := p.dial(c.src, c.local)
				defer conn.Close()
				// A server that lets us in waits for our first byte.
				_ = conn.SetReadDeadline(time.Now().Add(time.Second))
				n, err := conn.Read(make([]byte, 1))
				if n != 0 || errors.Is(err, os.ErrDeadlineExceeded) != want {
					t.Errorf("%s from %s at %s: %d bytes, %v; want let in %v", name, c.src, c.local, n, err, want)
				}
			}
			check("https", https, c.https)
			check("http", plain, c.plain)
			if got := srv.Stats().Refused > 0; got != (!c.https || !c.plain) {
				t.Errorf("refused %d", srv.Stats().Refused)
			}
		})
	}
}

func TestSlowClientsAreCut(t *testing.T) {
	s, f := household(t)
	r := compile(t, s, f)
	for _, name := range []string{"silent TLS", "dripping header", "idle"} {
		synctest.Test(t, func(t *testing.T) {
			_, https, plain, stop := onPipes(t, r)
			defer stop()
			p, limit := plain, 6*time.Second
			if name == "silent TLS" {
				p = https
			}
			conn := p.dial("192.168.1.50", "192.168.1.10")
			defer conn.Close()
			began := time.Now()
			var wg sync.WaitGroup
			switch name {
			case "dripping header":
				wg.Go(func() {
					for _, b := range []byte("GET / HTTP/1.1\r\nHost: home.internal\r\nX-A: " + strings.Repeat("a", 1000)) {
						if _, err := conn.Write([]byte{b}); err != nil {
							return
						}
						<-time.After(500 * time.Millisecond)
					}
				})
			case "idle":
				limit = 61 * time.Second
				wg.Go(func() { fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: home.internal\r\n\r\n") })
			}
			_, _ = io.Copy(io.Discard, conn) // until it is closed
			if d := time.Since(began); d > limit {
				t.Errorf("%s: held for %v", name, d)
			}
			conn.Close()
			wg.Wait()
		})
	}
}

func TestConnectionsAreCapped(t *testing.T) {
	s, f := household(t)
	r := compile(t, s, f)
	synctest.Test(t, func(t *testing.T) {
		srv, _, plain, stop := onPipes(t, r)
		defer stop()
		var open []net.Conn
		for range 300 {
			open = append(open, plain.dial("192.168.1.50", "192.168.1.10"))
		}
		synctest.Wait()
		if got := srv.Stats(); got.Connections != 256 || got.Refused != 44 {
			t.Errorf("%+v", got)
		}
		other := plain.dial("192.168.1.51", "192.168.1.10")
		synctest.Wait()
		if got := srv.Stats().Connections; got != 257 {
			t.Errorf("another source: %d connections", got)
		}
		for _, c := range append(open, other) {
			c.Close()
		}
		synctest.Wait()
		if got := srv.Stats().Connections; got != 0 {
			t.Errorf("%d connections left", got)
		}
	})
}

// A taken port has an owner and a cure in its message; the other listener
// works meanwhile, and so does this one once the port is free.
func TestATakenPortIsAConditionAndMends(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	s, f := household(t)
	srv := newServer(t, compile(t, s, f), proxy.Config{TLS: ephemeral(t), HTTPSAddr: taken.Addr().String(), HTTPAddr: "127.0.0.1:0"})
	start(t, srv)
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	got := srv.Listening()
	if got == nil || !errors.Is(got, syscall.EADDRINUSE) || !strings.Contains(got.Error(), "port "+port+"/tcp is taken") || !strings.Contains(got.Error(), "--https") {
		t.Errorf("listening: %v", got)
	}
	if n := srv.Notices(); len(n) != 1 || n[0].Subject != "https" || n[0].Severity != cell.Alarm {
		t.Errorf("notices %v", n)
	}
}

func TestATakenPortIsTriedAgain(t *testing.T) {
	s, f := household(t)
	r := compile(t, s, f)
	synctest.Test(t, func(t *testing.T) {
		p, tries := newPipes(), 0
		srv := newServer(t, r, proxy.Config{HTTPAddr: "p:80", Listen: func(context.Context, string) (net.Listener, error) {
			if tries++; tries < 4 {
				return nil, syscall.EADDRINUSE
			}
			return p, nil
		}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- srv.Run(ctx) }()
		<-srv.Ready()
		if srv.Listening() == nil {
			t.Error("no condition while the port is taken")
		}
		<-time.After(16 * time.Second)
		synctest.Wait()
		if err := srv.Listening(); err != nil || len(srv.Notices()) != 0 || tries != 4 {
			t.Errorf("after %d tries: %v %v", tries, err, srv.Notices())
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A stop ends WebSockets and streams too, within its grace.
func TestStopEndsLongRequests(t *testing.T) {
	s, f := household(t)
	r := compile(t, s, f)
	synctest.Test(t, func(t *testing.T) {
		ended := false
		p := newPipes()
		srv := newServer(t, r, proxy.Config{
			HTTPSAddr: "s", TLS: ephemeral(t), Listen: func(context.Context, string) (net.Listener, error) { return p, nil },
			Local: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/long" {
					http.NotFound(w, r)
					return
				}
				<-r.Context().Done()
				ended = true
			}),
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- srv.Run(ctx) }()
		<-srv.Ready()
		// Two that read their answer and nothing more, and one that waits for it.
		var idle []net.Conn
		for range 2 {
			c := tlsClient(p.dial("192.168.1.50", "192.168.1.10"), "home.internal")
			go fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: home.internal\r\n\r\n")
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil || resp.StatusCode != 404 {
				t.Fatal(resp, err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			idle = append(idle, c)
		}
		conn := tlsClient(p.dial("192.168.1.50", "192.168.1.10"), "home.internal")
		var wg sync.WaitGroup
		wg.Go(func() {
			fmt.Fprint(conn, "GET /long HTTP/1.1\r\nHost: home.internal\r\n\r\n")
			_, _ = io.Copy(io.Discard, conn)
		})
		synctest.Wait()
		began := time.Now()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if d := time.Since(began); !ended || d > 4*time.Second {
			t.Errorf("handler ended %v after %v", ended, d)
		}
		if n := srv.Stats().Connections; n != 0 {
			t.Errorf("%d connections left", n)
		}
		for _, c := range append(idle, conn) {
			c.Close()
		}
		wg.Wait()
	})
}

// A WebSocket is no connection of net/http's any more, and ends with the server.
func TestStopEndsWebSockets(t *testing.T) {
	b := backend(t, func(w http.ResponseWriter, r *http.Request) { echo(w, r, "") })
	ctx, cancel := context.WithCancel(t.Context())
	r := prepare(t, proxy.Config{Dial: toBackend(b)})
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	<-r.Ready()
	ws := r.websocket(t, lanHost)
	if got, err := say(t, ws, "a"); err != nil || got != "a" {
		t.Fatal(got, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := r.Stats().Connections; n != 0 {
		t.Errorf("%d connections left when Run returned", n)
	}
	if _, err := say(t, ws, "b"); err == nil {
		t.Error("the WebSocket outlived the server")
	}
}

// serveHelper runs a server inside a namespace: state ("unclaimed",
// "claimed", "public").
func serveHelper(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	t := &helperT{}
	s, f := household(t)
	switch args[0] {
	case "unclaimed":
		s.Users, s.Identity = nil, cell.Identity{}
	case "public":
		s.Network.PublicWeb = true
	}
	r, err := proxy.Compile(s, f)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "certs")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	source, err := certs.New(&certs.Config{Dir: dir, Log: slog.Default()})
	if err != nil {
		return err
	}
	b := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "local for ", r.RemoteAddr) })
	srv := proxy.New(&proxy.Config{Local: b, TLS: source.TLSConfig(), HTTPSAddr: ":443", HTTPAddr: ":80", Log: slog.Default()})
	if _, err := srv.Apply(ctx, r); err != nil {
		return err
	}
	return srv.Run(ctx)
}

// helperT lets household run outside a test.
type helperT struct{ testing.TB }

func (*helperT) Helper()                  {}
func (*helperT) TempDir() string          { d, _ := os.MkdirTemp("", "certs"); return d }
func (*helperT) Context() context.Context { return context.Background() }
func (*helperT) Fatal(args ...any)        { fmt.Fprintln(os.Stderr, args...); os.Exit(1) }

// The filter on real sockets: one box with one interface that is LAN and
// uplink, and a neighbour with addresses of every kind.
func TestTheAcceptFilterOnTheWire(t *testing.T) {
	netnstest.Root(t)
	netnstest.Need(t, "curl")
	for _, c := range []struct {
		state string
		want  map[string]string // source → target → code
	}{
		{"unclaimed", map[string]string{"192.168.1.50 192.168.1.10": "200", "192.168.1.50 203.0.113.9": "000", "198.51.100.7 203.0.113.9": "000", "198.51.100.7 192.168.1.10": "000"}},
		{"claimed", map[string]string{"192.168.1.50 192.168.1.10": "200", "198.51.100.7 203.0.113.9": "000", "10.17.0.99 192.168.1.10": "000", "10.17.0.2 192.168.1.10": "200"}},
		{"public", map[string]string{"192.168.1.50 192.168.1.10": "200", "198.51.100.7 203.0.113.9": "421", "10.17.0.99 192.168.1.10": "000"}},
	} {
		t.Run(c.state, func(t *testing.T) {
			box, out := netnstest.New(t, "box"), netnstest.New(t, "out")
			netnstest.Veth(box, "eth0", []string{"192.168.1.10/24", "203.0.113.9/24"}, out, "eth0", []string{"192.168.1.50/24", "198.51.100.7/24", "10.17.0.99/32", "10.17.0.2/32"})
			box.Exec("ip", "route", "add", "default", "dev", "eth0")
			out.Exec("ip", "route", "add", "default", "dev", "eth0")
			netnstest.Start(t, box.Self("serve", c.state))
			curl := func(src, dst, url string) string {
				o, _ := out.Try("curl", "-sk", "-m", "5", "--interface", src, "-o", "/dev/null", "-w", "%{http_code}", url+dst+"/")
				return o
			}
			netnstest.Eventually(t, 10*time.Second, func() error {
				if got := curl("192.168.1.50", "192.168.1.10", "https://"); got != "200" {
					return fmt.Errorf("answered %q", got)
				}
				return nil
			})
			for pair, want := range c.want {
				src, dst, _ := strings.Cut(pair, " ")
				if got := curl(src, dst, "https://"); got != want {
					t.Errorf("%s to %s: %s, want %s", src, dst, got, want)
				}
			}
			if got := curl("192.168.1.50", "192.168.1.10", "http://"); got != "308" {
				t.Errorf("port 80: %s", got)
			}
		})
	}
}
