package child_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/exits/child"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

func TestMain(m *testing.M) {
	netnstest.Main(m, netnstest.Helpers{"openvpn": openvpnProcess})
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// report is a line that a child's process prints.
type report struct {
	child.ChildStatus
	SOCKS string
}

// runChild runs a child until stdin ends, and prints its status at each change.
func runChild(run func(context.Context) error, status func() report, changed <-chan struct{}) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); cancel() }()
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	out := json.NewEncoder(os.Stdout)
	for {
		select {
		case err := <-done:
			return errors.Join(err, out.Encode(status()))
		case <-changed:
			if err := out.Encode(status()); err != nil {
				return err
			}
		}
	}
}

// notifier is a Changed that never blocks.
func notifier() (func(), <-chan struct{}) {
	c := make(chan struct{}, 1)
	return func() {
		select {
		case c <- struct{}{}:
		default:
		}
	}, c
}

// running is the test's end of a child's process.
type running struct {
	t    testing.TB
	in   io.Closer
	kill func()

	mu   sync.Mutex
	last report
	seen []string // "state: reason"
	gone chan struct{}
}

// startChild starts a helper process for a child, with its configuration as JSON.
func startChild(t testing.TB, ns *netnstest.NS, helper string, config any) *running {
	t.Helper()
	b, err := json.Marshal(config)
	must(t, err)
	c := ns.Self(helper, string(b))
	in, err := c.StdinPipe()
	must(t, err)
	out, w := io.Pipe()
	c.Stdout = w
	r := &running{t: t, in: in, gone: make(chan struct{})}
	r.kill = netnstest.Start(t, c)
	go func() {
		defer close(r.gone)
		for s := bufio.NewScanner(out); s.Scan(); {
			var p report
			if json.Unmarshal(s.Bytes(), &p) != nil {
				continue
			}
			r.mu.Lock()
			r.last = p
			r.seen = append(r.seen, fmt.Sprintf("%s: %s", p.State, p.Reason))
			r.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		_ = w.Close()
		if t.Failed() {
			t.Logf("states of %s: %s", helper, strings.Join(r.seen, "; "))
		}
	})
	return r
}

func (r *running) status() report {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

// becomes waits for a state whose reason contains text.
func (r *running) becomes(within time.Duration, state cell.ExitState, text string) report {
	r.t.Helper()
	netnstest.Eventually(r.t, within, func() error {
		if s := r.status(); s.State != state || !strings.Contains(s.Reason, text) {
			return fmt.Errorf("want %s (%s), it is %s: %s", state, text, s.State, s.Reason)
		}
		return nil
	})
	return r.status()
}

// end ends the child as its owner would, and waits for it.
func (r *running) end() {
	r.t.Helper()
	must(r.t, r.in.Close())
	r.becomes(15*time.Second, cell.ExitDisabled, "")
}

// configureByIP does for a link what the tunnel's room does in the cell.
func configureByIP(link string, mtu int, as []netip.Prefix) error {
	args := [][]string{{"link", "set", link, "mtu", fmt.Sprint(mtu), "up"}}
	for _, a := range as {
		args = append(args, []string{"address", "replace", a.String(), "dev", link})
	}
	for _, a := range args {
		if out, err := exec.Command("ip", a...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(a, " "), err, out)
		}
	}
	return nil
}
