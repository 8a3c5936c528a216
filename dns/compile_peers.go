package dns

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"

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
	fqdns        []string // one in each domain
	text4, text6 string
}

// peerKey is all that a peerText is made of, apart from the domains.
type peerKey struct {
	name   string
	a4, a6 netip.Addr
}

// taken is what a [Compiler] made for one state and takes over for the next. It
// never changes.
type taken struct {
	domains []string
	texts   []peerText
	reverse [2]reversed // IPv4, IPv6
	// How texts differ from those it was made from.
	fresh []int // into texts
	gone  []peerKey
}

// next takes over the texts of peers that stayed as they were.
func (old *taken) next(active []*cell.Peer, domains []string) *taken {
	t := &taken{domains: domains, texts: make([]peerText, len(active))}
	var before []peerText
	if old != nil && slices.Equal(old.domains, domains) {
		before, t.reverse = old.texts, old.reverse
	}
	j := 0
	for i, p := range active {
		key := peerKey{p.Name, p.Address4, p.Address6}
		for ; j < len(before) && before[j].name < p.Name; j++ {
			t.gone = append(t.gone, before[j].peerKey)
		}
		if j < len(before) && before[j].peerKey == key {
			t.texts[i] = before[j]
			j++
			continue
		}
		t.texts[i].peerKey = key
		t.fresh = append(t.fresh, i)
	}
	for ; j < len(before); j++ {
		t.gone = append(t.gone, before[j].peerKey)
	}
	t.write()
	return t
}

// write makes the texts of the fresh peers.
func (t *taken) write() {
	size := 64
	for _, d := range t.domains {
		size += len(d) + len(cell.PeersLabel) + 24
	}
	each := len(t.domains) + 2 // strings
	w := texts{make([]byte, 0, len(t.fresh)*size), make([]int, 0, each*len(t.fresh))}
	for _, i := range t.fresh {
		p := &t.texts[i]
		for _, d := range t.domains {
			w.buf = append(append(append(w.buf, p.name...), "."+cell.PeersLabel+"."...), d...)
			w.end()
		}
		for _, a := range [2]netip.Addr{p.a4, p.a6} {
			if a.IsValid() {
				w.buf = a.AppendTo(w.buf)
			}
			w.end()
		}
	}
	all := w.all()
	for k, i := range t.fresh {
		p, made := &t.texts[i], all[each*k:each*(k+1)]
		p.fqdns, p.text4, p.text6 = made[:len(t.domains)], made[len(t.domains)], made[len(t.domains)+1]
	}
}

// peerNames adds the peers' names in a domain. They are in order already,
// because c.taken.texts are: sorting all records of all peers would be most of the
// time that a plan takes.
func (c *compiler) peerNames(rr []Record, domain int) []Record {
	rr = slices.Grow(rr, 2*len(c.taken.texts))
	for i := range c.taken.texts {
		p := &c.taken.texts[i]
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
