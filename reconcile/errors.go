package reconcile

import (
	"errors"

	"github.com/personal-internet-cell/pic/datastore"
)

var (
	// ErrConflict means a resource that the edit changes was changed after the
	// revision it was based on.
	ErrConflict = errors.New("it was changed in the meantime: look at it again")
	// ErrPreconditionFailed means a resource named in IfMatch was changed
	// after the revision given for it.
	ErrPreconditionFailed = errors.New("it was changed since it was read: read it again")
	// ErrCommitPending means a confirmed commit waits for its confirmation.
	ErrCommitPending = errors.New("another change waits to be confirmed: confirm or revert it first")
	// ErrNothingPending means there is no confirmed commit of that number.
	ErrNothingPending = errors.New("no such change waits to be confirmed")
	// ErrNoSuchRevision means the revision was never made, or is pruned.
	ErrNoSuchRevision = datastore.ErrNoSuchRevision
	// ErrRecovered means the data folder was found damaged at boot: nothing is
	// changed until somebody at the machine adopts a revision.
	ErrRecovered = errors.New("the stored state was found damaged: adopt a revision on the machine itself first")
	// ErrNotBooted means Boot has not returned yet.
	ErrNotBooted = errors.New("the cell is still starting")
)

// ConfirmRequiredError refuses a commit that would cut off whoever asked for
// it, unless it is a confirmed one.
type ConfirmRequiredError struct{ Reason string }

func (e *ConfirmRequiredError) Error() string {
	return "this change needs a confirmation: " + e.Reason
}

// SettleError means a stage could not make the world equal to the new plan.
// The old revision was settled again.
type SettleError struct {
	// Stage is the first one that failed.
	Stage  string
	Reason string
	Err    error
	// Blocked says that the stage is a required one and fails with the old
	// revision too: it is not this change that has to be mended.
	Blocked bool
}

func (e *SettleError) Error() string { return "settling " + e.Stage + ": " + e.Reason }
func (e *SettleError) Unwrap() error { return e.Err }

// CompileError means a valid state can't be turned into a plan. Nothing was
// written or touched.
type CompileError struct {
	Stage string
	Err   error
}

func (e *CompileError) Error() string { return "compiling " + e.Stage + ": " + e.Err.Error() }
func (e *CompileError) Unwrap() error { return e.Err }
