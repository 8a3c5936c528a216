package dns

import (
	"fmt"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// udpSocket is a socket that one goroutine reads by blocking calls. The
// runtime's poller is left out of it on purpose: it asks to be told when a
// socket can be written to, so that each packet sent wakes it.
type udpSocket struct {
	fd int

	mu     sync.RWMutex // held to use fd outside its reader, and to close it
	closed bool
}

// ioTimeout, in seconds, bounds a blocking call. Nothing relies on it.
const ioTimeout = 10

// openUDP binds a socket that shares its port with those of other cores.
func openUDP(a netip.AddrPort) (*udpSocket, error) {
	family, network := unix.AF_INET, "udp4"
	var sa unix.Sockaddr
	if a.Addr().Is6() {
		family, network = unix.AF_INET6, "udp6"
		sa = &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	} else {
		sa = &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := prepareUDP(fd, network, sa); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return &udpSocket{fd: fd}, nil
}

func prepareUDP(fd int, network string, sa unix.Sockaddr) error {
	if err := setListenOptions(fd, network); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if network == "udp6" {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &unix.Timeval{Sec: ioTimeout}); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	return os.NewSyscallError("bind", unix.Bind(fd, sa))
}

// close wakes the reader, which is who gives the socket back by release.
func (s *udpSocket) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		// It reports ENOTCONN, as nothing is connected, and wakes who waits.
		_ = unix.Shutdown(s.fd, unix.SHUT_RDWR)
	}
}

func (s *udpSocket) done() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.closed
}

// release closes the descriptor; its reader must have returned.
func (s *udpSocket) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	_ = unix.Close(s.fd)
	s.fd = -1
}

// sendTo sends one answer from any goroutine.
func (s *udpSocket) sendTo(b []byte, to *unix.RawSockaddrInet6) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return os.ErrClosed
	}
	if to.Family == unix.AF_INET {
		a := sockaddr(to)
		return unix.Sendto(s.fd, b, unix.MSG_DONTWAIT, &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()})
	}
	if to.Family != unix.AF_INET6 {
		return fmt.Errorf("sending to address family %d: %w", to.Family, unix.EAFNOSUPPORT)
	}
	return unix.Sendto(s.fd, b, unix.MSG_DONTWAIT, &unix.SockaddrInet6{Port: int(port(&to.Port)), Addr: to.Addr, ZoneId: to.Scope_id})
}
