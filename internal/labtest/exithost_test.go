package labtest_test

import (
	"strings"
	"testing"

	"github.com/personal-internet-cell/pic/internal/labtest"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// The far ends of the exits work for stock clients, before a cell is judged by them.
func TestExitHostServesStockClients(t *testing.T) {
	netnstest.Need(t, "curl", "ssh")
	l := labtest.New(t, labtest.Options{})
	e := l.NewExitHost()
	e.Run()
	want := "hello to " + labtest.ExitAddress4 + ":"
	get := func(args ...string) {
		t.Helper()
		out, err := l.Phone.Try("curl", append([]string{"-sS", "-m", "8", "http://" + labtest.InternetWeb4 + "/"}, args...)...)
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("%v: %v %q, want %q", args, err, out, want)
		}
	}
	get("--socks5-hostname", labtest.ExitAddress4+":"+labtest.ExitSOCKSPort)
	get("--proxytunnel", "--proxy", "http://"+labtest.ExitAddress4+":"+labtest.ExitCONNECTPort)

	l.Phone.WriteFile("/etc/ssh/key", e.SSHKey)
	l.Phone.Exec("chmod", "600", "/etc/ssh/key")
	l.Phone.WriteFile("/etc/ssh/known", labtest.ExitAddress4+" "+e.SSHHostKey+"\n")
	l.Phone.Exec("ssh", "-f", "-N", "-i", "/etc/ssh/key", "-o", "UserKnownHostsFile=/etc/ssh/known", "-o", "ExitOnForwardFailure=yes", "-D", "127.0.0.1:9999", "root@"+labtest.ExitAddress4)
	get("--socks5-hostname", "127.0.0.1:9999")

	down := l.WGQuick(l.Phone, "nl", strings.ReplaceAll(e.WireGuard, "DNS = ", "# DNS = "))
	get()
	down()
	e.Stop("socks")
	if out, err := l.Phone.Try("curl", "-sS", "-m", "3", "--socks5-hostname", labtest.ExitAddress4+":"+labtest.ExitSOCKSPort, "http://"+labtest.InternetWeb4+"/"); err == nil {
		t.Errorf("a server that was stopped answers: %q", out)
	}
}
