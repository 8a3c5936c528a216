package dns

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/personal-internet-cell/pic/cell"
)

// There may be thousands of peers, and every change of one compiles all of
// them: what is made for each is cut from texts and lists made for all.

// texts makes many strings with one allocation. They share one text, so that
// as long as one of them is kept, all are.
type texts struct {
	buf  []byte
	ends []int
}

func newTexts(count, size int) *texts {
	return &texts{make([]byte, 0, count*size), make([]int, 0, count)}
}

// end ends the string that was appended to buf.
func (t *texts) end() { t.ends = append(t.ends, len(t.buf)) }

// all returns the strings in the order in which they were ended.
func (t *texts) all() []string {
	text, out, begin := string(t.buf), make([]string, len(t.ends)), 0
	for i, end := range t.ends {
		out[i], begin = text[begin:end], end
	}
	return out
}

// peerNames are in order already, because c.active is: sorting all records of
// all peers would be most of the time that a plan takes.
func (c *compiler) peerNames(apex string) []Record {
	suffix := "." + cell.PeersLabel + "." + apex
	t := newTexts(3*len(c.active), 24+len(suffix))
	for _, p := range c.active {
		t.buf = append(append(t.buf, p.Name...), suffix...)
		t.end()
		for _, a := range [2]netip.Addr{p.Address4, p.Address6} {
			if a.IsValid() {
				t.buf = a.AppendTo(t.buf)
			}
			t.end()
		}
	}
	text := t.all()
	rr := make([]Record, 0, 2*len(c.active))
	for i, p := range c.active {
		name, v4, v6 := text[3*i], text[3*i+1], text[3*i+2]
		if p.Address4.IsValid() {
			rr = append(rr, Record{name, defaultTTL, "A", v4, ""})
		}
		if p.Address6.IsValid() {
			rr = append(rr, Record{name, defaultTTL, "AAAA", v6, ""})
		}
	}
	return rr
}

// peers lists the sources of the peer view. Grant lists are shared: with
// thousands of peers most are equal.
func (c *compiler) peers() {
	grants := c.newGrants()
	c.v.Peers = make([]Peer, 0, len(c.active))
	addrs := make([]netip.Addr, 0, 2*len(c.active))
	for _, p := range c.active {
		exit := c.s.PeerWay(p, c.f)
		if exit == cell.ExitDirect {
			exit = ""
		}
		begin := len(addrs)
		for _, a := range [2]netip.Addr{p.Address4, p.Address6} {
			if a.IsValid() {
				addrs = append(addrs, a)
			}
		}
		c.v.Peers = append(c.v.Peers, Peer{Name: p.Name, Exit: exit, Services: grants.of(p), Addresses: addrs[begin:len(addrs):len(addrs)]})
	}
}

// grants turns what peers are granted into the ids of services they see. Of
// peers with equal grants only the first is worked out.
type grants struct {
	services []*cell.Service // enabled, by id
	seen     map[string][]string
	key      []byte
}

func (c *compiler) newGrants() *grants {
	g := &grants{seen: map[string][]string{}}
	for i := range c.s.Services {
		if svc := &c.s.Services[i]; svc.Enabled {
			g.services = append(g.services, svc)
		}
	}
	slices.SortFunc(g.services, func(a, b *cell.Service) int { return cmp.Compare(a.ID, b.ID) })
	return g
}

// of returns the ids, sorted. A peer's part in the matter is its list of
// services alone, see [cell.Peer.Granted].
func (g *grants) of(p *cell.Peer) []string {
	g.key = g.key[:0]
	for _, id := range p.Services {
		g.key = append(append(strconv.AppendInt(g.key, int64(len(id)), 10), ' '), id...)
	}
	if ids, ok := g.seen[string(g.key)]; ok {
		return ids
	}
	var ids []string
	for _, svc := range g.services {
		if p.Granted(svc) {
			ids = append(ids, svc.ID)
		}
	}
	g.seen[string(g.key)] = ids
	return ids
}

// reverse adds the tunnel's reverse zones to the peer view.
func (c *compiler) reverse() {
	t := c.s.Network.Tunnel
	c.reverseOf(t.Prefix4, t.Gateway4(), func(p *cell.Peer) netip.Addr { return p.Address4 })
	c.reverseOf(t.Prefix6, t.Gateway6(), func(p *cell.Peer) netip.Addr { return p.Address6 })
}

// pointer is an address and the name it leads to.
type pointer struct {
	addr   netip.Addr
	target string
	hi, lo uint64 // order like the reverse names, see reverseOrder
}

func (c *compiler) reverseOf(prefix netip.Prefix, gateway netip.Addr, address func(*cell.Peer) netip.Addr) {
	list := make([]pointer, 0, len(c.active)+1)
	add := func(a netip.Addr, target string) {
		if prefix.Contains(a) {
			hi, lo := reverseOrder(a)
			list = append(list, pointer{a, target, hi, lo})
		}
	}
	add(gateway, c.domains[0])
	targets := c.peerTargets()
	for i, p := range c.active {
		add(address(p), targets[i])
	}
	slices.SortFunc(list, func(a, b pointer) int { return cmp.Or(cmp.Compare(a.hi, b.hi), cmp.Compare(a.lo, b.lo)) })
	t := newTexts(len(list), len(reverseName(gateway)))
	for i := range list {
		t.buf = appendReverse(t.buf, list[i].addr)
		t.end()
	}
	owners := t.all()
	apexes := reverseZones(prefix)
	zones := make(map[string][]Record, len(apexes))
	cut := 0 // labels of an owner name in front of its zone's apex
	for _, z := range apexes {
		zones[z] = make([]Record, 0, (len(list)+len(apexes)-1)/len(apexes))
		cut = strings.Count(reverseName(gateway), ".") - strings.Count(z, ".")
	}
	for i := range list {
		apex := trimLabels(owners[i], cut)
		zones[apex] = append(zones[apex], Record{owners[i], defaultTTL, "PTR", list[i].target, ""})
	}
	for apex, rr := range zones {
		c.add(peerView, apex, sorted(rr, apex)) // in order already, but for equal addresses
	}
}

// peerTargets are the names of the active peers in the effective domain.
func (c *compiler) peerTargets() []string {
	if c.targets == nil {
		suffix := "." + cell.PeersLabel + "." + c.domains[0]
		t := newTexts(len(c.active), 24+len(suffix))
		for _, p := range c.active {
			t.buf = append(append(t.buf, p.Name...), suffix...)
			t.end()
		}
		c.targets = t.all()
	}
	return c.targets
}

// reverseOrder maps addresses of one family to numbers that are in the order of
// their reverse names: those begin with the last octet or nibble.
func reverseOrder(a netip.Addr) (hi, lo uint64) {
	if a.Is4() {
		for i, o := range a.As4() {
			lo |= uint64(octetOrder(o)) << (16 * i)
		}
		return 0, lo
	}
	b := a.As16()
	return reverseNibbles(binary.BigEndian.Uint64(b[8:])), reverseNibbles(binary.BigEndian.Uint64(b[:8]))
}

// octetOrder orders octets as their decimal texts followed by a dot, which
// comes before every digit: 1, 10, 100, 101, …, 11, 110, …, 2.
func octetOrder(o byte) uint16 {
	digits := [3]uint16{} // 0: no digit, else one more than it
	switch {
	case o >= 100:
		digits = [3]uint16{uint16(o/100) + 1, uint16(o/10%10) + 1, uint16(o%10) + 1}
	case o >= 10:
		digits = [3]uint16{uint16(o/10) + 1, uint16(o%10) + 1}
	default:
		digits[0] = uint16(o) + 1
	}
	return digits[0]<<8 | digits[1]<<4 | digits[2]
}

// reverseNibbles puts the last nibble first.
func reverseNibbles(x uint64) uint64 {
	const every = 0x0f0f0f0f0f0f0f0f
	x = x>>4&every | x&every<<4 // within each byte
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], x)
	return binary.BigEndian.Uint64(b[:])
}
