package main_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// The bars of a flood: memory of the process, how long until all is as before,
// and how much slower others are served meanwhile. The last is only printed:
// here the flood, those who are flooded and everything else share a processor.
const (
	floodMemory  = 256 << 20
	floodRecover = 10 * time.Second
)

var floods = []struct {
	kind, target string
	peer         bool // through the tunnel, as a peer
}{
	{"wireguard junk", "192.168.77.2:51820", false},
	{"spoofed tunnel", "192.168.77.2:0", false},
	{"spoofed dns", "192.168.77.2:0", false},
	{"dns names", "gateway:53", true},
	{"dns own names", "gateway:53", true},
	{"dns any", "gateway:53", true},
	{"dns connections", "gateway:53", true},
	{"ntp", "gateway:123", true},
	{"connections", "192.168.77.2:443", false},
	{"tls half-open", "192.168.77.2:443", false},
	{"slow http", "192.168.77.2:80", false},
}

// Whoever is flooded answers others all the while, stays within its memory, and
// is as before within ten seconds.
func TestFloods(t *testing.T) {
	t.Parallel()
	length := time.Duration(torture(1, 20)) * time.Second
	h := newHost(t)
	h.claimed("--api", "--debug", "127.0.0.1:6060")
	evil := netnstest.New(t, "evil")
	netnstest.Veth(h.far, "eth1", []string{"192.168.78.1/24"}, evil, "eth0", []string{"192.168.78.2/24"})
	evil.Exec("ip", "route", "add", "default", "via", "192.168.78.1")
	h.far.Sysctl("net.ipv4.ip_forward", "1")
	for i := 10; i < 60; i++ {
		evil.Exec("ip", "addr", "add", fmt.Sprintf("192.168.78.%d/24", i), "dev", "eth0")
	}
	// Forwarders that never answer, so that what waits for them piles up.
	h.want(200, "PUT", "/api/config", `{"dns":{"forwarders":[{"address":"192.168.78.201:53","protocol":"dns"},{"address":"192.168.78.202:53","protocol":"dns"}],"public":true}}`)
	w := h.watched()
	attacker := h.peerConfig("attacker")
	w.round()
	w.take()
	<-time.After(length)
	idle := w.take()
	fmt.Printf("FLOOD %-16s memory %4d MiB, p99 %s\n", "none", h.memory()>>20, latencies(idle, nil))
	for _, f := range floods {
		args := []string{f.kind, strings.Replace(f.target, "gateway", h.gateway(), 1), length.String()}
		if f.peer {
			args = append(args, attacker)
		}
		c := evil.Self("flooder", args...)
		var out lockedBuffer
		c.Stdout, c.Stderr = &out, os.Stderr
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- c.Wait() }()
		most := uint64(0)
		w.take()
		during := map[string]seen{}
		for done := false; !done; {
			select {
			case err := <-ended:
				if done = true; err != nil {
					t.Fatalf("%s: %v", f.kind, err)
				}
			case <-time.After(100 * time.Millisecond):
			}
			most = max(most, h.memory())
		}
		for name, s := range w.take() {
			during[name] = s
		}
		began := time.Now()
		w.round()
		// Recovered: every probe is answered, and none fails for half a second.
		netnstest.Eventually(t, 60*time.Second, func() error {
			w.take()
			<-time.After(500 * time.Millisecond)
			for name, s := range w.take() {
				if s.Failures > 0 || (s.Answers == 0 && name != "ntp") {
					return fmt.Errorf("%s: %s", name, s.Last)
				}
			}
			return nil
		})
		recovered := time.Since(began) - 500*time.Millisecond
		most = max(most, h.memory())
		heap := h.heap()
		got := strings.TrimSpace(out.String())
		fmt.Printf("FLOOD %-16s memory %4d MiB (%d MiB live afterwards), recovered after %v, p99 %s, flood %s\n", f.kind, most>>20, heap>>20, recovered.Round(10*time.Millisecond), latencies(during, idle), got)
		if most > floodMemory {
			t.Errorf("%s: %d MiB of memory", f.kind, most>>20)
		}
		if recovered > floodRecover {
			t.Errorf("%s: recovered after %v", f.kind, recovered)
		}
		for name, s := range during {
			// Who floods through the tunnel as a peer is another source than the
			// prober; only what waits in one queue with it may be lost.
			if s.Answers == 0 && name != "ntp" {
				t.Errorf("%s: %s answered nobody: %s", f.kind, name, s.Last)
			}
		}
		if strings.HasPrefix(got, `{"sent":0,`) || got == "" {
			t.Errorf("%s: nothing was sent: %s", f.kind, got)
		}
	}
}

// memory is what the cell's process has in memory now.
func (h *host) memory() uint64 {
	h.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.cmd.Process.Pid))
	if err != nil {
		h.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	kib, err := strconv.ParseUint(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		h.t.Fatal(err)
	}
	return kib << 10
}

// heap is what the process has in use after a garbage collection.
func (h *host) heap() uint64 {
	h.t.Helper()
	out := h.ns.Exec("curl", "-s", "http://127.0.0.1:6060/debug/pprof/heap?gc=1&debug=1")
	_, rest, _ := strings.Cut(out, "# HeapAlloc = ")
	n, err := strconv.ParseUint(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		h.t.Fatal(err)
	}
	return n
}

// latencies prints p99 of each probe, and how many times that of idle it is.
func latencies(now, idle map[string]seen) string {
	var b strings.Builder
	for _, name := range []string{"dns fast", "dns slow", "dns tcp", "ntp", "200 https", "308 http", "200 socket"} {
		s := now[name]
		fmt.Fprintf(&b, "%s %.1f ms", name, s.p99().Seconds()*1000)
		if was := idle[name].p99(); was > 0 {
			fmt.Fprintf(&b, " (%.1f×)", float64(s.p99())/float64(was))
		}
		if s.Failures > 0 {
			fmt.Fprintf(&b, " %d of %d lost", s.Failures, s.Failures+s.Answers)
		}
		b.WriteString(", ")
	}
	return strings.TrimSuffix(b.String(), ", ")
}
