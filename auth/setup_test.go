package auth_test

import (
	"context"
	"errors"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/personal-internet-cell/pic/auth"
)

func TestTheCodeIsSixListedWordsWorth66Bits(t *testing.T) {
	list, _, _ := auth.Lists()
	words := strings.Fields(list)
	if bits := 6 * math.Log2(float64(len(words))); bits < 66 {
		t.Errorf("%.1f bits", bits)
	}
	seen := map[string]bool{}
	for range 50 {
		code := auth.NewSetupCode(nil).Current()
		parts := strings.Split(code, " ")
		if len(parts) != 6 || seen[code] {
			t.Fatalf("code %q", code)
		}
		seen[code] = true
		for _, p := range parts {
			if !slices.Contains(words, p) {
				t.Errorf("%q is not in the list", p)
			}
		}
	}
}

func TestTheCodeIsRecognisedHoweverItIsTyped(t *testing.T) {
	s := auth.NewSetupCode(nil)
	code := s.Current()
	parts := strings.Split(code, " ")
	for _, typed := range []string{
		code, strings.ToUpper(code), strings.Join(parts, "-"), strings.Join(parts, ", "), "  " + strings.Join(parts, "\t \n") + ".",
		strings.ToUpper(parts[0][:1]) + parts[0][1:] + " " + strings.Join(parts[1:], " - "),
	} {
		if ok, _, _ := s.Check(typed); !ok {
			t.Errorf("%q is refused", typed)
		}
	}
	for _, wrong := range []string{"", strings.Join(parts[:5], " "), code + " " + parts[0], strings.Join(parts, "")} {
		if ok, _, _ := s.Check(wrong); ok {
			t.Errorf("%q is accepted", wrong)
		}
	}
}

func TestFiveWrongAnswersMakeANewCode(t *testing.T) {
	var told []string
	s := auth.NewSetupCode(&auth.SetupCodeConfig{OnRotate: func(c string) { told = append(told, c) }})
	first := s.Current()
	for i, want := range []int{4, 3, 2, 1} {
		if ok, left, rotated := s.Check("wrong"); ok || left != want || rotated {
			t.Fatalf("answer %d: ok %v, left %d, rotated %v", i+1, ok, left, rotated)
		}
	}
	if s.Current() != first || len(told) != 0 {
		t.Fatal("the code changed too early")
	}
	if ok, left, rotated := s.Check("wrong"); ok || left != 5 || !rotated {
		t.Errorf("fifth answer: ok %v, left %d, rotated %v", ok, left, rotated)
	}
	if s.Current() == first || len(told) != 1 || told[0] != s.Current() {
		t.Errorf("told %d codes", len(told))
	}
	if ok, _, _ := s.Check(first); ok {
		t.Error("the old code still counts")
	}
}

func TestTheCodeEndsAfter30MinutesEvenIfNothingRuns(t *testing.T) {
	c := newClock()
	s := auth.NewSetupCode(&auth.SetupCodeConfig{Now: c.Now})
	code := s.Current()
	c.Add(30*time.Minute - time.Second)
	if ok, _, _ := s.Check(code); !ok {
		t.Error("ended early")
	}
	c.Add(time.Second)
	if ok, left, rotated := s.Check(code); ok || left != 4 || !rotated {
		t.Errorf("ok %v, left %d, rotated %v", ok, left, rotated)
	}
}

func TestRunTellsTheFirstCodeAndEveryNewOneUntilRetired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var told []string
		s := auth.NewSetupCode(&auth.SetupCodeConfig{OnRotate: func(c string) { mu.Lock(); told = append(told, c); mu.Unlock() }})
		count := func() int {
			mu.Lock()
			defer mu.Unlock()
			return len(slices.Compact(slices.Sorted(slices.Values(told))))
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = s.Run(ctx) })
		synctest.Wait()
		mu.Lock()
		first := slices.Clone(told)
		mu.Unlock()
		if len(first) != 1 || first[0] != s.Current() {
			t.Errorf("told %d codes at the start", len(first))
		}
		time.Sleep(90*time.Minute + 10*time.Second)
		if count() != 4 {
			t.Errorf("told %d codes in 90 minutes", count())
		}
		last := s.Current()
		s.Retire()
		time.Sleep(2 * time.Hour)
		if ok, _, rotated := s.Check(last); ok || rotated || s.Current() != "" || count() != 4 {
			t.Error("a retired code lives")
		}
		if ok, _, _ := s.Check(""); ok {
			t.Error("nothing is the code once it is retired")
		}
		cancel()
		wg.Wait()
	})
}

func TestTenThousandGuessesFromEightClientsNeverHit(t *testing.T) {
	s := auth.NewSetupCode(nil)
	var hits, rotations atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1250 {
				ok, left, rotated := s.Check("able able able able able able")
				if ok {
					hits.Add(1)
				}
				if rotated {
					rotations.Add(1)
				}
				if left < 1 || left > 5 {
					t.Errorf("%d tries left", left)
				}
			}
		})
	}
	wg.Wait()
	if hits.Load() != 0 || rotations.Load() != 2000 {
		t.Errorf("%d hits, %d rotations", hits.Load(), rotations.Load())
	}
}

func FuzzNormaliseSetupCode(f *testing.F) {
	for _, s := range []string{"Able - acid,ACORN", "\xff\xfe", "İ  ẞ", strings.Repeat("a ", 200)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		once := auth.NormaliseSetupCode(s)
		if len(once) <= 256 && auth.NormaliseSetupCode(once) != once {
			t.Fatalf("%q becomes %q and then something else", s, once)
		}
		if strings.Contains(once, "  ") || strings.HasPrefix(once, " ") || strings.HasSuffix(once, " ") || strings.ContainsAny(once, "-,\t\n") {
			t.Fatalf("%q becomes %q", s, once)
		}
	})
}

func TestOfAHundredClaimsExactlyOneWins(t *testing.T) {
	c := auth.NewClaim(false)
	var claims, won, lost atomic.Int64
	start, all := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			<-start
			err := c.Do(func() error { // is at it until everybody else has asked
				claims.Add(1)
				<-all
				return nil
			})
			switch {
			case err == nil:
				won.Add(1)
			case errors.Is(err, auth.ErrClaimed), errors.Is(err, auth.ErrClaiming):
				if lost.Add(1) == 99 {
					close(all)
				}
			}
		})
	}
	close(start)
	go func() { // or the losers would wait for more of them
		select {
		case <-all:
		case <-time.After(5 * time.Second):
			close(all)
		}
	}()
	wg.Wait()
	if claims.Load() != 1 || won.Load() != 1 || lost.Load() != 99 || !c.Claimed() {
		t.Errorf("%d claims ran, %d won, %d lost", claims.Load(), won.Load(), lost.Load())
	}
}

func TestAClaimThatFailsOrPanicsLeavesTheCellUnclaimed(t *testing.T) {
	c := auth.NewClaim(false)
	boom := errors.New("commit refused")
	if err := c.Do(func() error {
		if err := c.Do(func() error { return nil }); !errors.Is(err, auth.ErrClaiming) {
			t.Errorf("a second claim during the first: %v", err)
		}
		if c.Claimed() {
			t.Error("claimed before it succeeded")
		}
		return boom
	}); !errors.Is(err, boom) || c.Claimed() {
		t.Errorf("err %v, claimed %v", err, c.Claimed())
	}
	func() {
		defer func() { _ = recover() }()
		_ = c.Do(func() error { panic("boom") })
	}()
	if c.Claimed() {
		t.Error("a panic claimed the cell")
	}
	if err := c.Do(func() error { return nil }); err != nil {
		t.Errorf("the next one: %v", err)
	}
	if err := auth.NewClaim(true).Do(func() error { t.Error("ran"); return nil }); !errors.Is(err, auth.ErrClaimed) {
		t.Errorf("a cell with an owner: %v", err)
	}
}

type wizard struct {
	Name  string
	Steps int
}

func TestSetupSessionsGuardTheDraft(t *testing.T) {
	c := newClock()
	s := auth.NewSetupSessions[wizard](c.Now)
	token := s.Create(wizard{Name: "heron"})
	if err := s.Update(token, func(w *wizard) error { w.Steps++; return nil }); err != nil {
		t.Fatal(err)
	}
	boom := errors.New("no such zone")
	if err := s.Update(token, func(w *wizard) error { w.Name = "half done"; return boom }); !errors.Is(err, boom) {
		t.Errorf("err %v", err)
	}
	if got, ok := s.Draft(token); !ok || got != (wizard{"heron", 1}) {
		t.Errorf("%+v, %v", got, ok)
	}
	for _, wrong := range []string{"", "picw_", token + "x", "pics_" + token[5:]} {
		if _, ok := s.Draft(wrong); ok {
			t.Errorf("%q is a token", wrong)
		}
		if err := s.Update(wrong, func(*wizard) error { return nil }); !errors.Is(err, auth.ErrSetupSession) {
			t.Errorf("%q: %v", wrong, err)
		}
	}
	c.Add(time.Hour)
	if _, ok := s.Draft(token); ok {
		t.Error("alive after an hour")
	}
}

func TestSetupSessionsAreBoundedAndEnd(t *testing.T) {
	c := newClock()
	s := auth.NewSetupSessions[wizard](c.Now)
	var tokens []string
	for range 17 {
		c.Add(time.Second)
		tokens = append(tokens, s.Create(wizard{}))
	}
	if _, ok := s.Draft(tokens[0]); ok {
		t.Error("seventeen drafts")
	}
	if _, ok := s.Draft(tokens[1]); !ok {
		t.Error("the second oldest had to go")
	}
	s.End()
	if _, ok := s.Draft(tokens[16]); ok {
		t.Error("alive after the end")
	}
}

func TestCookiesAreHostOnly(t *testing.T) {
	for _, c := range []http.Cookie{
		auth.SessionCookie("pics_x"), auth.SetupCookie("picw_x"), auth.ClearSessionCookie(), auth.ClearSetupCookie(),
	} {
		text := c.String()
		for _, want := range []string{"__Host-pic", "Path=/", "Secure", "HttpOnly", "SameSite=Strict"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s lacks %s", text, want)
			}
		}
		if strings.Contains(text, "Domain") || c.Value == "" && !strings.Contains(text, "Max-Age=0") {
			t.Error(text)
		}
	}
}

func TestTwoCookiesOfOneNameAreNone(t *testing.T) {
	token := "pics_" + strings.Repeat("A", 43)
	r, _ := http.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Cookie", "__Host-pic="+token)
	if auth.SessionToken(r) != token || auth.SetupToken(r) != "" {
		t.Error("one cookie is not read")
	}
	r.Header.Set("Cookie", "__Host-pic="+token+"; __Host-pic="+token)
	if auth.SessionToken(r) != "" {
		t.Error("two cookies are read")
	}
}
