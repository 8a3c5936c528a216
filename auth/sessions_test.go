package auth_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/cell"
)

var home = netip.MustParseAddr("192.168.7.20")

type sessionWorld struct {
	*auth.Sessions
	store *memory
	clock *clock
	users *users
	log   *logged
}

func newSessions(store *memory) sessionWorld {
	w := sessionWorld{store: store, clock: newClock(), users: newUsers(), log: &logged{}}
	w.restart()
	return w
}

func (w *sessionWorld) restart() {
	w.Sessions = auth.NewSessions(&auth.SessionsConfig{Store: w.store, Role: w.users.Role, Now: w.clock.Now, Log: w.log.logger()})
}

func TestTokenHas256BitsAndIsNotStored(t *testing.T) {
	w := newSessions(newMemory())
	token, s := w.Create("admin", cell.RoleAdmin, home)
	if !strings.HasPrefix(token, "pics_") || len(token) != len("pics_")+43 {
		t.Errorf("token %q", token)
	}
	file := w.store.text("sessions")
	if !strings.Contains(file, s.ID) {
		t.Fatal("the session was not saved at once")
	}
	if strings.Contains(file, token) || strings.Contains(file, token[5:]) || strings.Contains(file, s.CSRF) {
		t.Error("the file holds the token or the CSRF token")
	}
	other, s2 := w.Create("admin", cell.RoleAdmin, home)
	if other == token {
		t.Error("two sessions have one token")
	}
	if s2.CSRF == s.CSRF || auth.CSRFMatches(token, s2.CSRF) || !auth.CSRFMatches(token, s.CSRF) {
		t.Error("the CSRF token of one session counts in another")
	}
}

func TestLookupKnowsOnlyTheToken(t *testing.T) {
	w := newSessions(newMemory())
	token, made := w.Create("ada", cell.RolePeer, home)
	got, ok := w.Lookup(token)
	want := auth.Session{
		ID: made.ID, User: "ada", Role: cell.RolePeer, Created: w.clock.Now(), LastSeen: w.clock.Now(),
		Reauthed: w.clock.Now(), Address: home, CSRF: auth.CSRFToken(token),
	}
	if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); !ok || d != "" {
		t.Errorf("ok %v, diff %s", ok, d)
	}
	for _, wrong := range []string{"", "pics_", made.ID, token[:len(token)-1], token + "A", "pica_" + token[5:], strings.ToUpper(token), got.CSRF} {
		if _, ok := w.Lookup(wrong); ok {
			t.Errorf("%q is a token", wrong)
		}
	}
}

func TestSessionsEndAfter30MinutesIdleAnd12Hours(t *testing.T) {
	w := newSessions(newMemory())
	token, s := w.Create("admin", cell.RoleAdmin, home)
	w.clock.Add(30*time.Minute - time.Second)
	if _, ok := w.Lookup(token); !ok {
		t.Fatal("ended before 30 minutes")
	}
	w.clock.Add(30*time.Minute - time.Second) // the lookup counted as activity
	if _, ok := w.Lookup(token); !ok {
		t.Fatal("activity does not keep it alive")
	}
	w.clock.Add(30 * time.Minute)
	if w.Valid(s.ID) {
		t.Error("valid after 30 idle minutes")
	}
	if _, ok := w.Lookup(token); ok {
		t.Error("found after 30 idle minutes")
	}

	token, s = w.Create("admin", cell.RoleAdmin, home)
	end := s.Created.Add(12 * time.Hour)
	for w.clock.Now().Add(20 * time.Minute).Before(end) {
		w.clock.Add(20 * time.Minute)
		if s, ok := w.Lookup(token); !ok || s.Expires().After(end) {
			t.Fatalf("at %v: ok %v, expires %v", w.clock.Now(), ok, s.Expires())
		}
	}
	if w.clock.Add(20 * time.Minute); w.Valid(s.ID) {
		t.Error("valid after 12 hours")
	}
}

// An open event stream is no activity.
func TestValidDoesNotKeepASessionAlive(t *testing.T) {
	w := newSessions(newMemory())
	_, s := w.Create("admin", cell.RoleAdmin, home)
	for range 29 {
		w.clock.Add(time.Minute)
		if !w.Valid(s.ID) {
			t.Fatal("ended early")
		}
	}
	if w.clock.Add(time.Minute); w.Valid(s.ID) {
		t.Error("alive by being watched")
	}
}

func TestRoleChangeAndDeletionCountAtOnce(t *testing.T) {
	for name, now := range map[string]cell.Role{"demoted": cell.RolePeer, "deleted": ""} {
		w := newSessions(newMemory())
		token, s := w.Create("admin", cell.RoleAdmin, home)
		done := w.Done(s.ID)
		w.users.set("admin", now)
		if w.Valid(s.ID) || len(w.List("")) != 0 {
			t.Errorf("%s: still valid or listed", name)
		}
		if _, ok := w.Lookup(token); ok || !isClosed(done) {
			t.Errorf("%s: found %v, stream told %v", name, ok, isClosed(done))
		}
		w.users.set("admin", cell.RoleAdmin)
		if _, ok := w.Lookup(token); ok {
			t.Errorf("%s: came back with the role", name)
		}
	}
}

func TestRenewChangesTheTokenAndNothingElse(t *testing.T) {
	w := newSessions(newMemory())
	old, s := w.Create("admin", cell.RoleAdmin, home)
	done := w.Done(s.ID)
	w.clock.Add(10 * time.Minute)
	token, renewed, ok := w.Renew(old)
	if !ok || token == old || renewed.ID != s.ID || renewed.CSRF == s.CSRF || isClosed(done) {
		t.Fatalf("ok %v, session %+v", ok, renewed)
	}
	if !renewed.Reauthed.Equal(w.clock.Now()) || !renewed.Created.Equal(s.Created) {
		t.Errorf("reauthed %v, created %v", renewed.Reauthed, renewed.Created)
	}
	if _, ok := w.Lookup(old); ok {
		t.Error("the old token still works")
	}
	if _, _, ok := w.Renew(old); ok {
		t.Error("the old token can be renewed")
	}
	if _, ok := w.Lookup(token); !ok {
		t.Error("the new token does not work")
	}
	w.restart()
	if _, ok := w.Lookup(old); ok {
		t.Error("the old token works after a restart")
	}
}

func TestRevokedSessionsStayRevokedAfterARestart(t *testing.T) {
	w := newSessions(newMemory())
	a, sa := w.Create("admin", cell.RoleAdmin, home)
	b, sb := w.Create("admin", cell.RoleAdmin, home)
	c, sc := w.Create("admin", cell.RoleAdmin, home)
	d, _ := w.Create("ada", cell.RolePeer, home)
	done := w.Done(sa.ID)
	if !w.Revoke(sa.ID) || w.Revoke(sa.ID) || w.Revoke("") || !isClosed(done) || !isClosed(w.Done(sa.ID)) {
		t.Error("revoking one")
	}
	if n := w.RevokeUser("admin", sb.ID); n != 1 || w.Valid(sc.ID) || !w.Valid(sb.ID) {
		t.Errorf("revoking the others: %d", n)
	}
	w.restart()
	for token, want := range map[string]bool{a: false, b: true, c: false, d: true} {
		if _, ok := w.Lookup(token); ok != want {
			t.Errorf("found %v, want %v", ok, want)
		}
	}
}

func TestSessionsSurviveARestart(t *testing.T) {
	w := newSessions(newMemory())
	token, made := w.Create("admin", cell.RoleAdmin, netip.MustParseAddr("fd00::7"))
	w.restart()
	got, ok := w.Lookup(token)
	if d := cmp.Diff(made, got, cmpopts.EquateComparable(netip.Addr{})); !ok || d != "" {
		t.Errorf("ok %v, diff %s", ok, d)
	}
}

func TestADamagedFileSignsEverybodyOutAndIsLogged(t *testing.T) {
	for name, damage := range map[string]func(string) string{
		"torn":          func(s string) string { return s[:len(s)/2] },
		"not JSON":      func(string) string { return "\x00\x00\x00" },
		"other version": func(s string) string { return strings.Replace(s, `"version":1`, `"version":9`, 1) },
		"short hash":    func(s string) string { return strings.Replace(s, `"hash":"`, `"hash":"zz`, 1) },
		"no user":       func(s string) string { return strings.Replace(s, `"user":"admin"`, `"user":""`, 1) },
		"bad address":   func(s string) string { return strings.Replace(s, home.String(), "nowhere", 1) },
		"huge":          func(s string) string { return s + strings.Repeat(" ", 9<<20) },
	} {
		w := newSessions(newMemory())
		token, _ := w.Create("admin", cell.RoleAdmin, home)
		before := w.store.text("sessions")
		after := damage(before)
		if after == before {
			t.Fatalf("%s: nothing was damaged", name)
		}
		if err := w.store.Save("sessions", []byte(after)); err != nil {
			t.Fatal(err)
		}
		w.restart()
		if _, ok := w.Lookup(token); ok || len(w.List("")) != 0 {
			t.Errorf("%s: somebody is signed in", name)
		}
		if !strings.Contains(w.log.String(), "sessions are lost") {
			t.Errorf("%s: not logged", name)
		}
		if token, _ := w.Create("admin", cell.RoleAdmin, home); token == "" {
			t.Errorf("%s: nobody can sign in", name)
		}
	}
}

// A clock that was set back must not lengthen the life of a session on disk.
func TestSessionsFromTheFutureAreDropped(t *testing.T) {
	w := newSessions(newMemory())
	token, _ := w.Create("admin", cell.RoleAdmin, home)
	w.clock.Add(-time.Hour)
	w.restart()
	if _, ok := w.Lookup(token); ok {
		t.Error("found")
	}
}

func TestTheLeastRecentlySeenMakesRoom(t *testing.T) {
	w := newSessions(newMemory())
	var tokens []string
	for range 20 {
		w.clock.Add(time.Second)
		token, _ := w.Create("admin", cell.RoleAdmin, home)
		tokens = append(tokens, token)
	}
	other, _ := w.Create("ada", cell.RolePeer, home)
	w.clock.Add(time.Second)
	w.Lookup(tokens[0]) // now the second is the oldest
	w.Create("admin", cell.RoleAdmin, home)
	if n := len(w.List("admin")); n != 20 {
		t.Errorf("%d sessions of one user", n)
	}
	for token, want := range map[string]bool{tokens[0]: true, tokens[1]: false, tokens[2]: true, other: true} {
		if _, ok := w.Lookup(token); ok != want {
			t.Errorf("found %v, want %v", ok, want)
		}
	}
}

func TestAllSessionsTogetherAreBounded(t *testing.T) {
	w := newSessions(newMemory())
	w.Sessions = auth.NewSessions(&auth.SessionsConfig{Role: w.users.Role, Now: w.clock.Now}) // no store: 2,000 saves prove nothing here
	for i := range 110 {
		name := fmt.Sprintf("user%d", i)
		w.users.set(name, cell.RolePeer)
		for range 19 {
			w.Create(name, cell.RolePeer, home)
		}
	}
	if n := len(w.List("")); n != 2000 {
		t.Errorf("%d sessions", n)
	}
}

func TestListIsNewestFirstAndShowsNoToken(t *testing.T) {
	w := newSessions(newMemory())
	_, a := w.Create("admin", cell.RoleAdmin, home)
	w.clock.Add(time.Second)
	_, b := w.Create("ada", cell.RolePeer, home)
	list := w.List("")
	if len(list) != 2 || list[0].ID != b.ID || list[1].ID != a.ID || list[0].CSRF != "" {
		t.Errorf("%+v", list)
	}
	if mine := w.List("ada"); len(mine) != 1 || mine[0].ID != b.ID {
		t.Errorf("%+v", mine)
	}
	if none := w.List("nobody"); none == nil || len(none) != 0 {
		t.Errorf("%+v", none)
	}
}

func TestStreamsAreToldWithinASecondAndActivityIsSavedOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, u := newMemory(), newUsers()
		s := auth.NewSessions(&auth.SessionsConfig{Store: store, Role: u.Role})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = s.Run(ctx) })

		token, active := s.Create("admin", cell.RoleAdmin, home)
		_, idle := s.Create("admin", cell.RoleAdmin, home)
		_, gone := s.Create("ada", cell.RolePeer, home)
		before := store.count()
		for range 300 { // five minutes of a request a second
			time.Sleep(time.Second)
			s.Lookup(token)
		}
		if n := store.count() - before; n < 4 || n > 6 {
			t.Errorf("%d saves in five minutes", n)
		}

		u.set("bob", cell.RoleAdmin)
		_, demoted := s.Create("bob", cell.RoleAdmin, home)
		goneDone, demotedDone := s.Done(gone.ID), s.Done(demoted.ID)
		u.set("ada", "")
		u.set("bob", cell.RolePeer)
		time.Sleep(time.Second)
		if !isClosed(goneDone) || !isClosed(demotedDone) {
			t.Error("the stream of a deleted or demoted user is open after a second")
		}
		for range 25*60 + 1 {
			time.Sleep(time.Second)
			s.Lookup(token)
		}
		if !isClosed(s.Done(idle.ID)) || isClosed(s.Done(active.ID)) {
			t.Errorf("idle told %v, active told %v", isClosed(s.Done(idle.ID)), isClosed(s.Done(active.ID)))
		}

		s.Lookup(token)
		before = store.count()
		cancel()
		wg.Wait()
		if store.count() != before+1 {
			t.Error("nothing was saved at the end")
		}
	})
}

func TestASaveThatFailsIsLoggedAndTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, u, log := newMemory(), newUsers(), &logged{}
		store.fail = errors.New("disk full")
		s := auth.NewSessions(&auth.SessionsConfig{Store: store, Role: u.Role, Log: log.logger()})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = s.Run(ctx) })
		token, made := s.Create("admin", cell.RoleAdmin, home)
		if _, ok := s.Lookup(token); !ok || !strings.Contains(log.String(), "disk full") || strings.Contains(log.String(), token) {
			t.Errorf("found %v, log %s", ok, log)
		}
		store.mu.Lock()
		store.fail = nil
		store.mu.Unlock()
		time.Sleep(61 * time.Second)
		if !strings.Contains(store.text("sessions"), made.ID) {
			t.Error("not saved after a minute")
		}
		cancel()
		wg.Wait()
	})
}

func TestSessionsAreSafeForConcurrentUse(t *testing.T) {
	w := newSessions(newMemory())
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 20 {
				token, s := w.Create("admin", cell.RoleAdmin, home)
				w.Lookup(token)
				w.List("")
				w.Valid(s.ID)
				w.Done(s.ID)
				token, _, _ = w.Renew(token)
				w.Lookup(token)
				if i%2 == 0 {
					w.Revoke(s.ID)
				} else {
					w.RevokeUser("ada", "")
				}
			}
		})
	}
	wg.Wait()
	if n := len(w.List("")); n > 20 {
		t.Errorf("%d sessions", n)
	}
}

func TestWithoutARoleFuncNobodyIsSignedIn(t *testing.T) {
	s := auth.NewSessions(&auth.SessionsConfig{})
	token, _ := s.Create("admin", cell.RoleAdmin, home)
	if _, ok := s.Lookup(token); ok {
		t.Error("signed in without a user table")
	}
}
