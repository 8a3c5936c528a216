package firewall

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// session stands for the connections a change takes the ground from: those
// between src and dst, or of src with anybody when dst is not set, or to dst.
// Established connections are let through without a second look, so what is
// no longer granted has to be forgotten.
type session struct{ src, dst addrRange }

type addrRange struct{ first, last netip.Addr }

func (r addrRange) has(a netip.Addr) bool {
	return r.first.IsValid() && r.first.Compare(a) <= 0 && a.Compare(r.last) <= 0
}

// sessionSet reports whether a set's elements let a connection begin or say
// which way it goes; "lan_" are the per-network grants.
func sessionSet(n string) bool {
	switch strings.TrimRight(n, "46") {
	case "mark", "service_mark", "open_port", "service_port", "grant", "peer_peer", "forwarded", "socks":
		return true
	}
	return strings.HasPrefix(n, "lan_") && n != "lan_of4" && n != "lan_of6"
}

// sessions of the elements that were removed or changed.
func (d *diff) sessions() []session {
	if !sessionSet(d.set.Name) {
		return nil
	}
	var out []session
	for _, e := range d.remove {
		var s session
		off := 0
		for _, f := range d.set.Key {
			size := kinds[fields[f].kind].size
			read := func(key []byte) netip.Addr {
				if len(key) < off+size {
					return netip.Addr{}
				}
				a, _ := netip.AddrFromSlice(key[off : off+size])
				return a
			}
			first := read(e.els[0].Key)
			r := addrRange{first, first}
			if end := e.els[0].KeyEnd; len(end) > 0 {
				r.last = read(end)
			}
			switch f {
			case SAddr4, SAddr6:
				s.src = r
			case DAddr4, DAddr6:
				s.dst = r
			}
			off += (size + 3) / 4 * 4
		}
		out = append(out, s)
	}
	return out
}

// cuts lists sessions to end; it is a filter over the connection table.
type cuts struct {
	single map[netip.Addr][]session // by an exact source or destination
	ranges []session
}

func newCuts(list []session) *cuts {
	c := &cuts{single: map[netip.Addr][]session{}}
	for _, s := range list {
		switch {
		case s.src.first.IsValid() && s.src.first == s.src.last:
			c.single[s.src.first] = append(c.single[s.src.first], s)
		case !s.src.first.IsValid() && s.dst.first == s.dst.last:
			c.single[s.dst.first] = append(c.single[s.dst.first], s)
		default:
			c.ranges = append(c.ranges, s)
		}
	}
	return c
}

// MatchConntrackFlow implements [netlink.CustomConntrackFilter].
func (c *cuts) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	ends := flowEnds(flow)
	for _, a := range ends {
		for _, s := range c.single[a] {
			if s.matches(ends) {
				return true
			}
		}
	}
	for _, s := range c.ranges {
		if s.matches(ends) {
			return true
		}
	}
	return false
}

// flowEnds are the source, the destination asked for, and the real one.
func flowEnds(flow *netlink.ConntrackFlow) [3]netip.Addr {
	var out [3]netip.Addr
	for i, ip := range [][]byte{flow.Forward.SrcIP, flow.Forward.DstIP, flow.Reverse.SrcIP} {
		a, _ := netip.AddrFromSlice(ip)
		out[i] = a.Unmap()
	}
	return out
}

func (s session) matches(ends [3]netip.Addr) bool {
	to := func(r addrRange) bool { return r.has(ends[1]) || r.has(ends[2]) }
	switch {
	case s.src.first.IsValid() && s.dst.first.IsValid():
		return s.src.has(ends[0]) && to(s.dst)
	case s.src.first.IsValid(): // everything the source takes part in
		return s.src.has(ends[0]) || to(s.src)
	}
	return to(s.dst)
}

// endSessions deletes the connection tracking entries of what was cut.
func endSessions(list []session) (changed bool, err error) {
	if len(list) == 0 {
		return false, nil
	}
	filter := newCuts(list)
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		for try := 1; ; try++ {
			n, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, filter)
			changed = changed || n > 0
			if errors.Is(err, netlink.ErrDumpInterrupted) && try < 10 {
				continue
			}
			// ENOENT: it ended by itself meanwhile.
			if err != nil && !errors.Is(err, unix.ENOENT) {
				return changed, fmt.Errorf("deleting connection tracking entries: %w", err)
			}
			break
		}
	}
	return changed, nil
}
