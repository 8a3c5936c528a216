package exits

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/personal-internet-cell/pic/cell"
)

const (
	// problemEvery is between checks of an exit that waits for a person: a
	// server that counts failed log-ins must not shut us out.
	problemEvery = time.Minute
	probeTimeout = 3 * time.Second
	// staleHandshake is when WireGuard itself gives a session up (REJECT_AFTER_TIME).
	staleHandshake = 180 * time.Second
)

// anycast6 are probed to learn whether a dialed exit reaches IPv6 where its own
// probes have none of that family.
func anycast6() []netip.AddrPort {
	return []netip.AddrPort{netip.MustParseAddrPort("[2620:fe::fe]:443"), netip.MustParseAddrPort("[2606:4700:4700::1111]:443")}
}

// watch checks the exit until ctx ends.
func (w *worker) watch(ctx context.Context) {
	for n := 0; ; n++ {
		wait := w.check(ctx, n)
		if ctx.Err() != nil {
			return
		}
		w.c.look()
		// Up to a tenth less, so that ten exits of one server don't knock at once.
		timer := time.NewTimer(wait - rand.N(wait/10+1))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-w.poke:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// check checks once, takes the result in, and returns when to check again.
func (w *worker) check(ctx context.Context, n int) time.Duration {
	cctx, cancel := context.WithTimeout(ctx, checkTimeout)
	latency, err := w.examine(cctx)
	cancel()
	if ctx.Err() != nil {
		return 0
	}
	e, now := w.exit.Load(), w.c.conf.Now()
	if err != nil && e.WireGuard != nil {
		w.findServer(ctx, e)
	}
	w.mu.Lock()
	before := w.health.state
	wait := w.judge(err, now)
	state, reason := w.health.state, w.health.reason
	w.failed = w.failed || state == cell.ExitDegraded || state == cell.ExitBlocked
	if err == nil {
		w.latency = latency
	}
	switch carrying := state.Carrying(); {
	case !carrying:
		w.up = time.Time{}
	case w.up.IsZero():
		w.up = now
	}
	w.mu.Unlock()
	if state != before {
		w.c.log.Info("exit changed its state", "exit", e.ID, "state", string(state), "reason", reason)
	}
	if state.Carrying() && w.upstream != nil && (!before.Carrying() || n%8 == 0) {
		w.learnV6(ctx, e)
	}
	if state == cell.ExitUp && !before.Carrying() && len(w.c.conf.Echo) > 0 {
		w.c.work.Go(func() { // it may take long, and decides nothing
			tctx, cancel := context.WithTimeout(ctx, testTimeout)
			defer cancel()
			w.see(tctx)
		})
	}
	return wait
}

// judge takes the result of a check into the exit's health. It is called with
// mu held.
func (w *worker) judge(err error, now time.Time) time.Duration {
	var p *Problem
	var waiting *errWaiting
	w.problem = nil
	switch {
	case errors.As(err, &p):
		w.problem = p
		w.health.block(p.Text, now)
		return problemEvery
	case errors.As(err, &waiting) && w.health.state == cell.ExitConnecting && now.Sub(w.health.since) < maxWait:
		w.health.enter(cell.ExitConnecting, waiting.reason, now)
		return checkSoon
	}
	w.health.observe(err, now)
	return w.health.next()
}

// examine looks whether the exit carries traffic.
func (w *worker) examine(ctx context.Context) (latency time.Duration, err error) {
	w.mu.Lock()
	if names := slices.Sorted(maps.Keys(w.faults)); len(names) > 0 {
		err = w.faults[names[0]]
	}
	w.mu.Unlock()
	if err != nil {
		return 0, err
	}
	e := w.exit.Load()
	if w.child != nil {
		if err := childProblem(w.child.Status()); err != nil {
			return 0, err
		}
	}
	if e.WireGuard != nil && !w.server().IsValid() {
		if err := w.findServer(ctx, e); err != nil {
			return 0, err
		}
		w.c.look()
		return 0, &errWaiting{"its endpoint has just been found"}
	}
	if w.upstream != nil {
		if err := w.upstream.Check(ctx); err != nil {
			return 0, err
		}
	}
	latency, err = w.probe(ctx, e.Probes, func(a netip.Addr) bool { return a.Is4() || e.WireGuard == nil || e.WireGuard.V6 })
	if err != nil && e.WireGuard != nil {
		return 0, w.silence(e, err)
	}
	return latency, err
}

// childProblem is what a supervised program says of itself; nil: it is up.
func childProblem(st ChildStatus) error {
	switch {
	case st.Missing:
		return &Problem{Code: CodeMissing, Text: st.Reason}
	case st.Auth:
		return &Problem{Code: CodeAuth, Text: st.Reason}
	case st.State.Carrying():
		return nil
	case st.State == cell.ExitBlocked:
		return errors.New(st.Reason)
	}
	reason := st.Reason
	if reason == "" {
		reason = "its program is connecting"
	}
	return &errWaiting{reason}
}

// silence says more than that a probe failed, where WireGuard knows more.
func (w *worker) silence(e *Exit, err error) error {
	if w.c.conf.Handshake == nil {
		return err
	}
	last, known := w.c.conf.Handshake(e.Link)
	switch {
	case !known || last.IsZero():
		return fmt.Errorf("no handshake with %s yet: is its address, our key and its key right? (%w)", w.server(), err)
	case w.c.conf.Now().Sub(last) >= staleHandshake:
		return fmt.Errorf("no handshake with %s since %s (%w)", w.server(), last.UTC().Format(time.RFC3339), err)
	}
	return err
}

// probe connects to one of the targets through the exit, whatever its state.
func (w *worker) probe(ctx context.Context, targets []netip.AddrPort, use func(netip.Addr) bool) (time.Duration, error) {
	err := errors.New("there is nothing to probe: no probe is of a family that the exit carries")
	for _, t := range targets {
		if !use(t.Addr()) {
			continue
		}
		began := time.Now()
		pctx, cancel := context.WithTimeout(ctx, probeTimeout)
		conn, perr := w.dialer.DialContext(pctx, "tcp", t.String())
		cancel()
		if perr == nil {
			_ = conn.Close()
			return time.Since(began), nil
		}
		err = fmt.Errorf("connecting to %s through it: %w", t, perr)
	}
	return 0, err
}

// learnV6 learns whether the server behind a dialed exit reaches IPv6.
func (w *worker) learnV6(ctx context.Context, e *Exit) {
	targets := slices.DeleteFunc(slices.Clone(e.Probes), func(a netip.AddrPort) bool { return !a.Addr().Is6() })
	if len(targets) == 0 && slices.Equal(e.Probes, cell.DefaultProbes()) {
		targets = anycast6()
	}
	if len(targets) == 0 {
		return // probes of its own, none of that family: nobody else is asked
	}
	cctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	_, err := w.probe(cctx, targets, netip.Addr.Is6)
	if ctx.Err() != nil {
		return
	}
	w.mu.Lock()
	w.v6.observe(err == nil)
	w.mu.Unlock()
	w.c.look()
}
