// Package leaktest_test tries to make an exit leak (bars KS-1, KS-2 and KS-3):
// the real binary, a peer on every type of exit that sends all the time, the
// far ends of the exits, and everything that can break between them. What a
// peer of an exit sends must never be seen on the uplink.
//
// `make leakmatrix` runs it with more rounds; see [rounds].
package leaktest_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/internal/labtest"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

var (
	rounds = flag.Int("rounds", 0, "how often each fault is tried, in an order of its own each time; 0: a handful, once")
	seed   = flag.Uint64("seed", 0, "of the order of the faults; 0: a new one")
	faulty = flag.String("faults", "", "only faults whose name contains this")
	only   = flag.String("exits", "", "only exits whose name contains this")
)

func TestMain(m *testing.M) {
	labtest.Main()
	flag.Parse()
	os.Exit(m.Run())
}

// binary returns a copy of the cell's program, PIC_BINARY or one built here: a
// fault replaces it.
func binary(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "pic")
	if given := os.Getenv("PIC_BINARY"); given != "" {
		b, err := os.ReadFile(given)
		if err == nil {
			err = os.WriteFile(bin, b, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
		return bin
	}
	c := exec.Command("go", "build", "-tags", "nomsgpack", "-o", bin, "../../cmd/pic")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("building the cell: %v\n%s", err, out)
	}
	return bin
}

// handful is how many faults, at random, `make test` tries.
const handful = 8

// subject is a peer on an exit of its own. Number 0 is the control: it leaves
// directly, so that the sniffer is seen to see.
type subject struct {
	n    int
	id   string // of the exit; direct for the control
	host *labtest.Host
	v4   netip.Addr
	v6   netip.Addr
}

type matrix struct {
	t        *testing.T
	lab      *labtest.Lab
	far      *labtest.ExitHost
	uplink   *labtest.Sniffer // what the cell sends to its router
	out      *labtest.Sniffer // what comes out of the exits
	subjects []*subject
	flags    []string
	binary   string
	before   labtest.Sighting
	through  labtest.Sighting
}

// exit is a way out to be tried: what the API is told, and the probes that its
// kind lets through (control of each trial).
type exit struct {
	id   string
	body func(e *labtest.ExitHost) map[string]any
}

var exits = []exit{
	{"nl", func(e *labtest.ExitHost) map[string]any {
		return map[string]any{"name": "nl", "type": "wireguard_ext", "config": e.WireGuard}
	}},
	{"shell", func(e *labtest.ExitHost) map[string]any {
		return map[string]any{"name": "shell", "type": "sshuttle", "config": "root@" + labtest.ExitAddress4 + ":" + labtest.ExitSSHPort, "private_key": e.SSHKey}
	}},
	{"socks", func(*labtest.ExitHost) map[string]any {
		return map[string]any{"name": "socks", "type": "proxy", "config": "socks5://" + labtest.ExitAddress4 + ":" + labtest.ExitSOCKSPort}
	}},
	{"web", func(*labtest.ExitHost) map[string]any {
		return map[string]any{"name": "web", "type": "proxy", "config": "http://" + labtest.ExitAddress4 + ":" + labtest.ExitCONNECTPort}
	}},
}

func newMatrix(t *testing.T) *matrix {
	netnstest.Need(t, "wg", "wg-quick", "resolvconf", "nft", "conntrack")
	m := &matrix{t: t, binary: binary(t), flags: []string{"--firewall", "full"}}
	m.lab = labtest.New(t, labtest.Options{Binary: m.binary})
	m.far = m.lab.NewExitHost()
	m.far.Run()
	init := filepath.Join(m.lab.Dir(), "init.json")
	b, err := json.Marshal(map[string]string{
		"cell_name": "home", "domain_mode": "lan", "timezone": "UTC", "user": "admin", "password": "walrus lantern gravel sonnet 41",
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(init, b, 0o600); err != nil {
		t.Fatal(err)
	}
	m.lab.Cell.Env = []string{"PIC_INIT_FILE=" + init}
	m.lab.Cell.Start(m.flags...)
	m.do("PUT", "/api/config", map[string]any{"dns": map[string]any{"forwarders": []any{map[string]any{"protocol": "dns", "address": labtest.InternetDNS4 + ":53"}}}})

	probe, _ := labtest.Canary(40)
	m.lab.AddCanaries(41)
	m.add("direct")
	for _, x := range exits {
		if *only != "" && !strings.Contains(x.id, *only) {
			continue
		}
		body := x.body(m.far)
		body["enabled"], body["probes"] = true, []string{probe.String() + ":7", labtest.InternetWeb4 + ":443"}
		m.do("POST", "/api/connectivity/exits", body)
		m.add(x.id)
	}
	var inside []netip.Prefix
	for _, s := range m.subjects[1:] {
		inside = append(inside, netip.PrefixFrom(s.v4, 32), netip.PrefixFrom(s.v6, 128))
	}
	far := []netip.Addr{netip.MustParseAddr(labtest.ExitAddress4), netip.MustParseAddr(labtest.ExitAddress6)}
	m.uplink = m.lab.Watch(m.lab.Router, m.lab.Cell.Host, far, inside)
	m.out = m.lab.Watch(m.lab.Internet, m.far.Host, nil, nil)
	for _, s := range m.subjects {
		m.lab.Flock(s.host, s.n, s.marker(), m.gateway())
	}
	return m
}

func (s *subject) marker() string {
	if s.n == 0 {
		return "control"
	}
	return fmt.Sprintf("exit%d", s.n)
}

func (m *matrix) do(method, path string, body any) labtest.Answer {
	m.t.Helper()
	a := m.lab.Cell.API(method, path, body)
	if a.Status/100 != 2 {
		m.t.Fatalf("%s %s: %d %s", method, path, a.Status, a.Body)
	}
	return a
}

// add makes a peer on a host of its own, with the exit.
func (m *matrix) add(id string) {
	n := len(m.subjects)
	s := &subject{n: n, id: id, host: m.lab.AddHost(fmt.Sprintf("peer%d", n), fmt.Sprintf("198.51.100.%d", 60+n), fmt.Sprintf("2001:db8:100::%x", 0x60+n))}
	var made struct {
		Config string
		Peer   struct{ Address4, Address6 netip.Addr }
	}
	if err := m.do("POST", "/api/peers", map[string]any{"name": fmt.Sprintf("peer%d", n), "generate_key": true, "exit": id}).Decode(&made); err != nil {
		m.t.Fatal(err)
	}
	s.v4, s.v6 = made.Peer.Address4, made.Peer.Address6
	m.lab.WGQuick(s.host, "pic", strings.Replace(made.Config, labtest.CellAddress4+":51820", labtest.RouterPublic4+":51820", 1))
	m.lab.Handshake(s.host, "pic")
	m.subjects = append(m.subjects, s)
}

func (m *matrix) gateway() string {
	a := m.subjects[0].v4.As4()
	return fmt.Sprintf("%d.%d.%d.1", a[0], a[1], a[2])
}

// control waits until the sniffer has seen new canaries of the direct peer and
// every exit carries new ones: only then does the absence of others mean
// anything.
func (m *matrix) control(d time.Duration) {
	m.t.Helper()
	m.before, m.through = m.uplink.Seen(), m.out.Seen()
	netnstest.Eventually(m.t, d, func() error {
		now, out := m.uplink.Seen(), m.out.Seen()
		c4, c6 := labtest.Canary(0)
		if now.To[c4.String()] <= m.before.To[c4.String()] || now.To[c6.String()] <= m.before.To[c6.String()] || now.Marked["control"] <= m.before.Marked["control"] {
			return fmt.Errorf("the sniffer sees no canary of the control: %v", now)
		}
		for _, s := range m.subjects[1:] {
			if v4, _ := labtest.Canary(s.n); out.To[v4.String()] <= m.through.To[v4.String()] {
				return fmt.Errorf("no canary comes out of the exit %s: %s", s.id, m.state(s.id))
			}
		}
		return nil
	})
	m.before, m.through = m.uplink.Seen(), m.out.Seen()
}

func (m *matrix) state(id string) string {
	a, err := m.lab.Cell.TryAPI("GET", "/api/connectivity/exits/"+id, nil)
	if err != nil {
		return err.Error()
	}
	return string(a.Body)
}

// leaks compares what the uplink has seen since the control.
func (m *matrix) leaks() (n int, samples []string) {
	now := m.uplink.Seen()
	c4, c6 := labtest.Canary(0)
	for a, k := range now.To {
		if a != c4.String() && a != c6.String() {
			n += k - m.before.To[a]
		}
	}
	for mark, k := range now.Marked {
		if mark != "control" {
			n += k - m.before.Marked[mark]
		}
	}
	n += now.Inside - m.before.Inside
	if n > 0 {
		samples = now.Samples
	}
	return n, samples
}

// TestNothingLeaks is the matrix: every fault on every exit, all probes at once.
func TestNothingLeaks(t *testing.T) {
	m := newMatrix(t)
	m.control(90 * time.Second)
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	r := rand.New(rand.NewPCG(*seed, 1))
	t.Logf("seed %d, %d exits, %d probes", *seed, len(m.subjects)-1, len(labtest.Probes))
	tried, began := 0, time.Now()
	for round := range max(1, *rounds) {
		list := slices.Clone(m.faults())
		list = slices.DeleteFunc(list, func(f fault) bool { return !strings.Contains(f.name, *faulty) })
		r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		if *rounds == 0 {
			list = list[:min(handful, len(list))]
		}
		for _, f := range list {
			m.control(60 * time.Second)
			undo := f.do(r)
			time.Sleep(f.lasts) // the packets of this time are what is tested
			if undo != nil {
				undo()
			}
			m.sawTheControl(f)
			if n, samples := m.leaks(); n != 0 {
				t.Fatalf("round %d: %d packets leaked by %q:\n%s", round, n, f.name, strings.Join(samples, "\n"))
			}
			tried += len(m.subjects) - 1
		}
	}
	t.Logf("%d trials of (exit, fault) with %d probes each, %d of (exit, fault, probe), in %s: 0 canaries",
		tried, len(labtest.Probes), tried*len(labtest.Probes), time.Since(began).Round(time.Second))
}

// sawTheControl proves that the sniffer was awake at the end of the trial too.
func (m *matrix) sawTheControl(f fault) {
	m.t.Helper()
	start := m.uplink.Seen()
	c4, _ := labtest.Canary(0)
	netnstest.Eventually(m.t, 30*time.Second, func() error {
		if now := m.uplink.Seen(); now.To[c4.String()] <= start.To[c4.String()] {
			return fmt.Errorf("after %q the direct peer is not seen on the uplink", f.name)
		}
		return nil
	})
}

// Without the kill switch the same rig sees every exit leak: it can fail.
func TestTheRigSeesALeak(t *testing.T) {
	m := newMatrix(t)
	m.control(90 * time.Second)
	// The tunnel may be inside the process, so the cell goes on, and its repairs
	// are undone as fast as they come.
	netnstest.Eventually(t, 60*time.Second, func() error {
		m.lab.Cell.Sh(`nft delete table inet pic 2>/dev/null || true; nft delete table inet pic_guard 2>/dev/null || true` + "\n" + flushRules)
		now := m.uplink.Seen()
		for _, s := range m.subjects[1:] {
			if v4, v6 := labtest.Canary(s.n); now.To[v4.String()] == 0 || now.To[v6.String()] == 0 {
				return fmt.Errorf("the peer of %s is not seen: %v", s.id, now.To)
			}
		}
		return nil
	})
}
