package main_test

import (
	"bufio"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// cli runs a subcommand against the cell.
func (h *host) cli(args ...string) string {
	h.t.Helper()
	c := exec.Command(h.bin, append(args, "--socket", h.path("run/pic.sock"))...)
	out, err := c.CombinedOutput()
	if err != nil {
		h.t.Fatalf("pic %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// The real cell's log: each line under the room that logged it, read and
// followed on the command line, there after a kill, and no longer than it says.
func TestTheRealCellsLog(t *testing.T) {
	h := newHost(t)
	h.claimed()
	h.want(201, "POST", "/api/peers", addPhone)
	for subsystem, message := range map[string]string{
		"dns": "serving names", "reconcile": "revision committed", "tunnel": "configured wireguard device", "ntp": "telling the time", "pic": "cell is up",
	} {
		if out := h.cli("logs", "--subsystem", subsystem, "--grep", strings.ToUpper(message)); !strings.Contains(out, message) || strings.Contains(out, "setup code") {
			t.Errorf("%s: %s", subsystem, out)
		}
	}
	follow := exec.Command(h.bin, "logs", "--follow", "--grep", "pippa", "--socket", h.path("run/pic.sock"))
	pipe, err := follow.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = follow.Process.Kill(); _ = follow.Wait() })
	lines := make(chan string, 64)
	go func() {
		for sc := bufio.NewScanner(pipe); sc.Scan(); {
			lines <- sc.Text()
		}
		close(lines)
	}()
	h.want(201, "POST", "/api/peers", `{"name":"pippa","generate_key":true}`)
	select {
	case line := <-lines:
		if !strings.Contains(line, "add peer pippa") || !strings.Contains(line, "INFO") {
			t.Errorf("%q", line)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("nothing was followed")
	}
	h.cli("logs", "level", "firewall", "debug")
	if out := h.cli("logs", "level"); !strings.Contains(out, "firewall   debug  set") {
		t.Error(out)
	}
	before := into[api.LogPage](t, h.want(200, "GET", "/api/logs/search?limit=1000", "")).Items
	var killedAt uint64
	netnstest.Eventually(t, 5*time.Second, func() error { // written soon, and not at once
		b := h.ns.Exec("sh", "-c", "cat "+h.path("state/logs")+"/*.jsonl")
		if n := strings.Count(b, "\n"); n < len(before) {
			return fmt.Errorf("%d of %d lines on the disk", n, len(before))
		}
		return nil
	})
	killedAt = before[0].Seq
	h.kill()
	h.start(nil)
	after := into[api.LogPage](t, h.want(200, "GET", "/api/logs/search?limit=1000", "")).Items
	for _, r := range before {
		if !slices.ContainsFunc(after, func(x cell.LogRecord) bool { return x.Seq == r.Seq && x.Message == r.Message }) {
			t.Errorf("line %d is lost: %s", r.Seq, r.Message)
		}
	}
	if after[0].Seq <= killedAt {
		t.Errorf("numbers begin again: %d after %d", after[0].Seq, killedAt)
	}
	if out := h.cli("logs", "statistics"); !strings.Contains(out, "reconcile  info") {
		t.Error(out)
	}
	if out := h.cli("logs", "level"); !strings.Contains(out, "firewall   debug  set") {
		t.Errorf("the level is lost: %s", out)
	}
	if out := h.cli("logs", "--subsystem", "firewall", "--level", "debug"); !strings.Contains(out, "DEBUG firewall") {
		t.Log(out) // a settled firewall has nothing to say
	}
}
