package dns

import (
	"encoding/binary"
	"net"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The interface a query came in by is what the kernel says, never what the
// packet says. Over UDP it is in the control message of each packet
// (IP_PKTINFO, ip(7); IPV6_PKTINFO, RFC 3542 §6.1).
//
// Over TCP the accepted socket remembers the interface that the handshake came
// in by, and tells it through IP_PKTOPTIONS and IPV6_2292PKTOPTIONS when
// packet info is asked for. That serves the purpose of SO_BINDTODEVICE without
// its flaw: a socket bound to a device can't be made before the device is.

// infoIndex finds the interface index in control messages; 0 is none.
func infoIndex(oob []byte) uint32 {
	for len(oob) >= unix.SizeofCmsghdr {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return 0
		}
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			return binary.NativeEndian.Uint32(data) // ipi_ifindex
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			return binary.NativeEndian.Uint32(data[16:]) // ipi6_ifindex
		}
		oob = rest
	}
	return 0
}

// connLink returns the name of the interface a connection came in by.
func connLink(c *net.TCPConn) string {
	raw, err := c.SyscallConn()
	if err != nil {
		return ""
	}
	level, option := unix.IPPROTO_IP, pktOptions4
	if a, err := netip.ParseAddrPort(c.LocalAddr().String()); err != nil {
		return ""
	} else if a.Addr().Is6() && !a.Addr().Is4In6() {
		level, option = unix.IPPROTO_IPV6, pktOptions6
	}
	var buf [256]byte
	size := uint32(len(buf))
	link := ""
	if err := raw.Control(func(fd uintptr) {
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, uintptr(level), uintptr(option),
			uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&size)), 0)
		if errno == 0 && int(size) <= len(buf) {
			link = linkName(int(fd), infoIndex(buf[:size]))
		}
	}); err != nil {
		return ""
	}
	return link
}

// Socket options that x/sys/unix has no names for (linux/in.h, linux/in6.h).
const (
	pktOptions4 = 9 // IP_PKTOPTIONS
	pktOptions6 = 6 // IPV6_2292PKTOPTIONS
)

// linkName asks the kernel for the name of an interface each time: an answer
// kept could be that of a link that is gone.
func linkName(fd int, index uint32) string {
	if index == 0 {
		return ""
	}
	ifr, err := unix.NewIfreq("lo") // any name: the kernel overwrites it
	if err != nil {
		return ""
	}
	ifr.SetUint32(index)
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFNAME, ifr); err != nil {
		return ""
	}
	return ifr.Name()
}
