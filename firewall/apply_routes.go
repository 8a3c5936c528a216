package firewall

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// kernelRoute is a route in one of our tables, or anywhere with our protocol
// number.
type kernelRoute struct {
	route Route
	odd   bool // has something no route of ours has
	kind  uint8
	oif   uint32
}

func (k kernelRoute) is(r Route) bool { return !k.odd && k.route == r }

// listRoutes returns the routes that carry our protocol number, and all others
// in the tables that want uses: a route put there by somebody else would take
// packets past the kill switch.
func listRoutes(want []Route) ([]kernelRoute, error) {
	tables := map[uint32]bool{}
	for _, r := range want {
		tables[r.Table] = true
	}
	devs, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("listing interfaces: %w", err)
	}
	names := map[uint32]string{}
	for _, d := range devs {
		names[uint32(d.Index)] = d.Name
	}
	var out []kernelRoute
	for _, family := range kernelFamilies() {
		msgs, err := dump(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, af(family))
		if err != nil {
			return nil, fmt.Errorf("listing routes: %w", err)
		}
		for _, m := range msgs {
			k, protocol, err := parseRoute(m, family, names)
			if err != nil {
				return nil, err
			}
			if k != nil && (protocol == routeProtocol || tables[k.route.Table]) {
				out = append(out, *k)
			}
		}
	}
	return out, nil
}

func parseRoute(b []byte, family uint8, names map[uint32]string) (k *kernelRoute, protocol int, err error) {
	msg, attrs, err := parse(b)
	if err != nil {
		return nil, 0, err
	}
	if msg.Flags&unix.RTM_F_CLONED != 0 {
		return nil, 0, nil // a cache entry
	}
	r := Route{Table: uint32(msg.Table), Metric: u32(attrs[unix.RTA_PRIORITY])}
	if t := attrs[unix.RTA_TABLE]; t != nil {
		r.Table = u32(t)
	}
	dst, ok := netip.AddrFromSlice(attrs[unix.RTA_DST])
	if !ok {
		dst = map[uint8]netip.Addr{4: all4.Addr(), 6: all6.Addr()}[family]
	}
	r.Prefix = netip.PrefixFrom(dst, int(msg.Dst_len))
	k = &kernelRoute{kind: msg.Type, oif: u32(attrs[unix.RTA_OIF])}
	switch msg.Type {
	case unix.RTN_UNICAST:
		r.Dev = names[k.oif]
	case unix.RTN_LOCAL:
		r.Kind, r.Dev = Local, names[k.oif]
	case unix.RTN_UNREACHABLE:
		r.Kind = Unreachable // IPv6 shows lo as its interface
	default:
		k.odd = true
	}
	for _, t := range []uint16{unix.RTA_GATEWAY, unix.RTA_MULTIPATH, unix.RTA_VIA, unix.RTA_ENCAP, unix.RTA_SRC} {
		k.odd = k.odd || attrs[t] != nil
	}
	k.odd = k.odd || msg.Protocol != routeProtocol || msg.Tos != 0
	k.route = r
	return k, int(msg.Protocol), nil
}

// addRoutes adds those of the wanted routes that are missing. A route by a
// link that is gone or down is passed over: it is added when the link is back,
// and until then the unreachable route answers.
func addRoutes(seen *seen, want []Route, which func(Route) bool) (changed bool, err error) {
	have, err := seen.listRoutes()
	if err != nil {
		return false, err
	}
	for _, r := range want {
		if !which(r) || slices.ContainsFunc(have, func(k kernelRoute) bool { return k.is(r) }) {
			continue
		}
		seen.routesChanged()
		switch err := r.add(); {
		case err == nil:
			changed = true
		case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENETDOWN), errors.Is(err, errNoLink):
		case errors.Is(err, unix.EACCES) && r.Dev != "" && r.Prefix.Addr().Is6(): // IPv6 is off there (disable_ipv6)
		default:
			return changed, fmt.Errorf("adding %q: %w", r, err)
		}
	}
	return changed, nil
}

// removeRoutes removes what listRoutes finds and is not wanted.
func removeRoutes(seen *seen, want []Route) (changed bool, err error) {
	have, err := seen.listRoutes()
	if err != nil {
		return false, err
	}
	for _, k := range have {
		if slices.ContainsFunc(want, k.is) {
			continue
		}
		seen.routesChanged()
		switch err := k.remove(); {
		case err == nil:
			changed = true
		case !errors.Is(err, unix.ESRCH):
			return changed, fmt.Errorf("deleting %q: %w", k.route, err)
		}
	}
	return changed, nil
}

var errNoLink = errors.New("no such interface")

func (r Route) message() (*nl.RtMsg, []*nl.RtAttr) {
	family := uint8(4)
	if r.Prefix.Addr().Is6() {
		family = 6
	}
	msg := &nl.RtMsg{RtMsg: unix.RtMsg{Family: af(family), Dst_len: uint8(r.Prefix.Bits()), Protocol: routeProtocol}}
	attrs := []*nl.RtAttr{attr32(unix.RTA_TABLE, r.Table), attr32(unix.RTA_PRIORITY, r.Metric)}
	if r.Prefix.Bits() > 0 {
		attrs = append(attrs, nl.NewRtAttr(unix.RTA_DST, r.Prefix.Addr().AsSlice()))
	}
	switch r.Kind {
	case Unicast:
		msg.Type, msg.Scope = unix.RTN_UNICAST, unix.RT_SCOPE_LINK
	case Local:
		msg.Type, msg.Scope = unix.RTN_LOCAL, unix.RT_SCOPE_HOST
	case Unreachable:
		msg.Type, msg.Scope = unix.RTN_UNREACHABLE, unix.RT_SCOPE_UNIVERSE
	}
	return msg, attrs
}

// add puts the route into the kernel, in place of one with the same prefix and
// metric.
func (r Route) add() error {
	msg, attrs := r.message()
	if r.Dev != "" {
		dev, err := net.InterfaceByName(r.Dev)
		if err != nil {
			return fmt.Errorf("%w: %s", errNoLink, r.Dev)
		}
		attrs = append(attrs, attr32(unix.RTA_OIF, uint32(dev.Index)))
	}
	return change(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, msg, attrs...)
}

func (k kernelRoute) remove() error {
	msg, attrs := k.route.message()
	msg.Type, msg.Protocol, msg.Scope = k.kind, 0, unix.RT_SCOPE_NOWHERE
	if k.oif != 0 && k.kind != unix.RTN_UNREACHABLE {
		attrs = append(attrs, attr32(unix.RTA_OIF, k.oif))
	}
	return change(unix.RTM_DELROUTE, 0, msg, attrs...)
}
