package main_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// The real cell's history and events: samples come by themselves, events say
// what happened, and both are there after a stop.
func TestTheRealCellsHistory(t *testing.T) {
	h := newHost(t)
	h.claimed()
	h.want(201, "POST", "/api/peers", addPhone)
	h.want(202, "POST", "/api/peers", `{"name":"tv","generate_key":true}`, "Confirm-Within", "10")
	events := func() []cell.Event {
		return into[api.EventPage](t, h.want(200, "GET", "/api/events/history?limit=1000", "")).Items
	}
	has := func(kind cell.EventKind, subject, what string) func() error {
		return func() error {
			found := events()
			if !slices.ContainsFunc(found, func(e cell.Event) bool {
				return e.Kind == kind && strings.HasPrefix(e.Subject, subject) && e.What == what
			}) {
				return fmt.Errorf("no %s %s %s in %+v", kind, subject, what, found)
			}
			return nil
		}
	}
	netnstest.Eventually(t, 20*time.Second, has(cell.EventRevision, "4", "pending"))
	netnstest.Eventually(t, 20*time.Second, has(cell.EventRevision, "3", "running"))
	health := func() []api.HealthPoint {
		return into[api.HealthHistory](t, h.want(200, "GET", "/api/health/history", "")).Items
	}
	netnstest.Eventually(t, 30*time.Second, func() error {
		if len(health()) == 0 {
			return fmt.Errorf("no sample yet")
		}
		return nil
	})
	if p := health()[0]; p.Status != "ok" || len(p.Stages) < 7 || p.Seconds < 9 || p.Seconds > 60 {
		t.Errorf("%+v", p)
	}
	before := health()
	h.term(15 * time.Second)
	h.start(nil)
	if after := health(); len(after) < len(before) || after[0].Time != before[0].Time {
		t.Errorf("%d samples, then %d", len(before), len(after))
	}
	if err := has(cell.EventRevision, "4", "pending")(); err != nil {
		t.Error(err)
	}
	if x := into[api.TrafficHistory](t, h.want(200, "GET", "/api/peers/phone/history", "")); x.StepSeconds != 10 {
		t.Errorf("%+v", x)
	}
}
