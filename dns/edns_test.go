package dns_test

import (
	"net"
	"slices"
	"strings"
	"testing"

	mdns "github.com/miekg/dns"
)

// TestEDNSCompliance asks what RFC 8906 §8 and the EDNS compliance testers ask
// of a server: every combination of version, flags, options, sizes and
// transports that a middle-aged server has been seen to stumble over.
func TestEDNSCompliance(t *testing.T) {
	const apex = "home.pic.ngo."
	with := func(name string, qtype, size uint16, version uint8, flags uint16, o ...mdns.EDNS0) func(*mdns.Msg) {
		return func(m *mdns.Msg) {
			set(name, qtype)(m)
			m.SetEdns0(size, false)
			opt := m.IsEdns0()
			opt.Hdr.Ttl = uint32(version)<<16 | uint32(flags)
			opt.Option = o
		}
	}
	unknown := &mdns.EDNS0_LOCAL{Code: 100, Data: []byte{1, 2}}
	nsid := &mdns.EDNS0_NSID{Code: mdns.EDNS0NSID}
	ecs := &mdns.EDNS0_SUBNET{Code: mdns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: net.IPv4(192, 0, 2, 0)}
	expire := &mdns.EDNS0_EXPIRE{Code: mdns.EDNS0EXPIRE, Empty: true}
	cookie := &mdns.EDNS0_COOKIE{Code: mdns.EDNS0COOKIE, Cookie: "0123456789abcdef"}
	keepalive := &mdns.EDNS0_TCP_KEEPALIVE{Code: mdns.EDNS0TCPKEEPALIVE}
	padding := &mdns.EDNS0_PADDING{Padding: make([]byte, 40)}
	// ok is a whole answer with an OPT of version 0 that has no option but a
	// cookie where one was sent.
	ok := func(answers int, do, cookied bool) func(*testing.T, *mdns.Msg) {
		return func(t *testing.T, r *mdns.Msg) {
			t.Helper()
			want(t, r, mdns.RcodeSuccess, answers)
			o := r.IsEdns0()
			if o == nil || o.Version() != 0 || o.Do() != do || o.Hdr.Ttl&0x7fff != 0 || o.UDPSize() != 1232 || !r.Authoritative || r.Truncated {
				t.Fatal(r)
			}
			if n := len(o.Option); (n == 1) != cookied || n > 1 {
				t.Fatalf("%d options:\n%v", n, r)
			}
		}
	}
	badvers := func(t *testing.T, r *mdns.Msg) {
		t.Helper()
		if r == nil || r.Rcode != mdns.RcodeBadVers || r.IsEdns0() == nil || r.IsEdns0().Version() != 0 || len(r.Answer) != 0 || slices.ContainsFunc(r.IsEdns0().Option, func(o mdns.EDNS0) bool { return o.Option() != mdns.EDNS0COOKIE }) {
			t.Fatal(r)
		}
	}
	plain := func(t *testing.T, r *mdns.Msg) {
		t.Helper()
		if want(t, r, mdns.RcodeSuccess, 1); r.IsEdns0() != nil || !r.Authoritative {
			t.Fatal(r)
		}
	}
	comply(t, []protocolCase{
		// RFC 8906 §8.1: without EDNS.
		{name: "RFC 8906 §8.1.1 SOA", edit: set(apex, mdns.TypeSOA), check: plain},
		{name: "RFC 8906 §8.1.2 an unknown type", edit: set(apex, 1000), check: negative(mdns.RcodeSuccess, apex)},
		{name: "RFC 8906 §8.1.3.1 flag CD", edit: func(m *mdns.Msg) { set(apex, mdns.TypeSOA)(m); m.CheckingDisabled = true }, check: plain},
		{name: "RFC 8906 §8.1.3.2 flag AD", edit: func(m *mdns.Msg) { set(apex, mdns.TypeSOA)(m); m.AuthenticatedData = true }, check: plain},
		{name: "RFC 8906 §8.1.3.3 flag Z is not copied", edit: func(m *mdns.Msg) { set(apex, mdns.TypeSOA)(m); m.Zero = true }, check: func(t *testing.T, r *mdns.Msg) {
			if plain(t, r); r.Zero {
				t.Fatal(r)
			}
		}},
		{name: "RFC 8906 §8.1.3.4 flag RD", edit: func(m *mdns.Msg) { set(apex, mdns.TypeSOA)(m); m.RecursionDesired = true }, check: plain},
		{name: "RFC 1035 §4.1.1 flags AA, TC and RA of a query mean nothing", edit: func(m *mdns.Msg) {
			set(apex, mdns.TypeSOA)(m)
			m.Authoritative, m.Truncated, m.RecursionAvailable = true, true, true
		}, check: func(t *testing.T, r *mdns.Msg) {
			if plain(t, r); r.Truncated {
				t.Fatal(r)
			}
		}},
		{name: "RFC 8906 §8.1.5 TCP", edit: set(apex, mdns.TypeSOA), tcp: true, check: plain},
		// RFC 8906 §8.2: with EDNS.
		{name: "RFC 8906 §8.2.1 EDNS 0", edit: with(apex, mdns.TypeSOA, 4096, 0, 0), check: ok(1, false, false)},
		{name: "RFC 8906 §8.2.2 EDNS 1", edit: with(apex, mdns.TypeSOA, 4096, 1, 0), check: badvers},
		{name: "RFC 8906 §8.2.3 EDNS 0 with an unknown option", edit: with(apex, mdns.TypeSOA, 4096, 0, 0, unknown), check: ok(1, false, false)},
		{name: "RFC 8906 §8.2.4 EDNS 0 with unknown flags", edit: with(apex, mdns.TypeSOA, 4096, 0, 0x40), check: ok(1, false, false)},
		{name: "RFC 8906 §8.2.5 EDNS 1 with unknown flags", edit: with(apex, mdns.TypeSOA, 4096, 1, 0x40), check: badvers},
		{name: "RFC 8906 §8.2.6 EDNS 1 with an unknown option", edit: with(apex, mdns.TypeSOA, 4096, 1, 0, unknown), check: badvers},
		{name: "RFC 8906 §8.2.7 truncation", edit: with("big."+apex, mdns.TypeTXT, 512, 0, 0x8000), check: func(t *testing.T, r *mdns.Msg) {
			if truncated(t, r); r.IsEdns0() == nil || !r.IsEdns0().Do() || r.Len() > 512 {
				t.Fatal(r)
			}
		}},
		{name: "RFC 8906 §8.2.8 DO", edit: with(apex, mdns.TypeSOA, 4096, 0, 0x8000), check: ok(1, true, false)},
		{name: "RFC 8906 §8.2.9 EDNS 1 with DO", edit: with(apex, mdns.TypeSOA, 4096, 1, 0x8000), check: badvers},
		{name: "RFC 8906 §8.2.10 several known options", edit: with(apex, mdns.TypeSOA, 4096, 0, 0, nsid, ecs, expire, cookie), check: ok(1, false, true)},
		{name: "RFC 6891 §6.1.3 EDNS 255", edit: with(apex, mdns.TypeSOA, 4096, 255, 0), check: badvers},
		{name: "RFC 6891 §6.1.3 EDNS 1 over TCP", edit: with(apex, mdns.TypeSOA, 4096, 1, 0), tcp: true, check: badvers},
		{name: "RFC 6891 §6.1.3 EDNS 1 with a cookie", edit: with(apex, mdns.TypeSOA, 4096, 1, 0, cookie), check: badvers},
		{name: "RFC 6891 §6.1.4 every flag", edit: with(apex, mdns.TypeSOA, 4096, 0, 0xffff), check: ok(1, true, false)},
		{name: "RFC 6891 §6.2.3 size 0", edit: with(apex, mdns.TypeSOA, 0, 0, 0), check: ok(1, false, false)},
		{name: "RFC 6891 §6.2.3 size 512", edit: with(apex, mdns.TypeSOA, 512, 0, 0), check: ok(1, false, false)},
		{name: "RFC 6891 §6.2.4 size 65535", edit: with(apex, mdns.TypeSOA, 65535, 0, 0), check: ok(1, false, false)},
		{name: "RFC 6891 §6.2.3 size 512 over TCP limits nothing", edit: with("big."+apex, mdns.TypeTXT, 512, 0, 0), tcp: true, check: ok(60, false, false)},
		{name: "RFC 5001 §2.1 NSID is not told", edit: with(apex, mdns.TypeSOA, 4096, 0, 0, nsid), check: ok(1, false, false)},
		{name: "RFC 7871 §7.2.2 a client subnet is ignored", edit: with("files."+apex, mdns.TypeA, 4096, 0, 0, ecs), check: ok(1, false, false)},
		{name: "RFC 7314 §3 EXPIRE is ignored", edit: with(apex, mdns.TypeSOA, 4096, 0, 0, expire), check: ok(1, false, false)},
		{name: "RFC 7828 §3.2.1 keepalive over UDP is ignored", edit: with(apex, mdns.TypeSOA, 4096, 0, 0, keepalive), check: ok(1, false, false)},
		{name: "RFC 7830 §3 padding is ignored in clear text", edit: with(apex, mdns.TypeSOA, 4096, 0, 0, padding), check: ok(1, false, false)},
		{name: "RFC 7873 §5.2.3 a cookie over TCP", edit: with(apex, mdns.TypeSOA, 4096, 0, 0, cookie), tcp: true, check: ok(1, false, true)},
		{name: "RFC 7873 §5.2.3 a cookie with an unknown type", edit: with("files."+apex, 1000, 4096, 0, 0, cookie), check: ok(0, false, true)},
		{name: "RFC 7873 §5.2 two cookies, the first counts", edit: with(apex, mdns.TypeSOA, 4096, 0, 0, cookie, &mdns.EDNS0_COOKIE{Code: mdns.EDNS0COOKIE, Cookie: "ffffffffffffffff"}), check: func(t *testing.T, r *mdns.Msg) {
			ok(1, false, true)(t, r)
			if c := r.IsEdns0().Option[0].String(); c[:16] != "0123456789abcdef" {
				t.Fatal(r)
			}
		}},
		{name: "RFC 7873 §4 a cookie of 41 bytes", edit: with(apex, mdns.TypeSOA, 4096, 0, 0, &mdns.EDNS0_COOKIE{Code: mdns.EDNS0COOKIE, Cookie: strings.Repeat("00", 41)}), check: rcode(mdns.RcodeFormatError)},
		{name: "RFC 6891 §6.1.1 OPT with an unknown type", edit: with("files."+apex, 1000, 4096, 0, 0), check: func(t *testing.T, r *mdns.Msg) {
			if negative(mdns.RcodeSuccess, apex)(t, r); r.IsEdns0() == nil {
				t.Fatal(r)
			}
		}},
		{name: "RFC 6891 §6.1.1 OPT with NXDOMAIN", edit: with("nothing."+apex, mdns.TypeA, 4096, 0, 0x8000), check: func(t *testing.T, r *mdns.Msg) {
			if negative(mdns.RcodeNameError, apex)(t, r); r.IsEdns0() == nil || !r.IsEdns0().Do() {
				t.Fatal(r)
			}
		}},
		{name: "RFC 6891 §6.1.1 OPT with REFUSED", edit: with(apex, mdns.TypeAXFR, 4096, 0, 0), check: func(t *testing.T, r *mdns.Msg) {
			if want(t, r, mdns.RcodeRefused, 0); r.IsEdns0() == nil {
				t.Fatal(r)
			}
		}},
		{name: "RFC 6891 §7 OPT with FORMERR, where it could be read", wire: func(b []byte) []byte {
			b[11] = 2 // an OPT, then a record that is not there
			return append(b, 0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0)
		}, check: func(t *testing.T, r *mdns.Msg) {
			if want(t, r, mdns.RcodeFormatError, 0); r.IsEdns0() == nil {
				t.Fatal(r)
			}
		}},
		{name: "RFC 6891 §6.1.1 OPT may follow another record", wire: func(b []byte) []byte {
			b[11] = 2
			return append(b, 0, 0, 16, 0, 1, 0, 0, 0, 0, 0, 2, 1, 'x', 0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0)
		}, check: ok(1, false, false)},
		{name: "RFC 1035 §4.1.4 a pointer in the question to the header", wire: func(b []byte) []byte {
			return append(append(slices.Clone(b[:12]), 0xc0, 0), 0, 1, 0, 1)
		}, check: rcode(mdns.RcodeFormatError)},
		{name: "RFC 1035 §4.1.4 a reserved label type", wire: func(b []byte) []byte {
			return append(append(slices.Clone(b[:12]), 0x80, 1, 0), 0, 1, 0, 1)
		}, check: rcode(mdns.RcodeFormatError)},
		{name: "RFC 6891 §5 an extended label type", wire: func(b []byte) []byte {
			return append(append(slices.Clone(b[:12]), 0x41, 1, 0), 0, 1, 0, 1)
		}, check: rcode(mdns.RcodeFormatError)},
		{name: "RFC 1035 §4.1.1 NSCOUNT says more than there is", wire: func(b []byte) []byte { b[9] = 1; return b }, check: rcode(mdns.RcodeFormatError)},
		{name: "RFC 1035 §4.1.1 ANCOUNT says more than there is", wire: func(b []byte) []byte { b[7] = 1; return b }, check: rcode(mdns.RcodeFormatError)},
		{name: "RFC 9619 §4 QDCOUNT 65535", wire: func(b []byte) []byte { b[4], b[5] = 0xff, 0xff; return b }, check: rcode(mdns.RcodeFormatError)},
		{name: "RFC 1035 §4.1.1 a header alone", wire: func(b []byte) []byte { return b[:12] }, check: rcode(mdns.RcodeFormatError)},
		{name: "RFC 2181 §5.2 records of a set have one TTL", edit: set("big."+apex, mdns.TypeTXT), tcp: true, check: func(t *testing.T, r *mdns.Msg) {
			for _, rr := range r.Answer {
				if rr.Header().Ttl != r.Answer[0].Header().Ttl {
					t.Fatal(r)
				}
			}
		}},
		{name: "RFC 1034 §4.2.1 NS of the apex", edit: set(apex, mdns.TypeNS), check: plain},
		{name: "RFC 4343 §3 NODATA whatever the case", edit: set("FILES."+apex, mdns.TypeTXT), check: negative(mdns.RcodeSuccess, apex)},
		{name: "RFC 4035 §3.1.4.1 DS of a name of ours is NODATA", edit: set("files."+apex, mdns.TypeDS), check: negative(mdns.RcodeSuccess, apex)},
		{name: "RFC 9460 §4.1 HTTPS without a record is NODATA", edit: set("files."+apex, mdns.TypeHTTPS), check: negative(mdns.RcodeSuccess, apex)},
		{name: "RFC 8945 §5.2 TSIG as a type is refused", edit: set(apex, mdns.TypeTSIG), check: rcode(mdns.RcodeRefused)},
		{name: "RFC 6895 §3.1 type 0 is no question", edit: set(apex, 0), check: rcode(mdns.RcodeFormatError)},
		{name: "RFC 8490 §5.4 DSO is not implemented", edit: func(m *mdns.Msg) { m.Opcode = mdns.OpcodeStateful }, check: rcode(mdns.RcodeNotImplemented)},
	})
}
