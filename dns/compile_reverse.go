package dns

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
)

// reverse adds the tunnel's reverse zones to the peer view.
func (c *compiler) reverse() {
	t := c.s.Network.Tunnel
	c.taken.reverse[0] = c.reverseOf(c.taken.reverse[0], t.Prefix4, t.Gateway4(), func(k peerKey) netip.Addr { return k.a4 })
	c.taken.reverse[1] = c.reverseOf(c.taken.reverse[1], t.Prefix6, t.Gateway6(), func(k peerKey) netip.Addr { return k.a6 })
}

// reversed are the reverse names of one family, in their order.
type reversed struct {
	prefix  netip.Prefix
	gateway netip.Addr
	places  []place
	records []Record // one for each place
}

// place is that of a reverse name in the order of them, see reverseOrder.
type place struct{ hi, lo uint64 }

func (p place) compare(o place) int { return cmp.Or(cmp.Compare(p.hi, o.hi), cmp.Compare(p.lo, o.lo)) }

// reverseOf puts the zones that cover prefix into the plan. What old, made for
// the state before, has of peers that stayed is taken over, in its order.
func (c *compiler) reverseOf(old reversed, prefix netip.Prefix, gateway netip.Addr, address func(peerKey) netip.Addr) reversed {
	fresh, gone := c.taken.fresh, map[leaves]bool{}
	if anew := old.prefix != prefix || old.gateway != gateway; anew {
		old = reversed{}
		fresh = make([]int, len(c.taken.texts))
		for i := range fresh {
			fresh[i] = i
		}
	} else {
		for _, k := range c.taken.gone {
			if a := address(k); prefix.Contains(a) {
				gone[leaves{reverseOrder(a), k.name}] = true
			}
		}
	}
	added := c.reverseNames(fresh, prefix, address)
	if len(old.places) == 0 && prefix.Contains(gateway) {
		added.insert(reverseOrder(gateway), Record{reverseName(gateway), defaultTTL, "PTR", c.domains[0], ""})
	}
	out := reversed{prefix: prefix, gateway: gateway, places: make([]place, 0, len(old.places)+len(added.places))}
	rr := head(nil, cap(out.places))
	j := 0
	for i := range old.places {
		for ; j < len(added.places) && added.places[j].compare(old.places[i]) < 0; j++ {
			out.places, rr = append(out.places, added.places[j]), append(rr, added.records[j])
		}
		if len(gone) > 0 && gone[leaves{old.places[i], peerOf(old.records[i].Data)}] {
			continue
		}
		out.places, rr = append(out.places, old.places[i]), append(rr, old.records[i])
	}
	out.places, rr = append(out.places, added.places[j:]...), append(rr, added.records[j:]...)
	out.records = rr[headed:]
	c.reverseZones(out, rr)
	for i := 1; i < len(out.places); i++ {
		if out.places[i] == out.places[i-1] { // no valid state: two at one address
			return reversed{}
		}
	}
	return out
}

// leaves is a peer that is no longer at a place.
type leaves struct {
	place
	name string
}

// peerOf is the name of the peer whose name in the effective domain is given.
func peerOf(fqdn string) string {
	name, _, _ := strings.Cut(fqdn, ".")
	return name
}

// reverseNames are those of some peers.
func (c *compiler) reverseNames(which []int, prefix netip.Prefix, address func(peerKey) netip.Addr) (out reversed) {
	type one struct {
		place
		peer int
	}
	list := make([]one, 0, len(which))
	for _, i := range which {
		if a := address(c.taken.texts[i].peerKey); prefix.Contains(a) {
			list = append(list, one{reverseOrder(a), i})
		}
	}
	slices.SortFunc(list, func(a, b one) int { return a.compare(b.place) })
	w := texts{make([]byte, 0, 73*len(list)), make([]int, 0, len(list))}
	for _, x := range list {
		w.buf = appendReverse(w.buf, address(c.taken.texts[x.peer].peerKey))
		w.end()
	}
	owners := w.all()
	out.places, out.records = make([]place, len(list), len(list)+1), make([]Record, len(list), len(list)+1)
	for i, x := range list {
		out.places[i] = x.place
		out.records[i] = Record{owners[i], defaultTTL, "PTR", c.taken.texts[x.peer].fqdns[0], ""}
	}
	return out
}

func (r *reversed) insert(p place, rec Record) {
	i, _ := slices.BinarySearchFunc(r.places, p, place.compare)
	r.places, r.records = slices.Insert(r.places, i, p), slices.Insert(r.records, i, rec)
}

// reverseZones puts the names into the plan, by zone. rr are the records of r,
// headed.
func (c *compiler) reverseZones(r reversed, rr []Record) {
	apexes := reverseZones(r.prefix)
	if len(apexes) == 1 {
		c.complete(peerView, apexes[0], rr[:headed+len(inOrder(r, apexes[0]))])
		return
	}
	own := reverseName(r.gateway)
	zones := make(map[string][]Record, len(apexes))
	cut := 0 // labels of an owner name in front of its zone's apex
	for _, z := range apexes {
		zones[z] = head(nil, len(r.records)/len(apexes)+1)
		cut = strings.Count(own, ".") - strings.Count(z, ".")
	}
	for _, x := range inOrder(r, "") {
		apex := trimLabels(x.Name, cut)
		zones[apex] = append(zones[apex], x)
	}
	for apex, rr := range zones {
		c.complete(peerView, apex, rr)
	}
}

// inOrder returns the records as sorted would: they are in order already,
// unless two have one place.
func inOrder(r reversed, apex string) []Record {
	for i := 1; i < len(r.places); i++ {
		if r.places[i] == r.places[i-1] {
			return sorted(r.records, apex)
		}
	}
	return r.records
}

// reverseOrder maps addresses of one family to numbers that are in the order of
// their reverse names: those begin with the last octet or nibble.
func reverseOrder(a netip.Addr) (p place) {
	if a.Is4() {
		for i, o := range a.As4() {
			p.lo |= uint64(octetOrder(o)) << (16 * i)
		}
		return p
	}
	b := a.As16()
	return place{reverseNibbles(binary.BigEndian.Uint64(b[8:])), reverseNibbles(binary.BigEndian.Uint64(b[:8]))}
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
