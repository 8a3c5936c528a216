package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	mdns "github.com/miekg/dns"

	"github.com/personal-internet-cell/pic/cell"
)

// Exit is how the foreign names of those who leave by an exit are asked: at its
// forwarders and through it, or not at all.
type Exit struct {
	ID string
	// Up says that it carries traffic. While it doesn't, foreign names get
	// SERVFAIL, those in the cache too: no name may tell two ways apart.
	Up bool
	// V6 says whether IPv6 destinations are reached through it. Where not,
	// foreign names have no AAAA records: who would connect is told so at once.
	V6 bool
	// Forwarders are asked through the exit, in order; none: SERVFAIL.
	Forwarders []cell.Forwarder
	// Used says that somebody leaves by it.
	Used bool
}

func (e *Exit) equal(o *Exit) bool {
	return e.ID == o.ID && e.Up == o.Up && e.V6 == o.V6 && e.Used == o.Used && slices.Equal(e.Forwarders, o.Forwarders)
}

// exits lists how names travel through each exit.
func (c *compiler) exits() {
	used := map[string]bool{}
	for i := range c.v.Peers {
		used[c.v.Peers[i].Exit] = true
	}
	for i := range c.v.Bridges {
		used[c.v.Bridges[i].Exit] = true
	}
	for i := range c.s.Exits {
		e := &c.s.Exits[i]
		f := c.f.Exits[e.ID]
		x := Exit{ID: e.ID, Up: e.Enabled && f.State.Carrying(), V6: f.V6, Used: used[e.ID]}
		for _, w := range c.s.ExitForwarders(e, c.f) {
			if w.Protocol == cell.ForwardHTTPS && w.Path == "" {
				w.Path = "/dns-query"
			}
			x.Forwarders = append(x.Forwarders, w)
		}
		c.v.Exits = append(c.v.Exits, x)
	}
	slices.SortFunc(c.v.Exits, func(a, b Exit) int { return strings.Compare(a.ID, b.ID) })
}

// exit returns the exit of that id, or nil: "block" has none.
func (v *Views) exit(id string) *Exit {
	i, ok := slices.BinarySearchFunc(v.Exits, id, func(e Exit, id string) int { return strings.Compare(e.ID, id) })
	if !ok {
		return nil
	}
	return &v.Exits[i]
}

func (e *Exit) write(b *strings.Builder) {
	state, v6 := "down", ", no AAAA"
	if e.Up {
		state = "up"
	}
	if e.V6 {
		v6 = ""
	}
	fmt.Fprintf(b, "; exit %s %s%s", e.ID, state, v6)
	if len(e.Forwarders) == 0 {
		b.WriteString(", nobody to ask\n")
		return
	}
	b.WriteString(", forward")
	for _, f := range e.Forwarders {
		fmt.Fprintf(b, " %s %s", f.Protocol, f.Address)
		if f.ServerName != "" {
			fmt.Fprintf(b, " %s%s", f.ServerName, f.Path)
		}
	}
	b.WriteByte('\n')
}

// leave sets how the foreign names of an audience travel: by an exit, ""
// being the uplink.
func (a *audience) leave(v *Views, exit string) *audience {
	a.exit, a.recursive = exit, true
	if exit == "" {
		a.forwards = len(v.Forwarders) > 0
		return a
	}
	e := v.exit(exit)
	a.down = e == nil || !e.Up || len(e.Forwarders) == 0
	a.forwards, a.noV6 = !a.down, e != nil && !e.V6
	return a
}

// withoutV6 is the answer to a question for IPv6 addresses of those who can't
// reach any. The SOA record lets the client remember it (RFC 2308 §2.2); it is
// nobody's zone, so its owner is the name itself.
func withoutV6(name string) reply {
	return reply{rcode: mdns.RcodeSuccess, ns: []mdns.RR{&mdns.SOA{
		Hdr: mdns.RR_Header{Name: name, Rrtype: mdns.TypeSOA, Class: mdns.ClassINET, Ttl: negativeTTL},
		Ns:  "localhost.", Mbox: "nobody.invalid.", Serial: 1, Refresh: 3600, Retry: 600, Expire: 604800, Minttl: negativeTTL,
	}}}
}

// LookupThrough asks for a name's addresses through an exit, not the cache: it
// says whether names are found there.
func (s *Server) LookupThrough(ctx context.Context, exit, name string) ([]netip.Addr, error) {
	t := s.tables.Load()
	e := t.plan.exit(exit)
	switch {
	case e == nil:
		return nil, fmt.Errorf("looking up %s through %q: there is no such exit", name, exit)
	case !e.Up:
		return nil, fmt.Errorf("looking up %s through %s: the exit is down", name, exit)
	case len(e.Forwarders) == 0:
		return nil, fmt.Errorf("looking up %s through %s: %w", name, exit, errNobody)
	}
	types := []uint16{mdns.TypeA}
	if e.V6 {
		types = append(types, mdns.TypeAAAA)
	}
	var out []netip.Addr
	failed := true
	for _, qtype := range types {
		r := s.resolver.resolve(ctx, key{exit: exit, name: mdns.CanonicalName(name), qtype: qtype}, servFail)
		failed = failed && r.rcode == mdns.RcodeServerFailure
		for _, rr := range r.answer {
			switch x := rr.(type) {
			case *mdns.A:
				if a, ok := netip.AddrFromSlice(x.A); ok {
					out = append(out, a.Unmap())
				}
			case *mdns.AAAA:
				if a, ok := netip.AddrFromSlice(x.AAAA); ok {
					out = append(out, a)
				}
			}
		}
	}
	if failed {
		return nil, fmt.Errorf("looking up %s through %s: none of its resolvers answers", name, exit)
	}
	return out, nil
}

var errNobody = errors.New("it has no resolver of its own, and no forwarder on the internet is configured")

// exitNotices are about exits that are used and whose users can't look up
// names, although the exit works.
func exitNotices(v *Views) []cell.Notice {
	var out []cell.Notice
	for i := range v.Exits {
		if e := &v.Exits[i]; e.Used && e.Up && len(e.Forwarders) == 0 {
			out = append(out, cell.Notice{
				Code: "exit_no_resolver", Subject: e.ID, Severity: cell.Alarm,
				Text: "who leaves by the exit " + e.ID + " can't look up names: " + errNobody.Error() + "; name one under DNS, such as 9.9.9.9 (the uplink's own resolver is never asked for them)",
			})
		}
	}
	return out
}
