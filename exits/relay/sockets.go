package relay

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// A socket is of one family: the kernel's lookup for IPv4 does not find
// dual-stack sockets.

// transparent lets a socket have addresses that are not the host's, and take
// what a tproxy rule sends it. It takes CAP_NET_ADMIN.
func transparent(network string, fd int) error {
	if network[len(network)-1] == '6' {
		return unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1)
	}
	return unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1)
}

// origins has datagrams carry their destination.
func origins(network string, fd int) error {
	if network[len(network)-1] == '6' {
		return unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_RECVORIGDSTADDR, 1)
	}
	return unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_RECVORIGDSTADDR, 1)
}

func reuse(_ string, fd int) error {
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
}

// freebind lets a socket have an address that is not there yet.
func freebind(network string, fd int) error {
	if network[len(network)-1] == '6' {
		return unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
	}
	return unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_FREEBIND, 1)
}

// control runs setters on a new socket before it is bound.
func control(set ...func(network string, fd int) error) func(string, string, syscall.RawConn) error {
	return func(network, _ string, c syscall.RawConn) error {
		var err error
		cerr := c.Control(func(fd uintptr) {
			for _, f := range set {
				if err = f(network, int(fd)); err != nil {
					return
				}
			}
		})
		if err = errors.Join(cerr, err); err != nil {
			return fmt.Errorf("setting up a %s socket: %w", network, err)
		}
		return nil
	}
}

// listenTCP has no keep-alives: peers are phones, and every probe wakes one.
// Idle connections end by the relay's own limit.
func listenTCP(ctx context.Context, addr netip.AddrPort, set ...func(string, int) error) (*net.TCPListener, error) {
	lc := net.ListenConfig{KeepAlive: -1, Control: control(set...)}
	lc.SetMultipathTCP(false) // has no IP_TRANSPARENT and no splice(2)
	l, err := lc.Listen(ctx, "tcp"+family(addr.Addr()), addr.String())
	if err != nil {
		return nil, err
	}
	t, ok := l.(*net.TCPListener)
	if !ok {
		return nil, errors.Join(errors.ErrUnsupported, l.Close())
	}
	return t, nil
}

func listenUDP(ctx context.Context, addr netip.AddrPort) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: control(transparent, origins, reuse)}
	p, err := lc.ListenPacket(ctx, "udp"+family(addr.Addr()), addr.String())
	if err != nil {
		return nil, err
	}
	u, ok := p.(*net.UDPConn)
	if !ok {
		return nil, errors.Join(errors.ErrUnsupported, p.Close())
	}
	return u, nil
}

// answerFrom makes the socket that speaks to a client in the name of whom it
// wanted. It is connected, and the kernel prefers it to the listener, so the
// rest of the flow arrives there.
func answerFrom(ctx context.Context, server, client netip.AddrPort) (*net.UDPConn, error) {
	d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(server), Control: control(transparent, reuse)}
	c, err := d.DialContext(ctx, "udp"+family(server.Addr()), client.String())
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UDPConn)
	if !ok {
		return nil, errors.Join(errors.ErrUnsupported, c.Close())
	}
	return u, nil
}

func family(a netip.Addr) string {
	if a.Unmap().Is4() {
		return "4"
	}
	return "6"
}

// originOf reads a datagram's destination from its control messages: a
// sockaddr_in or sockaddr_in6 (ip(7), IP_RECVORIGDSTADDR).
func originOf(oob []byte) (netip.AddrPort, bool) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return netip.AddrPort{}, false
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_ORIGDSTADDR && len(m.Data) >= 8:
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte(m.Data[4:8])), binary.BigEndian.Uint16(m.Data[2:])), true
		case m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_ORIGDSTADDR && len(m.Data) >= 24:
			return netip.AddrPortFrom(netip.AddrFrom16([16]byte(m.Data[8:24])), binary.BigEndian.Uint16(m.Data[2:])), true
		}
	}
	return netip.AddrPort{}, false
}

// reset closes a connection so that the other end sees a refusal, not an end.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}
