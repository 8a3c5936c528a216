package dns

import (
	"encoding/binary"
	"encoding/hex"
	"strings"

	mdns "github.com/miekg/dns"
)

const (
	headerSize = 12
	// maxUDP is the most we send and announce over UDP: it fits every path
	// without fragments (DNS flag day 2020, RFC 9715 §3.1).
	maxUDP    = 1232
	maxQuery  = 4096 // bytes of a query over UDP; more is dropped
	negNoEDNS = 512  // RFC 1035 §4.2.1, without EDNS
)

// query is what of a request matters.
type query struct {
	id         uint16
	opcode     int
	rd, cd     bool
	hasName    bool // the question could be read
	name       string
	lower      string // name in lower case
	qtype      uint16
	qclass     uint16
	edns, do   bool
	version    uint8
	size       int    // bytes that the client takes over UDP
	cookie     []byte // the option as it came (RFC 7873), nil without
	baked      []byte // the option to answer with
	rcodeEarly int    // what the message itself already earned, or 0
}

// parseQuery reads a request. It reports false for what must not be answered
// at all: short messages and responses, which could go round in circles.
func parseQuery(b []byte) (query, bool) {
	if len(b) < headerSize {
		return query{}, false
	}
	bits := binary.BigEndian.Uint16(b[2:])
	if bits&(1<<15) != 0 {
		return query{}, false
	}
	q := query{id: binary.BigEndian.Uint16(b), opcode: int(bits >> 11 & 0xf), rd: bits&(1<<8) != 0, cd: bits&(1<<4) != 0, size: negNoEDNS}
	if q.opcode != mdns.OpcodeQuery {
		q.rcodeEarly = mdns.RcodeNotImplemented
		return q, true // what follows may have another meaning
	}
	q.rcodeEarly = q.parseBody(b)
	return q, true
}

func (q *query) parseBody(b []byte) (rcode int) {
	count := func(i int) int { return int(binary.BigEndian.Uint16(b[i:])) }
	// RFC 9619 §4: a query has one question.
	if count(4) != 1 {
		return mdns.RcodeFormatError
	}
	name, off, err := mdns.UnpackDomainName(b, headerSize)
	if err != nil || off+4 > len(b) {
		return mdns.RcodeFormatError
	}
	q.name, q.lower, q.hasName = name, mdns.CanonicalName(name), true
	q.qtype, q.qclass = binary.BigEndian.Uint16(b[off:]), binary.BigEndian.Uint16(b[off+2:])
	off += 4
	// A question has no answer and needs no authority; IXFR does (RFC 1995
	// §3), and is refused by its type.
	if count(6) != 0 || (count(8) != 0 && q.qtype != mdns.TypeIXFR) {
		return mdns.RcodeFormatError
	}
	for range count(8) {
		if _, off, err = mdns.UnpackRR(b, off); err != nil {
			return mdns.RcodeFormatError
		}
	}
	for range count(10) {
		if off >= len(b) { // UnpackRR takes the end of the message for an empty record
			return mdns.RcodeFormatError
		}
		var rr mdns.RR
		if rr, off, err = mdns.UnpackRR(b, off); err != nil {
			return mdns.RcodeFormatError
		}
		opt, ok := rr.(*mdns.OPT)
		if !ok {
			continue
		}
		// RFC 6891 §6.1.1: one OPT, owned by the root.
		if q.edns || opt.Hdr.Name != "." {
			q.edns = false
			return mdns.RcodeFormatError
		}
		q.edns, q.do, q.version = true, opt.Do(), opt.Version()
		// RFC 6891 §6.2.3: less than 512 counts as 512.
		q.size = min(max(int(opt.UDPSize()), negNoEDNS), maxUDP)
		if !q.takeCookie(opt) {
			return mdns.RcodeFormatError // RFC 7873 §5.2.2
		}
	}
	if off != len(b) {
		return mdns.RcodeFormatError
	}
	if q.edns && q.version != 0 {
		return mdns.RcodeBadVers // RFC 6891 §6.1.3
	}
	return q.checkTypes()
}

// takeCookie keeps the client's cookie; the first one counts (RFC 7873 §5.2).
func (q *query) takeCookie(opt *mdns.OPT) bool {
	for _, o := range opt.Option {
		c, ok := o.(*mdns.EDNS0_COOKIE)
		if !ok || q.cookie != nil {
			continue
		}
		b, err := hex.DecodeString(c.Cookie)
		if err != nil || !cookieLength(len(b)) {
			return false
		}
		q.cookie = b
	}
	return true
}

// checkTypes refuses what no zone of ours and no forwarder is asked for.
func (q *query) checkTypes() int {
	switch {
	case q.qtype == mdns.TypeOPT || q.qtype == 0:
		return mdns.RcodeFormatError // no question asks for these
	case q.qclass != mdns.ClassINET:
		return mdns.RcodeRefused
	case q.qtype == mdns.TypeANY:
		return 0
	case q.qtype >= 128 && q.qtype <= 255: // Q and meta types (RFC 6895 §3.1): transfers, TSIG, MAILB, …
		return mdns.RcodeRefused
	}
	return 0
}

// pack makes the response. It fits limit bytes: what doesn't sets TC.
func (q *query) pack(r *reply, recursive bool, limit int) []byte {
	m := &mdns.Msg{Compress: true, MsgHdr: mdns.MsgHdr{
		Id: q.id, Response: true, Opcode: q.opcode, Authoritative: r.aa,
		RecursionDesired: q.rd, RecursionAvailable: recursive, CheckingDisabled: q.cd, Rcode: r.rcode,
	}}
	if q.hasName {
		m.Question = []mdns.Question{{Name: q.name, Qtype: q.qtype, Qclass: q.qclass}}
	}
	m.Answer, m.Ns = r.answer, r.ns
	if q.edns {
		// RFC 6891 §6.1.1, §6.1.4: ours has version 0, DO as asked, the other
		// flags clear, and no option that we don't know.
		opt := &mdns.OPT{Hdr: mdns.RR_Header{Name: ".", Rrtype: mdns.TypeOPT}}
		opt.SetUDPSize(maxUDP)
		if q.do {
			opt.SetDo()
		}
		if q.baked != nil {
			opt.Option = []mdns.EDNS0{&mdns.EDNS0_COOKIE{Code: mdns.EDNS0COOKIE, Cookie: hex.EncodeToString(q.baked)}}
		}
		m.Extra = []mdns.RR{opt}
	}
	out, err := m.Pack()
	if err == nil && len(out) <= limit {
		return out
	}
	// RFC 2181 §9: what doesn't fit is not sent in part; the client comes
	// again over TCP (with a limit of 0 always). A record that can't be sent at all is our failure.
	m.Answer, m.Ns, m.Truncated = nil, nil, err == nil
	if err != nil {
		m.Rcode, m.Authoritative = mdns.RcodeServerFailure, false
	}
	if out, err = m.Pack(); err != nil {
		return nil
	}
	return out
}

// under reports whether name lies in domain or is it; both are lower case
// and end with a dot.
func under(name, domain string) bool {
	return name == domain || strings.HasSuffix(name, "."+domain) || domain == "."
}
