package reconcile_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/reconcile"
)

// running runs the engine until the test ends, in a bubble of its own time.
func running(t *testing.T, w *world, test func(t *testing.T, c *cellar)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		c := boot(t, dir, w)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		defer func() {
			stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}()
		synctest.Wait()
		test(t, c)
	})
}

var minute = reconcile.Options{ConfirmWithin: time.Minute, Author: cell.Author{Name: "admin"}}

func TestSilenceTakesAConfirmedCommitBack(t *testing.T) {
	running(t, newWorld(), func(t *testing.T, c *cellar) {
		r := c.must(t, addPeer("laptop", 2), minute)
		if !r.Pending || r.Revision != 2 || time.Until(r.ConfirmBy) != time.Minute {
			t.Fatalf("%+v", r)
		}
		c.expect(t, 2, "2 pending")
		if c.ChangedAt("peers/laptop") != 2 || c.Pending() == nil {
			t.Fatal("the pending revision does not run")
		}
		if _, err := c.Commit(t.Context(), 0, addPeer("phone", 3), minute); !errors.Is(err, reconcile.ErrCommitPending) {
			t.Fatalf("another commit: %v", err)
		}
		if _, err := c.Rollback(t.Context(), 1, reconcile.Options{}); !errors.Is(err, reconcile.ErrCommitPending) {
			t.Fatalf("a rollback: %v", err)
		}
		time.Sleep(time.Minute - time.Millisecond)
		synctest.Wait()
		c.expect(t, 2, "2 pending")
		time.Sleep(time.Millisecond)
		synctest.Wait()
		c.expect(t, 1, "2 auto-reverted")
		if c.Pending() != nil || c.ChangedAt("peers/laptop") != 1 {
			t.Fatal("something of it stays")
		}
		if err := c.Confirm(t.Context(), 2, cell.Author{}); !errors.Is(err, reconcile.ErrNothingPending) {
			t.Fatalf("confirming late: %v", err)
		}
		c.must(t, addPeer("phone", 3), reconcile.Options{})
		c.expect(t, 3, "3 committed")
	})
}

func TestConfirmMakesItPermanent(t *testing.T) {
	w := newWorld()
	running(t, w, func(t *testing.T, c *cellar) {
		c.must(t, addPeer("laptop", 2), minute)
		for _, n := range []cell.Revision{0, 1, 3} {
			if err := c.Confirm(t.Context(), n, cell.Author{}); !errors.Is(err, reconcile.ErrNothingPending) {
				t.Fatalf("confirming %d: %v", n, err)
			}
		}
		time.Sleep(59 * time.Second)
		if err := c.Confirm(t.Context(), 2, cell.Author{Name: "admin"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		c.expect(t, 2, "2 committed")
		c.must(t, addPeer("phone", 3), reconcile.Options{})
		c.expect(t, 3, "3 committed")
	})
}

func TestRevertTakesItBackAtOnce(t *testing.T) {
	running(t, newWorld(), func(t *testing.T, c *cellar) {
		c.must(t, addPeer("laptop", 2), minute)
		if err := c.Revert(t.Context(), 2, cell.Author{Name: "admin"}); err != nil {
			t.Fatal(err)
		}
		c.expect(t, 1, "2 reverted")
		if err := c.Revert(t.Context(), 2, cell.Author{}); !errors.Is(err, reconcile.ErrNothingPending) {
			t.Fatalf("again: %v", err)
		}
	})
}

func TestAConfirmedCommitMayCutOffItsAuthor(t *testing.T) {
	running(t, newWorld(), func(t *testing.T, c *cellar) {
		o := minute
		o.Reachable = func(*cell.State, map[string]reconcile.Plan) error { return errors.New("your laptop loses the tunnel") }
		c.must(t, addPeer("laptop", 2), o)
		c.expect(t, 2, "2 pending")
	})
}

func TestARestartTakesAPendingCommitBack(t *testing.T) {
	c := boot(t, t.TempDir(), newWorld())
	c.must(t, addPeer("laptop", 2), minute)
	c = c.restart(t)
	c.expect(t, 1, "2 auto-reverted")
	if c.must(t, addPeer("phone", 3), reconcile.Options{}).Revision != 3 {
		t.Fatal("a number was given again")
	}
}

func TestDriftIsRepaired(t *testing.T) {
	w := newWorld()
	running(t, w, func(t *testing.T, c *cellar) {
		w.set("firewall", "flushed by somebody")
		c.Trigger("nft event")
		time.Sleep(249 * time.Millisecond)
		synctest.Wait()
		if w.get("firewall") != "flushed by somebody" {
			t.Fatal("a burst of events is not waited for")
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		c.expect(t, 1, "1 committed")

		w.set("dns", "flushed without an event")
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		c.expect(t, 1, "1 committed")
	})
}

func TestAFightIsLimitedAndReported(t *testing.T) {
	w := newWorld()
	running(t, w, func(t *testing.T, c *cellar) {
		w.order()
		undo := time.NewTicker(50 * time.Millisecond)
		defer undo.Stop()
		for range 300 { // 15 s
			<-undo.C
			w.set("firewall", "undone")
			c.Trigger("nft event")
			synctest.Wait()
		}
		if n := strings.Count(w.order(), "firewall"); n > 2*40 || n < 20 { // two passes a repair
			t.Errorf("%d passes in 15 s", n)
		}
		if !hasNotice(c, "repairs_limited") {
			t.Error("nobody is told")
		}
		time.Sleep(time.Minute)
		c.Trigger("one more")
		time.Sleep(time.Minute)
		synctest.Wait()
		if hasNotice(c, "repairs_limited") {
			t.Error("the notice stays when the fight is over")
		}
	})
}

func hasNotice(c *cellar, code string) bool {
	for _, n := range c.Notices() {
		if n.Code == code {
			return true
		}
	}
	return false
}

func TestFactsSettleOnlyWhenAPlanChanges(t *testing.T) {
	w := newWorld()
	running(t, w, func(t *testing.T, c *cellar) {
		w.order()
		c.Learn(func(f *cell.Facts) { f.Links["eth7"] = cell.LinkFact{Up: true} })
		synctest.Wait()
		if got := w.order(); got != "" {
			t.Fatalf("applied %q", got)
		}
		c.Learn(func(f *cell.Facts) { f.Uplink.Name = "eth0" })
		synctest.Wait()
		c.expect(t, 1, "1 committed")
		if !strings.Contains(w.get("firewall"), "uplink eth0") || !c.Facts().Links["eth7"].Up {
			t.Fatal(w.get("firewall"))
		}
	})
}

func TestAFailedStageIsTriedAgain(t *testing.T) {
	w := newWorld()
	w.fail = func(stage string, _ text) error {
		if stage == "dns" {
			return errBoom
		}
		return nil
	}
	running(t, w, func(t *testing.T, c *cellar) {
		time.Sleep(20 * time.Second)
		if c.Status()[1].State != cell.Failed {
			t.Fatalf("%+v", c.Status()[1])
		}
		w.failing(nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		if s := c.Status()[1]; s.State != cell.InSync || s.Revision != 1 || s.Reason != "" {
			t.Fatalf("%+v", s)
		}
	})
}

func TestTheBackgroundConvergesLaterAndNeverFailsACommit(t *testing.T) {
	w := newWorld()
	w.fail = func(stage string, _ text) error {
		if stage == "certs" {
			return errors.New("no answer from the ACME server")
		}
		return nil
	}
	running(t, w, func(t *testing.T, c *cellar) {
		c.must(t, addPeer("laptop", 2), reconcile.Options{})
		synctest.Wait()
		if s := c.Status()[2]; s.State != cell.Failed {
			t.Fatalf("%+v", s)
		}
		w.failing(nil)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if s := c.Status()[2]; s.State != cell.InSync || s.Revision != 2 || !strings.Contains(w.get("certs"), "laptop") {
			t.Fatalf("%+v", s)
		}
	})
}

func TestAStageThatHangsIsCutOff(t *testing.T) {
	w := newWorld()
	running(t, w, func(t *testing.T, c *cellar) {
		hangs := 0 // both passes: the first one's firewall changes something
		w.mu.Lock()
		w.slow = func(ctx context.Context, stage string) {
			if stage == "dns" && hangs < 2 {
				hangs++
				<-ctx.Done()
			}
		}
		w.mu.Unlock()
		start := time.Now()
		_, err := c.Commit(t.Context(), 0, addPeer("laptop", 2), reconcile.Options{})
		if !as[*reconcile.SettleError]()(err) || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("error %v", err)
		}
		if d := time.Since(start); d > 30*time.Second {
			t.Fatalf("it took %v", d)
		}
	})
}

func TestLearnersAreStartedAgain(t *testing.T) {
	w := newWorld()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		c := boot(t, dir, w)
		starts := 0
		learn := func(ctx context.Context, report func(func(*cell.Facts))) error {
			switch starts++; starts {
			case 1:
				return errors.New("netlink: no buffer space")
			case 2:
				panic("malformed message")
			}
			report(func(f *cell.Facts) { f.Uplink.Name = "eth9" })
			<-ctx.Done()
			return nil
		}
		e, err := reconcile.New(&reconcile.Config{Store: c.store, Stages: []reconcile.Stage{reconcile.WithLearn(w.stage("firewall"), learn)}})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Boot(t.Context(), fresh); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := e.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if starts != 3 || e.Facts().Uplink.Name != "eth9" {
			t.Fatalf("%d starts, uplink %q", starts, e.Facts().Uplink.Name)
		}
	})
}

func TestChangesSaysLookAgainAndEnds(t *testing.T) {
	c := boot(t, t.TempDir(), newWorld())
	ctx, cancel := context.WithCancel(t.Context())
	changes := c.Changes(ctx)
	c.must(t, addPeer("laptop", 2), reconcile.Options{})
	c.must(t, addPeer("phone", 3), reconcile.Options{})
	if n := <-changes; n != 3 {
		t.Fatalf("the newest is %d", n)
	}
	cancel()
	for range changes {
	}
}

// The loop may be late; the deadline is not.
func TestConfirmingAfterTheDeadlineIsTooLate(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		c := boot(t, dir, newWorld()) // nobody runs the loop
		c.must(t, addPeer("laptop", 2), minute)
		time.Sleep(time.Minute)
		if err := c.Confirm(t.Context(), 2, cell.Author{}); !errors.Is(err, reconcile.ErrNothingPending) {
			t.Fatalf("error %v", err)
		}
		if n := c.store.Startup(); n != 1 {
			t.Fatalf("startup is %d", n)
		}
	})
}
