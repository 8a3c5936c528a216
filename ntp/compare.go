package ntp

import (
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/personal-internet-cell/pic/cell"
)

const (
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
	one := source{name: server, last: ask(server)}
	return one.measurement()
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

func (s *Server) look() {
	if k, ok := s.clock.(*KernelClock); ok {
		k.look()
	}
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
