package cell

import "net/netip"

// PeersLabel is the label under which peers' names live: <peer>.peers.<domain>.
const PeersLabel = "peers"

// WebNames are the host names under which the cell's own UI and API answer.
func (s *State) WebNames() []string {
	var out []string
	for _, d := range s.Identity.Domains() {
		out = append(out, d, "api."+d, "pic."+d)
	}
	return out
}

// ServiceNames are the host names of a service, the effective domain's first.
func (s *State) ServiceNames(svc *Service) []string {
	var out []string
	for _, d := range s.Identity.Domains() {
		out = append(out, svc.Subdomain+"."+d)
	}
	return out
}

// PeerName is the name of a peer's device under the effective domain.
func (s *State) PeerName(p *Peer) string {
	return p.Name + "." + PeersLabel + "." + s.Identity.EffectiveDomain()
}

// PeerAt returns the peer that holds a tunnel address, or nil. Inside the
// tunnel the address is proof: cryptokey routing lets no other key use it.
func (s *State) PeerAt(a netip.Addr) *Peer {
	a = a.Unmap()
	return find(s.Peers, func(p *Peer) bool { return p.Address4 == a || p.Address6 == a })
}

// OurPrefixes are the prefixes that belong to the cell whatever the facts: the
// tunnel, enabled service bridges and enabled links. LANs are not ours.
func (s *State) OurPrefixes() []netip.Prefix {
	out := []netip.Prefix{s.Network.Tunnel.Prefix4, s.Network.Tunnel.Prefix6}
	for i := range s.Services {
		v := &s.Services[i]
		if !v.Enabled || v.Bridge == "" {
			continue
		}
		if v.Prefix4.IsValid() {
			out = append(out, v.Prefix4)
		}
		if v.Prefix6.IsValid() {
			out = append(out, v.Prefix6)
		}
	}
	for i := range s.Links {
		if s.Links[i].Enabled {
			out = append(out, s.Links[i].Prefixes...)
		}
	}
	return out
}
