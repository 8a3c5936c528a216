package api_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// events reads a stream: each as "event data".
func (b *browser) events(path string, header ...string) (<-chan string, context.CancelFunc) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 20*time.Second)
	req, _ := http.NewRequestWithContext(ctx, "GET", b.r.server.URL+path, nil)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := b.c.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		b.t.Fatalf("%s: %s", path, resp.Status)
	}
	out := make(chan string, 4096)
	go func() {
		defer close(out)
		defer resp.Body.Close()
		event := ""
		for sc := bufio.NewScanner(resp.Body); sc.Scan(); {
			if name, value, _ := strings.Cut(sc.Text(), ": "); name == "event" {
				event = value
			} else if name == "data" {
				out <- event + " " + value
			}
		}
	}()
	return out, cancel
}

func TestLogsAreListedSearchedAndCounted(t *testing.T) {
	r, admin := claimedRig(t)
	for i := range 7 {
		r.log.Info("serving names", "subsystem", "dns", "i", i)
		r.log.Warn("port taken", "subsystem", "tunnel", "i", i)
	}
	last := decode[api.List[cell.LogRecord]](t, admin.want(200, "GET", "/api/logs/dns?lines=3", nil)).Items
	if len(last) != 3 || last[0].Attrs["i"] != "4" || last[2].Attrs["i"] != "6" {
		t.Errorf("%+v", last)
	}
	if x := decode[api.List[cell.LogRecord]](t, admin.want(200, "GET", "/api/logs/wireguard?level=warn", nil)).Items; len(x) != 7 {
		t.Errorf("the name of before: %+v", x)
	}
	admin.want(404, "GET", "/api/logs/nothing", nil)
	admin.want(422, "GET", "/api/logs/dns?lines=100000", nil)
	admin.want(422, "GET", "/api/logs/search?level=loud", nil)
	var seqs []uint64
	for cursor, pages := "", 0; ; pages++ {
		page := decode[api.LogPage](t, admin.want(200, "GET", "/api/logs/search?q=TAKEN&subsystem=tunnel&limit=3&cursor="+cursor, nil))
		for _, x := range page.Items {
			seqs = append(seqs, x.Seq)
		}
		if cursor = page.Next; cursor == "" {
			if pages != 2 || len(seqs) != 7 || !slices.IsSortedFunc(seqs, func(a, b uint64) int { return int(b) - int(a) }) {
				t.Errorf("%d pages: %v", pages, seqs)
			}
			break
		}
	}
	if p := decode[api.LogPage](t, admin.want(200, "GET", "/api/logs/search?since="+time.Now().Add(time.Hour).UTC().Format(time.RFC3339), nil)); len(p.Items) != 0 || p.Next != "" {
		t.Errorf("%+v", p)
	}
	counted := uint64(0)
	for _, c := range decode[api.List[cell.LogCount]](t, admin.want(200, "GET", "/api/logs/statistics?interval=24h", nil)).Items {
		if c.Subsystem == "tunnel" && c.Level == cell.LogWarn {
			counted += c.Count
		}
	}
	if counted != 7 {
		t.Errorf("%d lines counted", counted)
	}
}

func TestTheLogIsFollowed(t *testing.T) {
	r, admin := claimedRig(t)
	r.log.Info("before", "subsystem", "dns")
	seq := decode[api.List[cell.LogRecord]](t, admin.want(200, "GET", "/api/logs/dns", nil)).Items[0].Seq
	r.log.Info("missed", "subsystem", "dns")
	events, stop := admin.events(fmt.Sprintf("/api/logs/tail?subsystem=dns&after=%d", seq))
	resumed, stop2 := admin.events("/api/logs/tail?subsystem=dns", "Last-Event-ID", fmt.Sprint(seq))
	r.log.Info("other", "subsystem", "ntp")
	r.log.Info("live", "subsystem", "dns", "text", "two\nlines")
	for _, ch := range []<-chan string{events, resumed} {
		var got []string
		for e := range ch {
			if got = append(got, e); strings.Contains(e, `"live"`) {
				break
			}
		}
		if len(got) != 2 || !strings.HasPrefix(got[0], `log {"seq":`) || !strings.Contains(got[0], `"missed"`) || !strings.Contains(got[1], `two\nlines`) {
			t.Errorf("%q", got)
		}
	}
	stop()
	stop2()
}

// Who follows is bounded, and ends with its session.
func TestFollowersAreBoundedAndEndWithTheSession(t *testing.T) {
	r, admin := claimedRig(t)
	var stops []context.CancelFunc
	for range 32 {
		_, stop := admin.events("/api/logs/tail")
		stops = append(stops, stop)
	}
	if p := admin.want(429, "GET", "/api/logs/tail", nil).problem(); p.Code != "too_many" {
		t.Errorf("%+v", p)
	}
	for _, stop := range stops {
		stop()
	}
	netnstest.Eventually(t, 5*time.Second, func() error {
		if n := r.api.Feeds(); n > 0 {
			return fmt.Errorf("%d streams are open", n)
		}
		return nil
	})
	second := r.browser()
	second.login("admin", adminPassword)
	events, stop := second.events("/api/logs/tail?subsystem=dns")
	defer stop()
	second.want(204, "POST", "/api/auth/logout", m{})
	for range events { // ends
	}
}

func TestLogLevelsAreSet(t *testing.T) {
	r, admin := claimedRig(t)
	a := admin.want(200, "PUT", "/api/logs/levels/dns", m{"level": "debug"})
	if _, n := r.engine.Running(); a.header.Get("Pic-Revision") != fmt.Sprint(n) {
		t.Errorf("%v", a.header)
	}
	r.log.Debug("detail", "subsystem", "dns")
	r.log.Debug("detail", "subsystem", "ntp")
	if p := decode[api.LogPage](t, admin.want(200, "GET", "/api/logs/search?q=detail", nil)); len(p.Items) != 1 || p.Items[0].Subsystem != "dns" {
		t.Errorf("%+v", p)
	}
	admin.want(422, "PUT", "/api/logs/levels/dns", m{"level": "loud"})
	admin.want(404, "PUT", "/api/logs/levels/nothing", m{"level": "info"})
	admin.want(200, "PUT", "/api/logs/levels/dns", m{"level": "default"})
	var set []string
	for _, x := range decode[api.List[cell.SubsystemLevel]](t, admin.want(200, "GET", "/api/logs/levels", nil)).Items {
		if x.Set || x.Level != cell.LogInfo {
			set = append(set, x.Subsystem)
		}
	}
	if d := cmp.Diff([]string(nil), set); d != "" {
		t.Error(d)
	}
}
