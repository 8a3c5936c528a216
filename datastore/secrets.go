package datastore

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/atomicfile"
)

// maxSecret bounds a secret in bytes.
const maxSecret = 1 << 20

// NewRef makes a reference nobody has used: the kind, such as "tunnel" or
// "password", and 16 random characters (80 bits).
func (s *Store) NewRef(kind string) cell.SecretRef {
	return cell.SecretRef(kind + "-" + strings.ToLower(rand.Text()[:16]))
}

func (s *Store) secretPath(ref cell.SecretRef) string {
	return filepath.Join(s.dir, secretsDir, string(ref))
}

// Secret returns the value kept under ref: [ErrNoSuchSecret] when there is
// none, [ErrCorrupt] when the file is damaged.
func (s *Store) Secret(ref cell.SecretRef) (cell.Secret, error) {
	if !validName(string(ref)) {
		return cell.Secret{}, fmt.Errorf("reading secret %q: %w", ref, ErrNoSuchSecret)
	}
	file, err := read(s.secretPath(ref))
	if errors.Is(err, fs.ErrNotExist) {
		return cell.Secret{}, fmt.Errorf("reading secret %s: %w", ref, ErrNoSuchSecret)
	}
	if err != nil {
		return cell.Secret{}, s.failure("reading secret "+string(ref), err)
	}
	value, err := unseal(file)
	if err != nil {
		return cell.Secret{}, fmt.Errorf("reading secret %s: %w", ref, err)
	}
	return cell.NewSecret(string(value)), nil
}

// PutSecrets keeps new secrets, durably. A value never changes under its
// reference: a reference that exists with another value is an error, with the
// same value it is left alone. On error none of the new ones is kept.
func (s *Store) PutSecrets(secrets map[cell.SecretRef]cell.Secret) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var made []cell.SecretRef
	for _, ref := range slices.Sorted(maps.Keys(secrets)) {
		fresh, err := s.putSecret(ref, secrets[ref])
		if err != nil {
			return errors.Join(err, s.dropSecrets(made))
		}
		if fresh {
			made = append(made, ref)
			s.unnamed[ref] = true
		}
	}
	return nil
}

func (s *Store) putSecret(ref cell.SecretRef, value cell.Secret) (fresh bool, err error) {
	if !validName(string(ref)) || value.Empty() || len(value.Reveal()) > maxSecret {
		return false, fmt.Errorf("keeping secret %q: it needs a reference of a-z, 0-9, -, _ and a value of 1 to %d bytes", ref, maxSecret)
	}
	old, err := s.Secret(ref)
	switch {
	case err == nil && old.Reveal() == value.Reveal():
		return false, nil
	case err == nil:
		return false, fmt.Errorf("keeping secret %s: it exists with another value", ref)
	case !errors.Is(err, ErrNoSuchSecret):
		return false, err
	}
	if err := atomicfile.Write(s.secretPath(ref), sealed([]byte(value.Reveal())), 0o600); err != nil {
		return false, s.failure("keeping secret "+string(ref), err)
	}
	return true, nil
}

// dropSecrets removes secrets that no revision came to name.
func (s *Store) dropSecrets(refs []cell.SecretRef) error {
	var errs []error
	for _, ref := range refs {
		delete(s.unnamed, ref)
		if err := os.Remove(s.secretPath(ref)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, s.failure("removing secret "+string(ref), err))
		}
	}
	if len(refs) > 0 {
		errs = append(errs, atomicfile.SyncDir(filepath.Join(s.dir, secretsDir)))
	}
	return errors.Join(errs...)
}
