//go:build failpoint

package reconcile_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/datastore"
	"github.com/personal-internet-cell/pic/reconcile"
)

// PC-1, at each arrow of the state machine, the first, second and a later time.
func TestKilledAtEachArrowNothingAcknowledgedIsLost(t *testing.T) {
	for _, name := range reconcile.Failpoints() {
		if name == "pruned" || name == "secret-removed" {
			continue // below, on a folder that has something to prune
		}
		for _, hit := range []int{1, 2, 5} {
			t.Run(fmt.Sprintf("%s:%d", name, hit), func(t *testing.T) {
				dir := t.TempDir()
				durable, killed := victim(t, dir, fmt.Sprintf("%s:%d", name, hit), 0)
				if !killed {
					t.Fatal("the failpoint was never reached")
				}
				intact(t, dir, durable)
				more, killed := victim(t, dir, "", 0)
				if killed || len(more) != 12 {
					t.Fatalf("after the crash it acknowledged %d changes, killed %v", len(more), killed)
				}
			})
		}
	}
}

func TestKilledWhileCollectingNothingKeptIsLost(t *testing.T) {
	full := t.TempDir()
	fill(t, full, 501)
	for _, at := range []string{"pruned:1", "pruned:9", "secret-removed:1", "secret-removed:9"} {
		t.Run(at, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "pic")
			if err := os.CopyFS(dir, os.DirFS(full)); err != nil {
				t.Fatal(err)
			}
			for _, f := range []string{"secrets", "revisions", "marks", "history", "certs"} {
				if err := own(filepath.Join(dir, f)); err != nil {
					t.Fatal(err)
				}
			}
			if err := own(dir); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(os.Args[0], "-test.run=^TestCollector$")
			cmd.Env = append(os.Environ(), victimDir+"="+dir, "PIC_FAILPOINT="+at)
			var exit *exec.ExitError
			if out, err := cmd.CombinedOutput(); !errors.As(err, &exit) || exit.ExitCode() != -1 {
				t.Fatalf("the failpoint was never reached: %v\n%s", err, out)
			}
			intact(t, dir, nil)
		})
	}
}

// own gives the files of a copied folder the modes of ours.
func own(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			if err := os.Chmod(filepath.Join(dir, e.Name()), 0o600); err != nil {
				return err
			}
		}
	}
	return os.Chmod(dir, 0o700)
}

// fill writes that many revisions, each with a password of its own.
func fill(t *testing.T, dir string, revisions int) {
	t.Helper()
	c := boot(t, dir, newWorld())
	for range revisions {
		ref := c.store.NewRef("password")
		c.must(t, func(s *cell.State) error { s.Users[0].PasswordHash = ref; return nil },
			reconcile.Options{Secrets: map[cell.SecretRef]cell.Secret{ref: cell.NewSecret("x")}})
	}
	if err := c.store.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestCollector is not a test: it is the process that is killed while it collects.
func TestCollector(t *testing.T) {
	dir := os.Getenv(victimDir)
	if dir == "" {
		t.Skip("the process that the kill tests start")
	}
	s, err := datastore.Open(&datastore.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(); err != nil {
		t.Fatal(err)
	}
	if err := s.Collect(); err != nil {
		t.Fatal(err)
	}
}
