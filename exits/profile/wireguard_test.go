package profile_test

import (
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// The key pair of the client is that of RFC 7748 §6.1 (Alice); the server's is Bob's.
const (
	alice       = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo="
	alicePublic = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
	bobPublic   = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08="
	wgFile      = `[Interface]
PrivateKey = ` + alice + `
Address = 10.2.0.2/32, fd00::2/128
DNS = 10.2.0.1, fd00::1

[Peer]
PublicKey = ` + bobPublic + `
PresharedKey = FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE=
AllowedIPs = 0.0.0.0/0, ::/0
Endpoint = vpn.example.net:51820
PersistentKeepalive = 25
`
)

func TestAWgQuickFileIsUnderstood(t *testing.T) {
	d := parse(cell.ExitWireGuard, wgFile)
	accepted(t, cell.ExitWireGuard, d)
	w := d.WireGuard
	if w.PublicKey != alicePublic || w.PeerKey != bobPublic || d.Credentials.Reveal() != alice || d.PresharedKey.Empty() {
		t.Errorf("keys: %+v", w)
	}
	if d.Address4 != netip.MustParseAddr("10.2.0.2") || d.Address6 != netip.MustParseAddr("fd00::2") || w.Endpoint != "vpn.example.net:51820" || d.Name != "vpn.example.net" {
		t.Errorf("%+v %+v", d, w)
	}
	if w.Keepalive != 25 || w.MTU != 0 || len(w.DNS) != 2 || !w.Carries(false) || !w.Carries(true) {
		t.Errorf("%+v", w)
	}
	wants(t, "warnings", d.Warnings)
}

// Files as programs and people write them mean the same.
func TestAWgQuickFileMayBeWrittenInManyWays(t *testing.T) {
	want := parse(cell.ExitWireGuard, wgFile)
	for name, text := range map[string]string{
		"CRLF and BOM": "\ufeff" + strings.ReplaceAll(wgFile, "\n", "\r\n"),
		"CR":           strings.ReplaceAll(wgFile, "\n", "\r"),
		"lower case":   strings.NewReplacer("PrivateKey", "privatekey", "AllowedIPs", "ALLOWEDIPS", "[Interface]", "[INTERFACE]", "Endpoint", "endPoint").Replace(wgFile),
		"no space":     strings.ReplaceAll(wgFile, " = ", "="),
		"comments":     "# mine\n; also\n" + strings.ReplaceAll(wgFile, "\n", " # x\n"),
		"many lines":   strings.NewReplacer("10.2.0.2/32, fd00::2/128", "10.2.0.2/32\nAddress = fd00::2/128", "0.0.0.0/0, ::/0", "0.0.0.0/0\nAllowedIPs = ::/0").Replace(wgFile),
		"bare address": strings.NewReplacer("10.2.0.2/32", "10.2.0.2", "fd00::2/128", "FD00::2").Replace(wgFile),
		"order":        wgFile[strings.Index(wgFile, "[Peer]"):] + wgFile[:strings.Index(wgFile, "[Peer]")],
	} {
		d := parse(cell.ExitWireGuard, text)
		if len(d.Refused) > 0 || d.Credentials != want.Credentials || d.PresharedKey != want.PresharedKey || d.Address4 != want.Address4 || d.Address6 != want.Address6 ||
			d.WireGuard.Endpoint != want.WireGuard.Endpoint || !slices.Equal(d.WireGuard.AllowedIPs, want.WireGuard.AllowedIPs) {
			t.Errorf("%s: %v %+v", name, d.Refused, d.WireGuard)
		}
	}
	d := parse(cell.ExitWireGuard, strings.Replace(wgFile, "vpn.example.net:51820", "[2001:db8::1]:51820", 1))
	if accepted(t, cell.ExitWireGuard, d); d.WireGuard.Endpoint != "[2001:db8::1]:51820" {
		t.Errorf("%+v", d.WireGuard)
	}
}

func TestAWgQuickFileIsRefusedWithEveryReasonAtOnce(t *testing.T) {
	d := parse(cell.ExitWireGuard, `[Interface]
PrivateKey = `+alice+`
Address = 10.2.0.2/32
PostUp = iptables -A FORWARD -i %i -j ACCEPT
PreDown = reboot
SaveConfig = true
MTU = 100
ListenPort = 51820
FwMark = 0x1234
Table = off
DNS = example.net
Jc = 4
[Peer]
PublicKey = short
AllowedIPs = everything
Endpoint = 2001:db8::1:51820
PersistentKeepalive = often
Foo = bar
`)
	wants(t, "refused", d.Refused, "line 4: PostUp runs commands", "line 5: PreDown runs commands", "line 6: SaveConfig", "line 7: MTU must be 1280 to 9000",
		"line 12: jc belongs to AmneziaWG", "line 14: PublicKey must be 32 bytes", "line 15: AllowedIPs must", "line 16: Endpoint: an IPv6 address stands in brackets",
		"line 17: PersistentKeepalive", "line 18: foo is no key of [Peer]")
	wants(t, "warnings", d.Warnings, "line 8: ListenPort", "line 9: FwMark", "line 10: Table", "line 11: search domains")
}

func TestWhatAWgQuickFileLacksIsSaid(t *testing.T) {
	without := func(line string) string {
		var b strings.Builder
		for l := range strings.Lines(wgFile) {
			if !strings.HasPrefix(l, line) {
				b.WriteString(l)
			}
		}
		return b.String()
	}
	for text, want := range map[string]string{
		"":                                  "no wg-quick file",
		"hello":                             "no \"Key = value\" line",
		without("PrivateKey"):               "no PrivateKey",
		without("Address"):                  "no Address",
		without("PublicKey"):                "no PublicKey",
		without("Endpoint"):                 "no Endpoint",
		without("AllowedIPs"):               "no AllowedIPs",
		wgFile + "[Peer]\nPublicKey=x\n":    "second [Peer]: an exit leads to one server",
		wgFile + "Endpoint = a.example:1\n": "Endpoint is there twice",
		strings.Replace(wgFile, bobPublic, alicePublic, 1):             "public half of your own",
		strings.Replace(wgFile, "[Peer]", "[Pear]", 1):                 "neither [Interface] nor [Peer]",
		strings.Replace(wgFile, ":51820", "", 1):                       "Endpoint must be host:port",
		strings.Replace(wgFile, alice, strings.Repeat("A", 43)+"=", 1): "PrivateKey must be 32 bytes",
	} {
		if d := parse(cell.ExitWireGuard, text); !strings.Contains(remarks(d.Refused), want) {
			t.Errorf("want %q:\n%s", want, remarks(d.Refused))
		}
	}
	d := parse(cell.ExitWireGuard, strings.Replace(wgFile, ", fd00::2/128", "", 1))
	wants(t, "v6 without an address", d.Warnings, "no IPv6 address: IPv6 is blocked")
	d = parse(cell.ExitWireGuard, strings.Replace(wgFile, "0.0.0.0/0, ::/0", "10.0.0.0/8", 1))
	wants(t, "a part only", d.Warnings, "IPv4 to the internet is blocked", "IPv6 to the internet is blocked")
}

// People paste a key without its name, or into the wrong place.
func TestNoMessageRepeatsAKey(t *testing.T) {
	for _, text := range []string{
		alice, alice + "\n" + wgFile, "[Interface]\n" + alice, "[Interface]\nAddress = " + alice, "[Interface]\nDNS = " + alice, "[Interface]\nMTU = " + alice,
		"[Peer]\nEndpoint = " + alice, "[Peer]\nAllowedIPs=" + alice, "[" + alice + "]", "[Interface]\nPrivateKey " + alice, "[Interface]\nPrivateKey = " + alice[:43],
	} {
		for _, typ := range []cell.ExitType{cell.ExitWireGuard, cell.ExitOpenVPN, cell.ExitSSHuttle, cell.ExitProxy, cell.ExitTor} {
			d := parse(typ, text)
			if all := remarks(d.Refused) + remarks(d.Warnings); strings.Contains(all, alice[:20]) || strings.Contains(strings.ToLower(all), strings.ToLower(alice[:20])) {
				t.Errorf("%s: %s", typ, all)
			}
			if len(d.Refused) == 0 && len(d.Asks) == 0 {
				t.Errorf("%s accepts %q", typ, text)
			}
		}
	}
}

// The tools of WireGuard derive the same public key.
func TestThePublicKeyIsWhatWgDerives(t *testing.T) {
	netnstest.Need(t, "wg")
	cmd := exec.Command("wg", "pubkey")
	cmd.Stdin = strings.NewReader(alice)
	out, err := cmd.Output()
	if err != nil || strings.TrimSpace(string(out)) != alicePublic {
		t.Errorf("%s %v", out, err)
	}
}

func FuzzWireGuard(f *testing.F) {
	fuzz(f, cell.ExitWireGuard, wgFile, "\ufeff"+strings.ReplaceAll(wgFile, "\n", "\r\n"), "[Interface]\nAddress=::ffff:1.2.3.4/128\n[Peer]\nEndpoint=[::1%lo]:1\nAllowedIPs=::ffff:0:0/96,1.2.3.4/0")
}
