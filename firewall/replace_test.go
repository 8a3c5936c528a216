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
