package netnstest_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/personal-internet-cell/pic/internal/netnstest"
)

func TestMain(m *testing.M) {
	netnstest.Main(m, netnstest.Helpers{"links": func([]string) error {
		b, err := os.ReadFile("/proc/net/dev")
		fmt.Print(string(b))
		return err
	}})
}

func TestTwoNamespacesReachEachOtherAndHelpersRunInside(t *testing.T) {
	a, b := netnstest.New(t, "a"), netnstest.New(t, "b")
	netnstest.Veth(a, "va", []string{"192.0.2.1/24", "2001:db8::1/64"}, b, "vb", []string{"192.0.2.2/24", "2001:db8::2/64"})
	netnstest.Need(t, "ping")
	a.Exec("ping", "-c1", "-w10", "192.0.2.2")
	a.Exec("ping", "-c1", "-w10", "2001:db8::2")
	out, err := b.Self("links").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "vb:") || strings.Contains(string(out), "va:") {
		t.Fatalf("%v %s", err, out)
	}
}
