package datastore

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"

	"github.com/personal-internet-cell/pic/internal/atomicfile"
)

// maxHistory bounds one history file in bytes.
const maxHistory = 32 << 20

// sumLine is a checksum in hex and a line feed, the first line of history and
// secret files.
const sumLine = 2*sha256.Size + 1

func sealed(data []byte) []byte {
	sum := sha256.Sum256(data)
	out := make([]byte, 0, sumLine+len(data))
	out = append(hex.AppendEncode(out, sum[:]), '\n')
	return append(out, data...)
}

func unseal(file []byte) ([]byte, error) {
	if len(file) < sumLine || file[sumLine-1] != '\n' {
		return nil, fmt.Errorf("%w: no checksum line", ErrCorrupt)
	}
	data := file[sumLine:]
	sum := sha256.Sum256(data)
	if hex.EncodeToString(sum[:]) != string(file[:sumLine-1]) {
		return nil, fmt.Errorf("%w: the checksum differs", ErrCorrupt)
	}
	return data, nil
}

// validName reports whether s may be a file's name: 1 to 80 of a-z, 0-9, -, _
// and dots inside.
func validName(s string) bool {
	if len(s) < 1 || len(s) > 80 || s[0] == '.' {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

// LoadHistory returns what [Store.SaveHistory] last kept under name. It fails
// with [io/fs.ErrNotExist] when there is nothing, and with [ErrCorrupt] when
// the file is damaged; a caller that limits anything by what it finds must
// then limit, not allow.
func (s *Store) LoadHistory(name string) ([]byte, error) {
	if !validName(name) {
		return nil, fmt.Errorf("loading history: %q is no name", name)
	}
	file, err := read(filepath.Join(s.dir, historyDir, name))
	if err != nil {
		return nil, s.failure("loading the history of "+name, err)
	}
	data, err := unseal(file)
	if err != nil {
		return nil, fmt.Errorf("loading the history of %s: %w", name, err)
	}
	return data, nil
}

// SaveHistory keeps data, at most 32 MiB, under name in place of what was
// there. When it returns nil the data is durable.
func (s *Store) SaveHistory(name string, data []byte) error {
	if !validName(name) || len(data) > maxHistory {
		return fmt.Errorf("saving history: %q with %d bytes is not allowed", name, len(data))
	}
	if err := atomicfile.Write(filepath.Join(s.dir, historyDir, name), sealed(data), 0o600); err != nil {
		return s.failure("saving the history of "+name, err)
	}
	return nil
}

// History is the history folder seen by a room that keeps something in it.
type History struct{ store *Store }

// History returns the history folder with the two methods that rooms declare
// an interface for.
func (s *Store) History() History { return History{s} }

// Load is [Store.LoadHistory].
func (h History) Load(name string) ([]byte, error) { return h.store.LoadHistory(name) }

// Save is [Store.SaveHistory].
func (h History) Save(name string, data []byte) error { return h.store.SaveHistory(name, data) }
