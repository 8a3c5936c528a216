// Package listen keeps a server's listeners equal to the addresses that its
// plan names. It owns one listener for each address and remembers why an
// address can't be served. It must never touch a listener that stays.
package listen

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"syscall"
)

// Config is what a [Set] needs; every field is required.
type Config[L any] struct {
	// Open begins to serve an address, Close ends that at once.
	Open  func(netip.AddrPort) (L, error)
	Close func(L)
	// Opened and Closed are told of each; the owner logs it, as the log goes by
	// the room whose line it is.
	Opened, Closed func(netip.AddrPort)
}

// Set holds listeners by address. It is not safe for concurrent use: its owner
// has a lock already.
type Set[L any] struct {
	cfg      Config[L]
	byAddr   map[netip.AddrPort]L
	problems map[netip.AddrPort]string
}

// New returns a set that listens nowhere.
func New[L any](c *Config[L]) *Set[L] {
	return &Set[L]{cfg: *c, byAddr: map[netip.AddrPort]L{}, problems: map[netip.AddrPort]string{}}
}

// Apply opens what is wanted and closes what is not, new ones first, and
// reports whether it did either. The error joins those of the addresses that
// can't be served; the others are. A family that the kernel was started without
// is no error: no person could mend it, nor a return to an older revision. It
// is among the problems.
func (s *Set[L]) Apply(want []netip.AddrPort) (changed bool, err error) {
	wanted, problems := make(map[netip.AddrPort]bool, len(want)), map[netip.AddrPort]string{}
	var errs []error
	for _, a := range want {
		wanted[a] = true
		if _, there := s.byAddr[a]; there {
			continue
		}
		l, err := s.cfg.Open(a)
		if err != nil {
			problems[a] = err.Error()
			if !errors.Is(err, syscall.EAFNOSUPPORT) {
				errs = append(errs, err)
			}
			continue
		}
		s.byAddr[a] = l
		s.cfg.Opened(a)
		changed = true
	}
	for a, l := range s.byAddr {
		if !wanted[a] {
			s.cfg.Close(l)
			delete(s.byAddr, a)
			s.cfg.Closed(a)
			changed = true
		}
	}
	s.problems = problems
	return changed, errors.Join(errs...)
}

// CloseAll ends every listener.
func (s *Set[L]) CloseAll() {
	for a, l := range s.byAddr {
		s.cfg.Close(l)
		delete(s.byAddr, a)
	}
}

// State of one address; Problem is "" where it is served.
type State struct {
	Address netip.AddrPort
	Problem string
}

// States lists the addresses that are served and those that can't be, in the
// order of their text.
func (s *Set[L]) States() []State {
	out := make([]State, 0, len(s.byAddr)+len(s.problems))
	for a := range s.byAddr {
		out = append(out, State{Address: a})
	}
	for a, p := range maps.All(s.problems) {
		out = append(out, State{a, p})
	}
	slices.SortFunc(out, func(a, b State) int { return cmp.Compare(a.Address.String(), b.Address.String()) })
	return out
}

// Serving reports whether any address is served.
func (s *Set[L]) Serving() bool { return len(s.byAddr) > 0 }

// Problem adds the cure to what the kernel says about a socket of a network
// ("tcp", "udp"). taken is the one for a port that another process holds.
func Problem(network string, a netip.AddrPort, err error, taken string) error {
	cure := "see the error"
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		cure = taken
	case errors.Is(err, syscall.EACCES):
		cure = "run the cell as root or give it CAP_NET_BIND_SERVICE"
	case errors.Is(err, syscall.EPERM):
		cure = "run the cell as root or give it CAP_NET_ADMIN"
	}
	return fmt.Errorf("listening on %s port %d/%s: %w; %s", a.Addr(), a.Port(), network, err, cure)
}
