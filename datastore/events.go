package datastore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/personal-internet-cell/pic/cell"
)

const (
	eventsKept     = 1000
	eventsFile     = "events"
	eventSave      = time.Minute
	eventWatchers  = 32
	eventsWatched  = 256
	eventText      = 500
	eventFileVersn = 1
)

// ErrTooManyFollowers means that enough programs follow the events already.
var ErrTooManyFollowers = errors.New("too many programs follow the events")

// Events keeps the newest events, in memory and in the history, and tells
// followers. It is safe for concurrent use, and a [lifecycle.Task] that saves
// what is new once a minute: a kill loses at most that minute.
type Events struct {
	store  *Store
	saving sync.Mutex // held while saving; taken before mu

	mu       sync.Mutex
	list     []cell.Event // what was handed out stays as it is
	last     uint64
	saved    uint64
	watchers map[*EventWatch]struct{}
}

type eventFile struct {
	Version int          `json:"version"`
	Last    uint64       `json:"last"`
	Events  []cell.Event `json:"events"`
}

// OpenEvents reads the events of earlier processes. Those that can't be read
// are gone; the numbers begin anew then.
func OpenEvents(s *Store) *Events {
	e := &Events{store: s, watchers: map[*EventWatch]struct{}{}}
	doc, err := s.LoadHistory(eventsFile)
	var file eventFile
	if err == nil {
		err = json.Unmarshal(doc, &file)
	}
	if err == nil && (file.Version != eventFileVersn || len(file.Events) > eventsKept) {
		err = ErrCorrupt
	}
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.log.Error("earlier events are lost", "error", err)
		}
		return e
	}
	e.list, e.last, e.saved = file.Events, file.Last, file.Last
	return e
}

// Add takes an event in, sets its number, and tells who follows.
func (e *Events) Add(x cell.Event) {
	x.Subject, x.Text = cell.OneLine(x.Subject, eventText), cell.OneLine(x.Text, eventText)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last++
	x.ID = e.last
	if e.list = append(e.list, x); len(e.list) > eventsKept+eventsKept/4 {
		e.list = slices.Clone(e.list[len(e.list)-eventsKept:])
	}
	for w := range e.watchers {
		select {
		case w.c <- x:
		default:
			w.lost.Add(1)
		}
	}
}

// List returns at most limit events older than before (0: from the newest) of
// a kind ("": of every kind), newest first, and whether there are more.
func (e *Events) List(kind cell.EventKind, before uint64, limit int) (out []cell.Event, more bool) {
	e.mu.Lock()
	list := e.list[:len(e.list):len(e.list)]
	e.mu.Unlock()
	out = []cell.Event{}
	for _, x := range slices.Backward(list[max(0, len(list)-eventsKept):]) {
		if kind != "" && x.Kind != kind || before != 0 && x.ID >= before {
			continue
		}
		if len(out) == limit {
			return out, true
		}
		out = append(out, x)
	}
	return out, false
}

// EventWatch is a follower.
type EventWatch struct {
	// C gets events as they come. It is closed when the context ends.
	C    <-chan cell.Event
	c    chan cell.Event
	lost atomic.Uint64
}

// Lost is how many events the follower was too slow for since it was last asked.
func (w *EventWatch) Lost() uint64 { return w.lost.Swap(0) }

// Watch follows the events from now on until ctx ends.
func (e *Events) Watch(ctx context.Context) (*EventWatch, error) {
	w := &EventWatch{c: make(chan cell.Event, eventsWatched)}
	w.C = w.c
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.watchers) >= eventWatchers {
		return nil, ErrTooManyFollowers
	}
	e.watchers[w] = struct{}{}
	context.AfterFunc(ctx, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.watchers, w)
		close(w.c)
	})
	return w, nil
}

// Save writes what is new, unless the cell has no revision yet: until then
// anything in the history would count as damage.
func (e *Events) Save() error {
	e.saving.Lock()
	defer e.saving.Unlock()
	begun := e.store.Startup() > 0
	e.mu.Lock()
	file := eventFile{eventFileVersn, e.last, e.list[max(0, len(e.list)-eventsKept):]}
	fresh := e.last != e.saved
	e.mu.Unlock()
	if !begun || !fresh {
		return nil
	}
	doc, err := json.Marshal(&file)
	if err != nil {
		return err
	}
	if err := e.store.SaveHistory(eventsFile, doc); err != nil {
		return fmt.Errorf("saving events: %w", err)
	}
	e.mu.Lock()
	e.saved = file.Last
	e.mu.Unlock()
	return nil
}

// Run saves once a minute and when ctx ends.
func (e *Events) Run(ctx context.Context) error {
	t := time.NewTicker(eventSave)
	defer t.Stop()
	for {
		done := false
		select {
		case <-ctx.Done():
			done = true
		case <-t.C:
		}
		if err := e.Save(); err != nil {
			e.store.log.Warn("events could not be saved", "error", err)
		}
		if done {
			return nil
		}
	}
}

// Ready is closed: events are taken before Run does.
func (*Events) Ready() <-chan struct{} { return alwaysReady() }

func (*Events) String() string { return "events" }
