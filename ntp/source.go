package ntp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/beevik/ntp"

	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

const (
	minPoll     = 4 // log2 of seconds: 16 s
	maxPoll     = 10
	burstEvery  = 2 * time.Second // until the filter is full (RFC 5905 §13.1, iburst)
	comparePoll = 8               // where we don't steer: 256 s
	deniedFor   = 24 * time.Hour
)

// reply is what one question to one server brought.
type reply struct {
	offset, delay, dispersion time.Duration // of the measurement
	rootDelay, rootDispersion time.Duration // as the server says
	stratum, leap             uint8
	address                   netip.Addr
	kiss                      string // RFC 5905 §7.4; nothing else counts then
	err                       error
}

// ask measures one server. The receive time is the kernel's (SO_TIMESTAMPNS).
func ask(server string) reply {
	var out reply
	r, err := ntp.QueryWithOptions(server, ntp.QueryOptions{Timeout: queryTimeout, Dialer: func(local, remote string) (net.Conn, error) {
		c, err := dialBypass(local, remote)
		if err == nil {
			if a, ok := c.RemoteAddr().(*net.UDPAddr); ok {
				out.address = a.AddrPort().Addr().Unmap()
			}
		}
		return c, err
	}})
	if err != nil {
		out.err = err
		return out
	}
	out.offset, out.delay, out.stratum, out.leap = r.ClockOffset, max(r.RTT, 0), r.Stratum, uint8(r.Leap)
	out.rootDelay, out.rootDispersion = r.RootDelay, r.RootDispersion
	out.dispersion = max(r.Precision, time.Microsecond) + drift(out.delay)
	if r.IsKissOfDeath() {
		out.kiss = r.KissCode
	}
	out.err = r.Validate()
	return out
}

// source is one configured server and what is known of it.
type source struct {
	name    string
	filter  filter
	last    reply
	reach   uint8 // the last eight polls, newest in bit 0 (RFC 5905 §9.2)
	backoff uint8 // asked to send less: added to the poll exponent
	due     time.Time
	denied  bool
	// falseticker disagrees with the majority, by wrongBy.
	falseticker bool
	wrongBy     time.Duration
}

// take records a reply that came at now, while the kernel was still slewing by
// pending. It reports whether there is a new sample.
func (s *source) take(r reply, pending time.Duration, now time.Time) bool {
	s.last = r
	s.reach <<= 1
	s.denied = false
	switch {
	case r.kiss == "DENY" || r.kiss == "RSTR": // RFC 5905 §7.4: stop asking
		s.denied = true
		return false
	case r.kiss == "RATE":
		s.backoff = min(s.backoff+1, maxPoll-minPoll)
		return false
	case r.err != nil:
		return false
	}
	s.reach |= 1
	s.filter.add(sample{offset: r.offset - pending, delay: r.delay, dispersion: r.dispersion, at: now})
	return true
}

// schedule says when to ask next, poll being the common interval's exponent.
func (s *source) schedule(now time.Time, poll uint8, burst bool) {
	wait := time.Second << min(poll+s.backoff, maxPoll)
	switch {
	case s.denied:
		wait = deniedFor
	case burst && s.backoff == 0 && s.reach&1 == 1 && len(s.filter.samples) < filterStages:
		wait = burstEvery
	}
	s.due = now.Add(wait)
}

// candidate is what selection sees of the source; false: it is not to be used.
func (s *source) candidate(index int, now time.Time, settled bool) (candidate, bool) {
	e, ok := s.filter.estimate(now)
	if !ok || s.reach == 0 || s.last.stratum >= stratumUnsynchronised-1 {
		return candidate{}, false
	}
	if !settled && len(s.filter.samples) < filterStages {
		return candidate{}, false // the first correction waits for narrow intervals
	}
	d := max(minDispersion, e.delay+s.last.rootDelay)/2 + s.last.rootDispersion + e.dispersion + e.jitter // RFC 5905 A.5.5.2
	return candidate{index: index, stratum: s.last.stratum, offset: e.offset, distance: d, jitter: e.jitter}, d < maxSourceDistance
}

// maxSourceDistance is what a source's distance may be (ntpd's value; RFC 5905
// has 1 s and the growth of one poll).
const maxSourceDistance = 1500 * time.Millisecond

// measurement is the source for the status.
func (s *source) measurement() Measurement {
	m := Measurement{Server: s.name, OffsetSeconds: s.last.offset.Seconds(), DelaySeconds: s.last.delay.Seconds(), Stratum: int(s.last.stratum)}
	switch {
	case s.last.kiss != "":
		m.Problem = "the server asks to send less: " + s.last.kiss
	case s.last.err != nil:
		m.Problem = s.last.err.Error()
	case s.falseticker:
		m.Problem = fmt.Sprintf("falseticker: %v off from what most servers say", s.wrongBy.Round(time.Millisecond))
	}
	return m
}

// protectedAsk is ask where a panic costs one measurement.
func (s *Server) protectedAsk(server string) (r reply) {
	if err := lifecycle.Protect(s.log, "ntp query", func() error {
		lifecycle.Fault("ntp query")
		r = s.ask(server)
		return nil
	}); err != nil {
		s.panics.Add(1)
		return reply{err: errors.New("asking ended in a panic; see the log")}
	}
	return r
}
