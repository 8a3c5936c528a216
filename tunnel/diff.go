package tunnel

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/personal-internet-cell/pic/cell"
)

// secrets answers questions about values without handing them around: a diff
// needs a value only when it must be written.
type secrets interface {
	// is reports whether have is the value of ref; the empty reference is the
	// empty value.
	is(ref cell.SecretRef, have cell.Secret) (bool, error)
	value(ref cell.SecretRef) (cell.Secret, error)
}

// told remembers the endpoint that each peer of a device was last given. Where
// the peer was met since then (it roams) is the kernel's knowledge, no drift.
type told map[cell.Key]netip.AddrPort

// see remembers what is as wanted already.
func (t told) see(want *Device, have *Observed) {
	for i := range want.Peers {
		w := &want.Peers[i]
		if !w.Endpoint.IsValid() || t[w.PublicKey] == w.Endpoint {
			continue
		}
		for j := range have.Peers {
			if have.Peers[j].PublicKey == w.PublicKey && have.Peers[j].Endpoint == w.Endpoint {
				t[w.PublicKey] = w.Endpoint
			}
		}
	}
}

// note remembers what p gives.
func (t told) note(p *Patch) {
	for i := range p.Peers {
		switch x := &p.Peers[i]; {
		case x.Remove:
			delete(t, x.PublicKey)
		case x.Endpoint.IsValid():
			t[x.PublicKey] = x.Endpoint
		}
	}
}

// diff returns the smallest patch that makes have into want. An unreadable
// secret leaves its peer out (a peer whose key can't be set is not let in) and
// is reported; the other peers are not held up by it.
func diff(want *Device, have *Observed, sec secrets, given told) (Patch, []error) {
	var (
		patch Patch
		errs  []error
	)
	if have.PublicKey != want.PublicKey {
		k, err := devicePrivateKey(want, sec)
		if err != nil {
			errs = append(errs, err)
		} else {
			patch.PrivateKey = k
		}
	}
	if want.ListenPort != 0 && have.ListenPort != want.ListenPort {
		patch.ListenPort = &want.ListenPort
	}
	if have.FirewallMark != want.FirewallMark {
		patch.FirewallMark = &want.FirewallMark
	}
	wanted := make(map[cell.Key]bool, len(want.Peers))
	for i := range want.Peers {
		wanted[want.Peers[i].PublicKey] = true
	}
	known := make(map[cell.Key]*ObservedPeer, len(have.Peers))
	for i := range have.Peers {
		h := &have.Peers[i]
		known[h.PublicKey] = h
		// Removals come first: an address that moves to another peer is then
		// free when that peer asks for it.
		if !wanted[h.PublicKey] {
			patch.Peers = append(patch.Peers, PeerPatch{PublicKey: h.PublicKey, Remove: true})
		}
	}
	for i := range want.Peers {
		p, err := diffPeer(&want.Peers[i], known[want.Peers[i].PublicKey], sec, given[want.Peers[i].PublicKey])
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if p != nil {
			patch.Peers = append(patch.Peers, *p)
		}
	}
	return patch, errs
}

// diffPeer returns nil when have is as wanted; have is nil for a new peer. given
// is the endpoint it was last given. An endpoint that is not known any more is
// left as it is.
func diffPeer(want *Peer, have *ObservedPeer, sec secrets, given netip.AddrPort) (*PeerPatch, error) {
	p := PeerPatch{PublicKey: want.PublicKey}
	changed := have == nil
	if have == nil {
		have = &ObservedPeer{}
	}
	same, err := sec.is(want.PresharedKey, have.PresharedKey)
	if err == nil && !same {
		changed = true
		var k cell.Secret
		if k, err = sec.value(want.PresharedKey); err == nil {
			p.PresharedKey = &k
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading the preshared key of peer %s: %w", want.Name, err)
	}
	if !samePrefixes(want.AllowedIPs, have.AllowedIPs) {
		changed = true
		p.AllowedIPs = want.AllowedIPs
	}
	if have.Keepalive != want.Keepalive {
		changed = true
		p.Keepalive = &want.Keepalive
	}
	if want.Endpoint.IsValid() && have.Endpoint != want.Endpoint && (!have.Endpoint.IsValid() || given != want.Endpoint) {
		changed = true
		p.Endpoint = want.Endpoint
	}
	if !changed {
		return nil, nil
	}
	return &p, nil
}

// devicePrivateKey returns the key after making sure that it is the half of the
// public key that peers were given.
func devicePrivateKey(want *Device, sec secrets) (cell.Secret, error) {
	k, err := sec.value(want.PrivateKey)
	if err != nil {
		return k, fmt.Errorf("reading the private key of %s: %w", want.Name, err)
	}
	pub, err := PublicKey(k)
	if err != nil {
		return k, err
	}
	if pub != want.PublicKey {
		return k, fmt.Errorf("the private key %q of %s belongs to the public key %s, not to %s", want.PrivateKey, want.Name, pub, want.PublicKey)
	}
	return k, nil
}

// samePrefixes compares two lists as sets; both are short.
func samePrefixes(a, b []netip.Prefix) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(p netip.Prefix) bool { return !slices.Contains(b, p) })
}
