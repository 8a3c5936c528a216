package dns

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/personal-internet-cell/pic/cell"
)

// Views is the plan: everything the server answers, by audience. It is plain
// data; equal plans are deeply equal and print equal text. The zero value is
// the plan of an unclaimed cell: no listener, no zone.
type Views struct {
	// Listen are the addresses served over UDP and TCP, sorted, unique.
	Listen []netip.AddrPort
	// Peers are those let in, by name.
	Peers []Peer
	// LANs are the local networks that are served.
	LANs []LAN
	// Bridges are the services' own networks that are served.
	Bridges []Bridge
	// Uplink is the interface on which the internet view is answered; empty
	// when the public zone is not served.
	Uplink string
	// Zones are sorted by view, then apex.
	Zones []Zone
	// Empty are the apexes of zones that peers and LANs get NXDOMAIN from
	// instead of the world (RFC 6303, RFC 6761 and others), sorted.
	Empty []string
	// Forwarders are tried in order; none means that foreign names are refused.
	Forwarders []cell.Forwarder
	// Exits are how names travel through each exit, in order of id.
	Exits []Exit
	// CacheSize is the most forwarded answers kept.
	CacheSize int
	// RebindAllow are domains whose answers may be private addresses, with a
	// trailing dot.
	RebindAllow []string
}

// Peer is a source of queries in the peer view.
type Peer struct {
	Name      string
	Addresses []netip.Addr
	// Exit is the id of the exit its foreign names are forwarded through;
	// empty is the uplink, one that is not in [Views.Exits] is nowhere.
	Exit string
	// Services are the ids of the services whose names it sees, sorted. The
	// slice is shared between peers with equal grants.
	Services []string
}

// LAN is a local network that is a source of queries.
type LAN struct {
	Name      string
	Interface string
	Prefixes  []netip.Prefix
}

// Bridge is the network of one service: a source of queries in a view of its
// own, because a service is no more trusted than what it is granted.
type Bridge struct {
	Service   string // id
	Interface string
	Prefixes  []netip.Prefix
	// Exit is the id of the exit its foreign names are forwarded through;
	// empty is the uplink.
	Exit string
}

// view names of [Zone.View]; the view of a LAN is lanView(name), that of a
// service bridge is bridgeView(id).
const (
	peerView     = string(cell.ViewPeer)
	internetView = string(cell.ViewInternet)
)

// audienceService is no [cell.View]: no record can be written for it.
const audienceService = "service"

func lanView(name string) string { return string(cell.ViewLAN) + "/" + name }

func bridgeView(id string) string { return audienceService + "/" + id }

// Zone is one zone of one view. Its first record is the SOA.
type Zone struct {
	View string
	// Apex is lower case and ends with a dot.
	Apex    string
	Records []Record
}

// Record is a resource record in presentation format. Names are lower case,
// fully qualified and end with a dot.
type Record struct {
	Name string
	TTL  uint32 // seconds
	Type string
	Data string
	// Service, where set, hides the record from peers that don't see that service.
	Service string
}

// Equal reports whether two plans are the same. It is reflect.DeepEqual, but
// for thousands of peers.
func (v Views) Equal(w Views) bool {
	return slices.Equal(v.Listen, w.Listen) && v.Uplink == w.Uplink && v.CacheSize == w.CacheSize &&
		slices.Equal(v.Empty, w.Empty) && slices.Equal(v.Forwarders, w.Forwarders) && slices.Equal(v.RebindAllow, w.RebindAllow) &&
		slices.EqualFunc(v.Exits, w.Exits, func(a, b Exit) bool { return a.equal(&b) }) &&
		slices.EqualFunc(v.LANs, w.LANs, func(a, b LAN) bool {
			return a.Name == b.Name && a.Interface == b.Interface && slices.Equal(a.Prefixes, b.Prefixes)
		}) &&
		slices.EqualFunc(v.Bridges, w.Bridges, func(a, b Bridge) bool {
			return a.Service == b.Service && a.Interface == b.Interface && a.Exit == b.Exit && slices.Equal(a.Prefixes, b.Prefixes)
		}) &&
		equalPeers(v.Peers, w.Peers) &&
		slices.EqualFunc(v.Zones, w.Zones, func(a, b Zone) bool {
			return a.View == b.View && a.Apex == b.Apex && equalRecords(a.Records, b.Records)
		})
}

// Plans may share what did not change between them.
func shared[T any](a, b []T) bool { return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) }

func equalRecords(a, b []Record) bool { return shared(a, b) || slices.Equal(a, b) }

func equalPeers(a, b []Peer) bool {
	return shared(a, b) || slices.EqualFunc(a, b, func(a, b Peer) bool { return a.equal(&b) })
}

func (p *Peer) equal(o *Peer) bool {
	return p.Name == o.Name && p.Exit == o.Exit && slices.Equal(p.Addresses, o.Addresses) &&
		(shared(p.Services, o.Services) || slices.Equal(p.Services, o.Services))
}

// String renders the plan in zone-file notation (RFC 1035 §5); what no zone
// file can say stands in comments. Equal plans give equal text.
func (v Views) String() string {
	var b strings.Builder
	for _, l := range v.Listen {
		fmt.Fprintf(&b, "; listen %s\n", l)
	}
	for _, f := range v.Forwarders {
		fmt.Fprintf(&b, "; forward %s %s", f.Protocol, f.Address)
		if f.ServerName != "" {
			fmt.Fprintf(&b, " %s%s", f.ServerName, f.Path)
		}
		b.WriteByte('\n')
	}
	for i := range v.Exits {
		v.Exits[i].write(&b)
	}
	if v.CacheSize > 0 {
		fmt.Fprintf(&b, "; cache %d\n", v.CacheSize)
	}
	for _, d := range v.RebindAllow {
		fmt.Fprintf(&b, "; rebind-allow %s\n", d)
	}
	for _, l := range v.LANs {
		fmt.Fprintf(&b, "; lan %s on %s from", l.Name, l.Interface)
		for _, p := range l.Prefixes {
			fmt.Fprintf(&b, " %s", p)
		}
		b.WriteByte('\n')
	}
	for _, r := range v.Bridges {
		fmt.Fprintf(&b, "; bridge %s of service %s from", r.Interface, r.Service)
		for _, p := range r.Prefixes {
			fmt.Fprintf(&b, " %s", p)
		}
		fmt.Fprintf(&b, " exit %s\n", cmp.Or(r.Exit, cell.ExitDirect))
	}
	if v.Uplink != "" {
		fmt.Fprintf(&b, "; internet on %s\n", v.Uplink)
	}
	for _, p := range v.Peers {
		fmt.Fprintf(&b, "; peer %s at", p.Name)
		for _, a := range p.Addresses {
			fmt.Fprintf(&b, " %s", a)
		}
		fmt.Fprintf(&b, " exit %s services %s\n", cmp.Or(p.Exit, cell.ExitDirect), strings.Join(p.Services, ","))
	}
	for _, e := range v.Empty {
		fmt.Fprintf(&b, "; empty %s\n", e)
	}
	for _, z := range v.Zones {
		fmt.Fprintf(&b, "\n; view %s\n$ORIGIN %s\n", z.View, z.Apex)
		for _, r := range z.Records {
			name := strings.TrimSuffix(r.Name, "."+z.Apex)
			if r.Name == z.Apex {
				name = "@"
			}
			fmt.Fprintf(&b, "%s\t%d\tIN\t%s\t%s", name, r.TTL, r.Type, r.Data)
			if r.Service != "" {
				fmt.Fprintf(&b, "\t; service %s", r.Service)
			}
			b.WriteByte('\n')
		}
	}
	return b.String()
}
