// Package scenario reads households for tests: a state, what is known of the
// world, and the plan that each stage is expected to compile them to.
//
// It owns nothing; with -update it rewrites the expected plans in the file.
//
// It must never be imported outside tests.
package scenario

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/personal-internet-cell/pic/cell"
)

var update = flag.Bool("update", false, "rewrite the expected plans of the scenarios")

// Compile is one stage's pure function.
type Compile = func(*cell.State, cell.Facts) (fmt.Stringer, error)

// Names of the files in an archive; any other is the expected plan of the
// stage of that name.
const (
	stateFile = "state.json"
	factsFile = "facts.json"
)

// Household is what a scenario file holds.
type Household struct {
	Comment string
	State   *cell.State
	Facts   cell.Facts
	// Plans are the expected texts by stage.
	Plans map[string]string
}

// Parse reads a txtar archive with a state.json, an optional facts.json, and
// the expected plan of each stage in a file of its name. The state must be valid.
func Parse(data []byte) (*Household, error) {
	h := &Household{Plans: map[string]string{}}
	archive := txtar.Parse(data)
	h.Comment = string(archive.Comment)
	for _, f := range archive.Files {
		switch f.Name {
		case stateFile:
			h.State = &cell.State{}
			if err := strict(f.Data, h.State); err != nil {
				return nil, fmt.Errorf("reading %s: %w", f.Name, err)
			}
		case factsFile:
			if err := strict(f.Data, &h.Facts); err != nil {
				return nil, fmt.Errorf("reading %s: %w", f.Name, err)
			}
		default:
			if _, twice := h.Plans[f.Name]; twice {
				return nil, fmt.Errorf("the plan of %s is there twice", f.Name)
			}
			h.Plans[f.Name] = string(f.Data)
		}
	}
	if h.State == nil {
		return nil, fmt.Errorf("there is no %s", stateFile)
	}
	h.State.Normalize()
	if err := h.State.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", stateFile, err)
	}
	return h, nil
}

func strict[T any](data []byte, into *T) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	return dec.Decode(into)
}

// Load reads the scenario at path.
func Load(t testing.TB, path string) *Household {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	h, err := Parse(data)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return h
}

// Run compiles the scenario at path by every stage, twice, and compares the
// text with the expected plan. A plan without a stage, and a stage without a
// plan, fail; -update writes the plans instead.
func Run(t *testing.T, path string, stages map[string]Compile) {
	t.Helper()
	h := Load(t, path)
	got := make(map[string]string, len(stages))
	for _, name := range slices.Sorted(maps.Keys(stages)) {
		for range 2 {
			plan, err := stages[name](h.State, h.Facts)
			if err != nil {
				t.Fatalf("%s: compiling %s: %v", path, name, err)
			}
			text := ended(plan.String())
			if before, again := got[name]; again && before != text {
				t.Errorf("%s: %s does not compile to the same text twice: %s", path, name, cmp.Diff(before, text))
			}
			got[name] = text
		}
	}
	if *update {
		if err := rewrite(path, got); err != nil {
			t.Fatal(err)
		}
		return
	}
	if d := cmp.Diff(h.Plans, got); d != "" {
		t.Errorf("%s: plans differ (-want +got), -update rewrites them:\n%s", path, d)
	}
}

// ended gives a text the line feed that txtar asks for.
func ended(s string) string {
	if s != "" && s[len(s)-1] != '\n' {
		s += "\n"
	}
	return s
}

// rewrite replaces the expected plans and keeps everything else as it is.
func rewrite(path string, plans map[string]string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	old := txtar.Parse(data)
	out := &txtar.Archive{Comment: old.Comment}
	for _, f := range old.Files {
		if f.Name == stateFile || f.Name == factsFile {
			out.Files = append(out.Files, f)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(plans)) {
		out.Files = append(out.Files, txtar.File{Name: name, Data: []byte(plans[name])})
	}
	return os.WriteFile(path, txtar.Format(out), 0o644)
}
