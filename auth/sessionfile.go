package auth

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"time"

	"github.com/personal-internet-cell/pic/cell"
)

const sessionsFile = "sessions"

// sessionRecord is a session on disk. There is no token in it, and none can be
// made from it.
type sessionRecord struct {
	ID       string    `json:"id"`
	Hash     string    `json:"hash"`
	User     string    `json:"user"`
	Role     cell.Role `json:"role"`
	Created  time.Time `json:"created"`
	LastSeen time.Time `json:"last_seen"`
	Reauthed time.Time `json:"reauthed"`
	Address  string    `json:"address"`
}

type sessionRecords struct {
	Version  int             `json:"version"`
	Sessions []sessionRecord `json:"sessions"`
}

const sessionsVersion = 1

// load fills an empty Sessions. It is all or nothing: a file that is wrong in
// one place is not believed in another.
func (s *Sessions) load() {
	var file sessionRecords
	if err := load(s.store, sessionsFile, &file); err != nil {
		s.log.Error("sessions are lost, users sign in again", "error", err)
		return
	}
	if file.Version == 0 && len(file.Sessions) == 0 {
		return
	}
	now := s.now()
	var read []*session
	for i, r := range file.Sessions {
		x, err := r.session(now)
		if err != nil || file.Version != sessionsVersion || i >= sessionsTotal {
			s.log.Error("sessions are lost, users sign in again", "error", err, "version", file.Version, "record", i)
			return
		}
		if x != nil {
			read = append(read, x)
		}
	}
	for _, x := range read {
		if s.byID[x.ID] == nil && s.byHash[x.hash] == nil {
			s.byHash[x.hash], s.byID[x.ID] = x, x
		}
	}
}

// session returns nil for a session that is over.
func (r sessionRecord) session(now time.Time) (*session, error) {
	x := &session{done: make(chan struct{}), Session: Session{
		ID: r.ID, User: r.User, Role: r.Role, Created: r.Created, LastSeen: r.LastSeen, Reauthed: r.Reauthed,
	}}
	n, err := hex.Decode(x.hash[:], []byte(r.Hash[:min(len(r.Hash), 2*len(x.hash))]))
	if err != nil || n != len(x.hash) || len(r.Hash) != 2*len(x.hash) || r.ID == "" || r.User == "" {
		return nil, fmt.Errorf("reading session %q: not a record", r.ID)
	}
	if r.Address != "" {
		if x.Address, err = netip.ParseAddr(r.Address); err != nil {
			return nil, fmt.Errorf("reading session %q: %w", r.ID, err)
		}
	}
	// A session from the future would outlive its limits: the clock was set
	// back, and nothing says how old the session is.
	if x.expired(now) || r.Created.After(now) || r.LastSeen.After(now) || r.Reauthed.After(now) {
		return nil, nil
	}
	return x, nil
}

// save writes the sessions if anything changed. What fails is tried again by
// Run a minute later; until then memory is right and the file is old.
func (s *Sessions) save() {
	s.saving.Lock()
	defer s.saving.Unlock()
	s.mu.Lock()
	if !s.dirty {
		s.mu.Unlock()
		return
	}
	s.dirty = false
	file := sessionRecords{Version: sessionsVersion, Sessions: make([]sessionRecord, 0, len(s.byID))}
	for _, x := range s.byID {
		r := sessionRecord{
			ID: x.ID, Hash: hex.EncodeToString(x.hash[:]), User: x.User, Role: x.Role,
			Created: x.Created.UTC(), LastSeen: x.LastSeen.UTC(), Reauthed: x.Reauthed.UTC(),
		}
		if x.Address.IsValid() {
			r.Address = x.Address.String()
		}
		file.Sessions = append(file.Sessions, r)
	}
	s.mu.Unlock()
	if err := save(s.store, sessionsFile, file); err != nil {
		s.log.Error("sessions could not be saved", "error", err)
		s.mu.Lock()
		s.dirty = true
		s.mu.Unlock()
	}
}
