package main_test

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	main "github.com/personal-internet-cell/pic/cmd/pic"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

func hexKey(v string) (string, error) {
	b, err := base64.StdEncoding.DecodeString(v)
	return hex.EncodeToString(b), err
}

// backBound is the promise for a listener that panicked; a loaded machine is
// given more before the test fails.
const (
	backBound = time.Second
	backLimit = 3 * time.Second
)

// panicCase is a place of the running program that panics once.
type panicCase struct {
	fault string
	tells string            // how the notice's subject begins
	cause func(*host)       // nil: the probes are enough, or time
	hits  []string          // probes that may miss an answer
	guard map[string]string // what of the house it stands for: tasks and sockets
}

func tasks(names ...string) map[string]string   { return guards("task ", names) }
func sockets(names ...string) map[string]string { return guards("socket ", names) }

func guards(kind string, names []string) map[string]string {
	m := map[string]string{}
	for _, n := range names {
		m[kind+n] = n
	}
	return m
}

var dnsUDP, allDNS = []string{"dns fast", "dns slow"}, []string{"dns fast", "dns slow", "dns tcp"}

func restart(h *host) { h.want(202, "POST", "/api/dns/restart", "{}") }

func address(h *host) {
	h.ns.Exec("ip", "addr", "add", "192.0.2.77/32", "dev", "lo")
	h.ns.Exec("ip", "addr", "del", "192.0.2.77/32", "dev", "lo")
}

// sources makes a new plan for the clock; the server named answers nothing.
func sources(h *host) {
	last := time.Now().UnixNano() % 200
	h.want(200, "PUT", "/api/config", fmt.Sprintf(`{"clock":{"sources":["192.168.77.%d"]}}`, 10+last))
}

var panicCases = []panicCase{
	{"dns fast path", "dns query", nil, dnsUDP, nil},
	{"dns slow path", "dns query", nil, allDNS, nil},
	{"dns udp listener", "dns udp ", nil, dnsUDP, sockets("udp 53")},
	{"dns tcp listener", "dns tcp ", nil, []string{"dns tcp"}, sockets("tcp 53")},
	{"dns tcp connection", "dns query", nil, []string{"dns tcp"}, tasks("dns")},
	{"dns forwarder", "dns forwarder", func(h *host) {
		_, _ = h.far.Try("timeout", "2", "dig", "+tries=1", "+time=1", "@"+h.gateway(), fmt.Sprintf("a%d.example.org", time.Now().UnixNano()))
	}, nil, nil},
	{"ntp listener", "ntp ", nil, []string{"ntp"}, sockets("udp 123")},
	{"ntp packet", "ntp packet", nil, []string{"ntp"}, nil},
	{"ntp query", "ntp query", sources, nil, nil},
	{"clock discipline", "clock discipline", sources, nil, tasks("ntp")},
	{"listener https", "listener https", nil, []string{"200 https"}, sockets("tcp 443")},
	{"https request", "proxy request", nil, []string{"200 https"}, nil},
	{"listener http", "listener http", nil, []string{"308 http"}, sockets("tcp 80")},
	{"http request", "proxy request", nil, []string{"308 http"}, tasks("proxy")},
	{"listener socket", "socket", nil, []string{"200 socket"}, sockets("unix pic.sock")},
	{"socket request", "socket request", nil, []string{"200 socket"}, tasks("socket")},
	{"listener plain api", "api", nil, []string{"401 plain api"}, sockets("tcp 3000")},
	{"plain api request", "plain api request", nil, []string{"401 plain api"}, tasks("api")},
	{"api request", "api request", nil, []string{"200 socket", "200 https", "401 plain api"}, nil},
	{"listener debug", "debug", nil, []string{"200 debug"}, sockets("tcp 6060")},
	{"debug request", "debug request", nil, []string{"200 debug"}, tasks("debug")},
	{"tunnel receive", "tunnel receive", nil, append([]string{"ntp"}, allDNS...), sockets("udp 51820")},
	{"tunnel watch", "tunnel watch", address, nil, tasks("tunnel watch")},
	{"peer poll", "peer poll", nil, nil, nil},
	{"rtnetlink events", "rtnetlink events", address, nil, nil},
	{"nftables events", "nftables events", func(h *host) {
		h.ns.Exec("nft", "add table inet other; delete table inet other")
	}, nil, nil},
	{"kernel parameters", "kernel parameters", nil, nil, tasks("firewall watch")},
	{"facts", "facts", address, nil, tasks("facts")},
	{"audit", "audit", sources, nil, tasks("audit")},
	{"policy tests", "policy tests", sources, nil, tasks("policy tests")},
	{"engine", "engine", restart, nil, nil},
	{"applying firewall", "applying firewall", restart, nil, nil},
	{"applying tunnel", "applying tunnel", restart, nil, nil},
	{"applying dns", "applying dns", restart, nil, nil},
	{"applying ntp", "applying ntp", restart, nil, nil},
	{"applying proxy", "applying proxy", restart, nil, nil},
	{"applying certs", "applying certs", nil, nil, tasks("certs")},
	{"applying policy", "applying policy", nil, nil, nil},
	// These do nothing but wait for a timer and write what is in memory, or ask
	// the engine; they are run again like the others, see lifecycle.Guarded.
	{"", "", nil, nil, tasks("setup code", "sessions", "backoff", "tokens", "watchdog", "reload")},
}

// told is how many panics the notice of a subject speaks of.
func (h *host) told(subject string) (n int) {
	h.t.Helper()
	r, err := h.try("GET", "/api/status", "")
	if err != nil || r.status != 200 {
		return -1
	}
	var st struct {
		Notices []struct{ Code, Subject, Text string }
	}
	st = into[struct {
		Notices []struct{ Code, Subject, Text string }
	}](h.t, r)
	for _, x := range st.Notices {
		if _, rest, found := strings.Cut(x.Text, "("); found && x.Code == "panic" && strings.HasPrefix(x.Subject, subject) {
			var k int
			if _, err := fmt.Sscan(rest, &k); err == nil {
				n += k
			}
		}
	}
	return n
}

// A panic in each listener and each long-lived task of the real program: what
// panicked is back within a second, all others answer all the while, and the
// panic is counted and told of.
func TestAPanicAnywhereCostsNothingElse(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	faults := h.path("faults")
	if err := os.Mkdir(faults, 0o755); err != nil {
		t.Fatal(err)
	}
	file := h.path("init.json")
	if err := os.WriteFile(file, []byte(draft), 0o600); err != nil {
		t.Fatal(err)
	}
	h.start([]string{"PIC_INIT_FILE=" + file, "PIC_FAULTS=" + faults}, "--api", "--debug", "127.0.0.1:6060", "--resync", "1s")
	w := h.watched()
	w.round()
	h.everySocketHasACase()
	slowest, where := time.Duration(0), ""
	for _, c := range panicCases {
		if c.fault == "" {
			continue
		}
		before := h.told(c.tells)
		w.take()
		began := time.Now()
		if err := os.WriteFile(filepath.Join(faults, c.fault), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if c.cause != nil {
			c.cause(h)
		}
		netnstest.Eventually(t, 10*time.Second, func() error {
			if _, err := os.Stat(filepath.Join(faults, c.fault)); err == nil {
				return fmt.Errorf("%s: nothing came by", c.fault)
			}
			return nil
		})
		netnstest.Eventually(t, 10*time.Second, func() error {
			if now := h.told(c.tells); now != before+1 {
				return fmt.Errorf("%s: %d panics of %q are told of, want %d", c.fault, now, c.tells, before+1)
			}
			for _, x := range h.status().Conditions {
				if x.State != "in-sync" {
					return fmt.Errorf("%s: %s is %s: %s", c.fault, x.Stage, x.State, x.Reason)
				}
			}
			return nil
		})
		settled := time.Since(began)
		for name, s := range w.round(c.hits...) {
			hit := slices.Contains(c.hits, name)
			if !hit && s.Failures > 0 {
				t.Errorf("%s: %s missed %d answers: %s", c.fault, name, s.Failures, s.Last)
			}
			if hit {
				if s.Gap > slowest {
					slowest, where = s.Gap, c.fault+", "+name
				}
				if s.Gap > backLimit {
					t.Errorf("%s: %s was away for %v", c.fault, name, s.Gap)
				}
			}
		}
		t.Logf("%s: told of and in sync after %v", c.fault, settled.Round(time.Millisecond))
	}
	fmt.Printf("PANICS: %d places, all back, nothing else missed an answer; longest gap %v (%s; bound %v)\n", len(panicCases)-1, slowest.Round(time.Millisecond), where, backBound)
}

// everySocketHasACase compares what the process listens on with the table.
func (h *host) everySocketHasACase() {
	h.t.Helper()
	known := map[string]bool{}
	for _, c := range panicCases {
		for k := range c.guard {
			known[k] = true
		}
	}
	found := 0
	pid := fmt.Sprintf("pid=%d,", h.cmd.Process.Pid)
	for line := range strings.Lines(h.ns.Exec("ss", "-Hlntuxp")) {
		f := strings.Fields(line)
		if !strings.Contains(line, pid) || len(f) < 5 {
			continue
		}
		name := f[0] + " " + f[4][strings.LastIndex(f[4], ":")+1:]
		if f[0] == "u_str" {
			name = "unix " + filepath.Base(f[4])
		}
		found++
		if !known["socket "+name] {
			h.t.Errorf("no case lets the listener %q panic: %s", name, line)
		}
	}
	if found < 9 {
		h.t.Errorf("only %d listeners were found: the test does not see them", found)
	}
}

// A new task, and a new place for a fault, needs a case.
func TestEveryTaskHasAPanicCase(t *testing.T) {
	known := map[string]bool{}
	for _, c := range panicCases {
		known["fault "+c.fault] = true
		for k := range c.guard {
			known[k] = true
		}
	}
	names, err := main.TaskNames(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if !known["task "+n] {
			t.Errorf("no case lets the task %q panic", n)
		}
	}
	call := regexp.MustCompile(`lifecycle\.Fault\("([^"]+)"\)`)
	found := 0
	err = filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && (d.Name() == "node_modules" || d.Name() == ".git") {
			return fs.SkipDir
		}
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, m := range call.FindAllStringSubmatch(string(b), -1) {
			found++
			if !known["fault "+m[1]] {
				t.Errorf("%s: the fault %q has no case", path, m[1])
			}
		}
		return err
	})
	if err != nil || found < 15 {
		t.Fatalf("%d faults found, %v", found, err)
	}
}

// While the firewall can't be put in place, nothing is promised: neither a
// claim nor a change is taken, and the reason is said.
func TestWithoutAFirewallNothingIsTaken(t *testing.T) {
	h := newHost(t)
	fault := h.path("faults/applying firewall")
	if err := os.MkdirAll(fault, 0o755); err != nil { // a folder: it panics every time
		t.Fatal(err)
	}
	file := h.path("init.json")
	if err := os.WriteFile(file, []byte(draft), 0o600); err != nil {
		t.Fatal(err)
	}
	env := []string{"PIC_INIT_FILE=" + file, "PIC_FAULTS=" + h.path("faults")}
	h.start(env)
	if !strings.Contains(h.log.String(), "init file not used") {
		t.Error("nothing says why the cell is not claimed")
	}
	h.want(428, "GET", "/api/status", "")
	mend := func() {
		t.Helper()
		if err := os.Remove(fault); err != nil {
			t.Fatal(err)
		}
	}
	mend()
	h.kill()
	h.start(env)
	h.want(201, "POST", "/api/peers", addLaptop)
	if err := os.Mkdir(fault, 0o755); err != nil {
		t.Fatal(err)
	}
	r := h.want(503, "POST", "/api/peers", addPhone)
	if p := string(r.body); !strings.Contains(p, `"unprotected"`) || !strings.Contains(p, "firewall") {
		t.Errorf("the refusal says %s", p)
	}
	if state, kernel := h.peers(); !slices.Equal(state, []string{"laptop"}) || !slices.Equal(kernel, state) {
		t.Errorf("state %v, kernel %v", state, kernel)
	}
	mend()
	h.want(201, "POST", "/api/peers", addPhone)
}
