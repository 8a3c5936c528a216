package rig_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/personal-internet-cell/pic/internal/cgroup"
)

// role is which part a process plays that the test starts of itself.
const role = "PIC_RIG_ROLE"

const unitGroup = "/sys/fs/cgroup/unit"

// A program that takes more memory than its limit is ended, it and what it
// started, and the cell that started it goes on. Where nothing is delegated
// nobody is moved.
func TestAProgramOfAnExitHasLimitsOfItsOwn(t *testing.T) {
	if os.Getenv("PIC_VMTEST") == "" {
		t.Skip("runs in the virtual machine: make vmtest")
	}
	if err := os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+memory +pids"), 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(unitGroup, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, d := range []string{"/cell", ""} {
			if err := unix.Rmdir(unitGroup + d); err != nil {
				t.Errorf("something is left in the unit's group%s: %v", d, err)
			}
		}
	})
	play := func() string {
		c := exec.Command("/proc/self/exe")
		c.Env = append(os.Environ(), role+"=cell")
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return strings.TrimSpace(string(out))
	}
	if got := play(); got != "not delegated, hog alive, in 0::/unit" {
		t.Errorf("without delegation: %s", got)
	}
	if err := unix.Setxattr(unitGroup, "user.delegate", []byte("1"), 0); err != nil { // as systemd does
		t.Fatal(err)
	}
	if got := play(); got != "delegated, hog killed, in 0::/unit/cell" {
		t.Errorf("with delegation: %s", got)
	}
}

// playRole plays the part that this process was started for, if any.
func playRole() {
	var err error
	switch os.Getenv(role) {
	case "":
		return
	case "cell":
		err = playCell()
	case "hog":
		// Waits for a word, then takes 64 MiB and uses them.
		if _, err = os.Stdin.Read(make([]byte, 1)); err == nil {
			b := bytes.Repeat([]byte{1}, 64<<20)
			fmt.Print("alive", b[len(b)-1])
		}
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// playCell joins the unit's group, as systemd would have it, and starts a
// program with limits.
func playCell() error {
	if err := os.WriteFile(unitGroup+"/cgroup.procs", []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		return err
	}
	hog := exec.Command("/proc/self/exe")
	hog.Env = append(os.Environ(), role+"=hog")
	in, err := hog.StdinPipe()
	if err != nil {
		return err
	}
	if err := hog.Start(); err != nil {
		return err
	}
	tree := cgroup.New()
	said := "delegated"
	if err := tree.Add("tor-onion", hog.Process.Pid, cgroup.Limits{Memory: 32 << 20, Tasks: 32}); errors.Is(err, cgroup.ErrNotDelegated) {
		said = "not delegated"
	} else if err != nil {
		return err
	}
	if _, err := io.WriteString(in, "x"); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- hog.Wait() }()
	select {
	case err = <-ended:
	case <-time.After(time.Minute):
		return errors.New("the hog does not end")
	}
	state := "alive"
	if e, ok := errors.AsType[*exec.ExitError](err); ok && e.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		state = "killed"
	} else if err != nil {
		return err
	}
	if err := tree.Remove("tor-onion"); err != nil {
		return err
	}
	b, err := os.ReadFile("/proc/self/cgroup")
	fmt.Printf("%s, hog %s, in %s", said, state, b)
	return err
}
