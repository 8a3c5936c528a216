package reconcile

import (
	"context"
	"errors"
	"fmt"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/datastore"
)

// Boot loads startup, or commits what fresh returns as revision 1 on a cell
// that never ran, and settles it once, in the order of the stages. A stage
// that fails does not stop it: its condition says so, and Run tries again. On
// a damaged data folder nothing is applied, see [Engine.Source]. The error is
// for what leaves nothing to run: no folder to write to on the first boot, a
// factory state that is invalid, the end of ctx.
func (e *Engine) Boot(ctx context.Context, fresh func() (*cell.State, map[cell.SecretRef]cell.Secret, error)) error {
	if err := e.lock(ctx); err != nil {
		return err
	}
	defer e.unlock()
	if e.Source() != "" {
		return errors.New("booting: it was done before")
	}
	l, err := e.store.Load()
	if err != nil {
		return fmt.Errorf("booting: %w", err)
	}
	for _, p := range l.Problems {
		e.log.Error("found the data folder damaged", "problem", p)
	}
	if l.Source == datastore.Fresh {
		if l.State, err = e.begin(fresh); err != nil {
			return fmt.Errorf("booting for the first time: %w", err)
		}
		l.Revision, l.Source = e.store.Startup(), datastore.Current
	}
	e.mu.Lock()
	e.source, e.problems = l.Source, l.Problems
	e.state, e.revision = l.State, l.Revision
	e.changed = newChanges(e.store.Changed())
	e.mu.Unlock()
	if l.Source == datastore.Current {
		e.resettle(ctx)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	e.mu.Lock()
	e.booted = true
	e.publish()
	e.mu.Unlock()
	close(e.ready)
	return nil
}

// begin commits the factory state.
func (e *Engine) begin(fresh func() (*cell.State, map[cell.SecretRef]cell.Secret, error)) (*cell.State, error) {
	state, secrets, err := fresh()
	if err != nil {
		return nil, fmt.Errorf("making the factory state: %w", err)
	}
	state.Normalize()
	if err := state.Validate(); err != nil {
		return nil, err
	}
	if err := e.store.PutSecrets(secrets); err != nil {
		return nil, err
	}
	failpoint("secrets")
	n := e.store.Next()
	info := cell.RevisionInfo{Number: n, Time: e.now(), Author: cell.Author{Name: "pic", Via: "boot"}, Message: "factory state"}
	if err := e.store.Write(info, state, cell.Changed(&cell.State{}, state)); err != nil {
		return nil, err
	}
	failpoint("written")
	if err := e.store.SetStartup(n); err != nil {
		return nil, err
	}
	failpoint("startup")
	return state, nil
}

// resettle compiles the running state with what is known now and settles it.
// The caller holds the lock.
func (e *Engine) resettle(ctx context.Context) (errs []error, changed bool) {
	e.mu.Lock()
	state, n, facts, before := e.state, e.revision, e.facts, e.compiled
	e.mu.Unlock()
	c := e.recompile(before, state, facts)
	errs, changed = e.settle(ctx, c, n)
	e.mu.Lock()
	e.setCompiled(c)
	e.mu.Unlock()
	return errs, changed
}

// Adopt makes revision n (0: the one that was recovered) the running state of
// a recovered cell, as a new revision, and settles it. It is for somebody at
// the machine itself, who has seen what was found damaged.
func (e *Engine) Adopt(ctx context.Context, n cell.Revision, author cell.Author) (Result, error) {
	if err := e.lock(ctx); err != nil {
		return Result{}, err
	}
	defer e.unlock()
	if e.Source() != string(datastore.Recovered) {
		return Result{}, errors.New("adopting a revision: the stored state is sound")
	}
	if n == 0 {
		_, n = e.Running()
	}
	state, _, err := e.store.State(n)
	if err != nil {
		return Result{}, fmt.Errorf("adopting a revision: %w", err)
	}
	if err := state.Validate(); err != nil {
		return Result{}, fmt.Errorf("adopting revision %d: %w", n, err)
	}
	info := cell.RevisionInfo{
		Number: e.store.Next(), Parent: n, Time: e.now(), Author: author,
		Message: fmt.Sprintf("adopt revision %d", n),
	}
	keys := cell.Changed(&cell.State{}, state)
	if err := e.store.Write(info, state, keys); err != nil {
		return Result{}, fmt.Errorf("adopting revision %d: %w", n, err)
	}
	if err := e.store.SetStartup(info.Number); err != nil {
		return Result{}, fmt.Errorf("adopting revision %d: %w", n, err)
	}
	e.mu.Lock()
	e.source, e.problems = datastore.Current, nil
	e.state, e.revision = state, info.Number
	e.changed = newChanges(e.store.Changed())
	e.mu.Unlock()
	e.log.Info("revision adopted", "revision", info.Number, "from", n, "author", author.Name)
	e.resettle(context.WithoutCancel(ctx))
	e.mu.Lock()
	e.publish()
	e.mu.Unlock()
	return Result{Revision: info.Number, State: state}, nil
}
