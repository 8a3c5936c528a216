package proxy

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/personal-internet-cell/pic/cell"
)

// Routes is who may reach what by which host name.
type Routes struct {
	// HTTPPort and HTTPSPort are how clients reach the listeners.
	HTTPPort, HTTPSPort uint16
	// Claimed is false until somebody owns the cell. Until then only sources
	// on a private network, at a private address of the cell, are let in.
	Claimed bool
	// PublicWeb lets sources from the internet in, to routes open to anyone.
	PublicWeb bool
	// HTTP01 lets them in on the HTTP port, for ACME's validation (RFC 8555 §8.3).
	HTTP01 bool
	// LocalNames are the hosts of the local handler; Addresses are the cell's
	// own, which as literals lead there too. Both sorted.
	LocalNames []string
	Addresses  []netip.Addr
	// Tunnel are the prefixes in which only peers have addresses.
	Tunnel []netip.Prefix
	// Peers are those let in, sorted by name.
	Peers []Peer
	// LAN are the configured networks, Inner the ones of service bridges and
	// linked cells, whose members see public routes at most. Sorted.
	LAN, Inner []netip.Prefix
	// Services are sorted by id.
	Services []Route
}

// Peer is a device in the tunnel; there its addresses prove who it is.
type Peer struct {
	Name               string
	Address4, Address6 netip.Addr
}

// Route leads the hosts of a service to its upstream.
type Route struct {
	ID, Name string
	Hosts    []string
	// Upstream is scheme://address:port.
	Upstream string
	Access   cell.Access
	// AllPeers, or else the Peers named (sorted), may reach it; so may sources on a
	// configured LAN, and anyone, if set.
	AllPeers, LAN, Anyone bool
	Peers                 []string
	// Identity tells the service the peer's name (X-Pic-Peer). Only on a
	// bridge of the cell's own: elsewhere somebody else could say the same.
	Identity bool
}

// Compile resolves grants to sources. Services without an upstream have no
// route.
func Compile(s *cell.State, f cell.Facts) (Routes, error) {
	out := Routes{
		HTTPPort:   orDefault(f.Host.HTTPPort, 80),
		HTTPSPort:  orDefault(f.Host.HTTPSPort, 443),
		LocalNames: append(s.WebNames(), "localhost"),
		Addresses:  ownAddresses(s, &f),
	}
	slices.Sort(out.LocalNames)
	if !s.Claimed() {
		return out, nil
	}
	out.Claimed = true
	out.PublicWeb = s.Network.PublicWeb
	out.HTTP01 = s.Identity.Mode == cell.ModeHTTP01
	out.Tunnel = []netip.Prefix{s.Network.Tunnel.Prefix4, s.Network.Tunnel.Prefix6}
	out.Inner = inner(s)
	for _, l := range s.Network.LAN {
		out.LAN = append(out.LAN, l.Prefixes...)
	}
	sortPrefixes(out.LAN)
	active := activePeers(s, &f)
	out.Peers = make([]Peer, len(active))
	var granted []*cell.Peer // those with grants, in the order of their names
	for i, p := range active {
		out.Peers[i] = Peer{p.Name, p.Address4, p.Address6}
		if len(p.Services) > 0 {
			granted = append(granted, p)
		}
	}
	for i := range s.Services {
		if v := &s.Services[i]; v.Enabled && v.Upstream != "" {
			out.Services = append(out.Services, route(s, granted, v))
		}
	}
	slices.SortFunc(out.Services, func(a, b Route) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

// activePeers are those let in, by name.
func activePeers(s *cell.State, f *cell.Facts) []*cell.Peer {
	expired := make(map[string]bool, len(f.Expired))
	for _, name := range f.Expired {
		expired[name] = true
	}
	out := make([]*cell.Peer, 0, len(s.Peers))
	for i := range s.Peers {
		if p := &s.Peers[i]; p.Enabled && !expired[p.Name] {
			out = append(out, p)
		}
	}
	byName := func(a, b *cell.Peer) int { return strings.Compare(a.Name, b.Name) }
	if !slices.IsSortedFunc(out, byName) {
		slices.SortFunc(out, byName)
	}
	return out
}

// route makes one of a service; granted are the active peers that have grants.
func route(s *cell.State, granted []*cell.Peer, v *cell.Service) Route {
	r := Route{
		ID: v.ID, Name: v.Name, Hosts: s.ServiceNames(v), Upstream: strings.TrimRight(v.Upstream, "/"),
		Access: v.Access, Identity: v.Bridge != "",
	}
	switch v.Access {
	case cell.AccessPeers:
		r.AllPeers = true
	case cell.AccessLAN:
		r.AllPeers, r.LAN = true, true
	case cell.AccessInternet:
		r.AllPeers, r.LAN, r.Anyone = true, true, s.Network.PublicWeb
	default: // granted, admin
		for _, p := range granted {
			if p.Granted(v) {
				r.Peers = append(r.Peers, p.Name)
			}
		}
	}
	return r
}

func ownAddresses(s *cell.State, f *cell.Facts) []netip.Addr {
	out := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	for _, a := range append(f.LocalAddresses(), s.Network.Tunnel.Gateway4(), s.Network.Tunnel.Gateway6()) {
		if a.IsValid() {
			out = append(out, a.Unmap().WithZone(""))
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// inner lists prefixes of ours whose members are not at home here: containers
// may run foreign code, and linked cells get what a grant gives them.
func inner(s *cell.State) []netip.Prefix {
	var out []netip.Prefix
	if s.Network.ServicesPrefix.IsValid() {
		out = append(out, s.Network.ServicesPrefix)
	}
	for i := range s.Services {
		if p := s.Services[i].Prefix6; p.IsValid() {
			out = append(out, p)
		}
	}
	for i := range s.Links {
		out = append(out, s.Links[i].Prefixes...)
	}
	sortPrefixes(out)
	return out
}

func sortPrefixes(p []netip.Prefix) { slices.SortFunc(p, netip.Prefix.Compare) }

func orDefault(port, def uint16) uint16 {
	if port == 0 {
		return def
	}
	return port
}

// String is one line per listener, local name, source set and route.
func (r Routes) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "listen https %d http %d claimed %t public_web %t http01 %t\n", r.HTTPSPort, r.HTTPPort, r.Claimed, r.PublicWeb, r.HTTP01)
	for _, n := range r.LocalNames {
		fmt.Fprintf(&b, "%s -> local\n", n)
	}
	for _, a := range r.Addresses {
		fmt.Fprintf(&b, "%s -> local\n", a)
	}
	prefixes := func(what string, list []netip.Prefix) {
		for _, p := range list {
			fmt.Fprintf(&b, "%s %s\n", what, p)
		}
	}
	prefixes("tunnel", r.Tunnel)
	prefixes("lan", r.LAN)
	prefixes("inner", r.Inner)
	for _, p := range r.Peers {
		fmt.Fprintf(&b, "peer %s %s %s\n", p.Name, p.Address4, p.Address6)
	}
	for _, v := range r.Services {
		from := slices.Clone(v.Peers)
		for name, on := range map[string]bool{"@peers": v.AllPeers, "@lan": v.LAN, "@anyone": v.Anyone, "@nobody": !v.AllPeers && len(v.Peers) == 0} {
			if on {
				from = append(from, name)
			}
		}
		slices.Sort(from)
		identity := ""
		if v.Identity {
			identity = " identity"
		}
		for _, h := range v.Hosts {
			fmt.Fprintf(&b, "%s -> %s %s access %s from %s%s\n", h, v.ID, v.Upstream, v.Access, strings.Join(from, ","), identity)
		}
	}
	return b.String()
}

// Equal reports whether two plans are the same. It is reflect.DeepEqual, but
// for thousands of peers.
func (r Routes) Equal(o Routes) bool {
	if !slices.Equal(r.Peers, o.Peers) || len(r.Services) != len(o.Services) {
		return false
	}
	for i := range r.Services {
		a, b := r.Services[i], o.Services[i]
		if !slices.Equal(a.Peers, b.Peers) {
			return false
		}
		a.Peers, b.Peers = nil, nil
		if !reflect.DeepEqual(a, b) {
			return false
		}
	}
	r.Peers, o.Peers, r.Services, o.Services = nil, nil, nil, nil
	return reflect.DeepEqual(r, o)
}
