package cgroup_test

import (
	"errors"
	"os"
	"testing"

	"github.com/personal-internet-cell/pic/internal/cgroup"
)

// What was not started by a unit that delegates stays where it is. That limits
// hold where one does is tried on Debian's kernel, in rig.
func TestNothingIsDoneWithoutDelegation(t *testing.T) {
	before, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	tree := cgroup.New()
	if err := tree.Add("exit", os.Getpid(), cgroup.Limits{Memory: 1 << 20, Tasks: 1}); !errors.Is(err, cgroup.ErrNotDelegated) {
		t.Errorf("adding: %v", err)
	}
	if err := tree.Remove("exit"); err != nil {
		t.Errorf("removing: %v", err)
	}
	if after, _ := os.ReadFile("/proc/self/cgroup"); string(after) != string(before) {
		t.Errorf("the process was moved: %s", after)
	}
}
