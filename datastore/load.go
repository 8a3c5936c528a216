package datastore

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/personal-internet-cell/pic/cell"
)

// Source says where a loaded state comes from.
type Source string

const (
	// Fresh means there is nothing: a cell that never ran.
	Fresh Source = "fresh"
	// Current means startup was read and verified.
	Current Source = "current"
	// Recovered means startup, or what it names, is damaged. The state, if
	// there is one, is the newest verified committed one of a claimed cell; it
	// is not to be applied, and nothing may be open because of it.
	Recovered Source = "recovered"
)

// Loaded is what a boot finds.
type Loaded struct {
	// State is nil when fresh, and when recovered and no committed revision of
	// a claimed cell verifies.
	State    *cell.State
	Revision cell.Revision
	Source   Source
	// Problems say in words what was found damaged, and what to do.
	Problems []string
}

// Load reads startup. On a sound folder it also marks revisions newer than
// startup as auto-reverted, for they were never acknowledged. On a damaged one
// it writes nothing.
func (s *Store) Load() (Loaded, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	startup, startupErr := s.readPointer(startupFile)
	witness, witnessErr := s.readPointer(committedFile)
	if errors.Is(startupErr, fs.ErrNotExist) && errors.Is(witnessErr, fs.ErrNotExist) {
		if l, ok, err := s.loadBeginning(); ok || err != nil {
			return l, err
		}
	}
	var l Loaded
	problem := func(format string, a ...any) { l.Problems = append(l.Problems, fmt.Sprintf(format, a...)) }
	if startupErr != nil {
		problem("the file startup can't be used: %v", startupErr)
	}
	if witnessErr != nil && !errors.Is(witnessErr, fs.ErrNotExist) {
		problem("the file committed can't be used: %v", witnessErr)
	}
	known := max(startup.Revision, witness.Revision, s.newestParent())
	sums := map[cell.Revision][]string{}
	if startupErr == nil {
		sums[startup.Revision] = append(sums[startup.Revision], startup.SHA256)
	}
	if witnessErr == nil {
		sums[witness.Revision] = append(sums[witness.Revision], witness.SHA256)
	}
	if startupErr == nil && startup.Revision < known {
		problem("startup names revision %d, but revision %d was committed after it: the file is an old copy", startup.Revision, known)
	} else if startupErr == nil {
		state, err := s.verified(startup.Revision, startup.SHA256)
		switch {
		case err == nil && s.marks[startup.Revision] == "":
			l.State, l.Revision, l.Source = state, startup.Revision, Current
			s.afterLoad(startup, witness, problem)
			return l, nil
		case err == nil:
			problem("startup names revision %d, which is marked %s", startup.Revision, s.marks[startup.Revision])
		default:
			problem("revision %d, which startup names, can't be used: %v", startup.Revision, err)
			if errors.Is(err, ErrNewerSchema) {
				l.Source = Recovered
				return l, nil
			}
		}
	}
	s.recover(&l, known, sums, problem)
	return l, nil
}

// loadBeginning answers for a folder without pointers: it is fresh when it
// holds nothing that an owner made, and a first boot that was cut short between writing
// revision 1 and moving startup is finished here. Anything else is damage.
func (s *Store) loadBeginning() (Loaded, bool, error) {
	history, err := list(filepath.Join(s.dir, historyDir))
	if err != nil {
		return Loaded{}, false, s.failure("reading the history", err)
	}
	kinds, err := s.secretKinds()
	if err != nil {
		return Loaded{}, false, err
	}
	if len(history) > 0 || len(s.marks) > 0 || s.highest > 1 || kinds > 1 {
		return Loaded{}, false, nil
	}
	if len(s.revisions) == 0 {
		return Loaded{Source: Fresh}, true, nil
	}
	state, err := s.verified(1)
	if err != nil {
		return Loaded{}, false, nil
	}
	if err := s.setStartup(1); err != nil {
		return Loaded{}, false, err
	}
	return Loaded{State: state, Revision: 1, Source: Current}, true, nil
}

// secretKinds counts the kinds of secrets that are kept. A first boot that was
// cut short leaves secrets of one kind, the tunnel's; a cell with an owner has
// a password and an authority too.
func (s *Store) secretKinds() (int, error) {
	names, err := list(filepath.Join(s.dir, secretsDir))
	if err != nil {
		return 0, s.failure("reading the secrets", err)
	}
	kinds := map[string]bool{}
	for _, name := range names {
		kind, _, _ := strings.Cut(name, "-")
		kinds[kind] = true
	}
	return len(kinds), nil
}

// newestParent is the newest revision that another came from. A revision is
// only ever made from startup, so it was committed.
func (s *Store) newestParent() cell.Revision {
	var n cell.Revision
	for _, e := range s.revisions {
		if e.err == nil {
			n = max(n, e.head.Parent)
		}
	}
	return n
}

// afterLoad settles the books of a sound folder: what was written and never
// acknowledged did not happen.
func (s *Store) afterLoad(startup, witness pointer, problem func(string, ...any)) {
	s.startup = startup.Revision
	if witness != startup {
		if err := s.writePointer(committedFile, startup); err != nil {
			problem("noting the newest committed revision: %v", err)
		}
	}
	for n := range s.revisions {
		if n > startup.Revision && s.marks[n] == "" {
			if err := s.mark(n, cell.RevisionAutoReverted); err != nil {
				problem("%v", err)
			}
		}
	}
}

// recover looks for the newest committed revision that verifies, from the
// newest one known to have been committed downwards. A state that nobody has
// claimed is never recovered: it would open the setup of a cell that has an owner.
// sums are the checksums that the pointers give of revisions.
func (s *Store) recover(l *Loaded, known cell.Revision, sums map[cell.Revision][]string, problem func(string, ...any)) {
	l.Source = Recovered
	numbers := make([]cell.Revision, 0, len(s.revisions))
	for n := range s.revisions {
		if n <= known && s.marks[n] == "" {
			numbers = append(numbers, n)
		}
	}
	slices.SortFunc(numbers, func(a, b cell.Revision) int { return int(b) - int(a) })
	for i, n := range numbers {
		if i == maxRevisions {
			break
		}
		state, err := s.verified(n, sums[n]...)
		if err != nil {
			problem("revision %d can't be used: %v", n, err)
			continue
		}
		if !state.Claimed() {
			continue
		}
		l.State, l.Revision = state, n
		problem("revision %d is the newest committed one that is intact", n)
		return
	}
	problem("no committed revision of a claimed cell is intact: restore a backup")
}

// verified reads revision n whole. sums, if any, are the checksums of which its
// document must have one.
func (s *Store) verified(n cell.Revision, sums ...string) (*cell.State, error) {
	data, err := read(filepath.Join(s.dir, revisionsDir, number(n).file()))
	if err != nil {
		return nil, err
	}
	h, doc, err := decodeDocument(data, n)
	if err != nil {
		return nil, err
	}
	if len(sums) > 0 && !slices.Contains(sums, h.SHA256) {
		return nil, fmt.Errorf("%w: it is not the revision that was committed under this number", ErrCorrupt)
	}
	return decodeState(doc, h.Schema, s.migrations)
}
