package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/firewall"
)

const (
	policyHolds   = "holds"
	policyFails   = "fails"
	policyUnknown = "unknown"
)

// policyPlan is the plan of the stage that guards the policy tests: nothing to
// apply, one line for each test that does not fail.
type policyPlan []string

func (p policyPlan) String() string {
	if len(p) == 0 {
		return ""
	}
	return strings.Join(p, "\n") + "\n"
}

// compilePolicy refuses a state under which a policy test fails.
func compilePolicy(s *cell.State, f cell.Facts) (policyPlan, error) {
	results, err := policyResults(s, f)
	if err != nil {
		return nil, err
	}
	var plan policyPlan
	var failed policyError
	for _, r := range results {
		switch r.Result {
		case policyFails:
			failed = append(failed, r)
		case policyUnknown:
			plan = append(plan, r.Assertion+" # unknown: "+r.Text)
		default:
			plan = append(plan, r.Assertion)
		}
	}
	if len(failed) > 0 {
		return nil, failed
	}
	return plan, nil
}

// applyPolicy has nothing to do: tests change nothing in the world.
func applyPolicy(context.Context, policyPlan) (bool, error) { return false, nil }

// policyError lists the policy tests that fail.
type policyError []api.PolicyResult

func (e policyError) Error() string {
	var all []string
	for _, r := range e[:min(len(e), 5)] {
		all = append(all, fmt.Sprintf("%q would not hold: %s", r.Assertion, r.Text))
	}
	if len(e) > 5 {
		all = append(all, fmt.Sprintf("and %d more", len(e)-5))
	}
	return strings.Join(all, "; ")
}

// Unwrap gives each test with its pointer.
func (e policyError) Unwrap() error {
	bad := &cell.InvalidError{}
	for _, r := range e {
		bad.Fields = append(bad.Fields, cell.FieldError{Pointer: r.Pointer, Message: fmt.Sprintf("%q would not hold: %s", r.Assertion, r.Text)})
	}
	return bad
}

// NoWorse reports whether every test that fails now failed before. What the
// world broke must not keep people from changing anything else.
func (e policyError) NoWorse(before error) bool {
	var old policyError
	if !errors.As(before, &old) {
		return false
	}
	return !slices.ContainsFunc(e, func(r api.PolicyResult) bool {
		return !slices.ContainsFunc(old, func(o api.PolicyResult) bool { return o.Assertion == r.Assertion })
	})
}

// policyResults evaluates the policy tests of a state.
func policyResults(s *cell.State, f cell.Facts) ([]api.PolicyResult, error) {
	tests, err := s.Assertions()
	if err != nil || len(tests) == 0 {
		return nil, err
	}
	w, err := newWays(s, f)
	if err != nil {
		return nil, err
	}
	out := make([]api.PolicyResult, len(tests))
	for i, a := range tests {
		out[i] = api.PolicyResult{Assertion: s.Network.Policy[i], Pointer: "/network/policy/" + strconv.Itoa(i)}
		out[i].Result, out[i].Text = w.check(a)
	}
	return out, nil
}

// check evaluates one test over both families.
func (w *ways) check(a cell.Assertion) (result, text string) {
	from, err := w.site(a.From)
	var to site
	if err == nil && a.To != (cell.Endpoint{}) {
		to, err = w.site(a.To)
	}
	if err != nil {
		return policyUnknown, err.Error()
	}
	if len(from.addrs) == 0 {
		return policyUnknown, from.name + " has no address"
	}
	switch a.Verb {
	case cell.VerbReaches:
		return w.reaches(from, to, a)
	case cell.VerbCannot:
		return w.cannot(from, to, a)
	case cell.VerbLeaves:
		return w.leaves(from, a.Exit)
	}
	return w.only(from, a.Ports)
}

// between pairs sources and destinations of the same family.
func between(from site, dsts []netip.Addr, use func(src, dst netip.Addr)) {
	for _, dst := range dsts {
		for _, src := range from.addrs {
			if src.Is4() == dst.Is4() && src != dst {
				use(src, dst)
			}
		}
	}
}

// facing are the cell's addresses that a source would use.
func (w *ways) facing(from site) []netip.Addr {
	t := w.s.Network.Tunnel
	if from.in == cell.TunnelLink || from.in == "" {
		return []netip.Addr{t.Gateway4(), t.Gateway6()}
	}
	var out []netip.Addr
	for _, p := range w.f.Links[from.in].Addresses {
		if a := p.Addr().Unmap(); !a.IsLinkLocalUnicast() && !a.IsLoopback() {
			out = append(out, a)
		}
	}
	return out
}

// reaches needs a way in every family that both sides have; to the internet,
// where an exit or uplink may carry one family only, in one of them.
func (w *ways) reaches(from, to site, a cell.Assertion) (string, string) {
	ports := a.Ports
	dsts, host := to.addrs, ""
	if len(ports) == 0 {
		ports = []cell.ServicePort{{Protocol: cell.TCP, Port: 443}}
		if to.service != nil {
			dsts, host = w.facing(from), w.s.ServiceNames(to.service)[0]
			ports[0].Port = w.webPort(from)
		}
	}
	if a.To.Kind == cell.EndCell {
		dsts = w.facing(from)
		if len(a.Ports) == 0 {
			ports[0].Port = w.webPort(from)
		}
	}
	tried, passed := 0, 0
	var failed *flow
	for _, p := range ports {
		between(from, dsts, func(src, dst netip.Addr) {
			x := flow{w.packet(from, src, dst, string(p.Protocol), p.Port), host}
			tried++
			if w.passes(x) {
				passed++
			} else if failed == nil {
				failed = &x
			}
		})
	}
	switch {
	case tried == 0:
		return policyUnknown, fmt.Sprintf("%s and %s have no address of the same family", from.name, to.name)
	case failed == nil, a.To.Kind == cell.EndInternet && passed >= len(ports):
		return policyHolds, ""
	}
	return policyFails, w.describe(*failed)
}

// cannot tries every packet that the rules tell apart: each port that some
// rule names and one that none does, both transports and echo, straight, by
// the proxy, and by port forwards at every address of the cell.
func (w *ways) cannot(from, to site, a cell.Assertion) (string, string) {
	tried := 0
	var found *flow
	try := func(x flow, counts func(firewall.Result) bool) {
		tried++
		if found != nil {
			return
		}
		if r := w.policy.Trace(x.Packet); r.Passes() && counts(r) && (x.host == "" || w.toWeb(x, r) && w.web(x.host, x.Src, x.Dst).Status == 200) {
			found = &x
		}
	}
	any := func(firewall.Result) bool { return true }
	arrives := func(r firewall.Result) bool { return slices.Contains(to.addrs, r.Dst.Addr()) }
	between(from, to.addrs, func(src, dst netip.Addr) {
		for _, p := range w.probes(a.Ports) {
			try(flow{w.packet(from, src, dst, p.protocol, p.port), ""}, any)
		}
	})
	if a.To.Kind == cell.EndPeer || a.To.Kind == cell.EndService {
		between(from, w.own(), func(src, dst netip.Addr) {
			for _, p := range w.probes(a.Ports) {
				try(flow{w.packet(from, src, dst, p.protocol, p.port), ""}, arrives)
			}
		})
	}
	if to.service != nil && (len(a.Ports) == 0 || slices.Contains(a.Ports, cell.ServicePort{Protocol: cell.TCP, Port: w.webPort(from)})) {
		between(from, w.own(), func(src, dst netip.Addr) {
			for _, host := range w.s.ServiceNames(to.service) {
				try(flow{w.packet(from, src, dst, "tcp", w.webPort(from)), host}, any)
			}
		})
	}
	switch {
	case found != nil:
		return policyFails, w.describe(*found)
	case tried == 0:
		return policyUnknown, fmt.Sprintf("%s and %s have no address of the same family", from.name, to.name)
	}
	return policyHolds, ""
}

// leaves needs every packet to the internet to carry the exit's mark, and
// those that leave to leave by it. An exit that is down lets none out, which
// is as it should be.
func (w *ways) leaves(from site, exit string) (string, string) {
	if w.uplink == "" {
		return policyUnknown, "the uplink is not known"
	}
	way := w.s.Way(exit, &w.f)
	mark, dev := w.s.MarkOf(way), w.uplink
	if e := w.s.Exit(way); e != nil {
		dev = e.LinkName()
	}
	result, text := policyHolds, ""
	between(from, w.strangers(), func(src, dst netip.Addr) {
		for _, protocol := range []string{"tcp", "udp", "icmp"} {
			x := flow{w.packet(from, src, dst, protocol, 443), ""}
			r := w.policy.Trace(x.Packet)
			wrong := r.Mark&cell.MarkMask != 0 && r.Mark&cell.MarkMask != mark
			if r.Passes() {
				wrong = wrong || r.Mark&cell.MarkMask != mark || (dev == "") != (r.Outcome == firewall.Relayed) || r.Out != dev
			}
			if wrong && result == policyHolds {
				result, text = policyFails, w.describe(x)
			}
		}
	})
	return result, text
}

// only needs every port of the cell's addresses that is not listed closed. It
// tries packets from an ordinary source port.
func (w *ways) only(from site, ports []cell.ServicePort) (string, string) {
	result, text := policyHolds, ""
	between(from, w.own(), func(src, dst netip.Addr) {
		for _, p := range w.probes(nil) {
			if result != policyHolds || p.protocol == "icmp" || slices.Contains(ports, cell.ServicePort{Protocol: cell.Protocol(p.protocol), Port: p.port}) {
				continue
			}
			if x := (flow{w.packet(from, src, dst, p.protocol, p.port), ""}); w.passes(x) {
				result, text = policyFails, w.describe(x)
			}
		}
	})
	return result, text
}

type probe struct {
	protocol string
	port     uint16
}

// probes stand for all packets: the ports given, or else every port that a
// rule tells from others, one that none does, and an echo.
func (w *ways) probes(ports []cell.ServicePort) []probe {
	var out []probe
	for _, p := range ports {
		out = append(out, probe{string(p.Protocol), p.Port})
	}
	if len(ports) > 0 {
		return out
	}
	if w.all == nil {
		known := w.policy.Ports()
		other := uint16(33333)
		for slices.Contains(known, other) {
			other++
		}
		for _, p := range append(known, other) {
			w.all = append(w.all, probe{"tcp", p}, probe{"udp", p})
		}
		w.all = append(w.all, probe{"icmp", 0})
	}
	return w.all
}

// passes reports whether a flow gets where it wants to go.
func (w *ways) passes(x flow) bool {
	r := w.policy.Trace(x.Packet)
	if !r.Passes() || x.host == "" {
		return r.Passes()
	}
	return w.toWeb(x, r) && w.web(x.host, x.Src, x.Dst).Status == 200
}

// describe is a packet and its path on one line.
func (w *ways) describe(x flow) string {
	p := w.follow(x)
	to := p.Destination.String()
	if p.Protocol != "icmp" {
		to = netip.AddrPortFrom(p.Destination, p.Port).String()
	}
	if x.host != "" {
		to += " for " + x.host
	}
	steps := make([]string, len(p.Steps))
	for i, s := range p.Steps {
		steps[i] = s.Text
	}
	return fmt.Sprintf("%s %s → %s is %s (%s)", p.Protocol, p.Source, to, p.Verdict, cmp.Or(strings.Join(steps, "; "), p.Reason))
}
