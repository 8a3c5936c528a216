package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// run lets gotest run a module of one test file and returns what it printed.
func run(t *testing.T, test string, flags ...string) (out, tally string, err error) {
	t.Helper()
	dir := t.TempDir()
	bin := filepath.Join(dir, "gotest")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("building gotest: %v\n%s", err, out)
	}
	for name, text := range map[string]string{
		"go.mod":    "module example.org/x\n\ngo 1.26\n",
		"x_test.go": "package x\n\nimport \"testing\"\n\n" + test,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := exec.Command(bin, append(append([]string{"-tally", "tally"}, flags...), ".")...)
	c.Dir = dir
	c.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	b, err := c.CombinedOutput()
	counts, _ := os.ReadFile(filepath.Join(dir, "tally"))
	return string(b), strings.TrimSpace(string(counts)), err
}

func TestAFailureIsShownAndReturned(t *testing.T) {
	out, tally, err := run(t, `func TestA(t *testing.T) { t.Error("the reason") }
func TestB(t *testing.T) { t.Log("quiet") }`)
	if err == nil {
		t.Fatal("a failed test was reported as success")
	}
	if !strings.Contains(out, "the reason") || !strings.Contains(out, "FAIL\texample.org/x") {
		t.Fatalf("the failure is not shown:\n%s", out)
	}
	if strings.Contains(out, "quiet") || tally != "1 1 0 0" {
		t.Fatalf("tally %q, output:\n%s", tally, out)
	}
}

func TestABuildErrorIsShownAndReturned(t *testing.T) {
	out, _, err := run(t, `func TestA(t *testing.T) { undefinedName() }`)
	if err == nil || !strings.Contains(out, "undefinedName") {
		t.Fatalf("err %v, output:\n%s", err, out)
	}
}

const skips = `func TestA(t *testing.T) { t.Skip("SKIPPED (privileged) TestA: needs root") }
func TestB(t *testing.T) {}`

func TestSkipsAreCountedLoudly(t *testing.T) {
	out, tally, err := run(t, skips)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if tally != "1 0 1 1" || !strings.Contains(out, "SKIPPED (privileged) TestA: needs root") {
		t.Fatalf("tally %q, output:\n%s", tally, out)
	}
}

func TestASkipFailsWhereNothingMayBeSkipped(t *testing.T) {
	if out, _, err := run(t, skips, "-no-skips"); err == nil {
		t.Fatalf("a skip was accepted:\n%s", out)
	}
	if out, _, err := run(t, `func helper() {}`, "-no-skips"); err == nil {
		t.Fatalf("a run without tests was accepted:\n%s", out)
	}
}
