package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/dns"
	"github.com/personal-internet-cell/pic/firewall"
	"github.com/personal-internet-cell/pic/proxy"
)

// ways knows every way through the cell under one state: the three plans that
// decide together about a flow, each asked in its own room.
type ways struct {
	s      *cell.State
	f      cell.Facts
	policy firewall.Policy
	web    func(host string, src, local netip.Addr) proxy.Decision
	uplink string
	all    []probe // made when first needed
}

func newWays(s *cell.State, f cell.Facts) (*ways, error) {
	w := &ways{s: s, f: f, uplink: cmp.Or(f.Host.Uplink, s.Network.Uplink, f.Uplink.Name)}
	var err error
	if w.policy, err = firewall.Compile(s, f); err != nil {
		return nil, err
	}
	routes, err := proxy.Compile(s, f)
	if err != nil {
		return nil, err
	}
	w.web = routes.Decider()
	return w, nil
}

// strangers stand for the internet: documentation prefixes (RFC 5737, RFC
// 3849), of which the first that is no network of ours is taken.
var strangers = []string{"203.0.113.7", "198.51.100.7", "192.0.2.7", "2001:db8:ffff::7", "2001:db8:fffe::7"}

// site is where a flow begins or ends.
type site struct {
	name    string
	in      string // the interface its packets come in by; "" is the cell itself
	addrs   []netip.Addr
	service *cell.Service
}

// site resolves an endpoint. The error is for a person; errUnknown says that
// the cell does not know enough of its network yet.
func (w *ways) site(e cell.Endpoint) (site, error) {
	out := site{name: e.String()}
	switch e.Kind {
	case cell.EndInternet:
		if out.in = w.uplink; out.in == "" {
			return out, errUnknown{"the uplink is not known"}
		}
		out.addrs = w.strangers()
	case cell.EndCell:
		out.addrs = w.own()
	case cell.EndAddress:
		out.in, out.addrs = w.ingress(e.Addr), []netip.Addr{e.Addr}
	case cell.EndLAN:
		for i := range w.s.Network.LAN {
			if l := &w.s.Network.LAN[i]; l.Name == e.Name {
				out.in, out.addrs = l.Interface, w.hosts(l.Prefixes)
			}
		}
	case cell.EndPeer:
		p := w.s.Peer(e.Name)
		out.name, out.in, out.addrs = p.Name, cell.TunnelLink, []netip.Addr{p.Address4, p.Address6}
	case cell.EndService:
		out.service = w.s.Service(e.Name)
		out.name = out.service.ID
		if a := out.service.UpstreamAddr().Addr().Unmap(); a.IsValid() {
			out.in, out.addrs = w.ingress(a), []netip.Addr{a}
		}
	}
	out.addrs = slices.DeleteFunc(out.addrs, func(a netip.Addr) bool { return !a.IsValid() })
	return out, nil
}

// errUnknown means that a question can't be decided yet.
type errUnknown struct{ why string }

func (e errUnknown) Error() string { return e.why }

// own lists the cell's addresses: the tunnel's gateways first, then those of
// its interfaces, without loopback and link-local ones.
func (w *ways) own() []netip.Addr {
	t := w.s.Network.Tunnel
	out := []netip.Addr{t.Gateway4(), t.Gateway6()}
	for _, a := range w.policy.World.Local {
		if !a.IsLoopback() && !a.IsLinkLocalUnicast() && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

func (w *ways) strangers() []netip.Addr {
	var out []netip.Addr
	for _, text := range strangers {
		a := netip.MustParseAddr(text)
		if slices.ContainsFunc(out, func(b netip.Addr) bool { return a.Is4() == b.Is4() }) ||
			slices.ContainsFunc(w.policy.World.Main, func(r firewall.Route) bool { return r.Prefix.Bits() > 0 && r.Prefix.Contains(a) }) {
			continue
		}
		out = append(out, a)
	}
	return out
}

// hosts takes one address of each prefix that is not the cell's own.
func (w *ways) hosts(prefixes []netip.Prefix) []netip.Addr {
	var out []netip.Addr
	for _, p := range prefixes {
		a := p.Addr().Next()
		for n := 0; n < 64 && p.Contains(a); n++ {
			if !slices.Contains(w.policy.World.Local, a) {
				out = append(out, a)
				break
			}
			a = a.Next()
		}
	}
	return out
}

// ingress is the interface a source's packets come in by.
func (w *ways) ingress(a netip.Addr) string {
	n := &w.s.Network
	if n.Tunnel.Prefix4.Contains(a) || n.Tunnel.Prefix6.Contains(a) {
		return cell.TunnelLink
	}
	if slices.Contains(w.policy.World.Local, a) {
		return ""
	}
	for i := range w.s.Services {
		if v := &w.s.Services[i]; v.Bridge != "" && (v.Prefix4.Contains(a) || v.Prefix6.Contains(a)) {
			return v.Bridge
		}
	}
	for i := range w.s.Links {
		if slices.ContainsFunc(w.s.Links[i].Prefixes, func(p netip.Prefix) bool { return p.Contains(a) }) {
			return cell.TunnelLink
		}
	}
	for i := range n.LAN {
		if slices.ContainsFunc(n.LAN[i].Prefixes, func(p netip.Prefix) bool { return p.Contains(a) }) {
			return n.LAN[i].Interface
		}
	}
	return w.uplink
}

// webPort is where a source finds the cell's HTTPS: in the tunnel the usual
// port is redirected to the one that is listened on.
func (w *ways) webPort(from site) uint16 {
	if from.in == cell.TunnelLink {
		return 443
	}
	return cmp.Or(w.f.Host.HTTPSPort, 443)
}

// flow is a packet and, for the web, the host name that is asked for.
type flow struct {
	firewall.Packet
	host string
}

func (w *ways) packet(from site, src, dst netip.Addr, protocol string, port uint16) firewall.Packet {
	return firewall.Packet{In: from.in, Src: src, Dst: dst, Protocol: protocol, SrcPort: 40000, DstPort: port}
}

// follow traces a flow and, where it ends at the web, asks the proxy.
func (w *ways) follow(x flow) api.ExplainPath {
	r, steps := w.policy.Path(x.Packet)
	out := api.ExplainPath{
		Source: x.Src, Destination: x.Dst, Protocol: x.Protocol, Port: x.DstPort, Passes: r.Passes(),
		Verdict: string(r.Outcome), Reason: r.Reason, Pointer: r.Pointer, Out: r.Out, Steps: []api.ExplainStep{},
	}
	for _, s := range steps {
		if s.Kind == "mark" {
			s.Text += " (" + w.exitOf(r.Mark) + ")"
		}
		out.Steps = append(out.Steps, api.ExplainStep{Kind: s.Kind, Text: s.Text, Pointer: s.Pointer})
	}
	switch {
	case r.Passes() && r.Out != "":
		out.Steps = append(out.Steps, api.ExplainStep{Kind: "out", Text: "it leaves by " + r.Out})
	case w.toWeb(x, r):
		w.request(x, &out)
	}
	out.Line = w.line(out.Pointer)
	return out
}

// toWeb reports whether a flow ends at the proxy, with a host name to ask for.
func (w *ways) toWeb(x flow, r firewall.Result) bool {
	return r.Outcome == firewall.Accepted && r.Out == "" && x.Protocol == "tcp" && x.host != "" && r.Dst.Port() == cmp.Or(w.f.Host.HTTPSPort, 443)
}

// request lets the proxy decide on a connection that reached it.
func (w *ways) request(x flow, out *api.ExplainPath) {
	d := w.web(x.host, x.Src, x.Dst)
	pointer, reason := w.grant(x.Src, d.Service), ""
	switch {
	case d.Status == 403:
		reason = fmt.Sprintf("the proxy answers 403: %s is not granted the service %s", x.Src, d.Service)
	case d.Status != 200:
		reason = fmt.Sprintf("the proxy answers 421: %s is no name that it answers to %s", x.host, x.Src)
	case d.Service != "":
		reason = fmt.Sprintf("the proxy hands the request to the service %s at %s", d.Service, d.Upstream)
	default:
		reason = "the cell's own pages answer"
	}
	out.Steps = append(out.Steps, api.ExplainStep{Kind: "proxy", Text: reason, Pointer: pointer})
	out.Reason, out.Pointer = reason, cmp.Or(pointer, out.Pointer)
	if d.Status != 200 {
		out.Passes, out.Verdict = false, "refused"
	}
}

// grant points at the line that opens or closes a service to a source: the
// peer's grants where they count, else the service's access.
func (w *ways) grant(src netip.Addr, service string) string {
	i := slices.IndexFunc(w.s.Services, func(v cell.Service) bool { return v.ID == service })
	if i < 0 {
		return ""
	}
	if a := w.s.Services[i].Access; a == cell.AccessGranted || a == cell.AccessAdmin {
		for j := range w.s.Peers {
			if p := &w.s.Peers[j]; p.Address4 == src || p.Address6 == src {
				return "/peers/" + strconv.Itoa(j) + "/services"
			}
		}
	}
	return "/services/" + strconv.Itoa(i) + "/access"
}

func (w *ways) exitOf(mark uint32) string {
	if mark == cell.MarkDirect {
		return "direct: the uplink"
	}
	for i := range w.s.Exits {
		if w.s.Exits[i].Mark() == mark&cell.MarkMask {
			return "exit " + w.s.Exits[i].ID
		}
	}
	return "no exit"
}

// line is what the state says at a JSON pointer (RFC 6901), on one line.
func (w *ways) line(pointer string) string {
	if pointer == "" {
		return ""
	}
	doc, err := json.Marshal(w.s)
	if err != nil {
		return ""
	}
	for part := range strings.SplitSeq(pointer[1:], "/") {
		var object map[string]json.RawMessage
		var list []json.RawMessage
		if json.Unmarshal(doc, &object) == nil {
			doc = object[strings.NewReplacer("~1", "/", "~0", "~").Replace(part)]
		} else if i, err := strconv.Atoi(part); err == nil && json.Unmarshal(doc, &list) == nil && i < len(list) {
			doc = list[i]
		} else {
			return ""
		}
	}
	if len(doc) > 200 {
		return string(doc[:200]) + "…"
	}
	return string(doc)
}

// explain answers [api.ExplainQuery].
func explain(s *cell.State, f cell.Facts, q api.ExplainQuery) (api.Explanation, error) {
	out := api.Explanation{Names: []api.ExplainStep{}, Paths: []api.ExplainPath{}}
	w, err := newWays(s, f)
	if err != nil {
		return out, err
	}
	from, err := w.end("/from", q.From)
	if err != nil {
		return out, err
	}
	if len(from.addrs) == 0 {
		return out, mistake("/from", "%s has no address", q.From)
	}
	to, err := w.target(from, q, &out)
	if err != nil {
		return out, err
	}
	for _, dst := range to.addrs {
		src := slices.IndexFunc(from.addrs, func(a netip.Addr) bool { return a.Is4() == dst.Is4() })
		if src >= 0 {
			out.Paths = append(out.Paths, w.follow(flow{w.packet(from, from.addrs[src], dst, cmp.Or(q.Protocol, "tcp"), to.port), to.host}))
		}
	}
	if len(out.Paths) == 0 {
		out.Verdict = "no name"
		out.Reason = "there is no address of a family that both sides have"
		if len(to.addrs) == 0 && len(out.Names) > 0 {
			out.Reason = out.Names[len(out.Names)-1].Text
		}
		return out, nil
	}
	p := out.Paths[max(0, slices.IndexFunc(out.Paths, func(p api.ExplainPath) bool { return p.Passes }))]
	out.Passes, out.Verdict, out.Reason, out.Pointer, out.Line = p.Passes, p.Verdict, p.Reason, p.Pointer, p.Line
	return out, nil
}

func mistake(pointer, format string, a ...any) error {
	return &cell.InvalidError{Fields: []cell.FieldError{{Pointer: pointer, Message: fmt.Sprintf(format, a...)}}}
}

func (w *ways) end(pointer, text string) (site, error) {
	e, err := cell.ParseEndpoint(text)
	if err == nil {
		e, err = w.s.Resolve(e)
	}
	if err != nil {
		return site{}, mistake(pointer, "%s", err)
	}
	out, err := w.site(e)
	if err != nil {
		return site{}, mistake(pointer, "%s", err)
	}
	return out, nil
}

// destination is what a question's target came to.
type destination struct {
	addrs []netip.Addr
	host  string // asked of the proxy, "" when no web name was given
	port  uint16
}

// target resolves the other end as the source would: names by its own view.
func (w *ways) target(from site, q api.ExplainQuery, out *api.Explanation) (destination, error) {
	text, port := q.To, q.Port
	if strings.Contains(text, "://") {
		u, err := url.Parse(text)
		if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Hostname() == "" {
			return destination{}, mistake("/to", "%q is no URL with a host: write https://files.home.internal", text)
		}
		text = u.Hostname()
		scheme := map[string]uint16{"https": w.webPort(from), "http": 80}[u.Scheme]
		if n, err := strconv.ParseUint(u.Port(), 10, 16); err == nil && n > 0 {
			scheme = uint16(n)
		}
		port = cmp.Or(port, scheme)
	} else if ap, err := netip.ParseAddrPort(text); err == nil {
		text, port = ap.Addr().String(), cmp.Or(port, ap.Port())
	}
	d := destination{port: cmp.Or(port, w.webPort(from))}
	if q.Protocol == "icmp" {
		d.port = 0
	}
	if e, err := cell.ParseEndpoint(text); err == nil && !strings.Contains(q.To, "://") || err == nil && e.Kind == cell.EndAddress {
		to, err := w.end("/to", text)
		if err != nil {
			return d, err
		}
		d.addrs = to.addrs
		if e.Kind == cell.EndAddress {
			d.host = hostOf(e.Addr)
		}
		// A service is reached by its name, unless one of its own ports is meant.
		if to.service == nil || q.Port != 0 || q.Protocol == "udp" || q.Protocol == "icmp" {
			return d, nil
		}
		text = w.s.ServiceNames(to.service)[0]
	}
	return w.named(from, strings.ToLower(strings.TrimSuffix(text, ".")), d, out)
}

func hostOf(a netip.Addr) string {
	if a.Is6() {
		return "[" + a.String() + "]"
	}
	return a.String()
}

func (w *ways) named(from site, name string, d destination, out *api.Explanation) (destination, error) {
	if !cell.ValidDomain(name) && !cell.ValidLabel(name) {
		return d, mistake("/to", "%q is no host name, address, URL, peer or service", name)
	}
	views, err := dns.Compile(w.s, w.f)
	if err != nil {
		return d, err
	}
	found, err := views.Lookup(from.in, from.addrs[0], name)
	if err != nil {
		return d, err
	}
	d.host, d.addrs = name, found.Addresses
	say := func(format string, a ...any) {
		out.Names = append(out.Names, api.ExplainStep{Kind: "name", Text: fmt.Sprintf(format, a...)})
	}
	service := slices.IndexFunc(w.s.Services, func(v cell.Service) bool { return slices.Contains(w.s.ServiceNames(&v), name) })
	switch {
	case found.View == "":
		say("the cell answers no names to %s on %q", from.addrs[0], from.in)
	case found.Foreign != "":
		exit := cmp.Or(found.Exit, "the uplink")
		d.addrs = w.strangers()
		say("%s is a name of the world, asked by %s; %v stand for its addresses", found.Foreign, exit, d.addrs)
	case len(d.addrs) == 0 && service >= 0:
		// Whoever knows the address may still ask for the name there.
		d.addrs = w.facing(from)
		say("in the view of %s (%s) the name %s of the service %s is hidden; tried at the cell's own address all the same", from.name, found.View, name, w.s.Services[service].ID)
		out.Names[len(out.Names)-1].Pointer = w.grant(from.addrs[0], w.s.Services[service].ID)
	case len(d.addrs) == 0:
		say("in the view of %s (%s) there is no address of the name %s", from.name, found.View, name)
	default:
		say("in the view of %s (%s) %s is %v", from.name, found.View, name, d.addrs)
	}
	return d, nil
}
