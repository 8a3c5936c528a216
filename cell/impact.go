package cell

import (
	"fmt"
	"slices"
)

// Cut is one thing that stops working when a state replaces another: the
// "what this cuts off" that a person reads before a destructive act.
type Cut struct {
	Kind    string `json:"kind"`    // peer, service, user, exit, link, name, forward
	Subject string `json:"subject"` // its name or id
	Text    string `json:"text"`
}

// Impact lists what to cuts off compared with from, in a stable order. Peers
// that expire later are not cut off yet.
func Impact(from, to *State) []Cut {
	cuts := []Cut{}
	add := func(kind, subject, format string, a ...any) {
		cuts = append(cuts, Cut{kind, subject, fmt.Sprintf(format, a...)})
	}
	if a, b := from.Identity.EffectiveDomain(), to.Identity.EffectiveDomain(); a != b {
		add("name", a, "every address under %s stops resolving; the new domain is %s", a, b)
	}
	if from.Network.Tunnel.PublicKey != to.Network.Tunnel.PublicKey {
		add("peer", GrantAll, "every peer needs a new configuration: the cell's key changes")
	} else if from.Network.Tunnel.ListenPort != to.Network.Tunnel.ListenPort {
		add("peer", GrantAll, "every peer needs a new configuration: the WireGuard port changes to %d", to.Network.Tunnel.ListenPort)
	}
	for i := range from.Peers {
		cutPeer(add, from, to, &from.Peers[i])
	}
	for i := range from.Services {
		old := &from.Services[i]
		if !old.Enabled {
			continue
		}
		if now := to.Service(old.ID); now == nil || !now.Enabled {
			add("service", old.ID, "%s.%s stops answering", old.Subdomain, from.Identity.EffectiveDomain())
		}
	}
	for i := range from.Exits {
		if to.Exit(from.Exits[i].ID) == nil {
			add("exit", from.Exits[i].ID, "the exit %s is gone", from.Exits[i].ID)
		}
	}
	for i := range from.Links {
		name := from.Links[i].Name
		if !slices.ContainsFunc(to.Links, func(l Link) bool { return l.Name == name }) {
			add("link", name, "the linked cell %s is disconnected", name)
		}
	}
	for i := range from.Users {
		if to.User(from.Users[i].Name) == nil {
			add("user", from.Users[i].Name, "%s can no longer log in", from.Users[i].Name)
		}
	}
	for _, f := range from.Network.Forwards {
		if f.Enabled && !slices.ContainsFunc(to.Network.Forwards, func(g Forward) bool {
			return g.Enabled && g.Protocol == f.Protocol && g.Port == f.Port
		}) {
			add("forward", f.Name, "%d/%s is no longer forwarded", f.Port, f.Protocol)
		}
	}
	return cuts
}

func cutPeer(add func(kind, subject, format string, a ...any), from, to *State, old *Peer) {
	now := to.Peer(old.Name)
	switch {
	case now == nil:
		add("peer", old.Name, "%s loses the tunnel: its key is no longer accepted", old.Name)
		return
	case old.Enabled && !now.Enabled:
		add("peer", old.Name, "%s loses the tunnel until it is enabled again", old.Name)
		return
	case old.PublicKey != now.PublicKey || old.PresharedKey != now.PresharedKey:
		add("peer", old.Name, "%s needs a new configuration: its keys change", old.Name)
	case old.Address4 != now.Address4 || old.Address6 != now.Address6:
		add("peer", old.Name, "%s needs a new configuration: its addresses change", old.Name)
	}
	for i := range from.Services {
		svc := &from.Services[i]
		after := to.Service(svc.ID)
		if svc.Enabled && after != nil && after.Enabled && old.Granted(svc) && !now.Granted(after) {
			add("peer", old.Name, "%s can no longer reach %s", old.Name, svc.ID)
		}
	}
	for _, other := range old.Peers {
		if !slices.Contains(now.Peers, other) && to.Peer(other) != nil {
			add("peer", old.Name, "%s can no longer reach the peer %s", old.Name, other)
		}
	}
	for _, lan := range old.LAN {
		if !slices.Contains(now.LAN, lan) {
			add("peer", old.Name, "%s can no longer reach the network %s", old.Name, lan)
		}
	}
}
