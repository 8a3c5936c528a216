package exits

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/personal-internet-cell/pic/cell"
)

// Compile derives what every exit and chain needs at work. It is pure.
func Compile(s *cell.State, f cell.Facts) (Relays, error) {
	r := Relays{Timezone: s.Identity.Timezone, Uplink: family(&f.Uplink)}
	r.Resolvers = resolvers(s, &f)
	ids := make(map[string]int, len(s.Exits))
	for i := range s.Exits {
		r.Exits = append(r.Exits, compileExit(s, &s.Exits[i], &f))
	}
	slices.SortFunc(r.Exits, func(a, b Exit) int { return strings.Compare(a.ID, b.ID) })
	for i := range r.Exits {
		ids[r.Exits[i].ID] = i
	}
	assign(s, &f, ids, r.Exits)
	for i := range s.Chains {
		c := &s.Chains[i]
		r.Chains = append(r.Chains, Chain{ID: c.ID, Name: cmp.Or(c.Name, c.ID), Members: slices.Clone(c.Members), Hold: c.Hold, Schedule: slices.Clone(c.Schedule)})
	}
	slices.SortFunc(r.Chains, func(a, b Chain) int { return strings.Compare(a.ID, b.ID) })
	return r, nil
}

// family says which families the uplink has: endpoints of the others can't be
// reached. Both, while nothing is known.
func family(u *cell.Uplink) Family {
	var out Family
	for _, p := range u.Addresses {
		if a := p.Addr(); a.IsGlobalUnicast() {
			out.V4 = out.V4 || a.Is4()
			out.V6 = out.V6 || a.Is6() && u.Gateway6.IsValid()
		}
	}
	if !out.V4 && !out.V6 {
		return Family{V4: true, V6: true}
	}
	return out
}

// resolvers look up the names of the servers behind exits, around the exits:
// the uplink's own, else the plain forwarders.
func resolvers(s *cell.State, f *cell.Facts) []netip.AddrPort {
	if len(f.Resolvers) > 0 {
		return slices.Clone(f.Resolvers)
	}
	var out []netip.AddrPort
	for _, w := range s.DNS.Forwarders {
		if w.Protocol == cell.ForwardPlain && w.Address.IsValid() {
			out = append(out, w.Address)
		}
	}
	return out
}

func compileExit(s *cell.State, e *cell.Exit, f *cell.Facts) Exit {
	x := Exit{
		ID: e.ID, Name: cmp.Or(e.Name, e.ID), Type: e.Type, Slot: e.Slot, Enabled: e.Enabled, Mark: e.Mark(), Link: e.LinkName(), RelayPort: e.RelayPort(),
		Credentials: e.Credentials, Address4: e.Address4, Address6: e.Address6, OpenVPN: e.OpenVPN, Tor: e.Tor, SSH: e.SSH, Proxy: e.Proxy,
		Probes: slices.Clone(e.Probes),
	}
	if w := e.WireGuard; w != nil {
		x.WireGuard = &WireGuard{Endpoint: w.Endpoint, V4: w.Carries(false) && e.Address4.IsValid(), V6: w.Carries(true) && e.Address6.IsValid()}
	}
	if len(x.Probes) == 0 {
		x.Probes = cell.DefaultProbes()
	}
	if e.Socks && e.Enabled && s.Claimed() {
		for _, a := range []netip.Addr{s.Network.Tunnel.Gateway4(), s.Network.Tunnel.Gateway6()} {
			if a.IsValid() {
				x.Socks = append(x.Socks, netip.AddrPortFrom(a, e.SocksPort()))
			}
		}
	}
	return x
}

// assign fills in who leaves by each exit and who may use its SOCKS5 server.
func assign(s *cell.State, f *cell.Facts, ids map[string]int, exits []Exit) {
	if !s.Claimed() {
		return
	}
	expired := make(map[string]bool, len(f.Expired))
	for _, n := range f.Expired {
		expired[n] = true
	}
	for i := range s.Peers {
		p := &s.Peers[i]
		if !p.Enabled || expired[p.Name] {
			continue
		}
		n, leaves := ids[s.PeerWay(p, f)]
		for _, a := range []netip.Addr{p.Address4, p.Address6} {
			if !a.IsValid() {
				continue
			}
			if leaves {
				exits[n].Sources = append(exits[n].Sources, netip.PrefixFrom(a, a.BitLen()))
			}
			for _, id := range p.Socks {
				if n, ok := ids[id]; ok && len(exits[n].Socks) > 0 {
					exits[n].Granted = append(exits[n].Granted, a)
				}
			}
		}
	}
	for i := range s.Services {
		v := &s.Services[i]
		n, ok := ids[s.Way(v.Egress, f)]
		if !ok || !v.Enabled || v.Bridge == "" {
			continue
		}
		for _, p := range []netip.Prefix{v.Prefix4, v.Prefix6} {
			if p.IsValid() {
				exits[n].Sources = append(exits[n].Sources, p.Masked())
			}
		}
	}
	for i := range exits {
		slices.SortFunc(exits[i].Sources, netip.Prefix.Compare)
		exits[i].Sources = slices.Compact(exits[i].Sources)
		slices.SortFunc(exits[i].Granted, netip.Addr.Compare)
		exits[i].Granted = slices.Compact(exits[i].Granted)
	}
}
