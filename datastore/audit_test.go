package datastore_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/datastore"
)

func sum(doc []byte) string {
	x := sha256.Sum256(doc)
	return hex.EncodeToString(x[:])
}

// auditRig is a log with n entries in a data folder.
func auditRig(t *testing.T, n int) (dir string, s *datastore.Store, a *datastore.Audit) {
	t.Helper()
	dir = t.TempDir()
	s, err := datastore.Open(&datastore.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if a, err = datastore.OpenAudit(s); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := a.Append(cell.AuditEntry{Event: "revision", Outcome: "committed", Revision: cell.Revision(i + 1), Who: cell.Author{Name: "admin"}, Subject: "add peer laptop"}); err != nil {
			t.Fatal(err)
		}
	}
	return dir, s, a
}

func auditFiles(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "history", "audit-*"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(files)
	return files
}

func verify(t *testing.T, dir string) cell.AuditReport {
	t.Helper()
	r, err := datastore.VerifyAuditIn(dir)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAuditIsOneChainAcrossRestarts(t *testing.T) {
	dir, s, a := auditRig(t, 100)
	if r := verify(t, dir); r.Broken != "" || r.Entries != 100 || r.Last != 100 {
		t.Fatalf("%+v", r)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a, err := datastore.OpenAudit(s)
	if err != nil {
		t.Fatal(err)
	}
	if a.Recorded(100) != "committed" || a.Recorded(101) != "" {
		t.Error("what was recorded is forgotten")
	}
	if err := a.Append(cell.AuditEntry{Event: "login"}); err != nil {
		t.Fatal(err)
	}
	r, err := a.Verify()
	if err != nil || r.Broken != "" || r.Last != 101 {
		t.Fatalf("%+v %v", r, err)
	}
	page, err := a.List(0, 3)
	if err != nil || len(page) != 3 || page[0].Seq != 101 || page[2].Seq != 99 {
		t.Fatalf("%+v %v", page, err)
	}
	page, _ = a.List(3, 50)
	if len(page) != 2 || page[0].Seq != 2 || page[1].Prev != "" {
		t.Fatalf("%+v", page)
	}
}

func TestTamperedAuditIsNamedByItsFirstBrokenEntry(t *testing.T) {
	lines := func(b []byte) [][]byte { return bytes.SplitAfter(b, []byte{'\n'}) }
	join := func(l ...[][]byte) []byte { return bytes.Join(slices.Concat(l...), nil) }
	for name, c := range map[string]struct {
		spoil func([]byte) []byte
		entry string
	}{
		"changed": {func(b []byte) []byte {
			l := lines(b)
			l[41] = bytes.Replace(l[41], []byte("admin"), []byte("other"), 1)
			return join(l)
		}, "entry 42 "},
		"removed":       {func(b []byte) []byte { l := lines(b); return join(l[:41], l[42:]) }, "entry 42 "},
		"added":         {func(b []byte) []byte { l := lines(b); return join(l[:42], l[41:42], l[42:]) }, "entry 43 "},
		"swapped":       {func(b []byte) []byte { l := lines(b); l[41], l[42] = l[42], l[41]; return join(l) }, "entry 42 "},
		"first removed": {func(b []byte) []byte { return join(lines(b)[1:]) }, "entry 2 "},
		"cut short":     {func(b []byte) []byte { return join(lines(b)[:90]) }, "entry 91 "},
		"last changed": {func(b []byte) []byte {
			l := lines(b)
			l[99] = bytes.Replace(l[99], []byte("admin"), []byte("other"), 1)
			return join(l)
		}, "entry 100 "},
		"emptied": {func([]byte) []byte { return nil }, "entry 1 "},
		"forged and re-summed": {func(b []byte) []byte { // the entry's own sum is right, the next one's link is not
			l := lines(b)
			_, doc, _ := bytes.Cut(bytes.TrimSuffix(l[41], []byte{'\n'}), []byte{' '})
			doc = bytes.Replace(doc, []byte("admin"), []byte("other"), 1)
			l[41] = []byte(sum(doc) + " " + string(doc) + "\n")
			return join(l)
		}, "entry 43 "},
	} {
		t.Run(name, func(t *testing.T) {
			dir, _, a := auditRig(t, 100)
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
			path := auditFiles(t, dir)[0]
			old, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			spoilt := c.spoil(bytes.Clone(old))
			if bytes.Equal(old, spoilt) {
				t.Fatal("nothing was changed")
			}
			if err := os.WriteFile(path, spoilt, 0o600); err != nil {
				t.Fatal(err)
			}
			if r := verify(t, dir); !strings.HasPrefix(r.Broken, c.entry) {
				t.Errorf("broken: %q, want %s", r.Broken, c.entry)
			}
		})
	}
	t.Run("all gone", func(t *testing.T) {
		dir, _, a := auditRig(t, 100)
		_ = a.Close()
		if err := os.Remove(auditFiles(t, dir)[0]); err != nil {
			t.Fatal(err)
		}
		if r := verify(t, dir); !strings.HasPrefix(r.Broken, "entry 1 ") {
			t.Errorf("broken: %q", r.Broken)
		}
	})
	t.Run("gone and gone on", func(t *testing.T) {
		dir, s, a := auditRig(t, 100)
		_ = a.Close()
		if err := os.Remove(auditFiles(t, dir)[0]); err != nil {
			t.Fatal(err)
		}
		a, err := datastore.OpenAudit(s)
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Append(cell.AuditEntry{Event: "login"}); err != nil {
			t.Fatal(err)
		}
		if r := verify(t, dir); !strings.HasPrefix(r.Broken, "entry 1 ") {
			t.Errorf("broken: %q", r.Broken)
		}
	})
	t.Run("under the running cell", func(t *testing.T) {
		dir, _, a := auditRig(t, 10) // no head is noted yet
		path := auditFiles(t, dir)[0]
		b, _ := os.ReadFile(path)
		if err := os.WriteFile(path, join(lines(b)[:9]), 0o600); err != nil {
			t.Fatal(err)
		}
		if r, err := a.Verify(); err != nil || !strings.HasPrefix(r.Broken, "entry 10") {
			t.Errorf("broken: %q %v", r.Broken, err)
		}
	})
}

func TestAuditTextOfStrangersStaysInItsField(t *testing.T) {
	dir, _, a := auditRig(t, 1)
	evil := "x\"}\n0000 {\"seq\":3,\"event\":\"forged\"}\r\x1b[2J\u2028\u202e" + strings.Repeat("\u2028", 5000)
	if err := a.Append(cell.AuditEntry{Event: "refused", Subject: evil, Who: cell.Author{Name: evil, Address: evil}}); err != nil {
		t.Fatal(err)
	}
	if r := verify(t, dir); r.Broken != "" || r.Entries != 2 {
		t.Fatalf("%+v", r)
	}
	page, _ := a.List(0, 10)
	if len(page) != 2 || strings.ContainsAny(page[0].Subject+page[0].Who.Name, "\n\r\x1b\u2028\u202e") {
		t.Errorf("%+v", page)
	}
}

func TestAnUnfinishedAuditLineIsCutOff(t *testing.T) {
	dir, s, a := auditRig(t, 5)
	_ = a.Close()
	f, err := os.OpenFile(auditFiles(t, dir)[0], os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`0123 {"seq":6,"ev`); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	if r := verify(t, dir); r.Broken != "" || r.Last != 5 {
		t.Fatalf("%+v", r)
	}
	if a, err = datastore.OpenAudit(s); err != nil {
		t.Fatal(err)
	}
	if err := a.Append(cell.AuditEntry{Event: "login"}); err != nil {
		t.Fatal(err)
	}
	if r := verify(t, dir); r.Broken != "" || r.Last != 6 {
		t.Fatalf("%+v", r)
	}
}

func TestAuditIsBoundedAndFilesAreChained(t *testing.T) {
	dir, _, a := auditRig(t, 0)
	datastore.AuditFileSize(a, 2000)
	for range 400 {
		if err := a.Note(cell.AuditEntry{Event: "refused", Subject: "GET /api/status"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Append(cell.AuditEntry{Event: "login"}); err != nil {
		t.Fatal(err)
	}
	files := auditFiles(t, dir)
	r := verify(t, dir)
	if len(files) != 16 || r.Broken != "" || r.Last != 401 || r.First == 1 {
		t.Fatalf("%d files, %+v", len(files), r)
	}
	if err := os.Remove(files[7]); err != nil {
		t.Fatal(err)
	}
	if r := verify(t, dir); !strings.Contains(r.Broken, "entry") {
		t.Error("a removed file is not noticed")
	}
}

func TestConcurrentAuditEntriesAreAllThere(t *testing.T) {
	dir, _, a := auditRig(t, 0)
	datastore.AuditFileSize(a, 4000)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 20 {
				if err := a.Append(cell.AuditEntry{Event: "login", Subject: fmt.Sprint(i, j)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if r := verify(t, dir); r.Broken != "" || r.Last != 160 {
		t.Fatalf("%+v", r)
	}
}

func FuzzAuditVerify(f *testing.F) {
	f.Add([]byte("x {}\n"))
	f.Add([]byte(sum([]byte(`{"seq":1}`)) + ` {"seq":1}` + "\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "audit-000000000001"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := datastore.VerifyAudit(dir)
		if err != nil || r.Entries > uint64(bytes.Count(data, []byte{'\n'})) {
			t.Errorf("%+v %v", r, err)
		}
	})
}
