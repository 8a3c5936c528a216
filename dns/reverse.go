package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// reverseName is the owner name of an address's PTR record (RFC 1035 §3.5,
// RFC 3596 §2.5).
func reverseName(a netip.Addr) string { return string(appendReverse(make([]byte, 0, 73), a)) }

func appendReverse(out []byte, a netip.Addr) []byte {
	const hexDigits = "0123456789abcdef"
	if a.Is4() {
		b := a.As4()
		return append(netip.AddrFrom4([4]byte{b[3], b[2], b[1], b[0]}).AppendTo(out), ".in-addr.arpa."...)
	}
	b := a.As16()
	for i := 15; i >= 0; i-- {
		out = append(out, hexDigits[b[i]&0xf], '.', hexDigits[b[i]>>4], '.')
	}
	return append(out, "ip6.arpa."...)
}

// reverseZones are the apexes that cover a prefix: IPv4 zones are cut at
// octets, so a /20 is sixteen of them and a /27 lies in its /24; an IPv6
// prefix is one zone, cut at the nibble at or before its end.
func reverseZones(p netip.Prefix) []string {
	if !p.IsValid() {
		return nil
	}
	p = p.Masked()
	if !p.Addr().Is4() {
		return []string{trimLabels(reverseName(p.Addr()), 32-p.Bits()/4)}
	}
	cut := min(max((p.Bits()+7)/8*8, 8), 24)
	n := 1
	if cut > p.Bits() {
		n = 1 << (cut - p.Bits())
	}
	b := p.Addr().As4()
	base := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8
	var out []string
	for i := range n {
		x := base + uint32(i)<<(32-cut)
		a := netip.AddrFrom4([4]byte{byte(x >> 24), byte(x >> 16), byte(x >> 8)})
		out = append(out, trimLabels(reverseName(a), 4-cut/8))
	}
	return out
}

// trimLabels removes the first n labels of a name without escapes.
func trimLabels(name string, n int) string {
	for range n {
		_, name, _ = strings.Cut(name, ".")
	}
	return name
}

// emptyZones are answered NXDOMAIN here and never asked of the world.
func emptyZones() []string {
	out := []string{
		// RFC 6303 §4.2 to §4.6.
		"0.in-addr.arpa.", "254.169.in-addr.arpa.", "2.0.192.in-addr.arpa.", "100.51.198.in-addr.arpa.",
		"113.0.203.in-addr.arpa.", "255.255.255.255.in-addr.arpa.",
		reverseName(netip.IPv6Unspecified()), // the loopback one is a zone with data
		"d.f.ip6.arpa.", "c.f.ip6.arpa.", "8.e.f.ip6.arpa.", "9.e.f.ip6.arpa.", "a.e.f.ip6.arpa.", "b.e.f.ip6.arpa.",
		"8.b.d.0.1.0.0.2.ip6.arpa.",
		// RFC 1918 by RFC 6303 §4.1.
		"10.in-addr.arpa.", "168.192.in-addr.arpa.",
		// Names that mean something here only: RFC 6761 §6.2, §6.4; RFC 6762 §3
		// (mDNS); RFC 7686 §2; RFC 8375 §4; .internal by ICANN's reservation.
		"test.", "invalid.", "local.", "onion.", "home.arpa.", "internal.",
		// A browser that gets NXDOMAIN here leaves resolving to the network
		// instead of a DoH provider, so that names of the cell go on working.
		"use-application-dns.net.",
	}
	for i := 16; i < 32; i++ { // 172.16.0.0/12
		out = append(out, fmt.Sprintf("%d.172.in-addr.arpa.", i))
	}
	for i := 64; i < 128; i++ { // 100.64.0.0/10, RFC 7793
		out = append(out, fmt.Sprintf("%d.100.in-addr.arpa.", i))
	}
	slices.Sort(out)
	return out
}
