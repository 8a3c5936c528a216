package dialer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/personal-internet-cell/pic/cell"
)

const (
	// connectTimeout ends a connection attempt to one address.
	connectTimeout = 10 * time.Second
	// stagger is how long one address has before the next is tried beside it
	// (RFC 8305 §5).
	stagger = 250 * time.Millisecond
	// maxAddrs of a name are tried.
	maxAddrs = 8
)

// Direct makes the cell's own connections: to the servers of exits, and, with
// Mark and Device, through a routed exit. Its zero value is of use.
type Direct struct {
	// Mark is the SO_MARK of the sockets; 0 means [cell.MarkBypass]. Setting it
	// takes CAP_NET_ADMIN.
	Mark uint32
	// Device binds the sockets to an interface (SO_BINDTODEVICE); "" to none.
	Device string
	// Resolve looks up names; nil means that only addresses are dialed. It must
	// not ask through the exit that is being connected.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
}

var _ Dialer = (*Direct)(nil)

// DialContext connects to the first address that answers; they are tried in
// Resolve's order, each a quarter of a second after the one before. It takes at
// most ten seconds after the last one began.
func (d *Direct) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return nil, upstream("reading an address", err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, upstream("reading a port", err)
	}
	addrs, err := d.resolve(ctx, host)
	if err != nil {
		return nil, upstream("looking up "+clip(host), err)
	}
	dialer := net.Dialer{Timeout: connectTimeout, Control: d.control}
	dialer.SetMultipathTCP(false) // splice(2) and SO_MARK are for plain TCP
	return race(ctx, addrs, func(ctx context.Context, a netip.Addr) (net.Conn, error) {
		c, err := dialer.DialContext(ctx, network, netip.AddrPortFrom(a, uint16(port)).String())
		if err != nil {
			return nil, upstream("connecting", err)
		}
		return c, nil
	})
}

func (d *Direct) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a.Unmap()}, nil
	}
	if d.Resolve == nil {
		return nil, errors.New("names are not looked up here")
	}
	addrs, err := d.Resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	if len(addrs) == 0 {
		return nil, errors.New("the name has no address")
	}
	return addrs[:min(len(addrs), maxAddrs)], nil
}

func (d *Direct) control(_, _ string, c syscall.RawConn) error {
	mark := d.Mark
	if mark == 0 {
		mark = cell.MarkBypass
	}
	var err error
	cerr := c.Control(func(fd uintptr) {
		if err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark)); err != nil {
			err = fmt.Errorf("marking a socket: %w", err)
			return
		}
		if d.Device != "" {
			if err = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, d.Device); err != nil {
				err = fmt.Errorf("binding a socket to %s: %w", d.Device, err)
			}
		}
	})
	return errors.Join(cerr, err)
}

// race dials addrs one after the other, the next when the one before failed or
// takes long, and returns the first connection; the others are closed. When
// none answers it returns the first error. It waits for the losers, which
// return at once when their context ends.
func race(ctx context.Context, addrs []netip.Addr, dial func(context.Context, netip.Addr) (net.Conn, error)) (net.Conn, error) {
	if len(addrs) == 1 {
		return dial(ctx, addrs[0])
	}
	type result struct {
		c   net.Conn
		err error
	}
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan result, len(addrs))
	running, next := 0, 0
	start := func() {
		a := addrs[next]
		next++
		running++
		go func() {
			c, err := dial(ctx, a)
			results <- result{c, err}
		}()
	}
	defer func() {
		cancel()
		for ; running > 0; running-- { // dial returns at once: its context ended
			if r := <-results; r.c != nil {
				_ = r.c.Close()
			}
		}
	}()
	tick := time.NewTicker(stagger)
	defer tick.Stop()
	start()
	var first error
	for running > 0 {
		select {
		case <-tick.C:
			if next < len(addrs) {
				start()
			}
		case r := <-results:
			running--
			if r.err == nil {
				return r.c, nil
			}
			if first == nil {
				first = r.err
			}
			if next < len(addrs) {
				start()
			}
		}
	}
	return nil, first
}
