package tunnel

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/personal-internet-cell/pic/cell"
)

// host is the machine this process runs on, in its network namespace.
type host struct {
	log   *slog.Logger
	plain bool
}

// NewHost returns the kernel of this machine. plain makes embedded devices do
// without segmentation offload.
func NewHost(log *slog.Logger, plain bool) Kernel { return &host{log, plain} }

func isAddrInUse(err error) bool { return errors.Is(err, unix.EADDRINUSE) }

// again repeats a dump that the kernel says was interrupted by a change.
func again[T any](dump func() (T, error)) (T, error) {
	for i := 0; ; i++ {
		v, err := dump()
		if !errors.Is(err, netlink.ErrDumpInterrupted) || i == 10 {
			return v, err
		}
	}
}

func (h *host) link(name string) (netlink.Link, error) {
	l, err := again(func() (netlink.Link, error) { return netlink.LinkByName(name) })
	if _, missing := err.(netlink.LinkNotFoundError); missing {
		return nil, ErrNoLink
	}
	return l, err
}

func (h *host) Link(name string) (Link, error) {
	l, err := h.link(name)
	if err != nil {
		return Link{}, err
	}
	a := l.Attrs()
	return Link{Index: a.Index, Kind: l.Type(), MTU: a.MTU, Up: a.Flags&net.FlagUp != 0}, nil
}

func (h *host) AddLink(name string, mtu int) error {
	a := netlink.NewLinkAttrs()
	a.Name, a.MTU = name, mtu
	err := netlink.LinkAdd(&netlink.Wireguard{LinkAttrs: a})
	if errors.Is(err, unix.EOPNOTSUPP) { // rtnetlink's answer to a kind it has no module for
		return ErrNoWireGuard
	}
	return err
}

func (h *host) DeleteLink(name string) error {
	l, err := h.link(name)
	if errors.Is(err, ErrNoLink) {
		return nil
	}
	if err != nil {
		return err
	}
	if err = netlink.LinkDel(l); errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

func (h *host) SetMTU(name string, mtu int) error {
	l, err := h.link(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetMTU(l, mtu)
}

func (h *host) SetUp(name string) error {
	l, err := h.link(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

func (h *host) Addresses(name string) ([]netip.Prefix, error) {
	l, err := h.link(name)
	if err != nil {
		return nil, err
	}
	as, err := again(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, err
	}
	out := make([]netip.Prefix, 0, len(as))
	for _, a := range as {
		if p, ok := fromIPNet(*a.IPNet); ok {
			out = append(out, p)
		}
	}
	return out, nil
}

func (h *host) AddAddress(name string, p netip.Prefix) error {
	l, err := h.link(name)
	if err != nil {
		return err
	}
	n := toIPNet(p)
	a := &netlink.Addr{IPNet: &n}
	if p.Addr().Is6() {
		// Nobody else can hold an address on a point-to-point tunnel, and DNS
		// binds to it at once (RFC 4862 §5.4 lets an interface skip DAD).
		a.Flags = unix.IFA_F_NODAD
	}
	if err = netlink.AddrAdd(l, a); errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

func (h *host) DeleteAddress(name string, p netip.Prefix) error {
	l, err := h.link(name)
	if err != nil {
		return err
	}
	n := toIPNet(p)
	if err = netlink.AddrDel(l, &netlink.Addr{IPNet: &n}); errors.Is(err, unix.EADDRNOTAVAIL) {
		return nil
	}
	return err
}

func (h *host) WireGuard(name string) WireGuard { return kernelDevice(name) }

func (h *host) Embed(name string, mtu int) (Embedded, error) {
	e, err := newEmbedded(name, mtu, h.plain, h.log)
	if err != nil {
		return nil, err
	}
	return e, nil
}

func (h *host) Watch(ctx context.Context, event func(Event)) error {
	done := make(chan struct{})
	links := make(chan netlink.LinkUpdate, 64)
	addrs := make(chan netlink.AddrUpdate, 64)
	broken := make(chan error, 1)
	note := func(err error) {
		select {
		case broken <- err:
		default:
		}
	}
	if err := netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{ErrorCallback: note}); err != nil {
		close(done)
		return fmt.Errorf("subscribing to link events: %w", err)
	}
	// The library's goroutines end when their channels are read to the end.
	defer func() {
		for range links {
		}
	}()
	if err := netlink.AddrSubscribeWithOptions(addrs, done, netlink.AddrSubscribeOptions{ErrorCallback: note}); err != nil {
		close(done)
		return fmt.Errorf("subscribing to address events: %w", err)
	}
	defer func() {
		for range addrs {
		}
	}()
	defer close(done)
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-broken: // ENOBUFS among them: events were lost
			return fmt.Errorf("reading link events: %w", err)
		case u, ok := <-links:
			if !ok {
				return errors.New("reading link events: the subscription ended")
			}
			event(Event{Name: u.Attrs().Name, Index: u.Attrs().Index})
		case u, ok := <-addrs:
			if !ok {
				return errors.New("reading address events: the subscription ended")
			}
			event(Event{Index: u.LinkIndex})
		}
	}
}

// kernelDevice is a link of kind wireguard, by name.
type kernelDevice string

// open returns a client for one operation. It is opened late, because the
// generic netlink family exists only once the module is loaded.
func (d kernelDevice) open() (*wgctrl.Client, error) {
	c, err := wgctrl.New()
	if err != nil {
		return nil, fmt.Errorf("opening generic netlink: %w", err)
	}
	return c, nil
}

func (d kernelDevice) Show() (Observed, error) {
	c, err := d.open()
	if err != nil {
		return Observed{}, err
	}
	defer c.Close()
	dev, err := c.Device(string(d))
	if err != nil {
		return Observed{}, err
	}
	if dev.Type != wgtypes.LinuxKernel {
		return Observed{}, fmt.Errorf("%s is served by another program, not by the kernel", d)
	}
	o := Observed{ListenPort: uint16(dev.ListenPort), FirewallMark: uint32(dev.FirewallMark)}
	if dev.PrivateKey != (wgtypes.Key{}) {
		o.PublicKey = cell.Key(dev.PublicKey.String())
	}
	o.Peers = make([]ObservedPeer, 0, len(dev.Peers))
	for i := range dev.Peers {
		o.Peers = append(o.Peers, observedPeer(&dev.Peers[i]))
	}
	return o, nil
}

func observedPeer(p *wgtypes.Peer) ObservedPeer {
	o := ObservedPeer{
		PublicKey:     cell.Key(base64.StdEncoding.EncodeToString(p.PublicKey[:])),
		PresharedKey:  encodeKey(p.PresharedKey),
		Keepalive:     p.PersistentKeepaliveInterval,
		ReceivedBytes: uint64(p.ReceiveBytes),
		SentBytes:     uint64(p.TransmitBytes),
	}
	if !p.LastHandshakeTime.IsZero() && p.LastHandshakeTime.UnixNano() != 0 {
		o.LastHandshake = p.LastHandshakeTime
	}
	if p.Endpoint != nil {
		ap := p.Endpoint.AddrPort()
		o.Endpoint = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	for _, a := range p.AllowedIPs {
		if x, ok := fromIPNet(a); ok {
			o.AllowedIPs = append(o.AllowedIPs, x)
		}
	}
	return o
}

func (d kernelDevice) Set(p Patch) error {
	cfg, err := kernelConfig(&p)
	if err != nil {
		return err
	}
	c, err := d.open()
	if err != nil {
		return err
	}
	defer c.Close()
	return c.ConfigureDevice(string(d), cfg)
}

// kernelConfig never sets ReplacePeers: that would end every session.
func kernelConfig(p *Patch) (wgtypes.Config, error) {
	var cfg wgtypes.Config
	if !p.PrivateKey.Empty() {
		k, err := decodeKey(p.PrivateKey.Reveal())
		if err != nil {
			return cfg, fmt.Errorf("writing the private key: %w", err)
		}
		cfg.PrivateKey = (*wgtypes.Key)(&k)
	}
	if p.ListenPort != nil {
		n := int(*p.ListenPort)
		cfg.ListenPort = &n
	}
	if p.FirewallMark != nil {
		n := int(*p.FirewallMark)
		cfg.FirewallMark = &n
	}
	cfg.Peers = make([]wgtypes.PeerConfig, 0, len(p.Peers))
	for i := range p.Peers {
		x := &p.Peers[i]
		k, err := decodeKey(string(x.PublicKey))
		if err != nil {
			return cfg, fmt.Errorf("writing peer %s: %w", x.PublicKey, err)
		}
		pc := wgtypes.PeerConfig{PublicKey: k, Remove: x.Remove, PersistentKeepaliveInterval: x.Keepalive, ReplaceAllowedIPs: x.AllowedIPs != nil}
		if x.Endpoint.IsValid() {
			pc.Endpoint = net.UDPAddrFromAddrPort(x.Endpoint)
		}
		if x.PresharedKey != nil {
			var psk [keySize]byte // zero takes the key away
			if !x.PresharedKey.Empty() {
				if psk, err = decodeKey(x.PresharedKey.Reveal()); err != nil {
					return cfg, fmt.Errorf("writing the preshared key of peer %s: %w", x.PublicKey, err)
				}
			}
			pc.PresharedKey = (*wgtypes.Key)(&psk)
		}
		for _, a := range x.AllowedIPs {
			pc.AllowedIPs = append(pc.AllowedIPs, toIPNet(a))
		}
		cfg.Peers = append(cfg.Peers, pc)
	}
	return cfg, nil
}

// The libraries speak net.IPNet; nothing else of this package does.

func toIPNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func fromIPNet(n net.IPNet) (netip.Prefix, bool) {
	a, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if !ok || bits == 0 {
		return netip.Prefix{}, false
	}
	if bits == 32 {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, ones), true
}
