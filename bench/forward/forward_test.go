//go:build bench

// Package forward_test measures what the cell's rules cost a forwarded packet,
// with 10 peers and with 10,000 (P6).
//
// Routers in namespaces have the same links and get as many packets of as many
// flows: one without rules, one with the rule set of 10 peers, one with that of
// 10,000; both have 50 exits, of which the packets use the uplink and one, and
// 200 peers with grants or as many as there are. A veth named pic0 stands for the tunnel: for the
// rules it is the same ingress, without WireGuard's own cost, which would hide
// theirs. A packet runs through all of prerouting, policy rules, forward and
// postrouting in the context of the process that sends it, so its time is that
// of the sending loop. The flows get no answers: every packet is judged as new.
package forward_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/firewall"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

const (
	rounds  = 300
	packets = 500 // of a round
	target  = "198.51.100.9"
)

func TestMain(m *testing.M) {
	netnstest.Main(m, netnstest.Helpers{"apply": apply, "blast": blast})
}

// apply puts the rules of args[0] peers into the namespace.
func apply(args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	s, f := state(n)
	if err := s.Validate(); err != nil {
		return err
	}
	p, err := firewall.Compile(s, f)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err = firewall.New(&firewall.Config{Log: slog.New(slog.DiscardHandler)}).Apply(ctx, p)
	return err
}

// peerAddress is the n-th peer's.
func peerAddress(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 64, byte((n + 2) >> 8), byte(n + 2)})
}

// state has n peers, every other one by an exit, each of the first 200 granted a
// service and its neighbour.
func state(n int) (*cell.State, cell.Facts) {
	s := cell.Factory([16]byte{1}, "tunnel", "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
	s.Identity = cell.Identity{Name: "home", Mode: cell.ModeLAN}
	s.Users = []cell.User{{Name: "admin", Role: cell.RoleAdmin, PasswordHash: "pw"}}
	t := &s.Network.Tunnel
	t.Prefix4 = netip.MustParsePrefix("10.64.0.0/16")
	t.Reserved4 = t.Prefix4
	s.Network.Uplink = "eth0"
	for i := range 50 {
		e := cell.Exit{ID: fmt.Sprintf("e%d", i), Slot: i % 10, Enabled: true}
		e.Type = []cell.ExitType{cell.ExitWireGuard, cell.ExitOpenVPN, cell.ExitTor, cell.ExitSSHuttle, cell.ExitProxy}[i/10]
		if e.Routed() {
			e.Address4 = netip.AddrFrom4([4]byte{172, 31, byte(i), 2})
		}
		s.Exits = append(s.Exits, e)
	}
	for i := range 5 {
		s.Services = append(s.Services, cell.Service{
			ID: fmt.Sprintf("s%d", i), Subdomain: fmt.Sprintf("s%d", i), Access: cell.AccessGranted, Enabled: true, Bridge: fmt.Sprintf("br-s%d", i),
			Prefix4: netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 20, byte(i), 0}), 24), Upstream: fmt.Sprintf("http://172.20.%d.2:80", i),
			Ports: []cell.ServicePort{{Protocol: cell.TCP, Port: 8080}},
		})
	}
	s.Network.ServicesPrefix = netip.MustParsePrefix("172.20.0.0/16")
	v6 := t.Gateway6().Next()
	for i := range n {
		var k [32]byte
		binary.BigEndian.PutUint32(k[1:], uint32(i+1))
		p := cell.Peer{
			Name: fmt.Sprintf("p%d", i), PublicKey: cell.Key(base64.StdEncoding.EncodeToString(k[:])), Address4: peerAddress(i), Address6: v6,
			Enabled: true, Destinations: cell.FullTunnel, Trust: cell.TrustGuest,
		}
		v6 = v6.Next()
		if i%2 == 1 {
			p.Exit = "e0"
		}
		if i < 200 {
			p.Services = []string{fmt.Sprintf("s%d", i%5)}
			if i > 0 {
				p.Peers = []string{fmt.Sprintf("p%d", i-1)}
			}
		}
		s.Peers = append(s.Peers, p)
	}
	s.Normalize()
	return s, cell.Facts{Host: cell.Host{Scope: cell.ScopeFull}, Uplink: cell.Uplink{Name: "eth0", Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24")}}}
}

// blast sends the packets of a round for each line it reads, of args[1] flows
// from args[0] peers in turn, and answers with the nanoseconds it took.
func blast(args []string) error {
	peers, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	dst := netip.MustParseAddr(target).As4()
	list := make([][]byte, n)
	for i := range list {
		list[i] = datagram(peerAddress(i%peers).As4(), dst, uint16(5000+i/peers))
	}
	to := &unix.SockaddrInet4{Addr: dst}
	in := bufio.NewScanner(os.Stdin)
	at := 0
	for in.Scan() {
		began := time.Now()
		for range packets {
			if err := unix.Sendto(fd, list[at%n], 0, to); err != nil && !errors.Is(err, unix.ENOBUFS) {
				return err
			}
			at++
		}
		fmt.Println(time.Since(began).Nanoseconds())
	}
	return in.Err()
}

// datagram is UDP from a port to port 4000, 64 bytes of data (RFC 791 §3.1, RFC 768).
func datagram(src, dst [4]byte, port uint16) []byte {
	b := make([]byte, 20+8+64)
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_UDP // the kernel fills in length and checksum
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	binary.BigEndian.PutUint16(b[20:], port)
	binary.BigEndian.PutUint16(b[22:], 4000)
	binary.BigEndian.PutUint16(b[24:], 8+64)
	return b
}

// router is a namespace with the links of a cell, and its neighbours.
type router struct {
	name           string
	ns, inet, exit *netnstest.NS
	ask            func() time.Duration
	took           []time.Duration
}

func newRouter(t *testing.T, name string, peers, senders, flows int) *router {
	t.Helper()
	r := &router{name: name, ns: netnstest.New(t, "router"), inet: netnstest.New(t, "inet"), exit: netnstest.New(t, "exit")}
	clients := netnstest.New(t, "peers")
	netnstest.Veth(r.ns, "eth0", []string{"192.0.2.2/24"}, r.inet, "up0", []string{"192.0.2.1/24"})
	netnstest.Veth(r.ns, "wg_ext0", []string{"172.31.0.2/24"}, r.exit, "up0", []string{"172.31.0.1/24"})
	netnstest.Veth(r.ns, cell.TunnelLink, []string{"10.64.0.1/16"}, clients, "up0", []string{"10.64.255.250/16"})
	clients.Exec("ip", "route", "add", "default", "via", "10.64.0.1")
	r.ns.Exec("ip", "route", "add", "default", "via", "192.0.2.1")
	// The exit's table routes by the link alone, as by a tunnel: somebody must
	// answer for the target, and swallow it.
	for _, far := range []*netnstest.NS{r.inet, r.exit} {
		far.Exec("ip", "addr", "add", target+"/32", "dev", "lo")
		far.Sh("echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter; echo 0 > /proc/sys/net/ipv4/conf/up0/rp_filter")
		far.Exec("nft", "add table ip sink; add chain ip sink in { type filter hook prerouting priority -400; }; add rule ip sink in udp dport 4000 counter drop")
	}
	r.ns.Sh("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter")
	if peers > 0 {
		if out, err := r.ns.Self("apply", strconv.Itoa(peers)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	c := clients.Self("blast", strconv.Itoa(senders), strconv.Itoa(flows))
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	pipe, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); _ = c.Wait() })
	out := bufio.NewScanner(pipe)
	r.ask = func() time.Duration {
		if _, err := in.Write([]byte("\n")); err != nil || !out.Scan() {
			t.Fatalf("%s: the sender ended: %v", name, err)
		}
		n, err := strconv.ParseInt(out.Text(), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return time.Duration(n) / packets
	}
	return r
}

// arrived is how many packets the far end of a link has got.
func arrived(t *testing.T, n *netnstest.NS) int {
	t.Helper()
	var list struct {
		Nftables []struct {
			Rule *struct {
				Expr []struct{ Counter *struct{ Packets int } }
			}
		}
	}
	if err := json.Unmarshal([]byte(n.Exec("nft", "-j", "list", "chain", "ip", "sink", "in")), &list); err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, x := range list.Nftables {
		if x.Rule != nil {
			for _, e := range x.Rule.Expr {
				if e.Counter != nil {
					total += e.Counter.Packets
				}
			}
		}
	}
	return total
}

// TestForwarding is P6.
func TestForwarding(t *testing.T) {
	netnstest.Need(t, "nft")
	all := []*router{
		newRouter(t, "no rules, 10 flows", 0, 10, 10),
		newRouter(t, "10 peers, 10 flows", 10, 10, 10),
		newRouter(t, "10,000 peers, 10 flows of 10", 10000, 10, 10),
		newRouter(t, "no rules, 2,000 flows", 0, 10, 2000),
		newRouter(t, "10 peers, 2,000 flows", 10, 10, 2000),
		newRouter(t, "10,000 peers, 2,000 flows of 2,000", 10000, 2000, 2000),
	}
	for range rounds { // interleaved, so that what else the machine does falls on all
		for _, r := range all {
			r.took = append(r.took, r.ask())
		}
	}
	for _, r := range all {
		up, ex := arrived(t, r.inet), arrived(t, r.exit)
		if strings.HasPrefix(r.name, "no rules") { // and so no exit
			ex = up
		}
		if sent := rounds * packets; up < sent*45/100 || ex < sent*45/100 {
			t.Errorf("%s: of %d packets %d came by the uplink and %d by the exit: half each is due", r.name, sent, up, ex)
		}
		slices.Sort(r.took)
	}
	least := func(r *router) time.Duration { return r.took[len(r.took)/20] } // the 5th percentile
	for i, r := range all {
		fmt.Printf("    %-36s %9v a packet, median %9v\n", r.name, least(r), r.took[len(r.took)/2])
		if i%3 == 2 {
			few := all[i-1]
			fmt.Printf("P6  %-36s %9.3f                             bar ≤ 1.05\n", "10,000 peers to 10, ratio", float64(least(r))/float64(least(few)))
		}
	}
}
