package firewall_test

import (
	"net"
	"strings"
	"testing"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// wantDial connects and compares what the other end says: who it is and whom
// it sees.
func (l *lab) wantDial(from *netnstest.NS, src, dst, want string) {
	l.t.Helper()
	if got, err := l.dial(from, src, dst); err != nil || got != want {
		l.t.Errorf("%s → %s: got %q, %v; want %q", src, dst, got, err, want)
	}
}

func (l *lab) wantNoDial(from *netnstest.NS, src, dst string) {
	l.t.Helper()
	if got, err := l.dial(from, src, dst); err == nil {
		l.t.Errorf("%s → %s: connected, %q", src, dst, got)
	}
}

func hostPort(host, port string) string { return net.JoinHostPort(host, port) }

// Life of a packet (architecture.md), with whole connections: names in the
// answers say by which way they went and which source was seen.
func TestLifeOfAPacket(t *testing.T) {
	for _, srcValidMark := range []string{"0", "1"} {
		t.Run("src_valid_mark "+srcValidMark, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.router.Sysctl("net.ipv4.conf.all.src_valid_mark", srcValidMark)
			l.router.Sysctl("net.ipv4.conf.all.rp_filter", "1") // as many distributions have it
			l.apply(household(), facts(cell.ScopeFull))
			serve(t, l.inet, "uplink", hostPort(internet4, "443"), hostPort(internet6, "443"))
			serve(t, l.exit, "exit", hostPort(internet4, "443"), hostPort(internet6, "443"))
			serve(t, l.lan, "lan", "192.168.5.9:80", "[2001:db8:5::9]:80")
			serve(t, l.mail, "mail", "172.20.1.2:993", "172.20.1.2:22")
			serve(t, l.router, "cell", "10.17.0.1:8443", "[fd02:304:506::1]:8443", "10.17.0.1:22", "192.0.2.2:8443")

			// direct: the uplink, masqueraded in both families
			l.wantDial(l.peers, "10.17.0.2", hostPort(internet4, "443"), "uplink 192.0.2.2")
			l.wantDial(l.peers, "fd02:304:506::2", hostPort(internet6, "443"), "uplink 2001:db8:1::2")
			// a routed exit: its link, with its address
			l.wantDial(l.peers, "10.17.0.3", hostPort(internet4, "443"), "exit 10.200.0.2")
			l.wantDial(l.peers, "fd02:304:506::3", hostPort(internet6, "443"), "exit fd20::2")
			l.wantDial(l.chat, "172.20.2.2", hostPort(internet4, "443"), "exit 10.200.0.2")
			// a dialed exit: the relay learns whom the connection was for
			stop := l.relay("9040")
			l.wantDial(l.peers, "10.17.0.4", hostPort(internet4, "443"), "for "+hostPort(internet4, "443"))
			l.wantDial(l.peers, "fd02:304:506::4", hostPort(internet6, "443"), "for "+hostPort(internet6, "443"))
			// but not what is meant for the cell itself
			l.wantDial(l.peers, "10.17.0.4", "192.0.2.2:8443", "cell 10.17.0.4")
			stop()
			for _, d := range [][2]string{{"10.17.0.4", internet4}, {"fd02:304:506::4", internet6}} {
				if _, err := l.dial(l.peers, d[0], hostPort(d[1], "443")); err == nil || !strings.Contains(err.Error(), "refused") {
					t.Errorf("%s without a relay: want a refusal at once, got %v", d[0], err)
				}
			}
			// an exit whose link is missing
			if _, err := l.dial(l.peers, "10.17.0.5", hostPort(internet4, "443")); err == nil || !strings.Contains(err.Error(), "no route to host") {
				t.Errorf("an exit that is down: want no route to host, got %v", err)
			}
			// inside
			l.wantDial(l.peers, "10.17.0.2", "10.17.0.1:443", "cell 10.17.0.2")
			l.wantDial(l.peers, "fd02:304:506::4", "[fd02:304:506::1]:443", "cell fd02:304:506::4")
			l.wantNoDial(l.peers, "10.17.0.2", "10.17.0.1:22")
			l.wantDial(l.peers, "10.17.0.2", "172.20.1.2:993", "mail 10.17.0.2")
			l.wantNoDial(l.peers, "10.17.0.2", "172.20.1.2:22")
			l.wantNoDial(l.peers, "10.17.0.3", "172.20.1.2:993")
			l.wantDial(l.peers, "10.17.0.3", "192.168.5.9:80", "lan 192.168.5.1")
			l.wantDial(l.peers, "fd02:304:506::3", "[2001:db8:5::9]:80", "lan 2001:db8:5::1")
			l.wantNoDial(l.peers, "10.17.0.2", "192.168.5.9:80")
			// without a default route in main the exits go on
			l.router.Exec("ip", "route", "del", "default")
			l.router.Exec("ip", "-6", "route", "del", "default")
			l.wantDial(l.peers, "10.17.0.3", hostPort(internet4, "443"), "exit 10.200.0.2")
			l.wantDial(l.peers, "fd02:304:506::3", hostPort(internet6, "443"), "exit fd20::2")
		})
	}
}

// A peer that moves to another exit, or is removed, takes its connections
// along: what connection tracking knew of it is forgotten, others' is kept.
func TestMovedPeersLoseTheirConnections(t *testing.T) {
	netnstest.Need(t, "conntrack")
	l := newLab(t)
	s := household()
	l.apply(s, facts(cell.ScopeFull))
	known := func(addr, family string) bool {
		return strings.Contains(l.router.Exec("conntrack", "-L", "-f", family), "src="+addr+" ")
	}
	start := func() {
		for _, p := range []string{"2", "3"} {
			send(t, l.peers, flood("10.17.0."+p, "fd02:304:506::"+p)...)
		}
		for _, a := range [][2]string{{"10.17.0.2", "ipv4"}, {"10.17.0.3", "ipv4"}, {"fd02:304:506::2", "ipv6"}, {"fd02:304:506::3", "ipv6"}} {
			if !known(a[0], a[1]) {
				t.Fatalf("no connection of %s to forget", a[0])
			}
		}
	}
	for _, c := range []struct {
		name string
		edit func(*cell.State)
	}{
		{"moved", func(s *cell.State) { s.Peers[1].Exit = cell.ExitDirect }},
		{"disabled", func(s *cell.State) { s.Peers[1].Enabled = false }},
	} {
		start()
		next := s.Clone()
		c.edit(next)
		l.apply(next, facts(cell.ScopeFull))
		if known("10.17.0.3", "ipv4") || known("fd02:304:506::3", "ipv6") {
			t.Errorf("%s: connections of the peer are still known", c.name)
		}
		if !known("10.17.0.2", "ipv4") || !known("fd02:304:506::2", "ipv6") {
			t.Errorf("%s: connections of another peer were forgotten", c.name)
		}
		l.apply(s, facts(cell.ScopeFull))
	}
}

// The facts may lag behind: a link that comes after they were learned gets its
// routes by applying the same policy again.
func TestRoutesFollowTheirLinks(t *testing.T) {
	l := newLab(t)
	s, f := household(), facts(cell.ScopeFull)
	delete(f.Links, "wg_ext0")
	delete(f.Links, "pic0")
	l.router.Exec("ip", "link", "set", "wg_ext0", "down")
	l.apply(s, f)
	serve(t, l.exit, "exit", hostPort(internet4, "443"))
	if _, err := l.dial(l.peers, "10.17.0.3", hostPort(internet4, "443")); err == nil || !strings.Contains(err.Error(), "no route to host") {
		t.Fatalf("without the link: %v", err)
	}
	l.router.Exec("ip", "link", "set", "wg_ext0", "up")
	if !l.apply(s, f) {
		t.Error("nothing changed when the link came")
	}
	l.wantDial(l.peers, "10.17.0.3", hostPort(internet4, "443"), "exit 10.200.0.2")
}
