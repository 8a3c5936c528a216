package child_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// The service's unit leaves root three capabilities: no other user can be
// chosen, and folders of others can't be looked into.
var unit = []string{"setpriv", "--bounding-set=-all,+net_admin,+net_bind_service,+sys_time", "--inh-caps=-all", "--no-new-privs"}

func TestOpenVPNWithTheUnitsCapabilities(t *testing.T) {
	t.Parallel()
	netnstest.Need(t, "setpriv")
	v := newVPN(t)
	v.serve()
	r := startChild(t, v.cell, "openvpn", v.config(), unit...)
	r.becomes(20*time.Second, cell.ExitUp, "")
	if caps := v.cell.Exec("grep", "CapEff", "/proc/"+v.processes()+"/status"); !strings.HasSuffix(strings.TrimSpace(caps), "0000000002001400") {
		t.Errorf("the unit's capabilities are not what this test runs with: %s", caps)
	}
	v.cell.Sh("for f in -4 -6; do ip $f route add default dev tun0 table 120; ip $f rule add oif tun0 lookup 120; done")
	v.pings()
	r.end()
	v.noneLeft()
}

func TestTorWithTheUnitsCapabilities(t *testing.T) {
	t.Parallel()
	netnstest.Root(t)
	netnstest.Need(t, "setpriv", "tor")
	ns := netnstest.New(t, "cell")
	dir := t.TempDir()
	r := startChild(t, ns, "tor", torOptions{Dir: filepath.Join(dir, "run"), Data: filepath.Join(dir, "data")}, unit...)
	r.becomes(15*time.Second, cell.ExitConnecting, "%: ") // it is under control
	r.end()
	noTor(t, ns)
}
