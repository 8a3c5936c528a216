package ntp

import (
	"cmp"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/personal-internet-cell/pic/cell"
)

const defaultPort = 123

// Sources is the plan: where time is told, to whom, and which servers the
// clock is compared with. The zero value is the plan of an unclaimed cell.
type Sources struct {
	// Listen are the addresses served, sorted, unique.
	Listen []netip.AddrPort
	// Clients are the prefixes that are answered; everybody else gets silence.
	Clients []netip.Prefix
	// Servers are other time servers, host or host:port, in the order given. The
	// cell asks nobody who was not named.
	Servers []string
	// Discipline: the clock follows the servers, unless another program steers it.
	Discipline bool
}

// Compile derives the plan from what is wanted and what is known. It is pure.
func Compile(s *cell.State, f cell.Facts) (Sources, error) {
	if !s.Claimed() {
		return Sources{}, nil
	}
	var p Sources
	port := cmp.Or(f.Host.NTPPort, defaultPort)
	t := s.Network.Tunnel
	serve := func(addrs []netip.Addr, clients ...netip.Prefix) {
		for _, a := range addrs {
			if a.IsValid() {
				p.Listen = append(p.Listen, netip.AddrPortFrom(a, port))
			}
		}
		for _, c := range clients {
			if c.IsValid() {
				p.Clients = append(p.Clients, c)
			}
		}
	}
	serve([]netip.Addr{t.Gateway4(), t.Gateway6()}, t.Prefix4, t.Prefix6)
	for i := range s.Network.LAN {
		if l := &s.Network.LAN[i]; len(l.Addresses) > 0 {
			serve(l.Addresses, l.Prefixes...)
		}
	}
	slices.SortFunc(p.Listen, netip.AddrPort.Compare)
	p.Listen = slices.Compact(p.Listen)
	slices.SortFunc(p.Clients, netip.Prefix.Compare)
	p.Clients = slices.Compact(p.Clients)
	p.Servers = append(p.Servers, s.Clock.Sources...)
	p.Discipline = s.Clock.Discipline != cell.DisciplineOff
	return p, nil
}

// Equal reports whether two plans are the same.
func (p Sources) Equal(q Sources) bool { return reflect.DeepEqual(p, q) }

// String renders the plan in the notation of ntp.conf(5). Equal plans give
// equal text.
func (p Sources) String() string {
	var b strings.Builder
	if len(p.Listen) > 0 {
		b.WriteString("interface ignore all\nrestrict default ignore\n")
	}
	for _, a := range p.Listen {
		fmt.Fprintf(&b, "interface listen %s # port %d\n", a.Addr(), a.Port())
	}
	for _, c := range p.Clients {
		fmt.Fprintf(&b, "restrict %s limited kod noquery nopeer\n", c)
	}
	for _, s := range p.Servers {
		if p.Discipline {
			fmt.Fprintf(&b, "server %s iburst minpoll %d maxpoll %d\n", s, minPoll, maxPoll)
		} else {
			fmt.Fprintf(&b, "server %s noselect\n", s)
		}
	}
	if !p.Discipline && len(p.Listen) > 0 {
		b.WriteString("disable ntp\n")
	}
	return b.String()
}
