package profile_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/exits/profile"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// pair makes a certificate that ends at a time, and its key.
func pair(t testing.TB, until time.Time) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotBefore: now.Add(-1000 * time.Hour), NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), keyPEM(t, k)
}

func keyPEM(t testing.TB, k crypto.PrivateKey) string {
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

const staticKey = "-----BEGIN OpenVPN Static key V1-----\n" +
	"00112233445566778899aabbccddeeff\n00112233445566778899aabbccddeeff\n00112233445566778899aabbccddeeff\n00112233445566778899aabbccddeeff\n" +
	"00112233445566778899aabbccddeeff\n00112233445566778899aabbccddeeff\n00112233445566778899aabbccddeeff\n00112233445566778899aabbccddeeff\n" +
	"00112233445566778899aabbccddeeff\n00112233445566778899aabbccddeeff\n00112233445566778899aabbccddeeff\n00112233445566778899aabbccddeeff\n" +
	"00112233445566778899aabbccddeeff\n00112233445566778899aabbccddeeff\n00112233445566778899aabbccddeeff\n00112233445566778899AABBCCDDEEFF\n" +
	"-----END OpenVPN Static key V1-----\n"

const ovpnHead = `client
dev tun
proto udp
remote vpn.example.net 1194
remote 2001:db8::1 443 tcp
remote-cert-tls server
verify-x509-name "CN=server one" subject
cipher AES-256-GCM   # as the server
`

func block(name, text string) string { return "<" + name + ">\n" + text + "</" + name + ">\n" }

func TestAnOvpnProfileIsUnderstood(t *testing.T) {
	ca, _ := pair(t, now.Add(1000*time.Hour))
	cert, key := pair(t, now.Add(1000*time.Hour))
	text := ovpnHead + "nobind\npersist-tun\nverb 3\nkey-direction 1\n<connection>\nremote c.example.net 99 tcp\nconnect-timeout 5\n</connection>\n" +
		block("ca", "Certificate:\n    Data: prose\n"+ca) + block("cert", cert) + block("key", key) + block("tls-auth", "#\n# 2048 bit OpenVPN static key\n#\n"+staticKey)
	for name, text := range map[string]string{"as it is": text, "CRLF and BOM": "\ufeff" + strings.ReplaceAll(text, "\n", "\r\n"), "indented": strings.ReplaceAll(text, "\n", "\n  ")} {
		d := parse(cell.ExitOpenVPN, text)
		accepted(t, cell.ExitOpenVPN, d)
		want := []string{"vpn.example.net:1194/udp", "[2001:db8::1]:443/tcp", "c.example.net:99/tcp"}
		if !slices.Equal(d.OpenVPN.Remotes, want) || d.Name != "vpn.example.net" {
			t.Errorf("%s: %v", name, d.OpenVPN.Remotes)
		}
		wants(t, name, d.Warnings)
		out := d.Profile.Reveal()
		for _, has := range []string{
			"client\nproto udp\nremote vpn.example.net 1194\n", "verify-x509-name \"CN=server one\" subject\n", "cipher AES-256-GCM\n",
			"<connection>\nremote c.example.net 99 tcp\nconnect-timeout 5\n</connection>\n", "<ca>\n" + ca + "</ca>\n", "<key>\n" + key + "</key>\n", strings.ToLower(staticKey[40:60]), "key-direction 1\n",
		} {
			if !strings.Contains(out, has) {
				t.Errorf("%s: the profile lacks %q:\n%s", name, has, out)
			}
		}
		for _, gone := range []string{"dev tun", "verb", "prose", "#", "\r"} {
			if strings.Contains(out, gone) {
				t.Errorf("%s: the profile has %q", name, gone)
			}
		}
		again := parse(cell.ExitOpenVPN, out)
		if again.Profile != d.Profile {
			t.Errorf("%s: parsing it again gives another", name)
		}
	}
}

// What openvpn does with the text is the judge: it reads the normalised
// profile, up to where it would connect.
func TestOpenvpnReadsTheNormalisedProfile(t *testing.T) {
	netnstest.Need(t, "openvpn")
	ca, _ := pair(t, now.Add(1e6*time.Hour))
	cert, key := pair(t, now.Add(1e6*time.Hour))
	d := parse(cell.ExitOpenVPN, ovpnHead+"comp-lzo no\nsetenv UV_ID \"a b\"\npull-filter ignore \"route-ipv6 x\"\ntls-auth [inline] 1\n"+block("ca", ca)+block("cert", cert)+block("key", key)+block("tls-auth", staticKey))
	accepted(t, cell.ExitOpenVPN, d)
	file := filepath.Join(t.TempDir(), "x.ovpn")
	// It reads the file where it is named; the option after it, which is none,
	// ends it before it would connect.
	reads := func(text string) bool {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, _ := exec.Command("openvpn", "--config", file, "--no-such-option").CombinedOutput()
		t.Logf("%s", out)
		return strings.Contains(string(out), "no-such-option")
	}
	if !reads(d.Profile.Reveal()) {
		t.Error("openvpn does not read the normalised profile")
	}
	if reads("cipher\n" + d.Profile.Reveal()) {
		t.Error("openvpn reads anything: the test is blind")
	}
}

func TestAnOvpnProfileIsRefusedWithEveryReasonAtOnce(t *testing.T) {
	text := `client
dev tap0
remote vpn.example.net 70000
proto sctp
script-security 2
up /etc/openvpn/update-resolv-conf
route-up "/bin/sh -c reboot"
plugin /usr/lib/x.so
management 127.0.0.1 7505
iproute /tmp/ip
setenv PATH /tmp
setenv opt down /bin/sh
setenv opt no-such-thing 1
writepid /run/x
log /var/log/x
ca ca.crt
cert client.crt
key client.key
tls-auth ta.key 1
http-proxy proxy 8080
ns-cert-type server
secret static.key
cipher "AES
no-such-thing
comp-lzo
redirect-gateway def1
dhcp-option DNS 10.8.0.1
ignore-unknown-option foo
foo 1
auth-user-pass pass.txt
setenv UV_X 1
<dh>
x
</dh>
<connection>
auth SHA256
`
	d := parse(cell.ExitOpenVPN, text)
	wants(t, "refused", d.Refused,
		"line 2: dev tap makes a bridge", "line 3: the port of remote", "line 4: proto has arguments", "line 5: script-security runs a program", "line 6: up runs a program",
		"line 7: route-up runs a program", "line 8: plugin runs", "line 9: management opens", "line 10: iproute runs", "line 11: setenv sets variables", "line 12: down runs a program",
		"line 14: writepid makes openvpn write", "line 15: log makes", "line 16: ca refers to a file", "line 17: cert refers", "line 18: key refers", "line 19: tls-auth refers",
		"line 20: http-proxy sends", "line 21: ns-cert-type is gone", "line 22: secret makes a link without TLS", "line 23: the line's quotes", "line 24: no-such-thing is no directive",
		"line 32: the block <dh>", "line 35: <connection> has no end", "line 36: auth can't stand in <connection>")
	wants(t, "warnings", d.Warnings, "the profile does not say how to know the server", "line 13: no-such-thing is not understood, and optional", "line 25: comp-lzo compresses",
		"line 26: redirect-gateway is not used", "line 27: dhcp-option is not used", "line 29: foo is not understood, and optional", "line 30: auth-user-pass refers to a file", "line 31: setenv UV_… is not used")
	if strings.Contains(d.Profile.Reveal(), "sh -c") {
		t.Error(d.Profile.Reveal())
	}
}

// Whatever the quoting, a directive that runs something never gets through.
func TestNoTrickSmugglesADirectiveIn(t *testing.T) {
	ca, _ := pair(t, now.Add(1000*time.Hour))
	base := "client\nremote a.example\nauth-user-pass\nremote-cert-tls server\n" + block("ca", ca)
	for _, trick := range []string{
		"--up /bin/sh", "\"up\" /bin/sh", "'up' /bin/sh", "up\t/bin/sh", "UP /bin/sh", "cipher AES\rup /bin/sh", "u\\p /bin/sh", "verify-x509-name \"x\ny\" up",
		"setenv opt --up /bin/sh", "setenv opt up /bin/sh", "ignore-unknown-option up\nup /bin/sh", "remote a.example 1 udp up", "cipher \"AES\"up", "setenv UV_X \"a\\\" up\"",
		"<connection>\nremote b.example\nup /bin/sh\n</connection>", "<ca>\n" + ca + "</ca>\nup /bin/sh", "config /etc/passwd", "cd /", "<up>\nx\n</up>", "setenv UV_X 'a\"b'",
		"pull-filter ignore x\u2028up", "verify-x509-name `id`\\",
	} {
		d := parse(cell.ExitOpenVPN, base+trick+"\n")
		out := d.Profile.Reveal()
		for l := range strings.Lines(out) {
			if f := strings.Fields(l); len(f) > 0 && slices.Contains([]string{"up", "--up", "config", "cd", "UP"}, f[0]) {
				t.Errorf("%q gives\n%s", trick, out)
			}
		}
		if len(d.Refused) == 0 && trick != "pull-filter ignore x\u2028up" {
			t.Errorf("%q is accepted:\n%s", trick, out)
		}
	}
}

func TestCertificatesOfAProfile(t *testing.T) {
	good, key := pair(t, now.Add(1000*time.Hour))
	old, oldKey := pair(t, now.Add(-24*time.Hour))
	near, _ := pair(t, now.Add(24*time.Hour))
	head := ovpnHead
	for name, c := range map[string]struct {
		text              string
		refused, warnings []string
	}{
		"fine":              {block("ca", good) + block("cert", good) + block("key", key), nil, nil},
		"expired client":    {block("ca", good) + block("cert", old) + block("key", oldKey), nil, []string{"the client certificate expired on 2026-05-31"}},
		"expired CA":        {block("ca", near+old) + block("cert", good) + block("key", key), nil, []string{"expires on 2026-06-02", "the authority's certificate expired on 2026-05-31"}},
		"another's key":     {block("ca", good) + block("cert", good) + block("key", oldKey), []string{"does not belong to the <cert>"}, nil},
		"no CA":             {block("cert", good) + block("key", key), []string{"there is no <ca>"}, nil},
		"no key":            {block("ca", good) + block("cert", good), []string{"a client certificate needs its key"}, nil},
		"nobody":            {block("ca", good), []string{"how does the server know you"}, nil},
		"empty block":       {block("ca", "hello\n") + block("cert", good) + block("key", key), []string{"<ca> holds nothing"}, nil},
		"locked key":        {block("ca", good) + block("cert", good) + block("key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"), []string{"locked by a passphrase"}, nil},
		"locked key, old":   {block("ca", good) + block("cert", good) + block("key", "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n"), []string{"locked by a passphrase"}, nil},
		"second CA block":   {block("ca", good) + block("ca", good) + block("cert", good) + block("key", key), []string{"second <ca>"}, nil},
		"block without end": {block("cert", good) + block("key", key) + "<ca>\n" + good, []string{"has no end", "there is no <ca>"}, nil},
		"bad static key":    {block("ca", good) + block("cert", good) + block("key", key) + block("tls-crypt", strings.Replace(staticKey, "0011", "00", 1)), []string{"static key of 16 lines"}, nil},
	} {
		d := parse(cell.ExitOpenVPN, head+c.text)
		if name == "block without end" { // its lines are then directives, each refused
			if all := remarks(d.Refused); !strings.Contains(all, "has no end") || !strings.Contains(all, "there is no <ca>") {
				t.Errorf("%s: %s", name, all)
			}
			continue
		}
		wants(t, name+": refused", d.Refused, c.refused...)
		wants(t, name+": warnings", d.Warnings, c.warnings...)
	}
}

func TestCredentialsOfAProfile(t *testing.T) {
	ca, _ := pair(t, now.Add(1000*time.Hour))
	base := ovpnHead + block("ca", ca)
	if d := parse(cell.ExitOpenVPN, base+"auth-user-pass\n"); strings.Join(d.Asks, " ") != "username password" || len(d.Refused) > 0 {
		t.Errorf("%v %v", d.Asks, d.Refused)
	}
	d := parse(cell.ExitOpenVPN, base+block("auth-user-pass", "ann\ncorrect horse\n"))
	if accepted(t, cell.ExitOpenVPN, d); d.OpenVPN.Username != "ann" || d.Credentials.Reveal() != "correct horse" || strings.Contains(d.Profile.Reveal(), "horse") {
		t.Errorf("%+v\n%s", d.OpenVPN, d.Profile.Reveal())
	}
	d = profile.Parse(cell.ExitPaste{Type: cell.ExitOpenVPN, Config: base + "auth-user-pass\n", Username: "bob", Password: cell.NewSecret("battery")}, profile.Options{Now: now})
	if accepted(t, cell.ExitOpenVPN, d); d.OpenVPN.Username != "bob" || d.Credentials.Reveal() != "battery" {
		t.Errorf("%+v", d.OpenVPN)
	}
}

func FuzzOpenVPN(f *testing.F) {
	ca, _ := pair(f, now.Add(1000*time.Hour))
	cert, key := pair(f, now.Add(1000*time.Hour))
	fuzz(f, cell.ExitOpenVPN, ovpnHead+block("ca", ca)+block("cert", cert)+block("key", key)+block("tls-auth", staticKey)+"tls-auth [inline] 1\n",
		ovpnHead+block("ca", ca)+block("auth-user-pass", "ann\npw\n")+"setenv UV_ID \"a b\"\n<connection>\nremote a 1 tcp\n</connection>\n")
}
