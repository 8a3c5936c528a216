package tunnel

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/personal-internet-cell/pic/cell"
)

// KindWireGuard is the rtnetlink kind of a kernel WireGuard link.
const KindWireGuard = "wireguard"

var (
	// ErrNoLink: there is no link of that name.
	ErrNoLink = errors.New("no such link")
	// ErrNoWireGuard: the kernel can't make WireGuard links.
	ErrNoWireGuard = errors.New("this kernel has no WireGuard")
	// ErrPortTaken: another program holds the listen port.
	ErrPortTaken = errors.New("the UDP port is taken by another program")
	// ErrForeignLink: a link of our name exists and is not ours.
	ErrForeignLink = errors.New("the link belongs to another program")
)

// Kernel is what this package needs of the operating system. [NewHost] is the
// real one; tests bring one of their own. Calls are made one at a time.
type Kernel interface {
	// Link returns ErrNoLink when there is none.
	Link(name string) (Link, error)
	// AddLink makes a WireGuard link, down; ErrNoWireGuard when it can't.
	AddLink(name string, mtu int) error
	// DeleteLink succeeds when there is none.
	DeleteLink(name string) error
	SetMTU(name string, mtu int) error
	// SetUp fails with EADDRINUSE when the listen port is taken.
	SetUp(name string) error
	Addresses(name string) ([]netip.Prefix, error)
	AddAddress(name string, p netip.Prefix) error
	// DeleteAddress succeeds when there is none.
	DeleteAddress(name string, p netip.Prefix) error
	// WireGuard is the device behind a link of kind wireguard.
	WireGuard(name string) WireGuard
	// Embed runs a WireGuard device in this process, on a TUN of that name.
	Embed(name string, mtu int) (Embedded, error)
	// Watch calls event, from one goroutine, for each change of a link or an
	// address, until ctx is done (nil) or the subscription breaks (an error).
	Watch(ctx context.Context, event func(Event)) error
}

// Link is a network interface as the kernel has it.
type Link struct {
	Index int
	Kind  string
	MTU   int
	Up    bool
}

// Event is a change of a link or of its addresses. Name is empty where only the
// index is known.
type Event struct {
	Name  string
	Index int
}

// WireGuard reads and changes one device.
type WireGuard interface {
	Show() (Observed, error)
	// Set changes what the patch names and leaves all else alone. It fails with
	// EADDRINUSE, having changed nothing of the port, when the port is taken.
	Set(Patch) error
}

// Embedded is a device that lives in this process.
type Embedded interface {
	WireGuard
	// Up opens the sockets; EADDRINUSE when the port is taken.
	Up() error
	// Closed reports whether the device has ended, for instance because
	// somebody deleted its link.
	Closed() bool
	// Close ends the device and removes its link.
	Close()
}

// Observed is a device as it is.
type Observed struct {
	PublicKey    cell.Key // empty: no key yet
	ListenPort   uint16
	FirewallMark uint32
	Peers        []ObservedPeer
}

// ObservedPeer is a peer as the device has it.
type ObservedPeer struct {
	PublicKey     cell.Key
	PresharedKey  cell.Secret // empty: none
	AllowedIPs    []netip.Prefix
	Endpoint      netip.AddrPort // invalid: never seen
	LastHandshake time.Time      // zero: never
	ReceivedBytes uint64
	SentBytes     uint64
	Keepalive     time.Duration
}

// Patch is a change of a device. What is nil or empty is left as it is.
type Patch struct {
	PrivateKey   cell.Secret
	ListenPort   *uint16
	FirewallMark *uint32
	// Peers are the only ones touched, in this order.
	Peers []PeerPatch
}

// Empty reports whether there is nothing to do.
func (p *Patch) Empty() bool {
	return p.PrivateKey.Empty() && p.ListenPort == nil && p.FirewallMark == nil && len(p.Peers) == 0
}

// PeerPatch adds, changes or removes one peer.
type PeerPatch struct {
	PublicKey cell.Key
	Remove    bool
	// PresharedKey nil leaves the key as it is, empty takes it away.
	PresharedKey *cell.Secret
	// AllowedIPs replace those of this peer, when not nil.
	AllowedIPs []netip.Prefix
	// Keepalive nil leaves the interval as it is.
	Keepalive *time.Duration
	// Endpoint invalid leaves it as it is.
	Endpoint netip.AddrPort
}
