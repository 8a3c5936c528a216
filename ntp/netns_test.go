package ntp_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/internal/netnstest"
	"github.com/personal-internet-cell/pic/ntp"
)

// serverHelper tells the time on 10.17.0.1; args: "synchronised" or not.
func serverHelper(args []string) error {
	var c ntp.Clock = unsynchronised()
	switch args[0] {
	case "synchronised":
		c = synchronised()
	case "kernel":
		c = nil
	}
	s := ntp.New(&ntp.Config{Logger: quiet, Clock: c})
	p := ntp.Sources{Listen: []netip.AddrPort{netip.MustParseAddrPort("10.17.0.1:123"), netip.MustParseAddrPort("[fd17::1]:123")},
		Clients: []netip.Prefix{netip.MustParsePrefix("10.17.0.0/24"), netip.MustParsePrefix("fd17::/64")}}
	if _, err := s.Apply(context.Background(), p); err != nil {
		return err
	}
	fmt.Println("ready")
	return s.Run(context.Background())
}

// chronyd, asked to measure once and to leave its clock alone, takes a
// synchronised cell's time and refuses that of one that is not.
func TestChronyTakesOnlyASynchronisedCell(t *testing.T) {
	netnstest.Root(t)
	netnstest.Need(t, "chronyd")
	for _, c := range []struct {
		clock, server string
		accepted      bool
	}{
		{"synchronised", "10.17.0.1", true},
		{"synchronised", "fd17::1", true},
		{"unsynchronised", "10.17.0.1", false},
	} {
		t.Run(c.clock+" "+c.server, func(t *testing.T) {
			cell, peer := netnstest.New(t, "cell"), netnstest.New(t, "peer")
			// Listening begins before the link is there.
			p := cell.Self("server", c.clock)
			netnstest.Start(t, p)
			netnstest.Veth(cell, "pic0", []string{"10.17.0.1/24", "fd17::1/64"}, peer, "eth0", []string{"10.17.0.2/24", "fd17::2/64"})
			netnstest.Eventually(t, 5*time.Second, func() error {
				out := cell.Exec("ss", "-lun")
				if !strings.Contains(out, "10.17.0.1:123") {
					return fmt.Errorf("not listening:\n%s", out)
				}
				return nil
			})
			dir := t.TempDir()
			if err := os.Chmod(dir, 0o777); err != nil {
				t.Fatal(err)
			}
			out, err := peer.Try("chronyd", "-Q", "-t", "8", "-U", "server "+c.server+" iburst maxsamples 4", "pidfile "+dir+"/pid", "cmdport 0", "bindcmdaddress /")
			if accepted := err == nil && strings.Contains(out, "System clock wrong by"); accepted != c.accepted {
				t.Fatalf("accepted %v, %v:\n%s", accepted, err, out)
			}
		})
	}
}
