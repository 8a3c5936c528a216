package auth

import (
	"slices"
	"time"
)

const (
	backoffFile    = "backoff"
	backoffVersion = 1
)

type backoffRecords struct {
	Version  int               `json:"version"`
	Pairs    map[string]*tries `json:"pairs"`
	Accounts map[string]*tries `json:"accounts"`
}

func (b *Backoff) load() {
	var file backoffRecords
	if err := load(b.store, backoffFile, &file); err != nil {
		b.log.Error("counts of failed sign-ins are lost", "error", err)
		return
	}
	if file.Version == 0 && file.Pairs == nil && file.Accounts == nil {
		return
	}
	if file.Version != backoffVersion || len(file.Pairs) > backoffEntries || len(file.Accounts) > backoffEntries {
		b.log.Error("counts of failed sign-ins are lost", "version", file.Version)
		return
	}
	now := b.now()
	take := func(into, from map[string]*tries, most int) {
		for key, t := range from {
			if t != nil && len(key) <= 64 {
				t.settle(now, most)
				into[key] = t
			}
		}
	}
	take(b.pairs, file.Pairs, backoffTries)
	take(b.accounts, file.Accounts, accountSoft)
}

// settle makes a record from disk one that this process could have made. Times
// in the future (the clock was set back) count as now: waits are never longer
// than a window, and never skipped.
func (t *tries) settle(now time.Time, most int) {
	past := func(at time.Time) time.Time {
		if at.After(now) {
			return now
		}
		return at
	}
	for i := range t.Times {
		t.Times[i] = past(t.Times[i])
	}
	slices.SortFunc(t.Times, time.Time.Compare)
	if n := len(t.Times); n > most {
		t.Times = t.Times[n-most:]
	}
	t.InRow = max(t.InRow, 0)
	t.Last, t.Known = past(t.Last), past(t.Known)
	t.prune(now)
}

// save writes the counts if anything changed; what fails is tried again by Run.
func (b *Backoff) save() {
	b.saving.Lock()
	defer b.saving.Unlock()
	now := b.now()
	b.mu.Lock()
	if !b.dirty {
		b.mu.Unlock()
		return
	}
	b.dirty, b.saved = false, now
	file := backoffRecords{Version: backoffVersion, Pairs: copyTries(b.pairs, now), Accounts: copyTries(b.accounts, now)}
	b.mu.Unlock()
	if err := save(b.store, backoffFile, file); err != nil {
		b.log.Error("counts of failed sign-ins could not be saved", "error", err)
		b.mu.Lock()
		b.dirty = true
		b.mu.Unlock()
	}
}

// copyTries copies a table and forgets the entries that say nothing any more,
// in the table too.
func copyTries(table map[string]*tries, now time.Time) map[string]*tries {
	out := make(map[string]*tries, len(table))
	for key, t := range table {
		t.prune(now)
		if t.weight() == 0 {
			delete(table, key)
			continue
		}
		c := *t
		c.Times = slices.Clone(t.Times)
		out[key] = &c
	}
	return out
}
