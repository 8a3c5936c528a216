package exits

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// socketOptions marks a socket before it connects and binds it to a link, ""
// for none. Both: the mark chooses the exit's table, and the binding keeps the
// socket off every other link should that table be gone.
func socketOptions(mark uint32, link string) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		cerr := c.Control(func(fd uintptr) {
			if err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark)); err == nil && link != "" {
				err = unix.BindToDevice(int(fd), link)
			}
		})
		if cerr != nil {
			return cerr
		}
		return err
	}
}

// routed is the dialer of a routed exit.
func routed(e *Exit) Dialer { return &net.Dialer{Control: socketOptions(e.Mark, e.Link)} }
