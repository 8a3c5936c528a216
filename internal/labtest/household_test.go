package labtest_test

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/internal/labtest"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

func TestMain(m *testing.M) {
	labtest.Main()
	os.Exit(m.Run())
}

// The household alone, before it is trusted to judge a cell.
func TestHouseholdAnswers(t *testing.T) {
	netnstest.Need(t, "dig", "curl", "wg", "ping")
	l := labtest.New(t, labtest.Options{})

	for _, h := range []*labtest.Host{l.LAN, l.Cell.Host, l.Phone} {
		if got := strings.TrimSpace(h.Exec("dig", "+short", "+tcp", labtest.PublicName)); got != labtest.InternetWeb4 {
			t.Fatalf("%s resolves %s to %q", h.Name, labtest.PublicName, got)
		}
		for _, url := range []string{"http://" + labtest.PublicName + "/x", "https://[" + labtest.InternetWeb6 + "]/x"} {
			if got := h.Exec("curl", "-sk", "-m", "5", url); !strings.Contains(got, "hello to") {
				t.Fatalf("%s at %s: %q", h.Name, url, got)
			}
		}
	}
	if !slices.Contains(l.DNSNames(), labtest.PublicName+".") {
		t.Fatalf("the name server's log lacks the name asked: %v", l.DNSNames())
	}
	// The LAN is behind the router's address for IPv4.
	if got := l.LAN.Exec("curl", "-s", "http://"+labtest.InternetWeb4+"/"); !strings.Contains(got, labtest.RouterPublic4+":") {
		t.Fatalf("no masquerade: %q", got)
	}
	if got := l.Cell.Exec("curl", "-s", "http://"+labtest.ServiceAddress+":"+labtest.ServicePort+"/a"); !strings.Contains(got, `"path":"/a"`) {
		t.Fatalf("the service says %q", got)
	}
	if a := l.AskTime(l.LAN, labtest.InternetNTP4); a.Mode != 4 || a.Stratum != 1 || a.Offset.Abs() > time.Second {
		t.Fatalf("the internet's time: %+v", a)
	}
	if _, err := l.Phone.Try("curl", "-s", "-m", "1", "http://"+labtest.RouterPublic4+"/"); err == nil {
		t.Fatal("the router lets the internet in")
	}
}

func TestSinkCountsEveryCanary(t *testing.T) {
	netnstest.Need(t, "ping")
	l := labtest.New(t, labtest.Options{})
	if n := l.SinkCount(); n != 0 {
		t.Fatalf("%d canaries before the first", n)
	}
	for i, to := range []string{labtest.Canary4, labtest.Canary6} {
		_, _ = l.LAN.Try("ping", "-c", "1", "-W", "1", to)
		if n := l.SinkCount(); n != i+1 {
			t.Fatalf("%d canaries after a ping of %s, want %d", n, to, i+1)
		}
	}
}

// The stream must see a loss where there is one, and none where there is none.
func TestStreamCountsLoss(t *testing.T) {
	l := labtest.New(t, labtest.Options{})
	server := netip.MustParseAddrPort(labtest.InternetWeb4 + ":7000")
	if loss := l.Stream(l.Phone, l.Internet, server, 2*time.Second)(); loss.Up() != 0 || loss.Down() != 0 || loss.Client.Sent < 2000 || loss.Server.Sent < 2000 {
		t.Fatalf("on a quiet line: %v", loss)
	}
	l.Router.Exec("nft", "insert rule inet filter forward udp dport 7000 numgen inc mod 100 == 0 drop")
	loss := l.Stream(l.LAN, l.Internet, server, 2*time.Second)()
	if loss.Up() < 10 || loss.Down() != 0 {
		t.Fatalf("with one packet in a hundred dropped on the way up: %v", loss)
	}
}

// Two hosts with stock configurations reach each other through WireGuard, and
// their DNS lines do not meet.
func TestWGQuickBetweenHosts(t *testing.T) {
	netnstest.Need(t, "wg", "wg-quick", "resolvconf", "ping")
	l := labtest.New(t, labtest.Options{})
	pair := func(h *labtest.Host) (private, public string) {
		private = strings.TrimSpace(h.Exec("wg", "genkey"))
		return private, strings.TrimSpace(h.Sh("echo " + private + " | wg pubkey"))
	}
	private1, public1 := pair(l.Phone)
	private2, public2 := pair(l.Laptop)
	const text = `[Interface]
PrivateKey = %s
ListenPort = 51820
Address = 10.99.0.%d/24
DNS = %s, phone.test
[Peer]
PublicKey = %s
Endpoint = %s:51820
AllowedIPs = 10.99.0.%d/32
`
	down := l.WGQuick(l.Phone, "wgt", fmt.Sprintf(text, private1, 1, labtest.InternetDNS4, public2, labtest.LaptopAddress4, 2))
	l.WGQuick(l.Laptop, "wgt", fmt.Sprintf(text, private2, 2, "10.99.0.1", public1, labtest.PhoneAddress4, 1))
	netnstest.Eventually(t, 10*time.Second, func() error {
		_, err := l.Phone.Try("ping", "-c", "1", "-W", "1", "10.99.0.2")
		return err
	})
	l.Handshake(l.Phone, "wgt")
	if got := l.Laptop.Exec("cat", "/etc/resolv.conf"); !strings.Contains(got, "10.99.0.1") {
		t.Fatalf("wg-quick's DNS line has no effect:\n%s", got)
	}
	if got := l.LAN.Exec("cat", "/etc/resolv.conf"); strings.Contains(got, "10.99.0.1") {
		t.Fatalf("one host's DNS shows on another:\n%s", got)
	}
	down()
	if _, err := l.Phone.Try("ip", "link", "show", "wgt"); err == nil {
		t.Fatal("the interface outlived wg-quick down")
	}
}
