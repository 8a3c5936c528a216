package exits

import (
	"time"

	"github.com/personal-internet-cell/pic/cell"
)

const (
	// checkEvery is between checks of an exit whose state is settled,
	// checkSoon between those that settle it.
	checkEvery = 15 * time.Second
	checkSoon  = 3 * time.Second
	// checkTimeout bounds one check.
	checkTimeout = 8 * time.Second

	failuresToBlock = 3 // in a row
	successesToUp   = 2 // in a row, after having failed
)

// health is the state of one exit with hysteresis: one bad check degrades it,
// three in a row block it, two good ones in a row bring it back. An exit that
// never failed is up with its first good check.
type health struct {
	state  cell.ExitState
	reason string
	since  time.Time
	good   int // in a row
	bad    int // in a row
}

// enter changes the state; since is when it last changed.
func (h *health) enter(s cell.ExitState, reason string, now time.Time) {
	if h.state != s {
		h.state, h.since = s, now
	}
	h.reason = reason
}

// block says that the exit can't work before somebody does something: no
// number of failures is waited for.
func (h *health) block(reason string, now time.Time) {
	h.good, h.bad = 0, failuresToBlock
	h.enter(cell.ExitBlocked, reason, now)
}

// observe takes in the result of a check; nil is a good one.
func (h *health) observe(err error, now time.Time) {
	if err != nil {
		h.good, h.bad = 0, h.bad+1
		switch {
		case h.bad >= failuresToBlock || h.state == cell.ExitBlocked:
			h.enter(cell.ExitBlocked, err.Error(), now)
		case h.state.Carrying():
			h.enter(cell.ExitDegraded, err.Error(), now)
		default:
			h.enter(cell.ExitConnecting, err.Error(), now)
		}
		return
	}
	h.good, h.bad = h.good+1, 0
	if h.state == cell.ExitConnecting || h.good >= successesToUp {
		h.enter(cell.ExitUp, "", now)
	}
}

// next is how long to wait before the next check.
func (h *health) next() time.Duration {
	if h.state == cell.ExitConnecting || h.state == cell.ExitDegraded || h.state == cell.ExitBlocked && h.good > 0 {
		return checkSoon
	}
	return checkEvery
}

// sticky is a fact that a single check can't turn: it takes two in a row that
// say so.
type sticky struct {
	value   bool
	against int
	known   bool
}

func (s *sticky) observe(v bool) {
	switch {
	case !s.known:
		s.value, s.known = v, true
	case v == s.value:
		s.against = 0
	default:
		if s.against++; s.against >= 2 {
			s.value, s.against = v, 0
		}
	}
}
