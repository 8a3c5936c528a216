package dialer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/personal-internet-cell/pic/cell"
)

// maxDatagram is what UDP carries at most, headers of SOCKS5 included.
const maxDatagram = 65535

// askUDP asks for an association (RFC 1928 §7) and returns its control
// connection, which it lives as long as, and where datagrams go.
func (p *Proxy) askUDP(ctx context.Context) (ctl net.Conn, to netip.AddrPort, err error) {
	if p.cfg.Protocol != cell.ProxySOCKS5 {
		return nil, netip.AddrPort{}, fmt.Errorf("%w: an HTTP proxy carries no UDP", ErrRefused)
	}
	c, err := p.carrier(ctx)
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	err = within(ctx, c, func() error {
		// The address that we will send from is not known yet: zeros.
		peer, _ := netip.ParseAddrPort(c.RemoteAddr().String())
		t := target{addr: netip.IPv4Unspecified()}
		if peer.Addr().Unmap().Is6() {
			t.addr = netip.IPv6Unspecified()
		}
		bound, err := p.socks(c, cmdAssociate, t)
		if err != nil {
			return err
		}
		to, err = relayAddr(bound, peer)
		return err
	})
	switch {
	case err == nil:
		p.udp.Store(true)
		return c, to, nil
	case errors.Is(err, ErrRefused):
		p.udp.Store(false)
	}
	_ = c.Close()
	return nil, netip.AddrPort{}, err
}

// relayAddr is where datagrams go: the address in the reply if it is one of
// the internet, else the proxy's own, because servers behind a translator tell
// their inner one and many tell 0.0.0.0, and because a hostile one must not
// point our sockets into the home.
func relayAddr(bound target, peer netip.AddrPort) (netip.AddrPort, error) {
	if bound.port == 0 {
		return netip.AddrPort{}, upstream("associating UDP", errors.New("port 0"))
	}
	a := bound.addr
	own := peer.Addr().Unmap()
	if !a.IsValid() || !a.IsGlobalUnicast() || a.IsPrivate() {
		a = own
	}
	if !a.IsValid() { // a carrier that is no TCP
		return netip.AddrPort{}, upstream("associating UDP", errors.New("the proxy has no address"))
	}
	return netip.AddrPortFrom(a, bound.port), nil
}

// associate opens an association for one destination.
func (p *Proxy) associate(ctx context.Context, t target) (net.Conn, error) {
	ctl, to, err := p.askUDP(ctx)
	if err != nil {
		return nil, err
	}
	u, err := p.cfg.Base.DialContext(ctx, "udp", to.String())
	if err != nil {
		_ = ctl.Close()
		return nil, err
	}
	c := &socksUDP{Conn: u, ctl: ctl, to: t, head: appendTarget([]byte{0, 0, 0}, t), buffers: p.buffers, ended: make(chan struct{})}
	// The association ends when the control connection does.
	go func() {
		defer close(c.ended)
		_, _ = io.CopyN(io.Discard, ctl, 1<<20)
		_ = u.Close()
		_ = ctl.Close()
	}()
	return c, nil
}

// socksUDP is one destination behind a UDP association. Its socket is
// connected to the proxy, so the kernel drops what others send.
type socksUDP struct {
	net.Conn
	ctl     net.Conn
	to      target
	head    []byte
	buffers *pool
	once    sync.Once
	ended   chan struct{}
}

// Write sends one datagram.
func (c *socksUDP) Write(p []byte) (int, error) {
	if len(p)+len(c.head) > maxDatagram {
		return 0, syscall.EMSGSIZE
	}
	b := c.buffers.get()
	defer c.buffers.put(b)
	n := copy(b[:], c.head)
	n += copy(b[n:], p)
	if _, err := c.Conn.Write(b[:n]); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Read returns the payload of the next datagram of the destination; others,
// and what is malformed, are dropped.
func (c *socksUDP) Read(p []byte) (int, error) {
	b := c.buffers.get()
	defer c.buffers.put(b)
	for {
		n, err := c.Conn.Read(b[:])
		if err != nil {
			return 0, err
		}
		from, payload, err := parseDatagram(b[:n])
		if err != nil || from.port != c.to.port || (c.to.addr.IsValid() && from.addr.IsValid() && from.addr != c.to.addr) {
			continue
		}
		return copy(p, payload), nil
	}
}

// Close ends the association.
func (c *socksUDP) Close() error {
	c.once.Do(func() {
		_ = c.ctl.SetDeadline(time.Unix(1, 0))
		_ = c.ctl.Close()
		_ = c.Conn.Close()
	})
	<-c.ended
	return nil
}

// RemoteAddr is the destination where it is an address, else the proxy.
func (c *socksUDP) RemoteAddr() net.Addr {
	if c.to.addr.IsValid() {
		return net.UDPAddrFromAddrPort(netip.AddrPortFrom(c.to.addr, c.to.port))
	}
	return c.Conn.RemoteAddr()
}

// SyscallConn gives the socket that datagrams arrive on, to wait for one.
func (c *socksUDP) SyscallConn() (syscall.RawConn, error) {
	if s, ok := c.Conn.(syscall.Conn); ok {
		return s.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// pool holds buffers for datagrams between uses.
type pool struct{ p sync.Pool }

func (p *pool) get() *[maxDatagram]byte {
	if b, ok := p.p.Get().(*[maxDatagram]byte); ok {
		return b
	}
	return new([maxDatagram]byte)
}

func (p *pool) put(b *[maxDatagram]byte) { p.p.Put(b) }
