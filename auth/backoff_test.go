package auth_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/personal-internet-cell/pic/auth"
)

type backoffWorld struct {
	*auth.Backoff
	store *memory
	clock *clock
	log   *logged
}

func newBackoff() backoffWorld {
	w := backoffWorld{store: newMemory(), clock: newClock(), log: &logged{}}
	w.restart()
	return w
}

func (w *backoffWorld) restart() {
	w.Backoff = auth.NewBackoff(&auth.BackoffConfig{Store: w.store, Now: w.clock.Now, Log: w.log.logger()})
}

// guess tries every second for as long as d and returns the tries admitted.
func (w *backoffWorld) guess(account string, from auth.Source, d time.Duration) (admitted int) {
	for end := w.clock.Now().Add(d); w.clock.Now().Before(end); w.clock.Add(time.Second) {
		if w.Check(account, from) == 0 {
			w.Fail(account, from)
			admitted++
		}
	}
	return admitted
}

var (
	attacker = auth.SourceAddress(netip.MustParseAddr("198.51.100.7"))
	owner    = auth.SourceAddress(netip.MustParseAddr("192.0.2.1"))
)

func TestAtMostTenTriesInFifteenMinutes(t *testing.T) {
	w := newBackoff()
	if n := w.guess("admin", attacker, 15*time.Minute); n < 5 || n > 10 {
		t.Errorf("%d tries in the first quarter", n)
	}
	if n := w.guess("admin", attacker, 15*time.Minute); n > 10 {
		t.Errorf("%d tries in the second quarter", n)
	}
}

func TestWaitsDouble(t *testing.T) {
	w := newBackoff()
	var waits []time.Duration
	for range 8 {
		if wait := w.Check("admin", attacker); wait != 0 {
			t.Fatalf("not admitted after waiting: %v more", wait)
		}
		w.Fail("admin", attacker)
		wait := w.Check("admin", attacker)
		if wait == 0 {
			w.Release("admin", attacker)
		}
		waits = append(waits, wait)
		w.clock.Add(wait)
	}
	want := []time.Duration{0, 0, 1, 2, 4, 8, 16, 32}
	for i := range want {
		if waits[i] != want[i]*time.Second {
			t.Fatalf("waits %v", waits)
		}
	}
}

func TestNoWaitIsLongerThanAWindow(t *testing.T) {
	w := newBackoff()
	for range 60 {
		wait := w.Check("admin", attacker)
		if wait > 15*time.Minute {
			t.Fatalf("wait %v", wait)
		}
		w.clock.Add(wait)
		if wait > 0 {
			w.Check("admin", attacker)
		}
		w.Fail("admin", attacker)
	}
}

func TestTheRightUserGetsInFromElsewhere(t *testing.T) {
	w := newBackoff()
	w.guess("admin", attacker, 10*time.Minute)
	if w.Check("admin", attacker) == 0 {
		t.Fatal("the attacker is not held back")
	}
	if wait := w.Check("admin", owner); wait != 0 {
		t.Errorf("the owner waits %v", wait)
	}
	if wait := w.Check("ada", attacker); wait != 0 {
		t.Errorf("another account from the same address waits %v", wait)
	}
}

// Many sources guess at one account: each has less, none has nothing, and who
// signed in before is not touched.
func TestADistributedAttackLeavesEverySourceATry(t *testing.T) {
	w := newBackoff()
	w.Check("admin", owner)
	w.Succeed("admin", owner)
	bot := func(i int) auth.Source {
		return auth.SourceAddress(netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)}))
	}
	admitted := 0
	for i := range 200 {
		for range 10 {
			if w.Check("admin", bot(i)) == 0 {
				w.Fail("admin", bot(i))
				admitted++
			}
		}
	}
	if admitted > 50*3+200*2 || admitted < 200 {
		t.Errorf("%d tries admitted", admitted)
	}
	for i := range 3 {
		if wait := w.Check("admin", owner); wait != 0 {
			t.Fatalf("try %d of a known source waits %v", i, wait)
		}
		w.Release("admin", owner)
	}
	stranger := bot(9999)
	if wait := w.Check("admin", stranger); wait != 0 {
		t.Errorf("a new place waits %v", wait)
	}
	w.Fail("admin", stranger)
	w.Check("admin", stranger)
	w.Fail("admin", stranger)
	if w.Check("admin", stranger) == 0 {
		t.Error("a new place has more than two tries under attack")
	}
}

func TestSuccessStartsAfresh(t *testing.T) {
	w := newBackoff()
	for range 2 {
		w.Check("admin", owner)
		w.Fail("admin", owner)
	}
	w.Check("admin", owner)
	w.Succeed("admin", owner)
	for i := range 3 {
		if wait := w.Check("admin", owner); wait != 0 {
			t.Fatalf("try %d waits %v", i, wait)
		}
		w.Fail("admin", owner)
	}
	if w.Check("admin", owner) == 0 {
		t.Error("three new failures cost nothing")
	}
}

func TestForgetIsForOneAccount(t *testing.T) {
	w := newBackoff()
	w.guess("admin", attacker, time.Minute)
	w.guess("ada", attacker, time.Minute)
	w.Forget("admin")
	w.restart()
	if w.Check("admin", attacker) != 0 {
		t.Error("still held back")
	}
	if w.Check("ada", attacker) == 0 {
		t.Error("another account was forgotten")
	}
}

// A hundred tries at the same moment: the count is taken when they are
// admitted, not when they have failed.
func TestConcurrentTriesAreCountedBeforeTheyEnd(t *testing.T) {
	w := newBackoff()
	var mu sync.Mutex
	admitted := 0
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if w.Check("admin", attacker) == 0 {
				mu.Lock()
				admitted++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if admitted != 10 {
		t.Errorf("%d admitted", admitted)
	}
}

func TestReleaseGivesTheTryBack(t *testing.T) {
	w := newBackoff()
	for i := range 50 {
		if wait := w.Check("admin", owner); wait != 0 {
			t.Fatalf("try %d waits %v", i, wait)
		}
		w.Release("admin", owner)
	}
}

func TestUnknownAccountsAreTreatedAlike(t *testing.T) {
	w := newBackoff()
	known, unknown := w.guess("admin", attacker, time.Minute), w.guess("no-such-user", attacker, time.Minute)
	if known != unknown {
		t.Errorf("%d and %d tries", known, unknown)
	}
	w.guess("admin", attacker, 10*time.Minute)
	if w.Check("ADMIN ", attacker) == 0 {
		t.Error("another spelling of the name is another account")
	}
}

func TestCountsSurviveARestartAndHoldNoNames(t *testing.T) {
	w := newBackoff()
	w.guess("hunter2-typed-into-the-name", attacker, 10*time.Minute)
	wait := w.Check("hunter2-typed-into-the-name", attacker)
	w.restart()
	if got := w.Check("hunter2-typed-into-the-name", attacker); got != wait || got == 0 {
		t.Errorf("waits %v, before the restart %v", got, wait)
	}
	if file := w.store.text("backoff"); strings.Contains(file, "hunter2") || strings.Contains(file, "198.51.100.7") || file == "" {
		t.Errorf("file %.200s", file)
	}
}

func TestAClockSetBackNeitherFreesNorLocks(t *testing.T) {
	w := newBackoff()
	w.guess("admin", attacker, 10*time.Minute)
	w.clock.Add(-48 * time.Hour)
	w.restart()
	if wait := w.Check("admin", attacker); wait == 0 || wait > 15*time.Minute {
		t.Errorf("waits %v", wait)
	}
}

func TestADamagedBackoffFileIsLoggedAndBlocksNobody(t *testing.T) {
	for _, text := range []string{"{", `{"version":7,"pairs":{}}`, `{"version":1,"pairs":{"a":null},"accounts":{"b":{"in_row":-5}}}`, "[]"} {
		w := newBackoff()
		_ = w.store.Save("backoff", []byte(text))
		w.restart()
		if wait := w.Check("admin", owner); wait != 0 {
			t.Errorf("%s: waits %v", text, wait)
		}
	}
	w := newBackoff()
	_ = w.store.Save("backoff", []byte("{"))
	if w.restart(); !strings.Contains(w.log.String(), "are lost") {
		t.Error("not logged")
	}
}

// A flood of made-up names must neither grow the tables nor wash away the
// count of the account that is attacked.
func TestAFloodOfNamesIsBoundedAndForgetsTheWrongOnes(t *testing.T) {
	w := newBackoff()
	w.guess("admin", attacker, 10*time.Minute)
	for i := range auth.BackoffEntries + 200 {
		w.Check(fmt.Sprintf("user%d", i), attacker)
	}
	if pairs, accounts := w.Sizes(); pairs > auth.BackoffEntries || accounts > auth.BackoffEntries {
		t.Errorf("%d pairs, %d accounts", pairs, accounts)
	}
	if w.Check("admin", attacker) == 0 {
		t.Error("the flood washed the count away")
	}
}

func TestSources(t *testing.T) {
	addr := func(s string) auth.Source { return auth.SourceAddress(netip.MustParseAddr(s)) }
	if addr("2001:db8:1:2::1") != addr("2001:db8:1:2:ffff::9") {
		t.Error("one /64 is two sources")
	}
	if addr("2001:db8:1:2::1") == addr("2001:db8:1:3::1") || addr("192.0.2.1") == addr("192.0.2.2") {
		t.Error("two networks are one source")
	}
	if addr("::ffff:192.0.2.1") != addr("192.0.2.1") || addr("fe80::1%eth0") != addr("fe80::1%eth1") {
		t.Error("one address in two spellings is two sources")
	}
	if auth.SourceUID(1000) == auth.SourceUID(1001) || auth.SourceUID(0) == auth.SourceAddress(netip.Addr{}) {
		t.Error("uids are mixed up")
	}
}

func TestRunSavesWhatFailDidNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemory()
		b := auth.NewBackoff(&auth.BackoffConfig{Store: store})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = b.Run(ctx) })
		for range 3 {
			b.Check("admin", attacker)
			b.Fail("admin", attacker)
		}
		time.Sleep(1100 * time.Millisecond)
		if again := auth.NewBackoff(&auth.BackoffConfig{Store: store}); again.Check("admin", attacker) == 0 && b.Check("admin", attacker) != 0 {
			t.Error("a second later the file is old")
		}
		saves := store.count()
		time.Sleep(time.Minute)
		if n := store.count() - saves; n > 1 {
			t.Errorf("%d saves of nothing new", n)
		}
		cancel()
		wg.Wait()
	})
}
