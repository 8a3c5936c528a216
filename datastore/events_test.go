package datastore_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/datastore"
)

func TestEventsAreKeptBoundedAndPaged(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	e := datastore.OpenEvents(s)
	for i := range 3000 {
		kind := cell.EventPeer
		if i%100 == 0 {
			kind = cell.EventNotice
		}
		e.Add(cell.Event{Kind: kind, Subject: fmt.Sprint(i), Text: "two\nlines"})
	}
	found, more := e.List("", 0, 5000)
	if len(found) != 1000 || more || found[0].ID != 3000 || found[0].Subject != "2999" || found[0].Text != "two\uFFFDlines" {
		t.Errorf("%d %v %+v", len(found), more, found[0])
	}
	if found, more := e.List(cell.EventNotice, 2902, 3); len(found) != 3 || !more || found[0].ID != 2901 || found[2].ID != 2701 {
		t.Errorf("%+v %v", found, more)
	}
	// Before the first revision anything in the history would be damage.
	if err := e.Save(); err != nil {
		t.Fatal(err)
	}
	if files, err := os.ReadDir(filepath.Join(dir, "history")); err != nil || len(files) != 0 {
		t.Fatalf("%v %v", files, err)
	}
}

func TestEventsSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	load(t, s)
	commit(t, s, factory())
	e := datastore.OpenEvents(s)
	e.Add(cell.Event{Kind: cell.EventPeer, Subject: "laptop", What: "online"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.Run(ctx); err != nil {
		t.Fatal(err)
	}
	s = reopen(t, s, dir)
	e = datastore.OpenEvents(s)
	e.Add(cell.Event{Kind: cell.EventPeer, Subject: "phone", What: "online"})
	if found, _ := e.List("", 0, 10); len(found) != 2 || found[0].ID != 2 || found[1].Subject != "laptop" {
		t.Errorf("%+v", found)
	}
	if err := os.WriteFile(filepath.Join(dir, "history/events"), []byte("rot"), 0o600); err != nil {
		t.Fatal(err)
	}
	s = reopen(t, s, dir)
	if found, _ := datastore.OpenEvents(s).List("", 0, 10); len(found) != 0 {
		t.Errorf("%+v", found)
	}
}

func TestAFollowerOfEventsHoldsUpNobody(t *testing.T) {
	e := datastore.OpenEvents(open(t, t.TempDir()))
	ctx, cancel := context.WithCancel(t.Context())
	w, err := e.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for range 300 {
		e.Add(cell.Event{Kind: cell.EventPeer})
	}
	if n := w.Lost(); n != 300-256 || len(w.C) != 256 {
		t.Errorf("%d lost, %d waiting", n, len(w.C))
	}
	cancel()
	for range w.C { // ends, because it is closed
	}
	for range 32 {
		if _, err := e.Watch(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := e.Watch(t.Context()); !errors.Is(err, datastore.ErrTooManyFollowers) {
		t.Error("followers are not bounded")
	}
}
