package dns_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// world is a cell between its peers, its LAN and the internet.
type world struct {
	t                     *testing.T
	cell, peers, lan, net *netnstest.NS
	wiki                  *netnstest.NS // a service on its bridge
	in                    io.Writer
	out                   *bufio.Scanner
	asked                 string // file of what the internet's resolver was asked
}

func newWorld(t *testing.T) *world {
	netnstest.Root(t)
	netnstest.Need(t, "dig", "kdig", "nft")
	w := &world{
		t: t, cell: netnstest.New(t, "cell"), peers: netnstest.New(t, "peers"), lan: netnstest.New(t, "lan"), net: netnstest.New(t, "net"), wiki: netnstest.New(t, "wiki"),
		asked: filepath.Join(t.TempDir(), "asked"),
	}
	c := w.cell.Self("cell")
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	netnstest.Start(t, c)
	w.in, w.out = in, bufio.NewScanner(out)
	w.out.Buffer(nil, 1<<20)
	return w
}

// connect makes the links; the cell may be listening already.
func (w *world) connect() {
	netnstest.Veth(w.cell, "pic0", []string{"10.17.0.1/24", "fd02:304:506::1/64"}, w.peers, "eth0",
		[]string{"10.17.0.2/24", "10.17.0.3/24", "10.17.0.4/24", "10.17.0.99/24", "fd02:304:506::2/64", "fd02:304:506::3/64"})
	netnstest.Veth(w.cell, "lan0", []string{"192.168.7.1/24", "192.168.7.2/24", "fd77::1/64"}, w.lan, "eth0", []string{"192.168.7.9/24", "fd77::9/64"})
	netnstest.Veth(w.cell, "br-wiki", []string{"172.20.2.1/24"}, w.wiki, "eth0", []string{"172.20.2.2/24", "172.20.1.2/32", "10.17.0.2/32"})
	w.wiki.Exec("ip", "route", "add", "10.17.0.1/32", "via", "172.20.2.1")
	w.cell.Sysctl("net.ipv4.conf.all.rp_filter", "0")
	netnstest.Veth(w.cell, "up0", []string{"203.0.113.7/24"}, w.net, "eth0",
		[]string{"203.0.113.1/24", "198.51.100.9/32", "10.17.0.2/32", "192.168.7.9/32"})
	w.cell.Exec("ip", "route", "add", "198.51.100.0/24", "via", "203.0.113.1")
	// Whoever on the internet pretends to be a peer or LAN host gets no
	// answer, so the cell is also asked from outside for its inner addresses.
	for _, to := range []string{"10.17.0.1/32", "192.168.7.1/32"} {
		w.net.Exec("ip", "route", "add", to, "via", "203.0.113.7")
	}
	c := w.net.Self("upstream", "203.0.113.1:53", w.asked)
	netnstest.Start(w.t, c)
	netnstest.Eventually(w.t, 5*time.Second, func() error {
		_, err := w.net.Try("dig", "+tries=1", "+time=1", "@203.0.113.1", "ready.test")
		return err
	})
}

func (w *world) apply(x wanted) did {
	w.t.Helper()
	b, err := json.Marshal(x)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.in.Write(append(b, '\n')); err != nil {
		w.t.Fatal(err)
	}
	if !w.out.Scan() {
		w.t.Fatalf("the cell is gone: %v", w.out.Err())
	}
	var d did
	if err := json.Unmarshal(w.out.Bytes(), &d); err != nil {
		w.t.Fatal(err)
	}
	return d
}

// dig asks from a namespace and returns rcode and data, "timeout" for silence.
func (w *world) dig(ns *netnstest.NS, args ...string) string {
	w.t.Helper()
	out, err := ns.Try("dig", append([]string{"+tries=1", "+time=2", "+noedns"}, args...)...)
	if err != nil {
		return "timeout"
	}
	return digest(out)
}

func digest(out string) string {
	var got []string
	for line := range strings.Lines(out) {
		if _, rest, ok := strings.Cut(line, "status: "); ok {
			s, _, _ := strings.Cut(rest, ",")
			got = append(got, s)
		}
		if f := strings.Fields(line); len(f) >= 5 && !strings.HasPrefix(line, ";") && f[3] != "SOA" {
			got = append(got, strings.Join(f[4:], " "))
		}
	}
	return strings.Join(got, " ")
}

func TestNameServerInItsWorld(t *testing.T) {
	w := newWorld(t)
	st, f := household(t)
	x := wanted{st, f}

	// The listeners come up before any link is there.
	if d := w.apply(x); d.Error != "" || !d.Changed || len(d.Status.Listeners) != 8 {
		t.Fatalf("%+v", d)
	}
	if d := w.apply(x); d.Error != "" || d.Changed {
		t.Fatalf("the second time: %+v", d)
	}
	w.connect()
	w.cell.Sh(`nft 'add table inet seen; add chain inet seen out { type filter hook output priority 0; }
		add rule inet seen out udp dport 53 meta mark and 0xff == 0x1 counter comment "marked"
		add rule inet seen out udp dport 53 meta mark and 0xff != 0x1 counter comment "unmarked"'`)

	for _, c := range []struct {
		who  string
		ns   *netnstest.NS
		args string
		want string
	}{
		{"peer", w.peers, "-b 10.17.0.2 @10.17.0.1 home.pic.ngo A", "NOERROR 10.17.0.1"},
		{"peer over TCP", w.peers, "-b 10.17.0.2 +tcp @10.17.0.1 home.pic.ngo A", "NOERROR 10.17.0.1"},
		{"peer over v6", w.peers, "-b fd02:304:506::2 @fd02:304:506::1 files.home.pic.ngo AAAA", "NOERROR fd02:304:506::1"},
		{"peer over v6 and TCP", w.peers, "-b fd02:304:506::2 +tcp @fd02:304:506::1 files.home.pic.ngo AAAA", "NOERROR fd02:304:506::1"},
		{"peer without the grant", w.peers, "-b 10.17.0.3 @10.17.0.1 files.home.pic.ngo A", "NXDOMAIN"},
		{"peer without the grant, TCP", w.peers, "-b fd02:304:506::3 +tcp @fd02:304:506::1 files.home.pic.ngo A", "NXDOMAIN"},
		{"peer, open service", w.peers, "-b 10.17.0.3 @10.17.0.1 wiki.home.internal A", "NOERROR 10.17.0.1"},
		{"peer, reverse", w.peers, "-b 10.17.0.2 @10.17.0.1 -x 10.17.0.3", "NOERROR phone.peers.home.pic.ngo."},
		{"peer, reverse v6", w.peers, "-b 10.17.0.2 @10.17.0.1 -x fd02:304:506::3", "NOERROR phone.peers.home.pic.ngo."},
		{"stranger in the tunnel", w.peers, "-b 10.17.0.99 @10.17.0.1 home.pic.ngo A", "REFUSED"},
		{"stranger in the tunnel, TCP", w.peers, "-b 10.17.0.99 +tcp @10.17.0.1 home.pic.ngo A", "REFUSED"},
		{"LAN host", w.lan, "@192.168.7.1 home.pic.ngo A", "NOERROR 192.168.7.1"},
		{"LAN host over v6 and TCP", w.lan, "+tcp @fd77::1 media.home.pic.ngo AAAA", "NOERROR fd77::1"},
		{"LAN host, peers' service", w.lan, "@192.168.7.1 wiki.home.pic.ngo A", "NXDOMAIN"},
		{"service, itself", w.wiki, "@172.20.2.1 wiki.home.pic.ngo A", "NOERROR 172.20.2.1"},
		{"service, TCP", w.wiki, "+tcp @172.20.2.1 home.pic.ngo A", "NOERROR 172.20.2.1"},
		{"service, another", w.wiki, "@172.20.2.1 files.home.pic.ngo A", "NXDOMAIN"},
		{"service, a peer's name", w.wiki, "@172.20.2.1 laptop.peers.home.pic.ngo A", "NXDOMAIN"},
		{"service, foreign name", w.wiki, "@172.20.2.1 wiki.example.org A", "NOERROR 198.51.101.1"},
		{"service at the gateway's address", w.wiki, "@10.17.0.1 files.home.pic.ngo A", "NXDOMAIN"},
		{"service as a peer", w.wiki, "-b 10.17.0.2 @172.20.2.1 files.home.pic.ngo A", "timeout"},
		{"internet", w.net, "-b 198.51.100.9 @203.0.113.7 home.pic.ngo A", "NOERROR 203.0.113.7"},
		{"internet, TCP", w.net, "-b 198.51.100.9 +tcp @203.0.113.7 blog.home.pic.ngo A", "NOERROR 203.0.113.7"},
		{"internet, foreign name", w.net, "-b 198.51.100.9 @203.0.113.7 www.example.org A", "REFUSED"},
		{"internet at the gateway's address", w.net, "-b 198.51.100.9 @10.17.0.1 files.home.pic.ngo A", "NXDOMAIN"},
		{"internet at the gateway's address, TCP", w.net, "-b 198.51.100.9 +tcp @10.17.0.1 wiki.home.pic.ngo A", "NXDOMAIN"},
		{"peer, foreign name", w.peers, "-b 10.17.0.2 @10.17.0.1 www.example.org A", "NOERROR 198.51.101.1"},
		{"peer, foreign name again", w.peers, "-b 10.17.0.3 @10.17.0.1 WWW.example.org A", "NOERROR 198.51.101.1"},
		{"peer, answer by TCP", w.peers, "-b 10.17.0.2 @10.17.0.1 tcp.example.org A", "NOERROR 198.51.101.1"},
		{"LAN host, foreign name", w.lan, "@192.168.7.1 lan.example.org A", "NOERROR 198.51.101.1"},
		{"peer, rebinding", w.peers, "-b 10.17.0.2 @10.17.0.1 rebind.example.org A", "NOERROR"},
		{"peer with an exit", w.peers, "-b 10.17.0.4 @10.17.0.1 secret.example.org A", "SERVFAIL"},
		{"peer with an exit, name of ours", w.peers, "-b 10.17.0.4 @10.17.0.1 wiki.home.pic.ngo A", "NOERROR 10.17.0.1"},
		{"peer, big answer by TCP", w.peers, "-b 10.17.0.2 @10.17.0.1 +bufsize=4096 mail.home.pic.ngo MX", "NOERROR 10 nas.home.pic.ngo."},
	} {
		if got := w.dig(c.ns, strings.Fields(c.args)...); got != c.want {
			t.Errorf("%s: dig %s: want %q, got %q", c.who, c.args, c.want, got)
		}
	}
	// A second implementation of a client, with EDNS and several questions on
	// one connection.
	if out := w.peers.Exec("kdig", "-b", "10.17.0.2", "@10.17.0.1", "+tcp", "+keepopen", "+edns", "+bufsize=1232", "big.home.pic.ngo", "TXT", "files.home.pic.ngo", "A"); strings.Count(out, "status: NOERROR") != 2 || strings.Count(out, "\tTXT\t") < 60 {
		t.Errorf("kdig:\n%s", out)
	}
	w.uplinkSeesNothing(x)
	w.listenersComeAndGo(x)

	asked, err := os.ReadFile(w.asked)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(asked), "www.example.org."); n != 1 {
		t.Errorf("www.example.org was asked for %d times, want once", n)
	}
	for _, name := range []string{"secret.example.org.", "home.pic.ngo.", "home.internal.", "10.in-addr.arpa."} {
		if strings.Contains(string(asked), name) {
			t.Errorf("%s left the cell", name)
		}
	}
	counts := w.cell.Exec("nft", "list", "table", "inet", "seen")
	if strings.Contains(counts, "0 bytes 0 comment \"marked\"") || !strings.Contains(counts, "packets 0 bytes 0 comment \"unmarked\"") {
		t.Errorf("questions without the bypass mark:\n%s", counts)
	}
}

// uplinkSeesNothing is DNS-5: whatever the internet asks, however, it gets no
// internal record.
func (w *world) uplinkSeesNothing(x wanted) {
	w.t.Helper()
	before := w.apply(x).Status.Queries
	var names []string
	for _, n := range []string{"files", "wiki", "media", "vault", "nas", "www", "a.apps", "laptop.peers", "phone.peers", "peers", "api", "pic", "deep.empty", "mail"} {
		names = append(names, n+".home.pic.ngo", n+".home.internal", strings.ToUpper(n)+".HoMe.PiC.nGo")
	}
	names = append(names, "home.pic.ngo", "home.internal", "2.0.17.10.in-addr.arpa", "1.7.168.192.in-addr.arpa", "localhost")
	var batch strings.Builder
	for _, n := range names {
		for _, qtype := range []string{"A", "AAAA", "ANY", "TXT", "PTR", "CNAME", "MX", "HTTPS", "SOA"} {
			fmt.Fprintf(&batch, "%s %s\n", n, qtype)
		}
	}
	file := filepath.Join(w.t.TempDir(), "batch")
	if err := os.WriteFile(file, []byte(batch.String()), 0o600); err != nil {
		w.t.Fatal(err)
	}
	lines := strings.Count(batch.String(), "\n")
	for _, args := range [][]string{
		{"@203.0.113.7"},
		{"@203.0.113.7", "+tcp", "+keepopen"},
		{"@203.0.113.7", "+subnet=10.17.0.2/32"},
		{"@203.0.113.7", "+subnet=192.168.7.9/32", "+dnssec"},
		{"@203.0.113.7", "+norecurse"},
		{"@10.17.0.1"},
		{"@192.168.7.1", "+tcp", "+keepopen"},
	} {
		out, err := w.net.Try("dig", append(append([]string{"-b", "198.51.100.9", "+tries=1", "+time=2", "-f", file}, args...), "+noquestion", "+nocmd")...)
		if err != nil || strings.Count(out, "status: ") != lines {
			w.t.Fatalf("%v: %d of %d answers, %v", args, strings.Count(out, "status: "), lines, err)
		}
		w.noneInternal(fmt.Sprint(args), out)
	}
	for _, zone := range []string{"home.pic.ngo", "home.internal", "0.17.10.in-addr.arpa"} {
		out, _ := w.net.Try("dig", "-b", "198.51.100.9", "+tries=1", "+time=2", "@203.0.113.7", zone, "AXFR")
		w.noneInternal("AXFR "+zone, out)
	}
	// Forged sources: no answer can come back, so the counters tell which view
	// was asked.
	for _, src := range []string{"10.17.0.2", "192.168.7.9"} {
		w.net.Sh(fmt.Sprintf("ip route replace 203.0.113.7 dev eth0 src %s; dig +tries=1 +time=1 -b %s @203.0.113.7 files.home.pic.ngo A || true", src, src))
	}
	after := w.apply(x).Status.Queries
	for _, view := range []string{"peer", "lan"} {
		if sum(after[view]) != sum(before[view]) {
			w.t.Errorf("the %s view answered the uplink: %v, before %v", view, after[view], before[view])
		}
	}
	if sum(after["internet"]) < sum(before["internet"])+uint64(7*lines)+2 {
		w.t.Errorf("the internet view was asked %d times", sum(after["internet"])-sum(before["internet"]))
	}
}

func sum(m map[string]uint64) (n uint64) {
	for _, x := range m {
		n += x
	}
	return n
}

func (w *world) noneInternal(what, out string) {
	w.t.Helper()
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if strings.HasPrefix(line, ";") || len(f) < 5 {
			continue
		}
		data := strings.ToLower(strings.Join(f[4:], " "))
		if a, err := netip.ParseAddr(data); err == nil && (a.IsPrivate() || a.IsLoopback()) {
			w.t.Errorf("%s: an internal address: %s", what, line)
		}
		if strings.Contains(data, "peers.") || strings.Contains(data, ".internal") || strings.Contains(data, "nas.") {
			w.t.Errorf("%s: an internal name: %s", what, line)
		}
	}
}

func (w *world) listenersComeAndGo(x wanted) {
	w.t.Helper()
	second := netip.MustParseAddr("192.168.7.2")
	if got := w.dig(w.lan, "@192.168.7.2", "home.pic.ngo", "A"); got != "timeout" {
		w.t.Errorf("before it is wanted: %s", got)
	}
	st := x.State.Clone()
	st.Network.LAN[0].Addresses = append([]netip.Addr{second}, st.Network.LAN[0].Addresses...)
	if d := w.apply(wanted{st, x.Facts}); !d.Changed || d.Error != "" {
		w.t.Errorf("%+v", d)
	}
	if got := w.dig(w.lan, "@192.168.7.2", "media.home.pic.ngo", "A"); got != "NOERROR 192.168.7.1 192.168.7.2" && got != "NOERROR 192.168.7.2 192.168.7.1" {
		w.t.Errorf("a new address: %s", got)
	}
	if d := w.apply(x); !d.Changed || d.Error != "" {
		w.t.Errorf("%+v", d)
	}
	if got := w.dig(w.lan, "@192.168.7.2", "home.pic.ngo", "A"); got != "timeout" {
		w.t.Errorf("an address that is gone: %s", got)
	}
	if got := w.dig(w.lan, "@192.168.7.1", "home.pic.ngo", "A"); got != "NOERROR 192.168.7.1" {
		w.t.Errorf("the address that stays: %s", got)
	}
}
