package cell

import (
	"net/netip"
	"slices"
)

const dnsPort = 53

// sharedSpace is RFC 6598: an operator's inside, not the internet.
var sharedSpace = netip.MustParsePrefix("100.64.0.0/10")

// ExitForwarders are the resolvers that are asked through an exit for the names
// of those who leave by it: the exit's own, as configured or as its server told
// us; else the configured forwarders that are on the internet, so that the exit
// can reach them. None means that there is nobody to ask: the uplink's own
// resolvers never are.
func (s *State) ExitForwarders(e *Exit, f *Facts) []Forwarder {
	fact := f.Exits[e.ID]
	var own []netip.AddrPort
	if e.WireGuard != nil {
		for _, a := range e.WireGuard.DNS {
			own = append(own, netip.AddrPortFrom(a, dnsPort))
		}
	}
	own = append(own, fact.DNS...)
	var out []Forwarder
	add := func(w Forwarder) {
		if (w.Address.Addr().Is4() || fact.V6) && !slices.Contains(out, w) {
			out = append(out, w)
		}
	}
	for _, a := range own {
		add(Forwarder{Protocol: ForwardPlain, Address: netip.AddrPortFrom(a.Addr().Unmap(), a.Port())})
	}
	if len(out) > 0 {
		return out
	}
	for _, w := range s.DNS.Forwarders {
		if a := w.Address.Addr().Unmap(); a.IsGlobalUnicast() && !a.IsPrivate() && !sharedSpace.Contains(a) {
			add(w)
		}
	}
	return out
}
