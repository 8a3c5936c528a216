package cell

import "time"

// EventKind is what an event is about.
type EventKind string

// The kinds of events.
const (
	EventRevision  EventKind = "revision"  // another revision runs, waits, or was taken back
	EventCondition EventKind = "condition" // a stage is in another state
	EventNotice    EventKind = "notice"    // raised or cleared
	EventPeer      EventKind = "peer"      // online or offline
)

// EventKinds lists the kinds.
func EventKinds() []EventKind {
	return []EventKind{EventRevision, EventCondition, EventNotice, EventPeer}
}

// Event is something that happened, for people and programs that want to know
// when. What is so now is read elsewhere.
type Event struct {
	// ID counts from 1.
	ID   uint64    `json:"id"`
	Time time.Time `json:"time"`
	Kind EventKind `json:"kind"`
	// Subject is the stage, the notice's code and subject, or the peer.
	Subject string `json:"subject"`
	// What happened: running, pending, a condition's state, raised, cleared,
	// online, offline.
	What string `json:"what"`
	// Text says more; may be empty.
	Text     string   `json:"text"`
	Revision Revision `json:"revision"`
}
