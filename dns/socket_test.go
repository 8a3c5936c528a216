package dns_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/personal-internet-cell/pic/dns"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// loopback is the household with its LAN moved to lo, on free ports.
func loopback(t testing.TB, addrs ...string) dns.Views {
	t.Helper()
	st, f := household(t)
	st.DNS.Public = false
	v := compile(t, st, f)
	v.Listen = nil
	for _, a := range addrs {
		v.Listen = append(v.Listen, netip.AddrPortFrom(netip.MustParseAddr(a), freePort(t, a)))
	}
	v.LANs[0].Interface = "lo"
	v.LANs[0].Prefixes = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	return v
}

func freePort(t testing.TB, addr string) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(addr, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func exchange(t testing.TB, network string, to netip.AddrPort, m *mdns.Msg) (*mdns.Msg, error) {
	t.Helper()
	c := &mdns.Client{Net: network, Timeout: time.Second}
	r, _, err := c.Exchange(m, to.String())
	return r, err
}

func TestSocketsAnswerInBothFamiliesAndTransports(t *testing.T) {
	v := loopback(t, "127.0.0.1", "::1")
	start(t, &dns.Config{}, v)
	for _, to := range v.Listen {
		for _, network := range []string{"udp", "tcp"} {
			r, err := exchange(t, network, to, question("nas.home.pic.ngo.", mdns.TypeA))
			if err != nil || len(r.Answer) != 1 {
				t.Errorf("%s %s: %v %v", network, to, r, err)
			}
		}
	}
}

func TestAPanicCostsOneQuery(t *testing.T) {
	v := loopback(t, "127.0.0.1")
	s := dns.New(&dns.Config{Logger: quiet})
	s.PanicOn("wiki.home.pic.ngo.")
	startServer(t, s, v)
	for i, network := range []string{"udp", "tcp"} {
		m := question("wiki.home.pic.ngo.", mdns.TypeA)
		if r, err := (&mdns.Client{Net: network, Timeout: 200 * time.Millisecond}), error(nil); err == nil {
			if a, _, err := r.Exchange(m, v.Listen[0].String()); err == nil {
				t.Fatalf("%s: the injection does not work: %v", network, a)
			}
		}
		begin := time.Now()
		r, err := exchange(t, network, v.Listen[0], question("nas.home.pic.ngo.", mdns.TypeA))
		if err != nil || len(r.Answer) != 1 || time.Since(begin) > time.Second {
			t.Fatalf("%s after the panic: %v %v in %v", network, r, err, time.Since(begin))
		}
		if n := s.Status().Panics; n < uint64(i+1) {
			t.Fatalf("%s: %d panics counted", network, n)
		}
	}
}

func TestATakenPortIsNamedAndTheOthersComeUp(t *testing.T) {
	v := loopback(t, "127.0.0.1", "127.0.0.2")
	other, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(v.Listen[0]))
	if err != nil {
		t.Fatal(err)
	}
	s := dns.New(&dns.Config{Logger: quiet})
	changed, err := s.Apply(t.Context(), v)
	if err == nil || !changed {
		t.Fatalf("changed %v, %v", changed, err)
	}
	for _, part := range []string{"127.0.0.1", fmt.Sprint(v.Listen[0].Port()), "address already in use", "ss -lnp", "--dns-port"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error lacks %q: %v", part, err)
		}
	}
	runServer(t, s)
	if r, err := exchange(t, "udp", v.Listen[1], question("nas.home.pic.ngo.", mdns.TypeA)); err != nil || len(r.Answer) != 1 {
		t.Fatalf("the other listener: %v %v", r, err)
	}
	if n := s.Notices(); len(n) != 1 || n[0].Code != "dns_listen" {
		t.Fatalf("notices: %v", n)
	}
	other.Close()
	if changed, err := s.Apply(t.Context(), v); err != nil || !changed {
		t.Fatalf("after the port is free: changed %v, %v", changed, err)
	}
	if changed, err := s.Apply(t.Context(), v); err != nil || changed {
		t.Fatalf("once more: changed %v, %v", changed, err)
	}
	if len(s.Notices()) != 0 {
		t.Fatalf("notices stay: %v", s.Notices())
	}
}

// A listener that stays keeps its connections while others come and go.
func TestListenersComeAndGoAlone(t *testing.T) {
	v := loopback(t, "127.0.0.1", "127.0.0.2", "127.0.0.3")
	all := v.Listen
	v.Listen = all[:2]
	s := start(t, &dns.Config{}, v)
	kept, err := net.Dial("tcp", all[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	for _, want := range [][]netip.AddrPort{{all[0], all[2]}, {all[0]}, {all[0], all[1], all[2]}} {
		v.Listen = want
		if changed, err := s.Apply(t.Context(), v); err != nil || !changed {
			t.Fatalf("%v: changed %v, %v", want, changed, err)
		}
		if _, err := kept.Write(framed(t, question("nas.home.pic.ngo.", mdns.TypeA))); err != nil {
			t.Fatal(err)
		}
		if r := readMsg(t, kept); len(r.Answer) != 1 {
			t.Fatal(r)
		}
		for _, a := range all {
			_, err := exchange(t, "tcp", a, question("nas.home.pic.ngo.", mdns.TypeA))
			if up := contains(want, a); up != (err == nil) {
				t.Errorf("%v of %v: %v", a, want, err)
			}
		}
	}
}

func contains(s []netip.AddrPort, a netip.AddrPort) bool {
	for _, x := range s {
		if x == a {
			return true
		}
	}
	return false
}

func framed(t testing.TB, m *mdns.Msg) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
}

func readMsg(t testing.TB, c net.Conn) *mdns.Msg {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(3 * time.Second))
	r, err := (&mdns.Conn{Conn: c}).ReadMsg()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// RFC 7766 §6.2.1: many queries in one write, all answered; §6.2.1.1 a client
// that closes its half still gets them.
func TestPipeliningOverTCP(t *testing.T) {
	v := loopback(t, "127.0.0.1")
	start(t, &dns.Config{}, v)
	c, err := net.Dial("tcp", v.Listen[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const n = 200
	var all []byte
	for i := range n {
		m := question("nas.home.pic.ngo.", mdns.TypeA)
		m.Id = uint16(i)
		all = append(all, framed(t, m)...)
	}
	if _, err := c.Write(all); err != nil {
		t.Fatal(err)
	}
	_ = c.(*net.TCPConn).CloseWrite()
	seen := map[uint16]bool{}
	for range n {
		seen[readMsg(t, c).Id] = true
	}
	if len(seen) != n {
		t.Fatalf("%d of %d answers", len(seen), n)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("after the last answer: %v", err)
	}
}

func TestConnectionsPerSourceAreBounded(t *testing.T) {
	v := loopback(t, "127.0.0.1")
	start(t, &dns.Config{}, v)
	var refused int
	for range 24 {
		c, err := net.Dial("tcp", v.Listen[0].String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = c.Write(framed(t, question("nas.home.pic.ngo.", mdns.TypeA)))
		_ = c.SetReadDeadline(time.Now().Add(3 * time.Second))
		if _, err := c.Read(make([]byte, 2)); err != nil {
			refused++
		}
	}
	if refused != 8 {
		t.Fatalf("%d of 24 connections of one source refused, want 8", refused)
	}
	// Another source is still served.
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}
	c, err := d.Dial("tcp", v.Listen[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Write(framed(t, question("nas.home.pic.ngo.", mdns.TypeA)))
	if r := readMsg(t, c); len(r.Answer) != 1 {
		t.Fatal(r)
	}
}

// However many sources there are, one address has so many connections.
func TestConnectionsAreBounded(t *testing.T) {
	v := loopback(t, "127.0.0.1")
	start(t, &dns.Config{}, v)
	served := 0
	for i := range 17 * 16 {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i/16))}}
		c, err := d.Dial("tcp", v.Listen[0].String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = c.Write(framed(t, question("nas.home.pic.ngo.", mdns.TypeA)))
		_ = c.SetReadDeadline(time.Now().Add(3 * time.Second))
		if _, err := c.Read(make([]byte, 2)); err == nil {
			served++
		}
	}
	if served != 256 {
		t.Fatalf("%d connections of 17 sources served, want 256", served)
	}
	if r, err := exchange(t, "udp", v.Listen[0], question("nas.home.pic.ngo.", mdns.TypeA)); err != nil || len(r.Answer) != 1 {
		t.Fatalf("over UDP meanwhile: %v %v", r, err)
	}
}

func TestAnIdleConnectionIsClosed(t *testing.T) {
	t.Parallel()
	v := loopback(t, "127.0.0.1")
	start(t, &dns.Config{}, v)
	c, err := net.Dial("tcp", v.Listen[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Write([]byte{0}) // half a length: slow is idle
	begin := time.Now()
	_ = c.SetReadDeadline(begin.Add(15 * time.Second))
	_, err = c.Read(make([]byte, 1))
	if d := time.Since(begin); err == nil || d < 9*time.Second || d > 12*time.Second {
		t.Fatalf("closed after %v: %v", d, err)
	}
}

// Swapping zones under load: every answer is that of one plan or the other,
// none is empty or missing (DNS-7).
func TestZoneSwapsUnderLoad(t *testing.T) {
	t.Run("quick", func(t *testing.T) {
		if s := zoneSwaps(t, false); s.Status().Quick == 0 {
			t.Error("no answer in wire form")
		}
	})
	t.Run("long", func(t *testing.T) { zoneSwaps(t, true) })
}

func zoneSwaps(t *testing.T, long bool) *dns.Server {
	v := loopback(t, "127.0.0.1")
	s := dns.New(&dns.Config{Logger: quiet})
	if long {
		s.LongWay()
	}
	startServer(t, s, v)
	other := loopback(t, "127.0.0.1")
	other.Listen = v.Listen
	for i := range other.Zones {
		for j := range other.Zones[i].Records {
			if r := &other.Zones[i].Records[j]; r.Type == "A" && strings.HasPrefix(r.Name, "nas.") {
				r.Data = "192.168.7.99"
			}
		}
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	got := map[string]int{}
	for range 4 {
		wg.Go(func() {
			c, err := net.Dial("udp", v.Listen[0].String())
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			m := question("nas.home.pic.ngo.", mdns.TypeA)
			wire, _ := m.Pack()
			buf := make([]byte, 2048)
			for {
				select {
				case <-stop:
					return
				default:
				}
				_, _ = c.Write(wire)
				_ = c.SetReadDeadline(time.Now().Add(3 * time.Second))
				n, err := c.Read(buf)
				r := new(mdns.Msg)
				switch {
				case err != nil:
					t.Errorf("no answer: %v", err)
					return
				case r.Unpack(buf[:n]) != nil || r.Rcode != 0 || len(r.Answer) != 1:
					t.Errorf("a wrong or empty answer: %v", r)
					return
				}
				mu.Lock()
				got[r.Answer[0].(*mdns.A).A.String()]++
				mu.Unlock()
			}
		})
	}
	for i := range 1000 {
		next := other
		if i%2 == 1 {
			next = v
		}
		if _, err := s.Apply(t.Context(), next); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	if len(got) != 2 || got["192.168.7.20"] == 0 || got["192.168.7.99"] == 0 {
		t.Fatalf("answers: %v", got)
	}
	return s
}

func TestRunEndsWithEverySocketClosed(t *testing.T) {
	v := loopback(t, "127.0.0.1")
	s := dns.New(&dns.Config{Logger: quiet})
	if _, err := s.Apply(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	stop := runServer(t, s)
	stop()
	if _, err := exchange(t, "tcp", v.Listen[0], question("home.pic.ngo.", mdns.TypeA)); err == nil {
		t.Fatal("it still listens")
	}
	if _, err := s.Apply(t.Context(), v); err == nil {
		t.Fatal("it can be applied to after its end")
	}
	netnstest.Eventually(t, time.Second, func() error { // and the port is free
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(v.Listen[0]))
		if err == nil {
			c.Close()
		}
		return err
	})
}
