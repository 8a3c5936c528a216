//go:build bench

// Package cell_test measures the real binary in a namespace of its own: how
// soon it protects and answers, what a change costs, and with how many peers.
package cell_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/certs"
	"github.com/personal-internet-cell/pic/datastore"
	"github.com/personal-internet-cell/pic/dns"
	"github.com/personal-internet-cell/pic/firewall"
	"github.com/personal-internet-cell/pic/internal/netnstest"
	"github.com/personal-internet-cell/pic/ntp"
	"github.com/personal-internet-cell/pic/proxy"
	"github.com/personal-internet-cell/pic/tunnel"
)

func TestMain(m *testing.M) {
	netnstest.Main(m, netnstest.Helpers{"first-answer": firstAnswer})
}

// firstAnswer asks the cell's name server every millisecond and prints the time
// of its first answer.
func firstAnswer(args []string) error {
	query := binary.BigEndian.AppendUint16(nil, 1)
	query = append(query, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0) // RD, one question
	query = append(query, "\x04home\x08internal\x00\x00\x01\x00\x01"...)
	for range 20000 {
		c, err := net.Dial("udp", net.JoinHostPort(args[0], "53"))
		if err != nil { // no route to it yet
			time.Sleep(time.Millisecond)
			continue
		}
		if err := c.SetDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
			return err
		}
		began := time.Now()
		_, _ = c.Write(query)
		n, err := c.Read(make([]byte, 512))
		c.Close()
		if err == nil && n > 12 {
			fmt.Println(time.Now().UnixNano())
			return nil
		}
		time.Sleep(time.Until(began.Add(time.Millisecond)))
	}
	return errors.New("no answer within 20 s")
}

func say(bar, what string, value any, limit string) {
	fmt.Printf("%-3s %-58s %14v   bar %s\n", bar, what, value, limit)
}

// box is a namespace with the real binary.
type box struct {
	t    *testing.T
	ns   *netnstest.NS
	bin  string
	dir  string
	cmd  *exec.Cmd
	done chan struct{}
	log  bytes.Buffer
}

// debugAddress serves the profiles of the running cell, inside its namespace.
const debugAddress = "127.0.0.1:6060"

// profile saves profiles of the cell to the folder PIC_BENCH_PROFILE, if set:
// of its CPU while f runs, and of its heap and goroutines afterwards.
func (b *box) profile(label string, f func()) {
	b.t.Helper()
	dir := os.Getenv("PIC_BENCH_PROFILE")
	if dir == "" {
		f()
		return
	}
	get := func(what, query string) *exec.Cmd {
		c := b.ns.Command("curl", "-sSf", "-o", filepath.Join(dir, label+"."+what), "http://"+debugAddress+"/debug/pprof/"+what+query)
		if err := c.Start(); err != nil {
			b.t.Fatal(err)
		}
		return c
	}
	cpu := get("profile", "?seconds=5")
	f()
	for _, c := range []*exec.Cmd{cpu, get("heap", "?gc=1"), get("goroutine", "")} {
		if err := c.Wait(); err != nil {
			b.t.Errorf("reading a profile: %v", err)
		}
	}
}

const draft = `{"cell_name":"home","domain_mode":"lan","timezone":"UTC","user":"admin","password":"ultramarine kettle 93"}`

func newBox(t *testing.T) *box {
	t.Helper()
	netnstest.Need(t, "nft")
	b := &box{t: t, ns: netnstest.New(t, "cell"), dir: t.TempDir()}
	b.bin = filepath.Join(b.dir, "pic")
	c := exec.Command("go", "build", "-trimpath", "-tags", "nomsgpack", "-ldflags", "-s -w", "-o", b.bin, "../../cmd/pic")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	far := netnstest.New(t, "far")
	netnstest.Veth(b.ns, "eth0", []string{"192.168.77.2/24"}, far, "eth0", []string{"192.168.77.1/24"})
	b.ns.Exec("ip", "route", "add", "default", "via", "192.168.77.1")
	t.Cleanup(func() {
		b.stop()
		if t.Failed() {
			t.Logf("the cell logged:\n%.4000s", b.log.String())
		}
	})
	return b
}

func (b *box) path(name string) string { return filepath.Join(b.dir, name) }

// start runs the cell and returns when it said that it is up.
func (b *box) start(env ...string) (took time.Duration) {
	b.t.Helper()
	_ = os.Remove(b.path("run/ready"))
	began := time.Now()
	b.cmd = b.ns.Command(b.bin, "serve", "--state", b.path("state"), "--runtime", b.path("run"), "--debug", debugAddress)
	b.cmd.Env = append(os.Environ(), env...)
	b.cmd.Stdout, b.cmd.Stderr = &b.log, &b.log
	if err := b.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.done = make(chan struct{})
	go func(c *exec.Cmd, done chan struct{}) { _ = c.Wait(); close(done) }(b.cmd, b.done)
	netnstest.Eventually(b.t, time.Minute, func() error { _, err := os.Stat(b.path("run/ready")); return err })
	return time.Since(began)
}

func (b *box) stop() {
	if b.cmd == nil {
		return
	}
	_ = b.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-b.done:
	case <-time.After(10 * time.Second):
		_ = b.cmd.Process.Kill()
		<-b.done
	}
	b.cmd = nil
}

// residentMiB of the running cell (proc(5)).
func (b *box) residentMiB() int {
	b.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.cmd.Process.Pid))
	if err != nil {
		b.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		b.t.Fatal(err)
	}
	return n >> 10
}

func (b *box) call(method, path, body string) []byte {
	b.t.Helper()
	c := http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", b.path("run/pic.sock"))
	}}}
	req, err := http.NewRequest(method, "http://pic"+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode/100 != 2 {
		b.t.Fatalf("%s %s: %d %v %s", method, path, resp.StatusCode, err, out)
	}
	return out
}

// addPeers measures how long a peer takes from the request to the answer,
// which comes when it is durable, in the kernel and in DNS; the last is looked up.
func (b *box) addPeers(label string, n int) time.Duration {
	b.t.Helper()
	var took []time.Duration
	var last struct {
		Address4 string `json:"address4"`
	}
	for i := range n {
		name := fmt.Sprintf("bench-%s-%d", label, i)
		began := time.Now()
		out := b.call("POST", "/api/peers", fmt.Sprintf(`{"name":%q,"generate_key":true}`, name))
		took = append(took, time.Since(began))
		var answer map[string]json.RawMessage
		if err := json.Unmarshal(out, &answer); err != nil {
			b.t.Fatal(err)
		}
		peer := out
		if p, nested := answer["peer"]; nested {
			peer = p
		}
		if err := json.Unmarshal(peer, &last); err != nil {
			b.t.Fatal(err)
		}
	}
	if nft := b.ns.Exec("nft", "list", "map", "inet", "pic", "mark4"); last.Address4 == "" || !strings.Contains(nft, last.Address4+" ") {
		b.t.Errorf("the last peer, %s, is not in the kernel", last.Address4)
	}
	slices.Sort(took)
	return took[len(took)/2]
}

// TestStart is P8.
func TestStart(t *testing.T) {
	b := newBox(t)
	if err := os.WriteFile(b.path("init.json"), []byte(draft), 0o600); err != nil {
		t.Fatal(err)
	}
	b.start("PIC_INIT_FILE=" + b.path("init.json"))
	st, err := os.Stat(b.bin)
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Network struct {
			Tunnel struct {
				Prefix4 netip.Prefix `json:"prefix4"`
			} `json:"tunnel"`
		} `json:"network"`
	}
	if err := json.Unmarshal(b.call("GET", "/api/config", ""), &config); err != nil {
		t.Fatal(err)
	}
	gateway := config.Network.Tunnel.Prefix4.Addr().Next().String()
	var toFirewall, toDNS, toReady []time.Duration
	for range 5 {
		b.stop()
		b.ns.Exec("nft", "flush", "ruleset")
		watchers := map[*exec.Cmd]*[]time.Duration{
			b.ns.Self("first-answer", gateway): &toDNS,
			b.ns.Command("sh", "-c", "until nft list table inet pic >/dev/null 2>&1; do :; done; date +%s%N"): &toFirewall,
		}
		said := map[*exec.Cmd]chan string{}
		for c := range watchers {
			said[c] = make(chan string, 1)
			go func(to chan<- string) {
				out, err := c.Output()
				if err != nil {
					out = []byte(err.Error())
				}
				to <- string(out)
			}(said[c])
		}
		began := time.Now()
		toReady = append(toReady, b.start())
		for c, to := range watchers {
			text := <-said[c]
			n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
			if err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			*to = append(*to, time.Unix(0, n).Sub(began))
		}
	}
	middle := func(d []time.Duration) time.Duration { slices.Sort(d); return d[len(d)/2].Round(time.Millisecond) }
	say("P8", "start to firewall in place, a claimed cell", middle(toFirewall), "≤ 100ms")
	say("P8", "start to DNS answering", middle(toDNS), "≤ 300ms")
	say("", "start to ready", middle(toReady), "-")
	say("P8", "idle memory, MiB", b.residentMiB(), "≤ 60")
	say("P8", "binary, stripped, MiB", st.Size()>>20, "≤ 45")
}

// TestPeers is P5.
func TestPeers(t *testing.T) {
	b := newBox(t)
	if err := os.WriteFile(b.path("init.json"), []byte(draft), 0o600); err != nil {
		t.Fatal(err)
	}
	b.start("PIC_INIT_FILE=" + b.path("init.json"))
	b.addPeers("warm", 10)
	b.profile("ten", func() {
		say("P5", "add a peer at 10 peers, p50 of 50", b.addPeers("ten", 50).Round(10*time.Microsecond), "≤ 15ms")
	})
	b.stop()
	b.stock(10000)
	say("P5", "boot with 10,000 peers to ready", b.start().Round(time.Millisecond), "≤ 3s")
	b.profile("many", func() {
		say("P5", "add a peer at 10,000 peers, p50 of 15", b.addPeers("many", 15).Round(10*time.Microsecond), "≤ 50ms")
	})
	say("P5", "memory at 10,000 peers, MiB", b.residentMiB(), "≤ 150")
}

// stock puts n more peers into the state of a stopped cell, and what edits add.
func (b *box) stock(n int, edits ...func(*cell.State)) {
	b.t.Helper()
	store, err := datastore.Open(&datastore.Config{Dir: b.path("state"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.t.Fatal(err)
	}
	defer store.Close()
	loaded, err := store.Load()
	if err != nil {
		b.t.Fatal(err)
	}
	old := loaded.State
	s := old.Clone()
	many(b.t, s, n)
	for _, edit := range edits {
		edit(s)
	}
	if err := s.Validate(); err != nil {
		b.t.Fatalf("%.2000s", err)
	}
	next := cell.RevisionInfo{Number: store.Next(), Parent: loaded.Revision, Time: time.Now().UTC(), Author: cell.Author{Name: "bench", Via: "system"}}
	if err := store.Write(next, s, cell.Changed(old, s)); err != nil {
		b.t.Fatal(err)
	}
	if err := store.SetStartup(next.Number); err != nil {
		b.t.Fatal(err)
	}
}

// many adds n peers with addresses in a row.
func many(t *testing.T, s *cell.State, n int) {
	t.Helper()
	s.Network.Tunnel.Prefix4 = s.Network.Tunnel.Reserved4
	v4, v6, err := s.FreeAddresses()
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		var key [32]byte
		_, _ = rand.Read(key[:])
		s.Peers = append(s.Peers, cell.Peer{
			Name: fmt.Sprintf("stock-%d", i), PublicKey: cell.Key(base64.StdEncoding.EncodeToString(key[:])),
			Address4: v4, Address6: v6, Enabled: true, Destinations: cell.FullTunnel, Trust: cell.TrustGuest, Keepalive: 25, Created: time.Now().UTC(),
		})
		v4, v6 = v4.Next(), v6.Next()
	}
}

// TestCompile is P9.
func TestCompile(t *testing.T) {
	for _, c := range []struct {
		peers int
		bar   string
	}{{1000, "≤ 5ms"}, {10000, "≤ 30ms"}} {
		s := cell.Factory([16]byte{1}, "tunnel", "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
		s.Identity = cell.Identity{Name: "home", Mode: cell.ModeLAN}
		s.Users = []cell.User{{Name: "admin", Role: cell.RoleAdmin, PasswordHash: "pw"}}
		for i := range 50 {
			s.Services = append(s.Services, cell.Service{ID: fmt.Sprintf("s%d", i), Subdomain: fmt.Sprintf("s%d", i), Access: cell.AccessGranted, Enabled: true, Upstream: fmt.Sprintf("http://192.168.1.20:%d", 8000+i)})
		}
		many(t, s, c.peers)
		for i := range 200 {
			s.Peers[i].Services = []string{fmt.Sprintf("s%d", i%50)}
		}
		if err := s.Validate(); err != nil {
			t.Fatalf("%.2000s", err)
		}
		f := cell.Facts{Uplink: cell.Uplink{Name: "eth0", Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.1.10/24")}}}
		parts := []struct {
			name string
			run  func() error
		}{
			{"firewall", func() error { _, err := firewall.Compile(s, f); return err }},
			{"tunnel", func() error { _, err := tunnel.Compile(s, f); return err }},
			{"dns", func() error { _, err := dns.Compile(s, f); return err }},
			{"ntp", func() error { _, err := ntp.Compile(s, f); return err }},
			{"proxy", func() error { _, err := proxy.Compile(s, f); return err }},
			{"certs", func() error { _, err := certs.Compile(s, f); return err }},
		}
		var total time.Duration
		for _, p := range parts {
			var took []time.Duration
			for range 15 {
				began := time.Now()
				if err := p.run(); err != nil {
					t.Fatalf("%s: %v", p.name, err)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			total += took[len(took)/2]
			say("", fmt.Sprintf("  %s, %d peers", p.name, c.peers), took[len(took)/2].Round(10*time.Microsecond), "-")
		}
		say("P9", fmt.Sprintf("compile all plans, %d peers, 200 grants", c.peers), total.Round(10*time.Microsecond), c.bar)
	}
}
