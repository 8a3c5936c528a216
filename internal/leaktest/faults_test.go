package leaktest_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/personal-internet-cell/pic/internal/labtest"
)

// fault breaks something; what it returns mends what the cell does not mend by
// itself. Between the two the peers go on sending for as long as it lasts.
type fault struct {
	name  string
	lasts time.Duration
	do    func(r *rand.Rand) (undo func())
}

const (
	short = 700 * time.Millisecond
	long  = 2500 * time.Millisecond

	flushRules = `
for f in -4 -6; do
	ip $f rule show | grep -v 'lookup \(local\|main\|default\)$' | cut -d: -f1 | while read -r p; do ip $f rule del pref "$p" || true; done
done`
	flushTables = `
for t in 100 $(seq 110 169); do
	ip -4 route flush table $t 2>/dev/null || true
	ip -6 route flush table $t 2>/dev/null || true
done`
)

// faults are those of bar KS-1 that can happen on a machine without a VM.
func (m *matrix) faults() []fault {
	c := m.lab.Cell
	sh := func(script string) func(*rand.Rand) func() {
		return func(*rand.Rand) func() { c.Sh(script); return nil }
	}
	all := []fault{
		{"nothing", short, func(*rand.Rand) func() { return nil }},
		{"far ends frozen", long, func(*rand.Rand) func() { return m.far.Freeze() }},
		{"far ends killed", long, func(*rand.Rand) func() { m.far.Stop(); return func() { m.far.Run() } }},
		{"exit link down", short, sh(`for l in $(ls /sys/class/net | grep -E '^(wg_ext|tun)'); do ip link set $l down; done`)},
		{"exit link deleted", short, sh(`for l in $(ls /sys/class/net | grep -E '^(wg_ext|tun)'); do ip link del $l; done`)},
		{"exit address lost", short, sh(`for l in $(ls /sys/class/net | grep -E '^(wg_ext|tun)'); do ip addr flush dev $l; done`)},
		{"table pic deleted", short, sh(`nft delete table inet pic`)},
		{"guard table deleted", short, sh(`nft delete table inet pic_guard`)},
		{"ruleset flushed", short, sh(`nft flush ruleset`)},
		{"policy rules deleted", short, sh(flushRules)},
		{"exit tables flushed", short, sh(flushTables)},
		{"connections forgotten", short, sh(`conntrack -F`)},
		{"killed", long, func(*rand.Rand) func() { c.Kill(); return func() { c.Restart() } }},
		{"killed, links deleted", long, func(*rand.Rand) func() {
			c.Kill()
			c.Sh(`for l in $(ls /sys/class/net | grep -E '^(wg_ext|tun)'); do ip link del $l; done`)
			return func() { c.Restart() }
		}},
		{"killed, rules and one table gone", long, func(r *rand.Rand) func() {
			c.Kill()
			c.Exec("nft", "delete", "table", "inet", []string{"pic", "pic_guard"}[r.IntN(2)])
			return func() { c.Restart() }
		}},
		{"restarted", short, func(r *rand.Rand) func() {
			for range 1 + r.IntN(3) {
				c.Restart()
			}
			return nil
		}},
		{"another binary", short, func(*rand.Rand) func() { m.replaceBinary(); c.Restart(); return nil }},
		{"exit reconfigured", short, func(*rand.Rand) func() {
			for _, s := range m.subjects[1:] {
				m.do("PUT", "/api/connectivity/exits/"+s.id, map[string]any{"enabled": false})
			}
			return func() {
				for _, s := range m.subjects[1:] {
					m.do("PUT", "/api/connectivity/exits/"+s.id, map[string]any{"enabled": true})
				}
			}
		}},
		{"moved from exit to exit", short, func(r *rand.Rand) func() {
			for _, s := range m.subjects[1:] {
				m.move(s, m.subjects[1+r.IntN(len(m.subjects)-1)].id)
			}
			for _, s := range m.subjects[1:] {
				m.move(s, "block")
			}
			return func() {
				for _, s := range m.subjects[1:] {
					m.move(s, s.id)
				}
			}
		}},
		{"uplink flaps", short, func(*rand.Rand) func() {
			c.Sh(`ip link set eth0 down; sleep 0.1; ip link set eth0 up; ip addr add ` + labtest.CellAddress6 + `/64 dev eth0 nodad 2>/dev/null || true
ip route replace default via ` + labtest.RouterLAN4 + `; ip -6 route replace default via 2001:db8:50::1`)
			return nil
		}},
		{"routes injected", short, func(*rand.Rand) func() {
			c.Sh(`ip route add 0.0.0.0/1 via ` + labtest.RouterLAN4 + `; ip route add 203.0.113.0/24 via ` + labtest.RouterLAN4 + `; ip -6 route add 2001:db8:dead::/48 via 2001:db8:50::1`)
			return func() {
				c.Sh(`ip route del 0.0.0.0/1; ip route del 203.0.113.0/24; ip -6 route del 2001:db8:dead::/48`)
			}
		}},
		{"another program's firewall", short, func(*rand.Rand) func() {
			c.Sh(`nft -f - <<'X'
table ip other {
	chain forward { type filter hook forward priority filter; policy accept; accept; }
	chain post { type nat hook postrouting priority srcnat; oifname eth0 masquerade; }
}
X`)
			return func() { c.Exec("nft", "delete", "table", "ip", "other") }
		}},
		{"rp_filter and marks of others", short, func(*rand.Rand) func() {
			c.Sh(`echo 1 >/proc/sys/net/ipv4/conf/all/src_valid_mark; echo 1 >/proc/sys/net/ipv4/conf/all/rp_filter`)
			return func() {
				c.Sh(`echo 0 >/proc/sys/net/ipv4/conf/all/src_valid_mark; echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter`)
			}
		}},
	}
	return all
}

// move assigns a peer to an exit; the answer comes when it is in force.
func (m *matrix) move(s *subject, id string) {
	m.t.Helper()
	m.do("PUT", fmt.Sprintf("/api/connectivity/peers/peer%d/exit", s.n), map[string]any{"exit": id})
}

// replaceBinary puts another file in the program's place, as an upgrade does.
func (m *matrix) replaceBinary() {
	m.t.Helper()
	b, err := os.ReadFile(m.binary)
	if err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(m.binary+".new", b, 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Rename(m.binary+".new", m.binary); err != nil {
		m.t.Fatal(err)
	}
}
