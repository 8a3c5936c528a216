package main

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

// policyEvery is how often the policy tests are run although nobody changed
// anything: what the cell has learned since may have broken one.
const policyEvery = 24 * time.Hour

// nightly re-runs the policy tests and keeps what it found for a notice.
type nightly struct {
	log *slog.Logger
	run func() ([]api.PolicyResult, error)

	mu    sync.Mutex
	found []api.PolicyResult // those that failed
}

func newNightly(log *slog.Logger, run func() ([]api.PolicyResult, error)) *nightly {
	return &nightly{log: log, run: run}
}

// task runs the tests every 24 hours until ctx ends; while one fails, also
// whenever something has changed, so that its notice goes when its cause does.
func (n *nightly) task(changes func(context.Context) <-chan cell.Revision) lifecycle.Task {
	return lifecycle.Func("policy tests", func(ctx context.Context) error {
		changed := changes(ctx)
		tick := time.NewTicker(policyEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
				n.test()
			case _, open := <-changed:
				lifecycle.Fault("policy tests")
				if !open {
					changed = nil
				} else if n.failing() {
					n.test()
				}
			}
		}
	})
}

func (n *nightly) failing() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.found) > 0
}

func (n *nightly) test() {
	results, err := n.run()
	if err != nil {
		n.log.Warn("running the policy tests", "error", err)
		return
	}
	var found []api.PolicyResult
	for _, r := range results {
		if r.Result == policyFails {
			found = append(found, r)
			n.log.Warn("policy test fails", "assertion", r.Assertion, "why", r.Text)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.found = found
}

func (n *nightly) notices() []cell.Notice {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []cell.Notice
	for _, r := range n.found {
		out = append(out, cell.Notice{
			Code: "policy_fails", Subject: r.Assertion, Severity: cell.Warning,
			Text: "The policy test " + r.Assertion + " no longer holds, although nobody changed it: " + r.Text +
				". See `pic policy test`; mend the cause, or drop the test.",
		})
	}
	return out
}

// policyNow runs the tests of the running state.
func (h *house) policyNow() ([]api.PolicyResult, error) {
	s, _ := h.engine.Running()
	if s == nil {
		return nil, nil
	}
	return policyResults(s, h.engine.Facts())
}
