package dns_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// KS-4 in packets: while a peer with an exit asks for names of its own, the
// exit's link goes down and comes up and the exit's state follows late, early
// or not at all. Every name is answered through the exit or gets SERVFAIL, and
// none is seen on the uplink, where a peer without an exit is.
func TestNamesOfExitsNeverLeaveByTheUplink(t *testing.T) {
	w := newWorld(t)
	beyond := netnstest.New(t, "beyond") // behind the exit
	st, f := household(t)
	f.Exits = map[string]cell.ExitFact{"nl": {State: cell.ExitUp, DNS: f.Exits["nl"].DNS}}
	if d := w.apply(wanted{st, f}); d.Error != "" {
		t.Fatal(d.Error)
	}
	w.connect()
	netnstest.Veth(w.cell, "nl", []string{"10.64.0.2/24"}, beyond, "eth0", []string{"10.64.0.1/24"})
	told := filepath.Join(t.TempDir(), "told")
	netnstest.Start(t, beyond.Self("upstream", "10.64.0.1:53", told))
	netnstest.Eventually(t, 5*time.Second, func() error {
		_, err := beyond.Try("dig", "+tries=1", "+time=1", "@10.64.0.1", "ready.test")
		return err
	})
	// The sniffer: whatever the cell sends by the uplink, in any protocol.
	capture := filepath.Join(t.TempDir(), "uplink.pcap")
	sniffer := w.net.Command("tcpdump", "-i", "eth0", "-U", "-s", "0", "-w", capture, "inbound")
	netnstest.Start(t, sniffer)
	control := 0
	netnstest.Eventually(t, 10*time.Second, func() error { // the positive control
		control++
		w.dig(w.peers, "-b", "10.17.0.2", "@10.17.0.1", fmt.Sprintf("control%d.example.org", control), "A")
		if b, _ := os.ReadFile(capture); bytes.Contains(bytes.ToLower(b), []byte("control")) {
			return nil
		}
		return fmt.Errorf("the sniffer is blind")
	})

	through, failed := 0, 0
	for i := range 60 {
		switch i % 6 {
		case 1: // the link goes, the state doesn't follow
			w.cell.Exec("ip", "link", "set", "nl", "down")
		case 2:
			f.Exits["nl"] = cell.ExitFact{State: cell.ExitBlocked, DNS: f.Exits["nl"].DNS}
			w.apply(wanted{st, f})
		case 3: // the link is back before the state
			w.cell.Exec("ip", "link", "set", "nl", "up")
		case 4:
			f.Exits["nl"] = cell.ExitFact{State: cell.ExitUp, DNS: f.Exits["nl"].DNS}
			w.apply(wanted{st, f})
		}
		args := []string{"-b", "10.17.0.4", "@10.17.0.1", fmt.Sprintf("canary%d.example.org", i), "A"}
		if i%2 == 1 {
			args = append(args, "+tcp")
		}
		switch got := w.dig(w.peers, append(args, "+time=7")...); got {
		case "NOERROR 198.51.101.1":
			through++
		case "SERVFAIL":
			failed++
		default:
			t.Errorf("%d: %s", i, got)
		}
	}
	if through < 20 || failed < 20 {
		t.Errorf("%d answered through the exit, %d not: the test didn't do what it says", through, failed)
	}
	b, err := os.ReadFile(capture)
	if err != nil {
		t.Fatal(err)
	}
	asked, err := os.ReadFile(w.asked)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(bytes.ToLower(b), []byte("canary")) + bytes.Count(asked, []byte("canary")); n != 0 {
		t.Errorf("%d canaries on the uplink", n)
	}
	if b, err := os.ReadFile(told); err != nil || strings.Count(string(b), "canary") < through {
		t.Errorf("the exit's resolver was told %d names, %v", strings.Count(string(b), "canary"), err)
	}
}
