package dns

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	mdns "github.com/miekg/dns"

	"github.com/personal-internet-cell/pic/cell"
)

// grown returns the zone of t of that name with what z has more, or nil when z
// is not just that: then it is built anew. With thousands of names an addition
// costs a copy of the index instead of as many records. Queries go on to be
// answered from the old zone meanwhile, so nothing of it is written to.
func (t *tables) grown(z *Zone) *zone {
	if t == nil {
		return nil
	}
	old, ok := t.built[zoneKey{z.View, z.Apex}]
	if !ok {
		return nil
	}
	added, ok := additions(old.from, z.Records)
	if !ok {
		return nil
	}
	out := &zone{from: z.Records, soa: old.soa, nodes: maps.Clone(old.nodes), own: map[*node]bool{}}
	// The first record is the SOA; its serial follows the content.
	apex := out.at(z.Apex)
	apex.sets = slices.DeleteFunc(apex.sets, func(s *rrset) bool { return s.rrtype == mdns.TypeSOA })
	for _, r := range slices.Concat(z.Records[:1], added) {
		// The text of a plan is one piece: a record that outlives its plan must
		// not keep all of it.
		r.Name, r.Data = strings.Clone(r.Name), strings.Clone(r.Data)
		if r.Type != "SOA" && old.has(&r) {
			return nil // records of one set have their order
		}
		if out.record(z.Apex, &r) != nil {
			return nil // let building it say what is wrong
		}
	}
	out.own = nil
	return out
}

// maxAdditions is up to when growing beats building.
const maxAdditions = 1000

// additions are the records that b has and a has not, if all others are the
// same, in the same order. The first of both is the SOA and counts as the same.
func additions(a, b []Record) (added []Record, ok bool) {
	if len(a) == 0 || len(b) < len(a) || len(b)-len(a) > maxAdditions || a[0].Type != "SOA" || b[0].Type != "SOA" {
		return nil, false
	}
	i := 1
	for j := 1; j < len(b); j++ {
		if i < len(a) && a[i] == b[j] {
			i++
		} else {
			added = append(added, b[j])
		}
	}
	return added, i == len(a)
}

// has reports whether there is a set of records that r would join.
func (z *zone) has(r *Record) bool {
	n := z.nodes[r.Name]
	return n != nil && slices.ContainsFunc(n.sets, func(s *rrset) bool {
		return s.rrtype == mdns.StringToType[r.Type] && s.service == r.Service
	})
}

// ownNode returns the node of that name as one that may be written to: n
// itself, or a copy that takes its place.
func (z *zone) ownNode(name string, n *node) *node {
	if z.own[n] {
		return n
	}
	c := &node{open: n.open, tags: slices.Clone(n.tags), sets: slices.Clone(n.sets)}
	z.nodes[name] = c
	z.own[c] = true
	return c
}

// seatPeers fills the index of peers, from old's when only peers were added.
func (t *tables) seatPeers(old *tables, zones map[string]*zone) {
	list := t.plan.Peers
	t.peers, t.kindIDs = nil, nil
	if old != nil {
		if added, ok := addedPeers(old.plan.Peers, list); ok {
			list, t.peers, t.kindIDs = added, maps.Clone(old.peers), maps.Clone(old.kindIDs)
			for _, a := range old.kinds {
				t.kinds = append(t.kinds, t.kind(a.exit, a.services, zones))
			}
		}
	}
	if t.peers == nil {
		t.peers, t.kindIDs = make(map[netip.Addr]int32, 2*len(list)), map[string]int32{}
	}
	last := int32(-1)
	for i := range list {
		p := &list[i]
		if last < 0 || t.kinds[last].exit != p.Exit || !slices.Equal(t.kinds[last].services, p.Services) {
			key := kindKey(p)
			id, ok := t.kindIDs[key]
			if !ok {
				id = int32(len(t.kinds))
				t.kindIDs[key] = id
				t.kinds = append(t.kinds, t.kind(p.Exit, p.Services, zones))
			}
			last = id
		}
		for _, addr := range p.Addresses {
			t.peers[addr] = last
		}
	}
}

func (t *tables) kind(exit string, services []string, zones map[string]*zone) *audience {
	return (&audience{label: string(cell.ViewPeer), zones: zones, empty: t.empty, services: services}).leave(&t.plan, exit)
}

// kindKey tells apart peers that see different things. Ids hold no space.
func kindKey(p *Peer) string { return p.Exit + " " + strings.Join(p.Services, " ") }

// addedPeers are the peers that b has and a has not, if all others are the
// same, in the same order.
func addedPeers(a, b []Peer) (added []Peer, ok bool) {
	if len(b) < len(a) || len(b)-len(a) > maxAdditions {
		return nil, false
	}
	i := 0
	for j := range b {
		if i < len(a) && a[i].equal(&b[j]) {
			i++
		} else {
			added = append(added, b[j])
		}
	}
	return added, i == len(a)
}
