package datastore_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/datastore"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// feedSamples adds n samples of ten seconds from a time on: dns fails in every
// sixth of them, and each peer moves one byte in and two out.
func feedSamples(h *datastore.Samples, from time.Time, n int, peers ...string) {
	for i := range n {
		s := cell.Sample{Time: from.Add(time.Duration(i) * 10 * time.Second), Seconds: 10, Uptime: uint32(10 * (i + 1)), Online: uint32(i % 3), Peers: map[string]cell.Traffic{}}
		dns := cell.StageSample{Stage: "dns", Worst: cell.InSync, InSyncSeconds: 10}
		if i%6 == 5 {
			dns.Worst, dns.InSyncSeconds = cell.Failed, 0
		}
		s.Stages = []cell.StageSample{{Stage: "firewall", Worst: cell.InSync, InSyncSeconds: 10}, dns}
		for _, p := range peers {
			s.Peers[p] = cell.Traffic{RxBytes: 1, TxBytes: 2}
			s.Total.RxBytes++
			s.Total.TxBytes += 2
		}
		h.Add(&s)
	}
}

func span(from time.Time, d, step time.Duration, peer string) cell.HistoryQuery {
	return cell.HistoryQuery{Since: from, Until: from.Add(d), Step: step, Peer: peer}
}

func total(samples []cell.Sample) (t cell.Traffic, seconds int) {
	for _, s := range samples {
		t.RxBytes += s.Total.RxBytes
		t.TxBytes += s.Total.TxBytes
		seconds += int(s.Seconds)
	}
	return t, seconds
}

// An hour is kept by ten seconds, a day by minutes, a month by quarters of an
// hour; the sums are the same in all, also of what is not complete.
func TestHistoryIsAddedUp(t *testing.T) {
	h := datastore.OpenSamples(open(t, t.TempDir()))
	feedSamples(h, noon, 35, "laptop", "phone") // 5 min 50 s
	for _, c := range []struct {
		step, want time.Duration
		points     int
	}{{0, 10 * time.Second, 35}, {10 * time.Second, 10 * time.Second, 35}, {time.Minute, time.Minute, 6}, {5 * time.Minute, 5 * time.Minute, 2}, {15 * time.Minute, 15 * time.Minute, 1}, {time.Hour, time.Hour, 1}} {
		got, step := h.Query(span(noon, time.Hour, c.step, ""))
		sum, seconds := total(got)
		if step != c.want || len(got) != c.points || sum != (cell.Traffic{RxBytes: 70, TxBytes: 140}) || seconds != 350 {
			t.Errorf("step %v: %v, %d points, %+v, %d s", c.step, step, len(got), sum, seconds)
		}
		one, _ := h.Query(span(noon, time.Hour, c.step, "phone"))
		if sum, _ := total(one); sum != (cell.Traffic{RxBytes: 35, TxBytes: 70}) {
			t.Errorf("step %v: phone %+v", c.step, sum)
		}
	}
	got, _ := h.Query(span(noon, time.Hour, time.Minute, ""))
	want := cell.Sample{
		Time: noon, Seconds: 60, Uptime: 60, Online: 2, Total: cell.Traffic{RxBytes: 12, TxBytes: 24},
		Stages: []cell.StageSample{{Stage: "firewall", Worst: cell.InSync, InSyncSeconds: 60}, {Stage: "dns", Worst: cell.Failed, InSyncSeconds: 50}},
	}
	if d := cmp.Diff(want, got[0]); d != "" {
		t.Error(d)
	}
	if got, _ := h.Query(span(noon, time.Hour, 0, "stranger")); len(got) != 35 || got[0].Total != (cell.Traffic{}) {
		t.Errorf("a peer that there never was: %+v", got[0])
	}
	// Where the past is kept no finer, the step is longer.
	if _, step := h.Query(span(noon, 24*time.Hour, 10*time.Second, "")); step != time.Minute {
		t.Errorf("a day by %v", step)
	}
	if _, step := h.Query(span(noon, 30*24*time.Hour, time.Minute, "")); step != 15*time.Minute {
		t.Errorf("a month by %v", step)
	}
}

// A month of samples takes no more room than it says.
func TestHistoryIsBounded(t *testing.T) {
	dir := t.TempDir()
	h := datastore.OpenSamples(open(t, dir))
	const days = 40
	for day := range days {
		feedSamples(h, noon.Add(time.Duration(day)*24*time.Hour), 8640, "laptop")
		h.Save()
	}
	end := noon.Add(days * 24 * time.Hour)
	for _, c := range []struct {
		back, step time.Duration
		points     int
	}{{time.Hour, 0, 360}, {24 * time.Hour, 0, 1440}, {30 * 24 * time.Hour, 0, 2880}, {90 * 24 * time.Hour, 0, 2880}} {
		got, _ := h.Query(span(end.Add(-c.back), c.back, c.step, ""))
		// What is being added up may be a point more.
		if len(got) < c.points || len(got) > c.points+1 {
			t.Errorf("%v: %d points, want %d", c.back, len(got), c.points)
		}
	}
	bytes := int64(0)
	files, err := os.ReadDir(filepath.Join(dir, "samples"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		st, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		bytes += st.Size()
	}
	if bytes > 4<<20 || len(files) > 6 {
		t.Errorf("%d bytes in %d files", bytes, len(files))
	}
}

// With 10,000 peers that are all busy the cell's totals are whole, and the
// peers' own are kept as far back as they have room.
func TestHistoryOfTenThousandPeersIsBounded(t *testing.T) {
	h := datastore.OpenSamples(open(t, t.TempDir()))
	peers := make([]string, 10_000)
	for i := range peers {
		peers[i] = fmt.Sprintf("peer%d", i)
	}
	const n = 240
	feedSamples(h, noon, n, peers...)
	for i, b := range h.PeerBytes() {
		if b > 7<<20 {
			t.Errorf("ring %d: %d bytes", i, b)
		}
	}
	got, _ := h.Query(span(noon, time.Hour, 0, ""))
	if sum, _ := total(got); sum.RxBytes != 10_000*n {
		t.Errorf("%+v", sum)
	}
	one, _ := h.Query(span(noon, time.Hour, time.Minute, "peer9999"))
	if sum, _ := total(one); sum.RxBytes < n/2 {
		t.Errorf("%+v of a peer", sum)
	}
}

// What was saved is there after a death, also what was being added up.
func TestHistorySurvivesDeath(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	h := datastore.OpenSamples(s)
	feedSamples(h, noon, 100, "laptop") // 16 min 40 s
	h.Save()
	feedSamples(h, noon.Add(1000*time.Second), 5, "laptop") // not saved: lost
	s = reopen(t, s, dir)
	h = datastore.OpenSamples(s)
	feedSamples(h, noon.Add(1100*time.Second), 10, "laptop", "phone")
	check := func() {
		t.Helper()
		for _, step := range []time.Duration{10 * time.Second, time.Minute, 15 * time.Minute} {
			got, _ := h.Query(span(noon, time.Hour, step, "laptop"))
			if sum, seconds := total(got); sum.RxBytes != 110 || seconds != 1100 {
				t.Errorf("by %v: %+v, %d s", step, sum, seconds)
			}
			if sum, _ := total(first2(h.Query(span(noon, time.Hour, step, "phone")))); sum.RxBytes != 10 {
				t.Errorf("by %v: phone %+v", step, sum)
			}
		}
		if n := h.Notices(); len(n) != 0 {
			t.Errorf("%+v", n)
		}
	}
	check()
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	// A record that was being written when the power went.
	f, err := os.OpenFile(filepath.Join(dir, "samples/1m"), os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.Write([]byte{200, 0, 0, 0, 1, 2, 3, 4, 'r', 0})
	_ = f.Close()
	s = reopen(t, s, dir)
	h = datastore.OpenSamples(s)
	check()
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	s = reopen(t, s, dir)
	h = datastore.OpenSamples(s)
	check()
}

func first2(a []cell.Sample, _ time.Duration) []cell.Sample { return a }

// Damage costs what comes after it in its file, is said, and never the cell.
func TestDamagedHistoryBeginsAnewWithANotice(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"a bit":       func(b []byte) []byte { b[len(b)/2] ^= 4; return b },
		"the magic":   func(b []byte) []byte { b[0] = 'X'; return b },
		"zeros":       func(b []byte) []byte { clear(b[len(b)/3:]); return b },
		"other bytes": func([]byte) []byte { return []byte("nonsense that is longer than the magic word") },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			h := datastore.OpenSamples(s)
			feedSamples(h, noon, 100, "laptop")
			if err := h.Close(); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "samples/10s")
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, damage(b), 0o600); err != nil {
				t.Fatal(err)
			}
			s = reopen(t, s, dir)
			h = datastore.OpenSamples(s)
			if n := h.Notices(); len(n) != 1 || n[0].Code != "history_damaged" {
				t.Errorf("%+v", n)
			}
			if got, _ := h.Query(span(noon, time.Hour, time.Minute, "laptop")); len(got) < 16 {
				t.Errorf("the other files are gone too: %d points", len(got))
			}
			later := noon.Add(2 * time.Hour)
			feedSamples(h, later, 30, "laptop")
			if err := h.Close(); err != nil {
				t.Fatal(err)
			}
			s = reopen(t, s, dir)
			h = datastore.OpenSamples(s)
			if sum, _ := total(first2(h.Query(span(later, time.Hour, 0, "laptop")))); sum.RxBytes != 30 || len(h.Notices()) != 0 {
				t.Errorf("after the damage: %+v %+v", sum, h.Notices())
			}
		})
	}
}

// A clock that was set wrong, and right again, costs nothing that is kept.
func TestAClockThatJumpsSpoilsNoHistory(t *testing.T) {
	h := datastore.OpenSamples(open(t, t.TempDir()))
	feedSamples(h, noon, 60, "laptop")
	feedSamples(h, time.Date(2038, 1, 1, 0, 0, 0, 0, time.UTC), 10, "laptop")
	feedSamples(h, time.Unix(30, 0), 10, "laptop")
	feedSamples(h, noon.Add(10*time.Minute), 60, "laptop")
	for _, step := range []time.Duration{10 * time.Second, time.Minute, 15 * time.Minute} {
		got, _ := h.Query(span(noon, time.Hour, step, ""))
		if sum, seconds := total(got); sum.RxBytes != 120 || seconds != 1200 {
			t.Errorf("by %v: %+v %d", step, sum, seconds)
		}
	}
}

// Peers come and go for years: their names don't pile up.
func TestNamesOfGonePeersAreForgotten(t *testing.T) {
	h := datastore.OpenSamples(open(t, t.TempDir()))
	peers := make([]string, 2000)
	for i := range 100 {
		for k := range peers {
			peers[k] = fmt.Sprintf("g%d-%d", i, k)
		}
		feedSamples(h, noon.Add(time.Duration(i)*time.Hour), 1, peers...)
		feedSamples(h, noon.Add(time.Duration(i)*time.Hour+time.Minute), 20)
		h.Save()
	}
	if n := h.Names(); n > 110_000 {
		t.Errorf("%d names", n)
	}
	if sum, _ := total(first2(h.Query(span(noon.Add(99*time.Hour), time.Hour, 15*time.Minute, "g99-7")))); sum.RxBytes != 1 {
		t.Error("the newest are forgotten")
	}
}

func TestADiskThatTakesNoHistoryIsSaid(t *testing.T) {
	dir := t.TempDir()
	h := datastore.OpenSamples(open(t, dir))
	if err := os.WriteFile(filepath.Join(dir, "samples"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	feedSamples(h, noon, 10, "laptop")
	h.Save()
	if n := h.Notices(); len(n) != 1 || n[0].Code != "history_not_written" {
		t.Errorf("%+v", n)
	}
	if err := os.Remove(filepath.Join(dir, "samples")); err != nil {
		t.Fatal(err)
	}
	feedSamples(h, noon.Add(time.Minute), 60, "laptop")
	h.Save()
	if n := h.Notices(); len(n) != 0 {
		t.Errorf("%+v", n)
	}
}

func FuzzHistoryFile(f *testing.F) {
	dir := f.TempDir()
	h := datastore.OpenSamples(open(f, dir))
	feedSamples(h, noon, 12, "laptop", "phone")
	if err := h.Close(); err != nil {
		f.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "samples/10s"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:len(b)-3])
	f.Add([]byte("PICHIST1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "samples"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "samples/1m"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, dir)
		h := datastore.OpenSamples(s)
		feedSamples(h, noon, 8, "laptop")
		h.Query(cell.HistoryQuery{Since: time.Unix(0, 0), Until: noon.Add(time.Hour), Step: time.Minute, Peer: "laptop"})
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
		// What is left of the file is sound.
		s = reopen(t, s, dir)
		if n := datastore.OpenSamples(s).Notices(); len(n) != 0 {
			t.Fatalf("%+v", n)
		}
	})
}

func BenchmarkSampleOfTenThousandPeers(b *testing.B) {
	h := datastore.OpenSamples(open(b, b.TempDir()))
	peers := make([]string, 10_000)
	for i := range peers {
		peers[i] = fmt.Sprintf("peer%d", i)
	}
	at := noon
	for b.Loop() {
		feedSamples(h, at, 1, peers...)
		at = at.Add(10 * time.Second)
	}
}
