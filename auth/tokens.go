package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/personal-internet-cell/pic/cell"
)

const (
	apiTokenPrefix = "pic_"
	tokensFile     = "tokens"
	tokenSave      = time.Minute
)

// NewAPIToken makes a token, which is shown once, and what the state keeps of
// it. Name, scopes and times are the caller's to fill.
func NewAPIToken() (token string, kept cell.Token) {
	token = newToken(apiTokenPrefix)
	sum := sha256.Sum256([]byte(token))
	return token, cell.Token{ID: newID(), Hash: hex.EncodeToString(sum[:])}
}

// BearerToken returns the credentials of an Authorization header with the
// scheme Bearer (RFC 6750, section 2.1). given is true when there is an
// Authorization header at all: then nothing else may speak for the request.
// Two headers, another scheme and what is no token of ours give "".
func BearerToken(r *http.Request) (token string, given bool) {
	values := r.Header.Values("Authorization")
	if len(values) != 1 {
		return "", len(values) > 0
	}
	scheme, rest, _ := strings.Cut(values[0], " ")
	rest = strings.TrimLeft(rest, " ")
	if !strings.EqualFold(scheme, "Bearer") || !tokenShaped(rest, apiTokenPrefix) {
		return "", true
	}
	return rest, true
}

// TokensConfig configures [NewTokens].
type TokensConfig struct {
	Store Store              // nil: last uses end with the process
	State func() *cell.State // the running state; may return nil
	Now   func() time.Time   // nil: time.Now
	Log   *slog.Logger       // nil discards
}

// Tokens finds the users of API tokens and remembers when each was last used.
// The tokens themselves are in the state. It is safe for concurrent use, and a
// [lifecycle.Task] that saves the last uses once a minute.
type Tokens struct {
	store Store
	state func() *cell.State
	now   func() time.Time
	log   *slog.Logger
	index atomic.Pointer[tokenIndex]

	saving sync.Mutex // serialises saves; taken before mu

	mu    sync.Mutex
	used  map[string]time.Time // by id
	dirty bool
}

// tokenIndex is made once for each state.
type tokenIndex struct {
	of     *cell.State
	byHash map[string]tokenOwner
}

type tokenOwner struct {
	user  *cell.User
	token *cell.Token
}

type tokenRecords struct {
	Version int                  `json:"version"`
	Used    map[string]time.Time `json:"used"`
}

// NewTokens loads the last uses. A file that can't be read is logged; last
// uses decide nothing.
func NewTokens(cfg *TokensConfig) *Tokens {
	t := &Tokens{store: cfg.Store, state: cfg.State, now: cfg.Now, log: orDiscard(cfg.Log), used: map[string]time.Time{}}
	if t.now == nil {
		t.now = time.Now
	}
	if t.state == nil {
		t.state = func() *cell.State { return nil }
	}
	var file tokenRecords
	if err := load(t.store, tokensFile, &file); err != nil {
		t.log.Error("last uses of tokens are lost", "error", err)
	} else if len(file.Used) <= cell.MaxUsers*cell.MaxTokensPerUser && file.Used != nil {
		t.used = file.Used
	}
	return t
}

// Lookup returns who token speaks for, and the token's record for its scopes.
// The role is the user's of now. It is not found when it is unknown, has
// expired or was made in the future.
func (t *Tokens) Lookup(token string) (who Identity, kept *cell.Token, ok bool) {
	if !tokenShaped(token, apiTokenPrefix) {
		return Identity{}, nil, false
	}
	sum := sha256.Sum256([]byte(token))
	hash := hex.EncodeToString(sum[:])
	o, found := t.indexed()[hash]
	// The map tells by time at most something of the hash, which nobody can
	// turn into the token; the comparison does not depend on that.
	if !found || subtle.ConstantTimeCompare([]byte(o.token.Hash), []byte(hash)) != 1 {
		return Identity{}, nil, false
	}
	now := t.now()
	if !tokenLive(o.token, now) {
		return Identity{}, nil, false
	}
	t.mu.Lock()
	if now.Sub(t.used[o.token.ID]) >= time.Second {
		t.used[o.token.ID], t.dirty = now.UTC().Truncate(time.Second), true
	}
	t.mu.Unlock()
	return Identity{User: o.user.Name, Role: o.user.Role, Via: ViaToken, Token: o.token.ID}, o.token, true
}

// Valid reports whether the token with the public id still speaks for user
// with that role, for streams that stay open. It is no use of the token.
func (t *Tokens) Valid(who Identity) bool {
	s := t.state()
	if s == nil {
		return false
	}
	u := s.User(who.User)
	if u == nil || u.Role != who.Role {
		return false
	}
	for i := range u.Tokens {
		if x := &u.Tokens[i]; x.ID == who.Token {
			return tokenLive(x, t.now())
		}
	}
	return false
}

// LastUsed returns when the token with the public id was last used; the zero
// time when never.
func (t *Tokens) LastUsed(id string) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.used[id]
}

// tokenLive: a token of the future means that the clock was set back, and then
// nobody can say whether it has expired.
func tokenLive(k *cell.Token, now time.Time) bool {
	return now.Before(k.Expires) && !now.Before(k.Created)
}

// indexed returns the tokens of the running state by hash.
func (t *Tokens) indexed() map[string]tokenOwner {
	s := t.state()
	if s == nil {
		return nil
	}
	if x := t.index.Load(); x != nil && x.of == s {
		return x.byHash
	}
	x := &tokenIndex{of: s, byHash: map[string]tokenOwner{}}
	for i := range s.Users {
		u := &s.Users[i]
		for j := range u.Tokens {
			x.byHash[u.Tokens[j].Hash] = tokenOwner{u, &u.Tokens[j]}
		}
	}
	t.index.Store(x)
	return x.byHash
}

// Run saves last uses once a minute and when ctx ends.
func (t *Tokens) Run(ctx context.Context) error {
	tick := time.NewTicker(tokenSave)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			t.save()
			return nil
		case <-tick.C:
			t.save()
		}
	}
}

// Ready is closed: lookups work before Run does.
func (*Tokens) Ready() <-chan struct{} { return ready() }

func (*Tokens) String() string { return "tokens" }

// save writes the last uses of tokens that still exist; what fails is tried
// again by Run.
func (t *Tokens) save() {
	t.saving.Lock()
	defer t.saving.Unlock()
	exists := map[string]bool{}
	for _, o := range t.indexed() {
		exists[o.token.ID] = true
	}
	t.mu.Lock()
	if !t.dirty {
		t.mu.Unlock()
		return
	}
	t.dirty = false
	file := tokenRecords{Version: 1, Used: map[string]time.Time{}}
	for id, at := range t.used {
		if exists[id] {
			file.Used[id] = at
		} else {
			delete(t.used, id)
		}
	}
	t.mu.Unlock()
	if err := save(t.store, tokensFile, &file); err != nil {
		t.log.Error("last uses of tokens could not be saved", "error", err)
		t.mu.Lock()
		t.dirty = true
		t.mu.Unlock()
	}
}
