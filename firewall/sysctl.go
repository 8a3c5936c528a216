package firewall

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// applySysctls sets the kernel parameters that have another value. /proc/sys/net
// shows the network namespace of the process.
func applySysctls(want []Sysctl) (changed bool, err error) {
	for _, s := range want {
		path := s.path()
		b, err := os.ReadFile(path)
		switch {
		case errors.Is(err, fs.ErrNotExist) && s.Optional:
			continue
		case err != nil:
			return changed, fmt.Errorf("reading %s: %w", s.name(), err)
		}
		if !s.differs(b) {
			continue
		}
		if err := os.WriteFile(path, []byte(s.Value), 0o644); err != nil {
			if errors.Is(err, fs.ErrNotExist) && s.Optional {
				continue // the interface went away meanwhile
			}
			return changed, fmt.Errorf("setting %s to %s (in a container this needs --privileged, or set it outside): %w", s.name(), s.Value, err)
		}
		changed = true
	}
	return changed, nil
}

func (s Sysctl) path() string { return filepath.Join("/proc/sys", s.name()) }

// differs reports whether the value as it was read has to be set.
func (s Sysctl) differs(value []byte) bool {
	have := strings.TrimSpace(string(value))
	return have != s.Value && (s.OnlyIf == "" || have == s.OnlyIf)
}

// drifted reports whether the parameter can be read and has to be set.
func (s Sysctl) drifted() bool {
	b, err := os.ReadFile(s.path())
	return err == nil && s.differs(b)
}
