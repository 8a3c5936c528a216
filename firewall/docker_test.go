package firewall_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// Our rules in DOCKER-USER are what iptables itself would have written: it
// lists them, saves and restores them as they are, and finds them to delete.
// They stand ahead of what is there, in both families, and are put back.
func TestDockerUserIsWrittenAsIptablesWould(t *testing.T) {
	t.Parallel()
	netnstest.Need(t, "iptables")
	l := newLab(t)
	setup := `for i in iptables ip6tables; do $i -N DOCKER-USER; $i -A DOCKER-USER -j RETURN; $i -P FORWARD DROP; $i -I FORWARD -j DOCKER-USER; done`
	l.router.Sh(setup)
	chain := func(tool string) string { return l.router.Exec(tool, "-S", "DOCKER-USER") }
	before := chain("iptables")
	s, f := household(), facts(cell.ScopeTunnel)
	l.apply(s, f)
	want := "-N DOCKER-USER\n-A DOCKER-USER -i pic0 -j ACCEPT\n-A DOCKER-USER -o pic0 -j ACCEPT\n-A DOCKER-USER -j RETURN\n"
	for _, tool := range []string{"iptables", "ip6tables"} {
		if d := cmp.Diff(want, chain(tool)); d != "" {
			t.Errorf("%s (-want +got):\n%s", tool, d)
		}
	}
	for _, c := range []struct{ name, command string }{
		{"saved and restored", "iptables-save > /dev/shm/$$ && iptables-restore < /dev/shm/$$; rm -f /dev/shm/$$"},
		{"a rule deleted", "iptables -D DOCKER-USER -i pic0 -j ACCEPT"},
		{"chain flushed", "iptables -F DOCKER-USER; iptables -A DOCKER-USER -j RETURN"},
		{"chain made anew", "iptables -F; iptables -X; iptables -N DOCKER-USER; iptables -A DOCKER-USER -j RETURN; iptables -I FORWARD -j DOCKER-USER"},
	} {
		l.router.Sh(c.command)
		changed := l.apply(s, f)
		if want := c.name != "saved and restored"; changed != want {
			t.Errorf("%s: changed %v, want %v", c.name, changed, want)
		}
		if !strings.Contains(chain("iptables"), "-i pic0") || strings.Count(chain("iptables"), "pic0") != 2 {
			t.Errorf("%s:\n%s", c.name, chain("iptables"))
		}
	}
	if _, err := tryApply(l.router, order{Flush: true}); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(before, chain("iptables")); d != "" {
		t.Errorf("after Flush:\n%s", d)
	}
}
