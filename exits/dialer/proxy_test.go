package dialer_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/exits/dialer"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m, nil) }

func proxyTo(protocol cell.ProxyProtocol, port uint16, user, password string) *dialer.Proxy {
	return dialer.NewProxy(&dialer.ProxyConfig{Protocol: protocol, Host: "127.0.0.1", Port: port, Username: user, Password: cell.NewSecret(password)})
}

// dante is Debian's SOCKS server with UDP.
func dante(t *testing.T, method string) {
	t.Helper()
	conf := file(t, t.TempDir(), "danted.conf", fmt.Sprintf(`logoutput: stderr
internal: 127.0.0.1 port = 1080
external: lo
socksmethod: %s
clientmethod: none
user.privileged: root
user.unprivileged: root
client pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }
socks block { from: 0.0.0.0/0 to: 0.0.0.0/0 port = 25 }
socks pass { from: 0.0.0.0/0 to: 0.0.0.0/0 protocol: tcp udp }
socks pass { from: 0.0.0.0/0 to: ::/0 protocol: tcp udp }
`, method))
	daemon(t, "127.0.0.1:1080", "danted", "-f", conf)
}

func TestSOCKS5ThroughDante(t *testing.T) {
	if !inside(t, "danted", "unshare") {
		return
	}
	internet(t)
	dante(t, "none")
	p := proxyTo(cell.ProxySOCKS5, 1080, "", "")
	if p.UDP() {
		t.Error("UDP is known before anything was asked")
	}
	if err := p.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !p.UDP() {
		t.Error("Check did not find UDP ASSOCIATE")
	}
	reaches(t, p)
	_, err := talk(t.Context(), p, web4+":25", 1)
	want(t, "a destination that the rules forbid", err, dialer.ErrRefused)
	_, err = talk(t.Context(), p, web4+":81", 1)
	want(t, "a destination where nobody listens", err, dialer.ErrRefused)

	// A carrier can be spliced only if nothing is around it.
	c, err := p.DialContext(t.Context(), "tcp", web4+":80")
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := c.(*net.TCPConn); !ok {
		t.Errorf("the connection is a %T", c)
	}
	_ = c.Close()
}

func TestUDPThroughDante(t *testing.T) {
	if !inside(t, "danted", "unshare") {
		return
	}
	internet(t)
	dante(t, "none")
	p := proxyTo(cell.ProxySOCKS5, 1080, "", "")
	for _, host := range []string{web4, webName4} {
		c, err := p.DialContext(t.Context(), "udp", net.JoinHostPort(host, "53"))
		if err != nil {
			t.Fatalf("%s: %v", host, err)
		}
		_ = c.SetDeadline(time.Now().Add(waitFor))
		for _, size := range []int{1, 1200, 9000} { // each stays one datagram
			if _, err := c.Write(make([]byte, size)); err != nil {
				t.Fatalf("%s: %v", host, err)
			}
			b := make([]byte, 65536)
			n, err := c.Read(b)
			if err != nil || n != size+len("echo ") {
				t.Fatalf("%s: a datagram of %d bytes came back with %d: %v", host, size, n, err)
			}
		}
		// Close ends a waiting read, and the association.
		done := make(chan error, 1)
		go func() {
			_, err := c.Read(make([]byte, 10))
			done <- err
		}()
		_ = c.Close()
		if err := <-done; err == nil {
			t.Error("a read of a closed association returned data")
		}
	}
}

func TestSOCKS5Credentials(t *testing.T) {
	if !inside(t, "danted", "microsocks", "unshare") {
		return
	}
	internet(t)
	echo(t)
	dante(t, "username") // the system's accounts
	daemon(t, "127.0.0.1:1081", "microsocks", "-i", "127.0.0.1", "-p", "1081", "-u", "ann", "-P", "secret")
	for _, x := range []struct {
		port uint16
		user string
	}{{1080, "nobody"}, {1081, "ann"}} {
		reachesWithoutHalfClose(t, proxyTo(cell.ProxySOCKS5, x.port, x.user, "secret"))
		for _, bad := range []*dialer.Proxy{
			proxyTo(cell.ProxySOCKS5, x.port, x.user, "secreT"),
			proxyTo(cell.ProxySOCKS5, x.port, "", ""),
			proxyTo(cell.ProxySOCKS5, x.port, x.user, "secret").With("mallory", cell.NewSecret("secret")),
		} {
			_, err := talk(t.Context(), bad, web4+":80", 1)
			want(t, fmt.Sprint("wrong credentials at port ", x.port), err, dialer.ErrAuth)
			want(t, fmt.Sprint("a check with them at port ", x.port), bad.Check(t.Context()), dialer.ErrAuth)
		}
	}
	// microsocks has no UDP: that is no fault.
	p := proxyTo(cell.ProxySOCKS5, 1081, "ann", "secret")
	if err := p.Check(t.Context()); err != nil || p.UDP() {
		t.Errorf("a proxy without UDP: %v, UDP %v", err, p.UDP())
	}
	_, err := p.DialContext(t.Context(), "udp", web4+":53")
	want(t, "UDP through a proxy that has none", err, dialer.ErrRefused)
}

func tinyproxy(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	conf := file(t, dir, "tinyproxy.conf", `Port 8888
Listen 127.0.0.1
Timeout 60
MaxClients 50
BasicAuth ann secret
ConnectPort 80
ConnectPort 81
ConnectPort 82
`)
	daemon(t, "127.0.0.1:8888", "tinyproxy", "-d", "-c", conf)
}

func TestHTTPConnectThroughTinyproxy(t *testing.T) {
	if !inside(t, "tinyproxy", "unshare") {
		return
	}
	internet(t)
	echo(t)
	tinyproxy(t)
	p := proxyTo(cell.ProxyHTTP, 8888, "ann", "secret")
	if err := p.Check(t.Context()); err != nil || p.UDP() {
		t.Errorf("check: %v, UDP %v", err, p.UDP())
	}
	reachesWithoutHalfClose(t, p)
	_, err := talk(t.Context(), p, web4+":25", 1)
	want(t, "a port that the proxy forbids", err, dialer.ErrRefused)
	_, err = talk(t.Context(), p, web4+":81", 1)
	want(t, "a destination where nobody listens", err, dialer.ErrRefused)
	bad := proxyTo(cell.ProxyHTTP, 8888, "ann", "secreT")
	_, err = talk(t.Context(), bad, web4+":80", 1)
	want(t, "a wrong password", err, dialer.ErrAuth)
	want(t, "a check with it", bad.Check(t.Context()), dialer.ErrAuth)
	_, err = p.DialContext(t.Context(), "udp", web4+":53")
	want(t, "UDP", err, dialer.ErrRefused)
}

// echo serves port 82 of both families.
func echo(t *testing.T) {
	t.Helper()
	for _, a := range []string{web4, web6} {
		serve(t, net.JoinHostPort(a, "82"), func(c net.Conn) { _, _ = io.Copy(c, c) })
	}
}

// reachesWithoutHalfClose is reaches for proxies that end both directions when
// one ends, as tinyproxy and microsocks do. It needs echo.
func reachesWithoutHalfClose(t *testing.T, d dialer.Dialer) {
	t.Helper()
	for _, host := range []string{web4, web6, webName} {
		c, err := d.DialContext(t.Context(), "tcp", net.JoinHostPort(host, "82"))
		if err != nil {
			t.Errorf("through %s to %s: %v", d, host, err)
			continue
		}
		_ = c.SetDeadline(time.Now().Add(waitFor))
		sent := make([]byte, 300_000)
		go func() { _, _ = c.Write(sent) }()
		if n, err := io.ReadFull(c, make([]byte, len(sent))); err != nil {
			t.Errorf("through %s to %s: %d bytes, %v", d, host, n, err)
		}
		_ = c.Close()
	}
}

// The front of an HTTPS proxy is ours: Debian has no small one.
func TestHTTPSConnectVerifiesTheProxy(t *testing.T) {
	if !inside(t, "tinyproxy", "unshare") {
		return
	}
	internet(t)
	echo(t)
	tinyproxy(t)
	front := func(until time.Time) (uint16, *x509.CertPool) {
		cert, pool := certificate(t, until)
		return serve(t, "127.0.0.1:0", func(c net.Conn) {
			tc := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}})
			u, err := net.Dial("tcp", "127.0.0.1:8888")
			if err != nil {
				return
			}
			defer u.Close()
			go func() {
				_, _ = io.Copy(u, tc)
				_ = u.(*net.TCPConn).CloseWrite()
			}()
			_, _ = io.Copy(tc, u)
			_ = tc.CloseWrite()
		}), pool
	}
	port, pool := front(time.Now().Add(time.Hour))
	expired, expiredPool := front(time.Now().Add(-time.Hour))
	p := func(port uint16, roots *x509.CertPool, password string) *dialer.Proxy {
		return dialer.NewProxy(&dialer.ProxyConfig{
			Protocol: cell.ProxyHTTPS, Host: "127.0.0.1", Port: port, Roots: roots,
			Username: "ann", Password: cell.NewSecret(password),
		})
	}
	good := p(port, pool, "secret")
	if err := good.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	reachesWithoutHalfClose(t, good)
	_, err := talk(t.Context(), p(port, pool, "secreT"), web4+":80", 1)
	want(t, "a wrong password", err, dialer.ErrAuth)

	err = p(port, nil, "secret").Check(t.Context())
	want(t, "a certificate of nobody we know", err, dialer.ErrUpstream)
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); !ok {
		t.Errorf("the reason is lost: %v", err)
	}
	err = p(expired, expiredPool, "secret").Check(t.Context())
	want(t, "an expired certificate", err, dialer.ErrUpstream)
	if x, ok := errors.AsType[x509.CertificateInvalidError](err); !ok || x.Reason != x509.Expired {
		t.Errorf("the reason is lost: %v", err)
	}
}
