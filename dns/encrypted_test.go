package dns_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	mdns "github.com/miekg/dns"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/dns"
)

// loopDialer leads every forwarder to a server of the test's own.
func loopDialer(to string) dns.Dialer {
	return dialFunc(func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, to)
	})
}

func TestForwardingOverTLSAndHTTPS(t *testing.T) {
	answer := says(0, "@ 0 IN A 198.51.101.1")
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		q := new(mdns.Msg)
		if r.Method != http.MethodPost || r.URL.Path != "/dns-query" || r.ProtoMajor != 2 || q.Unpack(b) != nil || q.Id != 0 {
			http.Error(w, "bad", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/dns-message")
		out, _ := answer("", "", q).Pack()
		_, _ = w.Write(out)
	}))
	web.EnableHTTP2 = true
	web.Config.ErrorLog = log.New(io.Discard, "", 0) // one client is meant to refuse it
	web.StartTLS()
	defer web.Close()
	roots := x509.NewCertPool()
	roots.AddCert(web.Certificate())

	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: web.TLS.Certificates})
	if err != nil {
		t.Fatal(err)
	}
	srv := &mdns.Server{Listener: l, Net: "tcp-tls", Handler: mdns.HandlerFunc(func(w mdns.ResponseWriter, q *mdns.Msg) { _ = w.WriteMsg(answer("", "", q)) })}
	go func() { _ = srv.ActivateAndServe() }()
	defer srv.Shutdown()

	for _, c := range []struct {
		protocol cell.ForwarderProtocol
		to, name string
		want     int
	}{
		{cell.ForwardTLS, l.Addr().String(), "example.com", 0},
		{cell.ForwardTLS, l.Addr().String(), "other.test", mdns.RcodeServerFailure},
		{cell.ForwardHTTPS, web.Listener.Addr().String(), "example.com", 0},
		{cell.ForwardHTTPS, web.Listener.Addr().String(), "other.test", mdns.RcodeServerFailure},
	} {
		t.Run(string(c.protocol)+" as "+c.name, func(t *testing.T) {
			s := forwarding(t, &dns.Config{Direct: loopDialer(c.to), Roots: roots}, func(v *dns.Views) {
				v.Forwarders = []cell.Forwarder{{Protocol: c.protocol, Address: forwarder.Address, ServerName: c.name, Path: "/dns-query"}}
			})
			for _, n := range []string{"a", "b", "c"} { // more than once: connections are kept
				r := ask(t, s, question(n+".example.org.", mdns.TypeA), "pic0", laptop, false)
				if r.Rcode != c.want || (c.want == 0) != (len(r.Answer) == 1) {
					t.Fatalf("%v %v", r, s.Status().Forwarders)
				}
			}
		})
	}
}

func FuzzAccept(f *testing.F) {
	for _, rr := range []string{"a. 60 IN A 10.0.0.1", "a. 60 IN CNAME b.", "a. 60 IN HTTPS 1 . ipv4hint=10.0.0.1", "a. 60 IN DNAME b."} {
		x, err := mdns.NewRR(rr)
		if err != nil {
			f.Fatal(err)
		}
		m := question("a.", x.Header().Rrtype)
		m.Response, m.Answer = true, []mdns.RR{x, x}
		b, _ := m.Pack()
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := new(mdns.Msg)
		if m.Unpack(b) != nil || len(m.Question) != 1 {
			return
		}
		q := m.Question[0]
		answer, ns, _, _ := dns.Accept(m, mdns.CanonicalName(q.Name), q.Qtype, true)
		for _, rr := range answer {
			if a, ok := rr.(*mdns.A); ok {
				if x, ok := netip.AddrFromSlice(a.A); !ok || dns.Private(x.Unmap()) {
					t.Fatalf("a private address: %v", rr)
				}
			}
		}
		if len(ns) > 512 || len(answer) > 512 {
			t.Fatal("unbounded")
		}
		out := &mdns.Msg{Answer: answer, Ns: ns}
		if _, err := out.Pack(); err != nil {
			return // what miekg/dns reads and can't write becomes SERVFAIL
		}
	})
}
