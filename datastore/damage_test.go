package datastore_test

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/datastore"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

var netipEqual = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
}

// damages are what can happen to a file. early is the folder as it was when
// only the factory state was there.
func damages(t *testing.T) map[string]func(path, early string) error {
	d := map[string]func(path, early string) error{
		"missing": func(path, _ string) error { return os.Remove(path) },
		"zero":    func(path, _ string) error { return os.Truncate(path, 0) },
		"truncated": func(path, _ string) error {
			st, err := os.Stat(path)
			return first(err, os.Truncate(path, st.Size()/2))
		},
		"garbage": func(path, _ string) error { return os.WriteFile(path, []byte("garbage\n"), 0o600) },
		"appended": func(path, _ string) error {
			b, err := os.ReadFile(path)
			return first(err, os.WriteFile(path, append(b, "more"...), 0o600))
		},
		"symlink": func(path, _ string) error {
			return first(os.Rename(path, path+".moved"), os.Symlink(path+".moved", path))
		},
		"folder":   func(path, _ string) error { return first(os.Remove(path), os.Mkdir(path, 0o700)) },
		"writable": func(path, _ string) error { return os.Chmod(path, 0o666) },
		"old copy": func(path, early string) error {
			b, err := os.ReadFile(early)
			if err != nil { // it did not exist then: the oldest revision under its name
				b, err = os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(early)), "revisions", "000001.json.gz"))
			}
			return first(err, os.WriteFile(path, b, 0o600))
		},
	}
	for i := range 30 {
		r := rand.New(rand.NewPCG(7, uint64(i)))
		d[fmt.Sprintf("bit flip %d", i)] = func(path, _ string) error {
			b, err := os.ReadFile(path)
			b[r.IntN(len(b))] ^= 1 << r.IntN(8)
			return first(err, os.WriteFile(path, b, 0o600))
		}
	}
	if os.Geteuid() == 0 {
		d["wrong owner"] = func(path, _ string) error { return os.Chown(path, 65534, 65534) }
	}
	return d
}

// duplicate copies a data folder with the modes of one.
func duplicate(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := to + path[len(from):]
		if d.IsDir() {
			return os.Mkdir(target, 0o700)
		}
		b, err := os.ReadFile(path)
		return first(err, os.WriteFile(target, b, 0o600))
	})
	if err != nil {
		t.Fatal(err)
	}
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// PC-3: whatever happens to one file, the cell is never taken for a new one,
// and never becomes one that nobody has claimed.
func TestDamageIsNeverTakenForAFreshCell(t *testing.T) {
	netnstest.Root(t)
	want := household(3)
	young, old := t.TempDir(), t.TempDir()
	s := open(t, young)
	load(t, s)
	if err := s.PutSecrets(map[cell.SecretRef]cell.Secret{"tunnel-key": cell.NewSecret("older")}); err != nil {
		t.Fatal(err)
	}
	commit(t, s, factory())
	filled(t, old)
	for name, damage := range damages(t) {
		for _, file := range []string{
			"startup", "committed", "revisions/000004.json.gz", "revisions/000003.json.gz",
			"revisions/000002.json.gz", "revisions/000001.json.gz", "secrets/tunnel-key", "secrets/password-1",
		} {
			t.Run(file+"/"+name, func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "pic")
				duplicate(t, old, dir)
				if err := damage(filepath.Join(dir, file), filepath.Join(young, file)); err != nil {
					t.Fatal(err)
				}
				s := open(t, dir)
				before := snapshot(t, dir)
				l := load(t, s)
				switch {
				case l.Source == datastore.Fresh:
					t.Fatal("taken for a fresh cell")
				case l.State != nil && !l.State.Claimed():
					t.Fatalf("an unclaimed state came up as %s", l.Source)
				case l.Source == datastore.Current:
					if d := cmp.Diff(want, l.State, netipEqual); d != "" {
						t.Fatalf("current, but not what was committed: %s", d)
					}
				case l.State == nil:
					t.Fatalf("one damaged file left nothing to recover: %v", l.Problems)
				case len(l.Problems) == 0:
					t.Fatal("recovered without saying why")
				case cmp.Diff(before, snapshot(t, dir)) != "":
					t.Fatal("a damaged folder was written to")
				}
				if (file == "startup" || file == "revisions/000004.json.gz") && l.Source == datastore.Current && name[:3] != "bit" {
					t.Fatal("the damage went unnoticed")
				}
				if s.Next() < 5 {
					t.Fatalf("number %d would be given again", s.Next())
				}
			})
		}
	}
}

func TestSeveralDamagedFilesNeverOpenTheCell(t *testing.T) {
	type files []string
	for _, gone := range []files{
		{"startup", "committed"},
		{"startup", "committed", "revisions/000004.json.gz"},
		{"startup", "committed", "revisions/000004.json.gz", "revisions/000003.json.gz"},
		{"startup", "committed", "revisions/000004.json.gz", "revisions/000003.json.gz", "revisions/000002.json.gz"},
		{"revisions/000004.json.gz", "revisions/000003.json.gz", "revisions/000002.json.gz"},
		{"revisions/000004.json.gz", "revisions/000003.json.gz", "revisions/000002.json.gz", "revisions/000001.json.gz"},
	} {
		t.Run(fmt.Sprint(gone), func(t *testing.T) {
			dir := t.TempDir()
			filled(t, dir)
			s := open(t, dir)
			if err := s.History().Save("sessions", []byte("x")); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			for _, f := range gone {
				if err := os.Remove(filepath.Join(dir, f)); err != nil {
					t.Fatal(err)
				}
			}
			l := load(t, open(t, dir))
			if l.Source != datastore.Recovered || (l.State != nil && !l.State.Claimed()) {
				t.Fatalf("%s, revision %d", l.Source, l.Revision)
			}
		})
	}
}

func TestAnOldStartupWithoutItsWitnessIsNoticed(t *testing.T) {
	old, dir := t.TempDir(), t.TempDir()
	s := open(t, old)
	load(t, s)
	commit(t, s, factory())
	filled(t, dir)
	b, err := os.ReadFile(filepath.Join(old, "startup"))
	if err := first(err, os.WriteFile(filepath.Join(dir, "startup"), b, 0o600), os.Remove(filepath.Join(dir, "committed"))); err != nil {
		t.Fatal(err)
	}
	if l := load(t, open(t, dir)); l.Source != datastore.Recovered || l.State == nil || !l.State.Claimed() {
		t.Fatalf("%s, revision %d: %v", l.Source, l.Revision, l.Problems)
	}
}

func TestACutShortFirstBootIsFinished(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	load(t, s)
	if err := s.PutSecrets(map[cell.SecretRef]cell.Secret{"tunnel-key": cell.NewSecret("private")}); err != nil {
		t.Fatal(err)
	}
	s = reopen(t, s, dir)
	if l := load(t, s); l.Source != datastore.Fresh {
		t.Fatalf("with only a secret it is %s", l.Source)
	}
	write(t, s, factory())
	s = reopen(t, s, dir)
	if l := load(t, s); l.Source != datastore.Current || l.Revision != 1 {
		t.Fatalf("with revision 1 written it is %s %d", l.Source, l.Revision)
	}
}

func TestSecretDamageIsAnError(t *testing.T) {
	netnstest.Root(t)
	old := t.TempDir()
	filled(t, old)
	for name, damage := range damages(t) {
		if name == "old copy" {
			continue // an intact other value is what a backup restores
		}
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "pic")
			duplicate(t, old, dir)
			if err := damage(filepath.Join(dir, "secrets/tunnel-key"), ""); err != nil {
				t.Fatal(err)
			}
			if v, err := open(t, dir).Secret("tunnel-key"); err == nil {
				t.Fatalf("a damaged secret reads as %d bytes", len(v.Reveal()))
			}
		})
	}
}
