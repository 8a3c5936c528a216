package firewall_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/personal-internet-cell/pic/firewall"
)

// wire builds a packet with right checksums; id tells ICMP echo requests apart.
func wire(p firewall.Packet, id uint16) []byte {
	var l4 []byte
	var proto byte
	off := 0 // of the checksum
	switch p.Protocol {
	case "tcp":
		l4, proto, off = make([]byte, 20), unix.IPPROTO_TCP, 16
		l4[12], l4[13] = 5<<4, 2 // SYN
		binary.BigEndian.PutUint16(l4[14:], 1024)
	case "udp":
		l4, proto, off = make([]byte, 12), unix.IPPROTO_UDP, 6
		binary.BigEndian.PutUint16(l4[4:], 12)
	default:
		l4, proto, off = make([]byte, 8), unix.IPPROTO_ICMP, 2
		l4[0] = 8
		if p.Dst.Is6() {
			proto, l4[0] = unix.IPPROTO_ICMPV6, 128
		}
		binary.BigEndian.PutUint16(l4[4:], id)
	}
	if p.Protocol != "icmp" {
		binary.BigEndian.PutUint16(l4[0:], p.SrcPort)
		binary.BigEndian.PutUint16(l4[2:], p.DstPort)
	}
	var pseudo []byte
	if proto != unix.IPPROTO_ICMP {
		pseudo = append(append(pseudo, p.Src.AsSlice()...), p.Dst.AsSlice()...)
		pseudo = append(pseudo, 0, proto, byte(len(l4)>>8), byte(len(l4)))
	}
	binary.BigEndian.PutUint16(l4[off:], checksum(append(pseudo, l4...)))
	if p.Dst.Is6() {
		h := make([]byte, 40, 40+len(l4))
		h[0], h[6], h[7] = 6<<4, proto, 64
		binary.BigEndian.PutUint16(h[4:], uint16(len(l4)))
		copy(h[8:], p.Src.AsSlice())
		copy(h[24:], p.Dst.AsSlice())
		return append(h, l4...)
	}
	h := make([]byte, 20, 20+len(l4))
	h[0], h[8], h[9] = 0x45, 64, proto
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(l4)))
	copy(h[12:], p.Src.AsSlice())
	copy(h[16:], p.Dst.AsSlice())
	binary.BigEndian.PutUint16(h[10:], checksum(h))
	return append(h, l4...)
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// shot is a packet for the sending helper.
type shot struct {
	Packet firewall.Packet
	ID     uint16
	Bound  bool // the socket is bound to the source, which then decides the route
}

// sendHelper sends packets as they are, sources included, by the namespace's routes.
func sendHelper([]string) error {
	var list []shot
	if err := json.NewDecoder(os.Stdin).Decode(&list); err != nil {
		return err
	}
	var fds [2]int
	for i, family := range []int{unix.AF_INET, unix.AF_INET6} {
		fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		fds[i] = fd
	}
	for n, s := range list {
		b := wire(s.Packet, s.ID)
		fd, to := fds[0], unix.Sockaddr(&unix.SockaddrInet4{Addr: [4]byte(s.Packet.Dst.AsSlice()[:4])})
		if s.Packet.Dst.Is6() {
			fd, to = fds[1], &unix.SockaddrInet6{Addr: s.Packet.Dst.As16()}
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(s.Packet.Mark)); err != nil {
			return err
		}
		if s.Bound {
			from := unix.Sockaddr(&unix.SockaddrInet4{Addr: [4]byte(s.Packet.Src.AsSlice()[:4])})
			if s.Packet.Src.Is6() {
				from = &unix.SockaddrInet6{Addr: s.Packet.Src.As16()}
			}
			if err := unix.Bind(fd, from); err != nil {
				return err
			}
		}
		err := unix.Sendto(fd, b, 0, to)
		// A filter on the way out, or a missing route, is an outcome and no failure.
		for _, fine := range []error{unix.EPERM, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EACCES, unix.ENOBUFS} {
			if err == fine {
				err = nil
			}
		}
		if err != nil {
			return fmt.Errorf("%+v: %w", s.Packet, err)
		}
		if n%64 == 63 { // let neighbour discovery keep up
			poll := []unix.PollFd{}
			_, _ = unix.Poll(poll, 2)
		}
	}
	return nil
}

// serveHelper answers every TCP connection with a word and where it came from.
// Its arguments are the word and the addresses to listen on.
func serveHelper(args []string) error {
	for _, a := range args[1:] {
		ln, err := net.Listen("tcp", a)
		if err != nil {
			return err
		}
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
				fmt.Fprintf(c, "%s %s", args[0], host)
				_ = c.Close()
			}
		}()
	}
	fmt.Println("ready")
	select {} // the test kills this process
}

// relayHelper is a dialed exit's relay as far as the firewall cares:
// transparent listeners, v4 and v6, that say whom the connection was for.
func relayHelper(args []string) error {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if e := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1)
			if err != nil {
				err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1)
			}
			_ = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1)
		}); e != nil {
			return e
		}
		return err
	}}
	lc.SetMultipathTCP(false)
	for _, l := range []struct{ network, host string }{{"tcp4", "127.0.0.1"}, {"tcp6", "::1"}} {
		ln, err := lc.Listen(context.Background(), l.network, net.JoinHostPort(l.host, args[0]))
		if err != nil {
			return err
		}
		go serveRelay(ln)
	}
	fmt.Println("ready")
	select {} // the test kills this process
}

func serveRelay(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		fmt.Fprintf(c, "for %s", c.LocalAddr())
		_ = c.Close()
	}
}

// dialHelper connects from an address and prints what it is told.
func dialHelper(args []string) error {
	d := net.Dialer{Timeout: 2 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(args[0])}}
	c, err := d.Dial("tcp", args[1])
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(3 * time.Second))
	b := make([]byte, 200)
	n, err := c.Read(b)
	fmt.Print(string(b[:n]))
	return err
}
