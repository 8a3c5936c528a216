package dns_test

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	mdns "github.com/miekg/dns"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/dns"
)

func BenchmarkAnswer(b *testing.B) {
	s := inMemory(b, nil)
	m := question("files.home.pic.ngo.", mdns.TypeA)
	m.SetEdns0(1232, false)
	wire, _ := m.Pack()
	b.ReportAllocs()
	for b.Loop() {
		if s.Serve(wire, "pic0", laptop, false) == nil {
			b.Fatal("no answer")
		}
	}
}

func FuzzQuery(f *testing.F) {
	s := inMemory(f, nil)
	for _, name := range []string{"files.home.pic.ngo.", "big.home.pic.ngo.", "www.home.pic.ngo.", "a.apps.home.pic.ngo."} {
		m := question(name, mdns.TypeTXT)
		m.SetEdns0(1232, true)
		b, _ := m.Pack()
		f.Add(b, true)
		f.Add(b[:len(b)-3], false)
	}
	f.Fuzz(func(t *testing.T, b []byte, tcp bool) {
		if len(b) > 12 && b[2]&1 == 1 {
			b[2] &^= 1 // RD: this target has no forwarder
		}
		out := s.Serve(b, "pic0", laptop, tcp)
		if out == nil {
			if len(b) >= 12 && b[2]&0x80 == 0 {
				t.Fatal("a query without an answer")
			}
			return
		}
		if !tcp && len(out) > 1232 {
			t.Fatalf("%d bytes over UDP", len(out))
		}
		if binary.BigEndian.Uint16(out) != binary.BigEndian.Uint16(b) || out[2]&0x80 == 0 {
			t.Fatal("not a response to this query")
		}
		r := new(mdns.Msg)
		if err := r.Unpack(out); err != nil {
			t.Fatalf("the answer can't be read: %v", err)
		}
		// A phone must never see what only the laptop is granted.
		hidden := s.Serve(b, "pic0", phone, tcp)
		h := new(mdns.Msg)
		if h.Unpack(hidden) == nil && slices.ContainsFunc(h.Answer, func(rr mdns.RR) bool { return strings.HasPrefix(strings.ToLower(rr.Header().Name), "files.") }) {
			t.Fatal("a hidden service shows")
		}
	})
}

func FuzzCompileRecord(f *testing.F) {
	for _, r := range [][3]string{{"a", "A", "192.0.2.1"}, {"@", "TXT", `"a" "b"`}, {"*.x", "MX", "10 mail"}, {"_x._tcp", "SRV", "1 2 3 t"}, {"x", "CAA", `0 issue "ca"`}} {
		f.Add(r[0], r[1], r[2])
	}
	f.Fuzz(func(t *testing.T, name, rrtype, value string) {
		s := cell.Factory([16]byte{1}, "tunnel", key(1))
		s.DNS.Records = []cell.Record{{Name: name, Type: rrtype, Value: value}}
		if s.Validate() != nil {
			return
		}
		r, err := dns.CompileRecord(s.DNS.Records[0], "home.internal.")
		if err != nil {
			return
		}
		// What compiles can be printed, read again and is the same.
		again, err := mdns.NewRR(r.Name + " 300 IN " + r.Type + " " + r.Data)
		if err != nil || again == nil || strings.ContainsAny(r.Data, "\n\r") {
			t.Fatalf("%q can't be read again: %v", r.Data, err)
		}
	})
}
