// Package cgroup gives each program that the cell starts a control group with
// limits of its own, below the one that systemd delegated to the cell.
//
// It owns the groups it makes there, and moves the cell itself into one of them,
// for a group with members can't hand limits to groups below it (cgroups(7), "no
// internal processes"). It must never touch a group that was not delegated: what
// a person starts from a shell shares its group with others.
package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrNotDelegated says that the cell has no group to make others in: it was not
// started by a unit with Delegate=, or the kernel has no second version of
// control groups.
var ErrNotDelegated = errors.New("no control group is delegated to the cell")

// own is the group of the cell itself.
const own = "cell"

// Limits are what a group may take.
type Limits struct {
	// Memory, in bytes, swapped pages not counted; more than 0. The kernel ends
	// the whole group when it is used up.
	Memory int64
	// Tasks is the most processes and threads at a time; more than 0.
	Tasks int
}

// Tree makes groups below the delegated one. Its methods may be called from any
// goroutine.
type Tree struct {
	root string // of the cgroup file system
	proc string // /proc

	once sync.Once
	dir  string // the delegated group
	err  error
}

// New returns the tree of this process. Nothing is done before the first Add.
func New() *Tree { return &Tree{root: "/sys/fs/cgroup", proc: "/proc"} }

// Add puts a process, and whatever it will start, into a group called name,
// which is made. The error is [ErrNotDelegated] where the cell has no group;
// the process then stays where it is.
func (t *Tree) Add(name string, pid int, l Limits) error {
	if t.once.Do(t.prepare); t.err != nil {
		return t.err
	}
	if name == own || name == "" || strings.ContainsAny(name, "/.") {
		return fmt.Errorf("making the control group %q: not a name for one", name)
	}
	dir := filepath.Join(t.dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("making a control group: %w", err)
	}
	for _, f := range []struct{ name, value string }{
		{"memory.max", strconv.FormatInt(l.Memory, 10)},
		{"memory.oom.group", "1"},
		{"pids.max", strconv.Itoa(l.Tasks)},
		{"cgroup.procs", strconv.Itoa(pid)},
	} {
		if err := write(filepath.Join(dir, f.name), f.value); err != nil {
			return fmt.Errorf("limiting the control group %s: %w", name, err)
		}
	}
	return nil
}

// Remove removes the group called name once it is empty. One that is not there
// is none to remove.
func (t *Tree) Remove(name string) error {
	if t.once.Do(t.prepare); t.err != nil {
		return nil
	}
	if err := unix.Rmdir(filepath.Join(t.dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing the control group %s: %w", name, err)
	}
	return nil
}

// prepare finds the delegated group, moves this process into one below it and
// hands the two controllers down.
func (t *Tree) prepare() {
	b, err := os.ReadFile(filepath.Join(t.proc, "self/cgroup"))
	if err != nil {
		t.err = fmt.Errorf("reading the own control group: %w", err)
		return
	}
	path := ""
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok { // the second version's
			path = rest
		}
	}
	dir := filepath.Join(t.root, filepath.Clean("/"+path))
	if path == "" || !delegated(dir) {
		t.err = ErrNotDelegated
		return
	}
	if err := os.Mkdir(filepath.Join(dir, own), 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		t.err = fmt.Errorf("making the cell's control group: %w", err)
		return
	}
	for range tries {
		if t.err = vacate(dir); t.err == nil {
			t.dir = dir
			return
		}
		if !errors.Is(t.err, unix.EBUSY) { // somebody was started meanwhile
			return
		}
	}
}

// tries is how often a group with members is looked at again.
const tries = 20

// vacate moves the members of the group, this process and what it has started,
// to the cell's own below it, and hands the controllers down.
func vacate(dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return fmt.Errorf("reading the members of the control group: %w", err)
	}
	for pid := range strings.FieldsSeq(string(b)) {
		if err := write(filepath.Join(dir, own, "cgroup.procs"), pid); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("moving to the cell's control group: %w", err)
		}
	}
	if err := write(filepath.Join(dir, "cgroup.subtree_control"), "+memory +pids"); err != nil {
		return fmt.Errorf("handing limits to control groups: %w", err)
	}
	return nil
}

// delegated reports whether systemd gave the group away: it then has this
// attribute (systemd.resource-control(5), Delegate=).
func delegated(dir string) bool {
	var b [8]byte
	for _, name := range []string{"user.delegate", "trusted.delegate"} {
		if n, err := unix.Getxattr(dir, name, b[:]); err == nil && string(b[:n]) == "1" {
			return true
		}
	}
	return false
}

// write writes to a file of the kernel's, which is never made.
func write(name, value string) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
