package main

import (
	"fmt"
	"net/netip"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/firewall"
	"github.com/personal-internet-cell/pic/reconcile"
)

// reachable says why the connection that asks for a change would not come back
// under it: the firewall's trace of its first packet, under the new plan.
func (h *house) reachable(f api.Flow, s *cell.State, plans map[string]reconcile.Plan) error {
	return reachable(f, s, h.engine.Facts(), plans)
}

func reachable(f api.Flow, s *cell.State, facts cell.Facts, plans map[string]reconcile.Plan) error {
	if f.Remote.Addr().IsLoopback() {
		return nil
	}
	policy, is := plans["firewall"].(firewall.Policy)
	if !is {
		return nil
	}
	r := policy.Trace(firewall.Packet{
		In:  ingress(f, s, facts),
		Src: f.Remote.Addr(), Dst: f.Local.Addr(), Protocol: "tcp", SrcPort: f.Remote.Port(), DstPort: f.Local.Port(),
	})
	if r.Passes() {
		return nil
	}
	return fmt.Errorf("a new connection from %s would be %s: %s", f.Remote.Addr(), r.Outcome, r.Reason)
}

// ingress is the interface a connection comes in on: the tunnel for a tunnel
// address, else the one that holds the local address or is on the source's
// network.
func ingress(f api.Flow, s *cell.State, facts cell.Facts) string {
	src, dst := f.Remote.Addr(), f.Local.Addr()
	running := s.Network.Tunnel
	if running.Prefix4.Contains(src) || running.Prefix6.Contains(src) {
		return cell.TunnelLink
	}
	var on string
	for name, l := range facts.Links {
		for _, p := range l.Addresses {
			if p.Addr() == dst && dst != (netip.Addr{}) {
				return name
			}
			if p.Masked().Contains(src) && !p.Addr().IsLoopback() {
				on = name
			}
		}
	}
	return on
}
