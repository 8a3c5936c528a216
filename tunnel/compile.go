package tunnel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/personal-internet-cell/pic/cell"
)

// Devices is the plan of this package: every WireGuard device the cell wants,
// by name. Empty means none, so an applied empty plan removes ours.
type Devices []Device

// Device is one WireGuard interface, wanted.
type Device struct {
	Name string
	// ListenPort 0 lets the kernel choose, once.
	ListenPort uint16
	// PrivateKey refers to the key; PublicKey is its public half.
	PrivateKey cell.SecretRef
	PublicKey  cell.Key
	// FirewallMark is set on carrier packets, so that the policy rules never
	// send them into an exit.
	FirewallMark uint32
	MTU          int
	// Addresses are the cell's own, each with the prefix length of its subnet.
	Addresses []netip.Prefix
	// Peers in order of their names.
	Peers []Peer
}

// Peer is an entry of a device.
type Peer struct {
	Name      string
	PublicKey cell.Key
	// PresharedKey may be empty: none.
	PresharedKey cell.SecretRef
	// AllowedIPs are the peer's own addresses, one of each family; cryptokey
	// routing makes them its proof of identity. The server of an exit has what it
	// carries.
	AllowedIPs []netip.Prefix
	// Endpoint is where the server of an exit is; invalid: not known yet, or a
	// peer, which comes to the cell.
	Endpoint netip.AddrPort
	// Keepalive is 0 (off) for peers: it is their NAT that must be kept open.
	Keepalive time.Duration
}

// Compile returns the devices that s wants, given f. It refuses a state in
// which two active peers, or a peer and the cell, share a key or an address:
// WireGuard would silently give the address to the last one. An unclaimed cell
// has no tunnel.
func Compile(s *cell.State, f cell.Facts) (Devices, error) {
	if !s.Claimed() {
		return nil, nil
	}
	t := s.Network.Tunnel
	gw4, gw6 := t.Gateway4(), t.Gateway6()
	if !gw4.IsValid() || !gw6.IsValid() {
		return nil, fmt.Errorf("compiling %s: the tunnel needs an IPv4 and an IPv6 subnet", cell.TunnelLink)
	}
	d := Device{
		Name:         cell.TunnelLink,
		ListenPort:   t.ListenPort,
		PrivateKey:   t.PrivateKey,
		PublicKey:    t.PublicKey,
		FirewallMark: cell.MarkBypass,
		MTU:          t.MTU,
		Addresses:    []netip.Prefix{netip.PrefixFrom(gw4, t.Prefix4.Bits()), netip.PrefixFrom(gw6, t.Prefix6.Bits())},
	}
	expired := make(map[string]bool, len(f.Expired))
	for _, name := range f.Expired {
		expired[name] = true
	}
	d.Peers = make([]Peer, 0, len(s.Peers))
	ips := make([]netip.Prefix, 0, 2*len(s.Peers)) // of all peers, cut into pieces
	for i := range s.Peers {
		p := &s.Peers[i]
		if !p.Enabled || expired[p.Name] {
			continue
		}
		begin := len(ips)
		for _, a := range [2]netip.Addr{p.Address4, p.Address6} {
			if a.IsValid() {
				ips = append(ips, netip.PrefixFrom(a, a.BitLen()))
			}
		}
		d.Peers = append(d.Peers, Peer{
			Name: p.Name, PublicKey: p.PublicKey, PresharedKey: p.PresharedKey,
			AllowedIPs: ips[begin:len(ips):len(ips)],
		})
	}
	byName := func(a, b Peer) int { return strings.Compare(a.Name, b.Name) }
	if !slices.IsSortedFunc(d.Peers, byName) {
		slices.SortFunc(d.Peers, byName)
	}
	if err := d.validate(); err != nil {
		return nil, fmt.Errorf("compiling %s: %w", d.Name, err)
	}
	return append(Devices{d}, exitDevices(s, &f)...), nil
}

// validate reports everything that would make WireGuard do something else than
// the plan says.
func (d *Device) validate() error {
	var errs []error
	keys := make(map[cell.Key]string, len(d.Peers)+1)
	keys[d.PublicKey] = "the cell"
	addrs := make(map[netip.Addr]string, 2*len(d.Peers)+2)
	for _, a := range d.Addresses {
		addrs[a.Addr()] = "the cell"
	}
	if !d.PublicKey.Valid() {
		errs = append(errs, errors.New("the cell's public key is not a WireGuard key"))
	}
	for i := range d.Peers {
		p := &d.Peers[i]
		if !p.PublicKey.Valid() {
			errs = append(errs, fmt.Errorf("peer %s: the public key is not a WireGuard key", p.Name))
		} else if who, ok := keys[p.PublicKey]; ok {
			errs = append(errs, fmt.Errorf("peer %s has the public key of %s", p.Name, who))
		}
		keys[p.PublicKey] = p.Name
		if len(p.AllowedIPs) == 0 {
			errs = append(errs, fmt.Errorf("peer %s has no address", p.Name))
		}
		for _, a := range p.AllowedIPs {
			if who, ok := addrs[a.Addr()]; ok {
				errs = append(errs, fmt.Errorf("peer %s has the address %s of %s", p.Name, a.Addr(), who))
			}
			addrs[a.Addr()] = p.Name
		}
	}
	return errors.Join(errs...)
}

// String returns the plan as ip(8) commands and wg(8) configuration, secrets as
// references. Equal plans give equal text.
func (ds Devices) String() string {
	var b strings.Builder
	for i := range ds {
		if i > 0 {
			b.WriteByte('\n')
		}
		ds[i].write(&b)
	}
	return b.String()
}

func (d *Device) write(b *strings.Builder) {
	fmt.Fprintf(b, "ip link add %s type wireguard\n", d.Name)
	for _, a := range d.Addresses {
		fmt.Fprintf(b, "ip address add %s dev %s\n", a, d.Name)
	}
	fmt.Fprintf(b, "ip link set %s mtu %d up\n", d.Name, d.MTU)
	fmt.Fprintf(b, "\n# %s, public key %s\n[Interface]\nPrivateKey = secret:%s\n", d.Name, d.PublicKey, d.PrivateKey)
	if d.ListenPort != 0 {
		fmt.Fprintf(b, "ListenPort = %d\n", d.ListenPort)
	}
	fmt.Fprintf(b, "FwMark = %#x\n", d.FirewallMark)
	for i := range d.Peers {
		p := &d.Peers[i]
		fmt.Fprintf(b, "\n# peer %s\n[Peer]\nPublicKey = %s\n", p.Name, p.PublicKey)
		if p.PresharedKey != "" {
			fmt.Fprintf(b, "PresharedKey = secret:%s\n", p.PresharedKey)
		}
		fmt.Fprintf(b, "AllowedIPs = %s\n", joinPrefixes(p.AllowedIPs))
		if p.Endpoint.IsValid() {
			fmt.Fprintf(b, "Endpoint = %s\n", p.Endpoint)
		}
		if p.Keepalive != 0 {
			fmt.Fprintf(b, "PersistentKeepalive = %d\n", int(p.Keepalive.Seconds()))
		}
	}
}

func joinPrefixes(ps []netip.Prefix) string {
	s := make([]string, len(ps))
	for i, p := range ps {
		s[i] = p.String()
	}
	return strings.Join(s, ", ")
}
