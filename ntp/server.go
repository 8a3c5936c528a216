package ntp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/personal-internet-cell/pic/internal/lifecycle"
	"github.com/personal-internet-cell/pic/internal/listen"
)

// Config is what a [Server] needs of the rest of the cell.
type Config struct {
	// Logger is required.
	Logger *slog.Logger
	// Clock is what is told; nil means the kernel's.
	Clock Clock
	// Adjust writes the clock; nil: it is never written, whatever the plan says.
	Adjust Adjuster
	// Memory keeps the last time that was right; nil: nothing is kept.
	Memory Memory
	// Built is when the program was built, before which no time can be right;
	// zero: unknown.
	Built time.Time
}

// Server answers clients by the plan it was last given. It is a
// [lifecycle.Task].
type Server struct {
	log   *slog.Logger
	clock Clock
	limit *limiter
	plan  atomic.Pointer[Sources]

	answers, kisses, dropped, panics atomic.Uint64

	base    context.Context // ends when Run does
	stop    context.CancelFunc
	work    sync.WaitGroup
	ready   chan struct{}
	replan  chan struct{} // the plan changed
	measure atomic.Pointer[[]Measurement]

	adjust      Adjuster
	store       Memory
	built       time.Time
	memory      atomic.Pointer[remembered]
	steered     atomic.Pointer[published] // nil: the kernel's account counts
	disciplined atomic.Pointer[disciplineStatus]
	ask         func(server string) reply
	others      func() string

	mu        sync.Mutex // Apply, Run's end, Status
	listeners *listen.Set[*net.UDPConn]

	inject func([]byte) // tests: called with every packet
}

// New makes a server that listens nowhere yet.
func New(c *Config) *Server {
	s := &Server{
		log: c.Logger, clock: c.Clock, limit: newLimiter(), ready: make(chan struct{}), replan: make(chan struct{}, 1),
	}
	s.listeners = listen.New(&listen.Config[*net.UDPConn]{
		Open: s.open, Close: func(c *net.UDPConn) { _ = c.Close() },
		Opened: func(a netip.AddrPort) { s.log.Info("telling the time", "address", a) },
		Closed: func(a netip.AddrPort) { s.log.Info("no longer telling the time", "address", a) },
	})
	if s.clock == nil {
		s.clock = &KernelClock{}
	}
	s.base, s.stop = context.WithCancel(context.Background())
	s.adjust, s.store, s.built = c.Adjust, c.Memory, c.Built
	s.ask, s.others = ask, func() string { return anotherDaemon("/") }
	s.plan.Store(&Sources{})
	s.recall()
	return s
}

func (s *Server) String() string { return "ntp" }

// Ready is closed once Run has begun; listeners come with Apply.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run keeps the server going until ctx is done, then closes every socket and
// waits for its goroutines. It must be called once.
func (s *Server) Run(ctx context.Context) error {
	close(s.ready)
	s.work.Go(func() {
		_ = lifecycle.Guard(s.base, s.log, "clock discipline", func() { s.panics.Add(1) }, s.steer)
	})
	<-ctx.Done()
	s.mu.Lock()
	s.stop()
	s.listeners.CloseAll()
	s.mu.Unlock()
	s.work.Wait()
	return nil
}

// Apply makes the server follow p: listeners are opened and closed by address,
// one that stays is not touched. The error names every address that can't be
// served; the others are.
func (s *Server) Apply(ctx context.Context, p Sources) (changed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.base.Err() != nil {
		return false, errors.New("applying the time plan: the time server has stopped")
	}
	if err := ctx.Err(); err != nil {
		return false, fmt.Errorf("applying the time plan: %w", err)
	}
	if !s.plan.Load().Equal(p) {
		s.plan.Store(&p)
		changed = true
		select {
		case s.replan <- struct{}{}:
		default:
		}
	}
	moved, err := s.listeners.Apply(p.Listen)
	return changed || moved, err
}

// open serves an address until its socket is closed.
func (s *Server) open(a netip.AddrPort) (*net.UDPConn, error) {
	c, err := bind(s.base, a)
	if err != nil {
		return nil, err
	}
	s.work.Go(func() {
		_ = lifecycle.Guard(s.base, s.log, "ntp "+a.String(), func() { s.panics.Add(1) }, func(ctx context.Context) error { return s.serve(ctx, c) })
	})
	return c, nil
}

// bind binds one address. IP_FREEBIND lets it bind before the tunnel link
// exists (ip(7)); SO_TIMESTAMPNS has the kernel say when a packet arrived.
func bind(ctx context.Context, a netip.AddrPort) (*net.UDPConn, error) {
	network, level, freebind := "udp4", unix.IPPROTO_IP, unix.IP_FREEBIND
	if a.Addr().Is6() {
		network, level, freebind = "udp6", unix.IPPROTO_IPV6, unix.IPV6_FREEBIND
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) {
			if err = unix.SetsockoptInt(int(fd), level, freebind, 1); err == nil {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
			}
		}); cerr != nil {
			return cerr
		}
		return err
	}}
	p, err := lc.ListenPacket(ctx, network, a.String())
	if err != nil {
		return nil, listen.Problem("udp", a, err, fmt.Sprintf("another time server holds it (ss -lunp 'sport = :%d' names it): stop that one from serving, or start the cell with another --ntp-port", a.Port()))
	}
	return p.(*net.UDPConn), nil
}

// serve answers until its socket is closed. One goroutine does: an answer
// takes microseconds, and a flood waits in the socket's buffer.
func (s *Server) serve(ctx context.Context, c *net.UDPConn) error {
	buf, oob := make([]byte, 2048), make([]byte, 128)
	for {
		n, on, _, src, err := c.ReadMsgUDPAddrPort(buf, oob)
		if err != nil {
			if errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
				return nil
			}
			continue // an ICMP error of an earlier answer
		}
		lifecycle.Fault("ntp listener")
		if err := lifecycle.Protect(s.log, "ntp packet", func() error {
			received, ok := arrival(oob[:on])
			if !ok {
				received = s.clock.Now()
			}
			if out, ok := s.respond(buf[:n], src, received); ok {
				_, _ = c.WriteToUDPAddrPort(out[:], src)
			}
			return nil
		}); err != nil {
			s.panics.Add(1)
		}
	}
}

// respond decides about one packet; false is silence.
func (s *Server) respond(b []byte, src netip.AddrPort, received time.Time) ([packetSize]byte, bool) {
	if s.inject != nil {
		s.inject(b)
	}
	lifecycle.Fault("ntp packet")
	r, ok := parse(b)
	from := src.Addr().Unmap().WithZone("")
	if !ok || src.Port() == 0 || !s.plan.Load().client(from) {
		s.dropped.Add(1)
		return [packetSize]byte{}, false
	}
	switch s.limit.take(from, time.Now()) {
	case serve:
		s.answers.Add(1)
		state := s.read()
		return answer(r, state, received, s.clock.Now()), true
	case kiss:
		s.kisses.Add(1)
		return kissRate(r), true
	}
	s.dropped.Add(1)
	return [packetSize]byte{}, false
}

// arrival is the kernel's receive time in a control message.
func arrival(oob []byte) (time.Time, bool) {
	for len(oob) >= unix.SizeofCmsghdr {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return time.Time{}, false
		}
		if h.Level == unix.SOL_SOCKET && h.Type == unix.SO_TIMESTAMPNS {
			return timespec(data)
		}
		oob = rest
	}
	return time.Time{}, false
}
