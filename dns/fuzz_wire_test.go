package dns_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/dns"
)

// Whatever the short way answers, the long way answers to the bit.
func FuzzBothWaysAgree(f *testing.F) {
	s, long := inMemory(f, nil), inMemory(f, nil)
	long.LongWay()
	for _, name := range []string{
		"files.home.pic.ngo.", "WIKI.home.pic.ngo.", "nas.home.pic.ngo.", "www.home.pic.ngo.", "mail.home.pic.ngo.", "big.home.pic.ngo.",
		"a.apps.home.pic.ngo.", "home.internal.", "localhost.", "2.0.17.10.in-addr.arpa.", "10.in-addr.arpa.",
	} {
		for _, qtype := range []uint16{mdns.TypeA, mdns.TypeAAAA, mdns.TypeTXT, mdns.TypePTR, mdns.TypeMX, mdns.TypeSOA, mdns.TypeCNAME} {
			m := question(name, qtype)
			m.RecursionDesired = false
			f.Add(pack(f, m), uint8(0))
			m.SetEdns0(4096, true)
			f.Add(pack(f, m), uint8(qtype))
		}
	}
	who := [][2]string{{cell.TunnelLink, laptop}, {cell.TunnelLink, phone}, {"lan0", lanHost}, {"br-wiki", "172.20.2.2"}, {"lan0", laptop}}
	f.Fuzz(func(t *testing.T, b []byte, by uint8) {
		w := who[int(by)%len(who)]
		got := s.Quick(b, w[0], w[1])
		if got == nil {
			return
		}
		if want := long.Serve(b, w[0], w[1], false); !bytes.Equal(got, want) {
			t.Fatalf("%s from %s asks %x: the short way says\n%x, the long way\n%x", w[1], w[0], b, got, want)
		}
	})
}

// What is packed once and sent with other TTLs is read as the same records.
func FuzzWire(f *testing.F) {
	for _, rr := range []string{"a.example. 60 IN A 192.0.2.1", "a.example. 60 IN MX 10 b.a.example.", "a.example. 9 IN CNAME a.example.", `a.example. 60 IN TXT "x" "y"`, "a.example. 1 IN SVCB 1 . alpn=h2"} {
		f.Add(rr, rr, uint32(5))
	}
	f.Fuzz(func(t *testing.T, first, second string, ttl uint32) {
		var answer []mdns.RR
		for _, s := range []string{first, second} {
			if rr, err := mdns.NewRR(s); err == nil && rr != nil && rr.Header().Name != "" { // which no message holds
				answer = append(answer, rr)
			}
		}
		if len(answer) == 0 {
			return
		}
		name := mdns.CanonicalName(answer[0].Header().Name)
		body, ttls, ok := dns.Wire(name, answer[0].Header().Rrtype, answer, nil)
		if !ok {
			return
		}
		if len(ttls) != len(answer) {
			t.Fatalf("%d TTLs of %d records", len(ttls), len(answer))
		}
		q := question(name, answer[0].Header().Rrtype)
		msg := append(pack(t, q), body...)
		binary.BigEndian.PutUint16(msg[6:], uint16(len(answer)))
		begin := len(msg) - len(body)
		for _, off := range ttls {
			binary.BigEndian.PutUint32(msg[begin+off:], ttl)
		}
		r := new(mdns.Msg)
		if err := r.Unpack(msg); err != nil {
			t.Fatalf("%x can't be read: %v", msg, err)
		}
		for i, rr := range r.Answer {
			if rr.Header().Ttl != ttl || rr.Header().Rrtype != answer[i].Header().Rrtype {
				t.Fatalf("record %d became %v", i, rr)
			}
		}
	})
}

// A control message is the kernel's, but its reader must not trust lengths.
func FuzzControlMessages(f *testing.F) {
	f.Add([]byte{28, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 5, 0, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1}, uint32(5))
	f.Add([]byte{36, 0, 0, 0, 0, 0, 0, 0, 41, 0, 0, 0, 50, 0, 0, 0, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 7, 0, 0, 0}, uint32(7))
	f.Fuzz(func(t *testing.T, b []byte, _ uint32) {
		if n := dns.InfoIndex(b); n != 0 && len(b) < 28 {
			t.Fatalf("an index of %d in %d bytes", n, len(b))
		}
	})
}

// No cookie is genuine but one that was baked for that address, lately.
func FuzzCookie(f *testing.F) {
	now := time.Unix(1_800_000_000, 0)
	good := dns.Bake([]byte("01234567"), netip.MustParseAddr("192.0.2.1"), now)
	f.Add(good, []byte{192, 0, 2, 1}, int64(0))
	f.Add(good, []byte{192, 0, 2, 2}, int64(0))
	f.Add(good, []byte{192, 0, 2, 1}, int64(7200))
	f.Add(good[:20], []byte{192, 0, 2, 1}, int64(0))
	f.Fuzz(func(t *testing.T, option, addr []byte, later int64) {
		src, ok := netip.AddrFromSlice(addr)
		if !ok {
			return
		}
		at := now.Add(time.Duration(later%1_000_000) * time.Second)
		if !dns.Genuine(option, src, at) {
			return
		}
		if !bytes.Equal(option, dns.Bake(option[:8], src, time.Unix(int64(binary.BigEndian.Uint32(option[12:])), 0))) {
			t.Fatalf("taken: %x", option)
		}
		if age := at.Unix() - int64(binary.BigEndian.Uint32(option[12:])); age > 3600 || age < -300 {
			t.Fatalf("taken at an age of %d s", age)
		}
	})
}

// What comes from a forwarder is an answer only if it repeats the question.
func FuzzForwarderMessage(f *testing.F) {
	q := question("www.example.org.", mdns.TypeA)
	good := says(0, "@ 60 IN A 198.51.101.1")("", "", q)
	f.Add(pack(f, good))
	f.Add(pack(f, says(3, "example.org. 60 IN SOA a. b. 1 2 3 4 5")("", "", q)))
	f.Add(pack(f, says(0, "@ 60 IN CNAME @")("", "", q)))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := new(mdns.Msg)
		if m.Unpack(b) != nil || !dns.Answers(m, q) {
			return
		}
		if m.Id != q.Id || !m.Response || m.Question[0] != q.Question[0] {
			t.Fatalf("taken for an answer: %v", m)
		}
		answer, ns, _, ttl := dns.Accept(m, "www.example.org.", mdns.TypeA, true)
		if ttl > 86400 || len(answer) > 512 || len(ns) > 512 {
			t.Fatalf("ttl %d, %d and %d records", ttl, len(answer), len(ns))
		}
		for _, rr := range answer {
			a, ok := rr.(*mdns.A)
			if !ok {
				continue
			}
			if addr, ok := netip.AddrFromSlice(a.A); ok && dns.Private(addr.Unmap()) {
				t.Fatalf("a private address: %v", rr)
			}
		}
	})
}

// A stream is cut into messages at the lengths it names, or not at all.
func FuzzStream(f *testing.F) {
	f.Add(framed(f, question("a.example.", mdns.TypeA)))
	f.Add([]byte{0, 0, 0, 1, 7, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		total := 0
		for {
			m, err := dns.ReadFrame(r)
			if err != nil {
				break
			}
			total += 2 + len(m)
		}
		if total > len(b) {
			t.Fatalf("%d bytes out of %d", total, len(b))
		}
	})
}

// Reverse names lead back to their address, and each lies in a zone of every
// prefix that holds the address.
func FuzzReverse(f *testing.F) {
	f.Add([]byte{10, 17, 3, 77}, uint8(22))
	f.Add([]byte{172, 16, 0, 1}, uint8(12))
	f.Add(netip.MustParseAddr("fd02:304:506::7").AsSlice(), uint8(64))
	f.Fuzz(func(t *testing.T, b []byte, bits uint8) {
		a, ok := netip.AddrFromSlice(b)
		if !ok {
			return
		}
		name := dns.ReverseName(a)
		if want, err := mdns.ReverseAddr(a.String()); err != nil || (!a.Is4In6() && want != name) {
			t.Fatalf("%s: %s, want %s (%v)", a, name, want, err)
		}
		p, err := a.Prefix(int(bits))
		if err != nil || (a.Is4() && bits < 8) {
			return
		}
		for _, z := range dns.ReverseZones(p) {
			if strings.HasSuffix(name, "."+z) || name == z {
				return
			}
		}
		t.Fatalf("%s of %s lies in no zone of %v", name, p, dns.ReverseZones(p))
	})
}

// The way from a name to the root ends, and never passes a name that is not above it.
func FuzzParent(f *testing.F) {
	for _, s := range []string{".", "a.", "a.b.c.", `a\.b.c.`, `a\046b.`, "", "..", "x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		name = mdns.CanonicalName(name)
		for n, steps := name, 0; n != ""; steps++ {
			up := dns.Parent(n)
			if steps > len(name)+1 || (up != "" && up != "." && !strings.HasSuffix(n, up)) {
				t.Fatalf("%q: from %q to %q", name, n, up)
			}
			n = up
		}
	})
}
