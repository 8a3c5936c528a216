package ntp

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// traces are what time daemons leave in the file system while they run. In the
// unit's sandbox (ProtectProc=invisible) the processes themselves are hidden.
var traces = []struct {
	path, daemon string
	pid          bool // the file holds a process id, which must be alive
}{
	{"run/chrony/chronyd.pid", "chronyd", true},
	{"run/chronyd.pid", "chronyd", true},
	{"run/ntpd.pid", "ntpd", true},
	{"run/ntpsec/ntpd.pid", "ntpd", true},
	{"run/openntpd.pid", "openntpd", true},
	{"run/ntpd-rs/observe", "ntpd-rs", false},
	{"run/systemd/timesync", "systemd-timesyncd", false}, // its RuntimeDirectory=, gone when it stops
}

// anotherDaemon returns the name of a program that steers this machine's clock:
// by its process, its pid file, or its socket; "" where there is none. root is
// "/" but in tests.
func anotherDaemon(root string) string {
	if d := disciplining(filepath.Join(root, "proc")); d != "" {
		return d
	}
	for _, t := range traces {
		name := filepath.Join(root, t.path)
		if !t.pid {
			if _, err := os.Stat(name); err == nil {
				return t.daemon
			}
			continue
		}
		b, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrPermission) {
			return t.daemon // its folder is closed to us: it was made by the daemon's start
		}
		if err != nil {
			continue
		}
		if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && pid > 0 && alive(pid) {
			return t.daemon
		}
	}
	// A socket's name outlives no daemon; the list is one per network namespace.
	b, err := os.ReadFile(filepath.Join(root, "proc", "net", "unix"))
	if err == nil && strings.Contains(string(b), "/chronyd.sock\n") {
		return "chronyd"
	}
	return ""
}

// alive reports whether there is such a process, ours or another's.
func alive(pid int) bool { return !errors.Is(unix.Kill(pid, 0), unix.ESRCH) }
