package dialer_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/exits/dialer"
)

// option reads an integer socket option.
func option(t *testing.T, c net.Conn, level, name int) (v int) {
	t.Helper()
	s, ok := c.(syscall.Conn)
	if !ok {
		t.Fatalf("a %T has no socket", c)
	}
	raw, err := s.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if cerr := raw.Control(func(fd uintptr) { v, err = unix.GetsockoptInt(int(fd), level, name) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return v
}

func TestDirectSocketsCarryTheirMark(t *testing.T) {
	if !inside(t) {
		return
	}
	internet(t)
	resolve := func(_ context.Context, host string) ([]netip.Addr, error) {
		if host != webName {
			return nil, errors.New("no such name")
		}
		return []netip.Addr{netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr(web6)}, nil // the first has nobody
	}
	for want, d := range map[int]*dialer.Direct{
		int(cell.MarkBypass): {Resolve: resolve},
		0x12:                 {Resolve: resolve, Mark: 0x12, Device: "lo"},
	} {
		for _, network := range []string{"tcp", "udp"} {
			c, err := d.DialContext(t.Context(), network, net.JoinHostPort(web4, "53"))
			if network == "tcp" {
				c, err = d.DialContext(t.Context(), network, net.JoinHostPort(webName, "80"))
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := option(t, c, unix.SOL_SOCKET, unix.SO_MARK); got != want {
				t.Errorf("%s: mark %#x, want %#x", network, got, want)
			}
			_ = c.Close()
		}
		_, err := d.DialContext(t.Context(), "tcp", "other.test:80")
		wantUpstream(t, err)
	}
	_, err := (&dialer.Direct{}).DialContext(t.Context(), "tcp", webName+":80") // never the system's resolver
	wantUpstream(t, err)
	_, err = (&dialer.Direct{Device: "nosuch0"}).DialContext(t.Context(), "tcp", web4+":80")
	wantUpstream(t, err)
}

func wantUpstream(t *testing.T, err error) {
	t.Helper()
	want(t, "a direct dial", err, dialer.ErrUpstream)
}
