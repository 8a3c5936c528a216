package ntp

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"
)

// Memory keeps a little over restarts: the history files.
type Memory interface {
	Load(name string) ([]byte, error)
	Save(name string, data []byte) error
}

const memoryName = "clock"

// remembered is the history file "clock".
type remembered struct {
	// Last is a time that was right: the clock was synchronised.
	Last time.Time `json:"last"`
	// Boot is the kernel's boot id while we steered: a clock that is found
	// synchronised in the same boot is so because of us.
	Boot string `json:"boot"`
}

// Plausible reports whether now can be right: not before this program was
// built, and not before a time that was known to be right once. Certificates
// and one-time codes must not be judged by a clock that can't be.
func (s *Server) Plausible(now time.Time) bool { return !now.Before(s.floor()) }

// floor is the latest moment that has certainly passed.
func (s *Server) floor() time.Time {
	floor := s.built
	if m := s.memory.Load(); m != nil && m.Last.After(floor) {
		floor = m.Last
	}
	return floor
}

// recall loads what was remembered; damage counts as nothing.
func (s *Server) recall() {
	m := &remembered{}
	if s.store != nil {
		b, err := s.store.Load(memoryName)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			s.log.Warn("the clock's memory is unreadable", "error", err)
		default:
			if err := json.Unmarshal(b, m); err != nil {
				s.log.Warn("the clock's memory is unreadable", "error", err)
				m = &remembered{}
			}
		}
	}
	s.memory.Store(m)
}

// remember saves the time, which must be known to be right.
func (s *Server) remember(now time.Time) {
	m := &remembered{Last: now.UTC().Round(0), Boot: bootID()}
	s.memory.Store(m)
	if s.store == nil {
		return
	}
	b, err := json.Marshal(m)
	if err == nil {
		err = s.store.Save(memoryName, b)
	}
	if err != nil {
		s.log.Warn("remembering the time", "error", fmt.Errorf("saving the clock's memory: %w", err))
	}
}

// bootID is the kernel's name for the time since it was started; "" unknown.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
