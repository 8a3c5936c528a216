package proxy

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

// Limits of the connections to us.
const (
	maxConns          = 4096
	maxConnsPerSource = 256
)

// filter is a listener that lets in whom the table admits, and not too many.
// The others are closed before a byte is read or written, TLS included.
type filter struct {
	net.Listener
	server *Server
	name   string
	plain  bool

	mu   sync.Mutex
	open map[*counted]struct{}
}

func (f *filter) Accept() (net.Conn, error) {
	for {
		c, err := f.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if in := f.admit(c); in != nil {
			return in, nil
		}
		f.server.refused.Add(1)
	}
}

// admit closes what may not come in, and returns nil then.
func (f *filter) admit(c net.Conn) (in net.Conn) {
	defer func() {
		if in == nil { // a panic too: nobody else would close it
			discard(c)
		}
	}()
	lifecycle.Fault(f.name)
	src, local := addrOf(c.RemoteAddr()), addrOf(c.LocalAddr())
	if !f.server.table.Load().admits(src, local, f.plain) {
		return nil
	}
	release, ok := f.server.conns.take(src)
	if !ok {
		return nil
	}
	return f.track(c, release)
}

func (f *filter) track(c net.Conn, release func()) *counted {
	out := &counted{Conn: c}
	out.release = func() {
		release()
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.open, out)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open == nil {
		f.open = map[*counted]struct{}{}
	}
	f.open[out] = struct{}{}
	return out
}

// cutAll closes every connection below TLS. http.Server.Close would first try
// to write a close_notify to each in turn, up to 5 s to one that does not read.
func (f *filter) cutAll() {
	f.mu.Lock()
	conns := make([]*counted, 0, len(f.open))
	for c := range f.open {
		conns = append(conns, c)
	}
	f.mu.Unlock()
	for _, c := range conns {
		_ = c.Close() // the stop is not the place to report it
	}
}

// discard closes without waiting for the peer.
func discard(c net.Conn) {
	_ = c.SetDeadline(time.Unix(1, 0))
	_ = c.Close() // nothing was exchanged, so nothing can be lost
}

func addrOf(a net.Addr) netip.Addr {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort().Addr().Unmap().WithZone("")
	}
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

// counted gives its place back when it is closed.
type counted struct {
	net.Conn
	once    sync.Once
	release func()
}

// Write gives up on a client that does not read.
func (c *counted) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(writeStall)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

func (c *counted) Close() error {
	c.once.Do(c.release)
	return c.Conn.Close()
}

// counter counts open connections, in all and per source.
type counter struct {
	mu    sync.Mutex
	total int
	by    map[netip.Addr]int
}

// take reserves a place. One household member must not lock the others out.
func (c *counter) take(src netip.Addr) (release func(), ok bool) {
	key := src
	if src.Is6() && !private(src) && !src.IsLoopback() {
		// One host of the internet has a /64 to choose from (RFC 4291 §2.5.4).
		if p, err := src.Prefix(64); err == nil {
			key = p.Addr()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.total >= maxConns || c.by[key] >= maxConnsPerSource {
		return nil, false
	}
	if c.by == nil {
		c.by = map[netip.Addr]int{}
	}
	c.total++
	c.by[key]++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.total--
		if c.by[key]--; c.by[key] == 0 {
			delete(c.by, key)
		}
	}, true
}

func (c *counter) open() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.total
}
