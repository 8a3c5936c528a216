package dns

import (
	"fmt"
	"net/netip"

	mdns "github.com/miekg/dns"
)

// Found is what a name leads one who asks to, as far as the plan alone can say.
type Found struct {
	// View is whose names are answered: peer, lan or internet; "" when the
	// source is answered by nobody.
	View string
	// Ours says that the name lies in a zone of the cell's, whether it exists
	// there or not.
	Ours bool
	// Addresses are its A and AAAA records, aliases followed.
	Addresses []netip.Addr
	// Foreign is the name that would be asked of the world, "" for none, and
	// Exit the exit by which; "" is the uplink.
	Foreign, Exit string
}

// Lookup answers a name from the plan for a source on an interface, with the
// server's own code and without a server. The name may lack its last dot.
func (v Views) Lookup(link string, src netip.Addr, name string) (Found, error) {
	t, err := buildTables(v, nil)
	if err != nil {
		return Found{}, fmt.Errorf("looking up %s: %w", name, err)
	}
	a := t.audience(link, src)
	if a == nil {
		return Found{}, nil
	}
	out := Found{View: a.label}
	name = mdns.Fqdn(name)
	for _, qtype := range []uint16{mdns.TypeA, mdns.TypeAAAA} {
		r, ours := a.lookup(&query{name: name, lower: mdns.CanonicalName(name), qtype: qtype})
		out.Ours = out.Ours || ours
		for _, rr := range r.answer {
			var ip netip.Addr
			var ok bool
			switch x := rr.(type) {
			case *mdns.A:
				ip, ok = netip.AddrFromSlice(x.A)
			case *mdns.AAAA:
				ip, ok = netip.AddrFromSlice(x.AAAA)
			}
			if ok {
				out.Addresses = append(out.Addresses, ip.Unmap())
			}
		}
		if r.chase != "" && a.recursive {
			out.Foreign, out.Exit = r.chase, a.exit
		}
	}
	return out, nil
}
