// Package docs_test keeps the documents true where a program can: tests they
// name exist, files they link to exist.
package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	named  = regexp.MustCompile("`([a-z/]+): ((?:Test|Fuzz)\\w+)`")
	linked = regexp.MustCompile(`\]\(([^)#]+)(?:#[^)]*)?\)`)
)

// missingTests lists the tests that text names as `room: TestName` and that
// are not in that room.
func missingTests(t *testing.T, text string) (missing []string, found int) {
	t.Helper()
	for _, m := range named.FindAllStringSubmatch(text, -1) {
		files, err := filepath.Glob(filepath.Join("..", m[1], "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		ok := false
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			ok = ok || strings.Contains(string(b), "\nfunc "+m[2]+"(")
		}
		if !ok {
			missing = append(missing, m[1]+": "+m[2])
		}
		found++
	}
	return missing, found
}

func TestNamedTestsExist(t *testing.T) {
	b, err := os.ReadFile("SECURITY-PROPERTIES.md")
	if err != nil {
		t.Fatal(err)
	}
	missing, found := missingTests(t, string(b))
	if len(missing) > 0 {
		t.Errorf("SECURITY-PROPERTIES.md names tests that do not exist: %s", strings.Join(missing, ", "))
	}
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "| ") && !strings.HasPrefix(line, "| property") && !named.MatchString(line) {
			t.Errorf("a property without a test: %s", line)
		}
	}
	if found < 20 {
		t.Errorf("only %d tests are named: the reading is broken", found)
	}
	if m, _ := missingTests(t, "`docs: TestNoSuchThing`"); len(m) != 1 {
		t.Error("a test that does not exist was not missed")
	}
}

// Each fuzz target runs its kept inputs in every test run; a target without any
// runs what its author thought of.
func TestFuzzTargetsKeepInputs(t *testing.T) {
	target := regexp.MustCompile(`(?m)^func (Fuzz\w+)\(`)
	kept, bare := 0, []string{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "node_modules" || d.Name() == ".git") {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range target.FindAllStringSubmatch(string(b), -1) {
			inputs, err := os.ReadDir(filepath.Join(filepath.Dir(path), "testdata/fuzz", m[1]))
			if err != nil || len(inputs) == 0 {
				bare = append(bare, m[1])
				continue
			}
			kept++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d fuzz targets keep inputs, %d have seeds only: %v", kept, len(bare), bare)
	if kept < 20 {
		t.Errorf("only %d fuzz targets keep inputs", kept)
	}
}

func TestLinksLeadSomewhere(t *testing.T) {
	pages, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	links := 0
	for _, page := range append(pages, "../README.md") {
		b, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range linked.FindAllStringSubmatch(string(b), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			links++
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", page, m[1], err)
			}
		}
	}
	if links < 5 {
		t.Errorf("only %d links seen: the reading is broken", links)
	}
}
