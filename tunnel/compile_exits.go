package tunnel

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/personal-internet-cell/pic/cell"
)

const (
	// exitMTU is what WireGuard leaves of 1500 bytes inside IPv6.
	exitMTU = 1420
	// exitSlots is how many exits of a type there may be.
	exitSlots = 10
	// server is the name of an exit's one peer.
	server = "server"
)

// exitDevices returns the links of the WireGuard exits that are switched on, in
// the order of their slots. An exit whose server is not known yet has its link
// all the same: what is routed there goes nowhere.
func exitDevices(s *cell.State, f *cell.Facts) Devices {
	var ds Devices
	for i := range s.Exits {
		e := &s.Exits[i]
		if e.Type != cell.ExitWireGuard || !e.Enabled || e.WireGuard == nil {
			continue
		}
		w := e.WireGuard
		d := Device{
			Name:         e.LinkName(),
			PrivateKey:   e.Credentials,
			PublicKey:    w.PublicKey,
			FirewallMark: cell.MarkBypass,
			MTU:          w.MTU,
			Peers: []Peer{{
				Name: server, PublicKey: w.PeerKey, PresharedKey: w.PresharedKey,
				AllowedIPs: carried(w.AllowedIPs), Endpoint: exitEndpoint(w, f.Exits[e.ID].Endpoint),
				Keepalive: time.Duration(w.Keepalive) * time.Second,
			}},
		}
		if d.MTU == 0 {
			d.MTU = exitMTU
		}
		// No subnet: nothing but the exit's table leads to the link.
		for _, a := range []netip.Addr{e.Address4, e.Address6} {
			if a.IsValid() {
				d.Addresses = append(d.Addresses, netip.PrefixFrom(a, a.BitLen()))
			}
		}
		ds = append(ds, d)
	}
	slices.SortFunc(ds, func(a, b Device) int { return strings.Compare(a.Name, b.Name) })
	return ds
}

// carried is what WireGuard makes of a list of prefixes: without host bits,
// each once. The order is the file's.
func carried(ps []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range ps {
		if a := p.Addr(); a.Is4In6() { // WireGuard has no such family
			if p.Bits() < 96 {
				continue
			}
			p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
		}
		if p = p.Masked(); p.IsValid() && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// exitEndpoint is the address in the configuration, or else the one looked up.
func exitEndpoint(w *cell.WireGuardExit, looked netip.AddrPort) netip.AddrPort {
	if i := strings.LastIndexByte(w.Endpoint, ':'); i >= 0 {
		a, err1 := netip.ParseAddr(strings.Trim(w.Endpoint[:i], "[]"))
		port, err2 := strconv.ParseUint(w.Endpoint[i+1:], 10, 16)
		if err1 == nil && err2 == nil && port != 0 {
			return netip.AddrPortFrom(a.Unmap(), uint16(port))
		}
	}
	if !looked.IsValid() || looked.Port() == 0 {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(looked.Addr().Unmap(), looked.Port())
}

// ourNames are the links that are ours by name, whatever the plan.
func ourNames() map[string]int {
	names := map[string]int{cell.TunnelLink: 0}
	for slot := range exitSlots {
		e := cell.Exit{Type: cell.ExitWireGuard, Slot: slot}
		names[e.LinkName()] = 0
	}
	return names
}
