package proxy_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/proxy"
)

// recordingDial leads everything to one server, and remembers where it should
// have gone.
type recordingDial struct {
	to func(context.Context, string, string) (net.Conn, error)

	mu     sync.Mutex
	dialed []string
}

func (d *recordingDial) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d.mu.Lock()
	d.dialed = append(d.dialed, address)
	d.mu.Unlock()
	return d.to(ctx, network, address)
}

// API-8: the proxy connects to the address that stands in the state and to
// nothing that a service names: its redirects go to the client.
func TestRedirectsOfAServiceAreNotFollowed(t *testing.T) {
	for _, location := range []string{
		"http://169.254.169.254/latest/meta-data/", "http://127.0.0.1:8080/", "http://[::ffff:127.0.0.1]/", "http://2130706433/", "http://0x7f.1/",
		"https://home.internal/api/config", "//10.17.0.1/", "file:///etc/passwd", "gopher://10.0.0.1:6379/_FLUSHALL",
	} {
		for _, status := range []int{301, 302, 303, 307, 308} {
			b := backend(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", location)
				w.Header().Set("Refresh", "0; url="+location)
				w.WriteHeader(status)
			})
			d := &recordingDial{to: toBackend(b)}
			s, f := household(t)
			got := ask(newServer(t, compile(t, s, f), proxy.Config{Dial: d.dial}).Handler(), "10.17.0.2", "nas.home.internal")
			if got.StatusCode != status || got.Header.Get("Location") != location {
				t.Errorf("%d to %s: the client gets %d to %s", status, location, got.StatusCode, got.Header.Get("Location"))
			}
			if len(d.dialed) != 1 || d.dialed[0] != "192.168.1.20:80" {
				t.Errorf("%d to %s: dialed %v", status, location, d.dialed)
			}
		}
	}
}

// Nothing in the environment leads the proxy elsewhere either.
func TestTheEnvironmentChoosesNoUpstream(t *testing.T) {
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy"} {
		t.Setenv(name, "http://169.254.169.254:3128")
	}
	b := backend(t, func(http.ResponseWriter, *http.Request) {})
	d := &recordingDial{to: toBackend(b)}
	s, f := household(t)
	ask(newServer(t, compile(t, s, f), proxy.Config{Dial: d.dial}).Handler(), "10.17.0.2", "nas.home.internal")
	if len(d.dialed) != 1 || d.dialed[0] != "192.168.1.20:80" {
		t.Errorf("dialed %v", d.dialed)
	}
}

// An upstream that is this proxy, at whatever address the machine was given,
// is not connected to: the request would come back from the machine's own
// address, which may do more than the client.
func TestAnUpstreamThatIsTheProxyIsNotDialed(t *testing.T) {
	s, f := household(t)
	b := backend(t, func(http.ResponseWriter, *http.Request) {})
	for upstream, want := range map[string]int{
		"https://192.168.1.10:443": 0, "http://192.168.1.10:80": 0, "http://203.0.113.9:80": 0, "http://[::ffff:192.168.1.10]:443": 0, "http://10.17.0.1:80": 0,
		"http://127.0.0.1:443": 0, "http://[::1]:80": 0,
		// A container's published port is a service like others.
		"http://192.168.1.10:8080": 1, "http://192.168.1.20:443": 1,
	} {
		for i := range s.Services {
			if s.Services[i].ID == "nas" {
				s.Services[i].Upstream = upstream // past the state's own checks
			}
		}
		d := &recordingDial{to: toBackend(b)}
		got := ask(newServer(t, compile(t, s, f), proxy.Config{Dial: d.dial}).Handler(), "10.17.0.2", "nas.home.internal")
		if len(d.dialed) != want || want == 0 && got.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("%s: dialed %v, answered %d", upstream, d.dialed, got.StatusCode)
		}
	}
}

// What the state accepts as an upstream is an address of another machine on a
// network of ours, so no name can be made to lead elsewhere later.
func TestUpstreamsThatTheStateRefuses(t *testing.T) {
	s, _ := household(t)
	hosts := []string{
		"127.0.0.1", "127.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001",
		"0.0.0.0", "[::]", "0", "169.254.169.254", "[::ffff:169.254.169.254]", "[fe80::1]", "[fe80::1%25eth0]", "[fd00::1%25eth0]", "10.17.0.1", "[::ffff:10.17.0.1]",
		"224.0.0.1", "[ff02::1]", "255.255.255.255", "8.8.8.8", "[2001:4860:4860::8888]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "100.64.0.1",
		"example.com", "127.0.0.1.nip.io", "rebind.example", "nas.home.internal", "user@192.168.1.20", "192.168.1.20@127.0.0.1", "192.168.1.20:80#@127.0.0.1", "",
		s.Network.Tunnel.Gateway4().String(), "[" + s.Network.Tunnel.Gateway6().String() + "]",
	}
	for _, h := range hosts {
		for _, form := range []string{"http://%s:80", "https://%s:443", "http://%s:80/", "//%s:80", "ftp://%s:21", "file://%s/etc/passwd", "gopher://%s:70"} {
			refused := s.Clone()
			refused.Services[0].Upstream = fmt.Sprintf(form, h)
			if refused.Services[0].Upstream != "" && refused.Validate() == nil {
				t.Errorf("%s is accepted", refused.Services[0].Upstream)
			}
		}
	}
	good := s.Clone()
	good.Services[0].Upstream = "http://192.168.1.20:8080"
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	if a := (&cell.Service{Upstream: "http://192.168.1.20:8080"}).UpstreamAddr(); a != netip.MustParseAddrPort("192.168.1.20:8080") {
		t.Error(a)
	}
}
