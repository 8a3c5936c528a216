package main_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// vm builds vmtest and returns a function that runs it.
func vm(t *testing.T) func(args ...string) (out string, code int) {
	t.Helper()
	netnstest.Need(t, "qemu-system-x86_64", "busybox", "depmod", "dpkg-deb", "apt-get")
	bin := filepath.Join(t.TempDir(), "vmtest")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("building vmtest: %v\n%s", err, out)
	}
	return func(args ...string) (string, int) {
		b, err := exec.Command(bin, args...).CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if exit != nil {
			return string(b), exit.ExitCode()
		}
		return string(b), 0
	}
}

func TestTheGuestsStatusOutputAndFilesComeBack(t *testing.T) {
	run := vm(t)
	dir := t.TempDir()
	given := filepath.Join(dir, "given")
	if err := os.WriteFile(given, []byte("a file of the host's"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, code := run("-o", dir, "-a", given, "-e", "WORD=it's", "-x", "ip", "-s", `
		echo "$PIC_VMTEST $WORD"; cp given /out/back
		ip link add wg0 type wireguard && ip -d link show wg0
		ip -br link | grep -v -e ^lo -e ^wg0 && echo "a network!"
		exit 42`)
	if code != 42 {
		t.Fatalf("status %d, want the guest's 42:\n%s", code, out)
	}
	if !strings.Contains(out, "1 it's\n") || !strings.Contains(out, "wireguard") || strings.Contains(out, "a network!") {
		t.Fatalf("printed:\n%s", out)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "back")); err != nil || string(b) != "a file of the host's" {
		t.Fatalf("brought back %q, %v", b, err)
	}
}

// A rig that takes a dead guest for a passed test proves nothing.
func TestAGuestWithoutAStatusIsNeverASuccess(t *testing.T) {
	run := vm(t)
	for name, c := range map[string]struct {
		code int
		says string
		args []string
	}{
		"panic":      {125, "Kernel panic", []string{"-s", "echo c >/proc/sysrq-trigger; sleep 60"}},
		"time limit": {124, "no end within", []string{"-t", "4s", "-s", "sleep 60"}},
		"no qemu":    {125, "without a status", []string{"-q", "-no-such-option", "-s", "true"}},
		"no program": {127, "not found", []string{"-s", "no-such-program"}},
	} {
		t.Run(name, func(t *testing.T) {
			out, code := run(c.args...)
			if code != c.code || !strings.Contains(out, c.says) {
				t.Fatalf("status %d, want %d with %q:\n%s", code, c.code, c.says, out)
			}
		})
	}
}
