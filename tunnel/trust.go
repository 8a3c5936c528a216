package tunnel

import (
	"fmt"
	"slices"

	"github.com/personal-internet-cell/pic/cell"
)

// trust is a device as it was settled last. With thousands of peers reading a
// device back costs more than any change to it, so a change is worked out
// against this instead while nothing speaks against it.
//
// An embedded device is in nobody else's reach. A kernel device is trusted only
// while Watch runs, which looks at its peers every two seconds and hears of its
// link: what it finds ends the trust, and then the device is read again.
type trust struct {
	device Device
	index  int // of the kernel's link: one made anew has another
}

// trust remembers that d is as wanted. The caller holds mu.
func (c *Controller) trust(d *Device) {
	if d.Name != cell.TunnelLink { // an exit has one peer, and where that is, is the device's to say
		return
	}
	if c.embedded[d.Name] == nil && (c.watches == 0 || c.names[d.Name] == 0) {
		return
	}
	c.trusted[d.Name] = trust{*d, c.names[d.Name]}
}

// doubt ends the trust in kernel devices.
func (c *Controller) doubt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range c.trusted {
		if c.embedded[name] == nil {
			delete(c.trusted, name)
		}
	}
}

// watching is called when a Watch begins; what it returns when it ends.
func (c *Controller) watching() (done func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watches++
	return func() {
		c.mu.Lock()
		c.watches--
		c.mu.Unlock()
		c.doubt()
	}
}

// patch is the smallest patch that makes the device as d wants it. The device
// is not trusted until [Controller.trust] says so again.
func (c *Controller) patch(d *Device, wg WireGuard, created bool) (Patch, []error, error) {
	old, ok := c.trusted[d.Name]
	delete(c.trusted, d.Name)
	// The link of an exit has one peer, whose endpoint moves: it is always read.
	if ok && d.Name == cell.TunnelLink && !created && old.index == c.names[d.Name] {
		p, errs := diffPlans(&old.device, d, &c.vault)
		return p, errs, nil
	}
	have, err := wg.Show()
	if err != nil {
		return Patch{}, nil, fmt.Errorf("reading the device: %w", err)
	}
	if c.told[d.Name] == nil {
		c.told[d.Name] = told{}
	}
	c.told[d.Name].see(d, &have)
	p, errs := diff(d, &have, &c.vault, c.told[d.Name])
	return p, errs, nil
}

// diffPlans is diff for a device that is as the plan old has it.
func diffPlans(old, want *Device, sec secrets) (Patch, []error) {
	var (
		patch Patch
		errs  []error
	)
	if old.PublicKey != want.PublicKey || old.PrivateKey != want.PrivateKey {
		k, err := devicePrivateKey(want, sec)
		if err != nil {
			errs = append(errs, err)
		} else {
			patch.PrivateKey = k
		}
	}
	if old.ListenPort != want.ListenPort {
		patch.ListenPort = &want.ListenPort
	}
	if old.FirewallMark != want.FirewallMark {
		patch.FirewallMark = &want.FirewallMark
	}
	gone, came := differences(old.Peers, want.Peers)
	was := make(map[cell.Key]*Peer, len(gone))
	stays := make(map[cell.Key]bool, len(came))
	for _, p := range came {
		stays[p.PublicKey] = true
	}
	for _, p := range gone {
		was[p.PublicKey] = p
		if !stays[p.PublicKey] { // first, as in diff
			patch.Peers = append(patch.Peers, PeerPatch{PublicKey: p.PublicKey, Remove: true})
		}
	}
	for _, p := range came {
		x, changed, err := p.patchFrom(was[p.PublicKey], sec)
		if err != nil {
			errs = append(errs, err)
		} else if changed {
			patch.Peers = append(patch.Peers, x)
		}
	}
	return patch, errs
}

// patchFrom is how a peer of one plan becomes p of the next; old is nil for a
// new one.
func (p *Peer) patchFrom(old *Peer, sec secrets) (x PeerPatch, changed bool, err error) {
	x.PublicKey = p.PublicKey
	changed = old == nil
	if old == nil {
		old = &Peer{}
	}
	if old.PresharedKey != p.PresharedKey {
		k, err := sec.value(p.PresharedKey)
		if err != nil {
			return x, false, fmt.Errorf("reading the preshared key of peer %s: %w", p.Name, err)
		}
		x.PresharedKey, changed = &k, true
	}
	if !samePrefixes(p.AllowedIPs, old.AllowedIPs) {
		x.AllowedIPs, changed = p.AllowedIPs, true
	}
	return x, changed, nil
}

// differences walks two lists in the order of their names and returns what is
// in one and not alike in the other.
func differences(old, want []Peer) (gone, came []*Peer) {
	if len(old) == len(want) && (len(old) == 0 || &old[0] == &want[0]) {
		return nil, nil
	}
	i, j := 0, 0
	for i < len(old) && j < len(want) {
		a, b := &old[i], &want[j]
		switch {
		case a.equal(b):
			i, j = i+1, j+1
		case a.Name < b.Name:
			gone, i = append(gone, a), i+1
		case a.Name > b.Name:
			came, j = append(came, b), j+1
		default:
			gone, came = append(gone, a), append(came, b)
			i, j = i+1, j+1
		}
	}
	for ; i < len(old); i++ {
		gone = append(gone, &old[i])
	}
	for ; j < len(want); j++ {
		came = append(came, &want[j])
	}
	return gone, came
}

func (p *Peer) equal(o *Peer) bool {
	return p.Name == o.Name && p.PublicKey == o.PublicKey && p.PresharedKey == o.PresharedKey && slices.Equal(p.AllowedIPs, o.AllowedIPs) &&
		p.Endpoint == o.Endpoint && p.Keepalive == o.Keepalive
}

// Equal reports whether two plans are the same.
func (ds Devices) Equal(o Devices) bool {
	return slices.EqualFunc(ds, o, func(a, b Device) bool {
		gone, came := differences(a.Peers, b.Peers)
		return a.Name == b.Name && a.ListenPort == b.ListenPort && a.PrivateKey == b.PrivateKey && a.PublicKey == b.PublicKey &&
			a.FirewallMark == b.FirewallMark && a.MTU == b.MTU && slices.Equal(a.Addresses, b.Addresses) && len(gone)+len(came) == 0
	})
}

// Embedded reports whether the tunnel's device runs inside this process, without
// reading it.
func (c *Controller) Embedded() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.embedded[cell.TunnelLink] != nil
}
