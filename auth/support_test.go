package auth_test

import (
	"bytes"
	"io/fs"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

// memory is a Store that can be broken.
type memory struct {
	mu    sync.Mutex
	files map[string][]byte
	saves int
	fail  error
}

func newMemory() *memory { return &memory{files: map[string][]byte{}} }

func (m *memory) Load(name string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.files[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return bytes.Clone(b), nil
}

func (m *memory) Save(name string, data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	m.saves++
	m.files[name] = bytes.Clone(data)
	return nil
}

func (m *memory) text(name string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return string(m.files[name])
}

func (m *memory) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.saves
}

// clock is a clock that moves when told.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// users is a user table that tests change.
type users struct {
	mu    sync.Mutex
	roles map[string]cell.Role
}

func newUsers() *users {
	return &users{roles: map[string]cell.Role{"admin": cell.RoleAdmin, "ada": cell.RolePeer}}
}

func (u *users) Role(name string) (cell.Role, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	r, ok := u.roles[name]
	return r, ok
}

func (u *users) set(name string, r cell.Role) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if r == "" {
		delete(u.roles, name)
		return
	}
	u.roles[name] = r
}

// logged collects log lines.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// cheap is a cost for tests that are not about cost.
func cheap() auth.Cost { return auth.Cost{Memory: 64, Time: 1, Threads: 1} }

func mustHash(t *testing.T, p *auth.Passwords, pw string) cell.Secret {
	t.Helper()
	h, err := p.Hash(t.Context(), pw)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// What runs for long is a task.
var _ = []lifecycle.Task{(*auth.Sessions)(nil), (*auth.Backoff)(nil), (*auth.SetupCode)(nil)}
