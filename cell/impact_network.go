package cell

import (
	"net/netip"
	"slices"
)

// names compares what resolves.
func (d *impact) names() {
	was, is := d.from.Identity.Domains(), d.to.Identity.Domains()
	for _, name := range was {
		if !slices.Contains(is, name) {
			d.add("name", name, "every address under %s stops resolving; the new domain is %s", name, is[0])
		}
	}
	for i := range d.from.DNS.Records {
		r := &d.from.DNS.Records[i]
		for _, view := range r.views() {
			if !slices.ContainsFunc(d.to.DNS.Records, func(o Record) bool {
				return o.Name == r.Name && o.Type == r.Type && o.Value == r.Value && slices.Contains(o.views(), view)
			}) {
				d.add("name", r.Name, "%s %s %s is no longer answered to the view %s", r.Name, r.Type, clip(r.Value), view)
			}
		}
	}
	if d.from.DNS.Public && !d.to.DNS.Public {
		d.add("name", was[0], "the internet can no longer resolve names under %s here", was[0])
	}
	for _, n := range d.from.DNS.RebindAllow {
		if !slices.Contains(d.to.DNS.RebindAllow, n) {
			d.add("name", n, "private addresses in answers for %s are dropped again", n)
		}
	}
	if p := &d.from.DDNS; p.Provider != "none" && (d.to.DDNS.Provider == "none" || p.Provider != d.to.DDNS.Provider) && d.from.Identity.public() {
		d.add("name", was[0], "the address of %s is no longer published by %q", was[0], p.Provider)
	}
}

// views are those that see a record.
func (r *Record) views() []View {
	if len(r.Views) == 0 {
		return []View{ViewPeer, ViewLAN}
	}
	return r.Views
}

// public reports whether the mode publishes a name.
func (i Identity) public() bool { return i.Mode != "" && i.Mode != ModeLAN }

// network compares the uplink and the networks around.
func (d *impact) network() {
	from, to := &d.from.Network, &d.to.Network
	if from.Uplink != to.Uplink {
		word := func(s string) string {
			if s == "" {
				return "the interface with the default route"
			}
			return s
		}
		d.add("internet", word(from.Uplink), "the uplink becomes %s instead of %s: connections by it end", word(to.Uplink), word(from.Uplink))
	}
	if from.PublicWeb && !to.PublicWeb {
		d.add("internet", "public_web", "the internet can no longer reach the cell's web and its services")
	}
	if from.ServicesPrefix != to.ServicesPrefix {
		d.add("network", from.ServicesPrefix.String(), "new services no longer get addresses in %s", from.ServicesPrefix)
	}
	for i := range from.LAN {
		d.lan(&from.LAN[i])
	}
}

func (d *impact) lan(old *LAN) {
	i := slices.IndexFunc(d.to.Network.LAN, func(l LAN) bool { return l.Name == old.Name })
	if i < 0 {
		d.add("network", old.Name, "the network %s is no longer one of yours: what was open to it closes", old.Name)
		return
	}
	now := &d.to.Network.LAN[i]
	if old.Interface != now.Interface {
		d.add("network", old.Name, "the network %s is no longer on %s but on %s", old.Name, old.Interface, now.Interface)
	}
	for _, p := range old.Prefixes {
		if !slices.ContainsFunc(now.Prefixes, func(q netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Contains(p.Addr()) }) {
			d.add("network", old.Name, "%s is no longer part of the network %s", p, old.Name)
		}
	}
	for _, a := range old.Addresses {
		if !slices.Contains(now.Addresses, a) {
			d.add("network", old.Name, "names and time are no longer served at %s", a)
		}
	}
}

func (d *impact) links() {
	for i := range d.from.Links {
		old := &d.from.Links[i]
		j := slices.IndexFunc(d.to.Links, func(l Link) bool { return l.Name == old.Name })
		switch {
		case j < 0:
			d.add("link", old.Name, "the linked cell %s is disconnected", old.Name)
			continue
		case !old.Enabled:
			continue
		case !d.to.Links[j].Enabled:
			d.add("link", old.Name, "the linked cell %s is disconnected until it is enabled again", old.Name)
			continue
		}
		now := &d.to.Links[j]
		if old.PublicKey != now.PublicKey || old.PresharedKey != now.PresharedKey || old.Address4 != now.Address4 || old.Address6 != now.Address6 {
			d.add("link", old.Name, "the linked cell %s has to be linked anew: its keys or addresses change", old.Name)
		}
		if old.Endpoint != now.Endpoint {
			d.add("link", old.Name, "the linked cell %s is looked for at %q instead of %q", old.Name, now.Endpoint, old.Endpoint)
		}
		if old.Domain != now.Domain {
			d.add("link", old.Name, "names under %s no longer lead to the linked cell %s", old.Domain, old.Name)
		}
		for _, p := range old.Prefixes {
			if !slices.Contains(now.Prefixes, p) {
				d.add("link", old.Name, "%s of the linked cell %s is no longer reached", p, old.Name)
			}
		}
	}
}

// people compares who may log in and what their devices trust.
func (d *impact) people() {
	for i := range d.from.Users {
		old := &d.from.Users[i]
		switch now := d.to.User(old.Name); {
		case now == nil:
			d.add("user", old.Name, "%s can no longer log in", old.Name)
		case old.PasswordHash != now.PasswordHash:
			d.add("user", old.Name, "%s can no longer log in with the old password", old.Name)
		case old.Role == RoleAdmin && now.Role != RoleAdmin:
			d.add("user", old.Name, "%s can no longer administer the cell", old.Name)
		}
		d.tokens(old, d.to.User(old.Name))
	}
	for i := range d.from.Peers {
		if old, now := &d.from.Peers[i], d.peers[d.from.Peers[i].Name]; old.Owner != "" && now != nil && now.Owner != old.Owner {
			d.add("user", old.Owner, "%s no longer owns the device %s", old.Owner, old.Name)
		}
	}
	for i := range d.from.TLS.Authorities {
		old := &d.from.TLS.Authorities[i]
		if !old.Retired && !slices.ContainsFunc(d.to.TLS.Authorities, func(a Authority) bool { return a.ID == old.ID && !a.Retired }) {
			d.add("authority", old.ID, "devices that trust only the authority %s see warnings from its certificates' end on", old.ID)
		}
	}
}

func (d *impact) forwards() {
	for _, f := range d.from.Network.Forwards {
		if !f.Enabled {
			continue
		}
		i := slices.IndexFunc(d.to.Network.Forwards, func(g Forward) bool {
			return g.Enabled && g.Protocol == f.Protocol && g.Port == f.Port
		})
		if i < 0 {
			d.add("forward", f.Name, "%d/%s is no longer forwarded", f.Port, f.Protocol)
			continue
		}
		if g := &d.to.Network.Forwards[i]; g.Peer != f.Peer || g.Service != f.Service || g.TargetPort != f.TargetPort {
			d.add("forward", f.Name, "%d/%s no longer leads to port %d of %s", f.Port, f.Protocol, f.TargetPort, f.Peer+f.Service)
		}
	}
}

// tokens names the API tokens that end with a change of their user, and the
// ones that may do less.
func (d *impact) tokens(old, now *User) {
	for i := range old.Tokens {
		t := &old.Tokens[i]
		if now == nil {
			d.add("user", old.Name, "the API token %s of %s stops working", t.Name, old.Name)
			continue
		}
		j := slices.IndexFunc(now.Tokens, func(x Token) bool { return x.ID == t.ID })
		switch {
		case j < 0 || now.Tokens[j].Hash != t.Hash || now.Tokens[j].Expires.Before(t.Expires):
			d.add("user", old.Name, "the API token %s of %s stops working", t.Name, old.Name)
		case slices.ContainsFunc(t.Scopes, func(s TokenScope) bool { return !slices.Contains(now.Tokens[j].Scopes, s) }):
			d.add("user", old.Name, "the API token %s of %s may do less", t.Name, old.Name)
		}
	}
}
