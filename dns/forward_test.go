package dns_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/dns"
)

// fakeNet is a network of forwarders without sockets, for tests in which
// time has to pass. answer returns nil for silence.
type fakeNet struct {
	answer func(network, address string, q *mdns.Msg) *mdns.Msg

	mu    sync.Mutex
	asked []string // network, address, name in lower case
}

func (f *fakeNet) DialContext(_ context.Context, network, address string) (net.Conn, error) {
	if f.answer == nil {
		return nil, errors.New("no route to host")
	}
	c, s := net.Pipe()
	go func() {
		defer s.Close()
		buf := make([]byte, 65537)
		for {
			n, err := s.Read(buf)
			if err != nil {
				return
			}
			b := buf[:n]
			if network == "tcp" {
				b = b[2:]
			}
			q := new(mdns.Msg)
			if q.Unpack(b) != nil {
				return
			}
			f.mu.Lock()
			f.asked = append(f.asked, network+" "+address+" "+strings.ToLower(q.Question[0].Name))
			f.mu.Unlock()
			r := f.answer(network, address, q)
			if r == nil {
				_, _ = io.Copy(io.Discard, s)
				return
			}
			out, err := r.Pack()
			if err != nil {
				panic(err)
			}
			if network == "tcp" {
				out = append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...)
			}
			if _, err := s.Write(out); err != nil {
				return
			}
		}
	}()
	return c, nil
}

func (f *fakeNet) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.asked)
}

// says answers every question with records in zone-file notation; @ is the
// question's name in its random case.
func says(rcode int, records ...string) func(string, string, *mdns.Msg) *mdns.Msg {
	return func(_, _ string, q *mdns.Msg) *mdns.Msg {
		r := new(mdns.Msg).SetReply(q)
		r.Rcode, r.RecursionAvailable = rcode, true
		for _, s := range records {
			rr, err := mdns.NewRR(strings.ReplaceAll(s, "@", q.Question[0].Name))
			if err != nil {
				panic(err)
			}
			if rr.Header().Rrtype == mdns.TypeSOA {
				r.Ns = append(r.Ns, rr)
			} else {
				r.Answer = append(r.Answer, rr)
			}
		}
		return r
	}
}

var forwarder = cell.Forwarder{Protocol: cell.ForwardPlain, Address: netip.MustParseAddrPort("192.0.2.53:53")}

// forwarding is the household with forwarders on a fake network.
func forwarding(t testing.TB, c *dns.Config, edit func(*dns.Views)) *dns.Server {
	st, f := household(t)
	v := compileNoListen(t, st, f)
	v.Forwarders = []cell.Forwarder{forwarder}
	if edit != nil {
		edit(&v)
	}
	return start(t, c, v)
}

func TestForwardedAnswersAreCachedAndAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := &fakeNet{answer: says(0, "@ 100 IN A 198.51.101.1")}
		s := forwarding(t, &dns.Config{Direct: up}, nil)
		for _, step := range []struct {
			wait time.Duration
			ttl  uint32
			n    int
		}{{0, 100, 1}, {10 * time.Second, 90, 1}, {30 * time.Second, 60, 1}, {61 * time.Second, 100, 2}} {
			time.Sleep(step.wait)
			r := ask(t, s, question("WWW.example.org.", mdns.TypeA), "pic0", laptop, false)
			want(t, r, 0, 1)
			if h := r.Answer[0].Header(); h.Ttl != step.ttl || h.Name != "WWW.example.org." || r.Authoritative || up.count() != step.n {
				t.Fatalf("after %v: asked %d times:\n%v", step.wait, up.count(), r)
			}
		}
	})
}

func TestAFlushForgetsAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := &fakeNet{answer: says(0, "@ 100 IN A 198.51.101.1")}
		s := forwarding(t, &dns.Config{Direct: up}, nil)
		for i := range 3 {
			ask(t, s, question("www.example.org.", mdns.TypeA), "pic0", laptop, false)
			if s.Flush(); up.count() != i+1 || s.Status().Cache.Entries != 0 {
				t.Fatalf("asked %d times, %+v", up.count(), s.Status().Cache)
			}
		}
	})
}

func TestPopularAnswersAreFetchedBeforeTheyEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := &fakeNet{answer: says(0, "@ 100 IN A 198.51.101.1")}
		s := forwarding(t, &dns.Config{Direct: up}, nil)
		q := question("www.example.org.", mdns.TypeA)
		for range 3 {
			ask(t, s, q, "pic0", laptop, false)
		}
		time.Sleep(95 * time.Second)
		if r := ask(t, s, q, "pic0", laptop, false); r.Answer[0].Header().Ttl != 5 {
			t.Fatal(r)
		}
		synctest.Wait()
		if r := ask(t, s, q, "pic0", laptop, false); up.count() != 2 || r.Answer[0].Header().Ttl != 100 {
			t.Fatalf("asked %d times:\n%v", up.count(), r)
		}
	})
}

// RFC 8767: a stale answer, in time, when nobody else answers.
func TestStaleAnswersAreServedWhenForwardersFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := &fakeNet{answer: says(0, "@ 100 IN A 198.51.101.1")}
		s := forwarding(t, &dns.Config{Direct: up}, nil)
		q := question("www.example.org.", mdns.TypeA)
		ask(t, s, q, "pic0", laptop, false)
		up.answer = func(string, string, *mdns.Msg) *mdns.Msg { return nil }
		time.Sleep(time.Hour)
		begin := time.Now()
		r := ask(t, s, q, "pic0", laptop, false)
		want(t, r, 0, 1)
		if d := time.Since(begin); d > 1900*time.Millisecond || r.Answer[0].Header().Ttl != 30 {
			t.Fatalf("after %v:\n%v", d, r)
		}
		time.Sleep(4 * time.Second) // the flight has failed by now
		n, begin := up.count(), time.Now()
		ask(t, s, q, "pic0", laptop, false)
		if up.count() != n || time.Since(begin) != 0 {
			t.Fatal("RFC 8767 §5: asked again at once")
		}
		time.Sleep(48 * time.Hour)
		want(t, ask(t, s, q, "pic0", laptop, false), mdns.RcodeServerFailure, 0)
	})
}

func TestNegativeAnswersAreCachedBySOAMinimum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := &fakeNet{answer: says(mdns.RcodeNameError, "example.org. 3600 IN SOA a. b. 1 2 3 4 50")}
		s := forwarding(t, &dns.Config{Direct: up}, nil)
		q := question("no.example.org.", mdns.TypeA)
		for i, n := range []int{1, 1, 2} {
			r := ask(t, s, q, "pic0", laptop, false)
			if want(t, r, mdns.RcodeNameError, 0); up.count() != n || len(r.Ns) != 1 {
				t.Fatalf("step %d: asked %d times\n%v", i, up.count(), r)
			}
			time.Sleep(30 * time.Second)
		}
		up.answer = says(mdns.RcodeNameError) // RFC 2308 §5: no SOA, no caching
		for range 2 {
			ask(t, s, question("x.example.org.", mdns.TypeA), "pic0", laptop, false)
		}
		if up.count() != 4 {
			t.Fatalf("asked %d times", up.count())
		}
	})
}

func TestOneQuestionAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := &fakeNet{}
		up.answer = func(n, a string, q *mdns.Msg) *mdns.Msg {
			time.Sleep(time.Second)
			return says(0, "@ 100 IN A 198.51.101.1")(n, a, q)
		}
		s := forwarding(t, &dns.Config{Direct: up}, nil)
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				want(t, ask(t, s, question("www.example.org.", mdns.TypeA), "pic0", laptop, false), 0, 1)
			})
		}
		wg.Wait()
		if up.count() != 1 {
			t.Fatalf("asked %d times", up.count())
		}
	})
}

func TestForwardersAreTriedInOrderAndTheSickOneLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		second := forwarder
		second.Address = netip.MustParseAddrPort("192.0.2.54:53")
		up := &fakeNet{}
		up.answer = func(n, a string, q *mdns.Msg) *mdns.Msg {
			if a == forwarder.Address.String() {
				return nil
			}
			return says(0, "@ 0 IN A 198.51.101.1")(n, a, q)
		}
		s := forwarding(t, &dns.Config{Direct: up}, func(v *dns.Views) { v.Forwarders = append(v.Forwarders, second) })
		q := question("www.example.org.", mdns.TypeA)
		for _, d := range []time.Duration{2 * time.Second, 0, 0} {
			begin := time.Now()
			want(t, ask(t, s, q, "pic0", laptop, false), 0, 1)
			if got := time.Since(begin); got != d {
				t.Fatalf("took %v, want %v", got, d)
			}
		}
		if st := s.Status().Forwarders; len(st) != 2 || st[0].Healthy || !st[1].Healthy {
			t.Fatalf("status: %+v", st)
		}
	})
}

func TestSilenceIsServfailInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := &fakeNet{answer: func(string, string, *mdns.Msg) *mdns.Msg { return nil }}
		s := forwarding(t, &dns.Config{Direct: up}, nil)
		begin := time.Now()
		want(t, ask(t, s, question("www.example.org.", mdns.TypeA), "pic0", laptop, false), mdns.RcodeServerFailure, 0)
		if d := time.Since(begin); d > 5*time.Second {
			t.Fatal(d)
		}
	})
}

// What an answer must not do: come with the wrong id, case, question or
// records, or be cut short over UDP and believed.
func TestForgedAnswersAreNotBelieved(t *testing.T) {
	good := says(0, "@ 60 IN A 198.51.101.1")
	for name, forge := range map[string]func(*mdns.Msg){
		"wrong id":       func(m *mdns.Msg) { m.Id++ },
		"wrong case":     func(m *mdns.Msg) { m.Question[0].Name = swapCase(m.Question[0].Name) },
		"wrong name":     func(m *mdns.Msg) { m.Question[0].Name = "evil.example." },
		"wrong type":     func(m *mdns.Msg) { m.Question[0].Qtype = mdns.TypeTXT },
		"not a response": func(m *mdns.Msg) { m.Response = false },
		"truncated":      func(m *mdns.Msg) { m.Truncated = true },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				up := &fakeNet{}
				up.answer = func(n, a string, q *mdns.Msg) *mdns.Msg {
					r := good(n, a, q)
					if n == "udp" {
						r.Answer[0].(*mdns.A).A = net.IPv4(198, 51, 101, 66)
						forge(r)
					}
					return r
				}
				s := forwarding(t, &dns.Config{Direct: up}, nil)
				r := ask(t, s, question("www.example.org.", mdns.TypeA), "pic0", laptop, false)
				if len(r.Answer) == 1 && r.Answer[0].(*mdns.A).A.String() == "198.51.101.66" {
					t.Fatalf("believed:\n%v", r)
				}
			})
		})
	}
}

func swapCase(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c|0x20 >= 'a' && c|0x20 <= 'z' {
			b[i] = c ^ 0x20
		}
	}
	return string(b)
}

func TestOnlyWhatAnswersIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := &fakeNet{answer: says(0, "@ 60 IN CNAME b.example.net.", "b.example.net. 60 IN A 198.51.101.1", "bank.example. 60 IN A 198.51.101.66", "b.example.net. 60 IN TXT x")}
		s := forwarding(t, &dns.Config{Direct: up}, nil)
		r := ask(t, s, question("www.example.org.", mdns.TypeA), "pic0", laptop, false)
		want(t, r, 0, 2)
	})
}

// KS-4: the names of a peer with an exit travel through it or not at all, and
// what one exit was told the user of another doesn't see.
func TestNamesFollowTheExit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		uplink := &fakeNet{answer: says(0, "@ 600 IN A 198.51.101.1")}
		exit := &fakeNet{answer: says(0, "@ 600 IN A 198.51.101.2")}
		var err error
		c := &dns.Config{Direct: uplink, Dial: func(id string) (dns.Dialer, error) {
			if id != "nl" {
				t.Errorf("asked for exit %q", id)
			}
			return exit, err
		}}
		s := forwarding(t, c, nil)
		q := question("www.example.org.", mdns.TypeA)
		for _, x := range [][2]string{{laptop, "198.51.101.1"}, {torPeer, "198.51.101.2"}, {phone, "198.51.101.1"}, {torPeer, "198.51.101.2"}} {
			r := ask(t, s, q, "pic0", x[0], false)
			if want(t, r, 0, 1); r.Answer[0].(*mdns.A).A.String() != x[1] {
				t.Errorf("%s: %v", x[0], r.Answer)
			}
		}
		if uplink.count() != 1 || exit.count() != 1 {
			t.Errorf("uplink asked %d times, exit %d times", uplink.count(), exit.count())
		}
		err = errors.New("the exit is down")
		want(t, ask(t, s, question("other.example.org.", mdns.TypeA), "pic0", torPeer, false), mdns.RcodeServerFailure, 0)
		if uplink.count() != 1 {
			t.Error("a name left by the uplink")
		}
		// Names of ours need no exit.
		want(t, ask(t, s, question("wiki.home.pic.ngo.", mdns.TypeA), "pic0", torPeer, false), 0, 1)
	})
}

// What a service asks for follows its egress, as its packets do.
func TestNamesOfAServiceFollowItsEgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		uplink := &fakeNet{answer: says(0, "@ 600 IN A 198.51.101.1")}
		exit := &fakeNet{answer: says(0, "@ 600 IN A 198.51.101.2")}
		var err error
		s := forwarding(t, &dns.Config{Direct: uplink, Dial: func(id string) (dns.Dialer, error) {
			if id != "nl" {
				t.Errorf("asked for exit %q", id)
			}
			return exit, err
		}}, nil)
		for _, x := range [][3]string{{"br-wiki", "172.20.2.2", "198.51.101.1"}, {"br-files", "172.20.1.2", "198.51.101.2"}, {"br-files", "fdaa:1::2", "198.51.101.2"}} {
			r := ask(t, s, question("www.example.org.", mdns.TypeA), x[0], x[1], false)
			if want(t, r, 0, 1); r.Answer[0].(*mdns.A).A.String() != x[2] {
				t.Errorf("%s: %v", x[1], r.Answer)
			}
		}
		if uplink.count() != 1 || exit.count() != 1 {
			t.Errorf("uplink asked %d times, exit %d times", uplink.count(), exit.count())
		}
		err = errors.New("the exit is down")
		want(t, ask(t, s, question("other.example.org.", mdns.TypeA), "br-files", "172.20.1.2", false), mdns.RcodeServerFailure, 0)
		want(t, ask(t, s, question("home.pic.ngo.", mdns.TypeA), "br-files", "172.20.1.2", false), 0, 1)
		if uplink.count() != 1 {
			t.Error("a name left by the uplink")
		}
	})
}

func TestWithoutDialersAnExitGetsServfail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		uplink := &fakeNet{answer: says(0, "@ 600 IN A 198.51.101.1")}
		s := forwarding(t, &dns.Config{Direct: uplink}, nil)
		want(t, ask(t, s, question("www.example.org.", mdns.TypeA), "pic0", torPeer, false), mdns.RcodeServerFailure, 0)
		if uplink.count() != 0 {
			t.Fatal("a name left by the uplink")
		}
	})
}

func TestAnAliasOfOursLeadsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := &fakeNet{answer: says(0, "@ 60 IN A 198.51.101.1")}
		s := forwarding(t, &dns.Config{Direct: up}, nil)
		r := ask(t, s, question("OUT.home.pic.ngo.", mdns.TypeA), "pic0", laptop, false)
		want(t, r, 0, 2)
		if !slices.Equal(up.asked, []string{"udp 192.0.2.53:53 example.org."}) || r.Answer[1].Header().Name != "example.org." {
			t.Fatalf("asked %v\n%v", up.asked, r)
		}
		q := question("out.home.pic.ngo.", mdns.TypeA)
		q.RecursionDesired = false
		want(t, ask(t, s, q, "pic0", laptop, false), 0, 1)
	})
}

func TestWithoutForwardersForeignNamesAreRefused(t *testing.T) {
	s := forwarding(t, &dns.Config{Direct: noNetwork{t}}, func(v *dns.Views) { v.Forwarders = nil })
	want(t, ask(t, s, question("www.example.org.", mdns.TypeA), "pic0", laptop, false), mdns.RcodeRefused, 0)
}

// A dialer that panics is a fault of its query only.
func TestAPanickingForwarderCostsOneQuery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := &fakeNet{answer: says(0, "@ 60 IN A 198.51.101.1")}
		bad := true
		s := forwarding(t, &dns.Config{Direct: dialFunc(func(ctx context.Context, n, a string) (net.Conn, error) {
			if bad {
				panic("injected")
			}
			return up.DialContext(ctx, n, a)
		})}, nil)
		want(t, ask(t, s, question("a.example.org.", mdns.TypeA), "pic0", laptop, false), mdns.RcodeServerFailure, 0)
		bad = false
		want(t, ask(t, s, question("b.example.org.", mdns.TypeA), "pic0", laptop, false), 0, 1)
		if n := s.Status().Panics; n != 1 {
			t.Fatalf("%d panics counted", n)
		}
	})
}

type dialFunc func(context.Context, string, string) (net.Conn, error)

func (f dialFunc) DialContext(ctx context.Context, n, a string) (net.Conn, error) {
	return f(ctx, n, a)
}

func TestTheCacheIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := &fakeNet{answer: says(0, "@ 600 IN A 198.51.101.1")}
		s := forwarding(t, &dns.Config{Direct: up}, func(v *dns.Views) { v.CacheSize = 10 })
		for i := range 50 {
			ask(t, s, question(strings.Repeat("x", i+1)+".example.org.", mdns.TypeA), "pic0", laptop, false)
		}
		if c := s.Status().Cache; c.Entries != 10 || c.Bytes > 10*1024 {
			t.Fatalf("%+v", c)
		}
	})
}
