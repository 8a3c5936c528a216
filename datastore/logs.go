package datastore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/personal-internet-cell/pic/cell"
)

// Limits of the kept log.
const (
	logRecords    = 1000      // of one subsystem in memory
	logMemory     = 512 << 10 // bytes of one subsystem in memory, as on the disk
	logSubsystems = 32
	logBacklog    = 1 << 20 // bytes that wait for the disk
	logHours      = 24 * 7  // hours that are counted
	logWatchers   = 32
	logWatched    = 256 // lines that wait for one watcher

	logLevelsFile = "log-levels"
)

// ErrTooManyWatchers means that enough programs follow the log already.
var ErrTooManyWatchers = errors.New("too many programs follow the log")

// Logs keeps the newest lines of the cell's log by subsystem, in memory and on
// the disk, and counts them. Its handler ([Logs.Handler]) never waits for the
// disk: a task writes, and what a full or dead disk can't take is counted and
// left out. It is safe for concurrent use.
type Logs struct {
	base  slog.Level
	least atomic.Int64 // the lowest level that any subsystem wants
	// levels are those that a person has set.
	levels atomic.Pointer[map[string]slog.Level]
	places sync.Map // program counter → room
	files  *logFiles
	wake   chan struct{}

	mu       sync.Mutex
	store    *Store // nil before Attach
	subs     map[string]*subsystemLog
	seq      uint64
	pending  []cell.LogRecord // for the disk
	waiting  int              // bytes in pending
	lost     uint64
	panics   map[string]uint64
	hours    map[int64]map[string]*logCounts // by Unix hour and subsystem
	watchers map[*LogWatch]struct{}
}

// subsystemLog is the newest lines of one subsystem. A slice of records that
// was handed out stays as it is: records are added behind it, and what is old
// goes by making a new slice.
type subsystemLog struct {
	records []cell.LogRecord
	bytes   int
	total   logCounts // since the start
}

// logCounts are by the rank of the level.
type logCounts [4]uint64

// NewLogs makes an empty log in memory. Lines below level are dropped, unless
// somebody sets another level for their subsystem.
func NewLogs(level slog.Level) *Logs {
	l := &Logs{
		base: level, wake: make(chan struct{}, 1), files: &logFiles{open: map[string]*logFile{}},
		subs: map[string]*subsystemLog{}, panics: map[string]uint64{},
		hours: map[int64]map[string]*logCounts{}, watchers: map[*LogWatch]struct{}{},
	}
	l.setLevels(map[string]slog.Level{})
	return l
}

// Attach reads what an earlier process kept in the data folder, puts it before
// the lines of this one, and lets [Logs.Run] write there.
// What can't be read is left out, with a notice: a cell comes up without its
// old log too.
func (l *Logs) Attach(s *Store) {
	kept, err := readLogs(s)
	if err != nil {
		kept.damaged = errors.Join(kept.damaged, s.failure("reading the kept log", err))
	}
	levels := map[string]slog.Level{}
	doc, err := s.LoadHistory(logLevelsFile)
	if err == nil {
		err = json.Unmarshal(doc, &levels)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		kept.damaged = errors.Join(kept.damaged, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.store = s
	l.files.attach(s, kept.damaged)
	maps.DeleteFunc(levels, func(name string, _ slog.Level) bool { return !validSubsystem(name) })
	l.setLevels(levels)
	// The lines of this process, which began before its folder was open, come
	// after those of the last one.
	fresh := pick(l.lists(""), &cell.LogQuery{Limit: math.MaxInt})
	l.subs, l.hours, l.pending, l.waiting = map[string]*subsystemLog{}, kept.hours, nil, 0
	for _, r := range kept.records {
		l.keep(r)
		l.seq = r.Seq
	}
	for _, x := range l.subs {
		x.total = logCounts{}
	}
	for _, r := range slices.Backward(fresh) {
		l.seq++
		r.Seq = l.seq
		l.keep(r)
		l.countHour(&r)
		l.queue(r)
	}
	l.nudge()
}

func (l *Logs) nudge() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// add takes one line in. It never blocks on anything but memory.
func (l *Logs) add(r cell.LogRecord) {
	l.mu.Lock()
	if l.subs[r.Subsystem] == nil && len(l.subs) >= logSubsystems {
		r.Subsystem = defaultSubsystem
	}
	l.seq++
	r.Seq = l.seq
	l.keep(r)
	l.countHour(&r)
	if r.Message == panicMessage {
		l.panics[r.Subsystem]++
	}
	l.queue(r)
	for w := range l.watchers {
		w.offer(&r)
	}
	l.mu.Unlock()
	l.nudge()
}

// keep adds a record to its subsystem's lines in memory.
func (l *Logs) keep(r cell.LogRecord) {
	s := l.subs[r.Subsystem]
	if s == nil {
		s = &subsystemLog{}
		l.subs[r.Subsystem] = s
	}
	s.records = append(s.records, r)
	s.bytes += recordSize(&r)
	s.total[max(0, r.Level.Rank())]++
	// A quarter more than is kept, so that not every line moves all others.
	if len(s.records) <= logRecords+logRecords/4 && s.bytes <= logMemory+logMemory/4 {
		return
	}
	from := max(0, len(s.records)-logRecords)
	s.bytes = 0
	for i := len(s.records) - 1; i >= from; i-- {
		if s.bytes += recordSize(&s.records[i]); s.bytes > logMemory {
			from = i + 1
			s.bytes -= recordSize(&s.records[i])
			break
		}
	}
	s.records = slices.Clone(s.records[min(from, len(s.records)-1):])
}

// recordSize estimates what a record takes.
func recordSize(r *cell.LogRecord) int {
	n := 120 + len(r.Message)
	for k, v := range r.Attrs {
		n += 24 + len(k) + len(v)
	}
	return n
}

// countHour counts a line. Hours of a clock that was wrong count too; there
// are never more than logHours of them.
func (l *Logs) countHour(r *cell.LogRecord) {
	hour := r.Time.Unix() / 3600
	of := l.hours[hour]
	if of == nil {
		if len(l.hours) >= logHours {
			delete(l.hours, slices.Min(slices.Collect(maps.Keys(l.hours))))
		}
		of = map[string]*logCounts{}
		l.hours[hour] = of
	}
	if of[r.Subsystem] == nil {
		of[r.Subsystem] = &logCounts{}
	}
	of[r.Subsystem][max(0, r.Level.Rank())]++
}

// queue lets a line wait for the disk, if there is room. The caller holds mu.
func (l *Logs) queue(r cell.LogRecord) {
	n := recordSize(&r)
	if l.waiting+n > logBacklog {
		l.lost++
		return
	}
	l.pending = append(l.pending, r)
	l.waiting += n
}

// Search returns the newest lines that q selects, newest first, and whether
// there are more.
func (l *Logs) Search(q cell.LogQuery) (records []cell.LogRecord, more bool) {
	l.mu.Lock()
	lists := l.lists(q.Subsystem)
	l.mu.Unlock()
	found := pick(lists, &q)
	if len(found) > q.Limit {
		return found[:max(q.Limit, 0)], true
	}
	return found, false
}

// lists are the records of one subsystem or, for "", of all. They stay as they
// are. The caller holds mu.
func (l *Logs) lists(subsystem string) (out [][]cell.LogRecord) {
	for name, s := range l.subs {
		if subsystem == "" || name == subsystem {
			out = append(out, s.records[:len(s.records):len(s.records)])
		}
	}
	return out
}

// pick returns the newest records that q selects, newest first: of each list
// one more than q's limit.
func pick(lists [][]cell.LogRecord, q *cell.LogQuery) []cell.LogRecord {
	found := []cell.LogRecord{}
	text := strings.ToLower(q.Text)
	for _, records := range lists {
		n := 0
		for i := len(records) - 1; i >= 0 && n <= q.Limit; i-- {
			if selects(q, text, &records[i]) {
				found = append(found, records[i])
				n++
			}
		}
	}
	slices.SortFunc(found, func(a, b cell.LogRecord) int {
		switch {
		case a.Seq > b.Seq:
			return -1
		case a.Seq < b.Seq:
			return 1
		}
		return 0
	})
	return found
}

// selects reports whether q selects a record; text is q's in lower case.
func selects(q *cell.LogQuery, text string, r *cell.LogRecord) bool {
	if q.Subsystem != "" && r.Subsystem != q.Subsystem || r.Level.Rank() < q.Level.Rank() ||
		q.Before != 0 && r.Seq >= q.Before || r.Time.Before(q.Since) || !q.Until.IsZero() && !r.Time.Before(q.Until) {
		return false
	}
	if text == "" || strings.Contains(strings.ToLower(r.Message), text) {
		return true
	}
	for k, v := range r.Attrs {
		if strings.Contains(strings.ToLower(k+"="+v), text) {
			return true
		}
	}
	return false
}

// Subsystems lists those that have a line or a level, sorted.
func (l *Logs) Subsystems() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	names := map[string]bool{}
	for _, n := range rooms() {
		names[n] = true
	}
	for n := range l.subs {
		names[n] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// Statistics counts the lines since a moment, in intervals of whole hours, of
// at most seven days. Only what is not zero is there, in order.
func (l *Logs) Statistics(since time.Time, interval time.Duration) []cell.LogCount {
	step := max(1, int64(interval/time.Hour))
	type key struct {
		at  int64
		sub string
	}
	sums := map[key]*logCounts{}
	l.mu.Lock()
	for hour, of := range l.hours {
		if time.Unix((hour+1)*3600, 0).Before(since) {
			continue
		}
		for sub, counts := range of {
			k := key{hour - hour%step, sub}
			if sums[k] == nil {
				sums[k] = &logCounts{}
			}
			for i, n := range counts {
				sums[k][i] += n
			}
		}
	}
	l.mu.Unlock()
	out := []cell.LogCount{}
	for k, counts := range sums {
		for i, n := range counts {
			if n > 0 {
				out = append(out, cell.LogCount{Time: time.Unix(k.at*3600, 0).UTC(), Subsystem: k.sub, Level: cell.LogLevels()[i], Count: n})
			}
		}
	}
	slices.SortFunc(out, func(a, b cell.LogCount) int {
		if c := a.Time.Compare(b.Time); c != 0 {
			return c
		}
		if c := strings.Compare(a.Subsystem, b.Subsystem); c != 0 {
			return c
		}
		return a.Level.Rank() - b.Level.Rank()
	})
	return out
}

// LogTotals are what a monitor reads: counts since the start.
type LogTotals struct {
	Records map[string]map[cell.LogLevel]uint64
	Panics  map[string]uint64 // recovered from, by subsystem
	Lost    uint64            // lines that were not written to the disk
}

// Totals returns the counts since this process started.
func (l *Logs) Totals() LogTotals {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := LogTotals{Records: map[string]map[cell.LogLevel]uint64{}, Panics: maps.Clone(l.panics), Lost: l.lost + l.files.lost.Load()}
	for name, s := range l.subs {
		t.Records[name] = map[cell.LogLevel]uint64{}
		for i, n := range s.total {
			t.Records[name][cell.LogLevels()[i]] = n
		}
	}
	return t
}

// Levels returns the level of each subsystem.
func (l *Logs) Levels() []cell.SubsystemLevel {
	names, levels := l.Subsystems(), *l.levels.Load()
	out := make([]cell.SubsystemLevel, 0, len(names))
	for _, n := range names {
		level, set := levels[n]
		if !set {
			level = l.base
		}
		out = append(out, cell.SubsystemLevel{Subsystem: n, Level: levelOf(level), Set: set})
	}
	return out
}

// SetLevel sets the least level of a subsystem, and keeps it over restarts;
// the empty level is the one the cell was started with.
func (l *Logs) SetLevel(subsystem string, level cell.LogLevel) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	levels := maps.Clone(*l.levels.Load())
	if level == "" {
		delete(levels, subsystem)
	} else {
		var x slog.Level
		if err := x.UnmarshalText([]byte(level)); err != nil {
			return fmt.Errorf("setting the level of %s: %w", subsystem, err)
		}
		levels[subsystem] = x
	}
	if !validSubsystem(subsystem) || len(levels) > logSubsystems {
		return fmt.Errorf("setting the level of %q: there is no such subsystem", subsystem)
	}
	if l.store != nil {
		doc, err := json.Marshal(levels)
		if err != nil {
			return err
		}
		if err := l.store.SaveHistory(logLevelsFile, doc); err != nil {
			return err
		}
	}
	l.setLevels(levels)
	return nil
}

// setLevels puts levels in place, which are not changed afterwards.
func (l *Logs) setLevels(levels map[string]slog.Level) {
	least := l.base
	for _, x := range levels {
		least = min(least, x)
	}
	l.levels.Store(&levels)
	l.least.Store(int64(least))
}

// wants reports whether a line of a subsystem is kept.
func (l *Logs) wants(subsystem string, level slog.Level) bool {
	x, set := (*l.levels.Load())[subsystem]
	if !set {
		x = l.base
	}
	return level >= x
}

// LogWatch is a follower of the log.
type LogWatch struct {
	// C gets lines as they come. It is closed when the context ends.
	C     <-chan cell.LogRecord
	c     chan cell.LogRecord
	query cell.LogQuery
	text  string
	lost  atomic.Uint64
}

// Lost is how many lines the follower was too slow for since it was last asked.
func (w *LogWatch) Lost() uint64 { return w.lost.Swap(0) }

// offer gives the follower a line that it wants, and never waits.
func (w *LogWatch) offer(r *cell.LogRecord) {
	if !selects(&w.query, w.text, r) {
		return
	}
	select {
	case w.c <- *r:
	default:
		w.lost.Add(1)
	}
}

// Watch follows the log from now on until ctx ends.
func (l *Logs) Watch(ctx context.Context, q cell.LogQuery) (*LogWatch, error) {
	w := &LogWatch{c: make(chan cell.LogRecord, logWatched), query: q, text: strings.ToLower(q.Text)}
	w.C = w.c
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.watchers) >= logWatchers {
		return nil, ErrTooManyWatchers
	}
	l.watchers[w] = struct{}{}
	context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.watchers, w)
		close(w.c)
	})
	return w, nil
}
