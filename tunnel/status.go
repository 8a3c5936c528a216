package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/personal-internet-cell/pic/cell"
)

// OnlineWithin is how recent a handshake makes a peer "online": WireGuard
// rejects a session older than that (REJECT_AFTER_TIME, 180 s).
const OnlineWithin = 180 * time.Second

// Status is a device as it is now.
type Status struct {
	Device string
	// Backend is empty when there is no device.
	Backend      Backend
	Up           bool
	PublicKey    cell.Key
	ListenPort   uint16
	FirewallMark uint32
	// Peers by public key; never nil.
	Peers map[cell.Key]PeerStatus
}

// PeerStatus is what the device knows of a peer.
type PeerStatus struct {
	AllowedIPs []netip.Prefix
	// Endpoint is where the last authenticated packet came from; invalid before.
	Endpoint netip.AddrPort
	// LastHandshake is zero before the first.
	LastHandshake time.Time
	// ReceivedBytes and SentBytes count carrier payload since the peer was added.
	ReceivedBytes uint64
	SentBytes     uint64
	Online        bool
}

// Status reads the peers' device. A cell without one is no error.
func (c *Controller) Status(ctx context.Context) (Status, error) {
	return c.DeviceStatus(ctx, cell.TunnelLink)
}

// Handshake returns when the server of the exit with that link last proved
// itself; false when it never did, or there is no such device.
func (c *Controller) Handshake(link string) (at time.Time, ok bool) {
	s, err := c.DeviceStatus(context.Background(), link)
	if err != nil {
		return time.Time{}, false
	}
	for _, p := range s.Peers {
		if p.LastHandshake.After(at) {
			at = p.LastHandshake
		}
	}
	return at, !at.IsZero()
}

// DeviceStatus reads the device of that name: the tunnel's or an exit's. That
// there is none is no error.
func (c *Controller) DeviceStatus(ctx context.Context, device string) (Status, error) {
	s := Status{Device: device, Peers: map[cell.Key]PeerStatus{}}
	if err := ctx.Err(); err != nil {
		return s, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	l, err := c.kernel.Link(s.Device)
	if errors.Is(err, ErrNoLink) {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("reading link %s: %w", s.Device, err)
	}
	var wg WireGuard
	switch e := c.embedded[s.Device]; {
	case e != nil:
		s.Backend, wg = BackendUserspace, e
	case l.Kind == KindWireGuard:
		s.Backend, wg = BackendKernel, c.kernel.WireGuard(s.Device)
	default:
		return s, nil // foreign
	}
	o, err := wg.Show()
	if err != nil {
		return s, fmt.Errorf("reading device %s: %w", s.Device, err)
	}
	s.Up, s.PublicKey, s.ListenPort, s.FirewallMark = l.Up, o.PublicKey, o.ListenPort, o.FirewallMark
	now := time.Now()
	for i := range o.Peers {
		p := &o.Peers[i]
		s.Peers[p.PublicKey] = PeerStatus{
			AllowedIPs: p.AllowedIPs, Endpoint: p.Endpoint, LastHandshake: p.LastHandshake,
			ReceivedBytes: p.ReceivedBytes, SentBytes: p.SentBytes,
			Online: !p.LastHandshake.IsZero() && now.Sub(p.LastHandshake) < OnlineWithin,
		}
	}
	return s, nil
}
