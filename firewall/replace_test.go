package firewall_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/firewall"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// flapHelper applies two states in turn, as often as its argument says: each
// time table pic is replaced as a whole.
func flapHelper([]string) error {
	var states []*cell.State
	if err := json.NewDecoder(os.Stdin).Decode(&states); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Second)
	defer cancel()
	c := firewall.New(&firewall.Config{Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	for i := range 150 {
		p, err := firewall.Compile(states[i%len(states)], facts(cell.ScopeFull))
		if err != nil {
			return err
		}
		if changed, err := c.Apply(ctx, p); err != nil || !changed {
			return fmt.Errorf("apply %d: changed %v, %w", i, changed, err)
		}
	}
	return nil
}

// stormHelper sends UDP packets of new and old flows as fast as it can until
// it is killed.
func stormHelper(args []string) error {
	var fds [2]int
	for i, family := range []int{unix.AF_INET, unix.AF_INET6} {
		fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		fds[i] = fd
	}
	fmt.Println("ready")
	for n := 0; ; n++ {
		for _, src := range args {
			pk := firewall.Packet{Src: ip(src), Dst: ip(internet4), Protocol: "udp", SrcPort: uint16(20000 + n%64), DstPort: 4000}
			fd, to := fds[0], unix.Sockaddr(&unix.SockaddrInet4{Addr: ip(internet4).As4()})
			if pk.Src.Is6() {
				pk.Dst = ip(internet6)
				fd, to = fds[1], &unix.SockaddrInet6{Addr: ip(internet6).As16()}
			}
			_ = unix.Sendto(fd, wire(pk, 0), 0, to) // a full queue is no failure
		}
	}
}

// Replacing a table in one batch is not atomic for packets in flight; what
// slips through table pic meanwhile must be held by the other layers.
func TestNothingLeaksWhileTablesAreReplaced(t *testing.T) {
	l := newLab(t)
	one := household()
	two := one.Clone()
	two.Exits = append(two.Exits, cell.Exit{ID: "tor2", Type: cell.ExitTor, Slot: 1, Enabled: true})
	l.apply(one, facts(cell.ScopeFull))
	stop := start(t, l.peers.Self("storm", "10.17.0.3", "fd02:304:506::3", "10.17.0.4", "fd02:304:506::4"))
	wantSome(t, "the exit before", l.exit)
	seen(t, l.inet)
	in, err := json.Marshal([]*cell.State{two, one})
	if err != nil {
		t.Fatal(err)
	}
	c := l.router.Self("flap")
	c.Stdin = strings.NewReader(string(in))
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	v4, v6 := seen(t, l.exit)
	stop()
	l.flush(t)
	wantNone(t, "while tables were replaced", l.inet)
	t.Logf("%d IPv4 and %d IPv6 packets went through the exit meanwhile", v4, v6)
	if v4 < 1000 || v6 < 1000 {
		t.Errorf("only %d IPv4 and %d IPv6 packets: the storm proves little", v4, v6)
	}
}

// What was counted survives a replacement of the rules.
func TestCountersOutliveTheRules(t *testing.T) {
	l := newLab(t)
	s := household()
	l.apply(s, facts(cell.ScopeFull))
	send(t, l.peers, flood("10.17.0.3", "fd02:304:506::3")...)
	wantSome(t, "the exit", l.exit)
	s.Exits = append(s.Exits, cell.Exit{ID: "tor2", Type: cell.ExitTor, Slot: 1, Enabled: true})
	r, err := tryApply(l.router, order{State: s, Facts: facts(cell.ScopeFull)})
	if err != nil || !r.Changed[0] {
		t.Fatal(r, err)
	}
	var exit, leak bool
	for _, c := range r.Counters {
		exit = exit || c.Mark == 0x10 && c.Interface == "wg_ext0" && !c.Leak && c.Packets == 6 && c.Bytes > 200
		leak = leak || c.Mark == 0x10 && c.Interface == "eth0" && c.Leak && c.Packets == 0
	}
	if !exit || !leak {
		t.Errorf("%+v", r.Counters)
	}
}

// Another program that changes its tables all the time keeps us from nothing.
func TestApplyWhileOthersWrite(t *testing.T) {
	l := newLab(t)
	netnstest.Start(t, l.router.Command("sh", "-c", "while :; do nft add table inet foreign; nft delete table inet foreign; done"))
	one := household()
	two := one.Clone()
	two.Exits = append(two.Exits, cell.Exit{ID: "tor2", Type: cell.ExitTor, Slot: 1, Enabled: true})
	three := two.Clone()
	addPeer(three, "new", "nl")
	for i := range 6 {
		if !l.apply([]*cell.State{one, two, three}[i%3], facts(cell.ScopeFull)) {
			t.Fatalf("apply %d changed nothing", i)
		}
	}
}

func TestForeignDropAndStrictFilterAreNoticed(t *testing.T) {
	l := newLab(t)
	o := order{State: household(), Facts: facts(cell.ScopeTunnel)}
	r, err := tryApply(l.router, o)
	if err != nil || len(r.Notices) != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	l.router.Exec("nft", "add", "table", "ip", "filter")
	l.router.Exec("nft", "add", "chain", "ip", "filter", "FORWARD", "{ type filter hook forward priority 0; policy drop; }")
	l.router.Sysctl("net.ipv4.conf.all.rp_filter", "1")
	r, err = tryApply(l.router, o)
	if err != nil || len(r.Notices) != 2 || r.Notices[0].Code != "firewall_foreign_drop" || r.Notices[1].Code != "firewall_rp_filter" {
		t.Fatalf("%+v, %v", r, err)
	}
}
