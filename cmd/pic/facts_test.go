package main

import (
	"bytes"
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/personal-internet-cell/pic/cell"
)

func file(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDefaultRouteIsTheLeastMetricThatIsNotOurs(t *testing.T) {
	name, gw := defaultRoute4(file(t, `Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
pic0	00000000	00000000	0001	0	0	1	00000000	0	0	0
wg_ext9	00000000	00000000	0001	0	0	2	00000000	0	0	0
tun0	00000000	00000000	0001	0	0	3	00000000	0	0	0
wg_cell3	00000000	00000000	0001	0	0	4	00000000	0	0	0
wlan0	00000000	0101A8C0	0003	0	0	600	00000000	0	0	0
eth0	00000000	0132A8C0	0003	0	0	100	00000000	0	0	0
eth0	0032A8C0	00000000	0001	0	0	100	00FFFFFF	0	0	0
down	00000000	0132A8C0	0002	0	0	5	00000000	0	0	0
`))
	if name != "eth0" || gw != netip.MustParseAddr("192.168.50.1") {
		t.Errorf("%s via %s", name, gw)
	}
	name, gw = defaultRoute6(file(t, `00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 00000001 00000001 00000000 00000001     tun7
20010db8000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0
`))
	if name != "eth0" || gw != netip.MustParseAddr("fe80::1") {
		t.Errorf("%s via %s", name, gw)
	}
	if name, _ := defaultRoute4(filepath.Join(t.TempDir(), "missing")); name != "" {
		t.Errorf("a default route of nothing: %s", name)
	}
}

func TestResolversLeaveOutThisMachine(t *testing.T) {
	links := map[string]cell.LinkFact{"pic0": {Addresses: []netip.Prefix{netip.MustParsePrefix("10.20.0.1/24")}}}
	got := resolvers([]string{file(t, "nameserver 127.0.0.53\n"), file(t, "# x\nnameserver 10.20.0.1\nnameserver 192.168.1.1\nnameserver fe80::1%eth0\noptions edns0\n")}, links)
	if len(got) != 2 || got[0] != netip.MustParseAddrPort("192.168.1.1:53") {
		t.Errorf("%v", got)
	}
}

func FuzzProcFiles(f *testing.F) {
	f.Add("eth0\t00000000\t0132A8C0\t0003\t0\t0\t100\t00000000\n")
	f.Add("nameserver 1.2.3.4\n")
	f.Fuzz(func(t *testing.T, text string) {
		path := file(t, text)
		defaultRoute4(path)
		defaultRoute6(path)
		resolvers([]string{path}, nil)
	})
}

func TestFreshSubnetsDifferAndAvoidWhatTheMachineUses(t *testing.T) {
	n := byte(0)
	random := func(b []byte) {
		for i := range b {
			b[i] = n
		}
		n++
	}
	ref := func(kind string) cell.SecretRef { return cell.SecretRef(kind) }
	generate := func() (cell.Secret, cell.Key) {
		return cell.NewSecret("x"), "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
	}
	facts := cell.Facts{Links: map[string]cell.LinkFact{"eth0": {Addresses: []netip.Prefix{netip.MustParsePrefix("10.16.3.4/24")}}}}
	s, secrets, err := fresh(ref, generate, random, facts)
	if err != nil || len(secrets) != 1 {
		t.Fatal(err)
	}
	if s.Network.Tunnel.Reserved4 != netip.MustParsePrefix("10.17.0.0/16") {
		t.Errorf("%s: 10.16/16 is the machine's, 10.17/16 is next", s.Network.Tunnel.Reserved4)
	}
}

func TestCommandLine(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{nil, 0, "pic serve"},
		{[]string{"help"}, 0, "pic peer add"},
		{[]string{"version"}, 0, "pic "},
		{[]string{"version", "--json"}, 0, `"version"`},
		{[]string{"nonsense"}, 2, "no command"},
		{[]string{"peer", "add"}, 2, "usage"},
		{[]string{"plan"}, 2, "usage"},
		{[]string{"status", "--socket", "/nonexistent/pic.sock"}, 1, "no cell is running"},
		{[]string{"serve", "--firewall", "half"}, 1, "full or tunnel"},
		{[]string{"completion", "bash"}, 0, "complete -F _pic pic"},
		{[]string{"openapi"}, 0, `"/api/peers/{name}"`},
	} {
		var out bytes.Buffer
		code := run(context.Background(), c.args, strings.NewReader(""), &out, &out)
		if code != c.code || !strings.Contains(out.String(), c.says) {
			t.Errorf("pic %v: %d, %q", c.args, code, out.String()[:min(300, out.Len())])
		}
	}
}

func TestPrivateKeyTakesItsLine(t *testing.T) {
	got := withKey("# phone\n[Interface]\n# put it here\nPrivateKey = \nMTU = 1420\n", cell.NewSecret("KEY="))
	if got != "# phone\n[Interface]\nPrivateKey = KEY=\nMTU = 1420\n" {
		t.Errorf("%q", got)
	}
}
