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
		path := filepath.Join("/proc/sys", s.name())
		b, err := os.ReadFile(path)
		switch {
		case errors.Is(err, fs.ErrNotExist) && s.Optional:
			continue
		case err != nil:
			return changed, fmt.Errorf("reading %s: %w", s.name(), err)
		}
		have := strings.TrimSpace(string(b))
		if have == s.Value || (s.OnlyIf != "" && have != s.OnlyIf) {
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
