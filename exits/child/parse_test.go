package child_test

import (
	"net/netip"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/personal-internet-cell/pic/exits/child"
)

func TestProfilesThatCouldDoMoreThanSpeakToTheirServerAreRefused(t *testing.T) {
	const good = "client\nremote vpn.example.net 1194 udp\n<ca>\nup /bin/sh\n</ca>\n<connection>\nremote 192.0.2.1 443 tcp\n</connection>\nauth-user-pass\n"
	if _, err := child.CheckProfile(good); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{
		"up /bin/sh", "down x", "plugin /tmp/x.so", "script-security 2", "config /etc/shadow", "management 0.0.0.0 1", "auth-user-pass /etc/shadow",
		"setenv opt plugin /tmp/x.so", "setenv PATH /tmp", "route 0.0.0.0 0.0.0.0", "iproute /tmp/x", "log /etc/passwd", "writepid /etc/passwd",
		"tls-verify x", "ca /etc/shadow", "--plugin /tmp/x.so", `"plugin" /tmp/x.so`, "'up' x", "UP x", "<plugin>", "<ca>", "<ca>\n</cert>",
		"<connection>\nup x\n</connection>", "<connection>\n<ca>\n</ca>\n</connection>", "<ca> x", "\x00", "dns-updown /tmp/x", "dev-node /dev/mem", "user root",
		"askpass /etc/shadow", "crl-verify /etc", "engine x", "providers x", "pkcs12 x", "daemon", "http-proxy-user-pass /etc/shadow", "tmp-dir /",
	} {
		if d, err := child.CheckProfile(good + bad + "\n"); err == nil {
			t.Errorf("%q was accepted: %q", bad, d)
		}
	}
}

func FuzzCheckProfile(f *testing.F) {
	f.Add("client\nremote a 1\n<ca>\nx\n</ca>\n")
	f.Add("up x\n")
	f.Add("<connection>\nremote a\n</connection>\n\"up\" x")
	f.Fuzz(func(t *testing.T, text string) {
		directives, err := child.CheckProfile(text)
		if err != nil {
			return
		}
		for _, d := range directives {
			if strings.Trim(d, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || d == "up" || d == "plugin" {
				t.Fatalf("directive %q", d)
			}
		}
	})
}

func TestWhatOpenVPNPrintsIsSaidInWords(t *testing.T) {
	for _, x := range []struct {
		line, want string
		auth       bool
	}{
		{"AUTH: Received control message: AUTH_FAILED", "refuses the user name", true},
		{"AUTH: Received control message: AUTH_FAILED,Too many \x1b[31msessions", "(it says: Too many  [31msessions)", true},
		{"VERIFY ERROR: depth=0, error=certificate has expired: CN=vpn, serial=2", "the server's certificate has expired", false},
		{"VERIFY ERROR: depth=1, error=certificate has expired: CN=ca, serial=1", "authority in the profile has expired", false},
		{"VERIFY ERROR: depth=0, error=certificate is not yet valid: CN=vpn", "clock", false},
		{"VERIFY KU ERROR", "not the one that the profile expects", false},
		{"VERIFY X509NAME ERROR: CN=a, must be b", "not the one that the profile expects", false},
		{"VERIFY ERROR: depth=0, error=self-signed certificate: CN=x", "not the one that the profile expects", false},
		{"OpenSSL: error:0A000415:SSL routines::sslv3 alert certificate expired", "our certificate has expired", false},
		{"OpenSSL: error:0A000418:SSL routines::tlsv1 alert unknown ca", "refuses our certificate", true},
		{"TLS Error: TLS key negotiation failed to occur within 60 seconds (check your network connectivity)", "does not answer", false},
		{"RESOLVE: Cannot resolve host address: vpn.example.net:1194 (Name or service not known)", "can't be looked up", false},
		{"tls-crypt unwrap error: packet authentication failed", "tls-crypt key is not the server's", false},
		{"ERROR: Cannot open TUN/TAP dev /dev/net/tun: No such file or directory (errno=2)", "modprobe tun", false},
		{"ERROR: Cannot ioctl TUNSETIFF tun0: Device or resource busy (errno=16)", "another program has a link", false},
		{"Options error: Unrecognized option or missing or extra parameter(s) in stdin:4: x", "does not accept the profile: Unrecognized option", false},
		{"VERIFY OK: depth=0, CN=vpn", "", false},
		{"Initialization Sequence Completed", "", false},
		{"read UDPv4 [ECONNREFUSED]: Connection refused (fd=3,code=111)", "nobody listens", false},
	} {
		got, auth := child.Hint(x.line)
		if !strings.Contains(got, x.want) || (x.want == "") != (got == "") || auth != x.auth {
			t.Errorf("%s\n  means %q (auth %v), want %q", x.line, got, auth, x.want)
		}
	}
}

func TestPushedValuesAreTakenWhenTheyMakeSense(t *testing.T) {
	p := child.ParsePushed(map[string]string{
		"ifconfig_local": "10.9.0.2", "ifconfig_netmask": "0.0.0.0", "ifconfig_ipv6_local": "fd09::2", "tun_mtu": "1400",
		"foreign_option_1": "dhcp-option DNS 10.9.0.1", "foreign_option_2": "dhcp-option DOMAIN x", "foreign_option_3": "dhcp-option DNS 127.0.0.1",
		"foreign_option_4": "dhcp-option DNS6 fd09::1", "foreign_option_5": "dhcp-option DNS 224.0.0.1", "foreign_option_6": "dhcp-option DNS fe80::1%eth0",
		"foreign_option_7": "dhcp-option DNS 10.9.0.3", "foreign_option_8": "dhcp-option DNS 10.9.0.4", "foreign_option_9": "dhcp-option DNS 10.9.0.5",
	})
	if p.Address4 != netip.MustParseAddr("10.9.0.2") || p.Address6 != netip.MustParseAddr("fd09::2") || p.MTU != 1400 || len(p.DNS) != 4 || p.DNS[1].String() != "[fd09::1]:53" {
		t.Errorf("%+v", p)
	}
	p = child.ParsePushed(map[string]string{"ifconfig_local": "127.0.0.1", "ifconfig_ipv6_local": "::ffff:10.0.0.1", "tun_mtu": "1"})
	if p.Address4.IsValid() || p.Address6.IsValid() || p.MTU != 0 || len(p.DNS) != 0 {
		t.Errorf("%+v", p)
	}
}

func FuzzManagement(f *testing.F) {
	f.Add(">STATE:1700000000,CONNECTED,SUCCESS,10.9.0.2,203.0.113.2,1194,,,fd00::2")
	f.Add(">BYTECOUNT:1,2")
	f.Add(">HOLD:Waiting for hold release:10")
	f.Add("1700000000,WAIT,,,,,,")
	f.Fuzz(func(t *testing.T, line string) {
		kind, state := child.ParseManagement(line)
		if strings.Contains(kind, ":") || strings.Contains(state, ",") {
			t.Fatalf("%q %q", kind, state)
		}
		if reason, _ := child.Hint(line); utf8.ValidString(line) && !utf8.ValidString(reason) || len(reason) > 400 {
			t.Fatalf("%q", reason)
		}
		child.ParsePushed(map[string]string{"ifconfig_local": line, "ifconfig_ipv6_local": line, "tun_mtu": line, "foreign_option_1": "dhcp-option DNS " + line})
		if q := child.Quoted(line); !strings.HasPrefix(q, `"`) || strings.Count(q, `"`)-strings.Count(q, `\"`) > 2 {
			t.Fatal(q)
		}
	})
}
