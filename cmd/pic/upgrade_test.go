package main

import (
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/datastore"
	"github.com/personal-internet-cell/pic/internal/scenario"
)

var addSample = flag.Bool("add-upgrade-sample", false, "keep today's scenarios as the samples of this schema")

// Sample states of every schema there ever was load, migrate and compile to
// the plans they are known by. A sample is kept as the data folder of that day
// had it: the document's own bytes, which nobody may rewrite; so unlike the
// scenarios, a document that no longer reads is an upgrade that is broken.
func TestEverySchemaEverReleasedLoads(t *testing.T) {
	if *addSample {
		keepSamples(t)
	}
	for schema := 1; schema <= cell.Schema; schema++ {
		samples, err := filepath.Glob(fmt.Sprintf("testdata/upgrade/schema-%d/*.txtar", schema))
		if err != nil || len(samples) < 3 {
			t.Fatalf("schema %d has %d samples, %v: run with -add-upgrade-sample before the schema moves on", schema, len(samples), err)
		}
		for _, file := range samples {
			t.Run(fmt.Sprintf("%d/%s", schema, filepath.Base(file)), func(t *testing.T) { loads(t, schema, file) })
		}
	}
}

func loads(t *testing.T, schema int, file string) {
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	var document []byte
	var facts cell.Facts
	for _, f := range txtar.Parse(data).Files {
		switch f.Name {
		case "state.json":
			document = f.Data
		case "facts.json":
			if err := json.Unmarshal(f.Data, &facts); err != nil {
				t.Fatal(err)
			}
		default:
			want[f.Name] = string(f.Data)
		}
	}
	store := folderOf(t, schema, document)
	l, err := store.Load()
	if err != nil || l.Source != datastore.Current || len(l.Problems) > 0 {
		t.Fatalf("loading: %v %s %v", err, l.Source, l.Problems)
	}
	if l.State.Schema != cell.Schema {
		t.Errorf("schema %d after loading, want %d", l.State.Schema, cell.Schema)
	}
	if err := l.State.Validate(); err != nil {
		t.Errorf("the loaded state is not valid: %v", err)
	}
	got := map[string]string{}
	for name, compile := range allStages() {
		plan, err := compile(l.State, facts)
		if err != nil {
			t.Fatalf("compiling %s: %v", name, err)
		}
		got[name] = strings.TrimRight(plan.String(), "\n")
	}
	for name := range want {
		want[name] = strings.TrimRight(want[name], "\n")
	}
	// A sample has the plans of the day it is looked at, in the scenario beside
	// it: what differs from the scenario is what the migration did wrong.
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("plans differ (-want +got):\n%s", d)
	}
	// It is written again only with the next change, and then in today's schema.
	if n := store.Next(); n != 2 {
		t.Errorf("loading wrote something: the next revision is %d", n)
	}
}

// folderOf is a data folder with document as revision 1, as that schema's
// program wrote it, byte for byte.
func folderOf(t *testing.T, schema int, document []byte) *datastore.Store {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.MkdirAll(filepath.Join(dir, "revisions"), 0o700); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(document)
	digest := hex.EncodeToString(sum[:])
	f, err := os.OpenFile(filepath.Join(dir, "revisions/000001.json.gz"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	z := gzip.NewWriter(f)
	fmt.Fprintf(z, `{"number":1,"parent":0,"schema":%d,"time":"2026-01-02T03:04:05Z","author":{"name":"pic","via":"boot"},"message":"sample","changed":[],"sha256":%q}`+"\n%s", schema, digest, document)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	pointer := fmt.Sprintf(`{"revision":1,"sha256":%q}`+"\n", digest)
	for _, name := range []string{"startup", "committed"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(pointer), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	store, err := datastore.Open(&datastore.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}

// keepSamples writes the scenarios as samples of today's schema; a document
// that is there already is never touched, only its plans are.
func keepSamples(t *testing.T) {
	t.Helper()
	files, err := filepath.Glob("testdata/scenarios/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for schema := 1; schema <= cell.Schema; schema++ {
		kept, err := filepath.Glob(fmt.Sprintf("testdata/upgrade/schema-%d/*.txtar", schema))
		if err != nil {
			t.Fatal(err)
		}
		if schema < cell.Schema || len(kept) > 0 {
			for _, path := range kept {
				replan(t, schema, path)
			}
			continue
		}
		for _, path := range files {
			h := scenario.Load(t, path)
			document, err := json.Marshal(h.State)
			if err != nil {
				t.Fatal(err)
			}
			facts, err := json.Marshal(h.Facts)
			if err != nil {
				t.Fatal(err)
			}
			out := fmt.Sprintf("testdata/upgrade/schema-%d/%s", schema, filepath.Base(path))
			if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
				t.Fatal(err)
			}
			a := &txtar.Archive{
				Comment: []byte(fmt.Sprintf("A data folder of schema %d. Its document is never rewritten.\n", schema)),
				Files:   []txtar.File{{Name: "state.json", Data: append(document, '\n')}, {Name: "facts.json", Data: append(facts, '\n')}},
			}
			if err := os.WriteFile(out, txtar.Format(a), 0o644); err != nil {
				t.Fatal(err)
			}
			replan(t, schema, out)
		}
	}
}

// replan writes today's plans into a sample.
func replan(t *testing.T, schema int, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	old := txtar.Parse(data)
	out := &txtar.Archive{Comment: old.Comment}
	var document []byte
	var facts cell.Facts
	for _, f := range old.Files {
		switch f.Name {
		case "state.json":
			document = f.Data
		case "facts.json":
			if err := json.Unmarshal(f.Data, &facts); err != nil {
				t.Fatal(err)
			}
		default:
			continue
		}
		out.Files = append(out.Files, f)
	}
	l, err := folderOf(t, schema, document).Load()
	if err != nil || l.State == nil {
		t.Fatal(err, l.Problems)
	}
	stages := allStages()
	for _, name := range slices.Sorted(maps.Keys(stages)) {
		plan, err := stages[name](l.State, facts)
		if err != nil {
			t.Fatal(err)
		}
		out.Files = append(out.Files, txtar.File{Name: name, Data: []byte(strings.TrimRight(plan.String(), "\n") + "\n")})
	}
	if err := os.WriteFile(path, txtar.Format(out), 0o644); err != nil {
		t.Fatal(err)
	}
}
