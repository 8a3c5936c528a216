package auth

import (
	"sync"
	"time"
)

const (
	setupSessionFor = time.Hour
	setupSessions   = 16
)

// SetupSessions holds the drafts of wizards that have shown the setup code. D
// is the caller's draft. They live in memory only, end after an hour, and the
// oldest makes room for a seventeenth. It is safe for concurrent use.
type SetupSessions[D any] struct {
	now func() time.Time

	mu     sync.Mutex
	drafts map[[32]byte]*draft[D]
}

type draft[D any] struct {
	value D
	until time.Time
}

// NewSetupSessions returns an empty set; now may be nil for time.Now.
func NewSetupSessions[D any](now func() time.Time) *SetupSessions[D] {
	if now == nil {
		now = time.Now
	}
	return &SetupSessions[D]{now: now, drafts: map[[32]byte]*draft[D]{}}
}

// Create starts a wizard with a draft and returns the token for its cookie.
func (s *SetupSessions[D]) Create(value D) (token string) {
	now := s.now()
	token = newToken(setupPrefix)
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.drafts) >= setupSessions {
		var oldest [32]byte
		var until time.Time
		for h, d := range s.drafts {
			if until.IsZero() || d.until.Before(until) {
				oldest, until = h, d.until
			}
		}
		delete(s.drafts, oldest)
	}
	s.drafts[tokenHash(token)] = &draft[D]{value, now.Add(setupSessionFor)}
	return token
}

// Draft returns a copy of the draft of token (as deep as an assignment).
func (s *SetupSessions[D]) Draft(token string) (D, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.find(token); d != nil {
		return d.value, true
	}
	var none D
	return none, false
}

// Update changes the draft of token under the lock; an error of edit leaves
// what the draft was. ErrSetupSession when there is none.
func (s *SetupSessions[D]) Update(token string, edit func(*D) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.find(token)
	if d == nil {
		return ErrSetupSession
	}
	value := d.value
	if err := edit(&value); err != nil {
		return err
	}
	d.value = value
	return nil
}

// End forgets all drafts: the cell is claimed.
func (s *SetupSessions[D]) End() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.drafts)
}

func (s *SetupSessions[D]) find(token string) *draft[D] {
	if !tokenShaped(token, setupPrefix) {
		return nil
	}
	h := tokenHash(token)
	d := s.drafts[h]
	if d != nil && !s.now().Before(d.until) {
		delete(s.drafts, h)
		return nil
	}
	return d
}
