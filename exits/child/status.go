package child

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"reflect"
	"sync"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

// ChildStatus is how a supervised program is.
type ChildStatus struct {
	// State is connecting, up or blocked; disabled before and after Run.
	State cell.ExitState
	// Reason says in words why it is not up, or what it does; empty when up.
	Reason string
	Since  time.Time // of State
	// Restarts counts the ends that nobody asked for.
	Restarts int
	// Address4 and Address6 are the addresses that a server gave us.
	Address4, Address6 netip.Addr
	// DNS are resolvers: openvpn's server told us of them and they are asked
	// through the exit; tor's is tor itself, on a loopback address.
	DNS []netip.AddrPort
	// Received and Sent count bytes since the program started.
	Received, Sent uint64
	Missing        bool // the program is not installed; Reason has the command that does
	Auth           bool // the server refused the credentials
}

// problem is a failure whose cause is known.
type problem struct {
	reason        string
	missing, auth bool
	// lasting: trying again at once is of no use.
	lasting bool
	// vague: anything else that is known says more.
	vague bool
}

func (p *problem) Error() string { return p.reason }

const (
	// firstPause is the pause after a first failure; it doubles up to lastPause.
	firstPause = time.Second
	lastPause  = time.Minute
	// slowPause is for failures that only a person can mend; it doubles up to
	// lastSlow, so that an account is not locked by our asking.
	slowPause = time.Minute
	lastSlow  = 15 * time.Minute
	// missingPause is how often a missing program is looked for.
	missingPause = 10 * time.Second
	// steady is how long a program must run for its failures to be forgotten.
	steady = time.Minute
	// crashes in a row make an exit blocked instead of connecting.
	crashes = 3
)

// supervisor keeps a program running and knows how it is.
type supervisor struct {
	name    string
	log     *slog.Logger
	changed func() // may be nil

	mu     sync.Mutex
	status ChildStatus
}

// Status returns how the program is now.
func (s *supervisor) Status() ChildStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.status
	st.DNS = append([]netip.AddrPort(nil), st.DNS...)
	return st
}

// set changes the status and tells of a change that matters: not of counters.
func (s *supervisor) set(change func(*ChildStatus)) {
	s.mu.Lock()
	before := s.status
	change(&s.status)
	if s.status.State != before.State {
		s.status.Since = time.Now()
	}
	after := s.status
	s.mu.Unlock()
	before.Received, before.Sent = after.Received, after.Sent
	if reflect.DeepEqual(before, after) {
		return
	}
	if before.State != after.State || before.Reason != after.Reason {
		s.log.Info("exit program changed", "exit", s.name, "state", string(after.State), "reason", after.Reason)
	}
	if s.changed != nil {
		s.changed()
	}
}

// say sets state and reason.
func (s *supervisor) say(state cell.ExitState, reason string) {
	s.set(func(st *ChildStatus) {
		st.State, st.Reason = state, reason
		st.Auth, st.Missing = false, false
		if state != cell.ExitUp {
			st.Address4, st.Address6, st.DNS = netip.Addr{}, netip.Addr{}, nil
		}
	})
}

// run calls once, which runs the program until it ends, again and again until
// ctx is done, after pauses that grow.
func (s *supervisor) run(ctx context.Context, once func(context.Context) error) error {
	defer s.say(cell.ExitDisabled, "")
	failures := 0
	s.say(cell.ExitConnecting, "")
	for {
		began := time.Now()
		err := lifecycle.Protect(s.log, s.name, func() error { return once(ctx) })
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			err = errors.New("the program ended")
		}
		if time.Since(began) >= steady {
			failures = 0
		}
		failures++
		pause := s.failed(err, failures)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// failed notes the n-th failure in a row and returns how long to wait.
func (s *supervisor) failed(err error, n int) time.Duration {
	var p *problem
	if !errors.As(err, &p) {
		p = &problem{reason: err.Error()}
	}
	state, reason, pause := cell.ExitConnecting, p.reason, grow(firstPause, lastPause, n)
	switch {
	case p.missing:
		state, pause = cell.ExitBlocked, missingPause
	case p.auth || p.lasting:
		state, pause = cell.ExitBlocked, grow(slowPause, lastSlow, n)
	case n >= crashes:
		state, reason = cell.ExitBlocked, "it ends again and again: "+reason
	}
	s.say(state, reason)
	s.set(func(st *ChildStatus) {
		st.Auth, st.Missing = p.auth, p.missing
		st.Received, st.Sent = 0, 0
		if !p.missing {
			st.Restarts++
		}
	})
	return pause
}

// grow doubles first n-1 times, up to limit.
func grow(first, limit time.Duration, n int) time.Duration {
	for ; n > 1 && first < limit; n-- {
		first *= 2
	}
	return min(first, limit)
}
