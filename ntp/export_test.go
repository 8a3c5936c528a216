package ntp

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Respond answers one packet without sockets; nil is silence.
func (s *Server) Respond(b []byte, src string) []byte {
	out, ok := s.respond(b, netip.MustParseAddrPort(src), time.Now())
	if !ok {
		return nil
	}
	return out[:]
}

// PanicOn makes every packet of that length panic.
func (s *Server) PanicOn(length int) {
	s.inject = func(b []byte) {
		if len(b) == length {
			panic("injected")
		}
	}
}

// KernelReading is what is made of an answer of adjtimex(2).
func KernelReading(tx unix.Timex, code int) Reading { return kernelReading(&tx, code) }

// Reply is what one question brought.
type Reply struct {
	Offset, Delay, RootDispersion time.Duration
	Stratum                       uint8
	Kiss                          string
	Err                           error
}

// Simulate replaces the network, and the look for other daemons.
func (s *Server) Simulate(ask func(server string) Reply, others func() string) {
	s.ask = func(server string) reply {
		r := ask(server)
		return reply{
			offset: r.Offset, delay: r.Delay, dispersion: time.Microsecond, rootDispersion: r.RootDispersion, stratum: r.Stratum,
			address: netip.MustParseAddr("192.0.2.1"), kiss: r.Kiss, err: r.Err,
		}
	}
	s.others = others
}

// Told is what clients are told.
func (s *Server) Told() Reading { return s.read() }

// Candidate is what selection sees of a source.
type Candidate struct {
	Offset, Distance, Jitter time.Duration
	Stratum                  uint8
}

// Select runs selection, clustering and combining. It returns the indexes of
// truechimers and survivors.
func Select(in []Candidate) (chimers, survivors []int, offset time.Duration) {
	cs := make([]candidate, len(in))
	for i, c := range in {
		cs[i] = candidate{index: i, stratum: c.Stratum, offset: c.Offset, distance: c.Distance, jitter: c.Jitter}
	}
	good := intersect(cs)
	for _, c := range good {
		chimers = append(chimers, c.index)
	}
	if len(good) == 0 {
		return nil, nil, 0
	}
	left := cluster(good)
	for _, c := range left {
		survivors = append(survivors, c.index)
	}
	offset, _ = combine(left)
	return chimers, survivors, offset
}

// Filtered passes offset and delay pairs, a second apart, through a filter.
func Filtered(offsets, delays []time.Duration) (offset, dispersion, jitter time.Duration) {
	var f filter
	now := time.Now()
	for i := range offsets {
		now = now.Add(time.Second)
		f.add(sample{offset: offsets[i], delay: delays[i], at: now})
	}
	e, _ := f.estimate(now)
	return e.offset, e.dispersion, e.jitter
}

var (
	AnotherDaemon = anotherDaemon

	Disciplining = disciplining
	Timestamp    = timestamp
)
