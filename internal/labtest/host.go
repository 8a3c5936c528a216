package labtest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// Host is one machine of the household: a network namespace and a mount
// namespace in which changes to /etc stay and /run is empty, so that wg-quick,
// resolvconf and sockets of several hosts never meet.
type Host struct {
	Name string

	t    testing.TB
	ns   *netnstest.NS
	init int // process id of the process that keeps the mount namespace
}

// prepare makes the mount namespace's own folders and then only waits. The
// network namespace's mount of /sys comes from `ip netns exec`.
const prepare = `
set -e
mount --make-rprivate /
mount -t tmpfs etc "$1"
mkdir "$1/upper" "$1/work"
mount -t overlay -o "lowerdir=/etc,upperdir=$1/upper,workdir=$1/work" etc /etc
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/lock /run/wireguard
echo ready
exec sleep infinity`

func newHost(t testing.TB, dir, name string, resolvers []string) *Host {
	t.Helper()
	h := &Host{Name: name, t: t, ns: netnstest.New(t, name)}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c := h.ns.Command("sh", "-c", prepare, "prepare", dir)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("preparing the host %s: %q, %v", name, line, err)
	}
	h.init = c.Process.Pid // `ip netns exec` and sh both exec
	h.WriteFile("/etc/hosts", "127.0.0.1 localhost "+name+"\n::1 localhost\n")
	resolv := ""
	for _, r := range resolvers {
		resolv += "nameserver " + r + "\n"
	}
	h.WriteFile("/etc/resolv.conf", resolv)
	h.WriteFile("/etc/resolvconf.conf", "resolv_conf=/etc/resolv.conf\n")
	return h
}

// WriteFile writes a file as the host sees it; other hosts do not see what it
// writes to /etc and /run.
func (h *Host) WriteFile(name, text string) {
	h.t.Helper()
	// The old file may be a link that leads out of the host.
	c := h.Command("sh", "-ec", `mkdir -p "${1%/*}"; rm -f "$1"; cat >"$1"`, "write", name)
	c.Stdin = strings.NewReader(text)
	if out, err := c.CombinedOutput(); err != nil {
		h.t.Fatalf("on %s: writing %s: %v\n%s", h.Name, name, err, out)
	}
}

// Enter is the command line that enters the host.
func (h *Host) Enter() []string {
	return []string{"nsenter", "--target", strconv.Itoa(h.init), "--net", "--mount"}
}

// Command prepares a program inside the host; the caller starts it. It is
// killed when the test ends.
func (h *Host) Command(name string, args ...string) *exec.Cmd {
	return h.command(h.t.Context(), name, args...)
}

func (h *Host) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	e := append(h.Enter(), "--", name)
	c := exec.CommandContext(ctx, e[0], append(e[1:], args...)...)
	c.Dir = "/"
	c.WaitDelay = time.Second
	return c
}

// Try runs a program inside, at most a minute, and returns stdout and stderr.
func (h *Host) Try(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := h.command(ctx, name, args...).CombinedOutput()
	return string(out), err
}

// Exec is Try for what must succeed.
func (h *Host) Exec(name string, args ...string) string {
	h.t.Helper()
	out, err := h.Try(name, args...)
	if err != nil {
		h.t.Fatalf("on %s: %s %s: %v\n%s", h.Name, name, strings.Join(args, " "), err, out)
	}
	return out
}

// Sh runs shell text inside; a failure fails the test.
func (h *Host) Sh(script string) string {
	h.t.Helper()
	return h.Exec("sh", "-ec", script)
}

// serve starts this very program as one of the household's servers, see [Main].
func (h *Host) serve(server string, args ...string) {
	h.t.Helper()
	self, err := os.Executable()
	if err != nil {
		h.t.Fatal(err)
	}
	v, err := json.Marshal(append([]string{server}, args...))
	if err != nil {
		h.t.Fatal(err)
	}
	c := h.Command(self)
	c.Env = append(os.Environ(), selfEnv+"="+string(v))
	out, err := c.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	var stderr bytes.Buffer
	c.Stderr = &stderr
	if err := c.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
		if h.t.Failed() && stderr.Len() > 0 {
			h.t.Logf("the %s server printed:\n%s", server, stderr.String())
		}
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		_ = c.Process.Kill()
		_ = c.Wait()
		h.t.Fatalf("starting the %s server: %q, %v\n%s", server, line, err, stderr.String())
	}
}

func (h *Host) bridge(name string, addresses ...string) {
	h.t.Helper()
	h.Exec("ip", "link", "add", name, "type", "bridge", "forward_delay", "0")
	h.addresses(name, addresses)
}

// port plugs other's interface dev into one of h's bridges.
func (h *Host) port(bridge string, other *Host, dev string, addresses ...string) {
	h.t.Helper()
	near := "p-" + other.Name
	h.ns.Exec("ip", "link", "add", near, "type", "veth", "peer", "name", dev, "netns", other.ns.Name)
	h.Exec("ip", "link", "set", near, "master", bridge, "up")
	other.addresses(dev, addresses)
}

func (h *Host) addresses(dev string, addresses []string) {
	h.t.Helper()
	for _, a := range addresses {
		args := []string{"addr", "add", mustPrefix(a), "dev", dev}
		if strings.Contains(a, ":") {
			args = append(args, "nodad")
		}
		h.Exec("ip", args...)
	}
	h.Exec("ip", "link", "set", dev, "up")
}

func (h *Host) defaultRoute(via4, via6 string) {
	h.t.Helper()
	h.Exec("ip", "route", "add", "default", "via", via4)
	h.Exec("ip", "-6", "route", "add", "default", "via", via6)
}

func (h *Host) nft(rules string) {
	h.t.Helper()
	c := h.Command("nft", "-f", "-")
	c.Stdin = strings.NewReader(rules)
	if out, err := c.CombinedOutput(); err != nil {
		h.t.Fatalf("on %s: nft: %v\n%s", h.Name, err, out)
	}
}

func (h *Host) counter(family, table, name string) int {
	h.t.Helper()
	out := h.Exec("nft", "list", "counter", family, table, name)
	_, rest, _ := strings.Cut(out, "packets ")
	var n int
	if _, err := fmt.Sscan(rest, &n); err != nil {
		h.t.Fatalf("reading the counter %s: %v\n%s", name, err, out)
	}
	return n
}
