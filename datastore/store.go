// Package datastore keeps what a cell must not forget: revisions of the state,
// which of them is startup, the secrets they name, and history beside them.
//
// It owns the data folder, and is the only writer of state in it: a lock keeps
// a second process out, and every write is durable before it is acknowledged.
//
// It must never change a revision once written, never reuse a number or a
// secret's reference, and never take damaged files for a cell nobody has
// claimed.
package datastore

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/atomicfile"
)

// The folders and files below [Config.Dir].
const (
	revisionsDir  = "revisions" // 000042.json.gz, immutable
	marksDir      = "marks"     // 000043: what became of a revision that is not committed
	secretsDir    = "secrets"   // one file per reference
	historyDir    = "history"   // sessions, backoff, audit
	certsDir      = "certs"     // reserved for the room of that name
	startupFile   = "startup"   // the one mutable pointer
	committedFile = "committed" // the newest acknowledged revision: tells an old copy of startup
	lockFile      = "lock"
)

var (
	// ErrLocked means another process has the data folder open.
	ErrLocked = errors.New("another pic is using this data folder")
	// ErrNoSuchRevision means the revision was never written or is pruned.
	ErrNoSuchRevision = errors.New("no such revision")
	// ErrNoSuchSecret means no secret is kept under a reference.
	ErrNoSuchSecret = errors.New("no such secret")
	// ErrCorrupt means a file is there but is not what was written.
	ErrCorrupt = errors.New("damaged file")
	// ErrNewerSchema means a document was written by a newer program.
	ErrNewerSchema = errors.New("written by a newer version of pic: install that version, or restore a backup made by this one")
)

// Config says where the data lives. Only Dir is required.
type Config struct {
	// Dir is made with mode 0700 when it is missing; its parent must exist.
	Dir string
	Log *slog.Logger
	Now func() time.Time
	// Migrations turn a document of schema n into one of schema n+1. They run
	// on a copy in memory; the file keeps what was written.
	Migrations map[int]Migration
}

// Store is an open data folder. Its methods may be called from many
// goroutines.
type Store struct {
	dir        string
	log        *slog.Logger
	now        func() time.Time
	migrations map[int]Migration
	lock       *os.File

	mu        sync.Mutex
	revisions map[cell.Revision]*entry // every revision file, readable or not
	marks     map[cell.Revision]cell.RevisionStatus
	highest   cell.Revision           // highest number ever seen
	startup   cell.Revision           // 0: none, or not loaded yet
	unnamed   map[cell.SecretRef]bool // put since the last revision was written
	swept     bool                    // a Collect has looked at every secret
	encoder   encoder
}

// entry is one revision file.
type entry struct {
	size int64
	head header
	err  error // why head could not be read
}

// Open locks the data folder and reads the headers of its revisions. It fails
// with [ErrLocked] when another process has it open. A folder on a read-only
// file system opens: what is there can be read, writes fail with a [*DiskError].
func Open(c *Config) (*Store, error) {
	s := &Store{
		dir: c.Dir, log: c.Log, now: c.Now, migrations: c.Migrations,
		revisions: map[cell.Revision]*entry{},
		marks:     map[cell.Revision]cell.RevisionStatus{},
		unnamed:   map[cell.SecretRef]bool{},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	if c.Dir == "" {
		return nil, errors.New("opening the data folder: no folder was named")
	}
	if err := s.prepare(); err != nil {
		return nil, err
	}
	if err := s.scan(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// prepare makes and checks the folders and takes the lock.
func (s *Store) prepare() error {
	if err := makeFolder(s.dir, true); err != nil {
		return s.failure("opening the data folder "+s.dir, err)
	}
	if err := s.takeLock(); err != nil {
		return err
	}
	for _, d := range []string{"", revisionsDir, marksDir, secretsDir, historyDir, certsDir} {
		p := filepath.Join(s.dir, d)
		err := makeFolder(p, d == "")
		if err == nil {
			err = atomicfile.Sweep(p)
		}
		if errors.Is(err, syscall.EROFS) && exists(p) {
			s.log.Warn("data folder is read-only", "folder", p)
			continue
		}
		if err != nil {
			return errors.Join(s.failure("opening the data folder "+p, err), s.Close())
		}
	}
	return nil
}

// takeLock holds a lock of flock(2) for the life of the store: the kernel
// gives it back however the process ends.
func (s *Store) takeLock() error {
	path := filepath.Join(s.dir, lockFile)
	// Read-only, or the file would keep the file system from being remounted so.
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0o600)
	if errors.Is(err, syscall.EROFS) {
		f, err = os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0)
	}
	if err != nil {
		return s.failure("locking the data folder "+s.dir, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		closeErr := f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return errors.Join(fmt.Errorf("locking %s: %w", path, ErrLocked), closeErr)
		}
		return errors.Join(s.failure("locking the data folder "+s.dir, err), closeErr)
	}
	s.lock = f
	return nil
}

// Close gives the folder back. The store must not be used afterwards.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock == nil {
		return nil
	}
	err := s.lock.Close()
	s.lock = nil
	return err
}

// CertsDir is the folder kept for certificates and their keys, mode 0700.
func (s *Store) CertsDir() string { return filepath.Join(s.dir, certsDir) }

// scan reads every header and mark. Unreadable ones are remembered as such:
// they still count for [Store.Next] and against a fresh start.
func (s *Store) scan() error {
	names, err := list(filepath.Join(s.dir, revisionsDir))
	if err != nil {
		return s.failure("reading the revisions", err)
	}
	for _, name := range names {
		n, ok := parseNumber(strings.TrimSuffix(name, revisionSuffix))
		if !ok || name != n.file() {
			s.log.Warn("ignoring an unknown file among the revisions", "file", name)
			continue
		}
		rev := cell.Revision(n)
		e := &entry{}
		e.head, e.size, e.err = readHeader(filepath.Join(s.dir, revisionsDir, name), rev)
		if e.err != nil {
			s.log.Error("reading a revision's header", "revision", rev, "error", e.err)
		}
		s.revisions[rev] = e
		s.highest = max(s.highest, rev)
	}
	names, err = list(filepath.Join(s.dir, marksDir))
	if err != nil {
		return s.failure("reading the marks", err)
	}
	for _, name := range names {
		n, ok := parseNumber(name)
		if !ok {
			continue
		}
		s.highest = max(s.highest, cell.Revision(n))
		status, err := s.readMark(cell.Revision(n))
		if err != nil {
			s.log.Error("reading a mark", "revision", n, "error", err)
			continue
		}
		s.marks[cell.Revision(n)] = status
	}
	for _, name := range []string{startupFile, committedFile} {
		if p, err := s.readPointer(name); err == nil {
			s.highest = max(s.highest, p.Revision)
		}
	}
	return nil
}

// list returns the names of dir without temporary files, sorted.
func list(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
