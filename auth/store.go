package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
)

// Store keeps the history files of this package across restarts. Load of a
// name that was never saved returns fs.ErrNotExist or no data. Save is durable
// when it returns; both may be called concurrently for different names.
type Store interface {
	Load(name string) ([]byte, error)
	Save(name string, data []byte) error
}

// maxHistory bounds what is read back, so that a damaged file can't eat the
// memory.
const maxHistory = 8 << 20

// load reads a history file into v, which stays as it was when there is no file.
func load(store Store, name string, v any) error {
	if store == nil {
		return nil
	}
	data, err := store.Load(name)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && len(data) == 0:
		return nil
	case err != nil:
		return fmt.Errorf("reading %s: %w", name, err)
	case len(data) > maxHistory:
		return fmt.Errorf("reading %s: %d bytes are more than a sane file has", name, len(data))
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	return nil
}

func save(store Store, name string, v any) error {
	if store == nil {
		return nil
	}
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("saving %s: %w", name, err)
	}
	if err := store.Save(name, data); err != nil {
		return fmt.Errorf("saving %s: %w", name, err)
	}
	return nil
}
