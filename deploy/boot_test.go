package deploy_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// binary returns the cell's program: PIC_BINARY, or one built here.
func binary(t *testing.T) string {
	t.Helper()
	if b := os.Getenv("PIC_BINARY"); b != "" {
		return b
	}
	bin := filepath.Join(t.TempDir(), "pic")
	c := exec.Command("go", "build", "-tags", "nomsgpack", "-o", bin, "../cmd/pic")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("building the cell: %v\n%s", err, out)
	}
	return bin
}

// The real unit, in its real sandbox, started by the real systemd: the cell
// claims itself, settles, serves members of its group, and leaves its rules in
// the kernel when it is stopped.
func TestTheUnitBootsUnderSystemd(t *testing.T) {
	netnstest.Need(t, "systemd-nspawn", "unshare", "setpriv", "nft", "tor")
	box, outside := netnstest.New(t, "box"), netnstest.New(t, "out")
	netnstest.Veth(box, "eth0", []string{"192.168.60.2/24"}, outside, "eth0", []string{"192.168.60.1/24"})
	box.Exec("ip", "route", "add", "default", "via", "192.168.60.1")
	work, err := os.MkdirTemp("", "picboot") // a path short enough for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(work) })
	c := exec.Command("unshare", "--mount", "sh", "testdata/boot.sh", work, binary(t), box.Name)
	console, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("booting: %v\n%s", err, console)
	}
	found := func(name string) string {
		b, err := os.ReadFile(filepath.Join(work, "out", name))
		if err != nil {
			t.Fatalf("the check did not get far: %v\n%s", err, console)
		}
		return strings.TrimSpace(string(b))
	}
	t.Cleanup(func() {
		if t.Failed() {
			b, _ := os.ReadFile(filepath.Join(work, "out", "journal"))
			t.Logf("the cell logged:\n%s", b)
		}
	})
	for _, c := range []struct{ file, want string }{
		{"active", "active"},
		{"restarts", "0"},
		{"caps", "00000000000014e1"}, // CHOWN, KILL, SETGID, SETUID, NET_BIND_SERVICE, NET_ADMIN; SYS_TIME is nobody's in the container
		{"tor_user", "debian-tor"},
		{"tor_caps", strings.TrimSpace(strings.Repeat("0000000000000000\n", 4))},
		{"tor_data", "debian-tor 700"},
		{"nonewprivs", "1"},
		{"forward", "1"},
	} {
		if got := found(c.file); got != c.want {
			t.Errorf("%s: %q, want %q", c.file, got, c.want)
		}
	}
	var status struct {
		Cell       struct{ Claimed bool }
		Conditions []struct{ Stage, State, Reason string }
	}
	if err := json.Unmarshal([]byte(found("status")), &status); err != nil {
		t.Fatalf("status: %v\n%s", err, found("status"))
	}
	if !status.Cell.Claimed || len(status.Conditions) < 4 {
		t.Errorf("status: %s", found("status"))
	}
	for _, s := range status.Conditions {
		if s.State == "failed" {
			t.Errorf("the stage %s failed in the sandbox: %s", s.Stage, s.Reason)
		}
	}
	if got := found("member"); !strings.Contains(got, `"revision"`) {
		t.Errorf("a member of pic-admin is refused: %s", got)
	}
	if got := found("stranger"); strings.Contains(got, `"revision"`) {
		t.Errorf("somebody outside pic-admin is let in: %s", got)
	}
	if early := found("early"); !strings.Contains(early, "table inet pic_early") || strings.Count(early, "policy drop;") != 2 || strings.Contains(early, "pic_guard") {
		t.Errorf("the machine was not closed before the cell started:\n%s\n%s", early, found("early_unit"))
	}
	if strings.Contains(found("before"), "pic_early") {
		t.Errorf("the early rules outlive the cell's start: %s", found("before"))
	}
	if ms, err := strconv.Atoi(found("stop_ms")); err != nil || ms > 5000 {
		t.Errorf("stopping took %s ms, at most 5,000", found("stop_ms"))
	}
	for _, table := range []string{"table inet pic", "table inet pic_guard"} {
		if !strings.Contains(found("before")+"\n", table+"\n") || !strings.Contains(found("after")+"\n", table+"\n") {
			t.Errorf("%s before the stop: %q, after it: %q", table, found("before"), found("after"))
		}
	}
	if !strings.Contains(found("rules"), "prohibit") {
		t.Errorf("the policy rules did not outlive the cell:\n%s", found("rules"))
	}
}
