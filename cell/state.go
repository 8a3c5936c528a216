package cell

import "slices"

// Schema is the version of the State document this program reads and writes.
const Schema = 1

// Revision numbers a committed state. It is a counter, never a timestamp;
// 0 means "none".
type Revision uint64

// State is everything a person has decided about their cell. It is read-only
// once committed: an [Edit] works on a clone.
type State struct {
	Schema   int       `json:"schema"`
	Identity Identity  `json:"identity"`
	Network  Network   `json:"network"`
	DNS      DNS       `json:"dns"`
	Clock    Clock     `json:"clock"`
	TLS      TLS       `json:"tls"`
	DDNS     DDNS      `json:"ddns"`
	Users    []User    `json:"users"`
	Peers    []Peer    `json:"peers"`
	Links    []Link    `json:"links"`
	Exits    []Exit    `json:"exits"`
	Chains   []Chain   `json:"chains,omitempty"`
	Services []Service `json:"services"`
}

// Edit changes a state in place. It must be deterministic, because it may be
// run again on a newer state: keys, ids and times are made before the edit and
// captured. An edit may assign to any field and to elements of the top-level
// lists; it replaces nested slices, maps and pointers instead of writing
// through them, because [State.Clone] shares those.
type Edit func(*State) error

// Clone returns a state that an [Edit] may change without touching s. The
// top-level lists are copied, everything nested in their elements is shared.
func (s *State) Clone() *State {
	c := *s
	c.Users = slices.Clone(s.Users)
	c.Peers = slices.Clone(s.Peers)
	c.Links = slices.Clone(s.Links)
	c.Exits = slices.Clone(s.Exits)
	c.Chains = slices.Clone(s.Chains)
	c.Services = slices.Clone(s.Services)
	c.Network.LAN = slices.Clone(s.Network.LAN)
	c.Network.Forwards = slices.Clone(s.Network.Forwards)
	c.DNS.Forwarders = slices.Clone(s.DNS.Forwarders)
	c.DNS.Records = slices.Clone(s.DNS.Records)
	c.TLS.Authorities = slices.Clone(s.TLS.Authorities)
	return &c
}

// Normalize replaces nil lists by empty ones, so that documents never carry null.
func (s *State) Normalize() {
	s.Users = orEmpty(s.Users)
	s.Peers = orEmpty(s.Peers)
	s.Links = orEmpty(s.Links)
	s.Exits = orEmpty(s.Exits)
	s.Services = orEmpty(s.Services)
	s.Network.LAN = orEmpty(s.Network.LAN)
	s.Network.Forwards = orEmpty(s.Network.Forwards)
	s.Network.Policy = orEmpty(s.Network.Policy)
	s.DNS.Forwarders = orEmpty(s.DNS.Forwarders)
	s.DNS.Records = orEmpty(s.DNS.Records)
	s.TLS.Authorities = orEmpty(s.TLS.Authorities)
	s.DNS.RebindAllow = orEmpty(s.DNS.RebindAllow)
	s.Clock.Sources = orEmpty(s.Clock.Sources)
	for i := range s.Peers {
		p := &s.Peers[i]
		p.Services, p.Peers, p.LAN = orEmpty(p.Services), orEmpty(p.Peers), orEmpty(p.LAN)
	}
	for i := range s.Services {
		v := &s.Services[i]
		v.Ports, v.Capabilities = orEmpty(v.Ports), orEmpty(v.Capabilities)
	}
	for i := range s.Network.LAN {
		l := &s.Network.LAN[i]
		l.Prefixes, l.Addresses = orEmpty(l.Prefixes), orEmpty(l.Addresses)
	}
	for i := range s.DNS.Records {
		s.DNS.Records[i].Views = orEmpty(s.DNS.Records[i].Views)
	}
	for i := range s.TLS.Authorities {
		s.TLS.Authorities[i].Domains = orEmpty(s.TLS.Authorities[i].Domains)
	}
	for i := range s.Chains {
		c := &s.Chains[i]
		c.Members, c.Schedule = orEmpty(c.Members), orEmpty(c.Schedule)
	}
	for i := range s.Links {
		s.Links[i].Prefixes = orEmpty(s.Links[i].Prefixes)
	}
}

func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// Claimed reports whether somebody owns this cell: an admin exists. Nothing is
// offered to the internet or to peers before that.
func (s *State) Claimed() bool {
	return slices.ContainsFunc(s.Users, func(u User) bool { return u.Role == RoleAdmin })
}

// Peer returns the peer of that name, or nil. The result points into s.
func (s *State) Peer(name string) *Peer {
	return find(s.Peers, func(p *Peer) bool { return p.Name == name })
}

// Exit returns the exit of that id, or nil.
func (s *State) Exit(id string) *Exit {
	return find(s.Exits, func(e *Exit) bool { return e.ID == id })
}

// Service returns the service of that id, or nil.
func (s *State) Service(id string) *Service {
	return find(s.Services, func(v *Service) bool { return v.ID == id })
}

// User returns the user of that name, or nil.
func (s *State) User(name string) *User {
	return find(s.Users, func(u *User) bool { return u.Name == name })
}

func find[T any](s []T, match func(*T) bool) *T {
	for i := range s {
		if match(&s[i]) {
			return &s[i]
		}
	}
	return nil
}

// SecretRefs lists every reference the state holds, for collection of secrets
// that no kept revision names. Order is the order of the document; empty
// references are left out.
func (s *State) SecretRefs() []SecretRef {
	var refs []SecretRef
	add := func(r SecretRef) {
		if r != "" {
			refs = append(refs, r)
		}
	}
	add(s.Network.Tunnel.PrivateKey)
	for i := range s.TLS.Authorities {
		add(s.TLS.Authorities[i].RootKey)
		add(s.TLS.Authorities[i].IssuingKey)
	}
	add(s.TLS.SolverToken)
	add(s.DDNS.TOTPSecret)
	add(s.DDNS.Token)
	for i := range s.Users {
		add(s.Users[i].PasswordHash)
		if f := s.Users[i].SecondFactor; f != nil {
			add(f.Secret)
		}
	}
	for i := range s.Peers {
		add(s.Peers[i].PresharedKey)
	}
	for i := range s.Links {
		add(s.Links[i].PresharedKey)
	}
	for i := range s.Exits {
		e := &s.Exits[i]
		add(e.Credentials)
		if e.WireGuard != nil {
			add(e.WireGuard.PresharedKey)
		}
		if e.OpenVPN != nil {
			add(e.OpenVPN.Profile)
		}
	}
	return refs
}
