package dns_test

import (
	"context"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"

	mdns "github.com/miekg/dns"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/dns"
)

// API-8: a forwarder is asked at the address in the state, whatever its name
// would resolve to, whatever it redirects to and whatever the environment says.
func TestADoHForwarderLeadsNowhereElse(t *testing.T) {
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "ALL_PROXY"} {
		t.Setenv(name, "http://169.254.169.254:3128")
	}
	var location string
	var status int
	answer := says(0, "@ 0 IN A 198.51.101.1")
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if location != "" && r.URL.Path == "/dns-query" {
			w.Header().Set("Location", location)
			w.Header().Set("Alt-Svc", `h2="169.254.169.254:443"`)
			w.WriteHeader(status)
			return
		}
		q := new(mdns.Msg)
		if b, _ := io.ReadAll(r.Body); q.Unpack(b) == nil {
			w.Header().Set("Content-Type", "application/dns-message")
			out, _ := answer("", "", q).Pack()
			_, _ = w.Write(out)
		}
	}))
	web.EnableHTTP2 = true
	web.Config.ErrorLog = log.New(io.Discard, "", 0)
	web.StartTLS()
	defer web.Close()
	roots := x509.NewCertPool()
	roots.AddCert(web.Certificate())

	var mu sync.Mutex
	dialed := map[string]int{}
	s := forwarding(t, &dns.Config{Roots: roots, Direct: dialFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
		mu.Lock()
		dialed[network+" "+address]++
		mu.Unlock()
		return new(net.Dialer).DialContext(ctx, network, web.Listener.Addr().String())
	})}, func(v *dns.Views) {
		// A name that the machine's resolver would lead to loopback.
		v.Forwarders = []cell.Forwarder{{Protocol: cell.ForwardHTTPS, Address: netip.MustParseAddrPort("192.0.2.53:443"), ServerName: "example.com", Path: "/dns-query"}}
	})
	ask1 := func(name string) int {
		return ask(t, s, question(name, mdns.TypeA), "pic0", laptop, false).Rcode
	}
	if got := ask1("control.example.org."); got != 0 {
		t.Fatalf("the control: rcode %d, %+v", got, s.Status().Forwarders)
	}
	n := 0
	for _, to := range []string{
		"https://127.0.0.1/dns", "http://127.0.0.1/dns", "https://169.254.169.254/", "https://[::ffff:10.0.0.1]/", "https://2130706433/", "https://localhost/", "/elsewhere",
		"https://example.com/other", "//evil.example/",
	} {
		for _, status = range []int{301, 302, 303, 307, 308} {
			location = to
			n++
			if got := ask1("r" + string(rune('a'+n%26)) + string(rune('a'+n/26)) + ".example.org."); got != mdns.RcodeServerFailure {
				t.Errorf("%d to %s: rcode %d, want SERVFAIL", status, to, got)
			}
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(dialed) != 1 || dialed["tcp 192.0.2.53:443"] == 0 {
		t.Errorf("dialed %v, want the forwarder's address alone", dialed)
	}
}

// A forwarder is an address, never a name.
func TestForwardersThatTheStateRefuses(t *testing.T) {
	st, _ := household(t)
	for _, a := range []string{"localhost:53", "dns.example:53", "2130706433:53", "0x7f.1:53", "0177.0.0.1:53", "http://192.0.2.1:53", "192.0.2.1", "[::1]", "127.1:53"} {
		if _, err := netip.ParseAddrPort(a); err == nil {
			t.Errorf("%s is an address", a)
		}
	}
	for _, bad := range []cell.Forwarder{
		{Protocol: cell.ForwardPlain, Address: netip.MustParseAddrPort("0.0.0.0:53")},
		{Protocol: cell.ForwardPlain, Address: netip.MustParseAddrPort("[::]:53")},
		{Protocol: cell.ForwardPlain, Address: netip.MustParseAddrPort("[ff02::fb]:5353")},
		{Protocol: cell.ForwardPlain, Address: netip.MustParseAddrPort("224.0.0.251:5353")},
		{Protocol: cell.ForwardPlain, Address: netip.MustParseAddrPort("192.0.2.1:0")},
		{Protocol: cell.ForwardPlain, Address: netip.MustParseAddrPort("169.254.169.254:53")},
		{Protocol: cell.ForwardPlain, Address: netip.MustParseAddrPort("[::ffff:169.254.169.254]:53")},
		{Protocol: cell.ForwardPlain, Address: netip.AddrPortFrom(st.Network.Tunnel.Gateway4(), 53)},
		{Protocol: cell.ForwardHTTPS, Address: netip.MustParseAddrPort("192.0.2.1:443"), ServerName: "example.com@evil.example"},
		{Protocol: cell.ForwardHTTPS, Address: netip.MustParseAddrPort("192.0.2.1:443"), ServerName: "example.com", Path: "@evil.example/"},
		{Protocol: cell.ForwardHTTPS, Address: netip.MustParseAddrPort("192.0.2.1:443")},
		{Protocol: "http", Address: netip.MustParseAddrPort("192.0.2.1:80")},
	} {
		s := st.Clone()
		s.DNS.Forwarders = []cell.Forwarder{bad}
		if s.Validate() == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
	// On the machine or on the LAN is where people have theirs.
	for _, good := range []string{"127.0.0.1:5335", "192.168.1.1:53", "9.9.9.9:53", "[fe80::1%eth0]:53", "[2620:fe::fe]:53"} {
		s := st.Clone()
		s.DNS.Forwarders = []cell.Forwarder{{Protocol: cell.ForwardPlain, Address: netip.MustParseAddrPort(good)}}
		if err := s.Validate(); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
}
