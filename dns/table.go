package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	mdns "github.com/miekg/dns"

	"github.com/personal-internet-cell/pic/cell"
)

// tables are a plan made ready to answer from. They never change once
// built, but for wire forms that are filled in when first asked for.
type tables struct {
	plan     Views
	peers    map[netip.Addr]int32 // into kinds
	kinds    []*audience          // of peers: one for all that see the same
	kindIDs  map[string]int32     // into kinds, see kindKey
	lans     []lanAudience
	internet *audience
	bridges  map[string]lanAudience // by interface
	uplink   string
	built    map[zoneKey]*zone
	empty    map[string]*zone
}

// audience is who asks: what it sees and how its foreign names travel.
type audience struct {
	label     string // view in the counters: peer, lan, service, internet
	zones     map[string]*zone
	empty     map[string]*zone
	services  []string // visible services, sorted
	exit      string
	recursive bool
	forwards  bool // foreign names can be asked of somebody
	down      bool // they can't, because of its exit
	noV6      bool // foreign names have no IPv6 addresses
}

type lanAudience struct {
	link     string
	prefixes []netip.Prefix
	*audience
}

type zoneKey struct{ view, apex string }

type zone struct {
	from  []Record // what it was built from; read-only
	soa   mdns.RR
	nodes map[string]*node
	own   map[*node]bool // while growing: the nodes not shared, see grown
}

// node is a name that exists, if only because names below it do (RFC 4592
// §2.2.2, empty non-terminals).
type node struct {
	sets   []*rrset
	nodata atomic.Pointer[wired] // the answer for a type that is not there
	open   bool                  // exists for everybody who sees the zone
	tags   []string              // or for those who see one of these services
}

type rrset struct {
	rrtype  uint16
	service string
	rrs     []mdns.RR
	wire    atomic.Pointer[wired]
}

func (a *audience) sees(service string) bool {
	if service == "" {
		return true
	}
	_, ok := slices.BinarySearch(a.services, service)
	return ok
}

// buildTables compiles the plan. Zones that old already holds are taken over.
func buildTables(v Views, old *tables) (*tables, error) {
	t := &tables{
		plan: v, uplink: v.Uplink, bridges: make(map[string]lanAudience, len(v.Bridges)),
		built: make(map[zoneKey]*zone, len(v.Zones)),
	}
	views := map[string]map[string]*zone{}
	for i := range v.Zones {
		z := &v.Zones[i]
		built := old.same(z)
		if built == nil {
			built = old.grown(z)
		}
		if built == nil {
			var err error
			if built, err = buildZone(z); err != nil {
				return nil, err
			}
		}
		if views[z.View] == nil {
			views[z.View] = map[string]*zone{}
		}
		views[z.View][z.Apex] = built
		t.built[zoneKey{z.View, z.Apex}] = built
	}
	if old != nil && slices.Equal(old.plan.Empty, v.Empty) {
		t.empty = old.empty
	}
	if t.empty == nil {
		t.empty = make(map[string]*zone, len(v.Empty))
		for _, apex := range v.Empty {
			t.empty[apex] = emptyZone(apex)
		}
	}
	empty := t.empty
	t.seatPeers(old, views[peerView])
	for _, l := range v.LANs {
		t.lans = append(t.lans, lanAudience{
			l.Interface, l.Prefixes,
			(&audience{label: string(cell.ViewLAN), zones: views[lanView(l.Name)], empty: empty}).leave(&v, ""),
		})
	}
	for _, b := range v.Bridges {
		t.bridges[b.Interface] = lanAudience{
			b.Interface, b.Prefixes,
			(&audience{label: audienceService, zones: views[bridgeView(b.Service)], empty: empty}).leave(&v, b.Exit),
		}
	}
	if v.Uplink != "" {
		t.internet = &audience{label: string(cell.ViewInternet), zones: views[internetView]}
	}
	return t, nil
}

// same returns the zone of t that was built from an equal plan, or nil.
func (t *tables) same(z *Zone) *zone {
	if t == nil {
		return nil
	}
	o, ok := t.built[zoneKey{z.View, z.Apex}]
	if !ok || !equalRecords(o.from, z.Records) {
		return nil
	}
	return o
}

func buildZone(z *Zone) (*zone, error) {
	out := &zone{from: z.Records, nodes: make(map[string]*node, len(z.Records))}
	for i := range z.Records {
		if err := out.record(z.Apex, &z.Records[i]); err != nil {
			return nil, err
		}
	}
	if out.soa == nil {
		return nil, fmt.Errorf("building the zone %s: it has no SOA record", z.Apex)
	}
	return out, nil
}

// record adds one record of the plan.
func (z *zone) record(apex string, r *Record) error {
	rr, err := r.rr()
	if err != nil {
		return err
	}
	if rr.Header().Rrtype == mdns.TypeSOA {
		z.soa = rr
	}
	z.insert(apex, r.Name, rr, r.Service)
	return nil
}

func (z *zone) insert(apex, name string, rr mdns.RR, service string) {
	n := z.at(name)
	i := slices.IndexFunc(n.sets, func(s *rrset) bool { return s.rrtype == rr.Header().Rrtype && s.service == service })
	if i < 0 {
		n.sets = append(n.sets, &rrset{rrtype: rr.Header().Rrtype, service: service})
		i = len(n.sets) - 1
	}
	s := n.sets[i]
	s.rrs = append(s.rrs, rr)
	// RFC 2181 §5.2: one TTL for an RRset, the lowest of those given.
	for _, x := range s.rrs {
		ttl := min(x.Header().Ttl, s.rrs[0].Header().Ttl)
		x.Header().Ttl, s.rrs[0].Header().Ttl = ttl, ttl
	}
	for { // the name and every name between it and the apex exists
		if n.open {
			return // and so do those above
		}
		if service == "" {
			n.open = true
		} else if !slices.Contains(n.tags, service) {
			n.tags = append(n.tags, service)
		}
		if name == apex {
			return
		}
		name = parent(name)
		n = z.at(name)
	}
}

func (z *zone) at(name string) *node {
	n := z.nodes[name]
	if n == nil {
		n = &node{}
		z.nodes[name] = n
	}
	if z.own != nil {
		n = z.ownNode(name, n)
	}
	return n
}

// emptyZone is a zone as RFC 6303 §3 draws it.
func emptyZone(apex string) *zone {
	z := &zone{nodes: map[string]*node{}}
	z.soa = &mdns.SOA{
		Hdr: mdns.RR_Header{Name: apex, Rrtype: mdns.TypeSOA, Class: mdns.ClassINET, Ttl: 10800},
		Ns:  apex, Mbox: "nobody.invalid.", Serial: 1, Refresh: 3600, Retry: 1200, Expire: 604800, Minttl: 10800,
	}
	z.insert(apex, apex, z.soa, "")
	z.insert(apex, apex, &mdns.NS{Hdr: mdns.RR_Header{Name: apex, Rrtype: mdns.TypeNS, Class: mdns.ClassINET, Ttl: 10800}, Ns: apex}, "")
	if apex == "use-application-dns.net." {
		// The canary asks for the apex itself, which must not exist.
		delete(z.nodes, apex)
	}
	return z
}

// audience chooses the view by ingress interface and source address, both: a
// source can be forged, the interface can't. nil is nobody we know.
func (t *tables) audience(link string, src netip.Addr) *audience {
	src = src.Unmap()
	if link == cell.TunnelLink {
		if i, ok := t.peers[src]; ok { // cryptokey routing proves the source
			return t.kinds[i]
		}
		return nil
	}
	if b, ok := t.bridges[link]; ok {
		// A bridge is one audience: no other source on it is anybody's, even if
		// a LAN or the uplink had the same name.
		if slices.ContainsFunc(b.prefixes, func(p netip.Prefix) bool { return p.Contains(src) }) {
			return b.audience
		}
		return nil
	}
	for i := range t.lans {
		l := &t.lans[i]
		if l.link == link && slices.ContainsFunc(l.prefixes, func(p netip.Prefix) bool { return p.Contains(src) }) {
			return l.audience
		}
	}
	if t.uplink != "" && t.uplink == link {
		return t.internet
	}
	return nil
}

// zone returns the zone of ours that name lies in, by its longest apex.
func (a *audience) zone(name string) *zone {
	for n := name; n != ""; n = parent(n) {
		if z := a.zones[n]; z != nil {
			return z
		}
		if z := a.empty[n]; z != nil {
			return z
		}
	}
	return nil
}

// parent removes the first label; "" is the parent of the root.
func parent(name string) string {
	i, end := mdns.NextLabel(name, 0)
	if end || i >= len(name) {
		if name == "." || name == "" {
			return ""
		}
		return "."
	}
	return name[i:]
}

// reply is what is answered, before it becomes a message.
type reply struct {
	rcode      int
	aa         bool
	answer, ns []mdns.RR
	// chase is a foreign name at the end of an alias of ours, or the foreign
	// name that was asked for.
	chase string
}

const maxAliases = 8

// lookup answers from the zones of ours (RFC 1034 §4.3.2, steps 2, 3 and 4);
// it reports false for a name that lies in none.
func (a *audience) lookup(q *query) (reply, bool) {
	r := reply{rcode: mdns.RcodeSuccess}
	owner, name := q.name, q.lower
	for range maxAliases {
		z := a.zone(name)
		if z == nil {
			r.chase = name
			return r, len(r.answer) > 0
		}
		r.aa = true
		n := z.find(a, name)
		if n == nil {
			// RFC 6604 §3: the code is that of the last name of the chain.
			r.rcode, r.ns = mdns.RcodeNameError, []mdns.RR{z.negative()}
			return r, true
		}
		if q.qtype == mdns.TypeANY {
			// RFC 8482 §4.2: one small record instead of everything.
			r.answer = append(r.answer, anyAnswer(owner))
			return r, true
		}
		if set := n.set(a, q.qtype); set != nil {
			r.answer = append(r.answer, named(set, owner)...)
			return r, true
		}
		alias := n.set(a, mdns.TypeCNAME)
		if alias == nil {
			r.ns = []mdns.RR{z.negative()}
			return r, true
		}
		r.answer = append(r.answer, named(alias, owner)...)
		owner = alias[0].(*mdns.CNAME).Target
		name = mdns.CanonicalName(owner)
	}
	return reply{rcode: mdns.RcodeServerFailure}, true // a loop of aliases
}

func anyAnswer(owner string) mdns.RR {
	return &mdns.HINFO{Hdr: mdns.RR_Header{Name: owner, Rrtype: mdns.TypeHINFO, Class: mdns.ClassINET, Ttl: 3600}, Cpu: "RFC8482"}
}

// find returns the node of a name that a sees, or the wildcard that covers it
// (RFC 4592 §3.3), or nil.
func (z *zone) find(a *audience, name string) *node {
	if n := z.nodes[name]; n.exists(a) {
		return n
	}
	apex := z.soa.Header().Name
	for n := name; n != apex && n != ""; {
		n = parent(n)
		if z.nodes[n].exists(a) { // the closest encloser
			if w := z.nodes["*."+n]; w.exists(a) {
				return w
			}
			return nil
		}
	}
	return nil
}

func (n *node) exists(a *audience) bool {
	if n == nil || n.open {
		return n != nil
	}
	for _, tag := range n.tags {
		if a.sees(tag) {
			return true
		}
	}
	return false
}

func (n *node) set(a *audience, rrtype uint16) []mdns.RR {
	var out []mdns.RR
	for i := range n.sets {
		if n.sets[i].rrtype == rrtype && a.sees(n.sets[i].service) {
			if out == nil {
				out = n.sets[i].rrs
			} else {
				out = slices.Concat(out, n.sets[i].rrs)
			}
		}
	}
	return out
}

// named gives records the owner name as it was asked for: its case is kept
// (RFC 4343 §4.1), and wildcards are filled in.
func named(set []mdns.RR, owner string) []mdns.RR {
	if set[0].Header().Name == owner {
		return set
	}
	out := make([]mdns.RR, len(set))
	for i, rr := range set {
		out[i] = mdns.Copy(rr)
		out[i].Header().Name = owner
	}
	return out
}

// negative is the SOA record of a negative answer; its TTL is that of the
// answer (RFC 2308 §3).
func (z *zone) negative() mdns.RR {
	soa := mdns.Copy(z.soa).(*mdns.SOA)
	soa.Hdr.Ttl = min(soa.Hdr.Ttl, soa.Minttl)
	return soa
}

// local reports whether a foreign name must not leave the cell although no
// zone of ours holds it: a name of one label means something on a local
// network only. The types that a resolver asks top-level domains for pass.
func local(q *query) bool {
	if strings.Count(q.lower, ".") != 1 || q.lower == "." {
		return false
	}
	switch q.qtype {
	case mdns.TypeNS, mdns.TypeSOA, mdns.TypeDS, mdns.TypeDNSKEY:
		return false
	}
	return true
}
