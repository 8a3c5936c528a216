package main_test

import (
	"encoding/base32"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/datastore"
)

// A clock that can't be right stops the check of one-time codes, with a notice,
// and nothing else: recovery codes count, changes are made, names are answered.
func TestAClockThatCannotBeRightStopsCodesAndNothingElse(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.claimed()
	login := func(second string) (status, text, cookie, csrf string) {
		t.Helper()
		status, head, text := h.overWeb("POST", "/api/auth/login", fmt.Sprintf(`{"user":"admin","password":"ultramarine kettle 93"%s}`, second))
		var me api.Me
		_, session, _ := strings.Cut(head, auth.SessionCookieName+"=")
		session, _, _ = strings.Cut(session, ";")
		_ = json.Unmarshal([]byte(text), &me)
		return status, text, "Cookie: " + auth.SessionCookieName + "=" + session, "X-CSRF-Token: " + me.CSRFToken
	}
	_, _, cookie, csrf := login("")
	_, _, text := h.overWeb("POST", "/api/auth/second-factor", `{}`, cookie, csrf)
	var e api.Enrolment
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		t.Fatal(text)
	}
	raw, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(e.Secret)
	if err != nil {
		t.Fatal(err)
	}
	now := func() string { return fmt.Sprintf(`,"totp":%q`, auth.TOTP(raw, time.Now())) }
	_, _, text = h.overWeb("POST", "/api/auth/second-factor/confirm", fmt.Sprintf(`{"code":%q}`, auth.TOTP(raw, time.Now().Add(-30*time.Second))), cookie, csrf)
	var codes api.RecoveryCodes
	if err := json.Unmarshal([]byte(text), &codes); err != nil || len(codes.RecoveryCodes) != 10 {
		t.Fatal(text)
	}
	if status, text, _, _ := login(now()); status != "200" {
		t.Fatalf("a code with a right clock: %s %s", status, text)
	}
	if c := into[api.ClockStatus](t, h.want(200, "GET", "/api/ntp/status", "")); !c.Plausible || c.Mode == "" {
		t.Errorf("with a right clock: %+v", c)
	}
	h.kill()

	// It was an hour later than now once.
	store, err := datastore.Open(&datastore.Config{Dir: h.path("state")})
	if err != nil {
		t.Fatal(err)
	}
	was, _ := json.Marshal(map[string]time.Time{"last": time.Now().Add(time.Hour)})
	if err := store.History().Save("clock", was); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	h.start(nil)
	if status, text, _, _ := login(now()); status != "503" || !strings.Contains(text, "clock_implausible") {
		t.Errorf("a code with a wrong clock: %s %s", status, text)
	}
	if status, text, _, _ := login(fmt.Sprintf(`,"totp":%q`, codes.RecoveryCodes[0])); status != "200" {
		t.Errorf("a recovery code with a wrong clock: %s %s", status, text)
	}
	told := 0
	for _, n := range h.status().Notices {
		if n.Code == "clock_implausible" {
			told++
		}
	}
	if told != 2 { // of the clock, and of who signs in
		t.Errorf("%d notices tell of it", told)
	}
	if c := into[api.ClockStatus](t, h.want(200, "GET", "/api/ntp/status", "")); c.Plausible {
		t.Errorf("with a wrong clock: %+v", c)
	}
	h.want(201, "POST", "/api/peers", addPhone)
	if err := h.named("home.internal"); err != nil {
		t.Error(err)
	}
	for _, c := range h.status().Conditions {
		if c.State != "in-sync" {
			t.Errorf("%s is %s: %s", c.Stage, c.State, c.Reason)
		}
	}
}
