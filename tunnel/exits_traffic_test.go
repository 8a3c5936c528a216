package tunnel_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/netnstest"
	"github.com/personal-internet-cell/pic/tunnel"
)

// The addresses of a server behind the exits.
var (
	behind4 = netip.MustParseAddr("198.51.100.10")
	behind6 = netip.MustParseAddr("2001:db8:ff::10")
)

// abroad is a site whose cell has two exits: the servers of both, stock
// WireGuard, and a machine behind them.
type abroad struct {
	*site
	nl, de, far *netnstest.NS
	keys        map[string]cell.Secret // private, of the servers
	c           *remote
	stopNL      func()
}

// newAbroad plays the firewall with what an exit needs of it: the peer's
// packets and whatever has no mark go to the exit's table, and what leaves there
// is masqueraded.
func newAbroad(t *testing.T, userspace bool) *abroad {
	netnstest.Need(t, "nft")
	s := &abroad{site: newSite(t, userspace), nl: netnstest.New(t, "nl"), de: netnstest.New(t, "de"), far: netnstest.New(t, "far"), keys: map[string]cell.Secret{}}
	netnstest.Veth(s.cell, "tonl", []string{"203.0.113.1/29", "2001:db8:1::1/64"}, s.nl, "wire", []string{"203.0.113.2/29", "203.0.113.3/29", "2001:db8:1::2/64"})
	netnstest.Veth(s.cell, "tode", []string{"203.0.113.9/29"}, s.de, "wire", []string{"203.0.113.10/29"})
	netnstest.Veth(s.nl, "tofar", []string{"198.51.100.1/24", "2001:db8:ff::1/64"}, s.far, "wire", []string{behind4.String() + "/24", behind6.String() + "/64"})
	for _, ns := range []*netnstest.NS{s.cell, s.nl} {
		ns.Sysctl("net.ipv4.ip_forward", "1")
		ns.Sysctl("net.ipv6.conf.all.forwarding", "1")
	}
	s.far.Exec("ip", "route", "add", "10.99.0.0/24", "via", "198.51.100.1")
	s.far.Exec("ip", "route", "add", "fd99::/64", "via", "2001:db8:ff::1")
	s.cell.Sh(`for f in -4 -6; do
	ip $f rule add priority 100 fwmark 0x1 lookup main
	ip $f rule add priority 101 lookup main suppress_prefixlength 0
	ip $f rule add priority 102 not fwmark 0x1 lookup 110
	ip $f route add unreachable default metric 9999 table 110
done
nft add table inet t
nft 'add chain inet t post { type nat hook postrouting priority srcnat; }'
nft add rule inet t post oifname wg_ext0 masquerade
nft 'add chain inet t out { type filter hook output priority 0; }'
nft add rule inet t out udp dport 51821 meta mark != 0x1 counter comment bare
nft add rule inet t out udp dport 51821 meta mark 0x1 counter comment marked`)
	_, s.keys["nl"] = s.h.exit("nl", "203.0.113.2:51821", 0)
	_, s.keys["de"] = s.h.exit("de", "203.0.113.10:51821", 1)
	s.stopNL = s.serve("nl", s.nl, 51821, "")
	s.serve("de", s.de, 51821, "")
	s.c = s.control()
	return s
}

// serve starts the server of an exit as its provider would; callsAt lets it
// call the cell first.
func (s *abroad) serve(id string, ns *netnstest.NS, port int, callsAt string) (end func()) {
	s.t.Helper()
	e := s.h.State.Exit(id)
	m := member{
		Private: s.keys[id].Reveal(), PSK: s.h.Secrets[e.WireGuard.PresharedKey], Server: string(e.WireGuard.PublicKey),
		Port: port, Kernel: !s.userspace, Endpoint: callsAt, Keepalive: time.Second,
		Addresses: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.99.%d.1/24", e.Slot)), netip.MustParsePrefix(fmt.Sprintf("fd99:%d::1/64", e.Slot))},
		Allowed:   []netip.Prefix{netip.PrefixFrom(e.Address4, 32), netip.PrefixFrom(e.Address6, 128)},
	}
	stop := startMember(s.t, ns, m)
	return func() {
		stop()
		if m.Kernel { // which goes on without its process
			ns.Exec("ip", "link", "del", memberLink)
		}
	}
}

// settled applies the state twice; the second pass changes nothing.
func (s *abroad) settled(what string) {
	s.t.Helper()
	if !s.c.apply(s.h).Changed || s.c.apply(s.h).Changed {
		s.t.Fatalf("%s: want a change, then none", what)
	}
	s.route()
}

// route is the firewall's part after a link is made.
func (s *abroad) route() {
	s.cell.Sh("for f in -4 -6; do ip $f route replace default dev wg_ext0 table 110 metric 1; done")
}

// through pings the server behind the exit, in both families, from ns.
func (s *abroad) through(ns *netnstest.NS, within time.Duration) {
	s.t.Helper()
	for _, a := range []netip.Addr{behind4, behind6} {
		netnstest.Eventually(s.t, within, func() error {
			if out, err := ns.Try("ping", "-c1", "-W1", a.String()); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
	}
}

func (s *abroad) index(link string) string {
	return strings.TrimSpace(s.cell.Exec("cat", "/sys/class/net/"+link+"/ifindex"))
}

func TestUserspaceExit(t *testing.T) { t.Parallel(); exitTraffic(t, true) }

func TestKernelExit(t *testing.T) { needKernel(t); exitTraffic(t, false) }

func exitTraffic(t *testing.T, userspace bool) {
	s := newAbroad(t, userspace)
	s.settled("creation")
	// The peer reaches the world through the exit.
	m := s.h.member("a", "192.0.2.1:51820", !userspace)
	m.Allowed = everywhere
	s.a.Sh("ip rule add priority 90 to 192.0.2.0/29 lookup main")
	startMember(t, s.a, m)
	s.a.Sh("for f in -4 -6; do ip $f route add default dev " + memberLink + "; done")
	s.through(s.a, 15*time.Second)
	s.through(s.cell, 5*time.Second)

	out := s.cell.Exec("nft", "list", "chain", "inet", "t", "out")
	for line := range strings.Lines(out) {
		if none := strings.Contains(line, "packets 0 "); strings.Contains(line, "counter") && none != strings.Contains(line, "bare") {
			t.Fatalf("mark %#x is not on the carrier packets:\n%s", cell.MarkBypass, out)
		}
	}
	st := s.status("wg_ext0")
	p := st.Peers[s.h.State.Exit("nl").WireGuard.PeerKey]
	if !st.Up || p.Endpoint.String() != "203.0.113.2:51821" || time.Since(p.LastHandshake) > time.Minute || p.ReceivedBytes == 0 || p.SentBytes == 0 {
		t.Fatalf("%+v", st)
	}

	// Another exit comes and goes: this one's session does not notice.
	index := s.index("wg_ext0")
	startHelper(t, s.far, "echo", netip.AddrPortFrom(behind4, 7).String())
	wait := startFlow(t, s.a, netip.AddrPortFrom(behind4, 7), 500, 3*time.Second)
	de := s.h.State.Exit("de")
	for range 4 {
		de.Enabled = false
		s.c.apply(s.h)
		if out, err := s.cell.Try("ip", "link", "show", "wg_ext1"); err == nil {
			t.Fatalf("a disabled exit has a link: %s", out)
		}
		de.Enabled = true
		s.c.apply(s.h)
		de.WireGuard.Keepalive++
		s.c.apply(s.h)
	}
	r, err := wait()
	must(t, err)
	if r.Sent != 1500 || r.Back != r.Sent || s.index("wg_ext0") != index {
		t.Fatalf("another exit's changes were noticed: %+v", r)
	}
	if again := s.status("wg_ext0").Peers[s.h.State.Exit("nl").WireGuard.PeerKey]; !again.LastHandshake.Equal(p.LastHandshake) {
		t.Fatalf("a new handshake: the session was lost (%+v, before %+v)", again, p)
	}

	// The server moves to another address, and the old one is gone.
	nl := s.h.State.Exit("nl").WireGuard
	for _, x := range [][2]string{
		{"[2001:db8:1::2]:51821", "2001:db8:1::2/64"},
		{"203.0.113.2:51821", "203.0.113.2/29"},
	} {
		s.nl.Sh("ip addr flush dev wire scope global; ip addr add " + x[1] + " dev wire")
		nl.Endpoint = x[0]
		s.settled("another endpoint")
		s.through(s.a, 15*time.Second)
		if got := s.status("wg_ext0").Peers[nl.PeerKey].Endpoint.String(); got != x[0] {
			t.Fatalf("endpoint %s, want %s", got, x[0])
		}
	}

	for _, x := range []struct {
		what string
		do   func()
	}{
		{"a lost address", func() { s.cell.Exec("ip", "address", "flush", "dev", "wg_ext0") }},
		{"a deleted link", func() { s.cell.Exec("ip", "link", "del", "wg_ext0") }},
	} {
		x.do()
		s.settled(x.what)
		s.through(s.a, 15*time.Second)
	}
	if !userspace {
		netnstest.Need(t, "wg")
		s.cell.Exec("wg", "set", "wg_ext0", "peer", string(nl.PeerKey), "remove")
		s.settled("a lost server")
		s.through(s.a, 15*time.Second)
	}

	s.h.dropExit("nl")
	if !s.c.apply(s.h).Changed || s.c.apply(s.h).Changed {
		t.Fatal("removal: want a change, then none")
	}
	if out, err := s.a.Try("ping", "-c1", "-W1", behind4.String()); err == nil {
		t.Fatalf("reached without the exit: %s", out)
	}
	if out, err := s.cell.Try("ip", "link", "show", "wg_ext0"); err == nil {
		t.Fatalf("a removed exit has a link: %s", out)
	}
}

func (s *abroad) status(device string) tunnel.Status {
	s.t.Helper()
	a := s.c.do(request{Op: "status", Device: device})
	if a.Err != "" {
		s.t.Fatal(a.Err)
	}
	return a.Status
}

func TestUserspaceExitRoams(t *testing.T) { t.Parallel(); exitRoams(t, true) }

func TestKernelExitRoams(t *testing.T) { needKernel(t); exitRoams(t, false) }

// The server moves by itself, as WireGuard allows: the cell goes after it and
// leaves it so. What is wanted next is set all the same.
func exitRoams(t *testing.T, userspace bool) {
	s := newAbroad(t, userspace)
	nl := s.h.State.Exit("nl").WireGuard
	nl.Endpoint = "203.0.113.3:9" // nobody
	s.settled("creation")
	port := s.status("wg_ext0").ListenPort
	if port == 0 {
		t.Fatal("no port")
	}
	s.stopNL()
	stop := s.serve("nl", s.nl, 40000, fmt.Sprintf("203.0.113.1:%d", port))
	met := func() error {
		if got := s.status("wg_ext0").Peers[nl.PeerKey].Endpoint; got.Port() != 40000 {
			return errors.New("the server was not met: " + got.String())
		}
		return nil
	}
	netnstest.Eventually(t, 15*time.Second, met)
	if s.c.apply(s.h).Changed {
		t.Fatal("where the server was met was taken for drift")
	}
	must(t, met())
	s.through(s.cell, 10*time.Second)
	stop()
	nl.Endpoint = "203.0.113.3:51821"
	s.settled("another endpoint")
	if st := s.status("wg_ext0"); st.Peers[nl.PeerKey].Endpoint.String() != nl.Endpoint || st.ListenPort != port {
		t.Fatalf("want %s from port %d: %+v", nl.Endpoint, port, st)
	}
}
