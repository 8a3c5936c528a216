package ntp

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/beevik/ntp"
	"golang.org/x/sys/unix"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

const (
	compareEvery = 256 * time.Second
	lookEvery    = time.Minute
	queryTimeout = 3 * time.Second
)

// Measurement is one comparison of the clock with another server.
type Measurement struct {
	Server        string  `json:"server"`
	OffsetSeconds float64 `json:"offset_seconds"`
	DelaySeconds  float64 `json:"delay_seconds"`
	Stratum       int     `json:"stratum"`
	// Problem is empty for a measurement that counts.
	Problem string `json:"problem"`
}

// Query compares the clock with one server, host or host:port. It waits 3 s at
// most; the clock is not touched.
func Query(server string) Measurement {
	m := Measurement{Server: server}
	r, err := ntp.QueryWithOptions(server, ntp.QueryOptions{Timeout: queryTimeout, Dialer: dialBypass})
	if err != nil {
		m.Problem = err.Error()
		return m
	}
	m.OffsetSeconds, m.DelaySeconds, m.Stratum = r.ClockOffset.Seconds(), r.RTT.Seconds(), int(r.Stratum)
	if err := r.Validate(); err != nil {
		m.Problem = err.Error()
	}
	return m
}

// dialBypass keeps our own questions out of every exit.
func dialBypass(_, remote string) (net.Conn, error) {
	d := net.Dialer{Timeout: queryTimeout, Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(cell.MarkBypass))
		}); cerr != nil {
			return cerr
		}
		return err
	}}
	return d.Dial("udp", remote)
}

// compare asks the plan's servers now and then and looks who disciplines the
// clock, both for the status only.
func (s *Server) compare(ctx context.Context) error {
	tick, look := time.NewTicker(compareEvery), time.NewTicker(lookEvery)
	defer tick.Stop()
	defer look.Stop()
	for {
		s.look()
		s.compareOnce()
		for again := false; !again; {
			select {
			case <-ctx.Done():
				return nil
			case <-look.C:
				s.look()
			case <-tick.C:
				again = true
			case <-s.replan:
				again = true
			}
		}
	}
}

func (s *Server) look() {
	if k, ok := s.clock.(*KernelClock); ok {
		k.look()
	}
}

func (s *Server) compareOnce() {
	servers := s.plan.Load().Servers
	out := make([]Measurement, len(servers))
	var wg sync.WaitGroup
	for i, server := range servers {
		wg.Go(func() {
			if err := lifecycle.Protect(s.log, "ntp query", func() error { out[i] = Query(server); return nil }); err != nil {
				s.panics.Add(1)
				out[i] = Measurement{Server: server, Problem: err.Error()}
			}
		})
	}
	wg.Wait()
	s.measure.Store(&out)
}

// median of the offsets that count.
func median(ms []Measurement) (float64, bool) {
	var offs []float64
	for _, m := range ms {
		if m.Problem == "" {
			offs = append(offs, m.OffsetSeconds)
		}
	}
	if len(offs) == 0 {
		return 0, false
	}
	slices.Sort(offs)
	return offs[len(offs)/2], true
}

func addrText(b [4]byte) string { return netip.AddrFrom4(b).String() }
