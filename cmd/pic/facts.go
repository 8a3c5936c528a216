package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/lifecycle"
	"github.com/personal-internet-cell/pic/reconcile"
)

// relearn is how often the machine is looked at although no event came.
const relearn = 10 * time.Second

// learner keeps the engine's facts equal to the machine.
type learner struct {
	log    *slog.Logger
	host   cell.Host
	engine *reconcile.Engine
	now    func() time.Time
	poke   chan struct{}
	// userspace says whether the tunnel runs inside this process.
	userspace func() bool
}

func newLearner(log *slog.Logger, host cell.Host) *learner {
	return &learner{log: log, host: host, now: time.Now, poke: make(chan struct{}, 1), userspace: func() bool { return false }}
}

// look asks for a look soon; it never blocks.
func (l *learner) look() {
	select {
	case l.poke <- struct{}{}:
	default:
	}
}

// task learns until ctx ends: at events, every ten seconds, and when the next
// peer expires.
func (l *learner) task() lifecycle.Task {
	return lifecycle.Func("facts", func(ctx context.Context) error {
		for {
			wait := l.learn()
			t := time.NewTimer(wait)
			select {
			case <-ctx.Done():
				t.Stop()
				return nil
			case <-l.poke:
			case <-t.C:
			}
			t.Stop()
		}
	})
}

// learn updates the engine's facts and returns when to look again.
func (l *learner) learn() time.Duration {
	lifecycle.Fault("facts")
	got := readMachine(l.host)
	now, wait := l.now(), relearn
	s, _ := l.engine.Running()
	if s != nil {
		for i := range s.Peers {
			e := s.Peers[i].Expires
			switch {
			case e == nil:
			case !e.After(now):
				got.Expired = append(got.Expired, s.Peers[i].Name)
			default:
				wait = min(wait, e.Sub(now)+time.Millisecond)
			}
		}
		slices.Sort(got.Expired)
		got.ExitLapsed, wait = lapsed(s, now, wait)
		if s.Network.Uplink != "" && l.host.Uplink == "" {
			got.Uplink = uplinkNamed(got.Links, s.Network.Uplink, got.Uplink)
		}
	}
	got.UserspaceWireGuard = l.userspace()
	l.engine.Learn(func(f *cell.Facts) {
		f.UserspaceWireGuard = got.UserspaceWireGuard
		f.Host, f.Uplink, f.Links, f.Resolvers, f.Expired, f.ExitLapsed = got.Host, got.Uplink, got.Links, got.Resolvers, got.Expired, got.ExitLapsed
	})
	return wait
}

// readMachine reads interfaces, default routes and resolvers.
func readMachine(host cell.Host) cell.Facts {
	f := cell.Facts{Host: host, Links: map[string]cell.LinkFact{}}
	ifs, err := net.Interfaces()
	if err != nil {
		return f
	}
	for _, i := range ifs {
		l := cell.LinkFact{Index: i.Index, Up: i.Flags&net.FlagUp != 0}
		addrs, err := i.Addrs()
		if err != nil {
			continue // it vanished between the two calls
		}
		for _, a := range addrs {
			if n, is := a.(*net.IPNet); is {
				ones, _ := n.Mask.Size()
				ip, _ := netip.AddrFromSlice(n.IP)
				l.Addresses = append(l.Addresses, netip.PrefixFrom(ip.Unmap(), ones))
			}
		}
		slices.SortFunc(l.Addresses, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
		f.Links[i.Name] = l
	}
	name, gw4 := defaultRoute4("/proc/net/route")
	name6, gw6 := defaultRoute6("/proc/net/ipv6_route")
	if host.Uplink != "" {
		f.Uplink = uplinkNamed(f.Links, host.Uplink, cell.Uplink{Name: name, Gateway4: gw4})
	} else {
		if name == "" {
			name = name6
		}
		if name != "" {
			f.Uplink = cell.Uplink{Name: name, Addresses: f.Links[name].Addresses, Gateway4: gw4}
		}
	}
	if name6 == f.Uplink.Name {
		f.Uplink.Gateway6 = gw6
	}
	f.Resolvers = resolvers([]string{"/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"}, f.Links)
	return f
}

// uplinkNamed makes the uplink of a chosen interface; the learned gateway
// counts only if it is that interface's.
func uplinkNamed(links map[string]cell.LinkFact, name string, learned cell.Uplink) cell.Uplink {
	u := cell.Uplink{Name: name, Addresses: links[name].Addresses}
	if learned.Name == name {
		u.Gateway4, u.Gateway6 = learned.Gateway4, learned.Gateway6
	}
	return u
}

// ours reports whether a link can't be the uplink.
func ours(name string) bool { return name == "lo" || cell.OurLink(name) }

// defaultRoute4 reads the main table's default route of least metric (proc(5),
// /proc/net/route: addresses in hexadecimal, host byte order).
func defaultRoute4(path string) (name string, gateway netip.Addr) {
	best := uint64(1 << 32)
	eachLine(path, func(f []string) {
		if len(f) < 8 || f[1] != "00000000" || f[7] != "00000000" || ours(f[0]) {
			return
		}
		flags, err1 := strconv.ParseUint(f[3], 16, 32)
		metric, err2 := strconv.ParseUint(f[6], 10, 32)
		raw, err3 := hex.DecodeString(f[2])
		if err1 != nil || err2 != nil || err3 != nil || len(raw) != 4 || flags&1 == 0 || metric >= best {
			return
		}
		best, name = metric, f[0]
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], binary.NativeEndian.Uint32(raw))
		gateway = netip.AddrFrom4(a)
		if gateway.IsUnspecified() {
			gateway = netip.Addr{} // a point-to-point link has none
		}
	})
	return name, gateway
}

// defaultRoute6 does the same for IPv6 (/proc/net/ipv6_route: destination,
// length, source, length, next hop, metric, refs, use, flags, device).
func defaultRoute6(path string) (name string, gateway netip.Addr) {
	best := uint64(1 << 32)
	eachLine(path, func(f []string) {
		if len(f) < 10 || f[1] != "00" || strings.Trim(f[0], "0") != "" || ours(f[9]) {
			return
		}
		flags, err1 := strconv.ParseUint(f[8], 16, 32)
		metric, err2 := strconv.ParseUint(f[5], 16, 32)
		raw, err3 := hex.DecodeString(f[4])
		const up, reject = 0x1, 0x200 // RTF_UP, RTF_REJECT
		if err1 != nil || err2 != nil || err3 != nil || len(raw) != 16 || flags&up == 0 || flags&reject != 0 || metric >= best {
			return
		}
		best, name = metric, f[9]
		if gateway = netip.AddrFrom16([16]byte(raw)); gateway.IsUnspecified() {
			gateway = netip.Addr{}
		}
	})
	return name, gateway
}

// resolvers returns the first file's name servers that are not this machine.
func resolvers(paths []string, links map[string]cell.LinkFact) []netip.AddrPort {
	local := map[netip.Addr]bool{}
	for _, l := range links {
		for _, p := range l.Addresses {
			local[p.Addr()] = true
		}
	}
	for _, path := range paths {
		var out []netip.AddrPort
		eachLine(path, func(f []string) {
			if len(f) < 2 || f[0] != "nameserver" || len(out) == 3 { // resolv.conf(5): at most 3
				return
			}
			a, err := netip.ParseAddr(f[1])
			if err == nil && !a.IsLoopback() && !a.IsUnspecified() && !local[a.Unmap()] {
				out = append(out, netip.AddrPortFrom(a.Unmap(), 53))
			}
		})
		if len(out) > 0 {
			return out
		}
	}
	return nil
}

func eachLine(path string, use func(fields []string)) {
	f, err := os.Open(path)
	if err != nil {
		return // no such family, or no resolver file: nothing learned
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		use(strings.Fields(sc.Text()))
	}
}
