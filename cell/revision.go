package cell

import "time"

// Author is who asked for a change and from where.
type Author struct {
	// Name is a user name, "root" on the local socket, or "pic" for the cell itself.
	Name string `json:"name"`
	// Via is web, socket, setup, boot or cli.
	Via string `json:"via"`
	// Address is the client's, empty on the local socket.
	Address string `json:"address"`
}

// RevisionStatus says what became of a revision.
type RevisionStatus string

const (
	RevisionCommitted    RevisionStatus = "committed"     // it was or is startup
	RevisionPending      RevisionStatus = "pending"       // confirmed commit, countdown running
	RevisionFailed       RevisionStatus = "failed"        // settling failed, the old one came back
	RevisionReverted     RevisionStatus = "reverted"      // reverted by a person before it was confirmed
	RevisionAutoReverted RevisionStatus = "auto-reverted" // silence, restart or power loss
)

// RevisionInfo describes a revision without its state.
type RevisionInfo struct {
	Number  Revision       `json:"number"`
	Parent  Revision       `json:"parent"`
	Time    time.Time      `json:"time"`
	Author  Author         `json:"author"`
	Message string         `json:"message"`
	Status  RevisionStatus `json:"status"`
}

// ConditionState is how far a stage has come.
type ConditionState string

const (
	InSync  ConditionState = "in-sync"
	Pending ConditionState = "pending"
	Failed  ConditionState = "failed"
)

// Condition is a stage's answer to "is the world as the plan says?".
type Condition struct {
	Stage    string         `json:"stage"`
	State    ConditionState `json:"state"`
	Revision Revision       `json:"revision"` // the last one reached
	Reason   string         `json:"reason"`   // empty when in sync
	Since    time.Time      `json:"since"`
}

// DegradedError says that a stage did all of its plan but what the machine
// keeps from it, such as a port that another program holds. The commit stands;
// the stage's condition is failed with this reason, and it is tried again.
type DegradedError struct{ Err error }

func (e *DegradedError) Error() string { return e.Err.Error() }
func (e *DegradedError) Unwrap() error { return e.Err }
