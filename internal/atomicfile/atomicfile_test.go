package atomicfile_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/personal-internet-cell/pic/internal/atomicfile"
)

func TestWriteReplacesWithItsModeAndLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	for _, want := range []string{"one", "two"} {
		if err := atomicfile.Write(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != want {
			t.Fatalf("%q, %v", got, err)
		}
	}
	st, _ := os.Stat(path)
	if st.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v", st.Mode())
	}
	if e, _ := os.ReadDir(dir); len(e) != 1 {
		t.Fatalf("%d files left", len(e))
	}
}

func TestFailedWriteKeepsTheOldContent(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	if err := os.MkdirAll(filepath.Join(path, "in-the-way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Write(path, []byte("x"), 0o600); err == nil {
		t.Fatal("a rename over a full folder succeeded")
	}
	if e, _ := os.ReadDir(dir); len(e) != 1 {
		t.Fatalf("%d entries left", len(e))
	}
}

func TestSweepRemovesOnlyTemporaryFiles(t *testing.T) {
	dir := t.TempDir()
	for _, n := range []string{".tmp-state-1", "state"} {
		if err := os.WriteFile(filepath.Join(dir, n), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := atomicfile.Sweep(dir); err != nil {
		t.Fatal(err)
	}
	e, _ := os.ReadDir(dir)
	if len(e) != 1 || e[0].Name() != "state" {
		t.Fatalf("left %v", e)
	}
}
