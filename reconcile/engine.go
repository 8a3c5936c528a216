// Package reconcile makes the world equal to the wanted state: it edits,
// compiles, commits, settles, confirms and rolls back, for all subsystems alike.
//
// It owns the running state, the commit that waits for its confirmation, what
// has been learned, and the conditions of its stages; only while holding its
// one lock is a stage in the foreground applied.
//
// It must never know what a stage is about, never apply a state that was not
// written first, and never let a state outlive a restart that was not
// acknowledged or confirmed.
package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/datastore"
)

const (
	defaultResync        = 5 * time.Minute
	defaultSettleTimeout = 30 * time.Second
	maxConfirm           = time.Hour
)

// Config is what an Engine needs. Store and Stages are required.
type Config struct {
	Store *datastore.Store
	// Stages in the order in which they are settled; their names are unique.
	Stages []Stage
	// Facts are what is known before anything is learned.
	Facts cell.Facts
	Log   *slog.Logger
	Now   func() time.Time
	// Resync is how often the world is looked at although nothing was heard; default 5 min, negative: never.
	Resync time.Duration
	// SettleTimeout bounds one Apply of a stage in the foreground; default 30 s.
	SettleTimeout time.Duration
	// Notices are further sources of notices, beside the stages'.
	Notices []func() []cell.Notice
}

// Engine is the one thing that touches the world. Its methods may be called
// from many goroutines. States it hands out are read-only.
type Engine struct {
	store         *datastore.Store
	stages        []*stage
	log           *slog.Logger
	now           func() time.Time
	resync        time.Duration
	settleTimeout time.Duration
	notices       []func() []cell.Notice

	world   chan struct{}   // held by whoever commits or settles; see lock
	ready   chan struct{}   // closed when Boot is done
	wake    chan string     // look again
	learned chan struct{}   // facts changed
	timing  chan struct{}   // pending changed
	tidy    chan struct{}   // a commit was acknowledged
	kicks   []chan struct{} // one per stage; used by those in the background

	mu         sync.Mutex // never held while a stage runs
	booted     bool
	source     datastore.Source
	problems   []string
	state      *cell.State
	revision   cell.Revision
	compiled   compiled
	facts      cell.Facts
	conditions []cell.Condition
	changed    changes
	pending    *pending
	fighting   bool
	watchers   map[chan cell.Revision]struct{}
}

// Pending is a commit that becomes permanent only when it is confirmed.
type Pending struct {
	Revision  cell.Revision `json:"revision"`
	Author    cell.Author   `json:"author"`
	Message   string        `json:"message"`
	ConfirmBy time.Time     `json:"confirm_by"`
}

// pending also knows what to go back to.
type pending struct {
	Pending
	state    *cell.State
	revision cell.Revision
	changed  changes
}

// New makes an engine. Nothing is read or applied before [Engine.Boot].
func New(c *Config) (*Engine, error) {
	if c.Store == nil {
		return nil, errors.New("making the engine: it needs a datastore")
	}
	e := &Engine{
		store: c.Store, log: c.Log, now: c.Now, resync: c.Resync, settleTimeout: c.SettleTimeout,
		notices: slices.Clone(c.Notices), facts: cloneFacts(c.Facts),
		world: make(chan struct{}, 1), ready: make(chan struct{}), wake: make(chan string, 1),
		learned: make(chan struct{}, 1), timing: make(chan struct{}, 1), tidy: make(chan struct{}, 1),
		watchers: map[chan cell.Revision]struct{}{},
	}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	if e.now == nil {
		e.now = time.Now
	}
	if e.resync == 0 {
		e.resync = defaultResync
	}
	if e.settleTimeout <= 0 {
		e.settleTimeout = defaultSettleTimeout
	}
	for _, s := range c.Stages {
		w := wrap(s)
		if slices.ContainsFunc(e.stages, func(o *stage) bool { return o.Name() == w.Name() }) {
			return nil, fmt.Errorf("making the engine: two stages are named %s", w.Name())
		}
		e.stages = append(e.stages, w)
		e.kicks = append(e.kicks, make(chan struct{}, 1))
		e.conditions = append(e.conditions, cell.Condition{
			Stage: w.Name(), State: cell.Pending,
			Reason: "not settled yet", Since: e.now().UTC(),
		})
	}
	return e, nil
}

// lock waits until nobody else commits or settles.
func (e *Engine) lock(ctx context.Context) error {
	select {
	case e.world <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for another change to finish: %w", ctx.Err())
	}
}

func (e *Engine) unlock() { <-e.world }

// String names the engine as a task.
func (e *Engine) String() string { return "reconcile" }

// Ready is closed when Boot has settled the startup state once.
func (e *Engine) Ready() <-chan struct{} { return e.ready }

// Running returns the state the world is made equal to, and its revision. The
// state is nil before Boot, and on a recovered cell of which no state is intact.
func (e *Engine) Running() (*cell.State, cell.Revision) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.state, e.revision
}

// Source is "current", or "recovered" when the data folder was found damaged:
// then nothing was applied, nothing can be committed, and the caller must keep
// every door closed until [Engine.Adopt]. It is empty before Boot.
func (e *Engine) Source() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return string(e.source)
}

// Facts returns what has been learned. Read-only.
func (e *Engine) Facts() cell.Facts {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.facts
}

// Pending returns the commit that waits to be confirmed, or nil.
func (e *Engine) Pending() *Pending {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.pending == nil {
		return nil
	}
	p := e.pending.Pending
	return &p
}

// Status returns each stage's condition, in the stages' order.
func (e *Engine) Status() []cell.Condition {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.conditions)
}

// Plans returns the plans of the running state by stage, without those that
// could not be compiled. Read-only.
func (e *Engine) Plans() map[string]Plan {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.compiled.byName(e.stages)
}

// Notices returns what the engine, the stages and the further sources have to
// say, at most 200.
func (e *Engine) Notices() []cell.Notice {
	e.mu.Lock()
	fighting, source, problems := e.fighting, e.source, e.problems
	e.mu.Unlock()
	out := []cell.Notice{}
	if source == datastore.Recovered {
		out = append(out, cell.Notice{
			Code: "state_recovered", Subject: "state", Severity: cell.Alarm,
			Text: "The stored state was found damaged, so nothing was applied and every door is closed. " +
				strings.Join(problems, "; ") + ". Adopt a revision on the machine itself, or restore a backup.",
		})
	}
	if fighting {
		out = append(out, cell.Notice{
			Code: "repairs_limited", Subject: "settle", Severity: cell.Warning,
			Text: "Something keeps changing what the cell sets up; it is repaired at most 10 times in 5 seconds. Find the other program with `nft monitor` and `ip monitor`, and stop it.",
		})
	}
	for _, s := range e.stages {
		if s.notices != nil {
			out = append(out, s.notices()...)
		}
	}
	for _, f := range e.notices {
		out = append(out, f()...)
	}
	return out[:min(len(out), 200)]
}

// Changes returns a channel that says "look again": the running revision, when
// it, a condition or what is pending has changed. Values that nobody reads
// are replaced by newer ones; the engine never waits for a reader. The channel
// is closed when ctx ends.
func (e *Engine) Changes(ctx context.Context) <-chan cell.Revision {
	c := make(chan cell.Revision, 1)
	e.mu.Lock()
	e.watchers[c] = struct{}{}
	e.mu.Unlock()
	context.AfterFunc(ctx, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.watchers, c)
		close(c)
	})
	return c
}

// publish tells every watcher. The caller holds e.mu, so it is the only sender.
func (e *Engine) publish() {
	for c := range e.watchers {
		select {
		case <-c:
		default:
		}
		c <- e.revision
	}
}

// ChangedAt is the last revision that changed a resource: a section
// ("identity"), an element of a list ("peers/laptop"), a part of a section
// ("dns/records"), or a list as a whole ("peers"). A resource that has not
// changed in living memory is as old as the oldest kept revision.
func (e *Engine) ChangedAt(resource string) cell.Revision {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.changed.at(resource)
}

// Revisions lists at most limit revisions older than before (0: from the
// newest), newest first.
func (e *Engine) Revisions(before cell.Revision, limit int) ([]cell.RevisionInfo, error) {
	return e.store.Revisions(before, limit)
}

// StateAt returns the state of a revision, or [ErrNoSuchRevision].
func (e *Engine) StateAt(n cell.Revision) (*cell.State, cell.RevisionInfo, error) {
	return e.store.State(n)
}

func cloneFacts(f cell.Facts) cell.Facts {
	f.Links = maps.Clone(f.Links)
	if f.Links == nil {
		f.Links = map[string]cell.LinkFact{}
	}
	f.Resolvers = slices.Clone(f.Resolvers)
	f.Expired = slices.Clone(f.Expired)
	f.ExitLapsed = slices.Clone(f.ExitLapsed)
	f.Exits = maps.Clone(f.Exits)
	f.Chains = maps.Clone(f.Chains)
	f.Uplink.Addresses = slices.Clone(f.Uplink.Addresses)
	return f
}

// nudge sends on a channel of capacity one unless it is full already.
func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
