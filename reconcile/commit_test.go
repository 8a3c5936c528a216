package reconcile_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/datastore"
	"github.com/personal-internet-cell/pic/reconcile"
)

func TestACommitIsSettledAndSurvivesARestart(t *testing.T) {
	c := boot(t, t.TempDir(), newWorld())
	c.expect(t, 1, "1 committed")
	r := c.must(t, addPeer("laptop", 2), reconcile.Options{Author: cell.Author{Name: "admin"}, Message: "add laptop"})
	if r.Revision != 2 || r.Pending || r.State.Peer("laptop") == nil {
		t.Fatalf("%+v", r)
	}
	c.expect(t, 2, "2 committed")
	c = c.restart(t)
	c.expect(t, 2, "2 committed")
	infos, _ := c.Revisions(0, 1)
	if infos[0].Author.Name != "admin" || infos[0].Message != "add laptop" || infos[0].Parent != 1 {
		t.Fatalf("%+v", infos[0])
	}
}

func TestStagesAreAppliedInOrderUntilQuiet(t *testing.T) {
	w := newWorld()
	c := boot(t, t.TempDir(), w)
	w.order()
	c.must(t, addPeer("laptop", 2), reconcile.Options{})
	if got := w.order(); got != "firewall dns firewall dns" {
		t.Fatalf("applied %q", got)
	}
}

func TestErrorsBeforeWrittenLeaveNothing(t *testing.T) {
	boom := errors.New("boom")
	for name, try := range map[string]struct {
		edit cell.Edit
		o    reconcile.Options
		bad  func(w *world)
		want func(error) bool
	}{
		"the edit fails":   {edit: func(*cell.State) error { return boom }, want: is(boom)},
		"the edit panics":  {edit: func(*cell.State) error { panic("oops") }, want: func(err error) bool { return strings.Contains(err.Error(), "oops") }},
		"it is invalid":    {edit: addPeer("Not A Label", 2), want: as[*cell.InvalidError]()},
		"a stage refuses":  {edit: addPeer("laptop", 2), bad: func(w *world) { w.compileFail = func(string, *cell.State) error { return boom } }, want: as[*reconcile.CompileError]()},
		"a stage panics":   {edit: addPeer("laptop", 2), bad: func(w *world) { w.compileFail = func(string, *cell.State) error { panic("oops") } }, want: as[*reconcile.CompileError]()},
		"no such secret":   {edit: func(s *cell.State) error { s.Users[0].PasswordHash = "nowhere"; return nil }, want: as[*cell.InvalidError]()},
		"a changed secret": {edit: addPeer("laptop", 2), o: reconcile.Options{Secrets: map[cell.SecretRef]cell.Secret{"a-new-one": cell.NewSecret("x"), "tunnel-key": cell.NewSecret("other")}}, want: func(err error) bool { return err != nil }},
		"it cuts off its author": {edit: addPeer("laptop", 2), o: reconcile.Options{
			Reachable: func(s *cell.State, plans map[string]reconcile.Plan) error {
				if s.Peer("laptop") == nil || !strings.Contains(plans["firewall"].String(), "laptop") {
					return nil
				}
				return boom
			},
		}, want: as[*reconcile.ConfirmRequiredError]()},
		"a newer base": {edit: addPeer("laptop", 2), want: is(reconcile.ErrNoSuchRevision)},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			c := boot(t, t.TempDir(), w)
			if try.bad != nil {
				w.mu.Lock()
				try.bad(w)
				w.mu.Unlock()
			}
			w.order()
			base := cell.Revision(0)
			if name == "a newer base" {
				base = 7
			}
			_, err := c.Commit(t.Context(), base, try.edit, try.o)
			if err == nil || !try.want(err) {
				t.Fatalf("error %T %v", err, err)
			}
			if got := w.order(); got != "" {
				t.Fatalf("applied %q", got)
			}
			c.expect(t, 1, "1 committed")
			if _, err := c.store.Secret("a-new-one"); !errors.Is(err, datastore.ErrNoSuchSecret) {
				t.Fatalf("a secret stays: %v", err)
			}
		})
	}
}

func is(want error) func(error) bool { return func(err error) bool { return errors.Is(err, want) } }

func as[E error]() func(error) bool {
	return func(err error) bool {
		var e E
		return errors.As(err, &e)
	}
}

func TestAnEditThatChangesNothingMakesNoRevision(t *testing.T) {
	c := boot(t, t.TempDir(), newWorld())
	c.must(t, addPeer("laptop", 2), reconcile.Options{})
	r := c.must(t, note("laptop", ""), reconcile.Options{ConfirmWithin: time.Minute})
	if r.Revision != 2 || r.Pending || c.store.Next() != 3 {
		t.Fatalf("%+v, next %d", r, c.store.Next())
	}
}

func TestAStageThatNewlyFailsTakesTheCommitBack(t *testing.T) {
	w := newWorld()
	c := boot(t, t.TempDir(), w)
	for i, fail := range []func(string, text) error{
		func(stage string, p text) error {
			if stage == "dns" && strings.Contains(string(p), "laptop") {
				return errBoom
			}
			return nil
		},
		func(stage string, p text) error {
			if stage == "dns" && strings.Contains(string(p), "laptop") {
				panic("index out of range")
			}
			return nil
		},
	} {
		w.failing(fail)
		_, err := c.Commit(t.Context(), 0, addPeer("laptop", 2), reconcile.Options{})
		var settle *reconcile.SettleError
		if !errors.As(err, &settle) || settle.Stage != "dns" {
			t.Fatalf("error %v", err)
		}
		c.expect(t, 1, fmt.Sprintf("%d failed", i+2))
		for _, cond := range c.Status()[:2] {
			if cond.State != cell.InSync || cond.Revision != 1 {
				t.Errorf("%+v", cond)
			}
		}
	}
	w.failing(nil)
	if r := c.must(t, addPeer("laptop", 2), reconcile.Options{}); r.Revision != 4 {
		t.Fatalf("a number was given again: %d", r.Revision)
	}
	c.restart(t).expect(t, 4, "4 committed")
}

func TestAStageThatFailsAlreadyDoesNotStopCommits(t *testing.T) {
	w := newWorld()
	n := 1000
	w.fail = func(stage string, _ text) error {
		if stage == "dns" {
			n++
			return fmt.Errorf("port 53 is taken by process %d", n)
		}
		return nil
	}
	c := boot(t, t.TempDir(), w)
	if s := c.Status()[1]; s.State != cell.Failed || !strings.Contains(s.Reason, "port 53") {
		t.Fatalf("%+v", s)
	}
	if r := c.must(t, addPeer("laptop", 2), reconcile.Options{}); r.Revision != 2 {
		t.Fatalf("%+v", r)
	}
	if !strings.Contains(w.get("firewall"), "laptop") {
		t.Fatal("the stages that work were not applied")
	}
	// Another reason is another failure, and so is another stage's.
	w.failing(func(stage string, p text) error {
		if stage == "dns" && strings.Contains(string(p), "phone") {
			return errors.New("the zone is too large")
		}
		return nil
	})
	if _, err := c.Commit(t.Context(), 0, addPeer("phone", 3), reconcile.Options{}); !as[*reconcile.SettleError]()(err) {
		t.Fatalf("error %v", err)
	}
}

func TestNothingIsAppliedBehindARequiredStageThatFails(t *testing.T) {
	w := newWorld()
	w.fail = func(stage string, _ text) error {
		if stage == "firewall" {
			return errors.New("nf_tables is missing")
		}
		return nil
	}
	c := boot(t, t.TempDir(), w)
	if got := w.order(); got != "firewall" {
		t.Fatalf("applied %q", got)
	}
	if s := c.Status()[1]; s.State != cell.Pending || s.Reason != "waits for firewall" {
		t.Fatalf("%+v", s)
	}
}

// What a required stage guards is closed while it fails, so a change is refused
// that would not be in force, the claim as well; one that mends it is taken.
func TestWhileARequiredStageFailsChangesAreRefused(t *testing.T) {
	w := newWorld()
	c := boot(t, t.TempDir(), w)
	r := c.must(t, addPeer("laptop", 2), reconcile.Options{ConfirmWithin: time.Minute})
	broken := func(stage string, p text) error {
		if stage == "firewall" && !strings.Contains(string(p), "phone") {
			return errors.New("nf_tables is missing")
		}
		return nil
	}
	w.failing(broken)
	for range 2 { // as news, and as what failed before
		_, err := c.Commit(t.Context(), 0, addPeer("tablet", 3), reconcile.Options{})
		if !errors.Is(err, reconcile.ErrCommitPending) {
			t.Fatalf("error %v", err)
		}
	}
	// What is in force may be confirmed, for it can't be taken back either.
	if err := c.Confirm(t.Context(), r.Revision, cell.Author{}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, o := range []reconcile.Options{{}, {ConfirmWithin: time.Minute}} {
			_, err := c.Commit(t.Context(), 0, addPeer("tablet", 3), o)
			var settle *reconcile.SettleError
			if !errors.As(err, &settle) || settle.Stage != "firewall" || !settle.Blocked || !strings.Contains(settle.Reason, "nf_tables") {
				t.Fatalf("error %v", err)
			}
			if s, n := c.Running(); n != r.Revision || s.Peer("tablet") != nil {
				t.Fatalf("revision %d runs", n)
			}
		}
	}
	c.must(t, addPeer("phone", 4), reconcile.Options{})
	if s := c.Status()[1]; s.State != cell.InSync {
		t.Fatalf("%+v", s)
	}
	// A change that breaks it is at fault itself.
	w.failing(func(stage string, p text) error {
		if stage == "firewall" && strings.Contains(string(p), "bad") {
			return errBoom
		}
		return nil
	})
	_, err := c.Commit(t.Context(), 0, addPeer("bad", 5), reconcile.Options{})
	var settle *reconcile.SettleError
	if !errors.As(err, &settle) || settle.Blocked {
		t.Fatalf("error %v", err)
	}
}

func TestDoesNotConverge(t *testing.T) {
	w := newWorld()
	c := boot(t, t.TempDir(), w)
	w.failing(func(stage string, p text) error {
		if stage == "dns" && strings.Contains(string(p), "laptop") {
			w.has["firewall"] = "undone" // dns undoes what firewall does
		}
		return nil
	})
	_, err := c.Commit(t.Context(), 0, addPeer("laptop", 2), reconcile.Options{})
	var settle *reconcile.SettleError
	if !errors.As(err, &settle) || settle.Stage != "firewall" || !strings.Contains(settle.Reason, "does not converge") {
		t.Fatalf("error %v", err)
	}
	if got := w.order(); strings.Count(got, "firewall") > 5+1+5 {
		t.Fatalf("applied %q", got)
	}
	c.expect(t, 1, "2 failed")
}

func TestACallerWhoIsGoneBeforeWritingLeavesNothing(t *testing.T) {
	c := boot(t, t.TempDir(), newWorld())
	ctx, cancel := context.WithCancel(t.Context())
	o := reconcile.Options{Reachable: func(*cell.State, map[string]reconcile.Plan) error { cancel(); return nil }}
	if _, err := c.Commit(ctx, 0, addPeer("laptop", 2), o); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	c.expect(t, 1, "1 committed")
}

func TestACallerWhoIsGoneWhileSettlingLosesNothing(t *testing.T) {
	w := newWorld()
	c := boot(t, t.TempDir(), w)
	ctx, cancel := context.WithCancel(t.Context())
	w.failing(func(string, text) error { cancel(); return nil })
	if _, err := c.Commit(ctx, 0, addPeer("laptop", 2), reconcile.Options{}); err != nil {
		t.Fatal(err)
	}
	c.expect(t, 2, "2 committed")
}

func TestConcurrentEditsAreNotLost(t *testing.T) {
	c := boot(t, t.TempDir(), newWorld())
	c.must(t, addPeer("laptop", 2), reconcile.Options{}) // 2
	c.must(t, addPeer("phone", 3), reconcile.Options{})  // 3
	c.must(t, note("laptop", "old"), reconcile.Options{})
	for _, try := range []struct {
		base    cell.Revision
		edit    cell.Edit
		ifMatch map[string]cell.Revision
		want    error
	}{
		{base: 3, edit: note("laptop", "x"), want: reconcile.ErrConflict},
		{base: 3, edit: note("phone", "x")},
		{base: 3, edit: addPeer("tablet", 4)},
		{edit: note("laptop", "y"), ifMatch: map[string]cell.Revision{"peers/laptop": 2}, want: reconcile.ErrPreconditionFailed},
		{edit: note("laptop", "y"), ifMatch: map[string]cell.Revision{"peers/laptop": 99}, want: reconcile.ErrPreconditionFailed},
		{edit: note("laptop", "y"), ifMatch: map[string]cell.Revision{"peers/laptop": 4}},
		{edit: note("laptop", "z")},
	} {
		_, err := c.Commit(t.Context(), try.base, try.edit, reconcile.Options{IfMatch: try.ifMatch})
		if !errors.Is(err, try.want) {
			t.Errorf("base %d, if-match %v: %v, want %v", try.base, try.ifMatch, err, try.want)
		}
	}
	at := func(c *cellar) map[string]cell.Revision {
		m := map[string]cell.Revision{}
		for _, k := range []string{"identity", "peers", "peers/laptop", "peers/phone", "peers/tablet", "network/tunnel", "peers/nobody"} {
			m[k] = c.ChangedAt(k)
		}
		return m
	}
	want := map[string]cell.Revision{"identity": 1, "peers": 8, "peers/laptop": 8, "peers/phone": 5, "peers/tablet": 6, "network/tunnel": 1, "peers/nobody": 1}
	if d := cmp.Diff(want, at(c)); d != "" {
		t.Fatal(d)
	}
	if d := cmp.Diff(want, at(c.restart(t))); d != "" {
		t.Fatalf("after a restart: %s", d)
	}
}

func TestManyAtOnce(t *testing.T) {
	c := boot(t, t.TempDir(), newWorld())
	ctx, stop := context.WithCancel(t.Context())
	var run sync.WaitGroup
	run.Go(func() { _ = c.Run(ctx) })
	changes := c.Changes(ctx) // nobody reads it: the engine must not wait
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 5 {
				if _, err := c.Commit(ctx, 0, addPeer(fmt.Sprintf("p%d-%d", i, j), 10+i*10+j), reconcile.Options{}); err != nil {
					t.Error(err)
				}
				c.Learn(func(f *cell.Facts) { f.Uplink.Name = fmt.Sprintf("eth%d", i) })
				c.Trigger("test")
				_, _ = c.Preview(0, addPeer("x", 200))
				_, _, _, _ = c.Status(), c.Notices(), c.Pending(), c.Plans()
			}
		})
	}
	wg.Wait()
	stop()
	run.Wait()
	s, n := c.Running()
	if len(s.Peers) != 40 || n != 41 {
		t.Fatalf("%d peers at revision %d", len(s.Peers), n)
	}
	if got, ok := <-changes; ok && got != 41 {
		t.Fatalf("the last change seen is %d", got)
	}
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
}
