package tunnel_test

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/tunnel"
)

var bg = context.Background()

// fakeKernel keeps links in memory and records what devices are told.
type fakeKernel struct {
	mu          sync.Mutex
	noWireGuard bool
	portTaken   uint16
	links       map[string]*fakeLink
	patches     []tunnel.Patch
	events      chan tunnel.Event
	breaks      chan error
	index       int
}

type fakeLink struct {
	link   tunnel.Link
	addrs  []netip.Prefix
	device tunnel.Observed
	k      *fakeKernel
	closed bool
}

func newFake() *fakeKernel {
	return &fakeKernel{links: map[string]*fakeLink{}, events: make(chan tunnel.Event), breaks: make(chan error)}
}

func (k *fakeKernel) add(name, kind string, mtu int) *fakeLink {
	k.index++
	l := &fakeLink{link: tunnel.Link{Index: k.index, Kind: kind, MTU: mtu}, k: k}
	k.links[name] = l
	return l
}

func (k *fakeKernel) Link(name string) (tunnel.Link, error) {
	if l := k.links[name]; l != nil {
		return l.link, nil
	}
	return tunnel.Link{}, tunnel.ErrNoLink
}

func (k *fakeKernel) AddLink(name string, mtu int) error {
	if k.noWireGuard {
		return tunnel.ErrNoWireGuard
	}
	if k.links[name] != nil {
		return unix.EEXIST
	}
	k.add(name, tunnel.KindWireGuard, mtu)
	return nil
}

func (k *fakeKernel) Embed(name string, mtu int) (tunnel.Embedded, error) {
	if k.links[name] != nil {
		return nil, unix.EBUSY
	}
	return k.add(name, "tuntap", mtu), nil
}

func (k *fakeKernel) DeleteLink(name string) error {
	if l := k.links[name]; l != nil {
		l.closed = true
	}
	delete(k.links, name)
	return nil
}

func (k *fakeKernel) SetMTU(name string, mtu int) error { k.links[name].link.MTU = mtu; return nil }

func (k *fakeKernel) SetUp(name string) error {
	l := k.links[name]
	if k.portTaken != 0 && l.device.ListenPort == k.portTaken {
		return unix.EADDRINUSE
	}
	l.link.Up = true
	return nil
}

func (k *fakeKernel) Addresses(name string) ([]netip.Prefix, error) {
	return slices.Clone(k.links[name].addrs), nil
}

func (k *fakeKernel) AddAddress(name string, p netip.Prefix) error {
	k.links[name].addrs = append(k.links[name].addrs, p)
	return nil
}

func (k *fakeKernel) DeleteAddress(name string, p netip.Prefix) error {
	l := k.links[name]
	l.addrs = slices.DeleteFunc(l.addrs, func(a netip.Prefix) bool { return a == p })
	return nil
}

func (k *fakeKernel) WireGuard(name string) tunnel.WireGuard { return kernelOnly{k.links[name]} }

// kernelOnly hides what only embedded devices have.
type kernelOnly struct{ tunnel.WireGuard }

func (k *fakeKernel) Watch(ctx context.Context, event func(tunnel.Event)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-k.events:
			event(e)
		case err := <-k.breaks:
			return err
		}
	}
}

func (l *fakeLink) Show() (tunnel.Observed, error) {
	l.k.mu.Lock()
	defer l.k.mu.Unlock()
	o := l.device
	o.Peers = slices.Clone(o.Peers)
	return o, nil
}

func (l *fakeLink) Set(p tunnel.Patch) error {
	l.k.mu.Lock()
	defer l.k.mu.Unlock()
	if p.ListenPort != nil && l.link.Up && *p.ListenPort == l.k.portTaken {
		return unix.EADDRINUSE
	}
	l.k.patches = append(l.k.patches, p)
	o := &l.device
	if !p.PrivateKey.Empty() {
		k, err := tunnel.PublicKey(p.PrivateKey)
		if err != nil {
			return err
		}
		o.PublicKey = k
	}
	if p.ListenPort != nil {
		o.ListenPort = *p.ListenPort
	}
	if p.FirewallMark != nil {
		o.FirewallMark = *p.FirewallMark
	}
	for _, x := range p.Peers {
		l.peer(x)
	}
	return nil
}

// peer behaves like the kernel: an allowed address that another peer holds
// moves, silently, and a key of the device's own is ignored.
func (l *fakeLink) peer(x tunnel.PeerPatch) {
	o := &l.device
	i := slices.IndexFunc(o.Peers, func(p tunnel.ObservedPeer) bool { return p.PublicKey == x.PublicKey })
	if x.Remove {
		if i >= 0 {
			o.Peers = slices.Delete(o.Peers, i, i+1)
		}
		return
	}
	if x.PublicKey == o.PublicKey {
		return
	}
	if i < 0 {
		o.Peers = append(o.Peers, tunnel.ObservedPeer{PublicKey: x.PublicKey})
		i = len(o.Peers) - 1
	}
	if x.PresharedKey != nil {
		o.Peers[i].PresharedKey = *x.PresharedKey
	}
	if x.Endpoint.IsValid() {
		o.Peers[i].Endpoint = x.Endpoint
	}
	if x.Keepalive != nil {
		o.Peers[i].Keepalive = *x.Keepalive
	}
	if x.AllowedIPs != nil {
		for j := range o.Peers {
			o.Peers[j].AllowedIPs = slices.DeleteFunc(slices.Clone(o.Peers[j].AllowedIPs), func(a netip.Prefix) bool {
				return j == i || slices.Contains(x.AllowedIPs, a)
			})
		}
		o.Peers[i].AllowedIPs = slices.Clone(x.AllowedIPs)
	}
}

func (l *fakeLink) Up() error {
	if l.k.portTaken != 0 && l.device.ListenPort == l.k.portTaken {
		l.device.ListenPort = 0 // as wireguard-go does
		return unix.EADDRINUSE
	}
	return nil
}

func (l *fakeLink) Closed() bool { return l.closed }

func (l *fakeLink) Close() {
	l.closed = true
	maps.DeleteFunc(l.k.links, func(_ string, x *fakeLink) bool { return x == l })
}

// take returns the patches recorded since the last call.
func (k *fakeKernel) take() []tunnel.Patch {
	p := k.patches
	k.patches = nil
	return p
}

func touched(ps []tunnel.Patch) []cell.Key {
	var out []cell.Key
	for _, p := range ps {
		for _, x := range p.Peers {
			out = append(out, x.PublicKey)
		}
	}
	return out
}
