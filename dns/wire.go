package dns

import (
	"encoding/binary"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

// The short way: the common question, met by an answer that is kept in wire
// form. It is taken only where its answer equals that of the long way to the
// bit (FuzzBothWaysAgree), and leaves everything else to it: options, aliases,
// wildcards, names that don't exist, answers too long, odd letters.

// wired is a set of records in wire form, compressed against a question with
// one name. It never changes once made.
type wired struct {
	answers, authorities uint16
	body                 []byte
	// exact asks for a question in lower case: names in the data are compressed
	// against it, and would take over its case.
	exact bool
	ttls  []int // offsets into body
	// soa is the record that a negative answer was made with, see absent.
	soa mdns.RR
}

// newWired packs what answers a question for name, which is in lower case;
// nil is what can't be sent.
func newWired(name string, qtype uint16, answer, ns []mdns.RR) *wired {
	m := &mdns.Msg{Compress: true, Question: []mdns.Question{{Name: name, Qtype: qtype, Qclass: mdns.ClassINET}}, Answer: answer, Ns: ns}
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	_, begin, err := mdns.UnpackDomainName(b, headerSize)
	if err != nil {
		return nil
	}
	begin += 4
	w := &wired{answers: uint16(len(answer)), authorities: uint16(len(ns)), body: b[begin:], exact: len(ns) > 0}
	for off := begin; off < len(b); {
		if _, off, err = mdns.UnpackDomainName(b, off); err != nil || off+10 > len(b) {
			return nil
		}
		w.ttls = append(w.ttls, off+4-begin)
		off += 10 + int(binary.BigEndian.Uint16(b[off+8:]))
	}
	for _, rr := range answer {
		switch rr.Header().Rrtype {
		case mdns.TypeA, mdns.TypeAAAA, mdns.TypeTXT, mdns.TypeCAA:
			w.exact = w.exact || rr.Header().Name != name
		default:
			w.exact = true
		}
	}
	return w
}

// wireOf is the set's answer in wire form, made when it is first asked for:
// of thousands of peers few are ever looked up.
func (s *rrset) wireOf(name []byte) *wired {
	w := s.wire.Load()
	if w == nil {
		if w = newWired(string(name), s.rrtype, s.rrs, nil); w != nil {
			s.wire.Store(w)
		}
	}
	return w
}

// absent is the answer for a type that the name doesn't have. A zone shares its
// nodes with the one it grew from, whose SOA record is another.
func (n *node) absent(z *zone, name []byte) *wired {
	w := n.nodata.Load()
	if w == nil || w.soa != z.soa {
		if w = newWired(string(name), mdns.TypeNone, nil, []mdns.RR{z.negative()}); w != nil {
			w.soa = z.soa
			n.nodata.Store(w)
		}
	}
	return w
}

// plain is a question that the short way may take.
type plain struct {
	name     [256]byte // lower case, presentation format
	length   int       // of name
	end      int       // of the question in the message
	exact    bool      // it came in lower case
	qtype    uint16
	edns, do bool
	limit    int // bytes over UDP
}

// read takes a question apart; it reports false for one that is not common.
func (q *plain) read(b []byte) bool {
	// QR 0, opcode 0; one question, nothing else but perhaps an OPT.
	if len(b) < headerSize+5 || b[2]&0xf8 != 0 || b[4] != 0 || b[5] != 1 || b[6]|b[7]|b[8]|b[9]|b[10] != 0 || b[11] > 1 {
		return false
	}
	off, n := headerSize, 0
	q.exact = true
	for {
		if off >= len(b) {
			return false
		}
		size := int(b[off])
		off++
		if size == 0 {
			break
		}
		// RFC 1035 §2.3.4: 63 bytes a label, 255 a name with its root.
		if size > 63 || off+size > len(b) || n+size+2 > 255 {
			return false
		}
		for _, c := range b[off : off+size] {
			switch {
			case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
			case c >= 'A' && c <= 'Z':
				c |= 0x20
				q.exact = false
			default:
				return false // it has an escape, or is a wildcard
			}
			q.name[n] = c
			n++
		}
		q.name[n] = '.'
		n++
		off += size
	}
	if n == 0 || off+4 > len(b) {
		return false
	}
	q.length = n
	q.qtype = binary.BigEndian.Uint16(b[off:])
	if binary.BigEndian.Uint16(b[off+2:]) != mdns.ClassINET || q.qtype == 0 || q.qtype == mdns.TypeOPT || (q.qtype >= 128 && q.qtype <= 255) {
		return false
	}
	q.end = off + 4
	q.edns, q.do, q.limit = false, false, negNoEDNS
	if b[11] == 0 {
		return q.end == len(b)
	}
	o := b[q.end:]
	// RFC 6891 §6.1.2: the root, type 41, version 0, no option.
	if len(o) != 11 || o[0] != 0 || o[1] != 0 || o[2] != byte(mdns.TypeOPT) || o[6] != 0 || o[9]|o[10] != 0 {
		return false
	}
	q.edns, q.do = true, o[7]&0x80 != 0
	q.limit = min(max(int(binary.BigEndian.Uint16(o[3:])), negNoEDNS), maxUDP)
	return true
}

// quick appends the answer to one message over UDP to out; nil leaves it to
// respond.
func (s *Server) quick(wire []byte, from origin, out []byte) []byte {
	var q plain
	if s.longWay || !q.read(wire) {
		return nil
	}
	name := q.name[:q.length]
	if s.inject != nil {
		s.inject(string(name))
	}
	t := s.tables.Load()
	a := t.audience(from.link, from.src)
	if a == nil {
		return nil
	}
	z := a.zoneOf(name)
	if z == nil {
		return s.quickCached(t, a, &q, wire, out)
	}
	w := z.wired(a, &q)
	if w == nil || (w.exact && !q.exact) || len(w.body)+q.end+11 > q.limit {
		return nil
	}
	if a == t.internet && len(w.body)+q.end+11 > amplification*len(wire) {
		return nil
	}
	lifecycle.Fault("dns fast path")
	limited := a == t.internet && !s.rate.take(from.src, time.Now())
	out = q.header(out, wire, a, w, true, limited)
	if limited {
		s.counters.limited.Add(1)
	} else {
		out = append(out, w.body...)
	}
	s.counters.quick(a)
	return q.opt(out)
}

// quickCached answers from what a forwarder said.
func (s *Server) quickCached(t *tables, a *audience, q *plain, wire, out []byte) []byte {
	name := q.name[:q.length]
	// A name of one label may mean something on a local network only.
	if !a.recursive || !a.forwards || wire[2]&1 == 0 || !dotted(name) || a.noV6 && q.qtype == mdns.TypeAAAA {
		return nil
	}
	w, age, ok := s.resolver.cache.wired(a.exit, name, q.qtype, q.do, wire[3]&0x10 != 0, time.Now(), q)
	if !ok {
		return nil
	}
	out = q.header(out, wire, a, w, false, false)
	body := len(out)
	out = append(out, w.body...)
	for _, off := range w.ttls {
		ttl := binary.BigEndian.Uint32(out[body+off:])
		binary.BigEndian.PutUint32(out[body+off:], ttl-min(age, ttl))
	}
	s.counters.quick(a)
	return q.opt(out)
}

// dotted reports whether a name has two labels or more.
func dotted(name []byte) bool {
	for _, c := range name[:len(name)-1] {
		if c == '.' {
			return true
		}
	}
	return false
}

// header appends header and question as query.pack makes them.
func (q *plain) header(out, wire []byte, a *audience, w *wired, aa, truncated bool) []byte {
	hi, lo := 0x80|wire[2]&1, wire[3]&0x10 // QR; RD and CD are copied
	if aa {
		hi |= 4
	}
	if a.recursive {
		lo |= 0x80
	}
	an, ns := w.answers, w.authorities
	if truncated {
		hi |= 2
		an, ns = 0, 0
	}
	ar := byte(0)
	if q.edns {
		ar = 1
	}
	out = append(out, wire[0], wire[1], hi, lo, 0, 1, byte(an>>8), byte(an), byte(ns>>8), byte(ns), 0, ar)
	return append(out, wire[headerSize:q.end]...)
}

func (q *plain) opt(out []byte) []byte {
	if !q.edns {
		return out
	}
	do := byte(0)
	if q.do {
		do = 0x80
	}
	return append(out, 0, 0, byte(mdns.TypeOPT), maxUDP>>8, maxUDP&0xff, 0, 0, do, 0, 0, 0)
}

// zoneOf is zone for a name in bytes.
func (a *audience) zoneOf(name []byte) *zone {
	for n := name; len(n) > 0; {
		if z := a.zones[string(n)]; z != nil {
			return z
		}
		if z := a.empty[string(n)]; z != nil {
			return z
		}
		i := 0
		for n[i] != '.' {
			i++
		}
		n = n[i+1:]
	}
	if z := a.zones["."]; z != nil {
		return z
	}
	return a.empty["."]
}

// wired is the answer of a zone that a sees, where one set says it all.
func (z *zone) wired(a *audience, q *plain) *wired {
	n := z.nodes[string(q.name[:q.length])]
	if !n.exists(a) {
		return nil
	}
	var found *rrset
	for _, s := range n.sets {
		if !a.sees(s.service) {
			continue
		}
		switch {
		case s.rrtype == q.qtype && found == nil && s.rrtype != mdns.TypeCNAME:
			found = s
		case s.rrtype == q.qtype, s.rrtype == mdns.TypeCNAME:
			return nil // several sets make one, or an alias has to be followed
		}
	}
	if found != nil {
		return found.wireOf(q.name[:q.length])
	}
	return n.absent(z, q.name[:q.length])
}
