package datastore

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/personal-internet-cell/pic/cell"
)

const (
	logsDir     = "logs" // dns.jsonl, and dns.jsonl.1 before it
	logSuffix   = ".jsonl"
	logOld      = ".1"
	logCountsIn = "counts.json"
	logFileSize = 1 << 20
	logLine1    = 64 << 10 // bytes of a line that is read
	logRetry    = 10 * time.Second
	logSaves    = 10 * time.Minute // between two savings of the counts
)

// logFiles writes lines to their files. Nothing is synced: a kill of the
// process loses nothing that was written, a power cut the last half minute.
type logFiles struct {
	lost    atomic.Uint64
	problem atomic.Pointer[string] // why lines are missing
	once    atomic.Pointer[string] // what was found at the start

	mu    sync.Mutex // held while writing
	dir   string     // "" before attach
	open  map[string]*logFile
	retry time.Time // not before, after a failure
	saved time.Time
}

type logFile struct {
	f    *os.File
	size int64
}

// logCountsFile is what is counted, with the last line in it.
type logCountsFile struct {
	Version int                             `json:"version"`
	Seq     uint64                          `json:"seq"`
	Hours   map[int64]map[string]*logCounts `json:"hours"`
}

// keptLog is what an earlier process left.
type keptLog struct {
	records []cell.LogRecord // in order
	hours   map[int64]map[string]*logCounts
	damaged error
}

// readLogs reads the folder. Lines that can't be read are left out.
func readLogs(s *Store) (keptLog, error) {
	k := keptLog{hours: map[int64]map[string]*logCounts{}}
	dir := filepath.Join(s.dir, logsDir)
	entries, err := list(dir)
	if err != nil {
		return k, err
	}
	bad := 0
	for _, name := range entries {
		base, _ := strings.CutSuffix(name, logOld)
		subsystem, isLog := strings.CutSuffix(base, logSuffix)
		if !isLog || !validSubsystem(subsystem) {
			continue
		}
		n, err := readLog(filepath.Join(dir, name), subsystem, &k.records)
		if err != nil {
			return k, err
		}
		bad += n
	}
	slices.SortFunc(k.records, func(a, b cell.LogRecord) int {
		switch {
		case a.Seq < b.Seq:
			return -1
		case a.Seq > b.Seq:
			return 1
		}
		return 0
	})
	if bad > 0 {
		k.damaged = fmt.Errorf("%d lines of the kept log were damaged and left out", bad)
	}
	var counts logCountsFile
	if doc, err := os.ReadFile(filepath.Join(dir, logCountsIn)); err == nil && len(doc) < maxHistory {
		if err := json.Unmarshal(doc, &counts); err != nil || len(counts.Hours) > logHours {
			k.damaged = errors.Join(k.damaged, errors.New("the counts of the log were damaged and begin anew"))
			counts = logCountsFile{}
		}
	}
	for hour, of := range counts.Hours {
		for sub, n := range of {
			if n == nil || !validSubsystem(sub) {
				delete(of, sub)
			}
		}
		if of != nil {
			k.hours[hour] = of
		}
	}
	rest := &Logs{hours: k.hours}
	for i := range k.records {
		if k.records[i].Seq > counts.Seq {
			rest.countHour(&k.records[i])
		}
	}
	return k, nil
}

// readLog adds the lines of one file. An unfinished last line is no damage.
func readLog(path, subsystem string, to *[]cell.LogRecord) (bad int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	in := bufio.NewReaderSize(io.LimitReader(f, 4*logFileSize), logLine1)
	for {
		line, err := in.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF):
			return bad, nil
		case errors.Is(err, bufio.ErrBufferFull):
			bad++
			continue // the rest of it is a bad line too
		case err != nil:
			return bad, err
		}
		var r cell.LogRecord
		if len(bytes.TrimSpace(line)) == 0 {
			continue // after a line that was cut short
		}
		if json.Unmarshal(line, &r) != nil || r.Subsystem != subsystem || r.Level.Rank() < 0 || r.Seq == 0 {
			bad++
			continue
		}
		*to = append(*to, r)
	}
}

func (w *logFiles) attach(s *Store, damaged error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dir = filepath.Join(s.dir, logsDir)
	if damaged != nil {
		text := damaged.Error()
		w.once.Store(&text)
	}
}

// write appends lines to their files, each file once.
func (w *logFiles) write(lines []cell.LogRecord) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(lines) == 0 {
		return
	}
	if w.dir == "" || time.Now().Before(w.retry) {
		w.lost.Add(uint64(len(lines)))
		return
	}
	chunks := map[string][]byte{}
	counts := map[string]uint64{}
	var failed error
	for i := range lines {
		text, err := json.Marshal(&lines[i])
		if err != nil {
			failed = err
			w.lost.Add(1)
			continue
		}
		of := lines[i].Subsystem
		chunks[of] = append(append(chunks[of], text...), '\n')
		counts[of]++
	}
	for subsystem, chunk := range chunks {
		if err := w.append(subsystem, chunk); err != nil {
			failed = err
			w.lost.Add(counts[subsystem])
		}
	}
	if failed != nil {
		w.retry = time.Now().Add(logRetry)
		text := failed.Error()
		w.problem.Store(&text)
	} else {
		w.problem.Store(nil)
	}
}

func (w *logFiles) append(subsystem string, chunk []byte) error {
	l := w.open[subsystem]
	path := filepath.Join(w.dir, subsystem+logSuffix)
	if l != nil && l.size >= logFileSize {
		delete(w.open, subsystem)
		if err := errors.Join(l.f.Close(), os.Rename(path, path+logOld)); err != nil {
			return err
		}
		l = nil
	}
	if l == nil {
		var err error
		if l, err = openLog(w.dir, path); err != nil {
			return err
		}
		w.open[subsystem] = l
	}
	n, err := l.f.Write(chunk)
	l.size += int64(n)
	if err != nil {
		delete(w.open, subsystem) // opening it again ends what was cut short
		return errors.Join(err, l.f.Close())
	}
	return nil
}

// openLog opens a file to append to; a last line without its end gets one.
func openLog(dir, path string) (*logFile, error) {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	l := &logFile{f, st.Size()}
	last := []byte{'\n'}
	if l.size > 0 {
		if _, err := f.ReadAt(last, l.size-1); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	if last[0] != '\n' {
		if _, err := f.Write([]byte{'\n'}); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return l, nil
}

// save replaces the counts. A reader finds the old file or the new one.
func (w *logFiles) save(counts *logCountsFile) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.saved = time.Now()
	if w.dir == "" {
		return nil
	}
	doc, err := json.Marshal(counts)
	if err != nil {
		return err
	}
	tmp := filepath.Join(w.dir, ".tmp-"+logCountsIn)
	if err := os.WriteFile(tmp, doc, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(w.dir, logCountsIn))
}

func (w *logFiles) close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var errs []error
	for name, l := range w.open {
		errs = append(errs, l.f.Close())
		delete(w.open, name)
	}
	w.dir = ""
	return errors.Join(errs...)
}

// Run writes what is logged until ctx ends.
func (l *Logs) Run(ctx context.Context) error {
	counts := time.NewTicker(logSaves)
	defer counts.Stop()
	for {
		select {
		case <-ctx.Done():
			l.flush()
			return nil
		case <-l.wake:
			l.flush()
		case <-counts.C:
			l.saveCounts()
		}
	}
}

// Ready is closed: lines are kept before Run does.
func (*Logs) Ready() <-chan struct{} { return alwaysReady() }

func (*Logs) String() string { return "logs" }

func alwaysReady() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// flush writes what waits.
func (l *Logs) flush() {
	l.mu.Lock()
	if l.store == nil {
		l.mu.Unlock()
		return // it waits for Attach
	}
	lines := l.pending
	l.pending, l.waiting = nil, 0
	l.mu.Unlock()
	l.files.write(lines)
}

func (l *Logs) saveCounts() {
	l.mu.Lock()
	doc := logCountsFile{Version: 1, Seq: l.seq, Hours: map[int64]map[string]*logCounts{}}
	for hour, of := range l.hours {
		doc.Hours[hour] = map[string]*logCounts{}
		for sub, n := range of {
			c := *n
			doc.Hours[hour][sub] = &c
		}
	}
	l.mu.Unlock()
	if err := l.files.save(&doc); err != nil {
		text := err.Error()
		l.files.problem.Store(&text)
	}
}

// Close writes what waits, and what is counted.
func (l *Logs) Close() error {
	l.flush()
	l.saveCounts()
	return l.files.close()
}

// Notices say that lines are not kept, or were found damaged.
func (l *Logs) Notices() []cell.Notice {
	var out []cell.Notice
	if p := l.files.problem.Load(); p != nil {
		out = append(out, cell.Notice{
			Code: "log_not_written", Subject: "logs", Severity: cell.Warning,
			Text: "The cell's log can't be written to the disk: " + *p + ". It is kept in memory; free some space on the disk of the state folder.",
		})
	}
	if p := l.files.once.Load(); p != nil {
		out = append(out, cell.Notice{Code: "log_damaged", Subject: "logs", Severity: cell.Info, Text: *p + ". This notice ends with the next start."})
	}
	return out
}
