package dns_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/dns"
)

// compliance cases: a message in, what must be said. Asked by the laptop.
func TestProtocol(t *testing.T) {
	const apex = "home.pic.ngo."
	opt := func(m *mdns.Msg, size uint16, do bool) *mdns.OPT {
		m.SetEdns0(size, do)
		return m.IsEdns0()
	}
	comply(t, []protocolCase{
		{name: "RFC 1035 §4.1.1 answer with id, question, AA and RD", check: func(t *testing.T, r *mdns.Msg) {
			want(t, r, mdns.RcodeSuccess, 1)
			if r.Id != 4711 || !r.Authoritative || !r.RecursionDesired || !r.RecursionAvailable || r.AuthenticatedData || len(r.Question) != 1 {
				t.Fatal(r)
			}
		}},
		{name: "RFC 1035 §4.1.1 RD is copied", edit: func(m *mdns.Msg) { m.RecursionDesired = false }, check: func(t *testing.T, r *mdns.Msg) {
			want(t, r, mdns.RcodeSuccess, 1)
			if r.RecursionDesired {
				t.Fatal(r)
			}
		}},
		{name: "RFC 1035 §4.1.1 a response is not answered", edit: func(m *mdns.Msg) { m.Response = true }, check: silence},
		{name: "RFC 1035 §4.1.1 a short message is not answered", wire: func(b []byte) []byte { return b[:11] }, check: silence},
		{name: "RFC 1035 §4.1.1 opcode IQUERY is not implemented", edit: func(m *mdns.Msg) { m.Opcode = mdns.OpcodeIQuery }, check: rcode(mdns.RcodeNotImplemented)},
		{name: "RFC 1996 opcode NOTIFY is not implemented", edit: func(m *mdns.Msg) { m.Opcode = mdns.OpcodeNotify }, check: rcode(mdns.RcodeNotImplemented)},
		{name: "RFC 2136 opcode UPDATE is not implemented", edit: func(m *mdns.Msg) { m.Opcode = mdns.OpcodeUpdate }, check: rcode(mdns.RcodeNotImplemented)},
		{name: "RFC 8906 §3.1.4 an unknown opcode is not implemented", edit: func(m *mdns.Msg) { m.Opcode = 15 }, check: func(t *testing.T, r *mdns.Msg) {
			want(t, r, mdns.RcodeNotImplemented, 0)
			if r.Opcode != 15 {
				t.Fatal(r)
			}
		}},
		{name: "RFC 9619 §4 QDCOUNT 0", edit: func(m *mdns.Msg) { m.Question = nil }, check: rcode(mdns.RcodeFormatError)},
		{name: "RFC 9619 §4 QDCOUNT 2", edit: func(m *mdns.Msg) { m.Question = append(m.Question, m.Question[0]) }, check: rcode(mdns.RcodeFormatError)},
		{name: "RFC 1035 §4.1.2 a question that is cut", wire: func(b []byte) []byte { return b[:len(b)-2] }, check: rcode(mdns.RcodeFormatError)},
		{name: "RFC 1035 §4.1 bytes behind the message", wire: func(b []byte) []byte { return append(b, 1, 2, 3) }, check: rcode(mdns.RcodeFormatError)},
		{name: "RFC 1035 §4.1.1 ARCOUNT says more than there is", wire: func(b []byte) []byte { b[11] = 2; return b }, check: rcode(mdns.RcodeFormatError)},
		{name: "RFC 1035 §4.1.1 an answer in a query", wire: func(b []byte) []byte { b[7] = 1; return append(b, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 1, 2, 3, 4) }, check: rcode(mdns.RcodeFormatError)},
		{name: "RFC 1035 §4.1.4 a name that points to itself", wire: func([]byte) []byte {
			return []byte{0x12, 0x67, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1}
		}, check: rcode(mdns.RcodeFormatError)},
		{name: "RFC 1035 §2.3.4 a label of 64 bytes", wire: func(b []byte) []byte {
			return append(append(append([]byte{}, b[:12]...), 64), make([]byte, 70)...)
		}, check: rcode(mdns.RcodeFormatError)},
		{name: "RFC 4343 §4.1 the case of the question is kept", edit: func(m *mdns.Msg) { m.Question[0].Name = "FiLeS.hOmE.PiC.nGo." }, check: func(t *testing.T, r *mdns.Msg) {
			want(t, r, mdns.RcodeSuccess, 1)
			if r.Question[0].Name != "FiLeS.hOmE.PiC.nGo." || r.Answer[0].Header().Name != "FiLeS.hOmE.PiC.nGo." {
				t.Fatal(r)
			}
		}},
		{name: "RFC 2308 §2.2 NODATA with SOA", edit: set("files."+apex, mdns.TypeTXT), check: negative(mdns.RcodeSuccess, apex)},
		{name: "RFC 2308 §2.1 NXDOMAIN with SOA", edit: set("nothing."+apex, mdns.TypeA), check: negative(mdns.RcodeNameError, apex)},
		{name: "RFC 4592 §2.2.2 an empty non-terminal exists", edit: set("empty."+apex, mdns.TypeA), check: negative(mdns.RcodeSuccess, apex)},
		{name: "RFC 4592 §3.3 a wildcard answers for names below", edit: set("A.apps."+apex, mdns.TypeA), check: func(t *testing.T, r *mdns.Msg) {
			want(t, r, mdns.RcodeSuccess, 1)
			if r.Answer[0].Header().Name != "A.apps."+apex {
				t.Fatal(r)
			}
		}},
		{name: "RFC 4592 §3.3 a wildcard does not answer for its parent", edit: set("apps."+apex, mdns.TypeA), check: negative(mdns.RcodeSuccess, apex)},
		{name: "RFC 4592 §3.3 a wildcard answers several labels below", edit: set("a.b.apps."+apex, mdns.TypeA), check: rcode(mdns.RcodeSuccess)},
		{name: "RFC 4592 §3.3 NODATA at a wildcard", edit: set("a.apps."+apex, mdns.TypeTXT), check: negative(mdns.RcodeSuccess, apex)},
		{name: "RFC 1034 §3.6.2 an alias is followed in the zone", edit: set("www."+apex, mdns.TypeA), check: func(t *testing.T, r *mdns.Msg) {
			want(t, r, mdns.RcodeSuccess, 2)
			if r.Answer[0].Header().Rrtype != mdns.TypeCNAME || r.Answer[1].Header().Name != "nas."+apex {
				t.Fatal(r)
			}
		}},
		{name: "RFC 1034 §3.6.2 an alias asked for itself is not followed", edit: set("www."+apex, mdns.TypeCNAME), check: func(t *testing.T, r *mdns.Msg) { want(t, r, mdns.RcodeSuccess, 1) }},
		{name: "RFC 1034 §3.6.2 an alias to itself fails", edit: set("loop."+apex, mdns.TypeA), check: rcode(mdns.RcodeServerFailure)},
		{name: "RFC 2308 §2.2 NODATA behind an alias", edit: set("www."+apex, mdns.TypeTXT), check: func(t *testing.T, r *mdns.Msg) {
			want(t, r, mdns.RcodeSuccess, 1)
			if len(r.Ns) != 1 {
				t.Fatal(r)
			}
		}},
		{name: "RFC 8482 §4.2 ANY is one small record", edit: set(apex, mdns.TypeANY), check: func(t *testing.T, r *mdns.Msg) {
			want(t, r, mdns.RcodeSuccess, 1)
			if h, ok := r.Answer[0].(*mdns.HINFO); !ok || h.Cpu != "RFC8482" || r.Len() > 512 {
				t.Fatal(r)
			}
		}},
		{name: "RFC 8482 ANY of no name is NXDOMAIN", edit: set("nothing."+apex, mdns.TypeANY), check: negative(mdns.RcodeNameError, apex)},
		{name: "RFC 3597 an unknown type is NODATA", edit: set("files."+apex, 65280), check: negative(mdns.RcodeSuccess, apex)},
		{name: "RFC 5936 AXFR is refused", edit: set(apex, mdns.TypeAXFR), tcp: true, check: rcode(mdns.RcodeRefused)},
		{name: "RFC 1995 IXFR with its SOA is refused", edit: func(m *mdns.Msg) {
			m.SetIxfr(apex, 1, apex, apex)
		}, check: rcode(mdns.RcodeRefused)},
		{name: "RFC 6895 §3.1 meta types are refused", edit: set(apex, mdns.TypeMAILB), check: rcode(mdns.RcodeRefused)},
		{name: "RFC 6891 §6.1 OPT is no question", edit: set(apex, mdns.TypeOPT), check: rcode(mdns.RcodeFormatError)},
		{name: "RFC 1035 §3.2.4 class CHAOS is refused", edit: func(m *mdns.Msg) {
			m.Question[0] = mdns.Question{Name: "version.bind.", Qtype: mdns.TypeTXT, Qclass: mdns.ClassCHAOS}
		}, check: rcode(mdns.RcodeRefused)},
		{name: "RFC 1035 §3.2.5 class ANY is refused", edit: func(m *mdns.Msg) { m.Question[0].Qclass = mdns.ClassANY }, check: rcode(mdns.RcodeRefused)},
		{name: "RFC 4035 §3.2.2 CD is copied", edit: func(m *mdns.Msg) { m.CheckingDisabled = true }, check: func(t *testing.T, r *mdns.Msg) {
			if !r.CheckingDisabled {
				t.Fatal(r)
			}
		}},
		{name: "RFC 6840 §5.7 AD is not claimed", edit: func(m *mdns.Msg) { m.AuthenticatedData = true }, check: func(t *testing.T, r *mdns.Msg) {
			if r.AuthenticatedData {
				t.Fatal(r)
			}
		}},
		{name: "RFC 6891 §6.1.1 no OPT without one in the query", check: func(t *testing.T, r *mdns.Msg) {
			if r.IsEdns0() != nil {
				t.Fatal(r)
			}
		}},
		{name: "RFC 6891 §6.1.1 OPT is answered by OPT", edit: func(m *mdns.Msg) { opt(m, 4096, false) }, check: func(t *testing.T, r *mdns.Msg) {
			if o := r.IsEdns0(); o == nil || o.UDPSize() != 1232 || o.Version() != 0 || o.Do() || len(r.Extra) != 1 {
				t.Fatal(r)
			}
		}},
		{name: "RFC 6891 §6.1.1 OPT is there on errors too", edit: func(m *mdns.Msg) { set("nothing."+apex, mdns.TypeA)(m); opt(m, 512, false) }, check: func(t *testing.T, r *mdns.Msg) {
			if r.IsEdns0() == nil || r.Rcode != mdns.RcodeNameError {
				t.Fatal(r)
			}
		}},
		{name: "RFC 6891 §6.1.1 two OPTs", edit: func(m *mdns.Msg) { opt(m, 512, false); m.Extra = append(m.Extra, m.Extra[0]) }, check: rcode(mdns.RcodeFormatError)},
		{name: "RFC 6891 §6.1.2 OPT owned by another name than the root", edit: func(m *mdns.Msg) { opt(m, 512, false).Hdr.Name = "x." }, check: rcode(mdns.RcodeFormatError)},
		{name: "RFC 6891 §6.1.3 BADVERS names version 0", edit: func(m *mdns.Msg) { opt(m, 512, false).SetVersion(1) }, check: func(t *testing.T, r *mdns.Msg) {
			if r.Rcode != mdns.RcodeBadVers || r.IsEdns0() == nil || r.IsEdns0().Version() != 0 || len(r.Answer) != 0 {
				t.Fatal(r)
			}
		}},
		{name: "RFC 6891 §6.1.3 BADVERS before unknown options", edit: func(m *mdns.Msg) {
			o := opt(m, 512, false)
			o.SetVersion(100)
			o.Option = append(o.Option, &mdns.EDNS0_LOCAL{Code: 65001, Data: []byte{1}})
		}, check: func(t *testing.T, r *mdns.Msg) {
			if r.Rcode != mdns.RcodeBadVers || len(r.IsEdns0().Option) != 0 {
				t.Fatal(r)
			}
		}},
		{name: "RFC 6891 §6.1.4 DO is copied, other flags are clear", edit: func(m *mdns.Msg) { opt(m, 512, true).Hdr.Ttl |= 0x7fff }, check: func(t *testing.T, r *mdns.Msg) {
			if o := r.IsEdns0(); o == nil || !o.Do() || o.Hdr.Ttl&0x7fff != 0 {
				t.Fatal(r)
			}
		}},
		{name: "RFC 6891 §6.1.2 unknown options are not echoed", edit: func(m *mdns.Msg) {
			o := opt(m, 512, false)
			o.Option = append(o.Option, &mdns.EDNS0_LOCAL{Code: 65001, Data: []byte{1, 2, 3}}, &mdns.EDNS0_NSID{Code: mdns.EDNS0NSID})
		}, check: func(t *testing.T, r *mdns.Msg) {
			want(t, r, mdns.RcodeSuccess, 1)
			if len(r.IsEdns0().Option) != 0 {
				t.Fatal(r)
			}
		}},
		{name: "RFC 7873 §5.2.2 a cookie of a wrong length", edit: func(m *mdns.Msg) {
			opt(m, 512, false).Option = []mdns.EDNS0{&mdns.EDNS0_COOKIE{Code: mdns.EDNS0COOKIE, Cookie: "0123"}}
		}, check: rcode(mdns.RcodeFormatError)},
		{name: "RFC 7873 §5.2.3 a client's cookie is answered with ours", edit: func(m *mdns.Msg) {
			opt(m, 512, false).Option = []mdns.EDNS0{&mdns.EDNS0_COOKIE{Code: mdns.EDNS0COOKIE, Cookie: "0123456789abcdef"}}
		}, check: func(t *testing.T, r *mdns.Msg) {
			want(t, r, mdns.RcodeSuccess, 1)
			if o := r.IsEdns0().Option; len(o) != 1 || !strings.HasPrefix(o[0].String(), "0123456789abcdef01000000") || len(o[0].String()) != 48 {
				t.Fatal(r)
			}
		}},
		{name: "RFC 7873 §5.2.4 a stranger's server cookie is no error", edit: func(m *mdns.Msg) {
			opt(m, 512, false).Option = []mdns.EDNS0{&mdns.EDNS0_COOKIE{Code: mdns.EDNS0COOKIE, Cookie: strings.Repeat("01", 40)}}
		}, check: rcode(mdns.RcodeSuccess)},
		{name: "RFC 6891 §6.1.2 an option longer than its OPT", wire: func(b []byte) []byte {
			b[11] = 1
			return append(b, 0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 4, 0xff, 0, 0, 9)
		}, check: rcode(mdns.RcodeFormatError)},
		{name: "RFC 2181 §9 TC over 512 bytes without EDNS", edit: set("big."+apex, mdns.TypeTXT), check: truncated},
		{name: "RFC 6891 §6.2.3 a size below 512 is 512", edit: func(m *mdns.Msg) { set("big."+apex, mdns.TypeTXT)(m); opt(m, 100, false) }, check: truncated},
		{name: "RFC 9715 §3.1 TC over 1,232 bytes whatever is asked for", edit: func(m *mdns.Msg) { set("big."+apex, mdns.TypeTXT)(m); opt(m, 65535, true) }, check: truncated},
		{name: "RFC 7766 §5 everything over TCP", edit: set("big."+apex, mdns.TypeTXT), tcp: true, check: func(t *testing.T, r *mdns.Msg) { want(t, r, mdns.RcodeSuccess, 60) }},
		{name: "RFC 6761 §6.3 localhost", edit: set("localhost.", mdns.TypeA), check: func(t *testing.T, r *mdns.Msg) { want(t, r, mdns.RcodeSuccess, 1) }},
		{name: "RFC 6761 §6.3 names below localhost don't travel", edit: set("x.localhost.", mdns.TypeA), check: negative(mdns.RcodeNameError, "localhost.")},
		{name: "RFC 6303 §4.1 private reverse names don't travel", edit: set("9.9.168.192.in-addr.arpa.", mdns.TypePTR), check: negative(mdns.RcodeNameError, "168.192.in-addr.arpa.")},
		{name: "RFC 6303 §4.4 ULA reverse names don't travel", edit: set("1.0.0.0.d.f.ip6.arpa.", mdns.TypePTR), check: negative(mdns.RcodeNameError, "d.f.ip6.arpa.")},
		{name: "RFC 7793 CGNAT reverse names don't travel", edit: set("1.1.99.100.in-addr.arpa.", mdns.TypePTR), check: negative(mdns.RcodeNameError, "99.100.in-addr.arpa.")},
		{name: "RFC 6762 §3 .local does not travel", edit: set("printer.local.", mdns.TypeA), check: negative(mdns.RcodeNameError, "local.")},
		{name: "RFC 7686 §2 .onion does not travel", edit: set("abc.onion.", mdns.TypeA), check: negative(mdns.RcodeNameError, "onion.")},
		{name: ".internal of others does not travel", edit: set("other.internal.", mdns.TypeA), check: negative(mdns.RcodeNameError, "internal.")},
		{name: "a single label does not travel", edit: set("printer.", mdns.TypeA), check: rcode(mdns.RcodeNameError)},
		{name: "the DoH canary does not exist", edit: set("use-application-dns.net.", mdns.TypeA), check: negative(mdns.RcodeNameError, "use-application-dns.net.")},
		{name: "a foreign name without RD is refused", edit: func(m *mdns.Msg) { set("example.org.", mdns.TypeA)(m); m.RecursionDesired = false }, check: func(t *testing.T, r *mdns.Msg) {
			want(t, r, mdns.RcodeRefused, 0)
			if r.Authoritative {
				t.Fatal(r)
			}
		}},
		{name: "RFC 8482 ANY of a foreign name is not forwarded", edit: set("example.org.", mdns.TypeANY), check: func(t *testing.T, r *mdns.Msg) { want(t, r, mdns.RcodeSuccess, 1) }},
		{name: "RFC 1035 §3.5 reverse of a peer", edit: set("2.0.17.10.in-addr.arpa.", mdns.TypePTR), check: func(t *testing.T, r *mdns.Msg) {
			want(t, r, mdns.RcodeSuccess, 1)
			if r.Answer[0].(*mdns.PTR).Ptr != "laptop.peers.home.pic.ngo." {
				t.Fatal(r)
			}
		}},
	})
}

// protocolCase is a message from the laptop and what must be said to it.
type protocolCase struct {
	name  string              // the clause and what it asks for
	edit  func(*mdns.Msg)     // of a question for files.home.pic.ngo. A
	wire  func([]byte) []byte // after packing
	tcp   bool
	check func(*testing.T, *mdns.Msg)
}

// comply runs each case both ways.
func comply(t *testing.T, cases []protocolCase) {
	quick, long := inMemory(t, nil), inMemory(t, nil)
	long.LongWay()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			m := question("files.home.pic.ngo.", mdns.TypeA)
			if c.edit != nil {
				c.edit(m)
			}
			wire, err := m.Pack()
			if err != nil {
				t.Fatal(err)
			}
			if c.wire != nil {
				wire = c.wire(wire)
			}
			c.check(t, askWire(t, long, wire, cell.TunnelLink, laptop, c.tcp))
			c.check(t, askWire(t, quick, wire, cell.TunnelLink, laptop, c.tcp))
		})
	}
	if quick.Status().Quick == 0 || long.Status().Quick != 0 {
		t.Errorf("answers in wire form: %d, and %d the long way", quick.Status().Quick, long.Status().Quick)
	}
}

// bothWays runs f on a server that answers from wire forms and on one that
// doesn't.
func bothWays(t *testing.T, f func(*testing.T, *dns.Server)) {
	for _, way := range []string{"quick", "long"} {
		t.Run(way, func(t *testing.T) {
			s := inMemory(t, nil)
			if way == "long" {
				s.LongWay()
			}
			f(t, s)
			if n := s.Status().Quick; (n > 0) != (way == "quick") {
				t.Errorf("%d answers in wire form", n)
			}
		})
	}
}

func set(name string, qtype uint16) func(*mdns.Msg) {
	return func(m *mdns.Msg) {
		m.Question = []mdns.Question{{Name: name, Qtype: qtype, Qclass: mdns.ClassINET}}
	}
}

func want(t *testing.T, r *mdns.Msg, rcode, answers int) {
	t.Helper()
	if r == nil || r.Rcode != rcode || len(r.Answer) != answers {
		t.Fatalf("want %s with %d records, got\n%v", mdns.RcodeToString[rcode], answers, r)
	}
}

func silence(t *testing.T, r *mdns.Msg) {
	if r != nil {
		t.Fatalf("answered:\n%v", r)
	}
}

func rcode(code int) func(*testing.T, *mdns.Msg) {
	return func(t *testing.T, r *mdns.Msg) {
		if r == nil || r.Rcode != code || !r.Response {
			t.Fatalf("want %s, got\n%v", mdns.RcodeToString[code], r)
		}
	}
}

func negative(code int, apex string) func(*testing.T, *mdns.Msg) {
	return func(t *testing.T, r *mdns.Msg) {
		want(t, r, code, 0)
		soa, ok := (*mdns.SOA)(nil), false
		if len(r.Ns) == 1 {
			soa, ok = r.Ns[0].(*mdns.SOA)
		}
		if !ok || soa.Hdr.Name != apex || soa.Hdr.Ttl > soa.Minttl || !r.Authoritative {
			t.Fatalf("want the SOA of %s with the TTL of a negative answer, got\n%v", apex, r)
		}
	}
}

func truncated(t *testing.T, r *mdns.Msg) {
	if want(t, r, mdns.RcodeSuccess, 0); !r.Truncated || !r.Authoritative {
		t.Fatalf("want TC, got\n%v", r)
	}
}

// No answer over UDP is longer than the client takes, 1,232 bytes at most,
// and ANY stays small (DNS-3).
func TestAnswersStaySmall(t *testing.T) {
	bothWays(t, func(t *testing.T, s *dns.Server) {
		for _, size := range []uint16{0, 512, 700, 1232, 4096, 65535} {
			for _, qtype := range []uint16{mdns.TypeTXT, mdns.TypeANY, mdns.TypeMX} {
				for _, name := range []string{"big.home.pic.ngo.", "home.pic.ngo.", "mail.home.pic.ngo."} {
					m := question(name, qtype)
					if size > 0 {
						m.SetEdns0(size, true)
					}
					wire, _ := m.Pack()
					out := s.Serve(wire, cell.TunnelLink, laptop, false)
					if limit := min(max(int(size), 512), 1232); len(out) > limit || len(out) == 0 {
						t.Errorf("%s %s size %d: %d bytes", name, mdns.TypeToString[qtype], size, len(out))
					}
					if qtype == mdns.TypeANY && len(out) > 512 {
						t.Errorf("ANY: %d bytes", len(out))
					}
				}
			}
		}
	})
}

// The internet view can't be used to flood somebody: over the limit an answer
// is no longer than its question. Cookies and TCP prove the source.
func TestForgedSourcesAreNotFlooded(t *testing.T) {
	for _, long := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := inMemory(t, nil)
			if long {
				s.LongWay()
			}
			q := question("home.pic.ngo.", mdns.TypeTXT)
			q.SetEdns0(1232, false)
			wire, _ := q.Pack()
			whole := 0
			for range 500 {
				switch r := askWire(t, s, wire, "up0", "198.51.100.9", false); {
				case len(r.Answer) == 1:
					whole++
				case !r.Truncated || r.Len() > len(wire):
					t.Fatalf("%d bytes for %d:\n%v", r.Len(), len(wire), r)
				}
			}
			if whole != 40 || s.Status().Limited != 460 {
				t.Fatalf("%d whole answers, %d limited", whole, s.Status().Limited)
			}
			want(t, ask(t, s, q, "up0", "198.51.100.9", true), 0, 1)
			want(t, ask(t, s, q, "up0", "192.0.2.1", false), 0, 1)
			// With the cookie that even a limited answer brings.
			q.IsEdns0().Option = []mdns.EDNS0{&mdns.EDNS0_COOKIE{Code: mdns.EDNS0COOKIE, Cookie: "0123456789abcdef"}}
			r := ask(t, s, q, "up0", "198.51.100.9", false)
			if want(t, r, 0, 0); !r.Truncated {
				t.Fatal(r)
			}
			q.IsEdns0().Option = r.IsEdns0().Option
			want(t, ask(t, s, q, "up0", "198.51.100.9", false), 0, 1)
			if r := ask(t, s, q, "up0", "198.51.100.10", false); !r.Truncated {
				t.Fatalf("another's cookie is taken:\n%v", r)
			}
			time.Sleep(2 * time.Hour)
			for range 40 {
				askWire(t, s, wire, "up0", "198.51.100.9", false)
			}
			if r := ask(t, s, q, "up0", "198.51.100.9", false); !r.Truncated {
				t.Fatalf("an old cookie is taken:\n%v", r)
			}
			for range 500 { // peers and the LAN prove their source by their link
				want(t, ask(t, s, question("home.pic.ngo.", mdns.TypeA), "pic0", laptop, false), 0, 1)
			}
		})
	}
}

// The view is chosen by interface and source together.
func TestViews(t *testing.T) {
	bothWays(t, func(t *testing.T, s *dns.Server) {
		const refused = "REFUSED"
		for _, c := range []struct{ who, link, src, name, want string }{
			{"a peer", "pic0", laptop, "home.pic.ngo.", "10.17.0.1"},
			{"a peer over v6", "pic0", "fd02:304:506::2", "home.pic.ngo.", "10.17.0.1"},
			{"a peer, internal name", "pic0", laptop, "home.internal.", "10.17.0.1"},
			{"a peer, another peer's name", "pic0", laptop, "phone.peers.home.pic.ngo.", "10.17.0.3"},
			{"a peer, a peer that is off", "pic0", laptop, "gone.peers.home.pic.ngo.", "NXDOMAIN"},
			{"a peer, a granted service", "pic0", laptop, "files.home.pic.ngo.", "10.17.0.1"},
			{"a peer, a granted admin service", "pic0", laptop, "vault.home.internal.", "10.17.0.1"},
			{"a peer, a service that is off", "pic0", laptop, "off.home.pic.ngo.", "NXDOMAIN"},
			{"another peer, not granted", "pic0", phone, "files.home.pic.ngo.", "NXDOMAIN"},
			{"another peer, not granted in capitals", "pic0", phone, "FILES.HOME.PIC.NGO.", "NXDOMAIN"},
			{"another peer, open service", "pic0", phone, "wiki.home.pic.ngo.", "10.17.0.1"},
			{"an unknown address in the tunnel", "pic0", "10.17.0.99", "home.pic.ngo.", refused},
			{"a peer that is off", "pic0", "10.17.0.5", "home.pic.ngo.", refused},
			{"a LAN address in the tunnel", "pic0", lanHost, "home.pic.ngo.", refused},
			{"a LAN host", "lan0", lanHost, "home.pic.ngo.", "192.168.7.1"},
			{"a LAN host, LAN service", "lan0", lanHost, "media.home.pic.ngo.", "192.168.7.1"},
			{"a LAN host, peers' service", "lan0", lanHost, "wiki.home.pic.ngo.", "NXDOMAIN"},
			{"a LAN host, a peer's name", "lan0", lanHost, "laptop.peers.home.pic.ngo.", "NXDOMAIN"},
			{"a LAN host, a peers' record", "lan0", lanHost, "a.apps.home.pic.ngo.", "NXDOMAIN"},
			{"a peer's address on the LAN", "lan0", laptop, "home.pic.ngo.", refused},
			{"a stranger on the LAN", "lan0", "192.0.2.9", "home.pic.ngo.", refused},
			{"a service", "br-wiki", "172.20.2.2", "home.pic.ngo.", "172.20.2.1"},
			{"a service, internal name", "br-wiki", "172.20.2.2", "home.internal.", "172.20.2.1"},
			{"a service, its own name", "br-wiki", "172.20.2.2", "wiki.home.pic.ngo.", "172.20.2.1"},
			{"a service, a service of the internet", "br-wiki", "172.20.2.2", "blog.home.pic.ngo.", "172.20.2.1"},
			{"a service, another's name", "br-wiki", "172.20.2.2", "files.home.pic.ngo.", "NXDOMAIN"},
			{"a service, a LAN service", "br-wiki", "172.20.2.2", "media.home.pic.ngo.", "NXDOMAIN"},
			{"a service, a peer's name", "br-wiki", "172.20.2.2", "laptop.peers.home.pic.ngo.", "NXDOMAIN"},
			{"a service, a record of the admin's", "br-wiki", "172.20.2.2", "nas.home.pic.ngo.", "NXDOMAIN"},
			{"a service, a name that doesn't travel", "br-wiki", "172.20.2.2", "printer.", "NXDOMAIN"},
			{"another service's address on a bridge", "br-wiki", "172.20.1.2", "home.pic.ngo.", refused},
			{"a peer's address on a bridge", "br-wiki", laptop, "files.home.pic.ngo.", refused},
			{"a stranger on a bridge", "br-wiki", "192.0.2.9", "home.pic.ngo.", refused},
			{"a bridge of a service that is off", "br-off", "172.20.3.2", "home.pic.ngo.", refused},
			{"a service's address in the tunnel", "pic0", "172.20.2.2", "home.pic.ngo.", refused},
			{"a service's address on the LAN", "lan0", "172.20.2.2", "home.pic.ngo.", refused},
			{"the internet with a service's address", "up0", "172.20.2.2", "wiki.home.pic.ngo.", "NXDOMAIN"},
			{"the internet", "up0", "198.51.100.9", "home.pic.ngo.", "203.0.113.7"},
			{"the internet, internet service", "up0", "198.51.100.9", "blog.home.pic.ngo.", "203.0.113.7"},
			{"the internet, LAN service", "up0", "198.51.100.9", "media.home.pic.ngo.", "NXDOMAIN"},
			{"the internet, internal name", "up0", "198.51.100.9", "home.internal.", refused},
			{"the internet, foreign name", "up0", "198.51.100.9", "example.org.", refused},
			{"the internet with a peer's address", "up0", laptop, "files.home.pic.ngo.", "NXDOMAIN"},
			{"the internet with a LAN address", "up0", lanHost, "nas.home.pic.ngo.", "NXDOMAIN"},
			{"an unknown interface", "eth9", laptop, "home.pic.ngo.", refused},
			{"no interface", "", laptop, "home.pic.ngo.", refused},
			{"the loopback", "lo", "127.0.0.1", "home.pic.ngo.", refused},
		} {
			r := ask(t, s, question(c.name, mdns.TypeA), c.link, c.src, false)
			got := mdns.RcodeToString[r.Rcode]
			if len(r.Answer) == 1 {
				got = r.Answer[0].(*mdns.A).A.String()
			}
			if got != c.want {
				t.Errorf("%s asks %s: want %s, got %s", c.who, c.name, c.want, got)
			}
		}
		if q := s.Status().Queries; q["unknown"]["REFUSED"] == 0 || q["peer"]["NXDOMAIN"] == 0 || q["internet"]["NOERROR"] == 0 || q["lan"]["NOERROR"] == 0 || q["service"]["NOERROR"] == 0 {
			t.Errorf("counters: %v", q)
		}
	})
}

// A name that is hidden from a peer must look exactly like one that isn't there.
func TestHiddenServicesLookLikeNoName(t *testing.T) {
	s := inMemory(t, nil)
	for _, qtype := range []uint16{mdns.TypeA, mdns.TypeAAAA, mdns.TypeTXT, mdns.TypeANY, mdns.TypeSOA, mdns.TypeHTTPS} {
		a := ask(t, s, question("files.home.pic.ngo.", qtype), "pic0", phone, false)
		b := ask(t, s, question("filez.home.pic.ngo.", qtype), "pic0", phone, false)
		if x, y := strings.ReplaceAll(a.String(), "files", "filez"), b.String(); x != y {
			t.Fatalf("the two differ:\n%s\n%s", x, y)
		}
	}
}

func TestApplyTwiceChangesNothing(t *testing.T) {
	st, f := household(t)
	v := compile(t, st, f)
	v.Listen = nil
	s := start(t, &dns.Config{}, v)
	if changed, err := s.Apply(t.Context(), compileNoListen(t, st, f)); changed || err != nil {
		t.Fatalf("the second time: changed %v, %v", changed, err)
	}
	st.Peers[1].Services = []string{"files"}
	if changed, err := s.Apply(t.Context(), compileNoListen(t, st, f)); !changed || err != nil {
		t.Fatalf("after an edit: changed %v, %v", changed, err)
	}
	if r := ask(t, s, question("files.home.pic.ngo.", mdns.TypeA), "pic0", phone, false); len(r.Answer) != 1 {
		t.Fatalf("the new grant does not show:\n%v", r)
	}
}

func compileNoListen(t testing.TB, s *cell.State, f cell.Facts) dns.Views {
	v := compile(t, s, f)
	v.Listen = nil
	return v
}
