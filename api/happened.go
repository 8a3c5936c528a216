package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/cell"
)

// EventTail follows the events, see [LogTail].
type EventTail struct {
	C    <-chan cell.Event
	Lost func() uint64
}

// Events are what happened; the datastore keeps them.
type Events interface {
	List(kind cell.EventKind, before uint64, limit int) (events []cell.Event, more bool)
}

func (a *API) happenedRoutes() {
	if a.cfg.Events == nil {
		return
	}
	register(a, Route{Access: auth.AccessAdmin, Operation: op("GET", "/api/events/history", "event-history", "core", "What happened: revisions, conditions, notices and peers, newest first")}, a.eventHistory)
	stream := op("GET", "/api/events/stream", "event-stream", "core", "What happens, as it happens, as server-sent events; /api/events only says: look again")
	stream.Responses = eventStream("a stream of events named by their kind (`revision`, `condition`, `notice`, `peer`); `lost` says how many this client was too slow for")
	register(a, Route{Access: auth.AccessAdmin, Operation: stream}, a.eventsAsTheyCome)
}

type eventHistoryIn struct {
	Kind   cell.EventKind `query:"kind" enum:"revision,condition,notice,peer"`
	Limit  int            `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	Cursor uint64         `query:"cursor" doc:"next of the page before"`
}

// EventPage is a part of what happened.
type EventPage struct {
	Items []cell.Event `json:"items" nullable:"false"`
	Next  string       `json:"next" doc:"the cursor of what is older; empty at the end"`
}

func (a *API) eventHistory(_ context.Context, in *eventHistoryIn) (*Out[EventPage], error) {
	found, more := a.cfg.Events.List(in.Kind, in.Cursor, in.Limit)
	page := EventPage{Items: list(found).Items}
	if more {
		page.Next = strconv.FormatUint(found[len(found)-1].ID, 10)
	}
	return ok(page)
}

type eventStreamIn struct {
	After uint64 `query:"after" doc:"begin with what came after this id, as far as it is kept; 0: with what comes"`
	Last  string `header:"Last-Event-ID" maxLength:"20" doc:"the same, sent by browsers that connect again"`
}

func (a *API) eventsAsTheyCome(ctx context.Context, in *eventStreamIn) (*huma.StreamResponse, error) {
	after := in.After
	if n, err := strconv.ParseUint(in.Last, 10, 64); err == nil {
		after = n
	}
	var lost func() uint64
	return feed(ctx, a, func(ctx context.Context) (first []cell.Event, _ <-chan cell.Event, _ error) {
		t, err := a.cfg.TailEvents(ctx)
		if err != nil {
			return nil, nil, problem(http.StatusTooManyRequests, "too_many", "%v: try again later", err)
		}
		lost = t.Lost
		if after > 0 {
			first, _ = a.cfg.Events.List("", 0, maxBacklog)
			slices.Reverse(first)
		}
		return first, t.C, nil
	}, func(x cell.Event) (out []frame) {
		if n := lost(); n > 0 {
			out = append(out, frame{event: "lost", data: fmt.Appendf(nil, `{"events":%d}`, n)})
		}
		if doc, err := json.Marshal(&x); err == nil && x.ID > after {
			after = x.ID
			out = append(out, frame{event: string(x.Kind), id: strconv.FormatUint(x.ID, 10), data: doc})
		}
		return out
	})
}
