package relay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

const (
	// udpIdle is how long a flow may be quiet (RFC 4787 REQ-5).
	udpIdle = 2 * time.Minute
	// dnsIdle is that of one question and one answer.
	dnsIdle = 15 * time.Second
	// maxPending datagrams wait for a flow's connection.
	maxPending = 8
	// failHold is how long a flow that could not be connected drops what comes,
	// before it is tried again.
	failHold    = time.Second
	maxDatagram = 65535
)

type udpCounters struct {
	accepted, refused, failed, idle, panics, dropped, up, down atomic.Uint64
}

// ends are a flow's: who sends and who is meant.
type ends struct{ src, dst netip.AddrPort }

// flow is the datagrams between two ends.
type flow struct {
	ends
	e *entry

	mu      sync.Mutex
	pending [][]byte // until up is there
	up      net.Conn
}

// flows are those of one listener.
type flows struct {
	r    *Relay
	bufs sync.Pool
	mu   sync.Mutex
	m    map[ends]*flow
}

// datagrams reads first datagrams of flows, and those that came before the
// flow had a socket of its own, until u is closed.
func (r *Relay) datagrams(ctx context.Context, u *net.UDPConn) error {
	fs := &flows{r: r, m: map[ends]*flow{}}
	var wg sync.WaitGroup
	defer wg.Wait()
	buf, oob := make([]byte, maxDatagram), make([]byte, 256)
	for {
		n, on, flags, src, err := u.ReadMsgUDPAddrPort(buf, oob)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			time.Sleep(acceptPause)
			continue
		}
		dst, ok := originOf(oob[:on])
		if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 || !ok || !relayable(dst) {
			r.udp.dropped.Add(1)
			continue
		}
		at := ends{netip.AddrPortFrom(src.Addr().Unmap(), src.Port()), netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())}
		if f := fs.take(at, buf[:n]); f != nil {
			wg.Go(func() { fs.run(ctx, f) })
		}
	}
}

// take gives a datagram to its flow, and returns the flow when it is new.
func (fs *flows) take(at ends, b []byte) (fresh *flow) {
	fs.mu.Lock()
	f := fs.m[at]
	if f == nil {
		e := fs.r.flows.add(at.src.Addr(), fs.idle(at))
		if e == nil {
			fs.mu.Unlock()
			fs.r.udp.refused.Add(1)
			fs.r.udp.dropped.Add(1)
			return nil
		}
		f = &flow{ends: at, e: e}
		fs.m[at] = f
		fresh = f
		fs.r.udp.accepted.Add(1)
	}
	fs.mu.Unlock()

	f.mu.Lock()
	up := f.up
	if up == nil {
		if len(f.pending) < maxPending {
			f.pending = append(f.pending, append([]byte(nil), b...))
		} else {
			fs.r.udp.dropped.Add(1)
		}
	}
	f.mu.Unlock()
	if up != nil {
		fs.send(f, up, b, &fs.r.udp.up)
	}
	return fresh
}

func (fs *flows) idle(at ends) time.Duration {
	if at.dst.Port() == 53 {
		return min(or(fs.r.cfg.UDPIdle, dnsIdle), dnsIdle)
	}
	return or(fs.r.cfg.UDPIdle, udpIdle)
}

// send writes one datagram; what does not fit is lost, as UDP is.
func (fs *flows) send(f *flow, to net.Conn, b []byte, total *atomic.Uint64) {
	if _, err := to.Write(b); err != nil {
		fs.r.udp.dropped.Add(1)
		return
	}
	total.Add(uint64(len(b)))
	f.e.last.Store(fs.r.flows.now())
}

// run connects a flow and copies its datagrams until it is quiet or ended.
func (fs *flows) run(ctx context.Context, f *flow) {
	defer func() {
		fs.mu.Lock()
		delete(fs.m, f.ends)
		fs.mu.Unlock()
		fs.r.flows.remove(f.e)
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f.e.onEnd(cancel)
	defer context.AfterFunc(ctx, f.e.abort)()
	_ = fs.protect(f, func() error {
		up, client, err := fs.connect(ctx, f)
		if err != nil {
			fs.r.udp.failed.Add(1)
			fs.r.cfg.Log.Debug("relay could not connect a flow", "exit", fs.r.cfg.ID, "error", err)
			select {
			case <-time.After(failHold):
			case <-ctx.Done():
			}
			return nil
		}
		defer up.Close()
		defer client.Close()
		f.e.onEnd(func() { _, _ = up.Close(), client.Close() })
		f.mu.Lock()
		for _, b := range f.pending {
			fs.send(f, up, b, &fs.r.udp.up)
		}
		f.pending, f.up = nil, up
		f.mu.Unlock()
		var wg sync.WaitGroup
		wg.Go(func() {
			defer f.e.abort()
			_ = fs.protect(f, func() error { return fs.copy(f, up, client, &fs.r.udp.up) })
		})
		defer wg.Wait()
		defer f.e.abort()
		return fs.copy(f, client, up, &fs.r.udp.down)
	})
}

func (fs *flows) protect(f *flow, run func() error) error {
	done := false
	err := lifecycle.Protect(fs.r.cfg.Log, "relay flow", func() error {
		err := run()
		done = true
		return err
	})
	if !done {
		fs.r.udp.panics.Add(1)
		f.e.abort()
	}
	return err
}

// connect dials and makes the socket that answers.
func (fs *flows) connect(ctx context.Context, f *flow) (up net.Conn, client *net.UDPConn, err error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if up, err = fs.r.cfg.Dial(ctx, "udp", f.dst, f.src.Addr()); err != nil {
		return nil, nil, err
	}
	if client, err = answerFrom(ctx, f.dst, f.src); err != nil {
		return nil, nil, errors.Join(err, up.Close())
	}
	return up, client, nil
}

// copy passes datagrams on until from fails. It has a buffer only while there
// is something to read.
func (fs *flows) copy(f *flow, to, from net.Conn, total *atomic.Uint64) error {
	var socket syscall.RawConn
	if s, ok := from.(syscall.Conn); ok {
		socket, _ = s.SyscallConn()
	}
	for {
		if socket != nil {
			if err := socket.Read(readable); err != nil {
				return err
			}
		}
		if err := fs.pass(f, to, from, total); err != nil {
			return err
		}
	}
}

func (fs *flows) pass(f *flow, to, from net.Conn, total *atomic.Uint64) error {
	b, ok := fs.bufs.Get().(*[maxDatagram]byte)
	if !ok {
		b = new([maxDatagram]byte)
	}
	defer fs.bufs.Put(b)
	n, err := from.Read(b[:])
	if err != nil {
		return err
	}
	fs.send(f, to, b[:n], total)
	return nil
}

// readable is false while a socket has nothing to read, not even an error.
func readable(fd uintptr) bool {
	p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(p[:], 0)
	return n > 0 || (err != nil && !errors.Is(err, unix.EINTR))
}
