package datastore_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/datastore"
)

func key(n byte) cell.Key {
	return cell.Key(base64.StdEncoding.EncodeToString(append(make([]byte, 31), n)))
}

func factory() *cell.State { return cell.Factory([16]byte{1, 2, 3}, "tunnel-key", key(1)) }

// household is a claimed cell with that many peers.
func household(peers int) *cell.State {
	s := factory()
	s.Identity = cell.Identity{Name: "home", Mode: cell.ModeLAN}
	s.Users = append(s.Users, cell.User{Name: "admin", Role: cell.RoleAdmin, PasswordHash: "password-1"})
	for i := range peers {
		v4, v6, err := s.FreeAddresses()
		if err != nil {
			panic(err)
		}
		s.Peers = append(s.Peers, cell.Peer{
			Name: fmt.Sprintf("p%d", i), PublicKey: key(byte(i + 2)), Address4: v4, Address6: v6,
			Enabled: true, Destinations: cell.FullTunnel, Trust: cell.TrustOwner,
		})
	}
	s.Normalize()
	return s
}

func open(t testing.TB, dir string) *datastore.Store {
	t.Helper()
	s, err := datastore.Open(&datastore.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func reopen(t testing.TB, s *datastore.Store, dir string) *datastore.Store {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return open(t, dir)
}

func load(t testing.TB, s *datastore.Store) datastore.Loaded {
	t.Helper()
	l, err := s.Load()
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// commit writes a state as the next revision and moves startup to it.
func commit(t testing.TB, s *datastore.Store, state *cell.State) cell.Revision {
	t.Helper()
	n := write(t, s, state)
	if err := s.SetStartup(n); err != nil {
		t.Fatal(err)
	}
	return n
}

func write(t testing.TB, s *datastore.Store, state *cell.State) cell.Revision {
	t.Helper()
	info := cell.RevisionInfo{Number: s.Next(), Parent: s.Startup(), Time: time.Unix(1e9, 0), Author: cell.Author{Name: "admin", Via: "web"}, Message: "test"}
	if err := s.Write(info, state, []string{"peers", "peers/x"}); err != nil {
		t.Fatal(err)
	}
	return info.Number
}

// filled is a folder with the factory state and three committed revisions of a
// claimed cell, the last one with 3 peers.
func filled(t testing.TB, dir string) {
	t.Helper()
	s := open(t, dir)
	load(t, s)
	if err := s.PutSecrets(map[cell.SecretRef]cell.Secret{"tunnel-key": cell.NewSecret("private"), "password-1": cell.NewSecret("hash")}); err != nil {
		t.Fatal(err)
	}
	commit(t, s, factory())
	for i := range 3 {
		commit(t, s, household(i+1))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestWhatWasCommittedIsLoaded(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if l := load(t, s); l.Source != datastore.Fresh || l.State != nil {
		t.Fatalf("an empty folder gives %+v", l)
	}
	commit(t, s, factory())
	commit(t, s, household(2))
	s = reopen(t, s, dir)
	l := load(t, s)
	if l.Source != datastore.Current || l.Revision != 2 || len(l.Problems) != 0 {
		t.Fatalf("%+v", l)
	}
	if d := cmp.Diff(household(2), l.State, cmp.Comparer(func(a, b cell.Key) bool { return a == b }), netipEqual); d != "" {
		t.Fatal(d)
	}
	if d := cmp.Diff([]datastore.Change{{1, []string{"peers", "peers/x"}}, {2, []string{"peers", "peers/x"}}}, s.Changed()); d != "" {
		t.Fatal(d)
	}
}

func TestASecondProcessIsRefused(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if _, err := datastore.Open(&datastore.Config{Dir: dir}); !errors.Is(err, datastore.ErrLocked) {
		t.Fatalf("second open: %v", err)
	}
	reopen(t, s, dir)
}

func TestModesKeepOthersOut(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pic")
	filled(t, dir)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err == nil && st.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, st.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestUnacknowledgedRevisionsDoNotSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	filled(t, dir)
	s := open(t, dir)
	load(t, s)
	n := write(t, s, household(9))
	if infos, _ := s.Revisions(0, 1); infos[0].Status != cell.RevisionPending {
		t.Fatalf("before the restart it is %s", infos[0].Status)
	}
	s = reopen(t, s, dir)
	if l := load(t, s); l.Revision != 4 || l.Source != datastore.Current {
		t.Fatalf("loaded %d (%s)", l.Revision, l.Source)
	}
	infos, err := s.Revisions(0, 10)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, i := range infos {
		got = append(got, fmt.Sprintf("%d<%d %s", i.Number, i.Parent, i.Status))
	}
	want := []string{"5<4 auto-reverted", "4<3 committed", "3<2 committed", "2<1 committed", "1<0 committed"}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatal(d)
	}
	if s.Next() != n+1 {
		t.Fatalf("number %d is given again", s.Next())
	}
	if infos, _ := s.Revisions(4, 2); len(infos) != 2 || infos[0].Number != 3 {
		t.Fatalf("paging gives %v", infos)
	}
}

func TestRevisionsAreWrittenOnceAndInOrder(t *testing.T) {
	dir := t.TempDir()
	filled(t, dir)
	s := open(t, dir)
	load(t, s)
	for _, n := range []cell.Revision{0, 4, 6} {
		if err := s.Write(cell.RevisionInfo{Number: n}, household(1), nil); err == nil {
			t.Errorf("revision %d was written", n)
		}
	}
	if err := s.Mark(4, cell.RevisionFailed); err == nil {
		t.Error("startup was marked as failed")
	}
	if err := s.SetStartup(77); !errors.Is(err, datastore.ErrNoSuchRevision) {
		t.Errorf("startup moved to a revision that is not there: %v", err)
	}
	if _, _, err := s.State(77); !errors.Is(err, datastore.ErrNoSuchRevision) {
		t.Errorf("reading revision 77: %v", err)
	}
}

func TestSecretsNeverChangeUnderTheirReference(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	ref := s.NewRef("tunnel")
	if ref == s.NewRef("tunnel") || !strings.HasPrefix(string(ref), "tunnel-") {
		t.Fatalf("reference %q", ref)
	}
	put := func(v string, more ...cell.SecretRef) error {
		m := map[cell.SecretRef]cell.Secret{ref: cell.NewSecret(v)}
		for _, r := range more {
			m[r] = cell.NewSecret("x")
		}
		return s.PutSecrets(m)
	}
	if err := put("one"); err != nil {
		t.Fatal(err)
	}
	if err := put("one"); err != nil {
		t.Fatalf("the same value again: %v", err)
	}
	if err := put("two", "a-first"); err == nil {
		t.Fatal("a value changed under its reference")
	}
	if _, err := s.Secret("a-first"); !errors.Is(err, datastore.ErrNoSuchSecret) {
		t.Fatalf("a refused set left a secret behind: %v", err)
	}
	if v, err := s.Secret(ref); err != nil || v.Reveal() != "one" {
		t.Fatalf("%v, %v", v.Reveal(), err)
	}
	for _, bad := range []cell.SecretRef{"", "..", "../startup", "a/b", "A", cell.SecretRef(strings.Repeat("a", 99))} {
		if err := s.PutSecrets(map[cell.SecretRef]cell.Secret{bad: cell.NewSecret("x")}); err == nil {
			t.Errorf("reference %q was accepted", bad)
		}
		if _, err := s.Secret(bad); !errors.Is(err, datastore.ErrNoSuchSecret) {
			t.Errorf("reference %q: %v", bad, err)
		}
	}
}

func TestAFailedWriteLeavesNoSecrets(t *testing.T) {
	dir := t.TempDir()
	filled(t, dir)
	s := open(t, dir)
	load(t, s)
	if err := s.PutSecrets(map[cell.SecretRef]cell.Secret{"new": cell.NewSecret("x")}); err != nil {
		t.Fatal(err)
	}
	inTheWay := filepath.Join(dir, "revisions", "000005.json.gz", "x")
	if err := os.MkdirAll(inTheWay, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Write(cell.RevisionInfo{Number: 5, Parent: 4}, household(1), nil); err == nil {
		t.Fatal("it was written over a folder")
	}
	if _, err := s.Secret("new"); !errors.Is(err, datastore.ErrNoSuchSecret) {
		t.Fatalf("the secret stays: %v", err)
	}
	if err := os.RemoveAll(filepath.Dir(inTheWay)); err != nil {
		t.Fatal(err)
	}
	if n := commit(t, s, household(1)); n != 5 {
		t.Fatalf("the next revision is %d", n)
	}
}

func TestHistoryIsKeptAndChecked(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	h := s.History()
	if _, err := h.Load("sessions"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("nothing there: %v", err)
	}
	for _, want := range []string{"", "one", "two"} {
		if err := h.Save("sessions", []byte(want)); err != nil {
			t.Fatal(err)
		}
		if got, err := h.Load("sessions"); err != nil || string(got) != want {
			t.Fatalf("%q, %v", got, err)
		}
	}
	path := filepath.Join(dir, "history", "sessions")
	b, _ := os.ReadFile(path)
	b[len(b)-1] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Load("sessions"); !errors.Is(err, datastore.ErrCorrupt) {
		t.Fatalf("a flipped bit: %v", err)
	}
	if err := h.Save("../startup", nil); err == nil {
		t.Fatal("a path was accepted as a name")
	}
}

func TestMigrationsRunInOrderAndNewerSchemasAreLeftAlone(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	load(t, s)
	old := household(1)
	old.Schema = cell.Schema - 2
	commit(t, s, old)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	step := func(from int) datastore.Migration {
		return func(doc []byte) ([]byte, error) {
			a, b := fmt.Sprintf(`{"schema":%d`, from), fmt.Sprintf(`{"schema":%d`, from+1)
			if !strings.HasPrefix(string(doc), a) {
				return nil, errors.New("wrong order")
			}
			return []byte(strings.Replace(string(doc), a, b, 1)), nil
		}
	}
	s, err := datastore.Open(&datastore.Config{Dir: dir, Migrations: map[int]datastore.Migration{cell.Schema - 2: step(cell.Schema - 2), cell.Schema - 1: step(cell.Schema - 1)}})
	if err != nil {
		t.Fatal(err)
	}
	if l := load(t, s); l.Source != datastore.Current || l.State.Schema != cell.Schema {
		t.Fatalf("%+v", l)
	}
	newer := household(1)
	newer.Schema = cell.Schema + 1
	commit(t, s, newer)
	s = reopen(t, s, dir)
	before := snapshot(t, dir)
	l := load(t, s)
	if l.Source != datastore.Recovered || l.State != nil || !strings.Contains(strings.Join(l.Problems, " "), "newer version") {
		t.Fatalf("%+v", l)
	}
	if d := cmp.Diff(before, snapshot(t, dir)); d != "" {
		t.Fatalf("a newer program's files were touched: %s", d)
	}
}

// snapshot is every file's content below dir.
func snapshot(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		out[strings.TrimPrefix(path, dir)] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestCollectPrunesOnlyWhatNobodyNeeds(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	load(t, s)
	put := func(ref cell.SecretRef) {
		if err := s.PutSecrets(map[cell.SecretRef]cell.Secret{ref: cell.NewSecret(string(ref))}); err != nil {
			t.Fatal(err)
		}
	}
	put("tunnel-key")
	commit(t, s, factory())
	state := household(1)
	for i := range 510 {
		ref := cell.SecretRef(fmt.Sprintf("password-%d", i))
		put(ref)
		state.Users[0].PasswordHash = ref
		// Each comes from the one before, as if startup had moved every time.
		info := cell.RevisionInfo{Number: s.Next(), Parent: s.Next() - 1}
		if err := s.Write(info, state, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.SetStartup(s.Next() - 1); err != nil {
		t.Fatal(err)
	}
	pending := write(t, s, state)
	put("under-way")
	if err := s.Collect(); err != nil {
		t.Fatal(err)
	}
	infos, err := s.Revisions(0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if len(infos) > 500 || len(infos) < 470 {
		t.Fatalf("%d revisions are kept", len(infos))
	}
	oldest := infos[len(infos)-1].Number
	if !slices.ContainsFunc(infos, func(i cell.RevisionInfo) bool { return i.Number == pending }) {
		t.Fatal("the pending revision was pruned")
	}
	for _, i := range infos { // each kept revision still has its secrets
		kept, _, err := s.State(i.Number)
		if err != nil {
			t.Fatal(err)
		}
		for _, ref := range kept.SecretRefs() {
			if _, err := s.Secret(ref); err != nil {
				t.Fatalf("revision %d: %v", i.Number, err)
			}
		}
	}
	if _, err := s.Secret("under-way"); err != nil {
		t.Fatalf("a secret of the commit under way is gone: %v", err)
	}
	if _, err := s.Secret("password-0"); !errors.Is(err, datastore.ErrNoSuchSecret) {
		t.Fatalf("a secret nobody names was kept (oldest revision %d): %v", oldest, err)
	}
	if _, _, err := s.State(1); !errors.Is(err, datastore.ErrNoSuchRevision) {
		t.Fatalf("revision 1: %v", err)
	}
	// A restart forgets nothing that is kept, and orphans go.
	s = reopen(t, s, dir)
	if l := load(t, s); l.Source != datastore.Current || s.Next() != pending+1 {
		t.Fatalf("%s, next %d", l.Source, s.Next())
	}
	if err := s.Collect(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Secret("under-way"); !errors.Is(err, datastore.ErrNoSuchSecret) {
		t.Fatalf("an orphan stays: %v", err)
	}
}
