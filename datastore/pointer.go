package datastore

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/atomicfile"
)

// pointer is the content of startup and committed: a revision and the checksum
// of its document, so that neither file fits another revision.
type pointer struct {
	Revision cell.Revision `json:"revision"`
	SHA256   string        `json:"sha256"`
}

func parsePointer(data []byte) (pointer, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var p pointer
	if err := dec.Decode(&p); err != nil {
		return pointer{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return pointer{}, fmt.Errorf("%w: something follows", ErrCorrupt)
	}
	if p.Revision == 0 || p.Revision > 1<<62 || len(p.SHA256) != 64 {
		return pointer{}, fmt.Errorf("%w: it names no revision", ErrCorrupt)
	}
	return p, nil
}

func (s *Store) readPointer(name string) (pointer, error) {
	data, err := read(filepath.Join(s.dir, name))
	if err != nil {
		return pointer{}, err
	}
	return parsePointer(data)
}

func (s *Store) writePointer(name string, p pointer) error {
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(s.dir, name), append(data, '\n'), 0o600)
}

// SetStartup makes revision n the one that the next boot loads. Once it has
// returned nil, n is durable and may be acknowledged.
func (s *Store) SetStartup(n cell.Revision) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.setStartup(n)
}

func (s *Store) setStartup(n cell.Revision) error {
	e := s.revisions[n]
	if e == nil || e.err != nil {
		return fmt.Errorf("moving startup to revision %d: %w", n, ErrNoSuchRevision)
	}
	if err := s.writePointer(startupFile, pointer{n, e.head.SHA256}); err != nil {
		err = s.failure(fmt.Sprintf("moving startup to revision %d", n), err)
		// The rename may have happened although the folder could not be
		// synced: an unacknowledged revision must not be what boots.
		if old := s.revisions[s.startup]; old != nil {
			if back := s.writePointer(startupFile, pointer{s.startup, old.head.SHA256}); back != nil {
				s.log.Error("putting startup back", "revision", s.startup, "error", back)
			}
		}
		return err
	}
	s.startup = n
	failpoint("startup-moved")
	// A witness only: startup is durable, so a failure here loses nothing.
	if err := s.writePointer(committedFile, pointer{n, e.head.SHA256}); err != nil {
		s.log.Warn("noting the newest committed revision", "revision", n, "error", err)
	}
	return nil
}

// marked are the statuses that are written down; the others follow from startup.
var marked = []cell.RevisionStatus{cell.RevisionFailed, cell.RevisionReverted, cell.RevisionAutoReverted}

func parseMark(data []byte) (cell.RevisionStatus, error) {
	status := cell.RevisionStatus(strings.TrimSuffix(string(data), "\n"))
	if !slices.Contains(marked, status) {
		return "", fmt.Errorf("%w: no such status", ErrCorrupt)
	}
	return status, nil
}

func (s *Store) readMark(n cell.Revision) (cell.RevisionStatus, error) {
	data, err := read(filepath.Join(s.dir, marksDir, number(n).mark()))
	if err != nil {
		return "", err
	}
	return parseMark(data)
}

// Mark notes what became of a revision that did not become startup: failed,
// reverted or auto-reverted. Startup and what it came from can't be marked.
func (s *Store) Mark(n cell.Revision, status cell.RevisionStatus) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mark(n, status)
}

func (s *Store) mark(n cell.Revision, status cell.RevisionStatus) error {
	switch {
	case !slices.Contains(marked, status):
		return fmt.Errorf("marking revision %d: %q is not written down", n, status)
	case s.revisions[n] == nil:
		return fmt.Errorf("marking revision %d: %w", n, ErrNoSuchRevision)
	case s.ancestors()[n]:
		return errors.New("marking a committed revision: it was acknowledged")
	}
	s.marks[n] = status
	if err := atomicfile.Write(filepath.Join(s.dir, marksDir, number(n).mark()), []byte(status+"\n"), 0o600); err != nil {
		return s.failure(fmt.Sprintf("marking revision %d", n), err)
	}
	return nil
}

// ancestors is the set of startup and the kept revisions it came from: those
// that are committed.
func (s *Store) ancestors() map[cell.Revision]bool {
	set := map[cell.Revision]bool{}
	for n := s.startup; n != 0 && !set[n]; {
		set[n] = true
		e := s.revisions[n]
		if e == nil || e.err != nil {
			break
		}
		n = e.head.Parent
	}
	return set
}
