package reconcile_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/datastore"
	"github.com/personal-internet-cell/pic/reconcile"
)

func TestPreviewShowsWhatACommitWouldDoAndDoesNothing(t *testing.T) {
	w := newWorld()
	c := boot(t, t.TempDir(), w)
	c.must(t, addPeer("laptop", 2), reconcile.Options{})
	w.order()
	p, err := c.Preview(0, func(s *cell.State) error {
		s.Peers = nil
		return addPeer("phone", 3)(s)
	})
	if err != nil {
		t.Fatal(err)
	}
	if p.Base != 2 || len(p.Plans) != 3 || p.Plans[0].Stage != "firewall" {
		t.Fatalf("%+v", p)
	}
	want := `--- a/dns
+++ b/dns
@@ -1,2 +1,2 @@
 dns for home
-peer laptop 10.17.0.2 ""
+peer phone 10.17.0.2 ""
`
	if d := cmp.Diff(want, p.Plans[1].Diff); d != "" {
		t.Fatal(d)
	}
	var got []string
	for _, s := range p.Settings {
		got = append(got, s.Op+" "+s.Pointer)
	}
	if d := cmp.Diff([]string{"remove /peers/0", "add /peers/0"}, got); d != "" {
		t.Fatal(d)
	}
	if len(p.Cuts) != 1 || p.Cuts[0].Subject != "laptop" {
		t.Fatalf("%+v", p.Cuts)
	}
	if got := w.order(); got != "" {
		t.Fatalf("applied %q", got)
	}
	c.expect(t, 2, "2 committed")
	if _, err := c.Preview(0, addPeer("Not A Label", 3)); !as[*cell.InvalidError]()(err) {
		t.Fatalf("an invalid edit: %v", err)
	}
}

func TestDiffOfTwoRevisions(t *testing.T) {
	c := boot(t, t.TempDir(), newWorld())
	c.must(t, addPeer("laptop", 2), reconcile.Options{})
	c.must(t, note("laptop", "mine"), reconcile.Options{})
	p, err := c.Diff(2, 3)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Settings) != 1 || p.Settings[0].Pointer != "/peers/0/note" || string(p.Settings[0].Before) != `""` || string(p.Settings[0].After) != `"mine"` {
		t.Fatalf("%+v", p.Settings)
	}
	if p, err = c.Diff(0, 1); err != nil || !strings.Contains(p.Plans[0].Diff, "+firewall for home") {
		t.Fatalf("%+v, %v", p, err)
	}
	if _, err := c.Diff(1, 9); !errors.Is(err, reconcile.ErrNoSuchRevision) {
		t.Fatal(err)
	}
}

func TestRollbackKeepsIdentity(t *testing.T) {
	c := boot(t, t.TempDir(), newWorld())
	secret := func(r cell.SecretRef) reconcile.Options {
		return reconcile.Options{Secrets: map[cell.SecretRef]cell.Secret{r: cell.NewSecret("x")}}
	}
	c.must(t, func(s *cell.State) error {
		s.Users = append(s.Users, cell.User{Name: "mallory", Role: cell.RolePeer, PasswordHash: "password-2"})
		return nil
	}, secret("password-2"))
	c.must(t, func(s *cell.State) error {
		if err := addPeer("laptop", 2)(s); err != nil {
			return err
		}
		s.Peers[0].Owner = "mallory"
		return nil
	}, reconcile.Options{}) // 3
	c.must(t, func(s *cell.State) error { s.Users, s.Peers = s.Users[:1], nil; return nil }, reconcile.Options{})
	r, err := c.Rollback(t.Context(), 3, reconcile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if r.Revision != 5 || r.State.User("mallory") != nil || r.State.Peer("laptop") == nil || r.State.Peer("laptop").Owner != "" {
		t.Fatalf("%+v", r)
	}
	if r, err = c.Rollback(t.Context(), 3, reconcile.Options{IncludeIdentity: true}); err != nil || r.State.User("mallory") == nil {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, err := c.Rollback(t.Context(), 77, reconcile.Options{}); !errors.Is(err, reconcile.ErrNoSuchRevision) {
		t.Fatal(err)
	}
}

// Random edits: rolling back to n compiles to the text of n, numbers are never
// given twice, and compiling is deterministic.
func TestRollbackCompilesToTheTextOfItsRevision(t *testing.T) {
	for seed := range uint64(4) {
		r := rand.New(rand.NewPCG(seed, 1))
		c := boot(t, t.TempDir(), newWorld())
		texts := map[cell.Revision]string{}
		plans := func() string {
			var b strings.Builder
			for _, name := range []string{"firewall", "dns", "certs"} {
				b.WriteString(c.Plans()[name].String())
			}
			return b.String()
		}
		texts[1] = plans()
		last := cell.Revision(1)
		for i := range 25 {
			s, n := c.Running()
			var res reconcile.Result
			var err error
			switch k := r.IntN(6); {
			case k == 0 && n > 1:
				to := cell.Revision(1 + r.IntN(int(n)))
				if _, ok := texts[to]; !ok {
					continue
				}
				if res, err = c.Rollback(t.Context(), to, reconcile.Options{}); err == nil && plans() != texts[to] {
					t.Fatalf("seed %d: rolling back to %d gives\n%s", seed, to, cmp.Diff(texts[to], plans()))
				}
			case k == 1 && len(s.Peers) > 0:
				x := r.IntN(len(s.Peers))
				res, err = c.Commit(t.Context(), 0, func(s *cell.State) error { s.Peers = append(s.Peers[:x:x], s.Peers[x+1:]...); return nil }, reconcile.Options{})
			case k == 2 && len(s.Peers) > 0:
				res, err = c.Commit(t.Context(), 0, note(s.Peers[r.IntN(len(s.Peers))].Name, fmt.Sprint(r.IntN(9))), reconcile.Options{})
			case k == 3:
				if _, err := c.Commit(t.Context(), 0, addPeer("!", 2), reconcile.Options{}); err == nil {
					t.Fatal("an invalid peer was committed")
				}
				continue
			case k == 4:
				c = c.restart(t)
				continue
			default:
				res, err = c.Commit(t.Context(), 0, addPeer(fmt.Sprintf("p%d", i), 10+i), reconcile.Options{})
			}
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if res.Revision != last && res.Revision != last+1 {
				t.Fatalf("seed %d: revision %d after %d", seed, res.Revision, last)
			}
			last = max(last, res.Revision)
			texts[res.Revision] = plans()
			if p, err := c.Preview(0, func(*cell.State) error { return nil }); err != nil || len(p.Plans)+len(p.Settings)+len(p.Cuts) != 0 {
				t.Fatalf("an edit that changes nothing previews as %+v, %v", p, err)
			}
		}
		c.expect(t, last, fmt.Sprintf("%d committed", last))
	}
}

func TestADamagedFolderIsNotApplied(t *testing.T) {
	w := newWorld()
	c := boot(t, t.TempDir(), w)
	c.must(t, addPeer("laptop", 2), reconcile.Options{})
	c.must(t, addPeer("phone", 3), reconcile.Options{})
	damage(t, c, "startup")
	w.set("firewall", "what the kernel still has")
	w.order()
	c = c.restart(t)
	s, n := c.Running()
	if c.Source() != string(datastore.Recovered) || n != 3 || s.Peer("phone") == nil || !hasNotice(c, "state_recovered") {
		t.Fatalf("%s, revision %d", c.Source(), n)
	}
	if got := w.order(); got != "" {
		t.Fatalf("applied %q", got)
	}
	if _, err := c.Commit(t.Context(), 0, addPeer("tablet", 4), reconcile.Options{}); !errors.Is(err, reconcile.ErrRecovered) {
		t.Fatalf("a commit: %v", err)
	}
	if _, err := c.Rollback(t.Context(), 2, reconcile.Options{}); !errors.Is(err, reconcile.ErrRecovered) {
		t.Fatalf("a rollback: %v", err)
	}
	if _, err := c.Adopt(t.Context(), 0, cell.Author{Name: "root", Via: "socket"}); err != nil {
		t.Fatal(err)
	}
	c.expect(t, 4, "4 committed")
	c.must(t, addPeer("tablet", 4), reconcile.Options{})
	c = c.restart(t)
	if c.Source() != string(datastore.Current) {
		t.Fatal("adopting does not last")
	}
	if _, err := c.Adopt(t.Context(), 2, cell.Author{}); err == nil {
		t.Fatal("a sound cell was made to adopt a revision")
	}
	c.expect(t, 5, "5 committed")
}
