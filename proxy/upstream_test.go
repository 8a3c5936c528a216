package proxy_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/netnstest"
	"github.com/personal-internet-cell/pic/proxy"
)

const lanHost = "s-lan.home.internal" // reachable from the loopback

func TestBothProtocolsReachTheService(t *testing.T) {
	b := backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", "leaky/1.0")
		w.Header().Set("Strict-Transport-Security", "max-age=31536000")
		w.Header().Set("Alt-Svc", `h3=":443"`)
		fmt.Fprintf(w, "%s %s %s", r.Proto, r.Host, r.URL.RequestURI())
	})
	r := run(t, proxy.Config{Dial: toBackend(b)})
	for _, h2 := range []bool{false, true} {
		resp, err := r.client(t, h2).Get("https://" + lanHost + "/a%2Fb?x=1;y=2")
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if (resp.ProtoMajor == 2) != h2 || string(body) != "HTTP/1.1 "+lanHost+" /a%2Fb?x=1;y=2" {
			t.Errorf("h2 %v: %s %q", h2, resp.Proto, body)
		}
		for _, k := range []string{"Server", "Strict-Transport-Security", "Alt-Svc"} {
			if v := resp.Header.Get(k); v != "" {
				t.Errorf("%s: %s came through", k, v)
			}
		}
	}
}

// HTTP-3: what a client says about itself never reaches a service.
func TestHeaderHygiene(t *testing.T) {
	s, f := household(t)
	var got http.Header
	var host string
	b := backend(t, func(_ http.ResponseWriter, r *http.Request) { got, host = r.Header.Clone(), r.Host })
	h := newServer(t, compile(t, s, f), proxy.Config{Dial: toBackend(b)}).Handler()
	forged := []string{
		"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Forwarded-Prefix", "X-Forwarded-User", "Forwarded", "X-Real-Ip", "Remote-User", "Remote-Groups",
		"X-Pic-Peer", "X-Pic-User", "True-Client-Ip", "Cf-Connecting-Ip", "X-Original-Url", "X-Rewrite-Url", "X-Remote-User", "Proxy",
		"X_Forwarded_For", "X_Pic_Peer", "X-Pic_Peer", "Remote_User", "X_Real_Ip", "x_pic_peer", "REMOTE-USER", "Proxy-Connection", "Http2-Settings", "Keep-Alive", "Proxy-Authorization", "Te", "X-Hop",
	}
	ours := map[string]string{"X-Forwarded-For": "10.17.0.3", "X-Forwarded-Host": "s-peers.home.internal", "X-Forwarded-Proto": "https", "X-Real-Ip": "10.17.0.3", "X-Pic-Peer": "phone"}
	ask(h, "10.17.0.3", "S-Peers.home.internal.", func(r *http.Request) {
		for _, k := range forged {
			r.Header[k] = []string{"forged"}
		}
		// Naming our fields hop-by-hop must not remove them.
		r.Header["Connection"] = []string{"close, X-Hop, X-Forwarded-For, X-Pic-Peer"}
		r.Header["Cookie"] = []string{"a=1; __Host-pic=secret; b=2", "__host-pic-csrf=x", "c=3;__Host-picnic=1"}
		r.Header.Set("Authorization", "Basic eDp5")
	})
	for k, v := range got {
		if slices.Contains(v, "forged") || strings.Contains(strings.Join(v, ""), "forged") {
			t.Errorf("%s: %q reached the service", k, v)
		}
	}
	for k, want := range ours {
		if v := got[k]; len(v) != 1 || v[0] != want {
			t.Errorf("%s: %q, want %q", k, v, want)
		}
	}
	if c := got["Cookie"]; !slices.Equal(c, []string{"a=1; b=2", "c=3"}) {
		t.Errorf("cookies %q", c)
	}
	if got.Get("Authorization") == "" || got.Get("Connection") != "" || got.Get("User-Agent") != "" {
		t.Errorf("Authorization %q, Connection %q, User-Agent %q", got.Get("Authorization"), got.Get("Connection"), got.Get("User-Agent"))
	}
	if host != "s-peers.home.internal" {
		t.Errorf("Host %q", host)
	}
	// Identity only from the tunnel, and only to a bridge of ours.
	for _, c := range []struct{ src, host string }{{"192.168.1.50", "s-lan.home.internal"}, {"10.17.0.2", "nas.home.internal"}, {"127.0.0.1", "s-lan.home.internal"}} {
		got = nil
		ask(h, c.src, c.host, func(r *http.Request) { r.Header.Set("X-Pic-Peer", "laptop") })
		if got == nil || got.Get("X-Pic-Peer") != "" {
			t.Errorf("%s from %s: identity %q", c.host, c.src, got.Get("X-Pic-Peer"))
		}
	}
}

// A chunked request may carry fields after its body: none of them pass.
func TestTrailersDoNotPass(t *testing.T) {
	var got atomic.Pointer[http.Header]
	b := backend(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		tr := r.Trailer.Clone()
		got.Store(&tr)
	})
	r := run(t, proxy.Config{Dial: toBackend(b)})
	c := r.dialTLS(t, lanHost)
	fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\nTrailer: X-Pic-Peer\r\n\r\n1\r\na\r\n0\r\nX-Pic-Peer: laptop\r\n\r\n", lanHost)
	if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	if tr := got.Load(); tr == nil || len(*tr) != 0 {
		t.Fatalf("trailers %v", tr)
	}
}

func echo(w http.ResponseWriter, r *http.Request, tag string) {
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return
	}
	defer c.CloseNow()
	for {
		kind, b, err := c.Read(r.Context())
		if err != nil || c.Write(r.Context(), kind, append([]byte(tag), b...)) != nil {
			return
		}
	}
}

func (r *running) websocket(t *testing.T, host string) *websocket.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, "wss://"+host+"/ws", &websocket.DialOptions{HTTPClient: r.client(t, false)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ws.CloseNow() })
	return ws
}

func say(t *testing.T, ws *websocket.Conn, text string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := ws.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
		return "", err
	}
	_, b, err := ws.Read(ctx)
	return string(b), err
}

// A WebSocket keeps its route over a swap, even one that moves the service,
// and ends when its source loses the access.
func TestWebSocketOutlivesASwapButNotItsGrant(t *testing.T) {
	one := backend(t, func(w http.ResponseWriter, r *http.Request) { echo(w, r, "one ") })
	two := backend(t, func(w http.ResponseWriter, r *http.Request) { echo(w, r, "two ") })
	r := run(t, proxy.Config{Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		to := one
		if strings.HasPrefix(addr, "192.168.1.99:") {
			to = two
		}
		return toBackend(to)(ctx, network, addr)
	}})
	old := r.websocket(t, lanHost)
	if got, err := say(t, old, "a"); err != nil || got != "one a" {
		t.Fatal(got, err)
	}
	i := slices.IndexFunc(r.state.Services, func(v cell.Service) bool { return v.ID == "lan" })
	r.state = r.state.Clone()
	r.state.Services[i].Upstream = "http://192.168.1.99:80"
	r.apply(t)
	if got, err := say(t, old, "b"); err != nil || got != "one b" {
		t.Fatal("the old connection:", got, err)
	}
	if got, err := say(t, r.websocket(t, lanHost), "c"); err != nil || got != "two c" {
		t.Fatal("a new connection:", got, err)
	}
	r.state = r.state.Clone()
	r.state.Services[i].Access = cell.AccessPeers
	r.apply(t)
	if got, err := say(t, old, "d"); err == nil {
		t.Fatal("still open without access:", got)
	}
}

// golang/go#80416: a 101 to anything but WebSocket would be a raw tunnel.
func TestOtherUpgradesAreNotTunnelled(t *testing.T) {
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	var open atomic.Int32
	go func() { // switches to whatever it is asked for, and to "evil" unasked
		for {
			c, err := raw.Accept()
			if err != nil {
				return
			}
			open.Add(1)
			go func() {
				defer open.Add(-1)
				defer c.Close()
				rq, err := http.ReadRequest(bufio.NewReader(c))
				if err != nil {
					return
				}
				up := rq.Header.Get("Upgrade")
				if rq.URL.Path == "/swap" {
					up = "evil"
				}
				if up != "" {
					fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\nTUNNEL", up)
					_, _ = io.Copy(io.Discard, c)
					return
				}
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
			}()
		}
	}()
	r := run(t, proxy.Config{Dial: func(ctx context.Context, n, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, n, raw.Addr().String())
	}})
	for _, c := range []struct {
		head string
		want int
	}{
		{"GET / HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n", 200},
		{"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket, h2c\r\n", 200},
		{"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n", 200},
		{"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: TLS/1.2\r\n", 200},
		{"POST / HTTP/1.1\r\nContent-Length: 0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n", 200},
		{"GET / HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n", 200},
		{"GET /swap HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n", 502},
		{"GET /swap HTTP/1.1\r\n", 502},
		{"CONNECT " + lanHost + " HTTP/1.1\r\n", 405},
		{"TRACE / HTTP/1.1\r\n", 405},
		{"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n", 101}, // the one that passes
	} {
		conn := r.dialTLS(t, lanHost)
		fmt.Fprintf(conn, "%sHost: %s\r\n\r\n", c.head, lanHost)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != c.want {
			t.Errorf("%q: %v %v, want %d", c.head, resp, err, c.want)
		}
		conn.Close()
	}
	netnstest.Eventually(t, 5*time.Second, func() error { // golang/go#80875 leaks them
		if n := open.Load(); n != 0 {
			return fmt.Errorf("%d connections to the service left open", n)
		}
		return nil
	})
}

// HTTP-2, the basics: one request in, at most one request out.
func TestSmugglingBasics(t *testing.T) {
	const h = "Host: " + lanHost + "\r\n"
	inner := "GET /smuggled HTTP/1.1\r\n" + h + "\r\n"
	for name, c := range map[string]struct {
		raw  string
		max  int32  // requests that may reach the service
		body string // of the last one
	}{
		"two Host fields":          {"GET / HTTP/1.1\r\n" + h + h + "\r\n", 0, ""},
		"no Host":                  {"GET / HTTP/1.1\r\n\r\n", 0, ""},
		"absolute form, other":     {"GET https://evil.example/ HTTP/1.1\r\n" + h + "\r\n", 0, ""},
		"two lengths":              {"POST / HTTP/1.1\r\n" + h + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 0, ""},
		"negative length":          {"POST / HTTP/1.1\r\n" + h + "Content-Length: -1\r\n\r\n", 0, ""},
		"length with plus":         {"POST / HTTP/1.1\r\n" + h + "Content-Length: +1\r\n\r\na", 0, ""},
		"unknown coding":           {"POST / HTTP/1.1\r\n" + h + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 0, ""},
		"two codings":              {"POST / HTTP/1.1\r\n" + h + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", 0, ""},
		"space before colon":       {"POST / HTTP/1.1\r\n" + h + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 0, ""},
		"folded field":             {"GET / HTTP/1.1\r\n" + h + "X-A: 1\r\n Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n", 1, "/|"},
		"chunk size overflow":      {"POST / HTTP/1.1\r\n" + h + "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\na\r\n0\r\n\r\n", 1, ""},
		"chunked and length":       {"POST / HTTP/1.1\r\n" + h + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 1, "/|hello"},
		"length hides a request":   {fmt.Sprintf("POST / HTTP/1.1\r\n%sContent-Length: %d\r\nConnection: close\r\n\r\n%s", h, len(inner), inner), 1, "/|" + inner},
		"chunk hides a request":    {fmt.Sprintf("POST / HTTP/1.1\r\n%sTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", h, len(inner), inner), 1, "/|" + inner},
		"NUL in a field":           {"GET / HTTP/1.1\r\n" + h + "X-A: a\x00b\r\n\r\n", 0, ""},
		"CR in a field":            {"GET / HTTP/1.1\r\n" + h + "X-A: a\rX-B: b\r\n\r\n", 0, ""},
		"HTTP/2 preface unasked":   {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0, ""},
		"oversized header section": {"GET / HTTP/1.1\r\n" + h + "X-A: " + strings.Repeat("a", 64<<10) + "\r\n\r\n", 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var seen atomic.Int32
			var body atomic.Pointer[string]
			r := run(t, proxy.Config{Dial: toBackend(backend(t, func(w http.ResponseWriter, r *http.Request) {
				seen.Add(1)
				x, _ := io.ReadAll(r.Body)
				s := r.URL.Path + "|" + string(x)
				body.Store(&s)
				fmt.Fprint(w, "ok")
			}))})
			conn := r.dialTLS(t, lanHost)
			_, _ = io.WriteString(conn, c.raw) // a refusal may come before the end
			answers, _ := io.ReadAll(conn)
			if n := strings.Count(string(answers), "HTTP/1.1 "); n != 1 || seen.Load() > c.max {
				t.Errorf("%d answers, %d requests at the service:\n%s", n, seen.Load(), answers)
			}
			if got := body.Load(); c.body != "" && (got == nil || *got != c.body) {
				t.Errorf("the service read %v", got)
			}
		})
	}
}

func TestALargeUploadIsStreamed(t *testing.T) {
	const size = 64 << 20
	heap := func() uint64 {
		// Without a collection the figure is what the collector left lying, which
		// the race detector multiplies.
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	var most atomic.Uint64
	b := backend(t, func(w http.ResponseWriter, r *http.Request) {
		var total int64
		for {
			n, err := io.CopyN(io.Discard, r.Body, size/16)
			most.Store(max(most.Load(), heap()))
			if total += n; err != nil {
				fmt.Fprint(w, total, " ", err)
				return
			}
		}
	})
	r := run(t, proxy.Config{Dial: toBackend(b)})
	for _, h2 := range []bool{false, true} {
		before := heap()
		most.Store(0)
		resp, err := r.client(t, h2).Post("https://"+lanHost+"/", "application/octet-stream", io.LimitReader(zeros{}, size))
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if want := fmt.Sprint(size, " EOF"); string(got) != want {
			t.Errorf("h2 %v: %s", h2, got)
		}
		if grown := int64(most.Load()) - int64(before); grown > size/4 {
			t.Errorf("h2 %v: the heap grew by %d MiB for %d MiB", h2, grown>>20, size>>20)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestEventStreamsFlowAtOnce(t *testing.T) {
	release := make(chan struct{})
	b := backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: one\n\n")
		w.(http.Flusher).Flush()
		<-release
	})
	defer close(release)
	r := run(t, proxy.Config{Dial: toBackend(b)})
	resp, err := r.client(t, true).Get("https://" + lanHost + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if line, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil || line != "data: one\n" {
		t.Fatal(line, err)
	}
}

func TestMaintenancePage(t *testing.T) {
	s, f := household(t)
	s.Services[2].Name = `<script>"Files" & more`
	h := newServer(t, compile(t, s, f), proxy.Config{Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	}}).Handler()
	for accept, want := range map[string]string{"text/html,*/*": "text/html; charset=utf-8", "*/*": "application/problem+json"} {
		got := ask(h, "10.17.0.2", "s-peers.home.internal", func(r *http.Request) { r.Header.Set("Accept", accept) })
		body, _ := io.ReadAll(got.Body)
		if got.StatusCode != 503 || got.Header.Get("Retry-After") != "10" || got.Header.Get("Content-Type") != want || strings.Contains(string(body), "<script>") {
			t.Errorf("%s: %d %v\n%s", accept, got.StatusCode, got.Header, body)
		}
	}
	got := ask(h, "10.17.0.3", "s-granted.home.internal", func(r *http.Request) { r.Header.Set("Accept", "text/html") })
	if body, _ := io.ReadAll(got.Body); got.StatusCode != 403 || !strings.Contains(string(body), "The granted") {
		t.Errorf("%d %s", got.StatusCode, body)
	}
}

// A request that may change something is sent once, whatever happens to it;
// one that reads is sent again when an idle connection turns out dead.
func TestOnlyIdempotentRequestsAreRetried(t *testing.T) {
	var gets, posts atomic.Int32
	b := backend(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		n := gets.Add(1)
		if r.Method == http.MethodPost {
			gets.Add(-1)
			posts.Add(1)
		}
		if r.URL.Path == "/warm" || (r.Method == http.MethodGet && n > 2) {
			return
		}
		c, _, err := w.(http.Hijacker).Hijack() // dies after reading the request
		if err == nil {
			c.Close()
		}
	})
	s, f := household(t)
	h := newServer(t, compile(t, s, f), proxy.Config{Dial: toBackend(b)}).Handler()
	to := func(method, path string) int {
		return ask(h, "10.17.0.2", "s-peers.home.internal", func(r *http.Request) {
			r.Method, r.URL.Path = method, path
			if method == http.MethodPost {
				r.Body, r.ContentLength = io.NopCloser(strings.NewReader("x")), 1
			}
		}).StatusCode
	}
	if got := to("GET", "/warm"); got != 200 {
		t.Fatal(got)
	}
	if got := to("POST", "/"); got != 502 || posts.Load() != 1 {
		t.Errorf("POST: %d, sent %d times", got, posts.Load())
	}
	if got := to("GET", "/warm"); got != 200 {
		t.Fatal(got)
	}
	gets.Store(1)
	if got := to("GET", "/"); got != 200 || gets.Load() != 3 {
		t.Errorf("GET: %d, count %d", got, gets.Load())
	}
}

func TestAPanicEndsOneRequestAndIsCounted(t *testing.T) {
	r := run(t, proxy.Config{Local: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/boom" {
			panic("boom")
		}
	})})
	c := r.client(t, false)
	if _, err := c.Get("https://home.internal/boom"); err == nil {
		t.Error("a panic was answered")
	}
	if resp, err := c.Get("https://home.internal/"); err != nil || resp.StatusCode != 200 {
		t.Error(resp, err)
	}
	if n := r.Stats().Panics; n != 1 {
		t.Errorf("%d panics counted", n)
	}
	netnstest.Eventually(t, 5*time.Second, func() error {
		if n := r.Stats().Requests; n != 2 {
			return fmt.Errorf("%d requests", n)
		}
		return nil
	})
}

func FuzzHost(f *testing.F) {
	s, facts := household(f)
	reached := false
	h := newServer(f, compile(f, s, facts), proxy.Config{Local: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true })}).Handler()
	for _, x := range []string{"home.internal", "HOME.internal.:443", "[fd02:300::1]:443", "192.168.1.10", "evil", "[", "[]:1", ":", "a:b:c", "[::ffff:1.2.3.4]"} {
		f.Add(x)
	}
	own := []string{"home.internal", "api.home.internal", "pic.home.internal"}
	f.Fuzz(func(t *testing.T, host string) {
		for _, sni := range []string{"", host, "home.internal"} {
			reached = false
			r := httptest.NewRequest("GET", "/", nil)
			r.Host, r.RemoteAddr = host, "192.168.1.50:1"
			w := httptest.NewRecorder()
			h.ServeHTTP(w, withSNI(r, sni))
			if !reached {
				if w.Code < 400 {
					t.Fatalf("%q: %d", host, w.Code)
				}
				continue
			}
			bare := strings.TrimSuffix(host, ":443")
			a, err := netip.ParseAddr(strings.Trim(bare, "[]"))
			if err == nil && slices.Contains(compile(t, s, facts).Addresses, a) {
				continue
			}
			if !slices.Contains(own, strings.TrimSuffix(strings.ToLower(bare), ".")) {
				t.Fatalf("Host %q reached the API", host)
			}
		}
	})
}
