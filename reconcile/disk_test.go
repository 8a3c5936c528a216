package reconcile_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/datastore"
	"github.com/personal-internet-cell/pic/internal/netnstest"
	"github.com/personal-internet-cell/pic/reconcile"
)

const tinyDisk = "PIC_TEST_TINY_DISK"

// PC-4: the tests of this file run in a process with mounts of its own.
func TestADiskThatRefusesToWrite(t *testing.T) {
	netnstest.Root(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestTinyDisk$", "-test.v")
	cmd.Env = append(os.Environ(), tinyDisk+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(out), "SKIP") {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestTinyDisk(t *testing.T) {
	mount := os.Getenv(tinyDisk)
	if mount == "" {
		t.Skip("the process that TestADiskThatRefusesToWrite starts")
	}
	if err := syscall.Mount("tmpfs", mount, "tmpfs", 0, "size=1m,mode=0700"); err != nil {
		t.Fatal(err)
	}
	w := newWorld()
	c := boot(t, filepath.Join(mount, "pic"), w)
	c.must(t, addPeer("laptop", 2), reconcile.Options{})
	filler := filepath.Join(mount, "filler")
	full := func() {
		f, err := os.OpenFile(filler, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		for size := 4096; size > 0; size /= 2 {
			for err == nil {
				_, err = f.Write(make([]byte, size))
			}
			err = nil
		}
	}
	remount := func(flags uintptr) {
		if err := syscall.Mount("", mount, "", syscall.MS_REMOUNT|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	with := reconcile.Options{Secrets: map[cell.SecretRef]cell.Secret{"password-9": cell.NewSecret("x")}}
	edit := func(s *cell.State) error { s.Users[0].PasswordHash = "password-9"; return nil }
	for _, try := range []struct {
		name     string
		o        reconcile.Options
		edit     cell.Edit
		bad, off func()
		want     error
	}{
		{"full, no secret", reconcile.Options{}, addPeer("phone", 3), full, func() { _ = os.Remove(filler) }, syscall.ENOSPC},
		{"full, with a secret", with, edit, full, func() { _ = os.Remove(filler) }, syscall.ENOSPC},
		{"read-only", with, edit, func() { remount(syscall.MS_RDONLY) }, func() { remount(0) }, syscall.EROFS},
	} {
		try.bad()
		_, err := c.Commit(t.Context(), 0, try.edit, try.o)
		var disk *datastore.DiskError
		if !errors.Is(err, try.want) || !errors.As(err, &disk) || disk.Advice == "" {
			t.Fatalf("%s: %v", try.name, err)
		}
		c.expect(t, 2, "2 committed")
		try.off()
		if _, err := c.store.Secret("password-9"); !errors.Is(err, datastore.ErrNoSuchSecret) {
			t.Fatalf("%s: the secret stays: %v", try.name, err)
		}
		leftovers(t, c)
	}
	// It recovers without a restart.
	c.must(t, edit, with)
	c.expect(t, 3, "3 committed")

	// Full after the revision was written: startup can't move, the old
	// revision comes back.
	w.failing(func(_ string, p text) error {
		if strings.Contains(string(p), "phone") {
			full()
		}
		return nil
	})
	if _, err := c.Commit(t.Context(), 0, addPeer("phone", 3), reconcile.Options{}); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("moving startup on a full disk: %v", err)
	}
	w.failing(nil)
	c.expect(t, 3, "4 failed")
	c = c.restart(t)
	c.expect(t, 3, "4 auto-reverted")

	// A read-only disk still boots, and the data plane comes up.
	remount(syscall.MS_RDONLY)
	c.world = newWorld()
	c = c.restart(t)
	c.expect(t, 3, "4 auto-reverted")
}
