package dns

import (
	"net/netip"
	"slices"

	mdns "github.com/miekg/dns"
)

const (
	maxRecords = 512     // of one forwarded answer
	maxTTL     = 86400   // seconds; longer ones are cut (RFC 8767 §4)
	maxNegTTL  = 3 * 600 // seconds; RFC 2308 §5 allows up to three hours
	failureTTL = 5       // seconds a failure is remembered (RFC 9520 §3.2)
	staleTTL   = 30      // seconds that a stale answer says it is good for (RFC 8767 §4)
)

// accept takes from a forwarder's message what answers the question and drops
// the rest: records outside the chain of aliases from the question's name,
// additional records, delegations, and private addresses where rebind is set.
// ttl is how long the result may be kept, 0 for not at all.
func accept(m *mdns.Msg, k key, rebind bool) (r reply, ttl uint32) {
	r.rcode = m.Rcode
	if m.Rcode != mdns.RcodeSuccess && m.Rcode != mdns.RcodeNameError {
		return r, 0
	}
	ttl = maxTTL
	chain := map[string]bool{k.name: true}
	for _, rr := range m.Answer {
		h := rr.Header()
		owner := mdns.CanonicalName(h.Name)
		if h.Class != mdns.ClassINET || len(r.answer) >= maxRecords {
			continue
		}
		if d, ok := rr.(*mdns.DNAME); ok && inChainBelow(chain, owner) && k.qtype != mdns.TypeDNAME {
			chain[owner] = true
			rr = d
		}
		if !chain[owner] {
			continue
		}
		c, alias := rr.(*mdns.CNAME)
		if !alias && h.Rrtype != k.qtype && k.qtype != mdns.TypeANY && h.Rrtype != mdns.TypeDNAME && (h.Rrtype != mdns.TypeRRSIG || !k.do) {
			continue
		}
		if alias && len(chain) > 2*maxAliases {
			return reply{rcode: mdns.RcodeServerFailure}, 0
		}
		rr = mdns.Copy(rr)
		if rebind {
			if rr = stripPrivate(rr); rr == nil {
				continue
			}
		}
		if alias {
			chain[mdns.CanonicalName(c.Target)] = true
		}
		rr.Header().Name = owner // the case was random
		ttl = min(ttl, h.Ttl)
		r.answer = append(r.answer, rr)
	}
	positive := slices.ContainsFunc(r.answer, func(rr mdns.RR) bool { return rr.Header().Rrtype == k.qtype })
	for _, rr := range m.Ns {
		if positive || len(r.ns) >= maxRecords {
			break
		}
		h := rr.Header()
		apex := mdns.CanonicalName(h.Name)
		switch rr := rr.(type) {
		case *mdns.SOA:
			if slices.ContainsFunc(r.ns, isSOA) || !inChainBelow(chain, apex) {
				continue
			}
			soa := mdns.Copy(rr).(*mdns.SOA)
			soa.Hdr.Ttl = min(soa.Hdr.Ttl, soa.Minttl, maxNegTTL) // RFC 2308 §5
			ttl = min(ttl, soa.Hdr.Ttl)
			r.ns = append(r.ns, soa)
		case *mdns.NSEC, *mdns.NSEC3, *mdns.RRSIG:
			if k.do {
				r.ns = append(r.ns, mdns.Copy(rr))
			}
		}
	}
	if !positive && !slices.ContainsFunc(r.ns, isSOA) {
		ttl = 0 // RFC 2308 §5: a negative answer without SOA is not cached
	}
	return r, min(ttl, maxTTL)
}

func isSOA(rr mdns.RR) bool { return rr.Header().Rrtype == mdns.TypeSOA }

// inChainBelow reports whether a name of the chain lies in domain.
func inChainBelow(chain map[string]bool, domain string) bool {
	for n := range chain {
		if under(n, domain) {
			return true
		}
	}
	return false
}

// stripPrivate removes addresses of local networks from a record of the
// world; nil means that nothing is left.
func stripPrivate(rr mdns.RR) mdns.RR {
	switch rr := rr.(type) {
	case *mdns.A:
		if a, ok := netip.AddrFromSlice(rr.A); !ok || private(a.Unmap()) {
			return nil
		}
	case *mdns.AAAA:
		if a, ok := netip.AddrFromSlice(rr.AAAA); !ok || private(a) {
			return nil
		}
	case *mdns.SVCB:
		return stripHints(rr, rr)
	case *mdns.HTTPS:
		return stripHints(rr, &rr.SVCB)
	}
	return rr
}

// stripHints removes private addresses from the hints (RFC 9460 §7.3).
func stripHints(rr mdns.RR, s *mdns.SVCB) mdns.RR {
	gone := map[mdns.SVCBKey]bool{}
	var kept []mdns.SVCBKeyValue
	for _, kv := range s.Value {
		switch kv := kv.(type) {
		case *mdns.SVCBIPv4Hint:
			n := kv.Hint[:0:0]
			for _, ip := range kv.Hint {
				if a, ok := netip.AddrFromSlice(ip); ok && !private(a.Unmap()) {
					n = append(n, ip)
				}
			}
			if kv.Hint = n; len(n) == 0 {
				gone[mdns.SVCB_IPV4HINT] = true
				continue
			}
		case *mdns.SVCBIPv6Hint:
			n := kv.Hint[:0:0]
			for _, ip := range kv.Hint {
				if a, ok := netip.AddrFromSlice(ip); ok && !private(a) {
					n = append(n, ip)
				}
			}
			if kv.Hint = n; len(n) == 0 {
				gone[mdns.SVCB_IPV6HINT] = true
				continue
			}
		}
		kept = append(kept, kv)
	}
	for _, kv := range kept {
		// RFC 9460 §8: a mandatory key that is missing makes the record useless.
		if m, ok := kv.(*mdns.SVCBMandatory); ok && slices.ContainsFunc(m.Code, func(c mdns.SVCBKey) bool { return gone[c] }) {
			return nil
		}
	}
	s.Value = kept
	return rr
}

// notPublic are the prefixes that no name of the world has a reason to point
// to (RFC 6890), beyond what netip has predicates for.
var notPublic = [...]netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"), // CGNAT, RFC 6598
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("fec0::/10"), // site-local, deprecated, still routed by some
	netip.MustParsePrefix("::/96"),     // v4-compatible
}

var (
	nat64 = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052 §2.1
	sixTo = netip.MustParsePrefix("2002::/16")    // RFC 3056
)

// private reports whether an address means a machine on a local network, this
// machine, or no machine.
func private(a netip.Addr) bool {
	a = a.WithZone("")
	if a.Is4In6() { // no AAAA record has a reason to hold one
		return true
	}
	if a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() {
		return true
	}
	for _, p := range notPublic {
		if p.Contains(a) {
			return true
		}
	}
	// IPv6 addresses that carry an IPv4 one.
	b := a.As16()
	switch {
	case nat64.Contains(a):
		return private(netip.AddrFrom4([4]byte(b[12:16])))
	case sixTo.Contains(a):
		return private(netip.AddrFrom4([4]byte(b[2:6])))
	}
	return false
}
