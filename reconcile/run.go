package reconcile

import (
	"context"
	"reflect"
	"sync"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/datastore"
	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

const (
	// debounce collects what comes in a burst, in one look.
	debounce = 250 * time.Millisecond
	// At most repairs looks that changed something in repairWindow: with
	// somebody else undoing them, more would only burn the machine.
	repairs      = 10
	repairWindow = 5 * time.Second

	minRetry = time.Second
	maxRetry = time.Minute
	// backgroundTimeout bounds one Apply in the background.
	backgroundTimeout = 15 * time.Minute
)

// Trigger asks for another look at the world: somebody may have changed it.
// It never blocks.
func (e *Engine) Trigger(reason string) {
	select {
	case e.wake <- reason:
	default:
	}
}

// Learn changes what is known. The world is settled again only if a plan
// becomes a different one. f gets a copy: it replaces slices and may write to
// maps.
func (e *Engine) Learn(f func(*cell.Facts)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	facts := cloneFacts(e.facts)
	f(&facts)
	if reflect.DeepEqual(facts, e.facts) {
		return
	}
	e.facts = facts
	nudge(e.learned)
}

// Run keeps the world equal to the running state until ctx ends: it looks
// again when triggered, when what is known changes a plan, after a failure,
// and every Resync; it takes back what is not confirmed in time, and applies
// the stages in the background. Boot comes first.
func (e *Engine) Run(ctx context.Context) error {
	if e.Source() == "" {
		return ErrNotBooted
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for i, st := range e.stages {
		if st.background {
			wg.Go(func() { e.runBackground(ctx, i) })
		}
		if st.learn != nil {
			wg.Go(func() { e.runLearner(ctx, st) })
		}
	}
	l := &loop{engine: e, look: stoppedTimer(), retry: stoppedTimer(), confirm: stoppedTimer(), calm: stoppedTimer()}
	l.run(ctx)
	return nil
}

func stoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// loop is the state of one Run.
type loop struct {
	engine   *Engine
	look     *time.Timer // a look is due
	due      bool
	retry    *time.Timer // a stage failed
	backoff  time.Duration
	confirm  *time.Timer // the pending commit's time is over
	repaired []time.Time // the last looks that changed something
	calm     *time.Timer // nothing had to be repaired for a while
}

func (l *loop) run(ctx context.Context) {
	e := l.engine
	var resync <-chan time.Time // nil: never
	if e.resync > 0 {
		t := time.NewTicker(e.resync)
		defer t.Stop()
		resync = t.C
	}
	l.arm()
	l.after(e.anyFailed())
	nudge(e.tidy) // what a crash left
	for {
		select {
		case <-ctx.Done():
			return
		case reason := <-e.wake:
			e.log.Debug("looking again", "reason", reason)
			lifecycle.Fault("engine")
			l.schedule()
		case <-e.learned:
			if l.wait() > debounce {
				l.schedule()
				continue
			}
			l.locked(ctx, func() {
				if e.plansDiffer() {
					l.settle(ctx)
				}
			})
		case <-l.calm.C:
			e.setFighting(false)
		case <-l.look.C:
			l.due = false
			l.locked(ctx, func() { l.settle(ctx) })
		case <-l.retry.C:
			l.locked(ctx, func() { l.settle(ctx) })
		case <-resync:
			l.locked(ctx, func() { l.settle(ctx) })
			e.kickBackground()
		case <-e.timing:
			l.arm()
		case <-l.confirm.C:
			l.locked(ctx, func() { e.expire(ctx) })
			l.arm()
		case <-e.tidy:
			if l.backoff == 0 {
				l.after(e.anyFailed())
			}
			l.locked(ctx, func() {
				if err := e.store.Collect(); err != nil {
					e.log.Error("pruning the history", "error", err)
				}
			})
		}
	}
}

// locked calls f while nobody commits, on a cell that is not recovered.
func (l *loop) locked(ctx context.Context, f func()) {
	e := l.engine
	if e.lock(ctx) != nil {
		return
	}
	defer e.unlock()
	if e.Source() == string(datastore.Current) {
		f()
	}
}

// schedule makes a look due after the debounce, or when the limit on repairs
// allows the next one.
func (l *loop) schedule() {
	if l.due {
		return
	}
	wait := l.wait()
	if wait > debounce {
		l.engine.setFighting(true)
		l.calm.Reset(wait + repairWindow)
	}
	l.due = true
	l.look.Reset(wait)
}

// wait is the debounce, or longer when the limit on repairs is reached.
func (l *loop) wait() time.Duration {
	n := len(l.repaired)
	if n < repairs {
		return debounce
	}
	return max(debounce, repairWindow-time.Since(l.repaired[n-repairs]))
}

// settle looks once and arms the timer for the next try if a stage failed.
func (l *loop) settle(ctx context.Context) {
	errs, changed := l.engine.resettle(ctx)
	if changed {
		l.repaired = append(l.repaired, time.Now())
		l.repaired = l.repaired[max(0, len(l.repaired)-repairs):]
		l.calm.Reset(2 * repairWindow)
	}
	failed := false
	for _, err := range errs {
		failed = failed || err != nil
	}
	l.after(failed)
}

// after arms or stops the timer for the next try.
func (l *loop) after(failed bool) {
	if !failed {
		l.backoff = 0
		l.retry.Stop()
		return
	}
	l.backoff = min(max(2*l.backoff, minRetry), maxRetry)
	l.retry.Reset(l.backoff)
}

// arm sets the timer for the pending commit.
func (l *loop) arm() {
	if p := l.engine.Pending(); p != nil {
		l.confirm.Reset(max(0, p.ConfirmBy.Sub(l.engine.now())))
	} else {
		l.confirm.Stop()
	}
}

// expire takes the pending commit back if its time has passed.
func (e *Engine) expire(ctx context.Context) {
	p := e.Pending()
	if p == nil || e.now().Before(p.ConfirmBy) {
		return
	}
	e.log.Warn("nobody confirmed, taking the change back", "revision", p.Revision)
	e.goBack(context.WithoutCancel(ctx), cell.RevisionAutoReverted)
}

func (e *Engine) anyFailed() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, c := range e.conditions {
		if !e.stages[i].background && c.State != cell.InSync && e.source == datastore.Current {
			return true
		}
	}
	return false
}

func (e *Engine) setFighting(fighting bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.fighting != fighting {
		e.fighting = fighting
		if fighting {
			e.log.Warn("another program keeps changing what is set up here")
		}
		e.publish()
	}
}

// plansDiffer reports whether what is known now makes a plan a different one.
func (e *Engine) plansDiffer() bool {
	e.mu.Lock()
	state, facts, before := e.state, e.facts, e.compiled
	e.mu.Unlock()
	return !e.equal(before, e.compile(state, facts))
}

// runLearner keeps a source of facts going.
func (e *Engine) runLearner(ctx context.Context, st *stage) {
	pause := minRetry
	for {
		err := lifecycle.Guard(ctx, e.log, "learning from "+st.Name(), nil, func(ctx context.Context) error { return st.learn(ctx, e.Learn) })
		if ctx.Err() != nil {
			return
		}
		e.log.Error("learning facts", "stage", st.Name(), "error", err)
		if !sleep(ctx, pause) {
			return
		}
		pause = min(2*pause, maxRetry)
	}
}

func (e *Engine) kickBackground() {
	for i, st := range e.stages {
		if st.background {
			nudge(e.kicks[i])
		}
	}
}

// runBackground applies one stage in the background, whenever it is kicked,
// and again after a failure.
func (e *Engine) runBackground(ctx context.Context, i int) {
	st := e.stages[i]
	retry := stoppedTimer()
	var backoff time.Duration
	for {
		e.mu.Lock()
		c, n, current := e.compiled, e.revision, e.source == datastore.Current
		e.mu.Unlock()
		if current && len(c.plans) > 0 {
			if err := e.converge(ctx, st, c, i, n); err != nil {
				backoff = min(max(2*backoff, minRetry), maxRetry)
				retry.Reset(backoff)
			} else {
				backoff = 0
				retry.Stop()
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-retry.C:
		case <-e.kicks[i]:
		}
	}
}

// converge applies one stage in the background until it changes nothing.
func (e *Engine) converge(ctx context.Context, st *stage, c compiled, i int, n cell.Revision) error {
	ctx, cancel := context.WithTimeout(ctx, backgroundTimeout)
	defer cancel()
	err := c.errs[i]
	for pass, changed := 1, true; err == nil && changed; pass++ {
		err = lifecycle.Protect(e.log, "applying "+st.Name(), func() (err error) {
			lifecycle.Fault("applying " + st.Name())
			changed, err = st.Apply(ctx, c.plans[i])
			return err
		})
		if err == nil && changed && pass == maxPasses {
			err = errNotConverging
		}
	}
	if ctx.Err() == context.Canceled {
		return err // the engine stops: that is no failure of the stage
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.setCondition(i, n, err)
	return err
}

// sleep waits, and reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
