package reconcile

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

// maxPasses bounds how often the stages are run until none changes anything.
const maxPasses = 5

var errNotConverging = errors.New("does not converge: it still changes something after 5 passes")

// waitsError is the state of a stage behind a required one that fails.
type waitsError struct{ stage string }

func (e *waitsError) Error() string { return "waits for " + e.stage }

// compiled is one plan or one error per stage.
type compiled struct {
	plans []Plan
	errs  []error
}

func (c compiled) byName(stages []*stage) map[string]Plan {
	m := make(map[string]Plan, len(c.plans))
	for i, p := range c.plans {
		if c.errs[i] == nil {
			m[stages[i].Name()] = p
		}
	}
	return m
}

// compile turns a state into plans. A panic in a stage is that stage's error.
func (e *Engine) compile(s *cell.State, f cell.Facts) compiled {
	c := compiled{make([]Plan, len(e.stages)), make([]error, len(e.stages))}
	for i, st := range e.stages {
		c.errs[i] = lifecycle.Protect(e.log, "compiling "+st.Name(), func() (err error) {
			c.plans[i], err = st.Compile(s, f)
			return err
		})
	}
	return c
}

// equal reports whether two compilations want the same of the world.
func (e *Engine) equal(a, b compiled) bool {
	for i := range e.stages {
		if !e.equalAt(i, a, b) {
			return false
		}
	}
	return true
}

func (e *Engine) equalAt(i int, a, b compiled) bool {
	if len(a.plans) != len(b.plans) {
		return false
	}
	x, y := a.errs[i], b.errs[i]
	if x != nil || y != nil {
		return x != nil && y != nil && x.Error() == y.Error()
	}
	return e.stages[i].equal(a.plans[i], b.plans[i])
}

// setCompiled replaces the plans of the running state and wakes the stages in
// the background whose plan is a different one. The caller holds e.mu.
func (e *Engine) setCompiled(c compiled) {
	for i, st := range e.stages {
		if st.background && !e.equalAt(i, e.compiled, c) {
			nudge(e.kicks[i])
		}
	}
	e.compiled = c
}

// settle applies the plans of the stages in the foreground, in order, again
// and again until a pass changes nothing, and updates their conditions. The
// caller holds the lock. It returns one error or nil per stage and whether
// anything was changed.
func (e *Engine) settle(ctx context.Context, c compiled, n cell.Revision) (errs []error, changedAny bool) {
	errs = make([]error, len(e.stages))
	for pass := 1; ; pass++ {
		moving := false
		waits := ""
		for i, st := range e.stages {
			if st.background {
				continue
			}
			if waits != "" {
				errs[i] = &waitsError{waits}
				continue
			}
			changed, err := e.apply(ctx, st, c, i)
			if changed && err == nil && pass == maxPasses {
				err = errNotConverging
			}
			errs[i] = err
			if err != nil && st.required {
				waits = st.Name()
			}
			moving = moving || changed
			changedAny = changedAny || changed
		}
		if !moving || pass == maxPasses || ctx.Err() != nil {
			break
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, st := range e.stages {
		if !st.background {
			e.setCondition(i, n, errs[i])
		}
	}
	return errs, changedAny
}

// apply runs one stage, bounded in time, with a panic as its error.
func (e *Engine) apply(ctx context.Context, st *stage, c compiled, i int) (changed bool, err error) {
	if c.errs[i] != nil {
		return false, fmt.Errorf("compiling: %w", c.errs[i])
	}
	ctx, cancel := context.WithTimeout(ctx, e.settleTimeout)
	defer cancel()
	err = lifecycle.Protect(e.log, "applying "+st.Name(), func() (err error) {
		lifecycle.Fault("applying " + st.Name())
		changed, err = st.Apply(ctx, c.plans[i])
		return err
	})
	return changed, err
}

// setCondition notes how far a stage has come. The caller holds e.mu.
func (e *Engine) setCondition(i int, n cell.Revision, err error) {
	old := e.conditions[i]
	c := cell.Condition{Stage: old.Stage, State: cell.InSync, Revision: n}
	var waits *waitsError
	switch {
	case errors.As(err, &waits):
		c.State, c.Revision, c.Reason = cell.Pending, old.Revision, err.Error()
	case err != nil:
		c.State, c.Revision, c.Reason = cell.Failed, old.Revision, err.Error()
	}
	c.Since = old.Since
	if c.State != old.State || c.Reason != old.Reason {
		c.Since = e.now().UTC()
		if c.State == cell.Failed {
			e.log.Error("settling a stage", "stage", c.Stage, "revision", n, "reason", c.Reason)
		} else if old.State == cell.Failed {
			e.log.Info("stage is in sync again", "stage", c.Stage, "revision", n)
		}
	}
	if c != old {
		e.conditions[i] = c
		e.publish()
	}
}

// worse finds the first stage in the foreground that a commit made fail. A
// stage that failed before for the same reason (numbers aside: a port, a
// process id) is not the commit's doing, and must not make the cell
// unchangeable: port 53 taken by another process, a kernel module missing. A
// degraded stage says itself that the machine is at fault and not the plan. A
// required stage that fails always counts: nothing behind it was applied, so
// the change would not be in force; and a change that mends it goes through.
func (e *Engine) worse(before []cell.Condition, errs []error) *SettleError {
	var found *SettleError
	var degraded *cell.DegradedError
	for i, err := range errs {
		if err == nil || errors.As(err, &degraded) {
			continue
		}
		if e.stages[i].required {
			return &SettleError{Stage: e.stages[i].Name(), Reason: err.Error(), Err: err}
		}
		if before[i].State != cell.InSync && sameReason(before[i].Reason, err.Error()) {
			continue
		}
		if found == nil {
			found = &SettleError{Stage: e.stages[i].Name(), Reason: err.Error(), Err: err}
		} else if errors.Is(err, errNotConverging) && errors.Is(found.Err, errNotConverging) {
			found.Stage += ", " + e.stages[i].Name()
		}
	}
	return found
}

func sameReason(a, b string) bool {
	digits := func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}
	return strings.Map(digits, a) == strings.Map(digits, b)
}

// refused is the first stage that can't compile the new state, unless it could
// not compile the running one either and for the same reason.
func (e *Engine) refused(before, next compiled) error {
	for i, err := range next.errs {
		if err == nil {
			continue
		}
		if !e.stages[i].required && i < len(before.errs) && before.errs[i] != nil && noWorse(before.errs[i], err) {
			continue
		}
		return &CompileError{e.stages[i].Name(), err}
	}
	return nil
}

// noWorse reports whether an error is no news beside the one before: it says
// so itself, or gives the same reason.
func noWorse(before, err error) bool {
	var graded interface{ NoWorse(before error) bool }
	if errors.As(err, &graded) {
		return graded.NoWorse(before)
	}
	return sameReason(before.Error(), err.Error())
}
