package dns

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/personal-internet-cell/pic/cell"
)

const (
	defaultPort  = 53
	defaultTTL   = 300 // seconds
	negativeTTL  = 60  // seconds a "no such name" is kept (RFC 2308 §5): short, so that a grant shows soon
	defaultCache = 10_000
)

// Compile derives the plan from what is wanted and what is known. It is pure.
// A record that can't be served is an [*cell.InvalidError] with its pointer.
func Compile(s *cell.State, f cell.Facts) (Views, error) {
	if !s.Claimed() {
		return Views{}, nil // nobody's cell offers nothing to anybody
	}
	c := &compiler{s: s, f: &f, domains: fqdns(s.Identity.Domains()), active: activePeers(s, &f)}
	if err := c.checkRecords(); err != nil {
		return Views{}, err
	}
	c.v.Empty = emptyZones()
	c.v.CacheSize = s.DNS.CacheSize
	if c.v.CacheSize == 0 {
		c.v.CacheSize = defaultCache
	}
	c.v.RebindAllow = fqdns(s.DNS.RebindAllow)
	slices.Sort(c.v.RebindAllow)

	t := s.Network.Tunnel
	gateways := []netip.Addr{t.Gateway4(), t.Gateway6()}
	c.listen(gateways...)
	c.zones(peerView, cell.ViewPeer, gateways, func(*cell.Service) bool { return true })
	c.peers()
	c.reverse()
	c.local(peerView)
	for i := range s.Network.LAN {
		c.lan(&s.Network.LAN[i])
	}
	for i := range s.Services {
		c.bridge(&s.Services[i])
	}
	c.public()
	c.forwarders()
	c.exits()
	slices.SortFunc(c.v.Listen, netip.AddrPort.Compare)
	c.v.Listen = slices.Compact(c.v.Listen)
	slices.SortStableFunc(c.v.Zones, func(a, b Zone) int {
		return cmp.Or(cmp.Compare(a.View, b.View), cmp.Compare(a.Apex, b.Apex))
	})
	return c.v, nil
}

type compiler struct {
	s       *cell.State
	f       *cell.Facts
	v       Views
	domains []string // the effective domain's first
	active  []*cell.Peer
	targets []string // see peerTargets
	records []Record // checked, one per admin record
}

func fqdns(names []string) []string {
	var out []string
	for _, n := range names {
		out = append(out, strings.ToLower(strings.TrimSuffix(n, "."))+".")
	}
	return out
}

func (c *compiler) listen(addrs ...netip.Addr) {
	for _, a := range addrs {
		if a.IsValid() {
			c.v.Listen = append(c.v.Listen, netip.AddrPortFrom(a, cmp.Or(c.f.Host.DNSPort, defaultPort)))
		}
	}
}

// zones adds the cell's own zones to a view: its web names and the visible
// services lead to addrs, the admin's records follow.
func (c *compiler) zones(view string, audience cell.View, addrs []netip.Addr, visible func(*cell.Service) bool) {
	for i, apex := range c.domains {
		if audience == cell.ViewInternet && strings.HasSuffix("."+apex, ".internal.") {
			continue // a name of our own making is nobody's business outside
		}
		var rr []Record
		for _, label := range []string{"", "api.", "pic."} {
			rr = append(rr, addressRecords(label+apex, addrs, "")...)
		}
		for j := range c.s.Services {
			svc := &c.s.Services[j]
			if svc.Enabled && visible(svc) {
				tag := ""
				if audience == cell.ViewPeer {
					tag = svc.ID
				}
				rr = append(rr, addressRecords(svc.Subdomain+"."+apex, addrs, tag)...)
			}
		}
		if i == 0 && audience != audienceService { // records are relative to the effective domain
			for j, r := range c.s.DNS.Records {
				if seenBy(r.Views, audience) {
					rr = append(rr, c.records[j])
				}
			}
		}
		rr = sorted(rr, apex)
		if audience == cell.ViewPeer {
			rr = slices.Concat(rr, c.peerNames(apex))
		}
		c.add(view, apex, rr)
	}
}

// activePeers are those let in, by name.
func activePeers(s *cell.State, f *cell.Facts) []*cell.Peer {
	out := make([]*cell.Peer, 0, len(s.Peers))
	expired := make(map[string]bool, len(f.Expired))
	for _, name := range f.Expired {
		expired[name] = true
	}
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

func seenBy(views []cell.View, audience cell.View) bool {
	if len(views) == 0 {
		return audience != cell.ViewInternet
	}
	return slices.Contains(views, audience)
}

func addressRecords(name string, addrs []netip.Addr, service string) (rr []Record) {
	for _, a := range addrs {
		switch {
		case !a.IsValid():
		case a.Is4():
			rr = append(rr, Record{name, defaultTTL, "A", a.String(), service})
		default:
			rr = append(rr, Record{name, defaultTTL, "AAAA", a.String(), service})
		}
	}
	return rr
}

// add completes a zone by its SOA and NS records and puts it into the plan.
func (c *compiler) add(view, apex string, rr []Record) {
	server := "pic." + c.domains[0]
	if slices.Contains(c.domains, apex) {
		server = "pic." + apex
	}
	out := append(make([]Record, 0, len(rr)+2),
		Record{apex, defaultTTL, "SOA", fmt.Sprintf("%s hostmaster.%s %d 3600 600 604800 %d", server, c.domains[0], serial(rr), negativeTTL), ""},
		Record{apex, defaultTTL, "NS", server, ""})
	c.v.Zones = append(c.v.Zones, Zone{View: view, Apex: apex, Records: append(out, rr...)})
}

// serial is a number for a zone's content. Nobody transfers the zone yet, so
// it only has to differ when the content does (FNV-1a, eight bytes a step: the
// zones of thousands of peers are long).
func serial(rr []Record) uint32 {
	const prime = 1099511628211
	h := uint64(14695981039346656037)
	mix := func(s string) {
		h = (h ^ uint64(len(s))) * prime
		for ; len(s) >= 8; s = s[8:] {
			h = (h ^ (uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 | uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56)) * prime
			h ^= h >> 32 // the upper bits must count too
		}
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * prime
		}
	}
	for i := range rr {
		r := &rr[i]
		h = (h ^ uint64(r.TTL)) * prime
		mix(r.Name)
		mix(r.Type)
		mix(r.Data)
		mix(r.Service)
	}
	return uint32(h ^ h>>32)
}

// sorted orders records by name, the apex first, and drops doubles.
func sorted(rr []Record, apex string) []Record {
	order := func(a, b Record) int {
		if x := strings.Compare(a.Name, b.Name); x != 0 {
			return cmp.Or(boolOrder(a.Name != apex)-boolOrder(b.Name != apex), x)
		}
		return cmp.Or(strings.Compare(a.Type, b.Type), strings.Compare(a.Data, b.Data), strings.Compare(a.Service, b.Service), cmp.Compare(a.TTL, b.TTL))
	}
	if !slices.IsSortedFunc(rr, order) {
		slices.SortFunc(rr, order)
	}
	return slices.CompactFunc(rr, func(a, b Record) bool { a.TTL = b.TTL; return a == b })
}

// local adds the zones of the loopback (RFC 6761 §6.3, RFC 6303 §4.2).
func (c *compiler) local(view string) {
	v6 := reverseName(netip.IPv6Loopback())
	c.add(view, "localhost.", addressRecords("localhost.", []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, ""))
	c.add(view, "127.in-addr.arpa.", []Record{{"1.0.0.127.in-addr.arpa.", defaultTTL, "PTR", "localhost.", ""}})
	c.add(view, v6, []Record{{v6, defaultTTL, "PTR", "localhost.", ""}})
}

// lan serves a network on which the cell has addresses.
func (c *compiler) lan(l *cell.LAN) {
	if len(l.Addresses) == 0 {
		return
	}
	c.listen(l.Addresses...)
	c.v.LANs = append(c.v.LANs, LAN{Name: l.Name, Interface: l.Interface, Prefixes: slices.Clone(l.Prefixes)})
	view := lanView(l.Name)
	c.zones(view, cell.ViewLAN, l.Addresses, func(svc *cell.Service) bool {
		return svc.Access == cell.AccessLAN || svc.Access == cell.AccessInternet
	})
	c.local(view)
}

// bridge serves the network of an enabled service. What runs there may have
// been taken over, so it sees what everybody sees: the cell's own names, its
// own name and services open to the internet; no peer, no record of the
// admin's, no reverse name. Its addresses come with the container network, so
// the listener is bound before they are there.
func (c *compiler) bridge(svc *cell.Service) {
	if !svc.Enabled || svc.Bridge == "" {
		return
	}
	b := Bridge{Service: svc.ID, Interface: svc.Bridge, Exit: c.s.Way(svc.Egress, c.f)}
	if b.Exit == cell.ExitDirect {
		b.Exit = ""
	}
	var gateways []netip.Addr
	for _, p := range []netip.Prefix{svc.Prefix4, svc.Prefix6} {
		// The first host is the bridge's own address.
		if gw := p.Masked().Addr().Next(); p.IsValid() && p.Contains(gw) {
			b.Prefixes = append(b.Prefixes, p)
			gateways = append(gateways, gw)
		}
	}
	c.listen(gateways...)
	c.v.Bridges = append(c.v.Bridges, b)
	view := bridgeView(svc.ID)
	c.zones(view, audienceService, gateways, func(other *cell.Service) bool {
		return other.ID == svc.ID || other.Access == cell.AccessInternet
	})
	c.local(view)
}

// public serves the internet view on the uplink, when asked.
func (c *compiler) public() {
	uplink := cmp.Or(c.f.Host.Uplink, c.s.Network.Uplink, c.f.Uplink.Name)
	if !c.s.DNS.Public || uplink == "" {
		return
	}
	before := len(c.v.Zones)
	c.zones(internetView, cell.ViewInternet, []netip.Addr{c.f.PublicAddress4, c.f.PublicAddress6}, func(svc *cell.Service) bool {
		return svc.Access == cell.AccessInternet
	})
	if len(c.v.Zones) == before {
		return // the cell has no public name
	}
	c.v.Uplink = uplink
	for _, p := range c.f.Uplink.Addresses {
		if p.Addr().IsGlobalUnicast() {
			c.listen(p.Addr())
		}
	}
}

// forwarders are the configured ones or the uplink's own, less the cell's own
// addresses: a query must not come back to where it came from.
func (c *compiler) forwarders() {
	own := map[netip.Addr]bool{}
	for _, l := range c.v.Listen {
		own[l.Addr()] = true
	}
	fwd := c.s.DNS.Forwarders
	if len(fwd) == 0 {
		for _, r := range c.f.Resolvers {
			fwd = append(slices.Clip(fwd), cell.Forwarder{Protocol: cell.ForwardPlain, Address: r})
		}
	}
	for _, f := range fwd {
		if own[f.Address.Addr().Unmap()] || !f.Address.IsValid() {
			continue
		}
		if f.Protocol == cell.ForwardHTTPS && f.Path == "" {
			f.Path = "/dns-query"
		}
		c.v.Forwarders = append(c.v.Forwarders, f)
	}
}
