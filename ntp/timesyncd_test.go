package ntp_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// timesyncd is systemd's client. Debian does not install it beside chrony, so
// it is taken out of its package, once.
func timesyncd(t *testing.T) string {
	t.Helper()
	netnstest.Root(t)
	netnstest.Need(t, "apt-get", "dpkg-deb", "setpriv", "systemd-nspawn") // the last brings systemd's library
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "pic-ntp")
	for _, where := range []string{"/usr/lib/systemd", filepath.Join(dir, "root/lib/systemd"), filepath.Join(dir, "root/usr/lib/systemd")} {
		bin := filepath.Join(where, "systemd-timesyncd")
		if _, err := os.Stat(bin); err == nil {
			return bin
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("sh", "-ec", `apt-get -qq download systemd-timesyncd; dpkg-deb -x systemd-timesyncd_*.deb root.new; rm -rf root; mv root.new root`)
	c.Dir = dir
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("getting systemd-timesyncd out of its package: %v\n%s", err, out)
	}
	return timesyncd(t)
}

// syncOnce runs the client without the right to set the clock, and with a /run
// of its own, for as long as it takes to say what it thinks of the server.
const syncOnce = `
mount --make-rprivate /
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/systemd/timesyncd.conf.d /run/systemd/netif/links /run/systemd/timesync
chmod 777 /run/systemd/timesync
printf '[Time]\nNTP=%s\n' "$2" >/run/systemd/timesyncd.conf.d/pic.conf
export SYSTEMD_LOG_LEVEL=debug SYSTEMD_LOG_TARGET=console
exec timeout "$3" setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all --bounding-set=-all -- "$1"`

var offsetLine = regexp.MustCompile(`offset\s*: ([+-][0-9.]+) sec`)

// systemd-timesyncd, denied to set the clock, selects a synchronised cell in
// both families, with less than a millisecond between the two clocks, which are
// one; and not a cell that is not synchronised.
func TestTimesyncdSelectsASynchronisedCell(t *testing.T) {
	bin := timesyncd(t)
	for _, c := range []struct {
		clock, server string
		selected      bool
	}{
		{"synchronised", "10.17.0.1", true},
		{"synchronised", "fd17::1", true},
		{"unsynchronised", "10.17.0.1", false},
	} {
		t.Run(c.clock+" "+c.server, func(t *testing.T) {
			t.Parallel()
			cell, peer := netnstest.New(t, "cell"), netnstest.New(t, "peer")
			netnstest.Veth(cell, "pic0", []string{"10.17.0.1/24", "fd17::1/64"}, peer, "eth0", []string{"10.17.0.2/24", "fd17::2/64"})
			netnstest.Start(t, cell.Self("server", c.clock))
			netnstest.Eventually(t, 5*time.Second, func() error {
				if out := cell.Exec("ss", "-lun"); !strings.Contains(out, "10.17.0.1:123") {
					return fmt.Errorf("not listening:\n%s", out)
				}
				return nil
			})
			out, _ := peer.Try("sh", "-ec", syncOnce, "sync", bin, c.server, "4") // it ends by the timeout
			contacted := strings.Contains(out, "Contacted time server")
			if contacted != c.selected {
				t.Fatalf("selected: %v, want %v:\n%s", contacted, c.selected, out)
			}
			if !c.selected {
				if !strings.Contains(out, "not synchronized") {
					t.Errorf("it does not say that the cell is not synchronised:\n%s", out)
				}
				return
			}
			m := offsetLine.FindStringSubmatch(out)
			if m == nil {
				t.Fatalf("no offset in\n%s", out)
			}
			offset, err := strconv.ParseFloat(m[1], 64)
			if err != nil || offset < -0.02 || offset > 0.02 { // the bar is 1 ms; this machine may be busy
				t.Errorf("offset %s, %v", m[1], err)
			}
			fmt.Printf("TIMESYNCD %s: selected, offset %+.3f ms (bound 1 ms)\n", c.server, offset*1000)
		})
	}
}
