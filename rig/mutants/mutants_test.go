package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const root = "../.."

// A mutant whose place or test is gone guards nothing, and nobody would notice
// before the next `make mutants`.
func TestTheTableIsFresh(t *testing.T) {
	list := table()
	seen := map[[2]string]bool{}
	for i := range list {
		m := &list[i]
		source, err := os.ReadFile(filepath.Join(root, m.file))
		if err != nil {
			t.Error(err)
			continue
		}
		if _, err := m.apply(string(source)); err != nil {
			t.Errorf("%s: %s: %v\n%s", m.file, m.guards, err, m.old)
		}
		if k := [2]string{m.file, m.old + "\x00" + m.new}; seen[k] {
			t.Errorf("%s: %s is there twice", m.file, m.guards)
		} else {
			seen[k] = true
		}
		files, err := filepath.Glob(filepath.Join(root, m.pkg(), "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			found = found || strings.Contains(string(b), "\nfunc "+m.test+"(t *testing.T)")
		}
		if !found {
			t.Errorf("%s has no %s", m.pkg(), m.test)
		}
	}
	if len(list) < 40 {
		t.Errorf("%d mutants are few", len(list))
	}
}

// The program itself must be able to say each of its verdicts.
func TestVerdicts(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":      "module small\n\ngo 1.26\n",
		"a/a.go":      "package a\n\nfunc Larger(x, y int) int {\n\tif x > y {\n\t\treturn x\n\t}\n\treturn y\n}\n",
		"a/a_test.go": "package a\n\nimport \"testing\"\n\nfunc TestLarger(t *testing.T) {\n\tif Larger(2, 1) != 2 {\n\t\tt.Fatal()\n\t}\n}\n\nfunc TestSkipped(t *testing.T) { t.Skip() }\n\nfunc TestRed(t *testing.T) { t.Fatal() }\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := &runner{root: dir, dir: t.TempDir()}
	for _, c := range []struct {
		old, new, test string
		want           verdict
	}{
		{"x > y", "x < y", "TestLarger", caught},
		{"x > y", "x >= y", "TestLarger", survived},
		{"x > y", "panic(x) == nil", "TestLarger", invalid}, // does not compile
		{"x > y", `func() bool { panic("x") }()`, "TestLarger", caught},
		{"x > z", "x < z", "TestLarger", invalid},
		{"return", "return 1 +", "TestLarger", invalid}, // twice
		{"x > y", "x < y", "TestSkipped", invalid},
		{"x > y", "x < y", "TestNoSuch", invalid},
	} {
		m := mutant{file: "a/a.go", old: c.old, new: c.new, test: c.test}
		if got, detail := r.try(t.Context(), &m); got != c.want {
			t.Errorf("%q → %q with %s: %s (%s), want %s", c.old, c.new, c.test, got, detail, c.want)
		}
	}
	if err := r.green(t.Context(), []mutant{{file: "a/a.go", test: "TestRed"}}); err == nil {
		t.Error("a test that is red anyway guards mutants")
	}
	if err := r.green(t.Context(), []mutant{{file: "a/a.go", test: "TestLarger"}}); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "a/a.go")); err != nil || !strings.Contains(string(b), "x > y") {
		t.Error("the tree was written to")
	}
}
