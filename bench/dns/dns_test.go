//go:build bench

// Package dns_test measures name servers over UDP: ours beside Knot and NSD
// with 1,000 names of their own (P1), and beside unbound with 1,000 forwarded
// answers in the cache (P2). Each has one core, dnsperf has another.
package dns_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/dns"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

const (
	names  = 1000
	rounds = 3
	server = "10.17.0.1"
	client = "10.17.0.2" // and the forwarder, at port 5353
	zone   = "home.pic.ngo"
)

// seconds that one server is loaded in one round.
func seconds() string {
	if s := os.Getenv("PIC_BENCH_SECONDS"); s != "" {
		return s
	}
	return "5"
}

func TestMain(m *testing.M) {
	netnstest.Main(m, netnstest.Helpers{"pic": serve, "forwarder": forwarder})
}

// serve is the cell's name server, with a profile of its CPU time in the file
// that is its argument, if any.
func serve(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	s := cell.Factory([16]byte{1}, "tunnel", "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
	s.Identity = cell.Identity{Name: "home", Mode: cell.ModePicNgo}
	s.Users = []cell.User{{Name: "admin", Role: cell.RoleAdmin, PasswordHash: "pw"}}
	s.Network.Tunnel.Prefix4 = netip.MustParsePrefix("10.17.0.0/24")
	s.Peers = []cell.Peer{{Name: "laptop", Address4: netip.MustParseAddr(client), Enabled: true}}
	for i := range names {
		s.DNS.Records = append(s.DNS.Records, cell.Record{Name: fmt.Sprintf("n%d", i), Type: "A", Value: fmt.Sprintf("192.0.2.%d", i%256)})
	}
	s.DNS.Forwarders = []cell.Forwarder{{Protocol: cell.ForwardPlain, Address: netip.MustParseAddrPort(client + ":5353")}}
	v, err := dns.Compile(s, cell.Facts{})
	if err != nil {
		return err
	}
	d := dns.New(&dns.Config{Logger: slog.New(slog.DiscardHandler)})
	if len(args) > 0 && args[0] != "" {
		f, err := os.Create(args[0])
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	v.Listen = []netip.AddrPort{netip.MustParseAddrPort(server + ":53")}
	if _, err := d.Apply(ctx, v); err != nil {
		return err
	}
	fmt.Println("ready")
	return d.Run(ctx)
}

// forwarder answers every question for an address.
func forwarder([]string) error {
	p, err := net.ListenPacket("udp4", client+":5353")
	if err != nil {
		return err
	}
	fmt.Println("ready")
	return (&mdns.Server{PacketConn: p, Handler: mdns.HandlerFunc(func(w mdns.ResponseWriter, q *mdns.Msg) {
		r := new(mdns.Msg).SetReply(q)
		r.RecursionAvailable = true
		r.Answer = []mdns.RR{&mdns.A{Hdr: mdns.RR_Header{Name: q.Question[0].Name, Rrtype: mdns.TypeA, Class: mdns.ClassINET, Ttl: 86400}, A: net.IPv4(93, 184, 215, 14)}}
		if q.IsEdns0() != nil {
			r.SetEdns0(1232, false)
		}
		_ = w.WriteMsg(r)
	})}).ActivateAndServe()
}

// contestant is a server on port 53 of the namespace.
type contestant struct {
	name  string
	needs string
	// start writes its files to dir and returns its command line; nil is ours.
	start func(dir string) []string
}

var knot = contestant{"Knot", "knotd", func(dir string) []string {
	conf := fmt.Sprintf("server:\n    rundir: %[1]q\n    listen: %[2]s@53\n    udp-workers: 1\n    tcp-workers: 1\n    background-workers: 1\ndatabase:\n    storage: %[1]q\nzone:\n  - domain: %[3]s\n    storage: %[1]q\n    file: zone\n", dir, server, zone)
	return []string{"knotd", "-c", write(dir, "knot.conf", conf)}
}}

var nsd = contestant{"NSD", "nsd", func(dir string) []string {
	conf := fmt.Sprintf("server:\n ip-address: %s\n server-count: 1\n username: \"\"\n chroot: \"\"\n zonesdir: %[2]q\n database: \"\"\n pidfile: \"%[2]s/pid\"\n xfrdfile: \"%[2]s/xfrd\"\n zonelistfile: \"%[2]s/list\"\n xfrdir: %[2]q\n rrl-ratelimit: 0\nremote-control:\n control-enable: no\nzone:\n name: %s\n zonefile: zone\n", server, dir, zone)
	return []string{"nsd", "-d", "-c", write(dir, "nsd.conf", conf)}
}}

var unbound = contestant{"unbound", "unbound", func(dir string) []string {
	conf := fmt.Sprintf("server:\n interface: %s\n access-control: 10.17.0.0/24 allow\n do-daemonize: no\n username: \"\"\n chroot: \"\"\n directory: %q\n pidfile: \"\"\n use-syslog: no\n num-threads: 1\n module-config: \"iterator\"\n do-not-query-localhost: no\n prefetch: yes\nremote-control:\n control-enable: no\nforward-zone:\n name: \".\"\n forward-addr: %s@5353\n", server, dir, client)
	return []string{"unbound", "-d", "-c", write(dir, "unbound.conf", conf)}
}}

func write(dir, name, text string) string {
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		panic(err)
	}
	return file
}

func zoneFile(dir string) {
	var b strings.Builder
	fmt.Fprintf(&b, "$ORIGIN %s.\n$TTL 300\n@ SOA pic hostmaster 1 3600 600 604800 60\n@ NS pic\npic A %s\n", zone, server)
	for i := range names {
		fmt.Fprintf(&b, "n%d A 192.0.2.%d\n", i, i%256)
	}
	write(dir, "zone", b.String())
}

// figures of one round.
type figures struct{ qps, cpu float64 } // queries per second, µs of CPU per query

func TestAuthoritative(t *testing.T) {
	compare(t, "P1 authoritative", zone, []contestant{{name: "pic"}, knot, nsd})
}

func TestCachedForwarding(t *testing.T) {
	compare(t, "P2 cached forwarding", "example.org", []contestant{{name: "pic"}, unbound})
}

func compare(t *testing.T, what, domain string, all []contestant) {
	netnstest.Root(t)
	netnstest.Need(t, "dnsperf", "taskset")
	if _, err := exec.LookPath("coredns"); err != nil && domain == zone {
		t.Log("CoreDNS is not in Debian and not in PATH: left out")
	}
	var queries strings.Builder
	for i := range names {
		fmt.Fprintf(&queries, "n%d.%s A\n", i, domain)
	}
	dir := t.TempDir()
	file := write(dir, "queries", queries.String())
	got := map[string][]figures{}
	for range rounds {
		for _, c := range all {
			if c.needs != "" {
				if _, err := exec.LookPath(c.needs); err != nil {
					t.Logf("%s is not installed: left out", c.name)
					continue
				}
			}
			t.Run(c.name, func(t *testing.T) { got[c.name] = append(got[c.name], measure(t, c, file)) })
		}
	}
	ours := best(got[all[0].name])
	fmt.Printf("\n%s: dnsperf, %d names, UDP, one core of %d, best of %d rounds of %s s\n", what, names, runtime.NumCPU(), rounds, seconds())
	for _, c := range all {
		if len(got[c.name]) > 0 {
			f := best(got[c.name])
			fmt.Printf("  %-8s %8.0f queries/s  %6.2f µs CPU/query   ours/this: CPU %.2f, queries/s %.2f\n", c.name, f.qps, f.cpu, ours.cpu/f.cpu, ours.qps/f.qps)
		}
	}
}

// best is the round with the least CPU per query: what else the machine does
// only adds.
func best(all []figures) figures {
	return slices.MinFunc(all, func(a, b figures) int { return int(1e6 * (a.cpu - b.cpu)) })
}

func measure(t *testing.T, c contestant, file string) figures {
	srv, cli := netnstest.New(t, "server"), netnstest.New(t, "client")
	netnstest.Veth(srv, "pic0", []string{server + "/24"}, cli, "eth0", []string{client + "/24"})
	netnstest.Start(t, cli.Self("forwarder"))
	dir := t.TempDir()
	zoneFile(dir)
	var p *exec.Cmd
	if c.start == nil {
		p = srv.Self("pic", os.Getenv("PIC_BENCH_PROFILE"))
	} else {
		args := c.start(dir)
		p = srv.Command(args[0], args[1:]...)
	}
	var log bytes.Buffer
	p.Stderr = &log
	if runtime.NumCPU() > 1 { // one core for the server, the others for the load
		p.Args = append([]string{"taskset", "-c", "0"}, p.Args...)
		p.Path, _ = exec.LookPath("taskset")
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { // before the test's context ends, which kills
		_ = p.Process.Signal(syscall.SIGTERM)
		_ = p.Wait()
	}()
	perf := func(args ...string) string {
		all := append([]string{"dnsperf", "-s", server, "-d", file, "-c", "16", "-q", "128"}, args...)
		if runtime.NumCPU() > 1 {
			all = append([]string{"taskset", "-c", "1"}, all...)
		}
		return cli.Exec(all[0], all[1:]...)
	}
	netnstest.Eventually(t, 10*time.Second, func() error {
		out, err := cli.Try("dig", "+tries=1", "+time=1", "+noall", "+answer", "@"+server, firstName(file))
		if err == nil && !strings.Contains(out, "IN\tA") {
			err = fmt.Errorf("%s answers %q\n%s", c.name, out, log.String())
		}
		return err
	})
	perf("-n", "3") // every name is known, every cache is warm
	before := cpuTime(t, srv)
	load := []string{"-l", seconds()}
	if rate := os.Getenv("PIC_BENCH_RATE"); rate != "" {
		load = append(load, "-Q", rate)
	}
	out := perf(load...)
	spent := cpuTime(t, srv) - before
	completed := number(t, out, `Queries completed:\s+(\d+)`)
	if ok := number(t, out, `NOERROR (\d+)`); ok < completed*0.999 {
		t.Fatalf("%s answers wrongly:\n%s", c.name, out)
	}
	return figures{qps: number(t, out, `Queries per second:\s+([\d.]+)`), cpu: float64(spent.Microseconds()) / completed}
}

func firstName(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		panic(err)
	}
	name, _, _ := strings.Cut(string(b), " ")
	return name
}

func number(t *testing.T, out, pattern string) float64 {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("no %s in:\n%s", pattern, out)
	}
	n, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// cpuTime is what all threads of a namespace ran for, to the nanosecond
// (schedstat; the ticks of stat favour who sleeps at the right moments).
func cpuTime(t *testing.T, n *netnstest.NS) (all time.Duration) {
	t.Helper()
	out, err := exec.Command("ip", "netns", "pids", n.Name).Output()
	if err != nil {
		t.Fatal(err)
	}
	for pid := range strings.FieldsSeq(string(out)) {
		threads, err := filepath.Glob("/proc/" + pid + "/task/*/schedstat")
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range threads {
			b, err := os.ReadFile(file)
			if err != nil {
				continue // it ended
			}
			var ns int64
			if _, err := fmt.Sscan(string(b), &ns); err != nil {
				t.Fatal(err)
			}
			all += time.Duration(ns)
		}
	}
	return all
}
