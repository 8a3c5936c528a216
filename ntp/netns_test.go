package ntp_test

import (
	"context"
	"encoding/json"
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
	p := ntp.Sources{
		Listen:  []netip.AddrPort{netip.MustParseAddrPort("10.17.0.1:123"), netip.MustParseAddrPort("[fd17::1]:123")},
		Clients: []netip.Prefix{netip.MustParsePrefix("10.17.0.0/24"), netip.MustParsePrefix("fd17::/64")},
	}
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

// ntpsec's client, which measures and sets nothing unless told to, takes a
// synchronised cell in both families.
func TestNtpdigTakesASynchronisedCell(t *testing.T) {
	netnstest.Root(t)
	netnstest.Need(t, "ntpdig")
	cell, peer := netnstest.New(t, "cell"), netnstest.New(t, "peer")
	netnstest.Veth(cell, "pic0", []string{"10.17.0.1/24", "fd17::1/64"}, peer, "eth0", []string{"10.17.0.2/24", "fd17::2/64"})
	netnstest.Start(t, cell.Self("server", "synchronised"))
	for _, server := range []string{"10.17.0.1", "fd17::1"} {
		var answer struct {
			Offset  float64
			Stratum int
			Leap    string
		}
		netnstest.Eventually(t, 10*time.Second, func() error {
			out, err := peer.Command("ntpdig", "-j", "-t", "2", server).Output()
			if err == nil {
				err = json.Unmarshal(out, &answer)
			}
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
		if answer.Stratum != 3 || answer.Leap != "no-leap" || answer.Offset > 0.01 || answer.Offset < -0.01 {
			t.Errorf("%s: %+v", server, answer)
		}
	}
}
