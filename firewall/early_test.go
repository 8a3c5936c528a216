package firewall_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/firewall"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

func earlyHelper(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for i := range 2 {
		changed, err := firewall.EarlyBoot(ctx, cell.Scope(args[0]))
		if err != nil {
			return err
		}
		if changed != (i == 0) {
			_, _ = os.Stdout.WriteString("the second time changed something\n")
		}
	}
	return nil
}

// Before the cell is up nothing passes and nothing comes in, whatever is
// switched on meanwhile; the first Apply lifts that, and Flush would too.
func TestTheMachineIsClosedUntilTheFirstApply(t *testing.T) {
	netnstest.Root(t)
	l := newLab(t)
	l.router.Sysctl("net.ipv4.ip_forward", "1")
	l.router.Sysctl("net.ipv6.conf.all.forwarding", "1")
	ping := func(from *netnstest.NS, to string) bool {
		_, err := from.Try("ping", "-c", "1", "-W", "1", to)
		return err == nil
	}
	// A positive control: forwarding is on, and everything passes.
	if !ping(l.lan, "192.0.2.1") || !ping(l.lan, "2001:db8:1::1") || !ping(l.lan, "192.168.5.1") {
		t.Fatal("the lab does not forward")
	}
	early := func(scope cell.Scope) {
		t.Helper()
		out, err := l.router.Self("early", string(scope)).CombinedOutput()
		if err != nil || len(out) > 0 {
			t.Fatalf("%v %s", err, out)
		}
	}
	early(cell.ScopeTunnel)
	if ping(l.lan, "192.0.2.1") || ping(l.lan, "2001:db8:1::1") || !ping(l.lan, "192.168.5.1") {
		t.Error("scope tunnel: forwarded, or shut to its own machine")
	}
	l.router.Exec("nft", "delete", "table", "inet", "pic_early")
	early(cell.ScopeFull)
	for _, to := range []string{"192.0.2.1", "2001:db8:1::1", "192.168.5.1", "2001:db8:5::1"} {
		if ping(l.lan, to) {
			t.Errorf("%s is reached before the cell is up", to)
		}
	}
	// What an interface and the machine itself need goes on.
	l.router.Exec("ip", "-6", "neigh", "flush", "all")
	l.lan.Exec("ip", "-6", "neigh", "flush", "all")
	if !ping(l.router, "192.168.5.9") || !ping(l.router, "2001:db8:5::9") || !ping(l.router, "127.0.0.1") {
		t.Error("the machine can't reach its own neighbours")
	}
	l.apply(household(), facts(cell.ScopeFull))
	if tables := l.router.Exec("nft", "list", "tables"); strings.Contains(tables, "pic_early") || !strings.Contains(tables, "pic_guard") {
		t.Errorf("after the first Apply:\n%s", tables)
	}
	serve(t, l.inet, "uplink", hostPort(internet4, "443"))
	l.wantDial(l.peers, "10.17.0.2", hostPort(internet4, "443"), "uplink 192.0.2.2")
	early(cell.ScopeFull)
	if _, err := tryApply(l.router, order{Flush: true}); err != nil {
		t.Fatal(err)
	}
	if tables := l.router.Exec("nft", "list", "tables"); strings.Contains(tables, "pic") {
		t.Errorf("after a flush:\n%s", tables)
	}
}

func TestTheEarlyTextIsAcceptedByNft(t *testing.T) {
	netnstest.Root(t)
	netnstest.Need(t, "nft")
	n := netnstest.New(t, "text")
	for _, scope := range []cell.Scope{cell.ScopeFull, cell.ScopeTunnel} {
		f := t.TempDir() + "/early.nft"
		if err := os.WriteFile(f, []byte(firewall.EarlyText(scope)), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := n.Try("nft", "-c", "-f", f); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if !strings.Contains(firewall.EarlyText(scope), "hook forward priority -20; policy drop;") {
			t.Error("forwarding is not closed")
		}
	}
}
