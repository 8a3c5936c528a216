package dns

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// Response rate limiting of the internet view: a source over the limit, which
// may be forged, gets an empty answer with TC, no longer than its question (16
// bytes longer where it asked for a cookie). A client that is real comes again
// over TCP, or with the cookie.

// amplification is how many times longer than its question an answer to an
// unproven source may be; what is longer sets TC.
const amplification = 3

const (
	rateSlots = 4096
	rateBurst = 40
	ratePer   = 50 * time.Millisecond // one more answer each
)

// rate counts answers by network of the source. Networks that share a slot
// share its limit, so memory doesn't grow with the number of forged sources.
type rate struct {
	seed  maphash.Seed
	mu    sync.Mutex
	slots [rateSlots]struct {
		tokens float64
		at     time.Time
	}
}

// take reports whether a source may have one more whole answer.
func (r *rate) take(src netip.Addr, now time.Time) bool {
	bits := 24
	if src.Is6() {
		bits = 56
	}
	p, err := src.Prefix(bits)
	if err != nil {
		return false
	}
	i := maphash.Comparable(r.seed, p) % rateSlots
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &r.slots[i]
	if s.at.IsZero() {
		s.tokens = rateBurst
	} else {
		s.tokens = min(s.tokens+float64(max(now.Sub(s.at), 0))/float64(ratePer), rateBurst)
	}
	s.at = now
	if s.tokens < 1 {
		return false
	}
	s.tokens--
	return true
}
