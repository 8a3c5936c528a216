// Package netnstest builds the networks that tests run in: named network
// namespaces joined by veth pairs, and helper processes inside them.
//
// It owns the namespaces it makes and removes them when the test ends. It must
// never touch the namespace the tests were started in, and never enter another
// one in this process: a Go process has many threads, so whatever starts
// goroutines runs in a process of its own ([NS.Self], [NS.Command]).
package netnstest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Root skips the test loudly where it can't have namespaces. CI counts the
// lines that begin with "SKIPPED (privileged)".
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "needs root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		skip(t, "needs iproute2: apt-get install iproute2")
	}
}

// Need skips the test loudly where one of the programs is missing.
func Need(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			skip(t, "needs the program "+p)
		}
	}
}

func skip(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("PIC_TEST_NO_SKIP") != "" {
		t.Fatalf("not allowed to skip here: %s", why)
	}
	t.Skipf("SKIPPED (privileged) %s: %s", t.Name(), why)
}

// NS is a network namespace of this test's own, with lo up, forwarding and
// IPv6 duplicate address detection off.
type NS struct {
	// Name is what `ip netns` knows it by; it is unique on the machine.
	Name string
	t    testing.TB
}

var serial atomic.Int64

// New makes a namespace; label is for people (≤ 8 characters).
func New(t testing.TB, label string) *NS {
	t.Helper()
	Root(t)
	n := &NS{Name: fmt.Sprintf("pt%d-%d-%s", os.Getpid(), serial.Add(1), label), t: t}
	run(t, "ip", "netns", "add", n.Name)
	t.Cleanup(func() {
		n.killAll()
		_ = exec.Command("ip", "netns", "del", n.Name).Run()
	})
	n.Exec("ip", "link", "set", "lo", "up")
	// A new namespace may inherit the host's settings: set what tests depend on.
	n.Sysctl("net.ipv4.ip_forward", "0")
	n.Sysctl("net.ipv6.conf.all.forwarding", "0")
	for _, c := range []string{"all", "default"} {
		n.Sysctl("net.ipv4.conf."+c+".rp_filter", "0")
		n.Sysctl("net.ipv6.conf."+c+".accept_dad", "0")
		n.Sysctl("net.ipv6.conf."+c+".accept_ra", "0")
	}
	return n
}

// killAll ends every process left in the namespace.
func (n *NS) killAll() {
	out, _ := exec.Command("ip", "netns", "pids", n.Name).Output()
	for p := range strings.FieldsSeq(string(out)) {
		var pid int
		if _, err := fmt.Sscan(p, &pid); err == nil && pid != os.Getpid() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// Exec runs a program inside and returns what it printed; a failure fails the test.
func (n *NS) Exec(name string, args ...string) string {
	n.t.Helper()
	out, err := n.Try(name, args...)
	if err != nil {
		n.t.Fatalf("in %s: %s %s: %v\n%s", n.Name, name, strings.Join(args, " "), err, out)
	}
	return out
}

// Try runs a program inside with a limit of 60 s and returns stdout and stderr.
func (n *NS) Try(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	c := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", n.Name, name}, args...)...)
	c.WaitDelay = time.Second
	out, err := c.CombinedOutput()
	return string(out), err
}

// Sh runs shell text inside; a failure fails the test.
func (n *NS) Sh(script string) string {
	n.t.Helper()
	return n.Exec("sh", "-ec", script)
}

// Command prepares a program inside the namespace; the caller starts it. The
// process is killed when the test ends.
func (n *NS) Command(name string, args ...string) *exec.Cmd {
	c := exec.CommandContext(n.t.Context(), "ip", append([]string{"netns", "exec", n.Name, name}, args...)...)
	c.WaitDelay = time.Second
	return c
}

// Sysctl sets a kernel parameter inside; a failure fails the test.
func (n *NS) Sysctl(key, value string) {
	n.t.Helper()
	n.Exec("sh", "-c", `printf %s "$2" > /proc/sys/$(printf %s "$1" | tr . /)`, "sh", key, value)
}

// Veth joins a and b by a pair of interfaces and gives each end its addresses
// (CIDR, v4 and v6).
func Veth(a *NS, ifA string, addrsA []string, b *NS, ifB string, addrsB []string) {
	a.t.Helper()
	run(a.t, "ip", "link", "add", ifA, "netns", a.Name, "type", "veth", "peer", "name", ifB, "netns", b.Name)
	a.up(ifA, addrsA)
	b.up(ifB, addrsB)
	a.carried(ifA)
	b.carried(ifB)
}

// carried waits until the kernel has acted on the link's carrier. It does that
// in a queue of its own, up to a second late on a busy machine, and loses what
// is sent before.
func (n *NS) carried(dev string) {
	n.t.Helper()
	Eventually(n.t, 10*time.Second, func() error {
		out, err := n.Try("cat", "/sys/class/net/"+dev+"/operstate")
		if err == nil && strings.TrimSpace(out) != "up" {
			err = fmt.Errorf("%s is %s", dev, strings.TrimSpace(out))
		}
		return err
	})
}

func (n *NS) up(dev string, addrs []string) {
	n.t.Helper()
	for _, x := range addrs {
		netip.MustParsePrefix(x)
		args := []string{"addr", "add", x, "dev", dev}
		if strings.Contains(x, ":") {
			args = append(args, "nodad")
		}
		n.Exec("ip", args...)
	}
	n.Exec("ip", "link", "set", dev, "up")
}

func run(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

const selfEnv = "PIC_NETNSTEST_SELF"

// Helpers are functions a test binary runs in a process of its own, inside a
// namespace. Register them in TestMain, before anything else:
//
//	func TestMain(m *testing.M) {
//		netnstest.Main(m, netnstest.Helpers{"server": serve})
//	}
type Helpers map[string]func(args []string) error

// Main runs the helper that this process was started for, or the tests.
func Main(m *testing.M, h Helpers) {
	if v := os.Getenv(selfEnv); v != "" {
		var args []string
		if err := json.Unmarshal([]byte(v), &args); err != nil || len(args) == 0 || h[args[0]] == nil {
			fmt.Fprintln(os.Stderr, "netnstest: no such helper:", v)
			os.Exit(3)
		}
		if err := h[args[0]](args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Self prepares this test binary's helper name as a process inside the
// namespace. The caller sets pipes and starts it; it is killed when the test
// ends.
func (n *NS) Self(helper string, args ...string) *exec.Cmd {
	n.t.Helper()
	self, err := os.Executable()
	if err != nil {
		n.t.Fatal(err)
	}
	v, err := json.Marshal(append([]string{helper}, args...))
	if err != nil {
		n.t.Fatal(err)
	}
	c := n.Command(self)
	c.Env = append(os.Environ(), selfEnv+"="+string(v))
	return c
}

// Start starts c and collects its output, which is logged when the test fails.
// The returned function stops the process and waits for it; it runs at the
// test's end too.
func Start(t testing.TB, c *exec.Cmd) (stop func()) {
	t.Helper()
	var out bytes.Buffer
	if c.Stdout == nil {
		c.Stdout = &out
	}
	if c.Stderr == nil {
		c.Stderr = &out
	}
	if err := c.Start(); err != nil {
		t.Fatalf("starting %s: %v", c, err)
	}
	done := make(chan struct{})
	go func() { _ = c.Wait(); close(done) }()
	stop = func() {
		_ = c.Process.Kill()
		<-done
	}
	t.Cleanup(func() {
		stop()
		if t.Failed() && out.Len() > 0 {
			t.Logf("%s printed:\n%s", c, out.String())
		}
	})
	return stop
}

// Eventually waits until f returns nil, at most d, and fails the test with
// f's last error otherwise.
func Eventually(t testing.TB, d time.Duration, f func() error) {
	t.Helper()
	deadline := time.Now().Add(d)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %v", d, err)
		}
		<-tick.C
	}
}
