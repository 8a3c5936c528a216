package proxy_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/certs"
	"github.com/personal-internet-cell/pic/internal/lifecycle"
	"github.com/personal-internet-cell/pic/internal/netnstest"
	"github.com/personal-internet-cell/pic/proxy"
)

func TestMain(m *testing.M) {
	netnstest.Main(m, netnstest.Helpers{"serve": serveHelper, "loopback": loopbackHelper})
}

var (
	quiet   = slog.New(slog.DiscardHandler)
	lanAddr = netip.MustParseAddr("192.168.1.10")
	api     = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "local api") })
)

func key(n byte) cell.Key {
	return cell.Key("AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" + string('A'+n) + "=")
}

// household: laptop is granted files and admin, phone nothing; tv has expired.
func household(t testing.TB) (*cell.State, cell.Facts) {
	t.Helper()
	s := cell.Factory([16]byte{1, 2, 3}, "tunnel", "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
	s.Identity = cell.Identity{Name: "home", Mode: cell.ModeLAN}
	s.Users = []cell.User{{Name: "admin", Role: cell.RoleAdmin, PasswordHash: "pw"}}
	s.Network.LAN = []cell.LAN{{Name: "lan", Interface: "eth0", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.168.1.0/24"), netip.MustParsePrefix("2001:db8:1::/64")}}}
	for i, name := range []string{"laptop", "phone", "tv"} {
		v4, v6, err := s.FreeAddresses()
		if err != nil {
			t.Fatal(err)
		}
		s.Peers = append(s.Peers, cell.Peer{Name: name, PublicKey: key(byte(4 * (i + 1))), Address4: v4, Address6: v6, Enabled: true, Destinations: cell.FullTunnel, Trust: cell.TrustGuest})
	}
	for i, a := range []cell.Access{cell.AccessGranted, cell.AccessAdmin, cell.AccessPeers, cell.AccessLAN, cell.AccessInternet} {
		s.Services = append(s.Services, cell.Service{
			ID: string(a), Name: "The " + string(a), Subdomain: "s-" + string(a), Access: a, Enabled: true,
			Upstream: fmt.Sprintf("http://172.20.%d.2:8000", i), Bridge: fmt.Sprintf("br-s%d", i), Prefix4: netip.MustParsePrefix(fmt.Sprintf("172.20.%d.0/24", i)),
		})
	}
	s.Services = append(s.Services, cell.Service{ID: "nas", Subdomain: "nas", Access: cell.AccessPeers, Enabled: true, Upstream: "http://192.168.1.20:80"},
		cell.Service{ID: "off", Subdomain: "off", Access: cell.AccessPeers, Upstream: "http://172.20.99.2:80"})
	s.Peers[0].Services = []string{"granted", "admin"}
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	f := cell.Facts{Expired: []string{"tv"}, Links: map[string]cell.LinkFact{
		"eth0": {Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.1.10/24"), netip.MustParsePrefix("203.0.113.9/24")}},
	}}
	return s, f
}

func compile(t testing.TB, s *cell.State, f cell.Facts) proxy.Routes {
	t.Helper()
	r, err := proxy.Compile(s, f)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// toBackend sends every upstream connection to one test server.
func toBackend(b *httptest.Server) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, b.Listener.Addr().String())
	}
}

func backend(t testing.TB, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	b := httptest.NewServer(h)
	t.Cleanup(b.Close)
	return b
}

func newServer(t testing.TB, r proxy.Routes, c proxy.Config) *proxy.Server {
	t.Helper()
	if c.Local == nil {
		c.Local = api
	}
	c.Log = quiet
	s := proxy.New(&c)
	if _, err := s.Apply(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	return s
}

// ask sends a request through the handler as if it came from src to local.
func ask(h http.Handler, src, host string, edit ...func(*http.Request)) *http.Response {
	r := httptest.NewRequest("GET", "/", nil)
	r.Host = host
	r.RemoteAddr = netip.AddrPortFrom(netip.MustParseAddr(src), 40000).String()
	sni, _, _ := strings.Cut(host, ":")
	if netip.MustParseAddr("::1"); strings.HasPrefix(host, "[") {
		sni = ""
	} else if _, err := netip.ParseAddr(sni); err == nil {
		sni = ""
	}
	r.TLS = &tls.ConnectionState{ServerName: sni}
	r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.Addr(net.TCPAddrFromAddrPort(netip.AddrPortFrom(lanAddr, 443)))))
	for _, e := range edit {
		e(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func TestCompile(t *testing.T) {
	s, f := household(t)
	want, err := os.ReadFile("testdata/household.routes")
	if err != nil {
		t.Fatal(err)
	}
	r := compile(t, s, f)
	if d := cmp.Diff(string(want), r.String()); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(r, compile(t, s.Clone(), f), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); d != "" {
		t.Errorf("not deterministic: %s", d)
	}
	s.Users = nil
	if r := compile(t, s, f); r.Claimed || len(r.Services)+len(r.Peers) != 0 {
		t.Errorf("an unclaimed cell has routes:\n%s", r)
	}
}

// The access matrix: every route from every kind of source, with the public
// web on and off.
func TestAccessMatrix(t *testing.T) {
	s, f := household(t)
	b := backend(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "service") })
	const (
		laptop, phone, tv   = "10.17.0.2", "10.17.0.3", "10.17.0.4"
		laptop6, strangePN  = "fd02:300::2", "10.17.0.77"
		lan, lan6, private  = "192.168.1.50", "2001:db8:1::5", "192.168.77.5"
		container, internet = "172.20.0.2", "198.51.100.7"
		self, loopback      = "192.168.1.10", "127.0.0.1"
	)
	sources := []string{laptop, laptop6, phone, tv, strangePN, lan, lan6, private, container, internet, self, loopback}
	for _, c := range []struct {
		public bool
		host   string
		want   map[string]int // others: see rest
		rest   int
	}{
		{false, "home.internal", map[string]int{tv: 421, strangePN: 421, container: 421, internet: 421}, 200},
		{false, "api.home.internal", map[string]int{tv: 421, strangePN: 421, container: 421, internet: 421}, 200},
		{false, "s-granted.home.internal", map[string]int{laptop: 200, laptop6: 200, phone: 403, lan: 403, lan6: 403, private: 403, self: 403, loopback: 403}, 421},
		{false, "s-admin.home.internal", map[string]int{laptop: 200, laptop6: 200, phone: 403, lan: 403, lan6: 403, private: 403, self: 403, loopback: 403}, 421},
		{false, "s-peers.home.internal", map[string]int{laptop: 200, laptop6: 200, phone: 200, lan: 403, lan6: 403, private: 403, self: 403, loopback: 403}, 421},
		{false, "s-lan.home.internal", map[string]int{laptop: 200, laptop6: 200, phone: 200, lan: 200, lan6: 200, private: 403, self: 200, loopback: 200}, 421},
		{false, "s-internet.home.internal", map[string]int{laptop: 200, laptop6: 200, phone: 200, lan: 200, lan6: 200, private: 403, self: 200, loopback: 200}, 421},
		{true, "home.internal", map[string]int{tv: 421, strangePN: 421, container: 421, internet: 421}, 200},
		{true, "s-granted.home.internal", map[string]int{laptop: 200, laptop6: 200, phone: 403, lan: 403, lan6: 403, private: 403, self: 403, loopback: 403}, 421},
		{true, "s-lan.home.internal", map[string]int{laptop: 200, laptop6: 200, phone: 200, lan: 200, lan6: 200, private: 403, self: 200, loopback: 200}, 421},
		{true, "s-internet.home.internal", map[string]int{tv: 421, strangePN: 421}, 200},
		{true, "off.home.internal", nil, 421},
		{true, "nobody.home.internal", nil, 421},
	} {
		s.Network.PublicWeb = c.public
		h := newServer(t, compile(t, s, f), proxy.Config{Dial: toBackend(b)}).Handler()
		for _, src := range sources {
			want, ok := c.want[src]
			if !ok {
				want = c.rest
			}
			got := ask(h, src, c.host)
			if got.StatusCode != want {
				t.Errorf("public %v: %s from %s: %d, want %d", c.public, c.host, src, got.StatusCode, want)
			}
			if body, _ := io.ReadAll(got.Body); want != 200 && (strings.Contains(string(body), "service\n") || strings.Contains(string(body), "local api")) {
				t.Errorf("%s from %s: the answer came with status %d", c.host, src, want)
			}
		}
	}
}

func TestUnclaimedAnswersOnlyPrivateSourcesAtPrivateAddresses(t *testing.T) {
	s, f := household(t)
	s.Users = nil
	s.Identity = cell.Identity{}
	s.Network.PublicWeb = true
	h := newServer(t, compile(t, s, f), proxy.Config{}).Handler()
	at := func(local string) func(*http.Request) {
		return func(r *http.Request) {
			*r = *r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.Addr(net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(local), 443)))))
		}
	}
	for _, c := range []struct {
		src, local, host string
		want             int
	}{
		{"192.168.1.50", "192.168.1.10", "cell.internal", 200},
		{"192.168.1.50", "192.168.1.10", "192.168.1.10", 200},
		{"169.254.3.4", "169.254.1.1", "169.254.1.1", 200},
		{"fe80::5", "fe80::1", "[fe80::1]", 200},
		{"fd00::5", "fd00::1", "[fd00::1]", 200},
		{"127.0.0.1", "127.0.0.1", "localhost", 200},
		{"::1", "::1", "[::1]:9443", 200},
		{"127.0.0.1", "127.0.0.1", "localhost:9443", 200}, // an SSH forward
		{"127.0.0.1", "127.0.0.1", "cell.internal:9443", 421},
		{"192.168.1.50", "203.0.113.9", "cell.internal", 421},
		{"198.51.100.7", "192.168.1.10", "cell.internal", 421},
		{"198.51.100.7", "203.0.113.9", "cell.internal", 421},
		{"100.64.0.1", "192.168.1.10", "cell.internal", 421},
		{"2001:db8::5", "fd00::1", "cell.internal", 421},
		{"192.168.1.50", "192.168.1.10", "localhost", 421},
		{"192.168.1.50", "192.168.1.10", "s-peers.cell.internal", 421},
	} {
		if got := ask(h, c.src, c.host, at(c.local)); got.StatusCode != c.want {
			t.Errorf("%s to %s at %s: %d, want %d", c.src, c.host, c.local, got.StatusCode, c.want)
		}
	}
}

// WEB-3: no variant of a Host field that a rebinding page or a probe can send
// reaches the API.
func TestForeignHostsNeverReachTheAPI(t *testing.T) {
	s, f := household(t)
	var reached atomic.Int32
	h := newServer(t, compile(t, s, f), proxy.Config{Local: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) })}).Handler()
	long := strings.Repeat("a.", 130) + "home.internal"
	hosts := []string{
		"", "evil.example", "evil.example:443", "home.internal.evil.example", "evilhome.internal", "xhome.internal", "home.internal@evil.example",
		"evil.example@home.internal", "home.internal:80", "home.internal:8443", "home.internal:0", "home.internal:0443", "home.internal:+443", "home.internal:", "home.internal:443:443",
		"home.internal..", ".home.internal", "home..internal", "home_internal", "home.internal\x00", "home.internal ", "home.internal/", "home.internal#", "home.internal?", "hоme.internal",
		"198.51.100.7", "192.168.1.11", "192.168.1", "0xc0a8010a", "3232235786", "192.168.001.010", "0300.0250.1.12", "[::ffff:192.168.1.10]", "[fe80::1%25eth0]", "[::1", "::1", "[]", "[::]", "0.0.0.0", "0",
		"127.0.0.1", "localhost", "localhost.", "127.1", "home.internal,evil.example", "home.internal;evil", long, "*.home.internal", "*", "peers.home.internal", "mail.home.internal",
	}
	for _, host := range hosts {
		for _, sni := range []string{host, ""} {
			got := ask(h, "192.168.1.50", host, func(r *http.Request) { r.TLS.ServerName = sni })
			if got.StatusCode != http.StatusMisdirectedRequest || got.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("Host %q, SNI %q: %d %s", host, sni, got.StatusCode, got.Header.Get("Content-Type"))
			}
			var p struct{ Code, RequestID string }
			if err := json.NewDecoder(got.Body).Decode(&p); err != nil || p.Code != "misdirected" {
				t.Errorf("Host %q: %v %+v", host, err, p)
			}
		}
	}
	if n := reached.Load(); n != 0 {
		t.Fatalf("%d of %d foreign hosts reached the API", n, len(hosts))
	}
	for _, host := range []string{"home.internal", "HOME.Internal", "home.internal.", "home.internal:443", "pic.home.internal", "192.168.1.10", "192.168.1.10:443", "203.0.113.9", "[fd02:300::1]", "[FD02:300:0::1]:443"} {
		if got := ask(h, "192.168.1.50", host); got.StatusCode != 200 {
			t.Errorf("own host %q: %d", host, got.StatusCode)
		}
	}
}

func TestServerNameAndHostMustAgree(t *testing.T) {
	s, f := household(t)
	h := newServer(t, compile(t, s, f), proxy.Config{}).Handler()
	for _, c := range []struct {
		sni, host string
		want      int
	}{
		{"home.internal", "home.internal", 200},
		{"HOME.internal", "home.internal", 200},
		{"s-peers.home.internal", "home.internal", 421},
		{"home.internal", "192.168.1.10", 421},
		{"", "192.168.1.10", 200},
		{"192.168.1.10", "192.168.1.10", 200},
		{"", "home.internal", 421},
	} {
		got := ask(h, "192.168.1.50", c.host, func(r *http.Request) { r.TLS.ServerName = c.sni })
		if got.StatusCode != c.want {
			t.Errorf("SNI %q, Host %q: %d, want %d", c.sni, c.host, got.StatusCode, c.want)
		}
	}
}

func TestApplyTwiceChangesNothing(t *testing.T) {
	s, f := household(t)
	p := proxy.New(&proxy.Config{Local: api, Log: quiet})
	for i, want := range []bool{true, false} {
		if changed, err := p.Apply(t.Context(), compile(t, s.Clone(), f)); err != nil || changed != want {
			t.Fatalf("Apply %d: %v, %v", i+1, changed, err)
		}
	}
	s.Peers[0].Services = nil
	if changed, err := p.Apply(t.Context(), compile(t, s, f)); err != nil || !changed {
		t.Fatalf("a lost grant: %v, %v", changed, err)
	}
}

func TestAServiceCantTakeANameOfTheCell(t *testing.T) {
	s, f := household(t)
	r := compile(t, s, f)
	i := slices.IndexFunc(r.Services, func(v proxy.Route) bool { return v.ID == "peers" })
	r.Services[i].Hosts = append(r.Services[i].Hosts, "home.internal")
	h := newServer(t, r, proxy.Config{}).Handler()
	got := ask(h, "10.17.0.2", "home.internal")
	if body, _ := io.ReadAll(got.Body); string(body) != "local api" {
		t.Fatalf("%d %s", got.StatusCode, body)
	}
}

func TestThePlainPortOnlyRedirects(t *testing.T) {
	s, f := household(t)
	f.Host.HTTPSPort, f.Host.HTTPPort = 8443, 8080
	acme := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "token") })
	for _, c := range []struct {
		mode           cell.DomainMode
		src, host, url string
		want           int
		location       string
	}{
		{cell.ModeLAN, "192.168.1.50", "home.internal", "/a%2Fb?c=d", 308, "https://home.internal:8443/a%2Fb?c=d"},
		{cell.ModeLAN, "192.168.1.50", "HOME.internal.:8080", "/", 308, "https://home.internal:8443/"},
		{cell.ModeLAN, "192.168.1.50", "192.168.1.10", "//evil.example/", 308, "https://192.168.1.10:8443//evil.example/"},
		{cell.ModeLAN, "192.168.1.50", "[fd02:300::1]:8080", "/", 308, "https://[fd02:300::1]:8443/"},
		{cell.ModeLAN, "10.17.0.2", "s-peers.home.internal", "/", 308, "https://s-peers.home.internal:8443/"},
		{cell.ModeLAN, "192.168.1.50", "evil.example", "/", 421, ""},
		{cell.ModeLAN, "192.168.1.50", "home.internal:8443", "/", 421, ""},
		{cell.ModeLAN, "198.51.100.7", "home.internal", "/", 421, ""},
		{cell.ModeLAN, "192.168.1.50", "home.internal", "/.well-known/acme-challenge/x", 308, "https://home.internal:8443/.well-known/acme-challenge/x"},
		{cell.ModeHTTP01, "198.51.100.7", "home.example.net", "/.well-known/acme-challenge/x", 200, ""},
		{cell.ModeHTTP01, "198.51.100.7", "evil.example", "/.well-known/acme-challenge/x", 421, ""},
		{cell.ModeHTTP01, "198.51.100.7", "home.example.net", "/", 421, ""},
	} {
		s.Identity.Mode, s.Identity.Domain = c.mode, ""
		if c.mode == cell.ModeHTTP01 {
			s.Identity.Domain = "home.example.net"
		}
		h := newServer(t, compile(t, s, f), proxy.Config{ACME: acme}).RedirectHandler()
		r := httptest.NewRequest("POST", "http://x"+c.url, nil)
		r.Host, r.RemoteAddr = c.host, netip.AddrPortFrom(netip.MustParseAddr(c.src), 1).String()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != c.want || w.Header().Get("Location") != c.location || w.Header().Get("Strict-Transport-Security") != "" {
			t.Errorf("%s %s%s from %s: %d %q", c.mode, c.host, c.url, c.src, w.Code, w.Header().Get("Location"))
		}
	}
}

// running is a server on real listeners of the loopback, where every client
// is the machine itself.
type running struct {
	*proxy.Server
	state       *cell.State
	facts       cell.Facts
	https, http string
}

func run(t testing.TB, c proxy.Config) *running {
	t.Helper()
	r := prepare(t, c)
	start(t, r.Server)
	return r
}

func prepare(t testing.TB, c proxy.Config) *running {
	t.Helper()
	s, f := household(t)
	r := &running{state: s, facts: f}
	c.TLS, c.Log = ephemeral(t), quiet
	if c.Local == nil {
		c.Local = api
	}
	open := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	secure, plain := open(), open()
	c.HTTPSAddr, c.HTTPAddr = secure.Addr().String(), plain.Addr().String()
	c.Listen = func(_ context.Context, addr string) (net.Listener, error) {
		if addr == c.HTTPSAddr {
			return secure, nil
		}
		return plain, nil
	}
	r.https, r.http = c.HTTPSAddr, c.HTTPAddr
	r.facts.Host.HTTPSPort = netip.MustParseAddrPort(r.https).Port()
	r.facts.Host.HTTPPort = netip.MustParseAddrPort(r.http).Port()
	r.Server = proxy.New(&c)
	r.apply(t)
	return r
}

// start runs the server until the test's end and waits until it listens.
func start(t testing.TB, s *proxy.Server) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- lifecycle.Run(ctx, s) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(5 * time.Second):
			t.Error("the server did not end within 5 s")
		}
	})
	<-s.Ready()
}

func (r *running) apply(t testing.TB) {
	t.Helper()
	if _, err := r.Apply(t.Context(), compile(t, r.state, r.facts)); err != nil {
		t.Fatal(err)
	}
}

// client speaks to the server for any host name.
func (r *running) client(t testing.TB, h2 bool) *http.Client {
	t.Helper()
	var p http.Protocols
	p.SetHTTP1(!h2)
	p.SetHTTP2(h2)
	tr := &http.Transport{
		Protocols:       &p,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		DialContext: func(ctx context.Context, n, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, n, r.https)
		},
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// dialTLS opens a raw connection for a server name.
func (r *running) dialTLS(t testing.TB, sni string) *tls.Conn {
	t.Helper()
	c, err := tls.Dial("tcp", r.https, &tls.Config{InsecureSkipVerify: true, ServerName: sni, NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

func withSNI(r *http.Request, sni string) *http.Request {
	r.TLS = &tls.ConnectionState{ServerName: sni}
	return r
}

func ephemeral(t testing.TB) *tls.Config {
	t.Helper()
	source, err := certs.New(&certs.Config{Dir: t.TempDir(), Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	return source.TLSConfig()
}

func tlsClient(c net.Conn, sni string) *tls.Conn {
	return tls.Client(c, &tls.Config{ServerName: sni, InsecureSkipVerify: true})
}
