package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/datastore"
	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

// Options say who commits, and how carefully.
type Options struct {
	Author  cell.Author
	Message string
	// ConfirmWithin makes a confirmed commit (RFC 6241 §8.4): it is undone
	// unless it is confirmed in time. 0 makes a plain one; at most one hour.
	ConfirmWithin time.Duration
	// Secrets are the new ones that the edited state names.
	Secrets map[cell.SecretRef]cell.Secret
	// Reachable, if not nil, says why whoever asks would be cut off by the new
	// state. Its error refuses a plain commit with a [*ConfirmRequiredError].
	Reachable func(state *cell.State, plans map[string]Plan) error
	// IfMatch holds, for each resource the author has read, the revision it
	// was read at: its [Engine.ChangedAt] (the ETag), or a later revision. When
	// one of them was changed after that, the commit fails with
	// [ErrPreconditionFailed] before the edit is run.
	IfMatch map[string]cell.Revision
	// IncludeIdentity makes a rollback bring back users and authorities too.
	IncludeIdentity bool
}

// Result is what a commit came to.
type Result struct {
	Revision cell.Revision
	// Pending says that the commit waits to be confirmed, until ConfirmBy.
	Pending   bool
	ConfirmBy time.Time
	// State is the running one. Read-only.
	State *cell.State
}

// Commit runs edit on a clone of the running state, validates and compiles the
// outcome, writes it as a new revision, settles it and moves startup to it; or,
// with o.ConfirmWithin, leaves it pending. An edit that changes nothing makes
// no revision.
//
// base is the revision the edit was thought up on; 0 means whichever runs. The
// edit is always run on the running state: base only refuses it with
// [ErrConflict] when a resource that it changes was changed after base.
//
// Until the revision is written an error leaves nothing behind, and the end of
// ctx is heeded; after that the commit goes through or is taken back. A stage
// in the foreground that newly fails takes it back with a [*SettleError]; one
// that failed before for the same reason does not, unless it is a required one.
func (e *Engine) Commit(ctx context.Context, base cell.Revision, edit cell.Edit, o Options) (Result, error) {
	if err := e.lock(ctx); err != nil {
		return Result{}, err
	}
	defer e.unlock()
	if err := e.open(); err != nil {
		return Result{}, err
	}
	return e.commit(ctx, base, edit, o)
}

// open says why nothing can be committed now.
func (e *Engine) open() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case !e.booted:
		return ErrNotBooted
	case e.source != datastore.Current:
		return ErrRecovered
	case e.pending != nil:
		return ErrCommitPending
	}
	return nil
}

// blocked is the required stage that fails, or "".
func (e *Engine) blocked() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, st := range e.stages {
		if st.required && e.conditions[i].State == cell.Failed {
			return st.Name()
		}
	}
	return ""
}

// candidate is an edited, valid state and what it is compared with.
type candidate struct {
	parent  cell.Revision
	running *cell.State
	state   *cell.State
	changed []string
}

// edit makes a candidate of the running state.
func (e *Engine) edit(base cell.Revision, edit cell.Edit, ifMatch map[string]cell.Revision) (candidate, error) {
	e.mu.Lock()
	c := candidate{parent: e.revision, running: e.state}
	if !e.booted {
		e.mu.Unlock()
		return c, ErrNotBooted
	}
	for resource, n := range ifMatch {
		if e.changed.at(resource) > n || n > e.revision {
			e.mu.Unlock()
			return c, fmt.Errorf("%s: %w", resource, ErrPreconditionFailed)
		}
	}
	e.mu.Unlock()
	if c.running == nil {
		return c, ErrRecovered
	}
	if base > c.parent {
		return c, fmt.Errorf("editing revision %d: %w", base, ErrNoSuchRevision)
	}
	c.state = c.running.Clone()
	if err := lifecycle.Protect(e.log, "editing the state", func() error { return edit(c.state) }); err != nil {
		return c, err
	}
	c.state.Schema = c.running.Schema
	c.state.Normalize()
	if err := c.state.Validate(); err != nil {
		return c, err
	}
	c.changed = cell.Changed(c.running, c.state)
	for _, k := range c.changed {
		if base != 0 && e.stale(base, k) {
			return c, fmt.Errorf("%s: %w", k, ErrConflict)
		}
	}
	return c, nil
}

// stale reports whether a resource was changed after base. Of a section only
// its parts count: two people may each add a peer.
func (e *Engine) stale(base cell.Revision, key string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return strings.Contains(key, "/") && e.changed.at(key) > base
}

// commit does what Commit says. The caller holds the lock.
func (e *Engine) commit(ctx context.Context, base cell.Revision, edit cell.Edit, o Options) (Result, error) {
	c, err := e.edit(base, edit, o.IfMatch)
	if err != nil {
		return Result{}, err
	}
	failpoint("validated")
	if len(c.changed) == 0 {
		return Result{Revision: c.parent, State: c.running}, nil
	}
	e.mu.Lock()
	facts, before, conditions := e.facts, e.compiled, slices.Clone(e.conditions)
	e.mu.Unlock()
	next := e.compile(c.state, facts)
	if err := e.refused(before, next); err != nil {
		return Result{}, err
	}
	failpoint("compiled")
	if err := e.permitted(c, next, o); err != nil {
		return Result{}, err
	}
	if err := ctx.Err(); err != nil {
		return Result{}, err
	}
	n, err := e.write(c, o)
	if err != nil {
		return Result{}, err
	}
	failpoint("written")

	ctx = context.WithoutCancel(ctx) // every Apply is bounded by itself
	errs, _ := e.settle(ctx, next, n)
	if failed := e.worse(conditions, errs); failed != nil {
		e.takeBack(ctx, n, cell.RevisionFailed)
		failed.Blocked = e.blocked() == failed.Stage
		return Result{}, failed
	}
	failpoint("settled")
	r := Result{Revision: n, State: c.state}
	if o.ConfirmWithin > 0 {
		r.Pending, r.ConfirmBy = true, e.now().UTC().Add(min(o.ConfirmWithin, maxConfirm))
		e.publishPending(c, next, o, r)
		failpoint("pending")
		return r, nil
	}
	if err := e.store.SetStartup(n); err != nil {
		e.takeBack(ctx, n, cell.RevisionFailed)
		return Result{}, err
	}
	failpoint("startup")
	e.became(c, next, n)
	e.log.Info("revision committed", "revision", n, "author", o.Author.Name, "via", o.Author.Via, "message", o.Message)
	return r, nil
}

// permitted refuses a state that names secrets nobody has, and a plain commit
// that cuts off its author.
func (e *Engine) permitted(c candidate, next compiled, o Options) error {
	known := map[cell.SecretRef]bool{}
	for _, ref := range c.running.SecretRefs() {
		known[ref] = true
	}
	for _, ref := range c.state.SecretRefs() {
		if _, given := o.Secrets[ref]; known[ref] || given {
			continue
		}
		if _, err := e.store.Secret(ref); errors.Is(err, datastore.ErrNoSuchSecret) {
			return &cell.InvalidError{Fields: []cell.FieldError{{Pointer: "", Message: fmt.Sprintf("there is no secret %q", ref)}}}
		} else if err != nil {
			return err
		}
		known[ref] = true
	}
	if o.Reachable == nil || o.ConfirmWithin > 0 {
		return nil
	}
	if err := o.Reachable(c.state, next.byName(e.stages)); err != nil {
		return &ConfirmRequiredError{err.Error()}
	}
	return nil
}

// write keeps the candidate's secrets and then the candidate, durably.
func (e *Engine) write(c candidate, o Options) (cell.Revision, error) {
	if err := e.store.PutSecrets(o.Secrets); err != nil {
		return 0, err
	}
	failpoint("secrets")
	n := e.store.Next()
	info := cell.RevisionInfo{Number: n, Parent: c.parent, Time: e.now(), Author: o.Author, Message: o.Message}
	return n, e.store.Write(info, c.state, c.changed)
}

// became makes an acknowledged candidate the running state.
func (e *Engine) became(c candidate, next compiled, n cell.Revision) {
	e.mu.Lock()
	e.run(c, next, n)
	e.publish()
	e.mu.Unlock()
	nudge(e.tidy)
}

// run replaces the running state. The caller holds e.mu.
func (e *Engine) run(c candidate, next compiled, n cell.Revision) {
	e.state, e.revision = c.state, n
	e.setCompiled(next)
	e.changed.note(n, c.changed)
}

func (e *Engine) publishPending(c candidate, next compiled, o Options, r Result) {
	e.mu.Lock()
	e.pending = &pending{
		Pending: Pending{Revision: r.Revision, Author: o.Author, Message: o.Message, ConfirmBy: r.ConfirmBy},
		state:   c.running, revision: c.parent, changed: e.changed.clone(),
	}
	e.run(c, next, r.Revision)
	e.publish()
	e.mu.Unlock()
	nudge(e.timing)
	e.log.Info("revision waits to be confirmed", "revision", r.Revision, "author", o.Author.Name, "confirm_by", r.ConfirmBy)
}

// takeBack settles the running state again in place of revision n, and marks n.
func (e *Engine) takeBack(ctx context.Context, n cell.Revision, status cell.RevisionStatus) {
	e.resettle(ctx)
	failpoint("reverted")
	if err := e.store.Mark(n, status); err != nil {
		// Startup never moved to it, so the next boot marks it.
		e.log.Error("marking a revision", "revision", n, "status", status, "error", err)
	}
	e.log.Warn("revision taken back", "revision", n, "status", status)
	e.mu.Lock()
	e.publish()
	e.mu.Unlock()
	nudge(e.tidy)
}

// waiting returns the pending commit if it is n and still in time. The caller
// holds the lock.
func (e *Engine) waiting(n cell.Revision) (*pending, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.pending == nil || e.pending.Revision != n {
		return nil, fmt.Errorf("revision %d: %w", n, ErrNothingPending)
	}
	return e.pending, nil
}

// Confirm makes the pending commit n permanent. It fails with
// [ErrNothingPending] when n is not pending or its time has passed.
func (e *Engine) Confirm(ctx context.Context, n cell.Revision, author cell.Author) error {
	if err := e.lock(ctx); err != nil {
		return err
	}
	defer e.unlock()
	p, err := e.waiting(n)
	if err != nil {
		return err
	}
	if !e.now().Before(p.ConfirmBy) {
		return fmt.Errorf("revision %d: its time has passed: %w", n, ErrNothingPending)
	}
	if err := e.store.SetStartup(n); err != nil {
		return err
	}
	failpoint("confirmed")
	e.mu.Lock()
	e.pending = nil
	e.publish()
	e.mu.Unlock()
	nudge(e.timing)
	nudge(e.tidy)
	e.log.Info("revision confirmed", "revision", n, "author", author.Name)
	return nil
}

// Revert takes the pending commit n back at once.
func (e *Engine) Revert(ctx context.Context, n cell.Revision, author cell.Author) error {
	if err := e.lock(ctx); err != nil {
		return err
	}
	defer e.unlock()
	if _, err := e.waiting(n); err != nil {
		return err
	}
	e.log.Info("reverting", "revision", n, "author", author.Name)
	e.goBack(context.WithoutCancel(ctx), cell.RevisionReverted)
	return nil
}

// goBack ends the pending commit and settles what ran before it. The caller
// holds the lock and has seen that there is one.
func (e *Engine) goBack(ctx context.Context, status cell.RevisionStatus) {
	e.mu.Lock()
	p := e.pending
	e.pending = nil
	e.state, e.revision, e.changed = p.state, p.revision, p.changed
	e.mu.Unlock()
	nudge(e.timing)
	e.takeBack(ctx, p.Revision, status)
}

// Rollback commits the state of an earlier revision as a new one. Users and
// authorities stay as they are, unless o.IncludeIdentity: an account that was
// removed does not come back, and a trusted authority does not vanish. A
// peer whose owner is gone since then belongs to nobody.
func (e *Engine) Rollback(ctx context.Context, to cell.Revision, o Options) (Result, error) {
	old, _, err := e.store.State(to)
	if err != nil {
		return Result{}, fmt.Errorf("rolling back: %w", err)
	}
	if o.Message == "" {
		o.Message = fmt.Sprintf("roll back to revision %d", to)
	}
	return e.Commit(ctx, 0, RollbackEdit(old, o.IncludeIdentity), o)
}

// RollbackEdit is the edit that [Engine.Rollback] commits, for a preview.
func RollbackEdit(old *cell.State, includeIdentity bool) cell.Edit {
	return func(s *cell.State) error {
		users, authorities := s.Users, s.TLS.Authorities
		*s = *old.Clone()
		if includeIdentity {
			return nil
		}
		s.Users, s.TLS.Authorities = users, authorities
		for i := range s.Peers {
			if p := &s.Peers[i]; p.Owner != "" && s.User(p.Owner) == nil {
				p.Owner = ""
			}
		}
		return nil
	}
}
