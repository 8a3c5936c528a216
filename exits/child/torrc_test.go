package child_test

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/exits/child"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

const fingerprint = "4352E58420E68F5E40BF7C74FADDCCD9D1349413"

func TestTorAcceptsItsConfiguration(t *testing.T) {
	t.Parallel()
	netnstest.Need(t, "tor")
	for _, x := range []struct{ countries, bridges []string }{
		{nil, nil},
		{[]string{"nl", "de"}, nil},
		{nil, []string{"192.0.2.3:443 " + fingerprint, "[2001:db8::1]:443"}},
		{[]string{"ch"}, []string{"obfs4 192.0.2.3:443 " + fingerprint + " cert=abc+/DEF iat-mode=0"}},
	} {
		dir := t.TempDir()
		rc, err := child.Torrc(filepath.Join(dir, "run"), filepath.Join(dir, "data"), x.countries, x.bridges, "secret")
		must(t, err)
		c := exec.Command("tor", "--verify-config", "-f", "-", "--defaults-torrc", "/dev/null")
		c.Stdin = strings.NewReader(rc)
		if out, err := c.CombinedOutput(); err != nil || strings.Contains(string(out), "nrecognized") {
			t.Errorf("%v: %v\n%s\n%s", x, err, rc, out)
		}
		if strings.Contains(rc, "secret") {
			t.Error("the control password is in the configuration")
		}
	}
}

func TestNothingElseGetsIntoTorsConfiguration(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		dir, country, bridge string
	}{
		{"/run/x y", "nl", "192.0.2.3:443"},
		{"/run/x\nNoExec 0", "nl", "192.0.2.3:443"},
		{"/run/x", "nl}\nSocksPort 0.0.0.0:9050", "192.0.2.3:443"},
		{"/run/x", "NL", "192.0.2.3:443"},
		{"/run/x", "nl", "192.0.2.3:443\nClientTransportPlugin x exec /bin/sh"},
		{"/run/x", "nl", "meek_lite 192.0.2.3:443"},
		{"/run/x", "nl", "vpn.example.net:443"},
		{"/run/x", "nl", "192.0.2.3:443 # x"},
		{"/run/x", "nl", ""},
	} {
		if rc, err := child.Torrc(x.dir, "/var/lib/x", []string{x.country}, []string{x.bridge}, "p"); err == nil {
			t.Errorf("%+v was accepted:\n%s", x, rc)
		}
	}
	if _, err := child.Torrc("/run/x", "/var/lib/x", []string{"nl"}, []string{"192.0.2.3:443"}, "p"); err != nil {
		t.Error(err)
	}
}

func TestAnswersOfTor(t *testing.T) {
	t.Parallel()
	const good = "250-status/bootstrap-phase=NOTICE BOOTSTRAP PROGRESS=100 TAG=done SUMMARY=\"Do\\\"ne\"\r\n" +
		"250-status/circuit-established=1\r\n650 STATUS_CLIENT NOTICE X\r\n250-net/listeners/dns=\"127.0.0.1:4053\"\r\n250 OK\r\n"
	lines, progress, up, dns, err := child.ReadAnswer(strings.NewReader(good))
	if err != nil || len(lines) != 3 || progress != 100 || !up || dns.String() != "127.0.0.1:4053" {
		t.Errorf("%q, %d, %v, %s, %v", lines, progress, up, dns, err)
	}
	for _, bad := range []string{"", "250\r\n", "515 Authentication failed\r\n", "250+data\r\n.\r\n250 OK\r\n", "250-x\r\n", strings.Repeat("250-x\r\n", 100) + "250 OK\r\n"} {
		if lines, _, _, _, err := child.ReadAnswer(strings.NewReader(bad)); err == nil {
			t.Errorf("%.40q: %q", bad, lines)
		}
	}
	if _, progress, up, dns, _ := child.ReadAnswer(strings.NewReader("250-status/bootstrap-phase=PROGRESS=101\r\n250-net/listeners/dns=\"192.0.2.1:53\"\r\n250 OK\r\n")); progress != 0 || up || dns.IsValid() {
		t.Errorf("%d %v %s", progress, up, dns)
	}
}

func FuzzAnswersOfTor(f *testing.F) {
	f.Add("250-status/bootstrap-phase=NOTICE BOOTSTRAP PROGRESS=50 TAG=x SUMMARY=\"a b\" WARNING=\"x\\\"\r\n250 OK\r\n")
	f.Add("250-status/bootstrap-phase=A=\"\\")
	f.Fuzz(func(t *testing.T, text string) {
		_, progress, _, dns, _ := child.ReadAnswer(strings.NewReader(text))
		if progress < 0 || progress > 100 || dns.IsValid() && !dns.Addr().IsLoopback() {
			t.Fatal(progress, dns)
		}
	})
}

func FuzzTorrc(f *testing.F) {
	f.Add("nl", "192.0.2.3:443 "+fingerprint)
	f.Add("nl", "obfs4 192.0.2.3:443 x=y")
	f.Fuzz(func(t *testing.T, country, bridge string) {
		rc, err := child.Torrc("/run/x", "/var/lib/x", []string{country}, []string{bridge}, "p")
		if err == nil && (strings.Count(rc, "\n") != 16 || strings.ContainsAny(rc, "\r#\"'\\")) {
			t.Fatalf("%d lines:\n%s", strings.Count(rc, "\n"), rc)
		}
	})
}

func TestAMissingTorIsNamedWithItsCure(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		c    child.TorConfig
		want string
	}{
		{child.TorConfig{Program: "/nonexistent/tor"}, "apt install tor"},
		{child.TorConfig{Program: "/bin/true", Bridges: []string{"obfs4 192.0.2.3:443"}}, "apt install obfs4proxy"},
		{child.TorConfig{Program: "/bin/true", Bridges: []string{"nonsense"}}, "is no bridge line"},
		{child.TorConfig{Program: "/bin/false"}, "tor ended: without a word"},
	} {
		if strings.Contains(x.want, "obfs4proxy") {
			if _, err := exec.LookPath("obfs4proxy"); err == nil {
				continue
			}
		}
		x.c.ID, x.c.RuntimeDir, x.c.DataDir, x.c.Log = "onion", t.TempDir(), t.TempDir(), quiet
		tor := child.NewTor(&x.c)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- tor.Run(ctx) }()
		netnstest.Eventually(t, 5*time.Second, func() error {
			if s := tor.Status(); !strings.Contains(s.Reason, x.want) || s.Missing != strings.Contains(x.want, "apt install") || s.State == cell.ExitUp {
				return fmt.Errorf("%+v", s)
			}
			return nil
		})
		cancel()
		must(t, <-done)
	}
}

// Where nobody can be reached tor says how far it came, and is in control of
// the cell all the same.
func TestTorWithoutItsNetwork(t *testing.T) {
	t.Parallel()
	netnstest.Root(t)
	netnstest.Need(t, "tor")
	ns := netnstest.New(t, "cell")
	dir := t.TempDir()
	r := startChild(t, ns, "tor", torOptions{Dir: filepath.Join(dir, "run"), Data: filepath.Join(dir, "data")})
	r.becomes(15*time.Second, cell.ExitConnecting, "%: ")
	if s := r.status(); len(s.DNS) != 0 {
		t.Errorf("%+v", s)
	}
	torPID(t, ns)
	r.end()
	noTor(t, ns)
}
