package auth

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Limits of guessing.
const (
	backoffTries  = 10               // per account and source, in one window
	backoffWindow = 15 * time.Minute // also the longest wait
	backoffFree   = 3                // failures in a row before a wait
	backoffForget = time.Hour        // silence after which failures are forgotten
	backoffKnown  = 30 * 24 * time.Hour

	accountSoft  = 50 // failures of an account from everywhere, in one window
	accountTries = 2  // what a source that never signed in has left then

	backoffEntries = 4096
	backoffSave    = time.Second
)

// Source is where tries come from: an address prefix, or a uid of the unix
// socket.
type Source string

// SourceAddress is the source of a network client: the whole address for IPv4
// (a /24 would let neighbours behind one provider lock each other out), the
// /64 for IPv6 (one host has all of it, RFC 4291, section 2.5.4).
func SourceAddress(a netip.Addr) Source {
	a = a.Unmap().WithZone("")
	if !a.IsValid() {
		return "unknown"
	}
	if a.Is6() {
		return Source(netip.PrefixFrom(a, 64).Masked().String())
	}
	return Source(a.String())
}

// SourceUID is the source of a client of the unix socket, which has no address.
func SourceUID(uid uint32) Source { return Source("uid:" + strconv.FormatUint(uint64(uid), 10)) }

// BackoffConfig configures [NewBackoff].
type BackoffConfig struct {
	Store Store            // nil: counts end with the process
	Now   func() time.Time // nil: time.Now
	Log   *slog.Logger     // nil discards
}

// Backoff slows down the guessing of passwords, per account and source, so
// that a stranger can't lock the right user out from elsewhere. Accounts that
// don't exist are treated like those that do. It is safe for concurrent use,
// and a [lifecycle.Task] that saves what Fail did not.
type Backoff struct {
	store Store
	now   func() time.Time
	log   *slog.Logger

	saving sync.Mutex // serialises saves; taken before mu

	mu       sync.Mutex
	pairs    map[string]*tries // by account and source
	accounts map[string]*tries // by account, all sources
	dirty    bool
	saved    time.Time
}

// tries is what is remembered of one key.
type tries struct {
	Times []time.Time `json:"times,omitempty"` // of the window, oldest first, bounded
	InRow int         `json:"in_row,omitempty"`
	Last  time.Time   `json:"last"`
	Known time.Time   `json:"known,omitzero"` // last success
}

// NewBackoff loads the counts of before the restart. A file that can't be read
// is logged, and counting starts at zero.
func NewBackoff(cfg *BackoffConfig) *Backoff {
	b := &Backoff{store: cfg.Store, now: cfg.Now, log: orDiscard(cfg.Log), pairs: map[string]*tries{}, accounts: map[string]*tries{}}
	if b.now == nil {
		b.now = time.Now
	}
	b.load()
	return b
}

// Check asks for one try at account. Zero admits it, and it counts from now
// on, so that a hundred at the same time are not all admitted; then call one
// of Succeed, Fail or Release. Otherwise the answer is how long to wait.
func (b *Backoff) Check(account string, from Source) (retryAfter time.Duration) {
	now := b.now()
	b.mu.Lock()
	defer b.mu.Unlock()
	pair, all := b.entry(b.pairs, pairKey(account, from), now), b.entry(b.accounts, accountKey(account), now)
	if wait := pair.wait(now, b.budget(pair, all)); wait > 0 {
		return wait
	}
	pair.add(now, backoffTries)
	all.add(now, accountSoft)
	b.dirty = true
	return 0
}

// budget is how many tries a source has in one window. While an account is
// guessed at from everywhere, sources that never signed in to it have few; but
// never none, so that the right user still gets in from a new place.
func (b *Backoff) budget(pair, all *tries) int {
	if pair.Known.IsZero() && len(all.Times) >= accountSoft {
		return accountTries
	}
	return backoffTries
}

// Fail records that the admitted try was wrong. From the third in a row on the
// source has to wait: 1 s, 2 s, 4 s and so on, up to 15 minutes.
func (b *Backoff) Fail(account string, from Source) {
	now := b.now()
	b.mu.Lock()
	pair := b.entry(b.pairs, pairKey(account, from), now)
	pair.InRow++
	pair.Last = now
	b.dirty = true
	due := now.Sub(b.saved) >= backoffSave
	b.mu.Unlock()
	if due {
		b.save()
	}
}

// Succeed records that the admitted try was right: the source starts afresh,
// and is known for this account from now on.
func (b *Backoff) Succeed(account string, from Source) {
	now := b.now()
	b.mu.Lock()
	pair, all := b.entry(b.pairs, pairKey(account, from), now), b.entry(b.accounts, accountKey(account), now)
	all.giveBack()
	*pair = tries{Last: now, Known: now}
	b.dirty = true
	due := now.Sub(b.saved) >= backoffSave
	b.mu.Unlock()
	if due {
		b.save()
	}
}

// Release gives an admitted try back that was not carried out (ErrBusy, a
// client that went away while waiting).
func (b *Backoff) Release(account string, from Source) {
	now := b.now()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.entry(b.pairs, pairKey(account, from), now).giveBack()
	b.entry(b.accounts, accountKey(account), now).giveBack()
	b.dirty = true
}

// Forget drops what is remembered of account from everywhere: an administrator
// has reset its password.
func (b *Backoff) Forget(account string) {
	b.mu.Lock()
	prefix := accountKey(account)
	delete(b.accounts, prefix)
	for key := range b.pairs {
		if strings.HasPrefix(key, prefix) {
			delete(b.pairs, key)
		}
	}
	b.dirty = true
	b.mu.Unlock()
	b.save()
}

// Run saves what was counted since the last save, every second and when ctx
// ends: a crash forgets the tries of one second.
func (b *Backoff) Run(ctx context.Context) error {
	tick := time.NewTicker(backoffSave)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			b.save()
			return nil
		case <-tick.C:
			b.save()
		}
	}
}

// Ready is closed: counting works before Run does.
func (*Backoff) Ready() <-chan struct{} { return ready() }

func (*Backoff) String() string { return "backoff" }

// entry returns what is remembered under key, without what is too old. When
// the table is full, the entry that matters least makes room: no flood of new
// names may wash away the count of the account that is under attack.
func (b *Backoff) entry(table map[string]*tries, key string, now time.Time) *tries {
	t := table[key]
	if t == nil {
		if len(table) >= backoffEntries {
			delete(table, leastImportant(table))
		}
		t = &tries{Last: now}
		table[key] = t
	}
	t.prune(now)
	return t
}

func leastImportant(table map[string]*tries) (key string) {
	var worst *tries
	for k, t := range table {
		if worst == nil || t.weight() < worst.weight() || t.weight() == worst.weight() && t.Last.Before(worst.Last) {
			key, worst = k, t
		}
	}
	return key
}

func (t *tries) weight() int {
	w := len(t.Times) + t.InRow
	if !t.Known.IsZero() {
		w++
	}
	return w
}

func (t *tries) prune(now time.Time) {
	old := func(at time.Time) bool { return now.Sub(at) >= backoffWindow }
	t.Times = slices.DeleteFunc(t.Times, old)
	if now.Sub(t.Last) >= backoffForget {
		t.InRow = 0
	}
	if now.Sub(t.Known) >= backoffKnown {
		t.Known = time.Time{}
	}
}

func (t *tries) wait(now time.Time, budget int) time.Duration {
	var wait time.Duration
	if n := len(t.Times); n >= budget {
		wait = t.Times[n-budget].Add(backoffWindow).Sub(now)
	}
	if over := t.InRow - backoffFree; over >= 0 {
		pause := backoffWindow
		if over < 10 { // 2^10 s is more than the window
			pause = min(time.Second<<over, backoffWindow)
		}
		wait = max(wait, t.Last.Add(pause).Sub(now))
	}
	return max(wait, 0)
}

func (t *tries) add(now time.Time, most int) {
	t.Times = append(t.Times, now)
	if len(t.Times) > most {
		t.Times = slices.Delete(t.Times, 0, len(t.Times)-most)
	}
	t.Last = now
}

func (t *tries) giveBack() {
	if n := len(t.Times); n > 0 {
		t.Times = t.Times[:n-1]
	}
}

// accountKey hides the name: people type passwords into the field for names,
// and the file must not show them. The first part of a pair's key is the
// account's.
func accountKey(account string) string {
	sum := sha256.Sum256([]byte("account\x00" + strings.ToLower(strings.TrimSpace(account))))
	return hex.EncodeToString(sum[:12])
}

func pairKey(account string, from Source) string {
	sum := sha256.Sum256([]byte("source\x00" + string(from)))
	return accountKey(account) + hex.EncodeToString(sum[:12])
}
