package firewall_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/firewall"
	"github.com/personal-internet-cell/pic/internal/lifecycle"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

var counters = regexp.MustCompile(`packets \d+ bytes \d+`)

// snapshot is what a namespace holds, in the tools' own words.
func snapshot(n *netnstest.NS) string {
	out := counters.ReplaceAllString(n.Exec("nft", "list", "ruleset"), "")
	return out + rulesAndRoutes(n) + n.Exec("sh", "-c", "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding /proc/sys/net/ipv4/conf/pic0/rp_filter")
}

func rulesAndRoutes(n *netnstest.NS) string {
	var out string
	for _, f := range []string{"-4", "-6"} {
		out += n.Exec("ip", f, "rule") + n.Exec("ip", f, "route", "show", "table", "100") + n.Exec("ip", f, "route", "show", "table", "110") +
			n.Exec("ip", f, "route", "show", "table", "120") + n.Exec("ip", f, "route", "show", "table", "130")
	}
	return out
}

// drifts are what others may do to a settled household.
var drifts = []struct{ name, command string }{
	{"table pic deleted", "nft delete table inet pic"},
	{"guard table deleted", "nft delete table inet pic_guard"},
	{"accounting table deleted", "nft delete table inet pic_acct"},
	{"everything flushed", "nft flush ruleset"},
	{"chain flushed", "nft flush chain inet pic_guard forward"},
	{"rule inserted", "nft insert rule inet pic forward accept"},
	{"rule replaced", `h=$(nft -a list chain inet pic_guard forward | sed -n '/no mark/s/.*handle //p'); nft replace rule inet pic_guard forward handle $h accept`},
	{"policy opened", "nft 'add chain inet pic forward { policy accept; }'"},
	{"peer deleted from the map", "nft delete element inet pic mark4 { 10.17.0.3 }"},
	{"peer added to the map", "nft add element inet pic mark4 { 10.17.0.77 : 0x2 }"},
	{"peer moved in the map", "nft delete element inet pic mark4 { 10.17.0.3 } ';' add element inet pic mark4 { 10.17.0.3 : 0x2 }"},
	{"range deleted", "nft delete element inet pic_guard ours4 { 10.17.0.0/24 }"},
	{"range added", "nft add element inet pic_guard ours4 { 10.44.0.0/16 }"},
	{"service's range deleted", "nft delete element inet pic service_mark4 { \"br-mail\" . 172.20.1.0/24 }"},
	{"ingress turned", "nft delete element inet pic input_from { pic0 } ';' add element inet pic input_from { pic0 : goto from_lan }"},
	{"way added", "nft add element inet pic_guard way { 0x10 . eth0 }"},
	{"all policy rules deleted", "ip rule flush; ip rule add pref 32766 lookup main; ip rule add pref 32767 lookup default; ip rule show | grep -q 'lookup local' || ip rule add pref 0 lookup local"},
	{"prohibit turned into a look-up", "ip rule del pref 1033; ip rule add pref 1033 fwmark 0x10/0xff lookup main protocol 112"},
	{"an IPv6 rule deleted", "ip -6 rule del pref 90 iif pic0"},
	{"a rule added in our name", "ip rule add pref 50 from 10.17.0.3 to 198.51.100.0/24 lookup main protocol 112"},
	{"exit route deleted", "ip route del default dev wg_ext0 table 110"},
	{"exit route turned to the uplink", "ip route replace default via 192.0.2.1 dev eth0 metric 100 table 110"},
	{"route smuggled into an exit table", "ip route add 198.51.100.0/24 via 192.0.2.1 dev eth0 table 110"},
	{"IPv6 route smuggled in", "ip -6 route add 2001:db8:99::/64 via 2001:db8:1::1 dev eth0 table 110"},
	{"unreachable deleted", "ip -6 route del unreachable default table 110 metric 4294967295"},
	{"relay table flushed", "ip route flush table 130"},
	{"reverse-path filter", "echo 1 > /proc/sys/net/ipv4/conf/pic0/rp_filter"},
	{"forwarding off", "echo 0 > /proc/sys/net/ipv4/ip_forward"},
}

// What others delete or change is put back by the next Apply, and only that.
func TestDriftIsRepaired(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s, f := household(), facts(cell.ScopeFull)
	l.apply(s, f)
	want := snapshot(l.router)
	for _, c := range drifts {
		l.router.Sh(c.command)
		if snapshot(l.router) == want {
			t.Errorf("%s: nothing broke, so the case proves nothing", c.name)
		}
		if !l.apply(s, f) {
			t.Errorf("%s: Apply says that nothing changed", c.name)
		}
		// Tables are listed in the order they were made.
		if d := cmp.Diff(sorted(want), sorted(snapshot(l.router))); d != "" {
			t.Errorf("%s is not repaired:\n%s", c.name, d)
		}
	}
}

// sorted compares listings whose order means nothing (hash sets, tables):
// every element and rule as a line of its own.
func sorted(s string) map[string]int {
	out := map[string]int{}
	for line := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == '\n' || r == ',' }) {
		line = strings.TrimSuffix(strings.TrimSpace(line), " }")
		out[strings.TrimSpace(strings.TrimPrefix(line, "elements = {"))]++
	}
	return out
}

// Routine changes are elements: neither the structure's marker nor any rule's
// handle moves, and the guard is not touched at all.
func TestRoutineChangesAreElements(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s, f := household(), facts(cell.ScopeFull)
	l.apply(s, f)
	handles := func() string {
		var out []string
		for line := range strings.Lines(l.router.Exec("nft", "-a", "list", "ruleset")) {
			if strings.Contains(line, "# handle") {
				out = append(out, counters.ReplaceAllString(line, ""))
			}
		}
		return strings.Join(out, "")
	}
	want := handles()
	for _, c := range []struct {
		name string
		edit func(*cell.State)
	}{
		{"peer added", func(s *cell.State) { addPeer(s, "new", "tor") }},
		{"grant added", func(s *cell.State) { s.Peers[2].Services = []string{"mail"} }},
		{"peer moved", func(s *cell.State) { s.Peers[2].Exit = "nl" }},
		{"port forward added", func(s *cell.State) {
			s.Network.Forwards = append(s.Network.Forwards, cell.Forward{Name: "web", Protocol: cell.TCP, Port: 8000, TargetPort: 80, Service: "mail", Enabled: true})
		}},
		{"exit disabled", func(s *cell.State) { s.Exits[0].Enabled = false }},
		{"public web", func(s *cell.State) { s.Network.PublicWeb = true }},
		{"peer removed", func(s *cell.State) { s.Peers = s.Peers[:3]; s.Peers[0].Peers = []string{"phone"} }},
	} {
		s = s.Clone()
		c.edit(s)
		if err := s.Validate(); err != nil {
			t.Fatal(err)
		}
		if !l.apply(s, f) {
			t.Errorf("%s: nothing changed", c.name)
		}
		if d := cmp.Diff(want, handles()); d != "" {
			t.Fatalf("%s touched the structure:\n%s", c.name, d)
		}
	}
	// The control: a new dialed exit is structure, in table pic only.
	s = s.Clone()
	s.Exits = append(s.Exits, cell.Exit{ID: "tor2", Type: cell.ExitTor, Slot: 1, Enabled: true})
	l.apply(s, f)
	if handles() == want {
		t.Error("a new chain moved no handle: the comparison proves nothing")
	}
}

func TestForeignTablesSurvive(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.router.Sh(`nft -f - <<'X'
table ip filter {
	chain DOCKER-USER { return
	}
	chain FORWARD { type filter hook forward priority filter; policy accept; counter jump DOCKER-USER
	}
}
table ip nat {
	chain POSTROUTING { type nat hook postrouting priority srcnat; policy accept; ip saddr 172.17.0.0/16 oifname != "docker0" masquerade
	}
}
table inet firewalld {
	chain filter_INPUT { type filter hook input priority filter + 10; policy accept; ct state established,related accept
	}
}
X
ip rule add pref 5210 fwmark 0x80000/0xff0000 lookup main
ip route add 203.0.113.0/24 via 192.0.2.1 table 52`)
	foreign := func() string {
		out := l.router.Exec("nft", "-a", "list", "table", "ip", "filter") + l.router.Exec("nft", "-a", "list", "table", "ip", "nat") +
			l.router.Exec("nft", "-a", "list", "table", "inet", "firewalld") + l.router.Exec("ip", "route", "show", "table", "52")
		if !strings.Contains(l.router.Exec("ip", "rule"), "5210:") {
			out += "no foreign rule"
		}
		return counters.ReplaceAllString(out, "")
	}
	want := foreign()
	s := household()
	l.apply(s, facts(cell.ScopeTunnel))
	s.Exits = append(s.Exits, cell.Exit{ID: "tor2", Type: cell.ExitTor, Slot: 1, Enabled: true})
	l.apply(s, facts(cell.ScopeFull))
	// Docker's chain for others is the one place where ours may stand.
	passing := regexp.MustCompile(`(?m)^\s+[io]ifname "pic0" counter\s+accept # handle \d+\n`)
	if n := len(passing.FindAllString(foreign(), -1)); n != 2 {
		t.Errorf("%d rules in DOCKER-USER, want 2", n)
	}
	if d := cmp.Diff(want, passing.ReplaceAllString(foreign(), "")); d != "" {
		t.Errorf("foreign tables changed:\n%s", d)
	}
	// And after all of ours is gone.
	if _, err := tryApply(l.router, order{Flush: true}); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, foreign()); d != "" {
		t.Errorf("Flush changed foreign tables:\n%s", d)
	}
	if left := l.router.Exec("nft", "list", "tables") + l.router.Exec("ip", "rule") + l.router.Exec("ip", "-6", "rule") +
		l.router.Exec("ip", "route", "show", "table", "all") + l.router.Exec("ip", "-6", "route", "show", "table", "all"); strings.Contains(left, "pic_") || strings.Contains(left, "inet pic") || strings.Contains(left, "proto 112") {
		t.Errorf("Flush left something of ours:\n%s", left)
	}
}

// More elements than one netlink message holds must all arrive.
func TestThousandsOfPeers(t *testing.T) {
	t.Parallel()
	netnstest.Need(t, "nft")
	n := netnstest.New(t, "many")
	s := household()
	s.Network.Tunnel.Prefix4 = netip.PrefixFrom(s.Network.Tunnel.Reserved4.Addr(), 18)
	const peers = 6000
	base4, base6 := netip.MustParseAddr("10.17.1.0").As4(), s.Network.Tunnel.Prefix6.Addr().As16()
	for i := range peers {
		a4, a6 := base4, base6
		a4[2], a4[3] = byte(1+i/250), byte(1+i%250)
		a6[14], a6[15] = a4[2], a4[3]
		s.Peers = append(s.Peers, cell.Peer{
			Name: fmt.Sprintf("p%d", i), Address4: netip.AddrFrom4(a4), Address6: netip.AddrFrom16(a6),
			Exit: []string{"", "nl", "tor"}[i%3], Enabled: true, Services: []string{"mail"}, LAN: []string{"home"},
		})
	}
	begin := time.Now()
	apply(t, n, s, facts(cell.ScopeFull))
	t.Logf("%d peers applied twice in %v", peers, time.Since(begin).Round(time.Millisecond))
	for _, set := range []string{"mark4", "mark6", "lan_home_4", "grant4"} {
		kind := "set"
		if strings.HasPrefix(set, "mark") {
			kind = "map"
		}
		_, text, _ := strings.Cut(n.Exec("nft", "list", kind, "inet", "pic", set), "elements = {")
		if got := strings.Count(text, ",") + 1; got < peers {
			t.Errorf("%s holds %d elements, want at least %d", set, got, peers)
		}
	}
	// One more peer is one more element, quickly.
	addPeer(s, "last", "nl")
	begin = time.Now()
	apply(t, n, s, facts(cell.ScopeFull))
	t.Logf("one more in %v", time.Since(begin).Round(time.Millisecond))
}

// The printed policy, fed to the tools, gives the same rules and routes as Apply.
func TestTextAndApplyAgree(t *testing.T) {
	t.Parallel()
	l, m := newLab(t), newLab(t)
	s, f := household(), facts(cell.ScopeFull)
	l.apply(s, f)
	p, err := firewall.Compile(s, f)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct{ text, command string }{
		{p.IP(4), "ip -4 -batch "}, {p.IP(6), "ip -6 -batch "}, {p.NFT(), "nft -f "},
	} {
		file := t.TempDir() + "/text"
		if err := os.WriteFile(file, []byte(x.text), 0o600); err != nil {
			t.Fatal(err)
		}
		m.router.Sh(x.command + file)
	}
	if d := cmp.Diff(rulesAndRoutes(m.router), rulesAndRoutes(l.router)); d != "" {
		t.Errorf("rules and routes (-text +Apply):\n%s", d)
	}
	strip := regexp.MustCompile(`(?m)\s*counter plan_[0-9a-f]+ \{[^}]*\}`)
	// nft 1.0 shows the data of mark maps, as we write them, byte-swapped.
	swapped := regexp.MustCompile(`: 0x([0-9a-f]{2})000000|: 0x000000([0-9a-f]{2})`)
	text := func(n *netnstest.NS) map[string]int {
		out := strip.ReplaceAllString(counters.ReplaceAllString(n.Exec("nft", "list", "ruleset"), ""), "")
		out = swapped.ReplaceAllString(out, ": $1$2")
		// The tool adds the protocol a rule needs once, we say it each time.
		return sorted(strings.NewReplacer("meta nfproto ipv4 ", "", "meta nfproto ipv6 ", "", "meta l4proto tcp ", "").Replace(out))
	}
	if d := cmp.Diff(text(m.router), text(l.router)); d != "" {
		t.Errorf("tables (-text +Apply):\n%s", d)
	}
}

// Where IPv6 is switched off its routes by interfaces can't be, and needn't.
func TestApplyWhereIPv6IsOff(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for _, dev := range []string{"all", "default", "lo", "pic0", "eth0"} {
		l.router.Sysctl("net.ipv6.conf."+dev+".disable_ipv6", "1")
	}
	if !l.apply(household(), facts(cell.ScopeFull)) {
		t.Error("nothing changed")
	}
}

// Nobody's cell forwards nothing, and without the right to write rules the
// kernel keeps forwarding off.
func TestForwardingComesLast(t *testing.T) {
	t.Parallel()
	n := netnstest.New(t, "unclaimed")
	apply(t, n, cell.Factory([16]byte{1, 2, 3, 4, 5, 6}, "tunnel", key(1)), facts(cell.ScopeFull))
	forwarding := func() string { return strings.TrimSpace(n.Exec("cat", "/proc/sys/net/ipv4/ip_forward")) }
	if forwarding() != "0" {
		t.Fatal("an unclaimed cell forwards")
	}
	netnstest.Need(t, "setpriv")
	in, err := json.Marshal(order{State: household(), Facts: facts(cell.ScopeFull)})
	if err != nil {
		t.Fatal(err)
	}
	self := n.Self("apply")
	c := n.Command("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", "--", os.Args[0])
	c.Env, c.Stdin = self.Env, bytes.NewReader(in)
	out, err := c.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "CAP_NET_ADMIN") {
		t.Fatalf("want an error that names CAP_NET_ADMIN, got %v\n%s", err, out)
	}
	if forwarding() != "0" {
		t.Fatal("forwarding is on without rules")
	}
	apply(t, n, household(), facts(cell.ScopeFull))
	if forwarding() != "1" {
		t.Fatal("a claimed cell does not forward")
	}
}

func watchHelper([]string) error {
	c := firewall.New(&firewall.Config{Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	w := c.Watch(func() { fmt.Println("trigger", len(c.Notices())) })
	go func() { <-w.Ready(); fmt.Println("ready") }()
	return lifecycle.Run(context.Background(), w)
}

func TestWatchSeesOursAndNothingElse(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.apply(household(), facts(cell.ScopeFull))
	lines := watching(t, l.router.Self("watch"))
	quiet := func(what string) {
		t.Helper()
		select {
		case line := <-lines:
			t.Errorf("%s: %s", what, line)
		case <-time.After(700 * time.Millisecond):
		}
	}
	l.router.Exec("nft", "add", "table", "inet", "foreign")
	l.router.Exec("ip", "rule", "add", "pref", "5000", "from", "203.0.113.1", "lookup", "main")
	l.router.Exec("ip", "route", "add", "203.0.113.0/24", "via", "192.0.2.1")
	quiet("something foreign")
	for _, command := range []string{
		"nft delete element inet pic mark4 { 10.17.0.3 }",
		"nft delete table inet pic_guard",
		"ip rule del pref 1033",
		"ip -6 route del unreachable default table 110 metric 4294967295",
		"ip addr add 192.0.2.77/24 dev eth0",
		"ip link set wg_ext0 down",
		"ip route replace default via 192.0.2.99",
		"ip link set wg_ext0 mtu 1300",
		"echo 1 > /proc/sys/net/ipv4/conf/pic0/rp_filter",
		"echo 0 > /proc/sys/net/ipv4/ip_forward",
		"echo 0 > /proc/sys/net/ipv6/conf/all/forwarding",
	} {
		l.router.Sh(command)
		select {
		case <-lines:
		case <-time.After(waitFor):
			t.Fatalf("%s: no trigger", command)
		}
		drain(lines)
	}
	// A flood of changes is a few triggers.
	l.router.Sh("for i in 1 2 3 4 5 6 7 8; do ip addr add 192.0.2.1$i/24 dev eth0; done")
	var n int
	stop := time.After(1200 * time.Millisecond)
	for done := false; !done; {
		select {
		case <-lines:
			n++
		case <-stop:
			done = true
		}
	}
	if n == 0 || n > 5 {
		t.Errorf("eight changes at once made %d triggers", n)
	}
}

// drain takes what is still on its way.
func drain(lines <-chan string) {
	for {
		select {
		case <-lines:
		case <-time.After(600 * time.Millisecond):
			return
		}
	}
}

// watching starts a helper and returns the lines it prints after "ready".
func watching(t *testing.T, c *exec.Cmd) <-chan string {
	t.Helper()
	w := &lineWriter{lines: make(chan string, 1000)}
	c.Stdout = w
	netnstest.Start(t, c)
	select {
	case line := <-w.lines:
		if line != "ready" {
			t.Fatal(line)
		}
	case <-time.After(waitFor):
		t.Fatal("the watcher is not ready")
	}
	return w.lines
}

// lineWriter cuts what is written into lines.
type lineWriter struct {
	rest  string
	lines chan string
}

func (w *lineWriter) Write(b []byte) (int, error) {
	w.rest += string(b)
	for {
		line, rest, ok := strings.Cut(w.rest, "\n")
		if !ok {
			return len(b), nil
		}
		w.rest = rest
		w.lines <- line
	}
}
