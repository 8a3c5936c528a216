package reconcile_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/datastore"
	"github.com/personal-internet-cell/pic/reconcile"
)

const victimDir = "PIC_TEST_VICTIM_DIR"

// TestVictim is not a test: it is the process that the others kill. It commits
// one thing after the other and says what was acknowledged.
func TestVictim(t *testing.T) {
	dir := os.Getenv(victimDir)
	if dir == "" {
		t.Skip("the process that the kill tests start")
	}
	w := newWorld()
	w.fail = func(stage string, p text) error {
		if stage == "dns" && strings.Contains(string(p), "refused") {
			return errBoom
		}
		return nil
	}
	c := boot(t, dir, w)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	say := func(format string, a ...any) { fmt.Printf("SAYS "+format+"\n", a...) }
	say("booted")
	_, from := c.Running()
	for i := int(from); i < int(from)+6; i++ {
		ref := c.store.NewRef("password")
		c.must(t, func(s *cell.State) error {
			s.Users[0].PasswordHash = ref
			return addPeer(fmt.Sprintf("plain%d", i), i*8)(s)
		}, reconcile.Options{Secrets: map[cell.SecretRef]cell.Secret{ref: cell.NewSecret("x")}})
		say("durable plain%d", i)
		r := c.must(t, addPeer(fmt.Sprintf("confirmed%d", i), i*8+1), minute)
		if err := c.Confirm(ctx, r.Revision, cell.Author{}); err != nil {
			t.Fatal(err)
		}
		say("durable confirmed%d", i)
		r = c.must(t, addPeer(fmt.Sprintf("temporary%d", i), i*8+2), minute)
		if err := c.Revert(ctx, r.Revision, cell.Author{}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Commit(ctx, 0, addPeer(fmt.Sprintf("refused%d", i), i*8+3), reconcile.Options{}); err == nil {
			t.Fatal("a commit that fails was acknowledged")
		}
	}
	stop()
	<-done
}

// victim starts the process and returns what it acknowledged before it died.
// kill, if not 0, is how long after its boot it is killed.
func victim(t *testing.T, dir, failpoint string, kill time.Duration) (durable []string, killed bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestVictim$", "-test.v")
	cmd.Env = append(os.Environ(), victimDir+"="+dir, "PIC_FAILPOINT="+failpoint)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	var all strings.Builder
	for lines.Scan() {
		fmt.Fprintln(&all, lines.Text())
		_, said, ok := strings.Cut(lines.Text(), "SAYS ")
		if !ok {
			continue
		}
		if what, ok := strings.CutPrefix(said, "durable "); ok {
			durable = append(durable, what)
		}
		if said == "booted" && kill > 0 {
			time.AfterFunc(kill, func() { _ = cmd.Process.Kill() })
		}
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != -1) {
		t.Fatalf("the process failed: %v\n%s", err, all.String())
	}
	return durable, err != nil
}

// intact boots what a killed process left and checks the promise: what was
// acknowledged is there, what was not confirmed is not, nothing is left over.
func intact(t *testing.T, dir string, durable []string) {
	t.Helper()
	c := boot(t, dir, newWorld())
	if c.Source() != string(datastore.Current) {
		t.Fatalf("it is %s: %+v", c.Source(), c.Notices())
	}
	s, n := c.Running()
	for _, name := range durable {
		if s.Peer(name) == nil {
			t.Errorf("%s was acknowledged and is lost", name)
		}
	}
	for i := range s.Peers {
		if p := s.Peers[i].Name; strings.HasPrefix(p, "temporary") || strings.HasPrefix(p, "refused") {
			t.Errorf("%s was never confirmed and stays", p)
		}
	}
	if len(s.Peers) > len(durable)+1 {
		t.Errorf("%d peers, %d were acknowledged", len(s.Peers), len(durable))
	}
	for _, ref := range s.SecretRefs() {
		if _, err := c.store.Secret(ref); err != nil {
			t.Error(err)
		}
	}
	infos, err := c.Revisions(0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range infos {
		if i.Status == cell.RevisionPending || (i.Number == n && i.Status != cell.RevisionCommitted) {
			t.Errorf("revision %d is %s", i.Number, i.Status)
		}
	}
	if err := c.store.Collect(); err != nil {
		t.Error(err)
	}
	leftovers(t, c)
	if err := c.store.Close(); err != nil {
		t.Fatal(err)
	}
}

// leftovers finds temporary files, and secrets that no revision names.
func leftovers(t *testing.T, c *cellar) {
	t.Helper()
	named := map[string]bool{}
	infos, _ := c.Revisions(0, 1000)
	for _, i := range infos {
		s, _, err := c.StateAt(i.Number)
		if err != nil {
			t.Fatal(err)
		}
		for _, ref := range s.SecretRefs() {
			named[string(ref)] = true
		}
	}
	err := filepath.WalkDir(c.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if strings.HasPrefix(d.Name(), ".") || (filepath.Base(filepath.Dir(path)) == "secrets" && !named[d.Name()]) {
			t.Errorf("%s is left over", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// PC-1, at random times.
func TestKilledAtAnyTimeNothingAcknowledgedIsLost(t *testing.T) {
	dir := t.TempDir()
	var durable []string
	kills := 0
	for i := range 12 {
		r := rand.New(rand.NewPCG(uint64(i), 3))
		more, killed := victim(t, dir, "", time.Duration(1+r.IntN(60))*time.Millisecond)
		durable = append(durable, more...)
		if killed {
			kills++
		}
		intact(t, dir, peersOf(t, dir, durable))
	}
	if kills < 6 {
		t.Fatalf("only %d of 12 processes were killed in time", kills)
	}
}

// peersOf adds what became durable although its acknowledgement was not seen,
// so that the next round does not take it for one too many.
func peersOf(t *testing.T, dir string, durable []string) []string {
	t.Helper()
	c := boot(t, dir, newWorld())
	defer func() { _ = c.store.Close() }()
	s, _ := c.Running()
	all := append([]string(nil), durable...)
	for i := range s.Peers {
		all = append(all, s.Peers[i].Name)
	}
	return all
}
