package firewall_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/firewall"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// lab is a router with everything around it. The internet's address exists
// behind the uplink and behind the exit, so that where a packet arrives tells
// which way it took.
type lab struct {
	t                                          *testing.T
	router, inet, lan, peers, exit, mail, chat *netnstest.NS
}

const (
	internet4, internet6 = "198.51.100.9", "2001:db8:99::9"
)

func newLab(t *testing.T) *lab {
	netnstest.Need(t, "nft")
	l := &lab{t: t}
	l.router = netnstest.New(t, "router")
	for _, x := range []struct {
		ns     **netnstest.NS
		name   string
		dev    string
		router []string
		host   []string
		via    [2]string
	}{
		{&l.inet, "inet", "eth0", []string{"192.0.2.2/24", "2001:db8:1::2/64"}, []string{"192.0.2.1/24", "2001:db8:1::1/64"}, [2]string{"192.0.2.2", "2001:db8:1::2"}},
		{&l.lan, "lan", "eth1", []string{"192.168.5.1/24", "2001:db8:5::1/64"}, []string{"192.168.5.9/24", "2001:db8:5::9/64"}, [2]string{"192.168.5.1", "2001:db8:5::1"}},
		{
			&l.peers, "peers", "pic0",
			[]string{"10.17.0.1/24", "fd02:304:506::1/64"},
			[]string{"10.17.0.2/32", "10.17.0.3/32", "10.17.0.4/32", "10.17.0.5/32", "fd02:304:506::2/128", "fd02:304:506::3/128", "fd02:304:506::4/128", "fd02:304:506::5/128"},
			[2]string{"10.17.0.1", "fd02:304:506::1"},
		},
		{&l.exit, "exit", "wg_ext0", []string{"10.200.0.2/24", "fd20::2/64"}, []string{"10.200.0.1/24", "fd20::1/64"}, [2]string{"10.200.0.2", "fd20::2"}},
		{&l.mail, "mail", "br-mail", []string{"172.20.1.1/24", "fd30:1::1/64"}, []string{"172.20.1.2/24", "fd30:1::2/64"}, [2]string{"172.20.1.1", "fd30:1::1"}},
		{&l.chat, "chat", "br-chat", []string{"172.20.2.1/24"}, []string{"172.20.2.2/24"}, [2]string{"172.20.2.1", ""}},
	} {
		*x.ns = netnstest.New(t, x.name)
		netnstest.Veth(l.router, x.dev, x.router, *x.ns, "up0", x.host)
		if x.dev == "pic0" { // peers have no neighbours: WireGuard is no broadcast medium
			(*x.ns).Exec("ip", "route", "add", x.via[0], "dev", "up0")
			(*x.ns).Exec("ip", "-6", "route", "add", x.via[1], "dev", "up0")
		}
		(*x.ns).Exec("ip", "route", "add", "default", "via", x.via[0])
		if x.via[1] != "" {
			(*x.ns).Exec("ip", "-6", "route", "add", "default", "via", x.via[1])
		}
	}
	for _, n := range []*netnstest.NS{l.inet, l.exit} {
		n.Exec("ip", "addr", "add", internet4+"/32", "dev", "up0")
		n.Exec("ip", "addr", "add", internet6+"/128", "dev", "up0", "nodad")
		// Everything that arrives for anybody else is counted, by family.
		n.Sh(`nft -f - <<'X'
table inet seen {
	counter v4 { }
	counter v6 { }
	chain pre {
		type filter hook prerouting priority -300; policy accept;
		iifname up0 ip daddr != { 192.0.2.1, 10.200.0.1, 224.0.0.0/4 } counter name v4
		iifname up0 ip6 daddr != { 2001:db8:1::1, fd20::1, fe80::/10, ff00::/8 } counter name v6
	}
}
X`)
	}
	l.router.Exec("ip", "route", "add", "default", "via", "192.0.2.1")
	l.router.Exec("ip", "-6", "route", "add", "default", "via", "2001:db8:1::1")
	return l
}

// send fires packets from a namespace.
func send(t *testing.T, n *netnstest.NS, list ...shot) {
	t.Helper()
	in, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	c := n.Self("send")
	c.Stdin = bytes.NewReader(in)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("sending: %v\n%s", err, out)
	}
}

// flood is one packet of each protocol and family from a pair of sources to
// the internet. "" leaves a family out.
func flood(src4, src6 string) []shot {
	var out []shot
	for i, p := range []string{"tcp", "udp", "icmp"} {
		port := uint16(21000 + i)
		if src4 != "" {
			out = append(out, shot{firewall.Packet{Src: ip(src4), Dst: ip(internet4), Protocol: p, SrcPort: port, DstPort: 443}, port, false})
		}
		if src6 != "" {
			out = append(out, shot{firewall.Packet{Src: ip(src6), Dst: ip(internet6), Protocol: p, SrcPort: port, DstPort: 443}, port, false})
		}
	}
	return out
}

var packets = regexp.MustCompile(`packets (\d+)`)

// seen returns how many packets of each family arrived in a namespace, since the last call.
func seen(t *testing.T, n *netnstest.NS) (v4, v6 int) {
	t.Helper()
	count := func(name string) int {
		m := packets.FindStringSubmatch(n.Exec("nft", "reset", "counter", "inet", "seen", name))
		if m == nil {
			t.Fatal("no counter")
		}
		x, _ := strconv.Atoi(m[1])
		return x
	}
	return count("v4"), count("v6")
}

func (l *lab) apply(s *cell.State, f cell.Facts) bool {
	l.t.Helper()
	return apply(l.t, l.router, s, f)
}

// relay starts a transparent listener in the router and returns its end.
func (l *lab) relay(port string) (stop func()) {
	l.t.Helper()
	return start(l.t, l.router.Self("relay", port))
}

// serve starts a server that says a word and the client's address.
func serve(t *testing.T, n *netnstest.NS, word string, addrs ...string) {
	t.Helper()
	start(t, n.Self("serve", append([]string{word}, addrs...)...))
}

// start starts a helper and waits until it says that it is ready.
func start(t *testing.T, c *exec.Cmd) (stop func()) {
	t.Helper()
	r, w := io.Pipe()
	c.Stdout = w
	stop = netnstest.Start(t, c)
	t.Cleanup(func() { _ = r.Close() })
	if line, err := bufio.NewReader(r).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("the helper says %q, %v", line, err)
	}
	return stop
}

// dial connects from a peer and returns what the other end says.
func (l *lab) dial(from *netnstest.NS, src, dst string) (string, error) {
	out, err := from.Self("dial", src, dst).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	return string(out), nil
}

func wantNone(t *testing.T, what string, n *netnstest.NS) {
	t.Helper()
	if v4, v6 := seen(t, n); v4+v6 != 0 {
		t.Errorf("%s: %d IPv4 and %d IPv6 packets leaked to the uplink", what, v4, v6)
	}
}

func wantSome(t *testing.T, what string, n *netnstest.NS) {
	t.Helper()
	netnstest.Eventually(t, waitFor, func() error {
		v4, v6 := seen(t, n)
		if v4 == 0 || v6 == 0 {
			return errors.New(what + ": the control packets were not seen in both families: " + fmt.Sprint(v4, v6))
		}
		return nil
	})
}

func deleteRules(n *netnstest.NS) {
	for _, f := range []string{"-4", "-6"} {
		for line := range strings.Lines(n.Exec("ip", f, "rule", "show")) {
			if strings.Contains(line, "proto 112") {
				prio, _, _ := strings.Cut(line, ":")
				n.Exec("ip", f, "rule", "del", "pref", strings.TrimSpace(prio))
			}
		}
	}
}
