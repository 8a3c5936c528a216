package datastore

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/atomicfile"
)

// Next is the number of the next revision: one more than any ever seen here,
// so that a number is never given twice.
func (s *Store) Next() cell.Revision {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.highest + 1
}

// Startup is the revision the next boot loads, 0 before the first.
func (s *Store) Startup() cell.Revision {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.startup
}

// Write keeps a revision, durably, as number info.Number, which must be
// [Store.Next]. It is pending until startup moves to it or it is marked.
// changed are the keys of the resources that differ from its parent. On error
// nothing is kept, nor the secrets put for it.
func (s *Store) Write(info cell.RevisionInfo, state *cell.State, changed []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	op := fmt.Sprintf("writing revision %d", info.Number)
	if info.Number != s.highest+1 {
		return fmt.Errorf("%s: the next one is %d", op, s.highest+1)
	}
	h := header{
		Number: info.Number, Parent: info.Parent, Schema: state.Schema, Time: info.Time.UTC(),
		Author: info.Author, Message: info.Message, Changed: changed,
	}
	path := filepath.Join(s.dir, revisionsDir, number(info.Number).file())
	file, err := s.encoder.encode(&h, state)
	if err == nil {
		err = atomicfile.Write(path, file, 0o600)
	}
	if err != nil {
		err = s.failure(op, err)
		if rm := os.Remove(path); rm != nil && !errors.Is(rm, fs.ErrNotExist) {
			err = errors.Join(err, rm) // it was renamed and could not be synced
		}
		return errors.Join(err, s.dropSecrets(slices.Collect(maps.Keys(s.unnamed))))
	}
	s.revisions[info.Number] = &entry{size: int64(len(file)), head: h}
	s.highest = info.Number
	clear(s.unnamed)
	return nil
}

// Revisions lists at most limit kept revisions older than before (0: from the
// newest), newest first. Damaged ones are left out.
func (s *Store) Revisions(before cell.Revision, limit int) ([]cell.RevisionInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	numbers := slices.Sorted(maps.Keys(s.revisions))
	slices.Reverse(numbers)
	committed := s.ancestors()
	out := []cell.RevisionInfo{}
	for _, n := range numbers {
		if (before != 0 && n >= before) || s.revisions[n].err != nil {
			continue
		}
		if len(out) >= limit {
			break
		}
		out = append(out, s.info(n, committed))
	}
	return out, nil
}

func (s *Store) info(n cell.Revision, committed map[cell.Revision]bool) cell.RevisionInfo {
	h := &s.revisions[n].head
	info := cell.RevisionInfo{Number: h.Number, Parent: h.Parent, Time: h.Time, Author: h.Author, Message: h.Message}
	switch {
	case committed[n]:
		info.Status = cell.RevisionCommitted
	case s.marks[n] != "":
		info.Status = s.marks[n]
	case n > s.startup:
		info.Status = cell.RevisionPending
	case len(committed) > 0 && n < slices.Min(slices.Collect(maps.Keys(committed))):
		info.Status = cell.RevisionCommitted // the chain that led from it is pruned or damaged
	default:
		info.Status = cell.RevisionAutoReverted // its mark could not be written
	}
	return info
}

// Changed returns the keys that each committed revision changed, oldest first,
// beginning with the oldest one whose ancestry is kept.
func (s *Store) Changed() []Change {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Change
	for _, n := range slices.Sorted(maps.Keys(s.ancestors())) {
		if e := s.revisions[n]; e != nil && e.err == nil {
			out = append(out, Change{n, e.head.Changed})
		}
	}
	return out
}

// Change is the keys of the resources that a revision changed. Read-only.
type Change struct {
	Revision cell.Revision
	Keys     []string
}

// State reads and verifies revision n: [ErrNoSuchRevision] when it is not
// kept, [ErrCorrupt] when it is damaged.
func (s *Store) State(n cell.Revision) (*cell.State, cell.RevisionInfo, error) {
	s.mu.Lock()
	if e := s.revisions[n]; e == nil {
		s.mu.Unlock()
		return nil, cell.RevisionInfo{}, fmt.Errorf("reading revision %d: %w", n, ErrNoSuchRevision)
	} else if e.err != nil {
		s.mu.Unlock()
		return nil, cell.RevisionInfo{}, fmt.Errorf("reading revision %d: %w", n, e.err)
	}
	info := s.info(n, s.ancestors())
	s.mu.Unlock() // the file is immutable
	state, err := s.verified(n)
	if errors.Is(err, fs.ErrNotExist) {
		err = ErrNoSuchRevision // pruned in the meantime
	}
	if err != nil {
		return nil, cell.RevisionInfo{}, s.failure(fmt.Sprintf("reading revision %d", n), err)
	}
	return state, info, nil
}
