package datastore

import (
	"bytes"
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

// How much history is kept (spec: api.md, "Commits"). Pruning goes a little
// below the limits, so that not every commit prunes.
const (
	maxRevisions  = 500
	maxBytes      = 256 << 20
	minRevisions  = 20
	keepRevisions = 480
	keepBytes     = 240 << 20
)

// Collect prunes revisions beyond the limits, oldest first, and then removes
// the secrets that no kept revision names. Startup and a pending revision are
// never pruned; secrets put since the last revision was written are never
// removed, for the revision that names them is under way. It does nothing
// unless Load found a sound folder. A crash at any point leaves only what the
// next Collect removes.
func (s *Store) Collect() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.startup == 0 {
		return nil
	}
	pruned, err := s.prune()
	if err != nil {
		return err
	}
	if pruned == 0 && s.swept {
		return nil
	}
	if err := s.sweepMarks(); err != nil {
		return err
	}
	if err := s.collectSecrets(); err != nil {
		return err
	}
	s.swept = true
	return nil
}

func (s *Store) prune() (int, error) {
	numbers := slices.Sorted(maps.Keys(s.revisions))
	var size int64
	for _, e := range s.revisions {
		size += e.size
	}
	if len(numbers) <= maxRevisions && size <= maxBytes {
		return 0, nil
	}
	count, pruned := len(numbers), 0
	for _, n := range numbers {
		if count <= minRevisions || (count <= keepRevisions && size <= keepBytes) {
			break
		}
		if n == s.startup || n == s.highest || (n > s.startup && s.marks[n] == "") {
			continue
		}
		if err := os.Remove(filepath.Join(s.dir, revisionsDir, number(n).file())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return pruned, s.failure(fmt.Sprintf("pruning revision %d", n), err)
		}
		count, size, pruned = count-1, size-s.revisions[n].size, pruned+1
		delete(s.revisions, n)
		failpoint("pruned")
	}
	// The files must be gone for good before what only they name goes.
	if err := atomicfile.SyncDir(filepath.Join(s.dir, revisionsDir)); err != nil {
		return pruned, s.failure("pruning revisions", err)
	}
	return pruned, nil
}

// sweepMarks removes the marks of revisions that are gone. The newest mark
// stays: it may be the only thing left that knows its number.
func (s *Store) sweepMarks() error {
	for n := range s.marks {
		if s.revisions[n] != nil || n == s.highest {
			continue
		}
		if err := os.Remove(filepath.Join(s.dir, marksDir, number(n).mark())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return s.failure(fmt.Sprintf("removing the mark of revision %d", n), err)
		}
		delete(s.marks, n)
	}
	return nil
}

// collectSecrets removes secrets that appear in no kept revision. The
// documents are searched as text: a reference that appears anywhere is kept. A
// revision that can't be read may name anything, so then nothing is removed.
func (s *Store) collectSecrets() error {
	names, err := list(filepath.Join(s.dir, secretsDir))
	if err != nil {
		return s.failure("listing the secrets", err)
	}
	unused := map[string]bool{}
	for _, name := range names {
		if !s.unnamed[cell.SecretRef(name)] {
			unused[name] = true
		}
	}
	numbers := slices.Sorted(maps.Keys(s.revisions))
	slices.Reverse(numbers) // the newest one names nearly all
	for _, n := range numbers {
		if len(unused) == 0 {
			return nil
		}
		data, err := read(filepath.Join(s.dir, revisionsDir, number(n).file()))
		if err != nil {
			return s.failure(fmt.Sprintf("collecting secrets: reading revision %d", n), err)
		}
		_, doc, err := decodeDocument(data, n)
		if err != nil {
			return fmt.Errorf("collecting secrets: reading revision %d: %w", n, err)
		}
		for word := range bytes.SplitSeq(doc, []byte{'"'}) {
			delete(unused, string(word))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(unused)) {
		if err := os.Remove(filepath.Join(s.dir, secretsDir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return s.failure("removing secret "+name, err)
		}
		failpoint("secret-removed")
	}
	if err := atomicfile.SyncDir(filepath.Join(s.dir, secretsDir)); err != nil {
		return s.failure("removing secrets", err)
	}
	return nil
}
