//go:build bench

// Package exits_test measures dialed exits: the throughput of the relay beside
// redsocks and beside no relay at all, the memory of connections that wait, and
// how long the first byte takes through each kind of dialer.
package exits_test

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
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

	"golang.org/x/crypto/ssh"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/exits/dialer"
	"github.com/personal-internet-cell/pic/exits/relay"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

const (
	rounds  = 3
	samples = 40

	server = "198.51.100.9"
	proxy  = "192.0.2.1" // the far end of the uplink, where the exits' servers are

	// Ports of the server choose the way: a hundred for each.
	portSink, portSource, portEcho, portGreet = 1, 2, 3, 4
)

// way is a route to the server.
type way struct {
	name string
	base int // of the server's ports
}

var (
	direct   = way{"direct", 7000}
	redsocks = way{"redsocks → socks5", 7100}
	bySOCKS  = way{"relay → socks5", 7200}
	byDante  = way{"relay → socks5 (dante)", 7300}
	byHTTP   = way{"relay → http (tinyproxy)", 7400}
	byHTTPS  = way{"relay → https (tls, tinyproxy)", 7500}
	bySSH    = way{"relay → ssh (sshd)", 7600}
)

// relayed are the ways by our relay, in the order of its ports.
var relayed = []way{bySOCKS, byDante, byHTTP, byHTTPS, bySSH}

const relayPort = 12345

func TestMain(m *testing.M) {
	netnstest.Main(m, netnstest.Helpers{"relay": relayHelper, "servers": serversHelper, "upstream": upstreamHelper, "load": loadHelper, "wait": waitHelper, "first": firstHelper})
}

// waiting is how many connections wait: ten thousand, or what the limit of open
// files lets a relay have.
func waiting() int {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 1000
	}
	return int(min(10_000, (l.Max-500)/2))
}

func duration() time.Duration {
	n, err := strconv.Atoi(os.Getenv("PIC_BENCH_SECONDS"))
	if err != nil {
		n = 3
	}
	return time.Duration(n) * time.Second
}

// secrets are what the relay needs for the servers.
type secrets struct{ HostKey, Login, Roots string }

// bed is clients, router and internet.
type bed struct {
	clients, router, inet *netnstest.NS
	dir                   string
	relayPID, redsocksPID int
}

// cpu is what a process has used.
func cpu(t *testing.T, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+2:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
}

func newBed(t *testing.T) *bed {
	netnstest.Need(t, "nft", "redsocks", "danted", "tinyproxy", "/usr/sbin/sshd")
	b := &bed{clients: netnstest.New(t, "clients"), router: netnstest.New(t, "router"), inet: netnstest.New(t, "inet"), dir: t.TempDir()}
	if err := os.Chmod(b.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	netnstest.Veth(b.router, "pic0", []string{"10.17.0.1/24"}, b.clients, "up0", []string{"10.17.0.2/24"})
	netnstest.Veth(b.router, "eth0", []string{"192.0.2.2/24"}, b.inet, "up0", []string{proxy + "/24"})
	b.inet.Exec("ip", "addr", "add", server+"/32", "dev", "lo")
	b.router.Sysctl("net.ipv4.ip_forward", "1")
	for n, via := range map[*netnstest.NS]string{b.router: proxy, b.clients: "10.17.0.1", b.inet: "192.0.2.2"} {
		n.Exec("ip", "route", "add", "default", "via", via)
		n.Sysctl("net.ipv4.ip_local_port_range", "10000 65000")
	}
	b.router.Exec("ip", "rule", "add", "fwmark", "0x50/0xff", "lookup", "150")
	b.router.Exec("ip", "route", "add", "local", "default", "dev", "lo", "table", "150")
	var rules strings.Builder
	for i, w := range relayed {
		fmt.Fprintf(&rules, "iifname pic0 tcp dport %d-%d meta mark set 0x50 tproxy ip to 127.0.0.1:%d accept\n", w.base, w.base+99, relayPort+i)
	}
	b.router.Sh(fmt.Sprintf(`nft -f - <<'X'
table ip t {
	chain pre { type filter hook prerouting priority -150; policy accept;
		%s
	}
	chain nat { type nat hook prerouting priority -100; policy accept;
		iifname pic0 tcp dport %d-%d redirect to :12340
	}
}
X`, rules.String(), redsocks.base, redsocks.base+99))

	s := b.servers(t)
	rs := b.router.Command("redsocks", "-c", b.write(t, "redsocks.conf", fmt.Sprintf(`base { log_debug = off; log_info = off; log = "stderr"; daemon = off; redirector = iptables; }
redsocks { local_ip = 0.0.0.0; local_port = 12340; ip = %s; port = 1080; type = socks5; }
`, proxy)))
	netnstest.Start(t, rs)
	b.redsocksPID = rs.Process.Pid
	js, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	c := b.router.Self("relay", string(js))
	ready(t, c)
	b.relayPID = c.Process.Pid
	return b
}

func (b *bed) write(t *testing.T, name, text string) string {
	t.Helper()
	p := filepath.Join(b.dir, name)
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// servers starts the internet: the servers, and the exits before them.
func (b *bed) servers(t *testing.T) (s secrets) {
	t.Helper()
	hostPublic, hostPrivate := newKey(t)
	loginPublic, loginPrivate := newKey(t)
	s.HostKey, s.Login = hostPublic, loginPrivate
	cert, key := certificate(t)
	s.Roots = cert
	ready(t, b.inet.Self("servers", cert, key))
	ready(t, b.inet.Self("upstream"))
	run := func(args ...string) {
		script := `mount -t tmpfs run /run && mkdir /run/sshd && exec "$@"`
		netnstest.Start(t, b.inet.Command("sh", append([]string{"-c", script, "sh"}, args...)...))
	}
	run("danted", "-f", b.write(t, "danted.conf", `logoutput: /dev/null
internal: up0 port = 1081
external: lo
socksmethod: none
clientmethod: none
user.privileged: root
user.unprivileged: root
client pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }
socks pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }
`))
	run("tinyproxy", "-d", "-c", b.write(t, "tinyproxy.conf", "Port 8888\nMaxClients 200\nLogLevel Error\n"))
	run("/usr/sbin/sshd", "-D", "-e", "-f", b.write(t, "sshd_config", fmt.Sprintf(`HostKey %s
AuthorizedKeysFile %s
StrictModes no
UsePAM no
PermitRootLogin yes
PidFile none
LogLevel ERROR
`, b.write(t, "host_key", hostPrivate), b.write(t, "authorized_keys", loginPublic+"\n"))))
	for _, p := range []int{1080, 1081, 8888, 8443, 22} {
		netnstest.Eventually(t, 10*time.Second, func() error {
			if out, err := b.inet.Try("ss", "-Hltn", "sport", "=", fmt.Sprint(":", p)); err != nil || out == "" {
				return fmt.Errorf("nobody listens on port %d: %w", p, err)
			}
			return nil
		})
	}
	return s
}

// relayHelper runs a relay for each way.
func relayHelper(args []string) error {
	var s secrets
	if err := json.Unmarshal([]byte(args[0]), &s); err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(s.Roots))
	via := func(p cell.ProxyProtocol, port uint16) dialer.Dialer {
		return dialer.NewProxy(&dialer.ProxyConfig{Protocol: p, Host: proxy, Port: port, Roots: pool})
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	sd := dialer.NewSSH(&dialer.SSHConfig{Host: proxy, Port: 22, User: "root", Auth: cell.SSHKey, Credential: cell.NewSecret(s.Login), HostKey: s.HostKey, Log: log})
	ended := make(chan error, 1)
	go func() { ended <- sd.Run(context.Background()) }()
	for i, d := range []dialer.Dialer{via(cell.ProxySOCKS5, 1080), via(cell.ProxySOCKS5, 1081), via(cell.ProxyHTTP, 8888), via(cell.ProxyHTTPS, 8443), sd} {
		r := relay.New(&relay.Config{
			ID: relayed[i].name, Port: relayPort + uint16(i), MaxPerSource: 2 * waiting(),
			Dial: func(ctx context.Context, network string, dst netip.AddrPort, _ netip.Addr) (net.Conn, error) {
				return d.DialContext(ctx, network, dst.String())
			},
		})
		go func() { ended <- r.Run(context.Background()) }()
		<-r.Ready()
	}
	fmt.Println("ready")
	return <-ended
}

// serversHelper serves every way's ports, and TLS before tinyproxy.
func serversHelper(args []string) error {
	for _, w := range append([]way{direct, redsocks}, relayed...) {
		for p, handle := range map[int]func(net.Conn){
			portSink: func(c net.Conn) {
				n, _ := io.Copy(io.Discard, c)
				fmt.Fprintln(c, n)
			},
			portSource: func(c net.Conn) {
				b := make([]byte, 256<<10)
				for {
					if _, err := c.Write(b); err != nil {
						return
					}
				}
			},
			portEcho: func(c net.Conn) { // io.Copy would hold a pipe for each
				b := make([]byte, 16)
				for {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					if _, err := c.Write(b[:n]); err != nil {
						return
					}
				}
			},
			portGreet: func(c net.Conn) { _, _ = c.Write([]byte("x")) },
		} {
			if err := serve(net.JoinHostPort(server, strconv.Itoa(w.base+p)), nil, handle); err != nil {
				return err
			}
		}
	}
	cert, err := tls.X509KeyPair([]byte(args[0]), []byte(args[1]))
	if err != nil {
		return err
	}
	err = serve(proxy+":8443", &tls.Config{Certificates: []tls.Certificate{cert}}, func(c net.Conn) {
		u, err := net.Dial("tcp", "127.0.0.1:8888")
		if err != nil {
			return
		}
		defer u.Close()
		go func() { // or the sender would wait for an answer in vain
			_, _ = io.Copy(u, c)
			_ = u.(*net.TCPConn).CloseWrite()
		}()
		_, _ = io.Copy(c, u)
	})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	select {}
}

// upstreamHelper is a SOCKS server, the same for redsocks and for us.
func upstreamHelper([]string) error {
	k := relay.NewSOCKS(&relay.SOCKSConfig{
		ID: "upstream", Listen: []netip.AddrPort{netip.MustParseAddrPort(proxy + ":1080")}, MaxConns: 2 * waiting(), MaxPerSource: 2 * waiting(),
		Allow: func(netip.Addr) bool { return true },
		Dial:  (&dialer.Direct{}).DialContext,
	})
	ended := make(chan error, 1)
	go func() { ended <- k.Run(context.Background()) }()
	<-k.Ready()
	fmt.Println("ready")
	return <-ended
}

func serve(addr string, c *tls.Config, handle func(net.Conn)) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	if c != nil {
		l = tls.NewListener(l, c)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				handle(c)
			}()
		}
	}()
	return nil
}

// ready starts a helper and waits for its word; what it prints after that is read away.
func ready(t *testing.T, c *exec.Cmd) *bufio.Reader {
	t.Helper()
	r, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	netnstest.Start(t, c)
	br := bufio.NewReader(r)
	if line, err := br.ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("the helper says %q, %v", line, err)
	}
	return br
}

func dial(base, port int) (net.Conn, error) {
	return net.DialTimeout("tcp", net.JoinHostPort(server, strconv.Itoa(base+port)), 20*time.Second)
}

// loadHelper prints Gbit/s of one direction over some connections.
func loadHelper(args []string) error {
	base, _ := strconv.Atoi(args[0])
	port, _ := strconv.Atoi(args[1])
	d, err := time.ParseDuration(args[2])
	if err != nil {
		return err
	}
	const conns = 4
	sum := make(chan int64, conns)
	began := time.Now()
	for range conns {
		c, err := dial(base, port)
		if err != nil {
			return err
		}
		go func() {
			b := make([]byte, 256<<10)
			var n int64
			_ = c.SetDeadline(time.Now().Add(d))
			for {
				var m int
				var err error
				if port == portSource {
					m, err = c.Read(b)
				} else {
					m, err = c.Write(b)
				}
				n += int64(m)
				if err != nil {
					break
				}
			}
			if port == portSink { // what arrived counts, not what was sent
				_ = c.SetDeadline(time.Now().Add(20 * time.Second))
				_ = c.(*net.TCPConn).CloseWrite()
				var arrived int64
				if _, err := fmt.Fscan(c, &arrived); err == nil { // tinyproxy keeps no half-close
					n = arrived
				}
			}
			_ = c.Close()
			sum <- n
		}()
	}
	var n int64
	for range conns {
		n += <-sum
	}
	fmt.Printf("%.3f\n", float64(n)*8/time.Since(began).Seconds()/1e9)
	return nil
}

// waitHelper opens connections, sees a byte through each, says how long that
// took, and holds them until its input ends.
func waitHelper(args []string) error {
	base, _ := strconv.Atoi(args[0])
	began := time.Now()
	var held []net.Conn // or the collector would close them
	for range waiting() {
		c, err := dial(base, portEcho)
		if err != nil {
			return fmt.Errorf("connection %d: %w", len(held), err)
		}
		held = append(held, c)
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.Write([]byte("x")); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			return fmt.Errorf("connection %d: %w", len(held), err)
		}
	}
	fmt.Println("ready")
	fmt.Println(time.Since(began).Round(time.Millisecond))
	_, err := io.Copy(io.Discard, os.Stdin)
	for _, c := range held {
		_ = c.Close()
	}
	return err
}

// firstHelper prints the median time from the connect to the first byte.
func firstHelper(args []string) error {
	base, _ := strconv.Atoi(args[0])
	var all []time.Duration
	for range samples {
		began := time.Now()
		c, err := dial(base, portGreet)
		if err != nil {
			return err
		}
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			return err
		}
		all = append(all, time.Since(began))
		_ = c.Close()
	}
	slices.Sort(all)
	fmt.Println(all[samples/2], all[samples*9/10])
	return nil
}

func TestThroughput(t *testing.T) {
	b := newBed(t)
	for _, x := range []struct {
		name string
		port int
	}{{"up", portSink}, {"down", portSource}} {
		got := map[way][]float64{}
		used, moved := map[way]time.Duration{}, map[way]float64{}
		ways := append([]way{direct, redsocks}, relayed...)
		if os.Getenv("PIC_BENCH_ONLY") != "" {
			ways = ways[:3]
		}
		for range rounds {
			for _, w := range ways {
				pid := b.relayPID
				if w == redsocks {
					pid = b.redsocksPID
				}
				before := cpu(t, pid)
				out, err := b.clients.Self("load", strconv.Itoa(w.base), strconv.Itoa(x.port), duration().String()).CombinedOutput()
				if err != nil {
					t.Fatalf("%s: %v %s", w.name, err, out)
				}
				var f float64
				_, _ = fmt.Sscan(string(out), &f)
				got[w] = append(got[w], f)
				used[w] += cpu(t, pid) - before
				moved[w] += f * duration().Seconds()
			}
		}
		median := func(w way) float64 { slices.Sort(got[w]); return got[w][rounds/2] }
		for _, w := range ways {
			t.Logf("P7 %-4s %-32s %6.2f Gbit/s   %.2f × direct, %.2f × redsocks; its CPU %.2f s/Gbyte", x.name, w.name, median(w), median(w)/median(direct), median(w)/median(redsocks), used[w].Seconds()/moved[w]*8)
		}
		t.Logf("P7 %-4s bars: %s ≥ 1.5 × redsocks, ≥ 0.7 × direct", x.name, bySOCKS.name)
	}
}

func memory(t *testing.T, pid int) (kib int) {
	t.Helper()
	f, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(f)) {
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kib); err == nil {
			return kib
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

func TestMemoryOfWaitingConnections(t *testing.T) {
	b := newBed(t)
	before := memory(t, b.relayPID)
	c := b.clients.Self("wait", strconv.Itoa(bySOCKS.base))
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	took, err := ready(t, c).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	after := memory(t, b.relayPID)
	if fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", b.relayPID)); err != nil || len(fds) < 2*waiting() {
		t.Fatalf("the relay holds %d files: these are not %d connections (%v)", len(fds), waiting(), err)
	}
	t.Logf("P7 %d waiting connections by %s: %d MiB resident, %.1f KiB each over the %d MiB before; opened in %s   bar: ≤ 200 MiB",
		waiting(), bySOCKS.name, after/1024, float64(after-before)/float64(waiting()), before/1024, strings.TrimSpace(took))
}

func TestFirstByte(t *testing.T) {
	b := newBed(t)
	for _, w := range append([]way{direct, redsocks}, relayed...) {
		out, err := b.clients.Self("first", strconv.Itoa(w.base)).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v %s", w.name, err, out)
		}
		t.Logf("connect to first byte, median and 90 %%: %-32s %s", w.name, strings.TrimSpace(string(out)))
	}
}

func newKey(t *testing.T) (public, private string) {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(k, "")
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(s.PublicKey()))), string(pem.EncodeToMemory(block))
}

func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	public, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.ParseIP(proxy)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, public, k)
	if err != nil {
		t.Fatal(err)
	}
	pk, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pk}))
}
