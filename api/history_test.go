package api_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/cell"
)

func TestHistoryIsReadByRangeAndStep(t *testing.T) {
	r, admin := claimedRig(t)
	admin.want(201, "POST", "/api/peers", m{"name": "laptop", "generate_key": true})
	at := time.Now().UTC().Truncate(time.Minute).Add(-10 * time.Minute)
	for i := range 60 {
		s := cell.Sample{
			Time: at.Add(time.Duration(i) * 10 * time.Second), Seconds: 10, Uptime: uint32(i), Online: 1,
			Total: cell.Traffic{RxBytes: 5, TxBytes: 7}, Peers: map[string]cell.Traffic{"laptop": {RxBytes: 2, TxBytes: 3}},
			Stages: []cell.StageSample{{Stage: "dns", Worst: cell.InSync, InSyncSeconds: 10}},
		}
		if i == 59 {
			s.Stages[0] = cell.StageSample{Stage: "dns", Worst: cell.Failed}
		}
		r.samples.Add(&s)
	}
	h := decode[api.HealthHistory](t, admin.want(200, "GET", "/api/health/history?range=1h&step=5m", nil))
	rest := 0
	for _, p := range h.Items {
		rest += int(p.Stages[0].InSyncSeconds)
	}
	if last := h.Items[len(h.Items)-1]; h.StepSeconds != 300 || last.Status != "degraded" || last.Stages[0].State != cell.Failed || h.Items[0].Status != "ok" || rest != 590 {
		t.Errorf("%+v", h)
	}
	sum := func(path string) (s cell.Traffic, step int) {
		t.Helper()
		x := decode[api.TrafficHistory](t, admin.want(200, "GET", path, nil))
		for _, p := range x.Items {
			s.RxBytes += p.RxBytes
			s.TxBytes += p.TxBytes
		}
		return s, x.StepSeconds
	}
	for path, want := range map[string]string{
		"/api/traffic/history":                           "{300 420} 10",
		"/api/traffic/history?range=24h":                 "{300 420} 60",
		"/api/traffic/history?range=720h&step=1h":        "{300 420} 3600",
		"/api/peers/laptop/history?range=1h&step=1m":     "{120 180} 60",
		"/api/peers/laptop/history?range=24h&step=10m":   "{120 180} 600",
		"/api/peers/laptop/history?range=720h&step=720h": "{120 180} 2592000",
	} {
		if s, step := sum(path); fmt.Sprint(s, " ", step) != want {
			t.Errorf("%s: %v %d, want %s", path, s, step, want)
		}
	}
	for _, bad := range []string{"range=1s", "range=9000h", "range=x", "step=1s", "range=1h&step=2h", "step=-5m", "until=1"} {
		admin.want(422, "GET", "/api/traffic/history?"+bad, nil)
	}
	admin.want(404, "GET", "/api/peers/nobody/history", nil)
}

func TestEventsAreListedAndFollowed(t *testing.T) {
	r, admin := claimedRig(t)
	for i := range 5 {
		r.events.Add(cell.Event{Time: time.Now().UTC(), Kind: cell.EventPeer, Subject: fmt.Sprint("peer", i), What: "online"})
	}
	r.events.Add(cell.Event{Kind: cell.EventNotice, Subject: "dns_listen x", What: "raised"})
	page := decode[api.EventPage](t, admin.want(200, "GET", "/api/events/history?kind=peer&limit=2", nil))
	if len(page.Items) != 2 || page.Items[0].Subject != "peer4" || page.Next != "4" {
		t.Errorf("%+v", page)
	}
	page = decode[api.EventPage](t, admin.want(200, "GET", "/api/events/history?kind=peer&cursor="+page.Next, nil))
	if len(page.Items) != 3 || page.Next != "" {
		t.Errorf("%+v", page)
	}
	events, stop := admin.events("/api/events/stream?after=4")
	defer stop()
	r.events.Add(cell.Event{Kind: cell.EventCondition, Subject: "dns", What: "failed", Text: "a\nb"})
	var got []string
	for e := range events {
		kind, _, _ := strings.Cut(e, " ")
		if got = append(got, kind); kind == "condition" {
			if !strings.Contains(e, `"id":7`) || !strings.Contains(e, `"what":"failed"`) {
				t.Error(e)
			}
			break
		}
	}
	if d := cmp.Diff([]string{"peer", "notice", "condition"}, got); d != "" {
		t.Error(d)
	}
}
