package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"

	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

// bind is the carrier of an embedded device: a UDP socket for each family on
// one port. It stands in for wireguard-go's conn.StdNetBind, which keeps
// destination addresses in a pool and, once a packet has gone out over IPv4,
// sends the next IPv6 packet to the first four bytes of its destination. A cell
// has peers of both families at once.
type bind struct {
	log    *slog.Logger
	mu     sync.RWMutex
	v4, v6 *carrier
}

const (
	// carrierBatch is how many packets go through one system call.
	carrierBatch = conn.IdealBatchSize
	// carrierBuffer is asked of the kernel for each direction; it may give less.
	carrierBuffer = 4 << 20
	// pktinfoSize holds one control message with an in6_pktinfo, the larger one.
	pktinfoSize = unix.SizeofCmsghdr + unix.SizeofInet6Pktinfo + 8
)

// batcher is what ipv4.PacketConn and ipv6.PacketConn have in common; their
// Message types are one.
type batcher interface {
	ReadBatch(ms []ipv6.Message, flags int) (int, error)
	WriteBatch(ms []ipv6.Message, flags int) (int, error)
}

// carrier is one socket.
type carrier struct {
	conn  *net.UDPConn
	batch batcher
	pool  sync.Pool // of *[]ipv6.Message, carrierBatch long
}

// endpoint is where a peer is, and at which of our addresses it wrote to us.
type endpoint struct {
	dst netip.AddrPort
	// src is the control message (IP_PKTINFO, IPV6_PKTINFO) of the packet that
	// the endpoint was learned from. Sent back, it makes the answer leave from
	// the address that the peer knows. Nil: the kernel chooses.
	src atomic.Pointer[[]byte]
}

var (
	_ conn.Bind     = (*bind)(nil)
	_ conn.Endpoint = (*endpoint)(nil)
)

// Open opens both sockets on port, or on one that is free in both families
// when port is 0. EADDRINUSE when either is taken.
func (b *bind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.v4 != nil || b.v6 != nil {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	for try := 0; ; try++ {
		v4, got, err := openCarrier("udp4", port)
		if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
			return nil, 0, err
		}
		if err != nil {
			got = port
		}
		v6, got, err := openCarrier("udp6", got)
		if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
			if v4 != nil {
				_ = v4.conn.Close()
			}
			if port == 0 && isAddrInUse(err) && try < 100 {
				continue
			}
			return nil, 0, err
		}
		var fns []conn.ReceiveFunc
		for _, c := range []*carrier{v4, v6} {
			if c != nil {
				fns = append(fns, b.guarded(c))
				if a, ok := c.conn.LocalAddr().(*net.UDPAddr); ok {
					got = a.AddrPort().Port()
				}
			}
		}
		if len(fns) == 0 {
			return nil, 0, unix.EAFNOSUPPORT
		}
		b.v4, b.v6 = v4, v6
		return fns, got, nil
	}
}

func openCarrier(network string, port uint16) (*carrier, uint16, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			// Best effort: the limit for the plain options is small, and FORCE needs CAP_NET_ADMIN.
			for opt, force := range map[int]int{unix.SO_RCVBUF: unix.SO_RCVBUFFORCE, unix.SO_SNDBUF: unix.SO_SNDBUFFORCE} {
				if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, force, carrierBuffer) != nil {
					_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, opt, carrierBuffer)
				}
			}
		})
	}}
	pc, err := lc.ListenPacket(context.Background(), network, ":"+strconv.Itoa(int(port)))
	if err != nil {
		return nil, 0, err
	}
	u, ok := pc.(*net.UDPConn)
	if !ok {
		_ = pc.Close()
		return nil, 0, fmt.Errorf("listening on %s: not a UDP socket", network)
	}
	c := &carrier{conn: u}
	c.pool.New = func() any {
		ms := make([]ipv6.Message, carrierBatch)
		for i := range ms {
			ms[i].Buffers = make([][]byte, 1)
			ms[i].OOB = make([]byte, 0, pktinfoSize)
		}
		return &ms
	}
	if network == "udp4" {
		p := ipv4.NewPacketConn(u)
		c.batch, err = p, p.SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true)
	} else {
		p := ipv6.NewPacketConn(u)
		c.batch, err = p, p.SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true)
	}
	if err != nil {
		_ = u.Close()
		return nil, 0, err
	}
	a, _ := u.LocalAddr().(*net.UDPAddr)
	return c, a.AddrPort().Port(), nil
}

// guarded is c's receive, where a panic costs the packets of one call: its
// caller, a goroutine of wireguard-go, would end the process.
func (b *bind) guarded(c *carrier) conn.ReceiveFunc {
	return func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (n int, err error) {
		if lifecycle.Protect(b.log, "tunnel receive", func() error {
			n, err = c.receive(bufs, sizes, eps)
			return nil
		}) != nil {
			return 0, nil
		}
		return n, err
	}
}

// receive is a conn.ReceiveFunc: it returns net.ErrClosed after Close.
func (c *carrier) receive(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	p := c.pool.Get().(*[]ipv6.Message)
	defer c.put(p)
	ms := (*p)[:min(len(bufs), carrierBatch)]
	for i := range ms {
		ms[i].Buffers[0] = bufs[i]
		ms[i].OOB = ms[i].OOB[:cap(ms[i].OOB)]
	}
	n, err := c.batch.ReadBatch(ms, 0)
	if err != nil {
		return 0, err
	}
	lifecycle.Fault("tunnel receive")
	for i := range ms[:n] {
		a, ok := ms[i].Addr.(*net.UDPAddr)
		if !ok {
			sizes[i] = 0 // skipped by the caller
			continue
		}
		from := a.AddrPort()
		e := &endpoint{dst: netip.AddrPortFrom(from.Addr().Unmap(), from.Port())}
		if ms[i].NN > 0 && ms[i].NN <= cap(ms[i].OOB) {
			src := slices.Clone(ms[i].OOB[:ms[i].NN])
			e.src.Store(&src)
		}
		sizes[i], eps[i] = ms[i].N, e
	}
	return n, nil
}

// put gives messages back without what they pointed to.
func (c *carrier) put(p *[]ipv6.Message) {
	for i := range *p {
		m := &(*p)[i]
		m.Buffers[0] = nil
		*m = ipv6.Message{Buffers: m.Buffers, OOB: m.OOB[:0]}
	}
	c.pool.Put(p)
}

// Send sends bufs to one endpoint.
func (b *bind) Send(bufs [][]byte, to conn.Endpoint) error {
	e, ok := to.(*endpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	b.mu.RLock()
	c := b.v4
	if e.dst.Addr().Is6() {
		c = b.v6
	}
	b.mu.RUnlock()
	if c == nil {
		return unix.EAFNOSUPPORT
	}
	for chunk := range slices.Chunk(bufs, carrierBatch) {
		err := c.send(chunk, e)
		if err != nil && e.src.Swap(nil) != nil {
			err = c.send(chunk, e) // the address it wrote to is ours no more
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *carrier) send(bufs [][]byte, e *endpoint) error {
	p := c.pool.Get().(*[]ipv6.Message)
	defer c.put(p)
	ms := (*p)[:len(bufs)]
	dst := net.UDPAddrFromAddrPort(e.dst)
	src := e.src.Load()
	for i := range ms {
		ms[i].Addr, ms[i].Buffers[0] = dst, bufs[i]
		if src != nil {
			ms[i].OOB = append(ms[i].OOB[:0], *src...)
		}
	}
	for len(ms) > 0 {
		n, err := c.batch.WriteBatch(ms, 0)
		if err != nil {
			return err
		}
		if n <= 0 {
			return fmt.Errorf("sending to %s: nothing was sent", e.dst)
		}
		ms = ms[n:]
	}
	return nil
}

// SetMark sets the firewall mark of packets sent from now on.
func (b *bind) SetMark(mark uint32) error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for _, c := range []*carrier{b.v4, b.v6} {
		if c == nil {
			continue
		}
		raw, err := c.conn.SyscallConn()
		if err != nil {
			return err
		}
		var inner error
		if err := raw.Control(func(fd uintptr) {
			inner = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark))
		}); err != nil {
			return err
		}
		if inner != nil {
			return inner
		}
	}
	return nil
}

func (b *bind) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var errs []error
	for _, c := range []*carrier{b.v4, b.v6} {
		if c != nil {
			errs = append(errs, c.conn.Close())
		}
	}
	b.v4, b.v6 = nil, nil
	return errors.Join(errs...)
}

func (b *bind) BatchSize() int { return carrierBatch }

func (b *bind) ParseEndpoint(s string) (conn.Endpoint, error) {
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return nil, err
	}
	return &endpoint{dst: netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())}, nil
}

func (e *endpoint) ClearSrc()           { e.src.Store(nil) }
func (e *endpoint) DstToString() string { return e.dst.String() }
func (e *endpoint) DstIP() netip.Addr   { return e.dst.Addr() }

func (e *endpoint) DstToBytes() []byte {
	b, _ := e.dst.MarshalBinary() // never fails
	return b
}

// SrcIP and SrcToString are for logs of verbose builds; the source is kept in
// the kernel's own form only.
func (e *endpoint) SrcIP() netip.Addr   { return netip.Addr{} }
func (e *endpoint) SrcToString() string { return "" }
