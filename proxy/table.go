package proxy

import (
	"maps"
	"net/netip"
	"slices"
)

// zone is where a source is.
type zone int

const (
	zoneNobody   zone = iota // in the tunnel's prefixes, and no active peer
	zoneMachine              // the cell's own machine
	zonePeer                 // an active peer, proven by the tunnel
	zoneLAN                  // a configured network
	zonePrivate              // another private network: a home box without configured LANs
	zoneInner                // service bridges and linked cells
	zoneInternet             // anywhere else
)

// table is the routes in the form that requests read. It never changes.
type table struct {
	routes   Routes
	own      map[netip.Addr]bool
	local    map[string]bool
	peers    map[netip.Addr]string
	services map[string]*service
}

// service is a route, its upstream, and the peers granted it.
type service struct {
	Route
	granted map[string]bool
	up      *upstream
}

// newTable makes the table of r; old, which may be nil, is the one before it.
func newTable(r Routes, old *table, up func(*Route) *upstream) *table {
	t := &table{
		routes:   r,
		own:      make(map[netip.Addr]bool, len(r.Addresses)),
		local:    make(map[string]bool, len(r.LocalNames)),
		peers:    peerTable(r.Peers, old),
		services: make(map[string]*service, 2*len(r.Services)),
	}
	for _, a := range r.Addresses {
		t.own[a] = true
	}
	for _, n := range r.LocalNames {
		t.local[n] = true
	}
	for i := range r.Services {
		v := &service{Route: r.Services[i], granted: make(map[string]bool, len(r.Services[i].Peers))}
		v.up = up(&v.Route)
		for _, p := range v.Peers {
			v.granted[p] = true
		}
		for _, h := range v.Hosts {
			if !t.local[h] { // the cell's own names can't be taken over
				t.services[h] = v
			}
		}
	}
	return t
}

// peerTable indexes peers by address. Where thousands were there before and
// some are new, the old index is copied.
func peerTable(list []Peer, old *table) map[netip.Addr]string {
	var index map[netip.Addr]string
	if old != nil {
		if added, ok := addedPeers(old.routes.Peers, list); ok {
			index, list = maps.Clone(old.peers), added
		}
	}
	if index == nil {
		index = make(map[netip.Addr]string, 2*len(list))
	}
	for i := range list {
		for _, a := range [2]netip.Addr{list[i].Address4, list[i].Address6} {
			if a.IsValid() {
				index[a] = list[i].Name
			}
		}
	}
	return index
}

// addedPeers are the peers that b has and a has not, if all others are the
// same, in the same order.
func addedPeers(a, b []Peer) (added []Peer, ok bool) {
	if len(b) < len(a) {
		return nil, false
	}
	i := 0
	for j := range b {
		if i < len(a) && a[i] == b[j] {
			i++
		} else {
			added = append(added, b[j])
		}
	}
	return added, i == len(a)
}

// classify places a source, and names the peer that it is.
func (t *table) classify(src netip.Addr) (zone, string) {
	in := func(list []netip.Prefix) bool {
		return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(src) })
	}
	switch {
	case !src.IsValid():
		return zoneNobody, ""
	case src.IsLoopback() || t.own[src]:
		return zoneMachine, ""
	case in(t.routes.Tunnel):
		if name := t.peers[src]; name != "" {
			return zonePeer, name
		}
		return zoneNobody, ""
	case in(t.routes.Inner):
		return zoneInner, ""
	case in(t.routes.LAN):
		return zoneLAN, ""
	case private(src):
		return zonePrivate, ""
	}
	return zoneInternet, ""
}

// private is RFC 1918, ULA (RFC 4193) and link-local.
func private(a netip.Addr) bool { return a.IsPrivate() || a.IsLinkLocalUnicast() }

// admits reports whether a connection from src to our address local is let in
// at all. It is asked at accept and again for each request.
func (t *table) admits(src, local netip.Addr, plain bool) bool {
	if !t.routes.Claimed {
		return src.IsLoopback() || private(src) && private(local)
	}
	switch z, _ := t.classify(src); z {
	case zoneNobody:
		return false
	case zoneInner:
		return t.routes.PublicWeb
	case zoneInternet:
		return t.routes.PublicWeb || plain && t.routes.HTTP01
	}
	return true
}

// verdict is what a source may do with a target.
type verdict int

const (
	unknown   verdict = iota // no such host, or not for the eyes of this source: 421
	forbidden                // a source of ours without the grant: 403
	allowed
)

// resolve decides on a target for a source that was admitted at local. The
// service is nil for the local handler.
func (t *table) resolve(to target, src, local netip.Addr) (*service, verdict) {
	z, peer := t.classify(src)
	if v := t.services[to.name]; v != nil && to.name != "" {
		switch {
		case v.permits(z, peer):
			return v, allowed
		case z == zoneInternet || z == zoneInner || z == zoneNobody:
			return nil, unknown
		}
		return nil, forbidden
	}
	if to.loopback() && z != zoneMachine {
		return nil, unknown
	}
	// The address that the client reached is one of ours, whatever was learned.
	if !t.local[to.key()] && !(to.addr.IsValid() && (t.own[to.addr] || to.addr == local)) {
		return nil, unknown
	}
	switch z {
	case zoneMachine, zonePeer, zoneLAN, zonePrivate:
		return nil, allowed
	}
	if !t.routes.Claimed { // admitted: private on both sides
		return nil, allowed
	}
	return nil, unknown
}

func (v *service) permits(z zone, peer string) bool {
	switch z {
	case zonePeer:
		return v.AllPeers || v.granted[peer] || v.Anyone
	case zoneLAN, zoneMachine:
		return v.LAN || v.Anyone
	case zonePrivate, zoneInner, zoneInternet:
		return v.Anyone
	}
	return false
}

// portMatches reports whether the port of a Host field leads to the listener
// on port. Through an SSH forward the machine's own loopback has any port; a
// name that a foreign page could point here is not among those.
func (t *table) portMatches(to target, src netip.Addr, port uint16) bool {
	return to.port == 0 || to.port == port || src.IsLoopback() && to.loopback()
}
