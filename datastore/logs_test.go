package datastore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/datastore"
	"github.com/personal-internet-cell/pic/internal/lifecycle"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// logged is a log in a folder, and a logger into it.
func logged(t *testing.T, dir string, level slog.Level) (*datastore.Logs, *slog.Logger, *bytes.Buffer) {
	t.Helper()
	var out bytes.Buffer
	l := datastore.NewLogs(level)
	log := slog.New(l.Handler(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if dir != "" {
		s, err := datastore.Open(&datastore.Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		l.Attach(s)
	}
	return l, log, &out
}

func texts(records []cell.LogRecord) (out []string) {
	for _, r := range records {
		out = append(out, r.Message)
	}
	return out
}

func search(l *datastore.Logs, q cell.LogQuery) []string {
	if q.Limit == 0 {
		q.Limit = 100
	}
	found, _ := l.Search(q)
	return texts(found)
}

func TestLinesAreKeptBySubsystemAndFound(t *testing.T) {
	l, log, out := logged(t, "", slog.LevelInfo)
	dns := log.With("subsystem", "dns")
	dns.Info("serving names", "address", "10.1.1.1:53")
	dns.Debug("not wanted")
	dns.WithGroup("query").Warn("odd", "name", "Example.ORG", slog.Group("from", "port", 53))
	log.Error("no attribute", "error", errors.New("boom"), "after", time.Second, "secret", "hunter2", "hidden", cell.NewSecret("hunter2"))
	for _, c := range []struct {
		q    cell.LogQuery
		want []string
	}{
		{cell.LogQuery{}, []string{"no attribute", "odd", "serving names"}},
		{cell.LogQuery{Subsystem: "dns"}, []string{"odd", "serving names"}},
		{cell.LogQuery{Level: cell.LogWarn}, []string{"no attribute", "odd"}},
		{cell.LogQuery{Text: "example.org"}, []string{"odd"}},
		{cell.LogQuery{Text: "SERVING"}, []string{"serving names"}},
		{cell.LogQuery{Text: "query.from.port=53"}, []string{"odd"}},
		{cell.LogQuery{Before: 3}, []string{"odd", "serving names"}},
		{cell.LogQuery{Since: time.Now().Add(time.Hour)}, nil},
		{cell.LogQuery{Until: time.Now().Add(-time.Hour)}, nil},
		{cell.LogQuery{Text: "hunter2"}, nil},
	} {
		if d := cmp.Diff(c.want, search(l, c.q)); d != "" {
			t.Errorf("%+v: %s", c.q, d)
		}
	}
	if found, more := l.Search(cell.LogQuery{Limit: 1}); len(found) != 1 || !more || found[0].Seq != 3 {
		t.Errorf("%+v %v", found, more)
	}
	want := map[string]string{"error": "boom", "after": "1s", "secret": "[redacted]", "hidden": "[redacted]"}
	found, _ := l.Search(cell.LogQuery{Limit: 1, Level: cell.LogError})
	if d := cmp.Diff(want, found[0].Attrs); d != "" || found[0].Subsystem != "pic" {
		t.Errorf("%s %s", found[0].Subsystem, d)
	}
	if s := out.String(); strings.Count(s, "\n") != 3 || !strings.Contains(s, "subsystem=dns") || strings.Contains(s, "not wanted") {
		t.Errorf("passed on: %s", s)
	}
}

// A line belongs to the room whose code logs it; the guard's to its task's.
func TestTheSubsystemIsTheRoomThatLogs(t *testing.T) {
	l, log, _ := logged(t, "", slog.LevelInfo)
	if err := lifecycle.Protect(log, "applying dns", func() error { panic("x") }); err == nil {
		t.Fatal("no panic")
	}
	if err := lifecycle.Protect(log, "policy tests", func() error { panic("x") }); err == nil {
		t.Fatal("no panic")
	}
	if d := cmp.Diff([]string{"recovered from a panic"}, search(l, cell.LogQuery{Subsystem: "dns"})); d != "" {
		t.Error(d)
	}
	if p := l.Totals().Panics; p["dns"] != 1 || p["policy"] != 1 {
		t.Errorf("%v", p)
	}
	for _, c := range []struct {
		function string
		attrs    map[string]string
		want     string
	}{
		{"github.com/personal-internet-cell/pic/dns.(*Server).Run", nil, "dns"},
		{"github.com/personal-internet-cell/pic/cmd/pic.serve", nil, "cmd"},
		{"main.(*house).run", nil, "pic"},
		{"net/http.(*Server).Serve", nil, "pic"},
	} {
		if got := datastore.RoomOfFunction(c.function); got != c.want {
			t.Errorf("%s: %s, want %s", c.function, got, c.want)
		}
	}
	for _, c := range [][3]string{{"reconcile", "stage", "tunnel"}, {"internal", "task", "learning from certs"}, {"internal", "task", "mystery"}, {"reconcile", "stage", "../x"}} {
		got := datastore.SubsystemOf(c[0], map[string]string{c[1]: c[2]})
		want := map[string]string{"tunnel": "tunnel", "learning from certs": "certs", "mystery": "pic", "../x": "reconcile"}[c[2]]
		if got != want {
			t.Errorf("%v: %s, want %s", c, got, want)
		}
	}
}

func TestALineIsBounded(t *testing.T) {
	l, log, _ := logged(t, "", slog.LevelInfo)
	args := []any{}
	for i := range 100 {
		args = append(args, fmt.Sprintf("k%02d", i), strings.Repeat("v", 10_000))
	}
	log.Info(strings.Repeat("m", 10_000)+"\xff", args...)
	log.Info("bad", "value", "a\xff\x1b[31m\nfake line", "panics", panics{})
	found, _ := l.Search(cell.LogQuery{Limit: 2})
	if r := found[1]; len(r.Message) > 510 || len(r.Attrs) != 24 || len(r.Attrs["k00"]) > 4100 {
		t.Errorf("%d %d %d", len(r.Message), len(r.Attrs), len(r.Attrs["k00"]))
	}
	if a := found[0].Attrs; a["value"] != "a\uFFFD\x1b[31m\nfake line" || !strings.HasPrefix(a["panics"], "!PANIC") {
		t.Errorf("%q", a)
	}
}

type panics struct{}

func (panics) MarshalText() ([]byte, error) { panic("no") }

// Memory holds about the newest 1,000 lines of a subsystem, and a loud one
// pushes out nobody else's.
func TestALoudSubsystemPushesOutNobody(t *testing.T) {
	l, log, _ := logged(t, "", slog.LevelInfo)
	log.Info("rare", "subsystem", "certs")
	for i := range 5000 {
		log.Info("loud", "subsystem", "dns", "i", i)
	}
	for i := range 500 {
		log.Info("large", "subsystem", "proxy", "i", i, "text", strings.Repeat("x", 4000))
	}
	found, _ := l.Search(cell.LogQuery{Subsystem: "dns", Limit: 10_000})
	if len(found) < 1000 || len(found) > 1250 || found[0].Attrs["i"] != "4999" {
		t.Errorf("%d lines", len(found))
	}
	large, _ := l.Search(cell.LogQuery{Subsystem: "proxy", Limit: 10_000})
	if len(large) < 100 || len(large) > 160 || large[0].Attrs["i"] != "499" {
		t.Errorf("%d large lines", len(large))
	}
	if d := cmp.Diff([]string{"rare"}, search(l, cell.LogQuery{Subsystem: "certs"})); d != "" {
		t.Error(d)
	}
	for i := range 100 {
		log.Info("many", "subsystem", fmt.Sprintf("s%d", i))
	}
	if n := len(l.Totals().Records); n != 33 { // 32 and the one for all others
		t.Errorf("%d subsystems", n)
	}
}

// What was written is there after a death without warning; a line that was
// being written, or one that rotted, costs itself.
func TestTheLogSurvivesDeath(t *testing.T) {
	dir := t.TempDir()
	write := func(text string, n int) {
		l, log, _ := logged(t, "", slog.LevelInfo)
		log.Info("before the folder is open "+text, "subsystem", "dns")
		s, err := datastore.Open(&datastore.Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		l.Attach(s)
		for i := range n {
			log.Info(fmt.Sprint(text, " ", i), "subsystem", "dns")
			log.Warn(fmt.Sprint(text, " ", i), "subsystem", "ntp")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := l.Run(ctx); err != nil {
			t.Fatal(err)
		} // no Close: the process dies
	}
	write("one", 2)
	file := filepath.Join(dir, "logs/dns.jsonl")
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.WriteString(`{"seq":77,"time":"2026`)
	_ = f.Close()
	write("two", 1)
	l, _, _ := logged(t, dir, slog.LevelInfo)
	want := []string{"two 0", "before the folder is open two", "one 1", "one 0", "before the folder is open one"}
	if d := cmp.Diff(want, search(l, cell.LogQuery{Subsystem: "dns"})); d != "" {
		t.Error(d)
	}
	all, _ := l.Search(cell.LogQuery{Limit: 100})
	for i := 1; i < len(all); i++ {
		if all[i].Seq >= all[i-1].Seq {
			t.Fatalf("numbers are not in order: %d, %d", all[i-1].Seq, all[i].Seq)
		}
	}
	total := uint64(0)
	for _, c := range l.Statistics(time.Time{}, time.Hour) {
		total += c.Count
	}
	if total != uint64(len(all)) || len(all) != 8 {
		t.Errorf("%d counted, %d there", total, len(all))
	}
	if n := l.Totals().Records["dns"]["info"]; n != 0 {
		t.Errorf("%d lines of this process", n)
	}
}

func TestDamagedLinesAreLeftOutWithANotice(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "logs"), 0o700); err != nil {
		t.Fatal(err)
	}
	good := `{"seq":5,"time":"2026-01-01T00:00:00Z","level":"info","subsystem":"dns","message":"good"}` + "\n"
	for name, content := range map[string]string{
		"dns.jsonl":   good + "\x00\x00\x00\n" + strings.Repeat("x", 200_000) + "\n" + strings.ReplaceAll(good, `"dns"`, `"ntp"`) + strings.ReplaceAll(good, "info", "shout"),
		"counts.json": "{]",
		"../../x":     "",
		"BAD.jsonl":   good,
	} {
		if name[0] != '.' {
			if err := os.WriteFile(filepath.Join(dir, "logs", name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	l, log, _ := logged(t, dir, slog.LevelInfo)
	if d := cmp.Diff([]string{"good"}, search(l, cell.LogQuery{})); d != "" {
		t.Error(d)
	}
	if n := l.Notices(); len(n) != 1 || n[0].Code != "log_damaged" {
		t.Errorf("%+v", n)
	}
	log.Info("goes on", "subsystem", "dns")
	if got := search(l, cell.LogQuery{Limit: 1}); got[0] != "goes on" {
		t.Error(got)
	}
	if c := l.Statistics(time.Time{}, 24*time.Hour); len(c) != 2 {
		t.Errorf("%+v", c)
	}
}

func TestFilesAreRotated(t *testing.T) {
	dir := t.TempDir()
	l, log, _ := logged(t, dir, slog.LevelInfo)
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	wg.Go(func() { _ = l.Run(ctx) })
	for range 2000 {
		log.Info("line", "subsystem", "dns", "text", strings.Repeat("x", 2000))
		if l.Waiting() > 512<<10 {
			netnstest.Eventually(t, 10*time.Second, func() error {
				if n := l.Waiting(); n > 64<<10 {
					return fmt.Errorf("%d bytes wait", n)
				}
				return nil
			})
		}
	}
	cancel()
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	total := int64(0)
	files, _ := os.ReadDir(filepath.Join(dir, "logs"))
	for _, f := range files {
		st, _ := f.Info()
		if st.Mode().Perm() != 0o600 {
			t.Errorf("%s %v", f.Name(), st.Mode())
		}
		total += st.Size()
	}
	if total < 1<<20 || total > 4<<20 || len(files) != 3 {
		t.Errorf("%d bytes in %v", total, files)
	}
	if lost := l.Totals().Lost; lost != 0 {
		t.Errorf("%d lines lost", lost)
	}
}

// A disk that takes nothing costs lines on the disk, counted and said, and
// never the time of who logs.
func TestADiskThatTakesNothingHoldsUpNobody(t *testing.T) {
	dir := t.TempDir()
	l, log, _ := logged(t, dir, slog.LevelInfo)
	if err := os.WriteFile(filepath.Join(dir, "logs"), nil, 0o600); err != nil { // a file where the folder should be
		t.Fatal(err)
	}
	for range 100 {
		log.Info("line", "subsystem", "dns")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if n := l.Notices(); len(n) != 1 || n[0].Code != "log_not_written" || l.Totals().Lost != 100 {
		t.Errorf("%+v %d", n, l.Totals().Lost)
	}
	if got := search(l, cell.LogQuery{Limit: 1000}); len(got) != 100 {
		t.Errorf("%d lines in memory", len(got))
	}
}

func TestLevelsAreSetBySubsystemAndKept(t *testing.T) {
	dir := t.TempDir()
	func() {
		s, err := datastore.Open(&datastore.Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		l := datastore.NewLogs(slog.LevelInfo)
		l.Attach(s)
		if err := errors.Join(l.SetLevel("dns", cell.LogDebug), l.SetLevel("ntp", cell.LogError), l.SetLevel("ntp", "")); err != nil {
			t.Fatal(err)
		}
		if l.SetLevel("dns", "loud") == nil || l.SetLevel("../x", cell.LogInfo) == nil {
			t.Error("a bad level was taken")
		}
	}()
	l, log, _ := logged(t, dir, slog.LevelInfo)
	log.Debug("wanted", "subsystem", "dns")
	log.Debug("not wanted", "subsystem", "ntp")
	if d := cmp.Diff([]string{"wanted"}, search(l, cell.LogQuery{})); d != "" {
		t.Error(d)
	}
	for _, x := range l.Levels() {
		if want := x.Subsystem == "dns"; x.Set != want || want && x.Level != cell.LogDebug || !want && x.Level != cell.LogInfo {
			t.Errorf("%+v", x)
		}
	}
	if err := l.SetLevel("dns", ""); err != nil {
		t.Fatal(err)
	}
	if log.Enabled(t.Context(), slog.LevelDebug) {
		t.Error("debug is still built")
	}
}

func TestAFollowerGetsWhatItAskedForAndHoldsUpNobody(t *testing.T) {
	l, log, _ := logged(t, "", slog.LevelInfo)
	ctx, cancel := context.WithCancel(t.Context())
	w, err := l.Watch(ctx, cell.LogQuery{Subsystem: "dns", Level: cell.LogWarn, Text: "X"})
	if err != nil {
		t.Fatal(err)
	}
	log.Warn("no", "subsystem", "dns")
	log.Warn("x", "subsystem", "ntp")
	log.Info("x", "subsystem", "dns")
	for range 300 {
		log.Warn("x", "subsystem", "dns")
	}
	if n := w.Lost(); n != 300-256 || len(w.C) != 256 {
		t.Errorf("%d lost, %d waiting", n, len(w.C))
	}
	cancel()
	for range w.C { // ends, because it is closed
	}
	for range 32 {
		if _, err := l.Watch(t.Context(), cell.LogQuery{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Watch(t.Context(), cell.LogQuery{}); !errors.Is(err, datastore.ErrTooManyWatchers) {
		t.Error("followers are not bounded")
	}
}

func TestLoggingFromManyGoroutines(t *testing.T) {
	l, log, _ := logged(t, t.TempDir(), slog.LevelInfo)
	ctx, cancel := context.WithCancel(t.Context())
	var run, wg sync.WaitGroup
	run.Go(func() { _ = l.Run(ctx) })
	for g := range 8 {
		wg.Go(func() {
			for i := range 200 {
				log.Info("x", "subsystem", fmt.Sprintf("s%d", g), "i", i)
				l.Search(cell.LogQuery{Limit: 5})
				l.Statistics(time.Time{}, time.Hour)
				_ = l.SetLevel("dns", cell.LogDebug)
			}
		})
	}
	wg.Wait()
	cancel()
	run.Wait()
	if found, _ := l.Search(cell.LogQuery{Limit: 10_000}); len(found) != 1600 || l.Totals().Lost != 0 {
		t.Errorf("%d lines, %d lost", len(found), l.Totals().Lost)
	}
}

func FuzzKeptLog(f *testing.F) {
	f.Add([]byte(`{"seq":5,"time":"2026-01-01T00:00:00Z","level":"info","subsystem":"dns","message":"good"}`+"\n"), []byte(`{"version":1,"seq":3,"hours":{"490000":{"dns":[1,2,3,4]}}}`))
	f.Add([]byte("\n{}\nnull\n"), []byte(`{"hours":{"1":null,"2":{"dns":null}}}`))
	f.Fuzz(func(t *testing.T, lines, counts []byte) {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "logs"), 0o700); err != nil {
			t.Fatal(err)
		}
		_ = os.WriteFile(filepath.Join(dir, "logs/dns.jsonl"), lines, 0o600)
		_ = os.WriteFile(filepath.Join(dir, "logs/counts.json"), counts, 0o600)
		l, log, _ := logged(t, dir, slog.LevelInfo)
		log.Info("goes on", "subsystem", "dns")
		if got := search(l, cell.LogQuery{Limit: 1}); got[0] != "goes on" {
			t.Fatal(got)
		}
		l.Statistics(time.Time{}, time.Hour)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func BenchmarkLogLine(b *testing.B) {
	for _, c := range []struct {
		name string
		wrap bool
	}{{"plain", false}, {"kept", true}} {
		b.Run(c.name, func(b *testing.B) {
			var h slog.Handler = slog.NewTextHandler(io.Discard, nil)
			if c.wrap {
				h = datastore.NewLogs(slog.LevelInfo).Handler(h)
			}
			log := slog.New(h)
			b.ReportAllocs()
			for b.Loop() {
				log.Info("configured wireguard device", "device", "pic0", "peers", 17, "peers_changed", 1)
			}
		})
	}
}

func BenchmarkLogLineNotWanted(b *testing.B) {
	log := slog.New(datastore.NewLogs(slog.LevelInfo).Handler(slog.NewTextHandler(io.Discard, nil)))
	for b.Loop() {
		log.Debug("looking again", "reason", "test")
	}
}
