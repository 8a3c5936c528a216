package cell

import (
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// Trust chooses the default grants of a new peer.
type Trust string

const (
	TrustOwner  Trust = "owner"  // every service
	TrustFamily Trust = "family" // every service that is not for admins
	TrustGuest  Trust = "guest"  // nothing but the internet
)

// Destinations says which traffic a client sends into the tunnel. It is what
// the client is told, not what the cell enforces: grants do that.
type Destinations string

const (
	FullTunnel  Destinations = "full"  // 0.0.0.0/0 and ::/0
	SplitTunnel Destinations = "split" // the cell's own prefixes and granted ones
)

// GrantAll in a list of granted services stands for every service.
const GrantAll = "*"

// Peer is a device that may join the tunnel.
type Peer struct {
	// Name is a label, unique among peers; the device is <name>.peers.<domain>.
	Name      string `json:"name"`
	PublicKey Key    `json:"public_key"`
	// PresharedKey is optional and on by default (WireGuard's post-quantum hedge).
	PresharedKey SecretRef `json:"preshared_key"`
	// Address4 and Address6 are allocated once and kept for life.
	Address4     netip.Addr   `json:"address4"`
	Address6     netip.Addr   `json:"address6"`
	Destinations Destinations `json:"destinations"`
	// Keepalive in seconds, 0 (off) to 65535; default 25.
	Keepalive uint16 `json:"keepalive"`
	// Exit is the id of an exit or chain, "direct" or "block"; empty means direct.
	Exit string `json:"exit"`
	// ExitUntil is when Exit gives way to ExitThen; nil: never.
	ExitUntil *time.Time `json:"exit_until,omitempty"`
	// ExitThen is what Exit becomes at ExitUntil, written alike.
	ExitThen string `json:"exit_then,omitempty"`
	// ExitChoice are the exits and chains the peer's owner may choose from, "direct"
	// and "block" among them; "*" is all of them but direct. Empty: none.
	ExitChoice []string `json:"exit_choice,omitempty"`
	// Socks are the ids of exits whose SOCKS5 server the peer may use.
	Socks []string `json:"socks,omitempty"`
	// Expires is when the peer stops being let in; nil means never.
	Expires *time.Time `json:"expires"`
	Enabled bool       `json:"enabled"`
	Note    string     `json:"note"`
	// Owner is the user whose device this is; empty means nobody in particular.
	Owner string `json:"owner"`
	Trust Trust  `json:"trust"`
	// Services are the ids of services this peer may reach; "*" is all.
	Services []string `json:"services"`
	// Peers are names of peers this peer may open connections to.
	Peers []string `json:"peers"`
	// LAN lists names of networks (Network.LAN) this peer may reach.
	LAN     []string  `json:"lan"`
	Created time.Time `json:"created"`
}

// Granted reports whether the peer may reach the service. Services open to all
// peers (access peers, lan and internet) need no grant; services for admins are granted by name only.
func (p *Peer) Granted(s *Service) bool {
	switch s.Access {
	case AccessPeers, AccessLAN, AccessInternet:
		return true
	case AccessAdmin:
		return slices.Contains(p.Services, s.ID)
	}
	return slices.Contains(p.Services, s.ID) || slices.Contains(p.Services, GrantAll)
}

// ExitNow is the peer's exit field, or what it has become when its time has
// passed, which is learned.
func (p *Peer) ExitNow(f *Facts) string {
	if p.ExitUntil != nil && slices.Contains(f.ExitLapsed, p.Name) {
		return p.ExitThen
	}
	return p.Exit
}

// MayChoose reports whether the peer's owner may set its exit to way.
func (p *Peer) MayChoose(way string) bool {
	return slices.Contains(p.ExitChoice, way) || way != ExitDirect && way != "" && slices.Contains(p.ExitChoice, GrantAll)
}

// Active reports whether the peer is let in: enabled and not among the expired
// ones, which are learned (a pure function has no clock).
func (p *Peer) Active(f *Facts) bool {
	return p.Enabled && !slices.Contains(f.Expired, p.Name)
}

// validate checks all but what is unique among peers, whose names are given.
func (p *Peer) validate(v *validation, s *State, peers names) {
	v.key("public_key", p.PublicKey)
	if p.PublicKey != "" && p.PublicKey == s.Network.Tunnel.PublicKey {
		v.add("public_key", "this is the cell's own key; a peer needs a key pair of its own")
	}
	v.hostIn("address4", p.Address4, s.Network.Tunnel.Prefix4, s.Network.Tunnel.Gateway4())
	v.hostIn("address6", p.Address6, s.Network.Tunnel.Prefix6, s.Network.Tunnel.Gateway6())
	if p.Destinations != FullTunnel && p.Destinations != SplitTunnel {
		v.add("destinations", "must be full or split")
	}
	v.exitRef("exit", p.Exit, s)
	v.exitRef("exit_then", p.ExitThen, s)
	if p.ExitUntil == nil && p.ExitThen != "" {
		v.add("exit_until", "when does the exit become %s?", p.ExitThen)
	}
	for i, id := range p.ExitChoice {
		if id != GrantAll {
			v.exitRef("exit_choice/"+strconv.Itoa(i), id, s)
		}
	}
	for i, id := range p.Socks {
		if s.Exit(id) == nil {
			v.add("socks/"+strconv.Itoa(i), "there is no exit %q", clip(id))
		}
	}
	if p.Trust != TrustOwner && p.Trust != TrustFamily && p.Trust != TrustGuest {
		v.add("trust", "must be owner, family or guest")
	}
	if len(p.Note) > 500 {
		v.add("note", "a note has at most 500 bytes")
	}
	if p.Owner != "" && s.User(p.Owner) == nil {
		v.add("owner", "there is no user %q", p.Owner)
	}
	for i, id := range p.Services {
		if id != GrantAll && s.Service(id) == nil {
			v.add("services/"+strconv.Itoa(i), "there is no service %q", id)
		}
	}
	for i, name := range p.Peers {
		if name == p.Name || !peers.has(name) {
			v.add("peers/"+strconv.Itoa(i), "there is no other peer %q", name)
		}
	}
	for i, name := range p.LAN {
		if !slices.ContainsFunc(s.Network.LAN, func(l LAN) bool { return l.Name == name }) {
			v.add("lan/"+strconv.Itoa(i), "there is no network %q in /network/lan", name)
		}
	}
}

// Identical is a quick answer for the usual case, in which two states share
// what an edit did not touch. It holds only for equal peers; when it does not
// hold, look closer.
func (p *Peer) Identical(o *Peer) bool {
	return p.Name == o.Name && p.PublicKey == o.PublicKey && p.PresharedKey == o.PresharedKey &&
		p.Address4 == o.Address4 && p.Address6 == o.Address6 && p.Destinations == o.Destinations &&
		p.Keepalive == o.Keepalive && p.Exit == o.Exit && p.ExitUntil == o.ExitUntil && p.ExitThen == o.ExitThen && p.Expires == o.Expires && p.Enabled == o.Enabled &&
		p.Note == o.Note && p.Owner == o.Owner && p.Trust == o.Trust && p.Created == o.Created &&
		sharedList(p.ExitChoice, o.ExitChoice) && sharedList(p.Socks, o.Socks) && sharedList(p.Services, o.Services) && sharedList(p.Peers, o.Peers) && sharedList(p.LAN, o.LAN)
}

// sharedList reports whether two lists are one, or both empty and written alike.
func sharedList(a, b []string) bool {
	return len(a) == len(b) && (a == nil) == (b == nil) && (len(a) == 0 || &a[0] == &b[0])
}
