package firewall_test

import (
	"testing"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/firewall"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// everything that must never be seen on the uplink: peers of a routed exit, of
// a dialed exit without a relay, of an exit without a link, strangers, and a
// service whose egress is an exit.
func (l *lab) closed() {
	send(l.t, l.peers, flood("10.17.0.3", "fd02:304:506::3")...)
	send(l.t, l.peers, flood("10.17.0.4", "fd02:304:506::4")...)
	send(l.t, l.peers, flood("10.17.0.5", "fd02:304:506::5")...)
	send(l.t, l.peers, flood("10.17.0.99", "fd02:304:506::99")...)
	send(l.t, l.peers, flood("203.0.113.7", "2001:db8:77::7")...)
	send(l.t, l.chat, flood("172.20.2.2", "")...)
	// Late or unsolicited answers through the exit: the cell's own stack must
	// not answer them by the uplink, nor may they be forwarded there.
	var late []shot
	for i, p := range []string{"tcp", "udp", "icmp"} {
		for j, to := range []string{"10.200.0.2", "fd20::2", "10.17.0.2", "fd02:304:506::2", "203.0.113.1", "2001:db8:77::1"} {
			from := internet4
			if ip(to).Is6() {
				from = internet6
			}
			late = append(late, shot{firewall.Packet{Src: ip(from), Dst: ip(to), Protocol: p, SrcPort: 443, DstPort: 33000}, uint16(10*i + j), false})
		}
	}
	if _, err := l.exit.Try("ip", "link", "show", "up0"); err == nil {
		send(l.t, l.exit, late...)
	}
}

// forgetFlows clears connection tracking, so that a later packet is a first one.
func forgetFlows(n *netnstest.NS) { _, _ = n.Try("conntrack", "-F") }

// Any one layer of the kill switch removed still leaks nothing, in either family.
func TestEachLayerAloneHoldsTheKillSwitch(t *testing.T) {
	netnstest.Need(t, "conntrack")
	for _, c := range []struct {
		name   string
		remove func(n *netnstest.NS)
	}{
		{"nothing removed", func(*netnstest.NS) {}},
		{"exit tables", func(n *netnstest.NS) {
			for _, table := range []string{"110", "120", "130"} {
				n.Exec("ip", "-4", "route", "flush", "table", table)
				n.Exec("ip", "-6", "route", "flush", "table", table)
			}
		}},
		{"cell table", func(n *netnstest.NS) {
			n.Exec("ip", "-4", "route", "flush", "table", "100")
			n.Exec("ip", "-6", "route", "flush", "table", "100")
		}},
		{"policy rules", deleteRules},
		{"table pic", func(n *netnstest.NS) { n.Exec("nft", "delete", "table", "inet", "pic") }},
		{"guard table", func(n *netnstest.NS) { n.Exec("nft", "delete", "table", "inet", "pic_guard") }},
		{"exit link", func(n *netnstest.NS) { n.Exec("ip", "link", "del", "wg_ext0") }},
		{"exit link down", func(n *netnstest.NS) { n.Exec("ip", "link", "set", "wg_ext0", "down") }},
		{"exit address", func(n *netnstest.NS) { n.Exec("ip", "addr", "flush", "dev", "wg_ext0") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.apply(household(), facts(cell.ScopeFull))

			// Controls: a direct peer is seen on the uplink, a peer of the exit behind it.
			send(t, l.peers, flood("10.17.0.2", "fd02:304:506::2")...)
			wantSome(t, "a direct peer on the uplink", l.inet)
			send(t, l.peers, flood("10.17.0.3", "fd02:304:506::3")...)
			wantSome(t, "a peer of the exit behind it", l.exit)
			l.closed()
			l.flush(t)
			wantNone(t, "before", l.inet)

			c.remove(l.router)
			l.closed() // flows that were known before
			forgetFlows(l.router)
			l.closed() // and first packets
			l.flush(t)
			wantNone(t, "without the "+c.name, l.inet)
		})
	}
}

// flush waits for packets on their way: the router's own packet to the
// uplink's neighbour, sent last, has been answered.
func (l *lab) flush(t *testing.T) {
	t.Helper()
	netnstest.Eventually(t, waitFor, func() error {
		_, err := l.router.Try("ping", "-c1", "-W1", "192.0.2.1")
		return err
	})
}

// The test above must be able to fail: with every layer gone the packets leak.
func TestWithoutAnyLayerPacketsLeak(t *testing.T) {
	l := newLab(t)
	l.apply(household(), facts(cell.ScopeFull))
	deleteRules(l.router)
	l.router.Exec("nft", "delete", "table", "inet", "pic")
	l.router.Exec("nft", "delete", "table", "inet", "pic_guard")
	seen(t, l.inet)
	l.closed()
	wantSome(t, "all layers removed", l.inet)
}
