package proxy

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
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
	out := f.track(c)
	spare, ok := f.server.conns.take(out, src)
	if !ok {
		out.release()
		return nil
	}
	if spare != nil {
		f.server.refused.Add(1)
		_ = spare.SetDeadline(time.Unix(1, 0))
		_ = spare.Close() // its server finds out
	}
	return out
}

func (f *filter) track(c net.Conn) *counted {
	out := &counted{Conn: c, since: time.Now()}
	out.release = func() {
		f.server.conns.leave(out)
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
	key     netip.Addr // by which it is counted
	since   time.Time
	busy    atomic.Bool // a request is under way
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

// note follows what a connection is doing, for http.Server.ConnState. One whose
// first request has not been read is not busy, however slowly it comes.
func note(c net.Conn, state http.ConnState) {
	if t, is := c.(*tls.Conn); is {
		c = t.NetConn()
	}
	if own, is := c.(*counted); is {
		own.busy.Store(state == http.StateActive)
	}
}

// counter counts open connections, in all and per source.
type counter struct {
	mu    sync.Mutex
	total int
	by    map[netip.Addr]map[*counted]struct{}
}

// take counts c, unless its source or all together have too many: one household
// member must not lock the others out. When all together are too many, the
// source that has the most gives up one on which no request is under way:
// spare, which the caller closes. A quarter is kept for the household, whatever
// the internet does.
func (n *counter) take(c *counted, src netip.Addr) (spare *counted, ok bool) {
	c.key = src
	home := private(src) || src.IsLoopback()
	if src.Is6() && !home {
		// One host of the internet has a /64 to choose from (RFC 4291 §2.5.4).
		if p, err := src.Prefix(64); err == nil {
			c.key = p.Addr()
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	most := maxConns
	if !home {
		most -= maxConns / 4
	}
	mine := len(n.by[c.key])
	if mine >= maxConnsPerSource {
		return nil, false
	}
	if n.total >= most {
		if spare = n.spare(mine); spare == nil {
			return nil, false
		}
		n.remove(spare)
	}
	if n.by == nil {
		n.by = map[netip.Addr]map[*counted]struct{}{}
	}
	if n.by[c.key] == nil {
		n.by[c.key] = map[*counted]struct{}{}
	}
	n.by[c.key][c] = struct{}{}
	n.total++
	return spare, true
}

// spare is the oldest connection without a request of the source that has the
// most, if that is clearly more than mine.
func (n *counter) spare(mine int) (oldest *counted) {
	var richest map[*counted]struct{}
	for _, conns := range n.by {
		if len(conns) > len(richest) {
			richest = conns
		}
	}
	if len(richest) < mine+2 {
		return nil
	}
	for c := range richest {
		if !c.busy.Load() && (oldest == nil || c.since.Before(oldest.since)) {
			oldest = c
		}
	}
	return oldest
}

func (n *counter) leave(c *counted) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.remove(c)
}

// remove is called with mu held, perhaps twice for one connection.
func (n *counter) remove(c *counted) {
	conns := n.by[c.key]
	if _, there := conns[c]; !there {
		return
	}
	n.total--
	if delete(conns, c); len(conns) == 0 {
		delete(n.by, c.key)
	}
}

func (n *counter) open() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.total
}
