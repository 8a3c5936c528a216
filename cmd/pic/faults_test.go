package main_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// hold takes a port in the cell's namespace until release is called.
func (h *host) hold(network, addr string) (release func()) {
	h.t.Helper()
	c := h.ns.Self("hold", network, addr)
	out, err := c.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		h.t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "held\n" {
		h.t.Fatalf("holding %s %s: %q %v", network, addr, line, err)
	}
	return func() { _ = c.Process.Kill(); _ = c.Wait() }
}

// A port that another program holds is a condition with its cure; the rest of
// the cell comes up, takes commits, and the port is taken when it is free.
func TestATakenPortIsAConditionAndTheRestComesUp(t *testing.T) {
	for _, c := range []struct {
		network string
		port    int
		stage   string
	}{{"udp", 53, "dns"}, {"tcp", 53, "dns"}, {"tcp", 80, "proxy"}, {"tcp", 443, "proxy"}, {"udp", 123, "ntp"}, {"udp", 51820, "tunnel"}} {
		t.Run(fmt.Sprintf("%d %s", c.port, c.network), func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			release := h.hold(c.network, fmt.Sprintf(":%d", c.port))
			defer release()
			h.claimed()
			told := func() (string, bool) {
				st := h.status()
				for _, x := range st.Conditions {
					if x.Stage == c.stage && x.State == cell.Failed {
						return x.Reason, true
					}
				}
				for _, n := range st.Notices {
					if strings.Contains(n.Text, fmt.Sprint(c.port)) {
						return n.Text, true
					}
				}
				return "", false
			}
			netnstest.Eventually(t, 10*time.Second, func() error {
				text, failed := told()
				if !failed {
					return fmt.Errorf("nobody says that the port is taken: %+v", h.status().Conditions)
				}
				if !strings.Contains(text, fmt.Sprint(c.port)) {
					return fmt.Errorf("the port is not named: %s", text)
				}
				return nil
			})
			for _, x := range h.status().Conditions {
				if x.Stage != c.stage && x.State == cell.Failed {
					t.Errorf("%s failed too: %s", x.Stage, x.Reason)
				}
			}
			h.want(201, "POST", "/api/peers", addPhone)
			if state, kernel := h.peers(); !slices.Equal(state, kernel) {
				t.Errorf("state %v, kernel %v", state, kernel)
			}
			release()
			netnstest.Eventually(t, 40*time.Second, func() error {
				if text, failed := told(); failed {
					return fmt.Errorf("still: %s", text)
				}
				return nil
			})
		})
	}
}

func TestMissingCapabilitiesAreNamed(t *testing.T) {
	h := newHost(t)
	for _, drop := range []string{"net_admin", "net_bind_service"} {
		out, err := h.ns.Try("setpriv", "--bounding-set=-"+drop, "--inh-caps=-"+drop, "--", h.bin, "serve", "--state", h.path("state"), "--runtime", h.path("run"))
		if err == nil || !strings.Contains(out, "CAP_"+strings.ToUpper(drop)) || !strings.Contains(out, "sudo") {
			t.Errorf("without %s: %v\n%s", drop, err, out)
		}
	}
	if _, err := os.Stat(h.path("state")); err == nil {
		t.Error("a cell that can't run made a state folder")
	}
}

func TestABadInitFileIsAnAlarmAndTheCellComesUpUnclaimed(t *testing.T) {
	h := newHost(t)
	file := h.path("init.json")
	for _, text := range []string{`{"cell_name":"home","password":"short","user":"admin","domain_mode":"lan"}`, `{"cell_nmae":"home"}`, `{`} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		h.start([]string{"PIC_INIT_FILE=" + file})
		h.want(428, "GET", "/api/status", "")
		h.want(200, "GET", "/api/setup/code", "")
		if !strings.Contains(h.log.String(), "init file not used") {
			t.Errorf("%s: nothing is said", text)
		}
		h.kill()
	}
}

func TestASecondCellOnTheSameStateIsRefused(t *testing.T) {
	h := newHost(t)
	h.claimed()
	out, err := h.ns.Try(h.bin, "serve", "--state", h.path("state"), "--runtime", h.path("run2"), "--http", ":8080", "--https", ":8443")
	if err == nil || !strings.Contains(out, "another") {
		t.Fatalf("%v\n%s", err, out)
	}
	h.want(200, "GET", "/api/status", "")
}

func TestBadFlagsAreRefusedBeforeAnythingIsTouched(t *testing.T) {
	h := newHost(t)
	for _, flags := range [][]string{
		{"--firewall", "none"},
		{"--http", "80"},
		{"--https", ":99999"},
		{"--dns-port", "0"},
		{"--ntp-port", "70000"},
		{"--http", ":443"},
		{"--log-level", "loud"},
		{"--debug", "0.0.0.0:6060"},
		{"--no-such-flag"},
		{"--api", "0.0.0.0:3000"},
		{"--api=192.168.77.2:3000"},
		{"--api", "[::]:3000"},
		{"--api", "3000"},
		{"--api", "127.0.0.1:0"},
	} {
		out, err := h.ns.Try("timeout", append([]string{"10", h.bin, "serve", "--state", h.path("state"), "--runtime", h.path("run")}, flags...)...)
		if err == nil || strings.Contains(out, "panic") {
			t.Errorf("%v: %v\n%s", flags, err, out)
		}
	}
	if rules := h.ns.Exec("nft", "list", "ruleset"); rules != "" {
		t.Errorf("rules were made: %s", rules)
	}
}

// On stop the kernel keeps what it has; only recover --flush takes it out.
func TestStopLeavesTheKernelAndFlushEmptiesIt(t *testing.T) {
	h := newHost(t)
	h.claimed()
	h.want(201, "POST", "/api/peers", addPhone)
	h.term(5 * time.Second)
	for _, want := range []string{"table inet pic ", "table inet pic_guard ", "table inet pic_acct "} {
		if rules := h.ns.Exec("nft", "list", "ruleset"); !strings.Contains(rules, want) {
			t.Errorf("%s is gone after the stop", want)
		}
	}
	if rules := h.ns.Exec("ip", "rule"); !strings.Contains(rules, "prohibit") {
		t.Errorf("the policy rules are gone after the stop:\n%s", rules)
	}
	h.start(nil)
	out, err := h.ns.Try(h.bin, "recover", "--flush", "--socket", h.path("run/pic.sock"))
	if err == nil || !strings.Contains(out, "running") {
		t.Errorf("flushed under a running cell: %v %s", err, out)
	}
	h.term(5 * time.Second)
	h.ns.Exec(h.bin, "recover", "--flush", "--socket", h.path("run/pic.sock"))
	if rules := h.ns.Exec("nft", "list", "ruleset"); strings.TrimSpace(rules) != "" {
		t.Errorf("left in nft:\n%s", rules)
	}
	if rules := h.ns.Exec("ip", "rule"); strings.Count(rules, "\n") != 3 {
		t.Errorf("left in the policy rules:\n%s", rules)
	}
}

func TestAnUplinkThatVanishesAndComesBack(t *testing.T) {
	h := newHost(t)
	h.claimed()
	h.ns.Exec("ip", "link", "del", "eth0")
	netnstest.Eventually(t, 15*time.Second, func() error {
		for _, i := range into[api.List[api.Interface]](t, h.want(200, "GET", "/api/network/interfaces", "")).Items {
			if i.Name == "eth0" {
				return fmt.Errorf("eth0 is still known")
			}
		}
		return nil
	})
	h.want(201, "POST", "/api/peers", addPhone)
	for _, c := range h.status().Conditions {
		if c.State == cell.Failed {
			t.Errorf("%s failed without an uplink: %s", c.Stage, c.Reason)
		}
	}
	netnstest.Veth(h.ns, "eth0", []string{"192.168.77.2/24"}, h.far, "eth0", []string{"192.168.77.1/24"})
	h.ns.Exec("ip", "route", "add", "default", "via", "192.168.77.1")
	netnstest.Eventually(t, 15*time.Second, func() error {
		if rules := h.ns.Exec("nft", "list", "table", "inet", "pic"); !strings.Contains(rules, `"eth0"`) {
			return fmt.Errorf("the rules do not know the uplink again")
		}
		return nil
	})
}

// A full disk: the client hears it, nothing is acknowledged, the previous
// revision is whole, and it goes on when there is room again.
func TestAFullDiskRefusesAndKeepsWhatWas(t *testing.T) {
	h := newHost(t)
	small := h.path("small")
	if err := os.Mkdir(small, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "pic-test", small).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	t.Cleanup(func() { h.kill(); _ = exec.Command("umount", "-l", small).Run() })
	file := h.path("init.json")
	if err := os.WriteFile(file, []byte(draft), 0o600); err != nil {
		t.Fatal(err)
	}
	h.launch([]string{"PIC_INIT_FILE=" + file}, h.bin, "serve", "--state", small+"/state", "--runtime", h.path("run"))
	h.await()
	h.want(201, "POST", "/api/peers", addLaptop)
	if out, err := exec.Command("sh", "-c", "dd if=/dev/zero of="+small+"/fill bs=4k 2>/dev/null; true").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	before := h.status().Revision
	r := h.want(507, "POST", "/api/peers", addPhone)
	if !strings.Contains(string(r.body), "no space left") {
		t.Errorf("%s", r.body)
	}
	if state, kernel := h.peers(); h.status().Revision != before || !slices.Equal(state, []string{"laptop"}) || !slices.Equal(kernel, state) {
		t.Errorf("half applied: revision %d, state %v, kernel %v", h.status().Revision, state, kernel)
	}
	if err := os.Remove(small + "/fill"); err != nil {
		t.Fatal(err)
	}
	h.want(201, "POST", "/api/peers", addPhone)
	h.kill()
	h.launch(nil, h.bin, "serve", "--state", small+"/state", "--runtime", h.path("run"))
	h.await()
	if state, _ := h.peers(); !slices.Equal(state, []string{"laptop", "phone"}) {
		t.Errorf("after a restart: %v", state)
	}
}

// Damaged state: never factory settings, never an open API, the kernel as it was.
func TestDamagedStateIsAnAlarmAndClosesTheAPI(t *testing.T) {
	h := newHost(t)
	h.claimed()
	h.want(201, "POST", "/api/peers", addPhone)
	h.kill()
	rules := h.ns.Exec("sh", "-c", "nft -s list table inet pic_guard; ip rule")
	if out, err := exec.Command("sh", "-ec", `for f in "$1"/startup "$1"/revisions/*; do : > "$f"; done`, "sh", h.path("state")).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	h.start(nil)
	if got := h.ns.Exec("sh", "-c", "nft -s list table inet pic_guard; ip rule"); got != rules {
		t.Errorf("the kernel was touched:\n%s\nwas\n%s", got, rules)
	}
	if hl := into[api.Health](t, h.want(200, "GET", "/health", "")); hl.Status != "recovered" {
		t.Errorf("health %+v", hl)
	}
	h.want(503, "POST", "/api/peers", addLaptop)
	for _, path := range []string{"/api/setup/status", "/api/status", "/api/auth/me"} {
		out := h.far.Exec("curl", "-sk", "--max-time", "5", "-o", "/dev/null", "-w", "%{http_code}", "https://192.168.77.2"+path)
		if out != "503" {
			t.Errorf("%s on the web: %s", path, out)
		}
	}
	if out := h.far.Exec("curl", "-sk", "--max-time", "5", "-H", "Content-Type: application/json", "-d", `{"step":"code","code":"a"}`, "https://192.168.77.2/api/setup/step"); !strings.Contains(out, "recovered") {
		t.Errorf("the setup is open: %s", out)
	}
}

// Before the claim the web answers private networks only, and nothing else is
// open; after it, the ports are those of the table.
func TestPortsBeforeAndAfterTheClaim(t *testing.T) {
	h := newHost(t)
	h.start(nil)
	// A public source on the same wire.
	h.far.Exec("ip", "addr", "add", "198.51.100.7/32", "dev", "lo")
	h.ns.Exec("ip", "route", "add", "198.51.100.7/32", "via", "192.168.77.1")
	code := func(args ...string) string {
		out, _ := h.far.Try("curl", append([]string{"-sk", "--max-time", "3", "-o", "/dev/null", "-w", "%{http_code}"}, args...)...)
		return out
	}
	if got := code("https://192.168.77.2/api/setup/status"); got != "200" {
		t.Errorf("setup from a private source: %s", got)
	}
	if got := code("--interface", "198.51.100.7", "https://192.168.77.2/api/setup/status"); got != "000" {
		t.Errorf("setup from a public source: %s, want no byte", got)
	}
	if got := code("http://192.168.77.2/"); got != "308" {
		t.Errorf("port 80: %s", got)
	}
	if got := code("-H", "Host: evil.example", "https://192.168.77.2/api/setup/status"); got != "421" {
		t.Errorf("foreign host: %s", got)
	}
	listening := func() string {
		return h.ns.Exec("sh", "-c", `ss -Hlnut | awk '{print $1, $5}' | sort -u`)
	}
	for line := range strings.Lines(listening()) {
		if !strings.HasSuffix(strings.TrimSpace(line), ":80") && !strings.HasSuffix(strings.TrimSpace(line), ":443") {
			t.Errorf("open before the claim: %s", line)
		}
	}
	h.kill()
	h.claimed()
	if got := code("--interface", "198.51.100.7", "https://192.168.77.2/health"); got != "000" {
		t.Errorf("the UI from a public source after the claim: %s", got)
	}
	for line := range strings.Lines(listening()) {
		f := strings.Fields(line)
		if strings.HasPrefix(f[1], "0.0.0.0:53") || strings.HasPrefix(f[1], "*:53") || strings.HasPrefix(f[1], "*:123") || strings.HasPrefix(f[1], "0.0.0.0:123") {
			t.Errorf("bound to every address: %s", line)
		}
	}
}
