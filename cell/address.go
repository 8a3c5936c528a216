package cell

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

var ula = netip.MustParsePrefix("fc00::/7")

// hostAddr returns the n-th address of p, or the zero Addr when p is too small.
func hostAddr(p netip.Prefix, n uint32) netip.Addr {
	if !p.IsValid() {
		return netip.Addr{}
	}
	b := p.Masked().Addr().AsSlice()
	off := len(b) - 4
	base := binary.BigEndian.Uint32(b[off:])
	if uint64(base)+uint64(n) > 0xffffffff {
		return netip.Addr{}
	}
	binary.BigEndian.PutUint32(b[off:], base+n)
	a, _ := netip.AddrFromSlice(b)
	if !p.Contains(a) {
		return netip.Addr{}
	}
	return a
}

// hostNumber is the n for which a is hostAddr(p, n), if there is one.
func hostNumber(p netip.Prefix, a netip.Addr) (n uint32, ok bool) {
	if !p.Contains(a) {
		return 0, false
	}
	x, y := a.As16(), p.Masked().Addr().As16()
	n = binary.BigEndian.Uint32(x[12:]) - binary.BigEndian.Uint32(y[12:])
	return n, [12]byte(x[:12]) == [12]byte(y[:12])
}

// FreeAddresses returns the lowest pair of tunnel addresses that no peer
// holds. The IPv6 address has the same host number as the IPv4 one.
func (s *State) FreeAddresses() (v4, v6 netip.Addr, err error) {
	t := s.Network.Tunnel
	if !t.Prefix4.IsValid() || !t.Prefix4.Addr().Is4() || t.Prefix4.Bits() < 8 {
		return netip.Addr{}, netip.Addr{}, fmt.Errorf("the tunnel has no usable IPv4 subnet (%s)", t.Prefix4)
	}
	// One of so many is free, if any is: each peer takes two at most.
	taken := make([]bool, 2*len(s.Peers)+3)
	take := func(p netip.Prefix, a netip.Addr) {
		if n, ok := hostNumber(p, a); ok && int(n) < len(taken) {
			taken[n] = true
		}
	}
	for i := range s.Peers {
		take(t.Prefix4, s.Peers[i].Address4)
		take(t.Prefix6, s.Peers[i].Address6)
	}
	size := uint32(1) << (32 - t.Prefix4.Bits())
	for n := uint32(2); n < size-1; n++ { // 0 network, 1 the cell, last broadcast
		if int(n) < len(taken) && taken[n] {
			continue
		}
		v4, v6 = hostAddr(t.Prefix4, n), hostAddr(t.Prefix6, n)
		if v4.IsValid() && v6.IsValid() {
			return v4, v6, nil
		}
	}
	return netip.Addr{}, netip.Addr{}, fmt.Errorf("the tunnel subnet %s is full: enlarge network.tunnel.prefix4 within %s", t.Prefix4, t.Reserved4)
}

func inAny(a netip.Addr, ps []netip.Prefix) bool {
	for _, p := range ps {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// labelled is a prefix and what it is for.
type labelled struct {
	prefix  netip.Prefix
	what    string
	pointer string
	lan     string // interface of a LAN: a service upstream there is no clash
}

// validateOverlaps refuses subnets that contain one another: a packet's way
// must not depend on which route the kernel saw first.
func (n *Network) validateOverlaps(v *validation, s *State) {
	list := []labelled{
		{n.Tunnel.Prefix4, "the tunnel", "/network/tunnel/prefix4", ""},
		{n.Tunnel.Prefix6, "the tunnel", "/network/tunnel/prefix6", ""},
	}
	for i, l := range n.LAN {
		for j, p := range l.Prefixes {
			list = append(list, labelled{p, "the network " + l.Name, fmt.Sprintf("/network/lan/%d/prefixes/%d", i, j), l.Interface})
		}
	}
	list = append(list, labelled{n.ServicesPrefix, "the services prefix", "/network/services_prefix", ""})
	for i, l := range s.Links {
		for j, p := range l.Prefixes {
			list = append(list, labelled{p, "the linked cell " + l.Name, fmt.Sprintf("/links/%d/prefixes/%d", i, j), ""})
		}
	}
	v.disjoint(list)
	var bridges []labelled
	for i, svc := range s.Services {
		if svc.Prefix4.IsValid() {
			bridges = append(bridges, labelled{svc.Prefix4, "service " + svc.ID, fmt.Sprintf("/services/%d/prefix4", i), ""})
		}
		if svc.Prefix6.IsValid() {
			bridges = append(bridges, labelled{svc.Prefix6, "service " + svc.ID, fmt.Sprintf("/services/%d/prefix6", i), ""})
		}
	}
	v.disjoint(bridges)
}

// disjoint reports each prefix that overlaps an earlier one of the list.
func (v *validation) disjoint(list []labelled) {
	for i, a := range list {
		for _, b := range list[:i] {
			if a.prefix.IsValid() && b.prefix.IsValid() && a.prefix.Overlaps(b.prefix) {
				v.addAt(a.pointer, "%s overlaps %s (%s, %s)", a.prefix, b.what, b.prefix, b.pointer)
				break
			}
		}
	}
}
