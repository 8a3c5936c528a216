package dns

import (
	"cmp"
	"fmt"
	"hash/fnv"
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
	c := &compiler{s: s, f: &f, domains: fqdns(s.Identity.Domains())}
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
	c.public()
	c.forwarders()
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
		if i == 0 { // records are relative to the effective domain
			for j, r := range c.s.DNS.Records {
				if seenBy(r.Views, audience) {
					rr = append(rr, c.records[j])
				}
			}
		}
		if audience == cell.ViewPeer {
			rr = append(rr, c.peerNames(apex)...)
		}
		c.add(view, apex, rr)
	}
}

func (c *compiler) peerNames(apex string) (rr []Record) {
	for i := range c.s.Peers {
		if p := &c.s.Peers[i]; p.Active(c.f) {
			rr = append(rr, addressRecords(p.Name+"."+cell.PeersLabel+"."+apex, []netip.Addr{p.Address4, p.Address6}, "")...)
		}
	}
	return rr
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
	slices.SortStableFunc(rr, func(a, b Record) int { // the apex first
		return cmp.Or(boolOrder(a.Name != apex)-boolOrder(b.Name != apex), compareRecords(a, b))
	})
	rr = slices.CompactFunc(rr, func(a, b Record) bool { return compareRecords(a, b) == 0 })
	server := "pic." + c.domains[0]
	if slices.Contains(c.domains, apex) {
		server = "pic." + apex
	}
	head := []Record{
		{apex, defaultTTL, "SOA", "", ""},
		{apex, defaultTTL, "NS", server, ""},
	}
	// Nobody transfers the zone yet, so the serial only has to differ when
	// the content does.
	h := fnv.New32a()
	for _, r := range rr {
		fmt.Fprintln(h, r.Name, r.TTL, r.Type, r.Data, r.Service)
	}
	head[0].Data = fmt.Sprintf("%s hostmaster.%s %d 3600 600 604800 %d", server, c.domains[0], h.Sum32(), negativeTTL)
	c.v.Zones = append(c.v.Zones, Zone{View: view, Apex: apex, Records: append(head, rr...)})
}

func compareRecords(a, b Record) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Type, b.Type), cmp.Compare(a.Data, b.Data), cmp.Compare(a.Service, b.Service))
}

// peers lists the sources of the peer view. Grant lists are shared: with
// thousands of peers most are equal.
func (c *compiler) peers() {
	shared := map[string][]string{}
	for i := range c.s.Peers {
		p := &c.s.Peers[i]
		if !p.Active(c.f) {
			continue
		}
		var ids []string
		for j := range c.s.Services {
			if svc := &c.s.Services[j]; svc.Enabled && p.Granted(svc) {
				ids = append(ids, svc.ID)
			}
		}
		slices.Sort(ids)
		key := strings.Join(ids, ",")
		if old, ok := shared[key]; ok {
			ids = old
		}
		shared[key] = ids
		exit := p.Exit
		if exit == cell.ExitDirect {
			exit = ""
		}
		x := Peer{Name: p.Name, Exit: exit, Services: ids}
		for _, a := range []netip.Addr{p.Address4, p.Address6} {
			if a.IsValid() {
				x.Addresses = append(x.Addresses, a)
			}
		}
		c.v.Peers = append(c.v.Peers, x)
	}
	slices.SortFunc(c.v.Peers, func(a, b Peer) int { return cmp.Compare(a.Name, b.Name) })
}

// reverse adds the tunnel's reverse zones to the peer view.
func (c *compiler) reverse() {
	t := c.s.Network.Tunnel
	names := map[netip.Addr]string{t.Gateway4(): c.domains[0], t.Gateway6(): c.domains[0]}
	for i := range c.s.Peers {
		if p := &c.s.Peers[i]; p.Active(c.f) {
			n := p.Name + "." + cell.PeersLabel + "." + c.domains[0]
			names[p.Address4], names[p.Address6] = n, n
		}
	}
	zones := map[string][]Record{}
	for _, z := range slices.Concat(reverseZones(t.Prefix4), reverseZones(t.Prefix6)) {
		zones[z] = nil
	}
	for a, n := range names {
		if !a.IsValid() {
			continue
		}
		owner := reverseName(a)
		for apex := owner; apex != ""; apex = trimLabels(apex, 1) {
			if rr, ok := zones[apex]; ok {
				zones[apex] = append(rr, Record{owner, defaultTTL, "PTR", n, ""})
				break
			}
		}
	}
	for apex, rr := range zones {
		c.add(peerView, apex, rr)
	}
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
