package listen_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/personal-internet-cell/pic/internal/listen"
)

// world is a machine on which some addresses can't be had.
type world struct {
	broken map[string]error
	opened int // ever
	did    []string
}

func (w *world) set() *listen.Set[*int] {
	names := map[*int]string{}
	return listen.New(&listen.Config[*int]{
		Open: func(a netip.AddrPort) (*int, error) {
			if err := w.broken[a.String()]; err != nil {
				return nil, err
			}
			w.opened++
			l := new(int)
			names[l] = a.String()
			w.did = append(w.did, "+"+a.String())
			return l, nil
		},
		Close:  func(l *int) { w.did = append(w.did, "-"+names[l]) },
		Opened: func(netip.AddrPort) {}, Closed: func(netip.AddrPort) {},
	})
}

func addrs(list ...string) (out []netip.AddrPort) {
	for _, a := range list {
		out = append(out, netip.MustParseAddrPort(a))
	}
	return out
}

const a, b, c, six = "192.0.2.1:53", "192.0.2.2:53", "192.0.2.3:53", "[2001:db8::1]:53"

func TestWhatStaysIsNotTouchedAndNewOnesComeFirst(t *testing.T) {
	w := &world{}
	s := w.set()
	for _, step := range []struct {
		want    []netip.AddrPort
		changed bool
		did     []string
	}{
		{nil, false, nil},
		{addrs(a, b), true, []string{"+" + a, "+" + b}},
		{addrs(b, a), false, nil},
		{addrs(b, c), true, []string{"+" + c, "-" + a}},
		{addrs(c, c), true, []string{"-" + b}},
	} {
		w.did = nil
		changed, err := s.Apply(step.want)
		if err != nil || changed != step.changed || cmp.Diff(step.did, w.did) != "" {
			t.Fatalf("%v: changed %t, %v, did %v, want %v", step.want, changed, err, w.did, step.did)
		}
		w.did = nil
		if changed, err := s.Apply(step.want); changed || err != nil || w.did != nil {
			t.Fatalf("%v a second time: changed %t, %v, did %v", step.want, changed, err, w.did)
		}
	}
	if !s.Serving() || w.opened != 3 {
		t.Errorf("serving %t, opened %d", s.Serving(), w.opened)
	}
	w.did = nil
	s.CloseAll()
	if s.Serving() || len(s.States()) != 0 || cmp.Diff([]string{"-" + c}, w.did) != "" {
		t.Errorf("after the end: %v, did %v", s.States(), w.did)
	}
}

// One address that can't be had holds up no other, is named, and is tried
// again; a family that the kernel does not have is told of and no error.
func TestOneThatFailsHoldsUpNoOther(t *testing.T) {
	taken := fmt.Errorf("binding: %w", syscall.EADDRINUSE)
	w := &world{broken: map[string]error{b: taken, six: fmt.Errorf("socket: %w", syscall.EAFNOSUPPORT)}}
	s := w.set()
	changed, err := s.Apply(addrs(a, b, six, c))
	if !changed || !errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EAFNOSUPPORT) {
		t.Fatalf("changed %t, %v", changed, err)
	}
	var got []string
	for _, x := range s.States() {
		got = append(got, strings.TrimSpace(x.Address.String()+" "+x.Problem))
	}
	if d := cmp.Diff([]string{a, b + " binding: address already in use", c, six + " socket: address family not supported by protocol"}, got); d != "" {
		t.Error(d)
	}
	if changed, err := s.Apply(addrs(a, b, six, c)); changed || !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("again: changed %t, %v", changed, err)
	}
	delete(w.broken, b)
	if changed, err := s.Apply(addrs(a, b, six, c)); !changed || err != nil {
		t.Errorf("when the port is free: changed %t, %v", changed, err)
	}
	// What is no longer wanted is no longer a problem.
	if changed, err := s.Apply(addrs(a, b, c)); changed || err != nil || len(s.States()) != 3 {
		t.Errorf("without IPv6: changed %t, %v, %v", changed, err, s.States())
	}
}

func TestProblemsNameTheirCure(t *testing.T) {
	at := netip.MustParseAddrPort(a)
	for _, x := range []struct {
		err  error
		want string
	}{
		{syscall.EADDRINUSE, "listening on 192.0.2.1 port 53/udp: address already in use; stop the other one"},
		{syscall.EACCES, "listening on 192.0.2.1 port 53/udp: permission denied; run the cell as root or give it CAP_NET_BIND_SERVICE"},
		{syscall.EPERM, "listening on 192.0.2.1 port 53/udp: operation not permitted; run the cell as root or give it CAP_NET_ADMIN"},
		{errors.New("what"), "listening on 192.0.2.1 port 53/udp: what; see the error"},
	} {
		err := listen.Problem("udp", at, x.err, "stop the other one")
		if err.Error() != x.want || !errors.Is(err, x.err) {
			t.Errorf("got %q, want %q", err, x.want)
		}
	}
}
