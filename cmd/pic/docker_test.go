package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// dockerd is Docker's daemon in the cell's namespace, with mounts and folders
// of its own.
type dockerd struct {
	t    *testing.T
	h    *host
	dir  string
	stop func()
}

func newDockerd(h *host) *dockerd {
	h.t.Helper()
	netnstest.Need(h.t, "dockerd", "containerd", "iptables", "unshare")
	dir, err := os.MkdirTemp("", "dkr") // short: its sockets' paths are limited
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return &dockerd{t: h.t, h: h, dir: dir}
}

// start runs the daemon as Debian does, iptables included, and waits for its API.
func (d *dockerd) start() {
	d.t.Helper()
	const script = `mount --make-rprivate /
mount -t tmpfs tmpfs /run
mount -t cgroup2 none /sys/fs/cgroup
exec dockerd --data-root "$1/data" --exec-root "$1/exec" -p "$1/pid" -H "unix://$1/sock" --storage-driver vfs >"$1/log" 2>&1`
	_ = os.Remove(filepath.Join(d.dir, "log"))
	c := d.h.ns.Command("unshare", "-m", "sh", "-ec", script, "sh", d.dir)
	d.stop = netnstest.Start(d.t, c)
	netnstest.Eventually(d.t, 20*time.Second, func() error {
		b, _ := os.ReadFile(filepath.Join(d.dir, "log"))
		if !strings.Contains(string(b), "API listen on") {
			return fmt.Errorf("dockerd is not up: %s", b)
		}
		return nil
	})
}

// end stops the daemon and what it started.
func (d *dockerd) end() {
	d.t.Helper()
	b, err := os.ReadFile(filepath.Join(d.dir, "pid"))
	if err != nil {
		d.t.Fatal(err)
	}
	if out, err := exec.Command("kill", strings.TrimSpace(string(b))).CombinedOutput(); err != nil {
		d.t.Fatalf("%v: %s", err, out)
	}
	netnstest.Eventually(d.t, 15*time.Second, func() error {
		if _, err := os.Stat(filepath.Join(d.dir, "pid")); err == nil {
			return fmt.Errorf("dockerd still runs")
		}
		return nil
	})
	d.stop()
}

// container stands for one: a namespace on Docker's bridge.
func (h *host) container() *netnstest.NS {
	h.t.Helper()
	c := netnstest.New(h.t, "box")
	h.ns.Exec("ip", "link", "add", "boxv", "type", "veth", "peer", "name", "eth0", "netns", c.Name)
	h.ns.Sh("ip link set boxv master docker0; ip link set boxv up")
	c.Sh("ip link set lo up; ip link set eth0 up; ip addr add 172.17.0.9/16 dev eth0; ip route add default via 172.17.0.1")
	return c
}

// roadWarrior is a peer's device behind the far end of the uplink, with its
// tunnel up: wireguard-go, configured as the cell says.
func (h *host) roadWarrior() (n *netnstest.NS, address string) {
	h.t.Helper()
	bin := filepath.Join(h.t.TempDir(), "wireguard-go")
	build := exec.Command("go", "build", "-o", bin, "golang.zx2c4.com/wireguard")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		h.t.Fatalf("building wireguard-go: %v\n%s", err, out)
	}
	made := into[struct{ Config string }](h.t, h.want(201, "POST", "/api/peers", addLaptop))
	n = netnstest.New(h.t, "road")
	netnstest.Veth(n, "eth0", []string{"192.168.78.2/24"}, h.far, "eth1", []string{"192.168.78.1/24"})
	h.far.Sysctl("net.ipv4.ip_forward", "1")
	h.ns.Exec("ip", "route", "add", "192.168.78.0/24", "via", "192.168.77.1")
	n.Exec("ip", "route", "add", "192.168.77.2", "via", "192.168.78.1")
	// Its control socket is a file with a name of the machine's.
	dev := fmt.Sprintf("wgp%d", os.Getpid())
	netnstest.Start(h.t, n.Command(bin, "-f", dev))
	plain := ""
	for line := range strings.Lines(made.Config) {
		switch key, value, _ := strings.Cut(strings.TrimSpace(line), " = "); key {
		case "Address":
			address, _, _ = strings.Cut(value, "/")
		case "MTU", "DNS":
		case "Endpoint":
			plain += "Endpoint = 192.168.77.2:51820\n"
		default:
			plain += line
		}
	}
	conf := h.path("wg.conf")
	if err := os.WriteFile(conf, []byte(plain), 0o600); err != nil {
		h.t.Fatal(err)
	}
	netnstest.Eventually(h.t, 5*time.Second, func() error {
		if out, err := n.Try("wg", "setconf", dev, conf); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	n.Exec("ip", "addr", "add", address+"/32", "dev", dev)
	n.Exec("ip", "link", "set", dev, "up")
	h.far.Exec("ip", "addr", "add", uplinkHost+"/32", "dev", "lo")
	n.Exec("ip", "route", "add", uplinkHost, "dev", dev)
	n.Exec("ip", "route", "add", "172.17.0.0/16", "dev", dev)
	h.far.Exec("ip", "route", "add", address, "via", "192.168.77.2")
	h.far.Exec("ip", "route", "add", "172.17.0.0/16", "via", "192.168.77.2")
	return n, address
}

// uplinkHost is a public address (RFC 5737): the uplink's own network needs a grant.
const uplinkHost = "203.0.113.1"

func pings(n *netnstest.NS, address string) error {
	if out, err := n.Try("ping", "-c", "1", "-W", "1", address); err != nil {
		return fmt.Errorf("ping %s: %w: %s", address, err, out)
	}
	return nil
}

// Docker closes FORWARD when it finds forwarding switched off: it comes first.
// Restarted three times beside the running cell, a container and a peer reach
// the uplink all along, and what the kill switch forbids stays forbidden.
func TestDockerBesideTheCell(t *testing.T) {
	h := newHost(t)
	netnstest.Need(t, "ping", "wg")
	d := newDockerd(h)
	d.start()
	h.claimed("--resync", "0", "--firewall", "tunnel")
	h.want(200, "PUT", "/api/config", `{"exits":[{"id":"nl","type":"wireguard_ext","slot":0,"enabled":true}]}`)
	peer, address := h.roadWarrior()
	box := h.container()
	reach := func(when string) {
		t.Helper()
		begin := time.Now()
		netnstest.Eventually(t, 5*time.Second, func() error { return pings(peer, uplinkHost) })
		t.Logf("%s: the peer reaches the uplink after %v", when, time.Since(begin).Round(time.Millisecond))
		netnstest.Eventually(t, 5*time.Second, func() error { return pings(box, uplinkHost) })
	}
	for round := range 4 {
		if round > 0 {
			d.end()
			reach(fmt.Sprintf("stop %d", round))
			h.ns.Exec("iptables", "-F", "DOCKER-USER") // as if the tables had been made anew
			d.start()
		}
		if rules := h.ns.Exec("iptables", "-S", "FORWARD"); !strings.Contains(rules, "-P FORWARD DROP") {
			t.Fatalf("Docker did not close FORWARD, so the case proves nothing:\n%s", rules)
		}
		reach(fmt.Sprintf("start %d", round))
		for _, c := range []struct {
			what string
			from *netnstest.NS
			to   string
		}{
			{"a peer reaches a container without a grant", peer, "172.17.0.9"},
			{"a container reaches a peer", box, address},
			{"the uplink's network reaches a peer", h.far, address},
		} {
			if pings(c.from, c.to) == nil {
				t.Error(c.what)
			}
		}
		// The kill switch: the exit is down, so the peer leaves by nothing.
		h.want(200, "PUT", "/api/peers/laptop", `{"name":"laptop","exit":"nl"}`)
		if pings(peer, uplinkHost) == nil {
			t.Error("a peer whose exit is down leaves by the uplink")
		}
		h.want(200, "PUT", "/api/peers/laptop", `{"name":"laptop","exit":""}`)
		reach("without its exit")
		if rules := h.ns.Exec("iptables", "-S", "DOCKER-USER"); strings.Count(rules, "pic0") != 2 {
			t.Errorf("rules in DOCKER-USER:\n%s", rules)
		}
	}
	for _, n := range h.status().Notices {
		if strings.HasPrefix(n.Code, "firewall") || n.Code == "repairs_limited" {
			t.Errorf("a notice although all is well: %+v", n)
		}
	}
}

// What other firewalls leave behind stays as it is, and where it closes the way
// of peers somebody is told what to run.
func TestOtherFirewallsBesideTheCell(t *testing.T) {
	h := newHost(t)
	netnstest.Need(t, "ping", "wg", "iptables")
	h.claimed("--resync", "0", "--firewall", "tunnel")
	peer, _ := h.roadWarrior()
	netnstest.Eventually(t, 5*time.Second, func() error { return pings(peer, uplinkHost) })
	told := func() bool {
		for _, n := range h.status().Notices {
			if n.Code == "firewall_foreign_drop" {
				return true
			}
		}
		return false
	}
	// firewalld, as it writes its table with the zone public on eth0.
	h.ns.Sh(`nft -f - <<'X'
table inet firewalld {
	chain filter_INPUT { type filter hook input priority filter + 10; policy accept
		ct state established,related accept
		iifname "lo" accept
		iifname "eth0" jump in_public
		reject with icmpx admin-prohibited
	}
	chain in_public { udp dport 51820 accept
	}
	chain filter_FORWARD { type filter hook forward priority filter + 10; policy accept
		ct state established,related accept
		iifname "lo" accept
		iifname "pic0" accept
		reject with icmpx admin-prohibited
	}
}
X`)
	firewalld := h.ns.Exec("nft", "-a", "list", "table", "inet", "firewalld")
	h.ns.Exec("nft", "delete", "table", "inet", "pic_guard") // a repair beside it
	netnstest.Eventually(t, 5*time.Second, func() error {
		out, err := h.ns.Try("nft", "list", "chain", "inet", "pic_guard", "forward")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return pings(peer, uplinkHost)
	})
	// ufw: iptables with FORWARD closed and chains of its own.
	h.ns.Sh(`iptables -N ufw-before-forward; iptables -N ufw-user-forward
iptables -A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
iptables -A ufw-before-forward -j ufw-user-forward
iptables -A FORWARD -j ufw-before-forward
iptables -P FORWARD DROP`)
	ufw := func() string { return h.ns.Exec("iptables", "-S") }
	before := ufw()
	if pings(peer, uplinkHost) == nil {
		t.Error("ufw lets the peer through, so the case proves nothing")
	}
	netnstest.Eventually(t, 5*time.Second, func() error {
		if !told() {
			return fmt.Errorf("nobody is told that ufw closes the way")
		}
		return nil
	})
	if after := ufw(); after != before {
		t.Errorf("ufw's rules changed:\n%s\n%s", before, after)
	}
	// What the notice says to run (ufw route allow in on pic0).
	h.ns.Sh("iptables -A ufw-user-forward -i pic0 -j ACCEPT")
	netnstest.Eventually(t, 5*time.Second, func() error { return pings(peer, uplinkHost) })
	h.ns.Exec("iptables", "-P", "FORWARD", "ACCEPT")
	netnstest.Eventually(t, 5*time.Second, func() error {
		if told() {
			return fmt.Errorf("the notice stays")
		}
		return nil
	})
	if after := h.ns.Exec("nft", "-a", "list", "table", "inet", "firewalld"); after != firewalld {
		t.Errorf("firewalld's table changed:\n%s\n%s", firewalld, after)
	}
}
