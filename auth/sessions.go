package auth

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/personal-internet-cell/pic/cell"
)

// Limits of a session.
const (
	SessionIdle     = 30 * time.Minute
	SessionAbsolute = 12 * time.Hour
)

const (
	sessionsPerUser = 20
	sessionsTotal   = 2000
	sessionSweep    = 500 * time.Millisecond
	sessionSave     = time.Minute
)

// Session is a signed-in user, as shown to handlers and in lists. It is a copy:
// changing it changes nothing.
type Session struct {
	ID       string // public; names the session in lists and for revoking
	User     string
	Role     cell.Role
	Created  time.Time
	LastSeen time.Time
	Reauthed time.Time // when the password was last entered
	Address  netip.Addr
	CSRF     string // the X-CSRF-Token; empty in lists
}

// Expires is when the session ends if nothing more is heard of it.
func (s Session) Expires() time.Time {
	idle, absolute := s.LastSeen.Add(SessionIdle), s.Created.Add(SessionAbsolute)
	if idle.Before(absolute) {
		return idle
	}
	return absolute
}

// ReauthUntil is when the password has to be entered again for what asks for a
// fresh one.
func (s Session) ReauthUntil() time.Time { return s.Reauthed.Add(ReauthFor) }

// Identity returns the session as an identity for access checks.
func (s Session) Identity() Identity {
	return Identity{User: s.User, Role: s.Role, Via: ViaSession, Session: s.ID, Reauthed: s.Reauthed}
}

// RoleFunc says which role a user has right now; ok is false when there is no
// such user. It must be fast and must not call back into [Sessions].
type RoleFunc func(user string) (role cell.Role, ok bool)

// SessionsConfig configures [NewSessions].
type SessionsConfig struct {
	Store Store            // nil: sessions end with the process
	Role  RoleFunc         // the running state; nil means no users, so no sessions
	Now   func() time.Time // nil: time.Now
	Log   *slog.Logger     // nil discards
}

// Sessions holds who is signed in. Only hashes of the tokens are kept. It is
// safe for concurrent use, and a [lifecycle.Task]: while Run runs, ended
// sessions are noticed within a second.
type Sessions struct {
	store Store
	role  RoleFunc
	now   func() time.Time
	log   *slog.Logger

	saving sync.Mutex // serialises saves; taken before mu

	mu     sync.Mutex
	byHash map[[32]byte]*session
	byID   map[string]*session
	dirty  bool
}

type session struct {
	Session
	hash [32]byte
	done chan struct{} // closed when the session ends
}

// NewSessions loads the sessions of before the restart. A file that can't be
// read means that there are none: logged, and everybody signs in again.
func NewSessions(cfg *SessionsConfig) *Sessions {
	s := &Sessions{
		store: cfg.Store, role: cfg.Role, now: cfg.Now, log: orDiscard(cfg.Log),
		byHash: map[[32]byte]*session{}, byID: map[string]*session{},
	}
	if s.role == nil {
		s.role = func(string) (cell.Role, bool) { return "", false }
	}
	if s.now == nil {
		s.now = time.Now
	}
	s.load()
	return s
}

// Create signs user in and returns the token for the cookie. The oldest
// sessions make room when the user has 20 already, or everybody 2000.
func (s *Sessions) Create(user string, role cell.Role, from netip.Addr) (token string, made Session) {
	now := s.now()
	token = newToken(sessionPrefix)
	x := &session{
		Session: Session{ID: newID(), User: user, Role: role, Created: now, LastSeen: now, Reauthed: now, Address: from},
		hash:    tokenHash(token),
		done:    make(chan struct{}),
	}
	s.mu.Lock()
	s.sweep(now)
	s.makeRoom(sessionsPerUser, func(o *session) bool { return o.User == user })
	s.makeRoom(sessionsTotal, func(*session) bool { return true })
	s.byHash[x.hash], s.byID[x.ID] = x, x
	made = x.shown(token)
	s.dirty = true
	s.mu.Unlock()
	s.save()
	return token, made
}

// Lookup returns the session of token and marks it as seen now. It is not
// found when it ended, and when its user has another role by now or is gone.
func (s *Sessions) Lookup(token string) (Session, bool) {
	if !tokenShaped(token, sessionPrefix) {
		return Session{}, false
	}
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.byHash[tokenHash(token)]
	if x == nil {
		return Session{}, false
	}
	if !s.alive(x, now) {
		s.remove(x)
		return Session{}, false
	}
	if now.After(x.LastSeen) {
		x.LastSeen, s.dirty = now, true
	}
	return x.shown(token), true
}

// Renew gives the session of token a new token, after its user has entered the
// password again; the old token is worth nothing from then on. The id, open
// event streams and the absolute end stay.
func (s *Sessions) Renew(token string) (renewed string, made Session, ok bool) {
	if _, ok := s.Lookup(token); !ok {
		return "", Session{}, false
	}
	now := s.now()
	renewed = newToken(sessionPrefix)
	s.mu.Lock()
	x := s.byHash[tokenHash(token)]
	if x == nil { // a concurrent renewal or revocation won
		s.mu.Unlock()
		return "", Session{}, false
	}
	delete(s.byHash, x.hash)
	x.hash = tokenHash(renewed)
	s.byHash[x.hash] = x
	x.LastSeen, x.Reauthed = now, now
	made = x.shown(renewed)
	s.dirty = true
	s.mu.Unlock()
	s.save()
	return renewed, made, true
}

// Revoke ends the session with the public id; false when there is none.
func (s *Sessions) Revoke(id string) bool {
	return s.revoke(func(x *session) bool { return x.ID == id }) > 0
}

// RevokeUser ends all sessions of user but the one with the id except (empty:
// all), and returns how many ended.
func (s *Sessions) RevokeUser(user, except string) int {
	return s.revoke(func(x *session) bool { return x.User == user && x.ID != except })
}

func (s *Sessions) revoke(which func(*session) bool) (ended int) {
	s.mu.Lock()
	for _, x := range s.byID {
		if which(x) {
			s.remove(x)
			ended++
		}
	}
	s.mu.Unlock()
	if ended > 0 {
		s.save() // at once: a crash must not bring a revoked session back
	}
	return ended
}

// List returns the sessions of user (empty: of everybody), newest first.
func (s *Sessions) List(user string) []Session {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []Session{}
	for _, x := range s.byID {
		if (user == "" || x.User == user) && s.alive(x, now) {
			out = append(out, x.Session)
		}
	}
	slices.SortFunc(out, func(a, b Session) int {
		return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// Valid reports whether the session with the public id is alive, without
// marking it as seen: an event stream that stays open is not activity.
func (s *Sessions) Valid(id string) bool {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.byID[id]
	return x != nil && s.alive(x, now)
}

// Done returns a channel that is closed within a second of the session's end
// for whatever reason; for an unknown id it is closed already.
func (s *Sessions) Done(id string) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x := s.byID[id]; x != nil {
		return x.done
	}
	ended := make(chan struct{})
	close(ended)
	return ended
}

// Run ends sessions whose time or user is over and saves what was seen, at
// most once a minute and when ctx ends.
func (s *Sessions) Run(ctx context.Context) error {
	tick := time.NewTicker(sessionSweep)
	defer tick.Stop()
	next := s.now().Add(sessionSave)
	for {
		select {
		case <-ctx.Done():
			s.save()
			return nil
		case <-tick.C:
		}
		now := s.now()
		s.mu.Lock()
		ended := s.sweep(now)
		s.mu.Unlock()
		if ended > 0 || !now.Before(next) {
			s.save()
			next = now.Add(sessionSave)
		}
	}
}

// Ready is closed: sessions work before Run does.
func (*Sessions) Ready() <-chan struct{} { return ready() }

func (*Sessions) String() string { return "sessions" }

// sweep removes what has ended. mu is held. Users are asked for once each.
func (s *Sessions) sweep(now time.Time) (ended int) {
	type answer struct {
		role cell.Role
		ok   bool
	}
	asked := map[string]answer{}
	for _, x := range s.byID {
		a, known := asked[x.User]
		if !known {
			a.role, a.ok = s.role(x.User)
			asked[x.User] = a
		}
		if !a.ok || a.role != x.Role || x.expired(now) {
			s.remove(x)
			ended++
		}
	}
	return ended
}

func (s *Sessions) alive(x *session, now time.Time) bool {
	role, ok := s.role(x.User)
	return ok && role == x.Role && !x.expired(now)
}

func (s *Sessions) remove(x *session) {
	delete(s.byHash, x.hash)
	delete(s.byID, x.ID)
	close(x.done)
	s.dirty = true
}

// makeRoom removes the least recently seen of the chosen sessions until fewer
// than most are left.
func (s *Sessions) makeRoom(most int, which func(*session) bool) {
	var chosen []*session
	for _, x := range s.byID {
		if which(x) {
			chosen = append(chosen, x)
		}
	}
	if len(chosen) < most {
		return
	}
	slices.SortFunc(chosen, func(a, b *session) int {
		return cmp.Or(a.LastSeen.Compare(b.LastSeen), cmp.Compare(a.ID, b.ID))
	})
	for _, x := range chosen[:len(chosen)-most+1] {
		s.remove(x)
	}
}

func (x *session) expired(now time.Time) bool {
	return now.Sub(x.LastSeen) >= SessionIdle || now.Sub(x.Created) >= SessionAbsolute
}

func (x *session) shown(token string) Session {
	out := x.Session
	out.CSRF = CSRFToken(token)
	return out
}

func newID() string {
	b := make([]byte, 12)
	rand.Read(b)
	return hex.EncodeToString(b)
}

func ready() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}
