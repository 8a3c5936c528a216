package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

const (
	tcpIdle       = 10 * time.Second // RFC 7766 §6.2.3; also the longest a message may take to arrive
	tcpWrite      = 5 * time.Second
	maxTCP        = 256  // connections to one address
	maxTCPSource  = 16   // of one source
	maxTCPQueries = 4096 // on one connection
	maxPipeline   = 64   // answers outstanding on one connection (RFC 7766 §6.2.1.1)
	maxReaders    = 4    // UDP sockets of one address
)

// listener serves one address over UDP and TCP.
type listener struct {
	server *Server
	addr   netip.AddrPort
	udp    []*udpSocket
	tcp    *net.TCPListener

	mu      sync.Mutex
	closed  bool
	conns   map[*net.TCPConn]netip.Addr
	sources map[netip.Addr]int
}

// open binds the sockets of an address, or none. IP_FREEBIND lets it bind
// before the tunnel link exists (ip(7)).
func (s *Server) open(a netip.AddrPort) (*listener, error) {
	v := "4"
	if a.Addr().Is6() {
		v = "6"
	}
	lc := net.ListenConfig{Control: listenOptions}
	// TCP first: sockets that share a port don't notice another server of the
	// same user that shares it too, this one does.
	t, err := lc.Listen(s.base, "tcp"+v, a.String())
	if err != nil {
		return nil, listenError("tcp", a, err)
	}
	l := &listener{server: s, addr: a, tcp: t.(*net.TCPListener), conns: map[*net.TCPConn]netip.Addr{}, sources: map[netip.Addr]int{}}
	// One socket for each core: readers of one socket wait for each other. A
	// bridge has few clients, and there may be many bridges.
	readers := min(runtime.GOMAXPROCS(0), maxReaders)
	if slices.ContainsFunc(s.tables.Load().plan.Bridges, func(b Bridge) bool {
		return slices.ContainsFunc(b.Prefixes, func(p netip.Prefix) bool { return p.Contains(a.Addr()) })
	}) {
		readers = 1
	}
	for range readers {
		c, err := openUDP(a)
		if err != nil {
			_ = t.Close()
			for _, c := range l.udp {
				c.release()
			}
			return nil, listenError("udp", a, err)
		}
		l.udp = append(l.udp, c)
	}
	for _, c := range l.udp {
		s.guarded("dns udp "+a.String(), func(ctx context.Context) error { return l.serveUDP(ctx, c) }, c.release)
	}
	s.guarded("dns tcp "+a.String(), l.serveTCP)
	return l, nil
}

// guarded runs f until it returns, then finally; after a panic f runs again.
func (s *Server) guarded(name string, f func(context.Context) error, finally ...func()) {
	s.work.Go(func() {
		defer func() {
			for _, g := range finally {
				g()
			}
		}()
		if err := lifecycle.Guard(s.base, s.log, name, s.counters.panicked, f); err != nil {
			s.log.Error("listener ended", "listener", name, "error", err)
		}
	})
}

func listenOptions(network, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) { err = setListenOptions(int(fd), network) }); cerr != nil {
		return cerr
	}
	return err
}

func setListenOptions(fd int, network string) error {
	level, freebind, info := unix.IPPROTO_IP, unix.IP_FREEBIND, unix.IP_PKTINFO
	if network[len(network)-1] == '6' {
		level, freebind, info = unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, unix.IPV6_RECVPKTINFO
	}
	if err := unix.SetsockoptInt(fd, level, freebind, 1); err != nil {
		return err
	}
	if strings.HasPrefix(network, "udp") {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return err
		}
	}
	return unix.SetsockoptInt(fd, level, info, 1)
}

func (l *listener) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, c := range l.udp {
		c.close()
	}
	_ = l.tcp.Close()
	for c := range l.conns {
		_ = c.Close()
	}
}

// serveUDP answers in the reading goroutine what needs no forwarder, so a
// flood waits in the socket's buffer and nowhere else.
func (l *listener) serveUDP(ctx context.Context, c *udpSocket) error {
	b := newBatch()
	for !c.done() && ctx.Err() == nil {
		n, err := b.receive(c.fd)
		if err != nil {
			continue // nothing came for a while, or an ICMP error of an earlier answer
		}
		lifecycle.Fault("dns udp listener")
		for i := 0; i < n; i++ { // after a panic, from the message behind its cause
			l.protect(func() {
				for ; i < n; i++ {
					l.answer(c, b, i)
				}
			})
		}
		b.send(c.fd)
	}
	return nil
}

// answer answers message i of a batch.
func (l *listener) answer(c *udpSocket, b *batch, i int) {
	query, src, ok := b.query(i)
	if !ok {
		l.server.counters.dropped.Add(1)
		return
	}
	from := origin{src: src.Addr().Unmap().WithZone(""), link: b.ingress(c.fd, i)}
	if out := l.server.quick(query, from, b.buffer()); out != nil {
		b.reply(i, out)
		return
	}
	now, to := true, b.names[i] // the batch is used again before a later answer
	later := l.server.respond(query, from, func(out []byte) {
		if now {
			b.reply(i, out)
			return
		}
		_ = c.sendTo(out, &to)
	})
	now = false
	if later != nil {
		l.server.work.Go(func() { l.protect(later) })
	}
}

// protect keeps a panic to the one query that caused it, and reports whether
// there was none.
func (l *listener) protect(f func()) bool {
	err := lifecycle.Protect(l.server.log, "dns query", func() error { f(); return nil })
	if err != nil {
		l.server.counters.panicked()
	}
	return err == nil
}

func (l *listener) serveTCP(ctx context.Context) error {
	pause := time.Duration(0)
	for {
		c, err := l.tcp.AcceptTCP()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
				return nil
			}
			// Out of descriptors, for one: wait a little, or the loop is all we do.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(pause):
			}
			continue
		}
		pause = 0
		l.welcome(c)
	}
}

// welcome answers on one connection, or closes it.
func (l *listener) welcome(c *net.TCPConn) {
	served := false
	defer func() {
		if !served { // after a panic too: nobody else would
			_ = c.Close()
		}
	}()
	lifecycle.Fault("dns tcp listener")
	src := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap().WithZone("")
	if served = l.admit(c, src); !served {
		return
	}
	l.server.work.Go(func() {
		defer l.dismiss(c, src)
		l.protect(func() { l.serveConn(c, origin{src: src, link: connLink(c), tcp: true}) })
	})
}

func (l *listener) admit(c *net.TCPConn, src netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || len(l.conns) >= maxTCP || l.sources[src] >= maxTCPSource {
		return false
	}
	l.conns[c] = src
	l.sources[src]++
	return true
}

func (l *listener) dismiss(c *net.TCPConn, src netip.Addr) {
	_ = c.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
	if l.sources[src]--; l.sources[src] == 0 {
		delete(l.sources, src)
	}
}

// serveConn reads queries one behind the other and answers each as soon as
// its answer is there (RFC 7766 §6.2.1.1, §7).
func (l *listener) serveConn(c *net.TCPConn, from origin) {
	var (
		wmu     sync.Mutex
		pending sync.WaitGroup
		broken  atomic.Bool
		slots   = make(chan struct{}, maxPipeline)
	)
	defer pending.Wait()
	lifecycle.Fault("dns tcp connection")
	send := func(b []byte) {
		wmu.Lock()
		defer wmu.Unlock()
		_ = c.SetWriteDeadline(time.Now().Add(tcpWrite))
		if _, err := c.Write(frame(b)); err != nil {
			broken.Store(true)
		}
	}
	for range maxTCPQueries {
		_ = c.SetReadDeadline(time.Now().Add(tcpIdle))
		b, err := readFrame(c)
		if err != nil || broken.Load() {
			if !errors.Is(err, io.EOF) { // the client that only closed its half still reads
				_ = c.SetDeadline(time.Now())
			}
			return
		}
		var later func()
		if !l.protect(func() { later = l.server.respond(b, from, send) }) {
			return // the client asks again at once, instead of waiting for what won't come
		}
		if later == nil {
			continue
		}
		slots <- struct{}{}
		pending.Go(func() {
			defer func() { <-slots }()
			if !l.protect(later) {
				_ = c.Close()
			}
		})
	}
}

// frame puts the length before a message, for one write (RFC 7766 §8).
func frame(b []byte) []byte {
	return append(binary.BigEndian.AppendUint16(make([]byte, 0, len(b)+2), uint16(len(b))), b...)
}
