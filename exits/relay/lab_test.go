package relay_test

import (
	"bufio"
	"bytes"
	"context"
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
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/exits/dialer"
	"github.com/personal-internet-cell/pic/exits/relay"
	"github.com/personal-internet-cell/pic/firewall"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

const (
	waitFor = 15 * time.Second
	server4 = "198.51.100.9"
	server6 = "2001:db8:99::9"
	port    = 12345
	socks   = 10880
)

// The two peers.
var (
	peer4 = [2]string{"10.17.0.2", "10.17.0.3"}
	peer6 = [2]string{"fd02:304:506::2", "fd02:304:506::3"}
)

func TestMain(m *testing.M) {
	netnstest.Main(m, netnstest.Helpers{"relay": relayHelper, "servers": serversHelper, "firewall": firewallHelper})
}

// setup is what a test's relay is made with.
type setup struct {
	UDP, Firewall                    bool
	MaxConns, MaxPerSource, MaxFlows int
	Idle, UDPIdle, Handshake         time.Duration
	Socket                           string // where the relay takes orders
}

// lab builds peers, router and internet, starts a relay in the router, and runs
// the test again as a process of the peers. In there it returns how to order
// the relay about, outside nil.
func lab(t *testing.T, s setup, programs ...string) func(order string) string {
	t.Helper()
	if os.Getenv("PIC_TEST_INSIDE") == t.Name() {
		return func(order string) string { return command(t, os.Getenv("PIC_TEST_SOCKET"), order) }
	}
	netnstest.Need(t, append([]string{"nft"}, programs...)...)
	router, peers, inet := netnstest.New(t, "router"), netnstest.New(t, "peers"), netnstest.New(t, "inet")
	netnstest.Veth(router, "pic0", []string{"10.17.0.1/24", "fd02:304:506::1/64"}, peers, "up0",
		[]string{peer4[0] + "/24", peer4[1] + "/24", peer6[0] + "/64", peer6[1] + "/64"})
	netnstest.Veth(router, "eth0", []string{"192.0.2.2/24", "2001:db8:1::2/64"}, inet, "up0", []string{"192.0.2.1/24", "2001:db8:1::1/64"})
	inet.Exec("ip", "addr", "add", server4+"/32", "dev", "lo")
	inet.Exec("ip", "addr", "add", server6+"/128", "dev", "lo", "nodad")
	for _, x := range []struct {
		n      *netnstest.NS
		v4, v6 string
	}{{router, "192.0.2.1", "2001:db8:1::1"}, {peers, "10.17.0.1", "fd02:304:506::1"}, {inet, "192.0.2.2", "2001:db8:1::2"}} {
		x.n.Exec("ip", "route", "add", "default", "via", x.v4)
		x.n.Exec("ip", "-6", "route", "add", "default", "via", x.v6)
	}
	if s.Firewall {
		if out, err := router.Self("firewall").CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
	} else {
		tproxy(router)
	}
	s.Socket = filepath.Join(t.TempDir(), "relay")
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	start(t, inet.Self("servers"))
	start(t, router.Self("relay", string(b)))

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := peers.Command(self, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=60s")
	c.Env = append(os.Environ(), "PIC_TEST_INSIDE="+t.Name(), "PIC_TEST_SOCKET="+s.Socket)
	out, err := c.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("inside the namespace: %v\n%s", err, out)
	}
	return nil
}

// tproxy sends everything of the peers that is not for the router to a relay.
func tproxy(router *netnstest.NS) {
	for _, f := range []string{"-4", "-6"} {
		router.Exec("ip", f, "rule", "add", "fwmark", "0x50/0xff", "lookup", "150")
		router.Exec("ip", f, "route", "add", "local", "default", "dev", "lo", "table", "150")
	}
	router.Sh(fmt.Sprintf(`nft -f - <<'X'
table inet t {
	chain pre {
		type filter hook prerouting priority -150; policy accept;
		iifname pic0 fib daddr type local accept
		iifname pic0 meta nfproto ipv4 meta l4proto { tcp, udp } meta mark set 0x50 tproxy ip to 127.0.0.1:%[1]d accept
		iifname pic0 meta nfproto ipv6 meta l4proto { tcp, udp } meta mark set 0x50 tproxy ip6 to [::1]:%[1]d accept
	}
}
X`, port))
}

// firewallHelper applies the firewall's own rules: two peers with a proxy exit.
func firewallHelper([]string) error {
	s := cell.Factory([16]byte{1, 2, 3, 4, 5, 6}, "tunnel", "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
	s.Identity = cell.Identity{Name: "home", Mode: cell.ModeLAN}
	s.Users = append(s.Users, cell.User{Name: "admin", Role: cell.RoleAdmin, PasswordHash: "pw"})
	s.Network.Uplink = "eth0"
	s.Exits = []cell.Exit{{ID: "px", Type: cell.ExitProxy, Enabled: true}}
	if p := s.Exits[0].RelayPort(); p != port {
		return fmt.Errorf("the relay's port is %d", p)
	}
	for i, a := range peer4 {
		s.Peers = append(s.Peers, cell.Peer{
			Name: fmt.Sprint("p", i), PublicKey: cell.Key(fmt.Sprintf("%cAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", 'B'+i)),
			Address4: netip.MustParseAddr(a), Address6: netip.MustParseAddr(peer6[i]),
			Exit: "px", Enabled: true, Destinations: cell.FullTunnel, Trust: cell.TrustOwner,
		})
	}
	link := func(i int, as ...string) cell.LinkFact {
		l := cell.LinkFact{Index: i, Up: true}
		for _, a := range as {
			l.Addresses = append(l.Addresses, netip.MustParsePrefix(a))
		}
		return l
	}
	p, err := firewall.Compile(s, cell.Facts{
		Host: cell.Host{Scope: cell.ScopeFull, HTTPPort: 8080, HTTPSPort: 8443, DNSPort: 5353, NTPPort: 123},
		Uplink: cell.Uplink{
			Name: "eth0", Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("2001:db8:1::2/64")},
			Gateway4: netip.MustParseAddr("192.0.2.1"), Gateway6: netip.MustParseAddr("2001:db8:1::1"),
		},
		Links: map[string]cell.LinkFact{
			"lo": link(1, "127.0.0.1/8", "::1/128"), "eth0": link(2, "192.0.2.2/24", "2001:db8:1::2/64"), "pic0": link(3, "10.17.0.1/24", "fd02:304:506::1/64"),
		},
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	_, err = firewall.New(&firewall.Config{Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}).Apply(ctx, p)
	return err
}

// relayHelper runs a relay and a SOCKS server until its orders end.
func relayHelper(args []string) error {
	var s setup
	if err := json.Unmarshal([]byte(args[0]), &s); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	direct := &dialer.Direct{Resolve: func(_ context.Context, name string) ([]netip.Addr, error) {
		if name == "web.example.test" {
			return []netip.Addr{netip.MustParseAddr(server4)}, nil
		}
		return nil, errors.New("no such name")
	}}
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		switch {
		case strings.HasSuffix(address, ":666"):
			panic("this port is cursed")
		case strings.HasSuffix(address, ":667"): // an upstream that is no socket
			c, err := direct.DialContext(ctx, network, strings.TrimSuffix(address, "667")+"80")
			return struct{ wrapped }{wrapped{c}}, err
		}
		return direct.DialContext(ctx, network, address)
	}
	r := relay.New(&relay.Config{
		ID: "px", Port: port, UDP: s.UDP, MaxConns: s.MaxConns, MaxPerSource: s.MaxPerSource, MaxFlows: s.MaxFlows, Idle: s.Idle, UDPIdle: s.UDPIdle, Log: log,
		Dial: func(ctx context.Context, network string, dst netip.AddrPort, src netip.Addr) (net.Conn, error) {
			if !src.IsPrivate() {
				return nil, fmt.Errorf("a client at %s", src)
			}
			return dial(ctx, network, dst.String())
		},
	})
	k := relay.NewSOCKS(&relay.SOCKSConfig{
		ID: "px", Listen: []netip.AddrPort{netip.MustParseAddrPort(fmt.Sprint("10.17.0.1:", socks)), netip.MustParseAddrPort(fmt.Sprintf("[fd02:304:506::1]:%d", socks))},
		Allow: func(a netip.Addr) bool {
			return a == netip.MustParseAddr(peer4[0]) || a == netip.MustParseAddr(peer6[0])
		},
		Dial: dial, MaxPerSource: s.MaxPerSource, Idle: s.Idle, Handshake: s.Handshake, Log: log,
	})
	l, err := net.Listen("unix", s.Socket)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- r.Run(ctx) }()
	go func() { ended <- k.Run(ctx) }()
	<-r.Ready()
	<-k.Ready()
	fmt.Println("ready")
	for {
		c, err := l.Accept()
		if err != nil {
			cancel()
			return err
		}
		order, _ := bufio.NewReader(c).ReadString('\n')
		word, rest, _ := strings.Cut(strings.TrimSpace(order), " ")
		switch word {
		case "stats":
			_ = json.NewEncoder(c).Encode(r.Stats())
		case "socks":
			_ = json.NewEncoder(c).Encode(k.Stats())
		case "close":
			fmt.Fprintln(c, r.CloseFrom(netip.MustParseAddr(rest)))
		case "self": // connect to the relay itself
			_, err := net.Dial("tcp", rest)
			fmt.Fprintln(c, err)
		case "files":
			fds, _ := os.ReadDir("/proc/self/fd")
			fmt.Fprintln(c, len(fds))
		case "stop":
			cancel()
			fmt.Fprintln(c, <-ended, <-ended)
		}
		_ = c.Close()
	}
}

// wrapped is a connection that is nothing but one.
type wrapped struct{ net.Conn }

func (w wrapped) LocalAddr() net.Addr { return &net.UnixAddr{Name: "x"} }
func (w wrapped) CloseWrite() error   { return w.Conn.(*net.TCPConn).CloseWrite() }

// serversHelper is the internet: port 80 counts what it gets and says so, 7
// echoes (UDP too), 82 resets after the first byte, 83 sends 4 MiB at
// once, 8080 is a web server.
func serversHelper([]string) error {
	for _, a := range []string{server4, server6} {
		for p, handle := range map[string]func(*net.TCPConn){
			"80": func(c *net.TCPConn) {
				n, _ := io.Copy(io.Discard, c)
				fmt.Fprintf(c, "%d bytes at %s", n, c.LocalAddr())
			},
			"7": func(c *net.TCPConn) { _, _ = io.Copy(c, c) },
			"82": func(c *net.TCPConn) {
				_, _ = c.Read(make([]byte, 1))
				_, _ = c.Write([]byte("half of it"))
				_ = c.SetLinger(0)
			},
			"8080": func(c *net.TCPConn) {
				_, _ = http.ReadRequest(bufio.NewReader(c))
				fmt.Fprintf(c, "HTTP/1.0 200 OK\r\n\r\nhello at %s", c.LocalAddr())
			},
			"83": func(c *net.TCPConn) { _, _ = c.Write(make([]byte, 4<<20)) },
		} {
			l, err := net.Listen("tcp", net.JoinHostPort(a, p))
			if err != nil {
				return err
			}
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					go func() {
						defer c.Close()
						handle(c.(*net.TCPConn))
					}()
				}
			}()
		}
		u, err := net.ListenPacket("udp", net.JoinHostPort(a, "7"))
		if err != nil {
			return err
		}
		go func() {
			b := make([]byte, 65536)
			for {
				n, from, err := u.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = u.WriteTo(b[:n], from)
			}
		}()
	}
	fmt.Println("ready")
	select {}
}

// start starts a helper and waits until it says that it is ready.
func start(t *testing.T, c *exec.Cmd) {
	t.Helper()
	r, w := io.Pipe()
	c.Stdout = w
	netnstest.Start(t, c)
	t.Cleanup(func() { _ = r.Close() })
	if line, err := bufio.NewReader(r).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("the helper says %q, %v", line, err)
	}
}

func command(t *testing.T, socket, order string) string {
	t.Helper()
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintln(c, order)
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(bytes.TrimSpace(b))
}

func stats(t *testing.T, do func(string) string, order string) (s relay.Stats) {
	t.Helper()
	if err := json.Unmarshal([]byte(do(order)), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// dialFrom connects from one of the peers' addresses.
func dialFrom(t *testing.T, network, src, dst string) (net.Conn, error) {
	t.Helper()
	d := net.Dialer{Timeout: waitFor}
	if src != "" {
		a := net.ParseIP(src)
		if network == "tcp" {
			d.LocalAddr = &net.TCPAddr{IP: a}
		} else {
			d.LocalAddr = &net.UDPAddr{IP: a}
		}
	}
	c, err := d.Dial(network, dst)
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(waitFor))
	}
	return c, err
}
