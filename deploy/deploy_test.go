// Package deploy_test judges the files that a package installs: the unit's
// sandbox by systemd's own measure, and what must not be in the settings.
package deploy_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// unit returns a folder with pic.service, changed by replacements (old, new,
// …), and the drop-ins named.
func unit(t *testing.T, dropins []string, replacements ...string) (path string) {
	t.Helper()
	netnstest.Need(t, "systemd-analyze")
	b, err := os.ReadFile("pic.service")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer(replacements...).Replace(string(b))
	if len(replacements) > 0 && text == string(b) {
		t.Fatalf("nothing in pic.service matches %q", replacements)
	}
	path = filepath.Join(t.TempDir(), "pic.service")
	write(t, path, text)
	for _, d := range dropins {
		b, err := os.ReadFile(filepath.Join("dropins", d))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(path+".d", d), string(b))
	}
	return path
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// exposure asks systemd whether the unit's exposure is at most limit (tenths).
func exposure(path, limit string) (string, error) {
	out, err := exec.Command("systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold="+limit, path).CombinedOutput()
	return string(out), err
}

func TestTheSandboxIsTight(t *testing.T) {
	if out, err := exposure(unit(t, nil), "35"); err != nil {
		t.Errorf("the unit's exposure is above 3.5: %v\n%s", err, out)
	}
	if out, err := exposure(unit(t, []string{"strict.conf"}), "25"); err != nil {
		t.Errorf("with strict.conf it is above 2.5: %v\n%s", err, out)
	}
	// The measure must be able to fail.
	loose := unit(t, nil, "CapabilityBoundingSet=", "# ", "SystemCallFilter=", "# ", "ProtectSystem=", "# ", "PrivateTmp=", "# ",
		"RestrictNamespaces=", "# ", "ProtectKernelTunables=", "# ")
	if out, err := exposure(loose, "35"); err == nil {
		t.Errorf("a unit without its sandbox passes:\n%s", out)
	}
}

// Whatever systemd finds missing has its reason in the file.
func TestEveryGapInTheSandboxIsJustified(t *testing.T) {
	path := unit(t, nil)
	out, err := exec.Command("systemd-analyze", "security", "--no-pager", "--offline=true", "--json=short", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	var findings []struct {
		Set  *bool
		Name string
	}
	if err := json.Unmarshal(out, &findings); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	comments := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "# ✗ "); ok {
			name, _, _ := strings.Cut(rest, ":")
			comments[name] = true
		}
	}
	gaps := 0
	for _, f := range findings {
		if f.Set == nil || *f.Set {
			continue
		}
		gaps++
		if !comments[f.Name] {
			t.Errorf("no reason is given for the gap %s", f.Name)
		}
		delete(comments, f.Name)
	}
	if gaps == 0 {
		t.Error("no gap found in a unit with network access: the finding is broken")
	}
	for name := range comments {
		t.Errorf("a reason is given for %s, which is no gap", name)
	}
}

func TestTheUnitIsValid(t *testing.T) {
	verify := func(path string) string {
		out, err := exec.Command("systemd-analyze", "--no-pager", "--man=no", "verify", path).CombinedOutput()
		if err != nil {
			return string(out) + err.Error()
		}
		return string(out)
	}
	here := []string{"/usr/bin/pic", "/bin/true"} // not installed on this machine
	if out := verify(unit(t, []string{"strict.conf"}, here...)); out != "" {
		t.Errorf("systemd complains: %s", out)
	}
	if out := verify(unit(t, nil, append(here, "TasksMax=", "TaskMax=")...)); out == "" {
		t.Error("systemd accepts a setting that does not exist: the check is broken")
	}
}

// The early unit is one that systemd accepts, runs before any network, and has
// a sandbox.
func TestTheEarlyUnitComesBeforeTheNetwork(t *testing.T) {
	netnstest.Need(t, "systemd-analyze")
	b, err := os.ReadFile("pic-early.service")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "pic-early.service")
	verify := func(text string) string {
		write(t, path, strings.ReplaceAll(text, "/usr/bin/pic", "/bin/true"))
		out, err := exec.Command("systemd-analyze", "--no-pager", "--man=no", "verify", path).CombinedOutput()
		if err != nil {
			return string(out) + err.Error()
		}
		return string(out)
	}
	if out := verify(string(b)); out != "" {
		t.Errorf("systemd complains: %s", out)
	}
	if out := verify(strings.Replace(string(b), "RemainAfterExit=", "RemainsAfterExit=", 1)); out == "" {
		t.Error("systemd accepts a setting that does not exist: the check is broken")
	}
	for _, line := range []string{"Type=oneshot", "DefaultDependencies=no", "Before=network-pre.target shutdown.target", "Wants=network-pre.target", "WantedBy=sysinit.target"} {
		if !strings.Contains(string(b), "\n"+line+"\n") {
			t.Errorf("%q is missing", line)
		}
	}
	write(t, path, string(b))
	if out, err := exposure(path, "35"); err != nil {
		t.Errorf("its exposure is above 3.5: %v\n%s", err, out)
	}
}

// Forwarding is turned on by the cell, after its rules are verified.
func TestSysctlsDoNotTurnForwardingOn(t *testing.T) {
	files, err := filepath.Glob("sysctl.d/*.conf")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if strings.HasPrefix(line, "#") || strings.TrimSpace(line) == "" {
				continue
			}
			key, _, ok := strings.Cut(line, " = ")
			if !ok || strings.Contains(key, "forward") {
				t.Errorf("%s: %q", f, line)
			}
		}
	}
}
