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
// them: what is made for each is cut from texts and lists made for all, and a
// [Compiler] takes over what it made before.

// texts makes many strings with one allocation. They share one text, so that
// as long as one of them is kept, all are.
type texts struct {
	buf  []byte
	ends []int
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

// peerText is an active peer in the words of records.
type peerText struct {
	peerKey
	fqdns            []string // one in each domain
	text4, text6     string
	owner4, owner6   string // reverse names
	order4           uint64 // see reverseOrder
	order6hi, order6 uint64
}

// peerKey is all that a peerText is made of, apart from the domains.
type peerKey struct {
	name   string
	a4, a6 netip.Addr
}

// peerTexts are the active peers', in the order of their names. Those of old,
// made for the same domains, are taken over where a peer stayed as it was.
func peerTexts(active []*cell.Peer, domains []string, old []peerText) []peerText {
	out := make([]peerText, len(active))
	var fresh []int
	j := 0
	for i, p := range active {
		key := peerKey{p.Name, p.Address4, p.Address6}
		for j < len(old) && old[j].name < p.Name {
			j++
		}
		if j < len(old) && old[j].peerKey == key {
			out[i] = old[j]
			continue
		}
		out[i].peerKey = key
		fresh = append(fresh, i)
	}
	size := 0
	for _, d := range domains {
		size += len(d) + len(cell.PeersLabel) + 24
	}
	each := len(domains) + 4 // strings
	t := texts{make([]byte, 0, len(fresh)*(size+160)), make([]int, 0, each*len(fresh))}
	for _, i := range fresh {
		p := &out[i]
		for _, d := range domains {
			t.buf = append(append(append(t.buf, p.name...), "."+cell.PeersLabel+"."...), d...)
			t.end()
		}
		for _, a := range [2]netip.Addr{p.a4, p.a6} {
			if a.IsValid() {
				t.buf = a.AppendTo(t.buf)
			}
			t.end()
			if a.IsValid() {
				t.buf = appendReverse(t.buf, a)
			}
			t.end()
		}
		if p.a4.IsValid() {
			_, p.order4 = reverseOrder(p.a4)
		}
		if p.a6.IsValid() {
			p.order6hi, p.order6 = reverseOrder(p.a6)
		}
	}
	all := t.all()
	for k, i := range fresh {
		p, made := &out[i], all[each*k:each*(k+1)]
		p.fqdns, made = made[:len(domains)], made[len(domains):]
		p.text4, p.owner4, p.text6, p.owner6 = made[0], made[1], made[2], made[3]
	}
	return out
}

// peerNames adds the peers' names in a domain. They are in order already,
// because c.texts is: sorting all records of all peers would be most of the
// time that a plan takes.
func (c *compiler) peerNames(rr []Record, domain int) []Record {
	rr = slices.Grow(rr, 2*len(c.texts))
	for i := range c.texts {
		p := &c.texts[i]
		name := p.fqdns[domain]
		if p.a4.IsValid() {
			rr = append(rr, Record{name, defaultTTL, "A", p.text4, ""})
		}
		if p.a6.IsValid() {
			rr = append(rr, Record{name, defaultTTL, "AAAA", p.text6, ""})
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
		exit := p.Exit
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
	c.reverseOf(t.Prefix4, t.Gateway4())
	c.reverseOf(t.Prefix6, t.Gateway6())
}

// pointer is a reverse name's place in the order of them.
type pointer struct {
	hi, lo uint64
	peer   int32 // into texts; -1 is the cell itself
}

func (c *compiler) reverseOf(prefix netip.Prefix, gateway netip.Addr) {
	four := prefix.Addr().Is4()
	list := make([]pointer, 0, len(c.texts)+1)
	if prefix.Contains(gateway) {
		hi, lo := reverseOrder(gateway)
		list = append(list, pointer{hi, lo, -1})
	}
	for i := range c.texts {
		switch p := &c.texts[i]; {
		case four && prefix.Contains(p.a4):
			list = append(list, pointer{0, p.order4, int32(i)})
		case !four && prefix.Contains(p.a6):
			list = append(list, pointer{p.order6hi, p.order6, int32(i)})
		}
	}
	slices.SortFunc(list, func(a, b pointer) int {
		return cmp.Or(cmp.Compare(a.hi, b.hi), cmp.Compare(a.lo, b.lo), cmp.Compare(a.peer, b.peer))
	})
	own := reverseName(gateway)
	apexes := reverseZones(prefix)
	zones := make(map[string][]Record, len(apexes))
	cut := 0 // labels of an owner name in front of its zone's apex
	for _, z := range apexes {
		zones[z] = head(nil, len(list)/len(apexes)+1)
		cut = strings.Count(own, ".") - strings.Count(z, ".")
	}
	for _, x := range list {
		r := Record{own, defaultTTL, "PTR", c.domains[0], ""}
		if x.peer >= 0 {
			p := &c.texts[x.peer]
			r.Name, r.Data = p.owner6, p.fqdns[0]
			if four {
				r.Name = p.owner4
			}
		}
		apex := apexes[0]
		if len(apexes) > 1 {
			apex = trimLabels(r.Name, cut)
		}
		zones[apex] = append(zones[apex], r)
	}
	for apex, rr := range zones {
		n := len(sorted(rr[headed:], apex)) // in order already, but for equal addresses
		c.complete(peerView, apex, rr[:headed+n])
	}
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
