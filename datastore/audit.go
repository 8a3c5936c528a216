package datastore

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/atomicfile"
)

// Limits of the audit log. When a file is full the next one begins, and the
// oldest goes: about 200,000 entries are kept.
const (
	auditPrefix   = "audit-" // then the number of the file's first entry
	auditHead     = "audit.head"
	auditFileSize = 4 << 20
	auditFiles    = 16
	auditLine     = 8 << 10
	auditHeadEach = 64 // entries between two writings of the head
)

// ErrAuditBroken is returned when the log's chain does not hold.
var ErrAuditBroken = errors.New("the audit log was changed")

// Audit is the append-only record of who did what. Each line is SHA-256 of an
// entry, a space, and the entry in JSON, which carries the sum of the one
// before; files are chained alike. So a changed, removed, added or moved entry
// is found; and, by the head file, a log that was cut short. Who rewrites the
// whole log and the head is found only by a head that was noted elsewhere.
type Audit struct {
	dir  string
	now  func() time.Time
	most int64 // bytes of a file

	syncing sync.Mutex // held while waiting for the disk; taken before mu
	synced  uint64

	mu       sync.Mutex
	file     *os.File
	size     int64
	seq      uint64
	prev     string
	headAt   uint64
	closed   bool
	failed   error
	recorded map[cell.Revision]string // statuses of revisions in the log
}

// OpenAudit opens the log in a data folder, which the caller has locked. A
// line that a power cut left unfinished is removed: nothing that was
// acknowledged is in it.
func OpenAudit(s *Store) (*Audit, error) {
	a := &Audit{dir: filepath.Join(s.dir, historyDir), now: s.now, most: auditFileSize, recorded: map[cell.Revision]string{}}
	if err := a.open(); err != nil {
		return nil, s.failure("opening the audit log", err)
	}
	return a, nil
}

func (a *Audit) open() error {
	files, err := auditNames(a.dir)
	if err != nil {
		return err
	}
	head := readHead(a.dir)
	if len(files) == 0 {
		// A log that is gone as a whole is continued after its head, so that
		// the gap shows.
		a.seq, a.prev = head.Seq, head.Sum
		// The first file is made with the first entry: on a fresh cell nothing
		// may be here before its first revision, or it would count as damaged.
		a.synced, a.headAt = a.seq, a.seq
		return nil
	}
	for _, name := range files[max(0, len(files)-2):] {
		if err := a.scan(name); err != nil {
			return err
		}
	}
	if head.Seq > a.seq {
		a.seq, a.prev = head.Seq, head.Sum
	}
	a.synced, a.headAt = a.seq, a.seq
	path := filepath.Join(a.dir, files[len(files)-1])
	a.file, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	st, err := a.file.Stat()
	if err != nil {
		return errors.Join(err, a.file.Close())
	}
	a.size = st.Size()
	return nil
}

// scan takes over where a file ends, and cuts an unfinished line off.
func (a *Audit) scan(name string) error {
	path := filepath.Join(a.dir, name)
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if end := bytes.LastIndexByte(data, '\n') + 1; end < len(data) {
		if err := os.Truncate(path, int64(end)); err != nil {
			return err
		}
		data = data[:end]
	}
	for line := range bytes.Lines(data) {
		sum, e, err := auditEntry(bytes.TrimSuffix(line, []byte{'\n'}))
		if err != nil {
			continue // Verify names it
		}
		a.seq, a.prev = e.Seq, sum
		if e.Event == "revision" {
			a.recorded[e.Revision] = e.Outcome
		}
	}
	return nil
}

// begin makes the next file. The caller holds mu, or is alone.
func (a *Audit) begin() error {
	path := filepath.Join(a.dir, auditPrefix+fmt.Sprintf("%012d", a.seq+1))
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := atomicfile.SyncDir(a.dir); err != nil {
		return errors.Join(err, f.Close())
	}
	a.file, a.size = f, 0
	files, err := auditNames(a.dir)
	if err != nil {
		return err
	}
	for _, old := range files[:max(0, len(files)-auditFiles)] {
		if err := os.Remove(filepath.Join(a.dir, old)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Note adds an entry without waiting for the disk; Append waits. Both set Seq,
// Prev and Time.
func (a *Audit) Note(e cell.AuditEntry) error {
	_, err := a.add(e)
	return err
}

// Append adds an entry, which is durable when it returns nil. Callers that
// wait at the same time share one wait for the disk.
func (a *Audit) Append(e cell.AuditEntry) error {
	n, err := a.add(e)
	if err != nil {
		return err
	}
	return a.wait(n)
}

func (a *Audit) add(e cell.AuditEntry) (uint64, error) {
	a.mu.Lock()
	full := a.file == nil || a.size >= a.most
	a.mu.Unlock()
	if full {
		if err := a.rotate(); err != nil {
			return 0, a.fail(err)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return 0, errors.New("writing the audit log: it is closed")
	}
	e.Seq, e.Prev, e.Time = a.seq+1, a.prev, a.now().UTC()
	e.Subject, e.Who.Name, e.Who.Address = cell.OneLine(e.Subject, 300), cell.OneLine(e.Who.Name, 64), cell.OneLine(e.Who.Address, 64)
	doc, err := json.Marshal(e)
	if err != nil {
		return 0, fmt.Errorf("writing the audit log: %w", err)
	}
	sum := auditSum(doc)
	line := append(append([]byte(sum+" "), doc...), '\n')
	if n, err := a.file.Write(line); err != nil {
		if n > 0 { // a full disk: what was written of the line goes, or it would break the next
			err = errors.Join(err, a.file.Truncate(a.size))
		}
		a.failed = err
		return 0, fmt.Errorf("writing the audit log: %w", err)
	}
	a.failed = nil
	a.size += int64(len(line))
	a.seq, a.prev = e.Seq, sum
	if e.Event == "revision" {
		a.recorded[e.Revision] = e.Outcome
	}
	return e.Seq, nil
}

func (a *Audit) fail(err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.failed = err
	return fmt.Errorf("writing the audit log: %w", err)
}

// wait returns when entry n is on the disk.
func (a *Audit) wait(n uint64) error {
	a.syncing.Lock()
	defer a.syncing.Unlock()
	if a.synced >= n {
		return nil
	}
	a.mu.Lock()
	f, upTo, sum := a.file, a.seq, a.prev
	writeHead := upTo-a.headAt >= auditHeadEach
	if writeHead {
		a.headAt = upTo
	}
	a.mu.Unlock()
	if err := f.Sync(); err != nil {
		return a.fail(err)
	}
	a.synced = upTo
	if writeHead {
		return saveHead(a.dir, upTo, sum)
	}
	return nil
}

func (a *Audit) rotate() error {
	a.syncing.Lock()
	defer a.syncing.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed || a.file != nil && a.size < a.most {
		return nil // somebody else did
	}
	if a.file == nil {
		return a.begin()
	}
	if err := a.file.Sync(); err != nil {
		return err
	}
	a.synced = a.seq
	old := a.file
	if err := a.begin(); err != nil {
		return err
	}
	a.headAt = a.seq
	return errors.Join(old.Close(), saveHead(a.dir, a.seq, a.prev))
}

// Recorded is the last status of a revision that the recent log has, "" for none.
func (a *Audit) Recorded(n cell.Revision) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.recorded[n]
}

// Failing is why the last entry could not be written, or nil.
func (a *Audit) Failing() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.failed
}

// Close waits for the disk and notes the head.
func (a *Audit) Close() error {
	a.syncing.Lock()
	defer a.syncing.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil
	}
	a.closed = true
	if a.file == nil {
		return nil
	}
	return errors.Join(a.file.Sync(), a.file.Close(), saveHead(a.dir, a.seq, a.prev))
}

// List returns at most limit entries older than before (0: from the newest),
// newest first. Entries that can't be read are left out; Verify names them.
func (a *Audit) List(before uint64, limit int) ([]cell.AuditEntry, error) {
	files, err := auditNames(a.dir)
	if err != nil {
		return nil, err
	}
	var out []cell.AuditEntry
	for _, name := range slices.Backward(files) {
		if first := auditFirst(name); before != 0 && first >= before {
			continue
		}
		data, err := os.ReadFile(filepath.Join(a.dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			break // rotated away in the meantime
		}
		if err != nil {
			return nil, fmt.Errorf("reading the audit log: %w", err)
		}
		var page []cell.AuditEntry
		for line := range bytes.Lines(data) {
			if _, e, err := auditEntry(bytes.TrimSuffix(line, []byte{'\n'})); err == nil && (before == 0 || e.Seq < before) {
				page = append(page, e)
			}
		}
		slices.Reverse(page)
		out = append(out, page[:min(len(page), limit-len(out))]...)
		if len(out) >= limit {
			break
		}
	}
	return out, nil
}

// Verify checks the whole chain and compares its end with what this process
// has written.
func (a *Audit) Verify() (cell.AuditReport, error) {
	a.mu.Lock()
	seq, sum := a.seq, a.prev
	a.mu.Unlock()
	r, err := VerifyAudit(a.dir)
	if err == nil && r.Broken == "" && (r.Last < seq || r.Last == seq && r.Head != sum) {
		r.Broken = fmt.Sprintf("entry %d: the log ends at %d, but this cell has written more", r.Last+1, r.Last)
	}
	return r, err
}

// VerifyAuditIn is [VerifyAudit] for a data folder that nothing has open.
func VerifyAuditIn(dataDir string) (cell.AuditReport, error) {
	return VerifyAudit(filepath.Join(dataDir, historyDir))
}

// VerifyAudit checks the chain in a history folder: every sum, every link and
// every number, across files, and that it reaches the noted head. An
// unfinished last line is a write under way and no damage.
func VerifyAudit(dir string) (cell.AuditReport, error) {
	var r cell.AuditReport
	head := readHead(dir)
	files, err := auditNames(dir)
	if err != nil {
		return r, fmt.Errorf("checking the audit log: %w", err)
	}
	for i, name := range files {
		if err := verifyFile(dir, name, &r, i == len(files)-1); err != nil {
			if errors.Is(err, ErrAuditBroken) {
				r.Broken = err.Error()
				return r, nil
			}
			return r, fmt.Errorf("checking the audit log: %w", err)
		}
	}
	switch {
	case r.First > 1 && len(files) < auditFiles: // full files only go when there are this many
		r.Broken = fmt.Sprintf("entry 1 is missing: the log begins at entry %d", r.First)
	case r.Last < head.Seq:
		r.Broken = fmt.Sprintf("entry %d is missing: the log ends before its noted head, entry %d", r.Last+1, head.Seq)
	case r.Last == head.Seq && head.Seq > 0 && r.Head != head.Sum:
		r.Broken = fmt.Sprintf("entry %d is not the one that was noted as the head", r.Last)
	}
	return r, nil
}

func verifyFile(dir, name string, r *cell.AuditReport, last bool) error {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, auditLine)
	for {
		line, err := in.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF) && (len(line) == 0 || last):
			return nil
		case err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, bufio.ErrBufferFull):
			return err
		case err != nil:
			return fmt.Errorf("entry %d in %s is cut or too long: %w", r.Last+1, name, ErrAuditBroken)
		}
		sum, e, err := auditEntry(bytes.TrimSuffix(line, []byte{'\n'}))
		switch {
		case err != nil:
			return fmt.Errorf("entry %d in %s: %w", r.Last+1, name, err)
		case r.Entries == 0:
			r.First = e.Seq
			if e.Seq != auditFirst(name) {
				return fmt.Errorf("entry %d in %s: the file should begin with entry %d: %w", e.Seq, name, auditFirst(name), ErrAuditBroken)
			}
		case e.Seq != r.Last+1:
			return fmt.Errorf("entry %d in %s: entry %d is in its place: %w", r.Last+1, name, e.Seq, ErrAuditBroken)
		case e.Prev != r.Head:
			return fmt.Errorf("entry %d in %s does not follow from the one before: %w", e.Seq, name, ErrAuditBroken)
		}
		r.Entries++
		r.Last, r.Head = e.Seq, sum
	}
}

// auditEntry reads one line and checks its sum.
func auditEntry(line []byte) (sum string, e cell.AuditEntry, err error) {
	text, doc, ok := bytes.Cut(line, []byte{' '})
	if !ok || len(line) > auditLine || string(text) != auditSum(doc) {
		return "", e, fmt.Errorf("its sum differs: %w", ErrAuditBroken)
	}
	if err := json.Unmarshal(doc, &e); err != nil {
		return "", e, fmt.Errorf("it is no entry: %w", ErrAuditBroken)
	}
	return string(text), e, nil
}

func auditSum(doc []byte) string {
	s := sha256.Sum256(doc)
	return hex.EncodeToString(s[:])
}

// auditNames lists the log's files, oldest first.
func auditNames(dir string) ([]string, error) {
	all, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range all {
		if auditFirst(e.Name()) > 0 {
			out = append(out, e.Name())
		}
	}
	slices.Sort(out) // the numbers have leading zeros
	return out, nil
}

// auditFirst is the number in a file's name, 0 for other files.
func auditFirst(name string) uint64 {
	digits, ok := strings.CutPrefix(name, auditPrefix)
	if !ok || len(digits) != 12 {
		return 0
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

type auditHeadRecord struct {
	Seq uint64 `json:"seq"`
	Sum string `json:"sum"`
}

func saveHead(dir string, seq uint64, sum string) error {
	doc, err := json.Marshal(auditHeadRecord{seq, sum})
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, auditHead), append(doc, '\n'), 0o600)
}

// readHead returns the noted head; the zero one when there is none that can be read.
func readHead(dir string) (h auditHeadRecord) {
	data, err := os.ReadFile(filepath.Join(dir, auditHead))
	if err != nil || json.Unmarshal(data, &h) != nil {
		return auditHeadRecord{}
	}
	return h
}
