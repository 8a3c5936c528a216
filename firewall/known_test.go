package firewall_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/firewall"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// liveHelper is one controller for many orders, as a cell has it: what it knows
// of the kernel from one Apply it uses in the next.
func liveHelper([]string) error {
	c := firewall.New(&firewall.Config{Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	in, out := json.NewDecoder(bufio.NewReader(os.Stdin)), json.NewEncoder(os.Stdout)
	for {
		var o order
		if err := in.Decode(&o); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		p, err := firewall.Compile(o.State, o.Facts)
		if err != nil {
			return err
		}
		var r result
		for range 2 {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			changed, err := c.Apply(ctx, p)
			cancel()
			if err != nil {
				return err
			}
			r.Changed = append(r.Changed, changed)
		}
		if err := out.Encode(r); err != nil {
			return err
		}
	}
}

// startLive returns an apply that asks one controller, in a process that lives
// until the test ends.
func startLive(t *testing.T, n *netnstest.NS) (apply func(*cell.State, cell.Facts) bool) {
	t.Helper()
	c := n.Self("live")
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = c.Wait() })
	to, from := json.NewEncoder(in), json.NewDecoder(out)
	return func(s *cell.State, f cell.Facts) bool {
		t.Helper()
		var r result
		if err := to.Encode(order{State: s, Facts: f}); err != nil {
			t.Fatal(err)
		}
		if err := from.Decode(&r); err != nil {
			t.Fatal(err)
		}
		if r.Changed[1] {
			t.Fatal("applying the same policy again changed something")
		}
		return r.Changed[0]
	}
}

// What a controller knows of its tables it forgets when others change them.
func TestDriftIsRepairedByAControllerThatKnowsItsTables(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	apply := startLive(t, l.router)
	s, f := household(), facts(cell.ScopeFull)
	apply(s, f)
	want := snapshot(l.router)
	for _, c := range drifts {
		l.router.Sh(c.command)
		if !apply(s, f) {
			t.Errorf("%s: Apply says that nothing changed", c.name)
		}
		if d := cmp.Diff(sorted(want), sorted(snapshot(l.router))); d != "" {
			t.Errorf("%s is not repaired:\n%s", c.name, d)
		}
	}
	// Together with a change, which alone would be a patch.
	for i, c := range drifts {
		next := s.Clone()
		next.Peers[2].Exit = []string{"nl", "tor"}[i%2]
		l.router.Sh(c.command)
		apply(next, f)
		if apply := l.apply(next, f); apply {
			t.Errorf("%s, and a change: something was left", c.name)
		}
		s = next
	}
}

// TestPatchesLeaveWhatReadingLeaves edits at random, and has a controller that
// knows nothing look at what the one that patches left: it must find nothing to
// do.
func TestPatchesLeaveWhatReadingLeaves(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	apply := startLive(t, l.router)
	s, f := household(), facts(cell.ScopeFull)
	apply(s, f)
	r := rand.New(rand.NewPCG(3, 4))
	patched := 0
	for n := range 60 {
		next := s.Clone()
		i := r.IntN(len(next.Peers))
		switch r.IntN(8) {
		case 0, 1:
			addPeer(next, fmt.Sprintf("new-%d", n), []string{"nl", "tor", ""}[r.IntN(3)])
		case 2:
			next.Peers[i].Exit = []string{"nl", "tor", "direct"}[r.IntN(3)]
		case 3:
			next.Peers[i].Services = [][]string{{"mail"}, {"*"}, {}}[r.IntN(3)]
		case 4:
			next.Peers[i].Enabled = !next.Peers[i].Enabled
		case 5:
			next.Network.PublicWeb = !next.Network.PublicWeb
		case 6:
			next.Exits[0].Enabled = !next.Exits[0].Enabled
		case 7:
			next.Network.Forwards = append(slices.Clip(next.Network.Forwards), cell.Forward{
				Name: fmt.Sprintf("f%d", n), Protocol: cell.TCP, Port: uint16(9000 + n), TargetPort: 80, Service: "mail", Enabled: true,
			})
		}
		if next.Validate() != nil {
			continue
		}
		s = next
		if apply(s, f) {
			patched++
		}
		if l.apply(s, f) {
			t.Fatalf("edit %d left something to do", n)
		}
	}
	if patched < 20 {
		t.Errorf("only %d edits changed the kernel: the test proves little", patched)
	}
}
