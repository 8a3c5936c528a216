package cell

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Cut is one thing that stops working when a state replaces another: the
// "what this cuts off" that a person reads before a destructive act.
type Cut struct {
	// Kind is peer, service, user, exit, link, name, forward, network,
	// internet, authority or more.
	Kind    string `json:"kind"`
	Subject string `json:"subject"` // its name or id
	Text    string `json:"text"`
}

// maxCuts bounds a list that a person is to read; the last entry, of kind
// more, says how many there are beyond.
const maxCuts = MaxPeers

// Impact lists what to cuts off compared with from, in a stable order. Peers
// that expire later are not cut off yet; a time that comes nearer is said.
func Impact(from, to *State) []Cut {
	d := &impact{from: from, to: to, cuts: []Cut{}, peers: make(map[string]*Peer, len(to.Peers))}
	for i := range to.Peers {
		d.peers[to.Peers[i].Name] = &to.Peers[i]
	}
	d.names()
	d.network()
	d.tunnel()
	for i := range from.Peers {
		d.peer(&from.Peers[i])
	}
	for i := range from.Services {
		d.service(&from.Services[i])
	}
	d.exits()
	d.chains()
	d.links()
	d.people()
	d.forwards()
	if d.beyond > 0 {
		d.cuts = append(d.cuts, Cut{"more", "", fmt.Sprintf("and %d more", d.beyond)})
	}
	return d.cuts
}

// impact compares two states.
type impact struct {
	from, to *State
	cuts     []Cut
	beyond   int
	peers    map[string]*Peer // of to, by name
}

func (d *impact) add(kind, subject, format string, a ...any) {
	if len(d.cuts) == maxCuts {
		d.beyond++
		return
	}
	d.cuts = append(d.cuts, Cut{kind, subject, fmt.Sprintf(format, a...)})
}

func (d *impact) tunnel() {
	from, to := &d.from.Network.Tunnel, &d.to.Network.Tunnel
	switch {
	case from.PublicKey != to.PublicKey || from.PrivateKey != to.PrivateKey:
		d.add("peer", GrantAll, "every peer needs a new configuration: the cell's key changes")
	case from.ListenPort != to.ListenPort:
		d.add("peer", GrantAll, "every peer needs a new configuration: the WireGuard port changes to %d", to.ListenPort)
	}
	if from.Gateway4() != to.Gateway4() || from.Gateway6() != to.Gateway6() {
		d.add("peer", GrantAll, "every peer needs a new configuration: the cell's addresses in the tunnel change")
	}
	if to.MTU > from.MTU {
		d.add("peer", GrantAll, "peers behind a narrow uplink may stall: packets in the tunnel grow to %d bytes", to.MTU)
	}
}

func (d *impact) peer(old *Peer) {
	now := d.peers[old.Name]
	add := func(format string, a ...any) { d.add("peer", old.Name, old.Name+" "+format, a...) }
	switch {
	case now == nil:
		add("loses the tunnel: its key is no longer accepted")
		return
	case !old.Enabled:
		return // it has nothing to lose
	case !now.Enabled:
		add("loses the tunnel until it is enabled again")
		return
	case old.PublicKey != now.PublicKey || old.PresharedKey != now.PresharedKey:
		add("needs a new configuration: its keys change")
	case old.Address4 != now.Address4 || old.Address6 != now.Address6:
		add("needs a new configuration: its addresses change")
	}
	if now.Expires != nil && (old.Expires == nil || now.Expires.Before(*old.Expires)) {
		add("is let in only until %s", now.Expires.UTC().Format(time.RFC3339))
	}
	if now.Destinations == SplitTunnel && old.Destinations != SplitTunnel {
		add("reaches the internet past the cell when it next takes its configuration")
	}
	d.moved(add, old.Exit, now.Exit)
	if old.ExitUntil == nil && now.ExitUntil != nil || old.ExitUntil != nil && now.ExitUntil != nil && now.ExitUntil.Before(*old.ExitUntil) {
		add("leaves by %s from %s on", cmp.Or(now.ExitThen, ExitDirect), now.ExitUntil.UTC().Format(time.RFC3339))
	}
	for _, id := range old.Socks {
		if !slices.Contains(now.Socks, id) {
			add("can no longer use the SOCKS server of the exit %s", id)
		}
	}
	d.grants(add, old, now)
}

// grants compares what a peer may reach in the cell.
func (d *impact) grants(add func(string, ...any), old, now *Peer) {
	for i := range d.from.Services {
		svc := &d.from.Services[i]
		after := d.to.Service(svc.ID)
		if svc.Enabled && after != nil && after.Enabled && old.Granted(svc) && !now.Granted(after) {
			add("can no longer reach %s", svc.ID)
		}
	}
	for _, other := range old.Peers {
		if !slices.Contains(now.Peers, other) && d.peers[other] != nil {
			add("can no longer reach the peer %s", other)
		}
	}
	for _, lan := range old.LAN {
		if !slices.Contains(now.LAN, lan) {
			add("can no longer reach the network %s", lan)
		}
	}
}

// moved says that connections end because their way out is another. An exit
// that is gone or off is said once, with those it served.
func (d *impact) moved(add func(string, ...any), old, now string) {
	name := func(exit string) string {
		if exit == "" {
			return ExitDirect
		}
		return exit
	}
	if a, b := name(old), name(now); a != b {
		add("leaves by %s instead of %s: its connections to the internet end", b, a)
	}
}

func (d *impact) service(old *Service) {
	if !old.Enabled {
		return
	}
	add := func(format string, a ...any) { d.add("service", old.ID, format, a...) }
	host := old.Subdomain + "." + d.from.Identity.EffectiveDomain()
	now := d.to.Service(old.ID)
	switch {
	case now == nil || !now.Enabled:
		add("%s stops answering", host)
		return
	case old.Upstream != "" && now.Upstream == "":
		add("%s stops answering: nothing is behind it", host)
	case old.Subdomain != now.Subdomain:
		add("%s stops answering: the name becomes %s", host, now.Subdomain+"."+d.to.Identity.EffectiveDomain())
	case old.Upstream != now.Upstream:
		add("%s is answered by %s instead of %s", host, now.Upstream, old.Upstream)
	}
	if old.Bridge != now.Bridge || old.Prefix4 != now.Prefix4 || old.Prefix6 != now.Prefix6 {
		add("connections of %s end: its network changes", old.ID)
	}
	for _, p := range old.Ports {
		if !slices.Contains(now.Ports, p) {
			add("%d/%s of %s closes", p.Port, p.Protocol, old.ID)
		}
	}
	if opens := func(a Access) bool { return a == AccessLAN || a == AccessInternet }; opens(old.Access) && !opens(now.Access) {
		add("the local networks can no longer reach %s", old.ID)
	}
	if old.Access == AccessInternet && now.Access != AccessInternet && d.from.Network.PublicWeb && d.to.Network.PublicWeb {
		add("the internet can no longer reach %s", old.ID)
	}
	d.moved(func(format string, a ...any) { add(old.ID+" "+format, a...) }, old.Egress, now.Egress)
}

func (d *impact) exits() {
	for i := range d.from.Exits {
		old := &d.from.Exits[i]
		now := d.to.Exit(old.ID)
		switch {
		case now == nil:
			d.add("exit", old.ID, "the exit %s is gone%s", old.ID, d.by(old.ID))
		case !old.Enabled:
		case !now.Enabled:
			d.add("exit", old.ID, "the exit %s is off%s", old.ID, d.by(old.ID))
		case old.Mark() != now.Mark() || old.Address4 != now.Address4 || old.Address6 != now.Address6 || old.Link != now.Link || old.Credentials != now.Credentials ||
			!reflect.DeepEqual(old.config(), now.config()):
			d.add("exit", old.ID, "connections by the exit %s end: it is set up anew", old.ID)
		}
		if old.Socks && old.Enabled && now != nil && now.Enabled && !now.Socks {
			d.add("exit", old.ID, "the SOCKS server of the exit %s closes", old.ID)
		}
	}
}

// config are the parts of an exit that it is set up from.
func (e *Exit) config() []any { return []any{e.WireGuard, e.OpenVPN, e.Tor, e.SSH, e.Proxy} }

func (d *impact) chains() {
	for i := range d.from.Chains {
		old := &d.from.Chains[i]
		now := d.to.Chain(old.ID)
		if now == nil {
			d.add("exit", old.ID, "the chain %s is gone%s", old.ID, d.by(old.ID))
			continue
		}
		for _, m := range old.Members {
			if !now.mayUse(m) {
				d.add("exit", old.ID, "%s is no longer a way of the chain %s: connections by it end", m, old.ID)
			}
		}
		if len(old.Members) > 0 && len(now.Members) > 0 && now.Members[0] != old.Members[0] && now.mayUse(old.Members[0]) {
			d.add("exit", old.ID, "the chain %s tries %s first: connections by another way end", old.ID, now.Members[0])
		}
		if !reflect.DeepEqual(old.Schedule, now.Schedule) {
			d.add("exit", old.ID, "the schedule of the chain %s changes: connections end where it leads elsewhere", old.ID)
		}
	}
}

// by names those who stay with an exit and lose the internet with it.
func (d *impact) by(exit string) string {
	var who []string
	for i := range d.to.Peers {
		if p := &d.to.Peers[i]; p.Exit == exit && p.Enabled {
			who = append(who, p.Name)
		}
	}
	for i := range d.to.Services {
		if v := &d.to.Services[i]; v.Egress == exit && v.Enabled {
			who = append(who, v.ID)
		}
	}
	switch {
	case len(who) == 0:
		return ""
	case len(who) > 10:
		return fmt.Sprintf(": %s and %d more lose the internet", strings.Join(who[:10], ", "), len(who)-10)
	case len(who) == 1:
		return ": " + who[0] + " loses the internet"
	}
	return ": " + strings.Join(who, ", ") + " lose the internet"
}
