package firewall

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// socketBuffer is forced (SO_RCVBUFFORCE): with the default the answers to
// a large batch overflow, which looks like a failure and is none.
const socketBuffer = 32 << 20

// fdSetSize is how many descriptors select(2) knows of: FD_SETSIZE. The nftables
// library selects on its socket and panics on a higher one, so in a process that
// holds a thousand connections no table could be changed any more.
const fdSetSize = 1024

var errHighDescriptor = errors.New("the descriptor is beyond what select(2) takes")

// low keeps a few descriptors below [fdSetSize] from everybody else in the
// process. It is package state because descriptors are the process's own.
var low lowDescriptors

// dialNFT opens a socket of netfilter for the calls of one change. The caller
// closes it by CloseLasting.
func dialNFT() (*nftables.Conn, error) {
	low.fill()
	for {
		c, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(n *netlink.Conn) error {
			err := errors.Join(lowEnough(n), n.SetReadBuffer(socketBuffer), n.SetWriteBuffer(socketBuffer),
				n.SetDeadline(time.Now().Add(30*time.Second)))
			if err != nil {
				_ = n.Close() // the library does not
			}
			return err
		}))
		if errors.Is(err, errHighDescriptor) && low.release() {
			continue // the kernel gives the lowest free one (POSIX, "File Descriptor Allocation")
		}
		if err != nil {
			return nil, fmt.Errorf("opening a netfilter socket: %w", err)
		}
		return c, nil
	}
}

func lowEnough(n *netlink.Conn) error {
	raw, err := n.SyscallConn()
	if err != nil {
		return err
	}
	var high bool
	if err := raw.Control(func(fd uintptr) { high = fd >= fdSetSize }); err != nil {
		return err
	}
	if high {
		return errHighDescriptor
	}
	return nil
}

// lowDescriptors is a reserve of low descriptors. The zero value is empty.
type lowDescriptors struct {
	mu   sync.Mutex
	held []int
}

// reserved is enough for every call that may be under way at once, with some
// that another goroutine snatches between release and use.
const reserved = 16

// fill takes descriptors until the reserve is full or no low one is free.
func (l *lowDescriptors) fill() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.held) < reserved {
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
		if err != nil {
			return
		}
		if fd >= fdSetSize {
			_ = unix.Close(fd)
			return
		}
		l.held = append(l.held, fd)
	}
}

// release frees one, and reports whether there was one.
func (l *lowDescriptors) release() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.held) == 0 {
		return false
	}
	last := len(l.held) - 1
	_ = unix.Close(l.held[last])
	l.held = l.held[:last]
	return true
}
