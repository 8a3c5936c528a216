package reconcile_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/datastore"
	"github.com/personal-internet-cell/pic/reconcile"
)

func key(n int) cell.Key {
	return cell.Key(base64.StdEncoding.EncodeToString(append(make([]byte, 30), byte(n>>8)+1, byte(n))))
}

// fresh is the factory state of the tests: a claimed cell, for what is tested
// here does not depend on who owns it. Its secrets are of one kind, as those of
// a first boot are: more would mean that a claimed cell lost its revisions.
func fresh() (*cell.State, map[cell.SecretRef]cell.Secret, error) {
	s := cell.Factory([16]byte{1, 2, 3}, "tunnel-key", key(1))
	s.Identity = cell.Identity{Name: "home", Mode: cell.ModeLAN}
	s.Users = append(s.Users, cell.User{Name: "admin", Role: cell.RoleAdmin, PasswordHash: "tunnel-password"})
	return s, map[cell.SecretRef]cell.Secret{"tunnel-key": cell.NewSecret("private"), "tunnel-password": cell.NewSecret("hash")}, nil
}

func addPeer(name string, n int) cell.Edit {
	return func(s *cell.State) error {
		v4, v6, err := s.FreeAddresses()
		if err != nil {
			return err
		}
		s.Peers = append(s.Peers, cell.Peer{
			Name: name, PublicKey: key(n), Address4: v4, Address6: v6, Enabled: true,
			Destinations: cell.FullTunnel, Trust: cell.TrustOwner,
		})
		return nil
	}
}

func note(name, text string) cell.Edit {
	return func(s *cell.State) error {
		p := s.Peer(name)
		if p == nil {
			return fmt.Errorf("there is no peer %s", name)
		}
		p.Note = text
		return nil
	}
}

// text is a plan in the notation of the tests.
type text string

func (t text) String() string { return string(t) }

// world is what the stages of the tests make equal to their plans.
type world struct {
	mu      sync.Mutex
	has     map[string]text
	applied []string // stages in the order in which they were applied
	// fail, if not nil, is asked before a plan is applied.
	fail func(stage string, plan text) error
	// slow runs inside an Apply, without the lock.
	slow func(ctx context.Context, stage string)
	// compileFail, if not nil, is asked before a state is compiled.
	compileFail func(stage string, s *cell.State) error
}

func newWorld() *world { return &world{has: map[string]text{}} }

func (w *world) get(stage string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(w.has[stage])
}

func (w *world) set(stage string, t text) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.has[stage] = t
}

func (w *world) failing(f func(stage string, plan text) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fail = f
}

func (w *world) order() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := strings.Join(w.applied, " ")
	w.applied = nil
	return s
}

// stage compiles the peers, and the uplink if the stage is named firewall.
func (w *world) stage(name string) reconcile.Stage {
	return reconcile.NewStage(name, func(s *cell.State, f cell.Facts) (text, error) {
		w.mu.Lock()
		fail := w.compileFail
		w.mu.Unlock()
		if fail != nil {
			if err := fail(name, s); err != nil {
				return "", err
			}
		}
		return render(name, s, f), nil
	}, func(ctx context.Context, p text) (bool, error) {
		w.mu.Lock()
		slow := w.slow
		w.mu.Unlock()
		if slow != nil {
			slow(ctx, name)
		}
		if err := ctx.Err(); err != nil {
			return false, err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.applied = append(w.applied, name)
		if w.fail != nil {
			if err := w.fail(name, p); err != nil {
				return false, err
			}
		}
		changed := w.has[name] != p
		w.has[name] = p
		return changed, nil
	})
}

func render(name string, s *cell.State, f cell.Facts) text {
	var b strings.Builder
	fmt.Fprintf(&b, "%s for %s\n", name, s.Identity.Name)
	if name == "firewall" {
		fmt.Fprintf(&b, "uplink %s\n", f.Uplink.Name)
	}
	names := make([]string, 0, len(s.Peers))
	for i := range s.Peers {
		p := &s.Peers[i]
		names = append(names, fmt.Sprintf("peer %s %s %q\n", p.Name, p.Address4, p.Note))
	}
	sort.Strings(names)
	b.WriteString(strings.Join(names, ""))
	return text(b.String())
}

// cellar is an engine on a folder of its own.
type cellar struct {
	*reconcile.Engine
	world *world
	store *datastore.Store
	dir   string
}

func (w *world) stages() []reconcile.Stage {
	return []reconcile.Stage{reconcile.Required(w.stage("firewall")), w.stage("dns"), reconcile.Background(w.stage("certs"))}
}

func boot(t testing.TB, dir string, w *world) *cellar {
	t.Helper()
	store, err := datastore.Open(&datastore.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	e, err := reconcile.New(&reconcile.Config{Store: store, Stages: w.stages(), SettleTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Boot(context.Background(), fresh); err != nil {
		t.Fatal(err)
	}
	return &cellar{e, w, store, dir}
}

// restart boots a new engine in the same world, on the same folder.
func (c *cellar) restart(t testing.TB) *cellar {
	t.Helper()
	if err := c.store.Close(); err != nil {
		t.Fatal(err)
	}
	return boot(t, c.dir, c.world)
}

func (c *cellar) must(t testing.TB, edit cell.Edit, o reconcile.Options) reconcile.Result {
	t.Helper()
	r, err := c.Commit(t.Context(), 0, edit, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// expect checks what runs, in memory and in the world, and what the newest
// revision's status is.
func (c *cellar) expect(t testing.TB, n cell.Revision, newest string) {
	t.Helper()
	s, running := c.Running()
	if running != n {
		t.Errorf("revision %d runs, want %d", running, n)
	}
	for _, stage := range []string{"firewall", "dns"} {
		if got, want := c.world.get(stage), string(render(stage, s, c.Facts())); got != want {
			t.Errorf("%s is\n%swant\n%s", stage, got, want)
		}
	}
	infos, err := c.Revisions(0, 1)
	if err != nil || len(infos) != 1 {
		t.Fatalf("%v, %v", infos, err)
	}
	if got := fmt.Sprintf("%d %s", infos[0].Number, infos[0].Status); got != newest {
		t.Errorf("the newest revision is %q, want %q", got, newest)
	}
}

var errBoom = errors.New("port 53 is taken by process 1234")

func damage(t testing.TB, c *cellar, file string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(c.dir, file), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
}
