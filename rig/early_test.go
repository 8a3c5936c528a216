package rig_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// Early boot on Debian's kernel, by the real binary: with forwarding switched on
// by somebody, nothing is forwarded before the cell is up, and the cell's own
// rules take over from there.
func TestNothingForwardsBeforeTheCellIsUp(t *testing.T) {
	if os.Getenv("PIC_VMTEST") == "" {
		t.Skip("runs in the virtual machine: make vmtest")
	}
	pic, err := exec.LookPath("pic")
	if err != nil {
		t.Fatal(err)
	}
	left, box, right := netnstest.New(t, "left"), netnstest.New(t, "box"), netnstest.New(t, "right")
	netnstest.Veth(box, "eth0", []string{"192.0.2.1/24", "2001:db8:1::1/64"}, left, "eth0", []string{"192.0.2.2/24", "2001:db8:1::2/64"})
	netnstest.Veth(box, "eth1", []string{"198.51.100.1/24", "2001:db8:2::1/64"}, right, "eth0", []string{"198.51.100.2/24", "2001:db8:2::2/64"})
	for n, via := range map[*netnstest.NS][2]string{left: {"192.0.2.1", "2001:db8:1::1"}, right: {"198.51.100.1", "2001:db8:2::1"}} {
		n.Exec("ip", "route", "add", "default", "via", via[0])
		n.Exec("ip", "-6", "route", "add", "default", "via", via[1])
	}
	box.Exec("ip", "route", "add", "default", "via", "198.51.100.2")
	box.Sysctl("net.ipv4.ip_forward", "1")
	box.Sysctl("net.ipv6.conf.all.forwarding", "1")
	reached := func() (out []string) {
		for _, to := range []string{"198.51.100.2", "2001:db8:2::2"} {
			if _, err := left.Try("ping", "-c", "1", "-W", "1", to); err == nil {
				out = append(out, to)
			}
		}
		return out
	}
	netnstest.Eventually(t, 10*time.Second, func() error { // a positive control
		if r := reached(); len(r) != 2 {
			return fmt.Errorf("only %v without any rules", r)
		}
		return nil
	})
	for range 2 {
		box.Exec(pic, "early-boot")
	}
	if r := reached(); len(r) != 0 {
		t.Errorf("%v are reached through a cell that is not up", r)
	}
	dir := t.TempDir()
	netnstest.Start(t, box.Command(pic, "serve", "--state", filepath.Join(dir, "state"), "--runtime", filepath.Join(dir, "run")))
	netnstest.Eventually(t, 30*time.Second, func() error {
		_, err := os.Stat(filepath.Join(dir, "run", "ready"))
		return err
	})
	if tables := box.Exec("nft", "list", "tables"); strings.Contains(tables, "pic_early") || !strings.Contains(tables, "table inet pic_guard") {
		t.Errorf("the cell is up:\n%s", tables)
	}
}
