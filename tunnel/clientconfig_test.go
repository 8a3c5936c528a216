package tunnel_test

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/netnstest"
	"github.com/personal-internet-cell/pic/tunnel"
)

var uplink = cell.Facts{Uplink: cell.Uplink{Name: "eth0", Addresses: []netip.Prefix{
	netip.MustParsePrefix("fe80::1/64"), netip.MustParsePrefix("192.168.1.5/24"), netip.MustParsePrefix("2001:db8::5/64"),
}}}

func TestClientConfigIsAStockFile(t *testing.T) {
	s := fixed()
	got, err := tunnel.ClientConfig(s, uplink, s.Peer("laptop"), cell.NewSecret(string(testKey(8))), string(testKey(9)))
	must(t, err)
	want := `# laptop at home.internal
[Interface]
PrivateKey = CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=
Address = 10.17.0.3/32, fd02:304:506::3/128
DNS = 10.17.0.1, fd02:304:506::1, home.internal
MTU = 1420

[Peer]
PublicKey = AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=
PresharedKey = CAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=
AllowedIPs = 0.0.0.0/0, ::/0
Endpoint = 192.168.1.5:51820
PersistentKeepalive = 25
`
	if d := cmp.Diff(want, got); d != "" {
		t.Fatal(d)
	}
}

func TestClientConfigWithoutAPrivateKeySaysSo(t *testing.T) {
	s := fixed()
	s.Peers[0].Keepalive = 0
	got, err := tunnel.ClientConfig(s, uplink, s.Peer("phone"), cell.Secret{}, "")
	must(t, err)
	if !strings.Contains(got, "\nPrivateKey = \n") || !strings.Contains(got, "put it here") ||
		strings.Contains(got, "PresharedKey") || strings.Contains(got, "PersistentKeepalive") {
		t.Fatal(got)
	}
}

func TestSplitTunnelNamesOursAndWhatIsGranted(t *testing.T) {
	s := fixed()
	s.Network.LAN = []cell.LAN{
		{Name: "house", Interface: "eth1", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24")}},
		{Name: "cameras", Interface: "eth2", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.168.8.0/24")}},
	}
	s.Services = []cell.Service{{ID: "files", Bridge: "br-files", Enabled: true, Prefix4: netip.MustParsePrefix("172.20.1.0/24")}}
	p := s.Peer("laptop")
	p.Destinations, p.LAN = cell.SplitTunnel, []string{"house"}
	got, err := tunnel.ClientConfig(s, uplink, p, cell.Secret{}, "")
	must(t, err)
	if want := "\nAllowedIPs = 10.17.0.0/24, fd02:304:506::/64, 172.20.1.0/24, 192.168.7.0/24\n"; !strings.Contains(got, want) {
		t.Fatalf("want %q in\n%s", want, got)
	}
}

func TestEndpointIsWhereDevicesCanReachTheCell(t *testing.T) {
	v6 := cell.Facts{Uplink: cell.Uplink{Addresses: []netip.Prefix{netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("2001:db8::5/64")}}}
	for _, c := range []struct {
		name, configured string
		mode             cell.DomainMode
		facts            cell.Facts
		want             string
	}{
		{"lan", "", cell.ModeLAN, uplink, "192.168.1.5:51820"},
		{"lan over IPv6", "", cell.ModeLAN, v6, "[2001:db8::5]:51820"},
		{"lan without an uplink", "", cell.ModeLAN, cell.Facts{}, ""},
		{"public", "", cell.ModePicNgo, cell.Facts{}, "home.pic.ngo:51820"},
		{"public, other port", "vpn.example.org:4500", cell.ModePicNgo, uplink, "vpn.example.org:4500"},
		{"host", "vpn.example.org", cell.ModeLAN, cell.Facts{}, "vpn.example.org:51820"},
		{"address", "203.0.113.9", cell.ModeLAN, uplink, "203.0.113.9:51820"},
		{"address and port", "203.0.113.9:1", cell.ModeLAN, uplink, "203.0.113.9:1"},
		{"IPv6", "2001:db8::9", cell.ModeLAN, uplink, "[2001:db8::9]:51820"},
		{"IPv6 in brackets", "[2001:db8::9]", cell.ModeLAN, uplink, "[2001:db8::9]:51820"},
		{"IPv6 and port", "[2001:db8::9]:1", cell.ModeLAN, uplink, "[2001:db8::9]:1"},
	} {
		s := fixed()
		s.Identity.Mode, s.Network.Tunnel.Endpoint = c.mode, c.configured
		must(t, s.Validate())
		got, err := tunnel.Endpoint(s, c.facts)
		if got != c.want || (err == nil) == (c.want == "") {
			t.Errorf("%s: %q, %v; want %q", c.name, got, err, c.want)
		}
		if c.want == "" && !strings.Contains(err.Error(), "network.tunnel.endpoint") {
			t.Errorf("%s: no cure in %v", c.name, err)
		}
	}
}

func TestKeysThatAreNoKeysAreRefusedAndNotQuoted(t *testing.T) {
	s := fixed()
	for _, c := range []struct{ psk, private string }{{"", "canary\nPostUp = rm"}, {"canary\nPostUp = rm", ""}} {
		_, err := tunnel.ClientConfig(s, uplink, s.Peer("phone"), cell.NewSecret(c.psk), c.private)
		if err == nil || strings.Contains(err.Error(), "canary") {
			t.Fatalf("%v", err)
		}
	}
}

func TestFileNamesSuitWGQuickAndDiffer(t *testing.T) {
	ok := regexp.MustCompile(`^[A-Za-z0-9_=+][A-Za-z0-9_=+.-]{0,14}\.conf$`)
	seen := map[string]string{}
	for _, peer := range []string{"laptop", "fifteen-letters", "a-very-long-name-of-a-peer", "a-very-long-name-of-another", "", "-", "..", "../../etc/passwd", "küche", "kuche", "a b", "a/b"} {
		f := tunnel.FileName(peer)
		if !ok.MatchString(f) || seen[f] != "" {
			t.Errorf("%q → %q (taken by %q)", peer, f, seen[f])
		}
		seen[f] = peer + "."
	}
	if f := tunnel.FileName("laptop"); f != "laptop.conf" {
		t.Fatal(f)
	}
}

// wgQuick is a configuration in a folder of its own, for the stock tools.
func wgQuick(t *testing.T, h *household, peer string) (dir, file string) {
	t.Helper()
	p := h.State.Peer(peer)
	text, err := tunnel.ClientConfig(h.State, cell.Facts{}, p, cell.NewSecret(h.Secrets[p.PresharedKey]), h.Private[peer])
	must(t, err)
	dir = t.TempDir()
	file = filepath.Join(dir, tunnel.FileName(peer))
	must(t, os.WriteFile(file, []byte(text), 0o600))
	return dir, file
}

func TestStockToolsReadTheClientConfig(t *testing.T) {
	netnstest.Need(t, "wg-quick", "wg")
	h := newHousehold()
	h.State.Network.Tunnel.Endpoint = "192.0.2.1"
	h.add("a-rather-long-name")
	_, file := wgQuick(t, h, "a-rather-long-name")
	out, err := exec.Command("wg-quick", "strip", file).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "Endpoint = 192.0.2.1:51820") || strings.Contains(string(out), "DNS") {
		t.Fatalf("%v\n%s", err, out)
	}
}

// The file alone, put up by stock wg-quick over the stock implementation, is
// enough to reach the cell in both families and to use its name server.
func TestStockClientJoins(t *testing.T) {
	t.Parallel()
	netnstest.Root(t)
	netnstest.Need(t, "wg-quick", "wg", "ping", "nft", "unshare", "resolvconf", "go")
	implementation := filepath.Join(t.TempDir(), "wireguard-go")
	if out, err := exec.Command("go", "build", "-o", implementation, "golang.zx2c4.com/wireguard").CombinedOutput(); err != nil {
		t.Fatalf("building the stock implementation: %v\n%s", err, out)
	}
	for _, d := range []cell.Destinations{cell.FullTunnel, cell.SplitTunnel} {
		t.Run(string(d), func(t *testing.T) {
			s := newSite(t, true)
			s.h.State.Network.Tunnel.Endpoint = "192.0.2.1"
			s.h.State.Peer("a").Destinations = d
			c := s.control()
			c.apply(s.h)
			_, file := wgQuick(t, s.h, "a")
			gw := s.gateways()
			// Sockets and resolv.conf are files: mounts of its own keep them
			// from the machine.
			script := fmt.Sprintf(`
				mount -t tmpfs tmpfs /run; mkdir -p /run/resolvconf /run/wireguard
				: > /run/resolv.conf; mount --bind /run/resolv.conf /etc/resolv.conf
				wg-quick up %[1]s
				trap 'wg-quick down %[1]s' EXIT
				ping -c2 -W5 %[2]s; ping -c2 -W5 %[3]s
				echo "== resolv.conf"; cat /etc/resolv.conf
				echo "== route"; ip route get 203.0.113.1 || true`, file, gw[0], gw[1])
			out, err := s.a.Try("env", "WG_QUICK_USERSPACE_IMPLEMENTATION="+implementation, "unshare", "-m", "--propagation", "private", "sh", "-ec", script)
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			for _, want := range []string{"nameserver " + gw[0].String(), "nameserver " + gw[1].String(), "home.internal"} {
				if _, after, ok := strings.Cut(out, "== resolv.conf"); !ok || !strings.Contains(after, want) {
					t.Errorf("resolv.conf lacks %q", want)
				}
			}
			if _, after, _ := strings.Cut(out, "== route"); strings.Contains(after, "dev a ") != (d == cell.FullTunnel) {
				t.Errorf("%s tunnel: wrong route to the internet: %s", d, after)
			}
			if t.Failed() {
				t.Log(out)
			}
			if p := c.status().Peers[s.h.State.Peer("a").PublicKey]; !p.Online || p.ReceivedBytes == 0 {
				t.Fatalf("status %+v", p)
			}
		})
	}
}
