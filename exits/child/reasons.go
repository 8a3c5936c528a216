package child

import (
	"regexp"
	"strings"
)

// hints are what openvpn prints when something is wrong, and what it means.
var hints = []struct {
	pattern *regexp.Regexp
	problem problem
}{
	{
		regexp.MustCompile(`VERIFY ERROR: depth=0, .*error=certificate has expired`),
		problem{reason: "the server's certificate has expired: tell who runs it, or check this machine's clock", lasting: true},
	},
	{
		regexp.MustCompile(`VERIFY ERROR: depth=[1-9].*error=certificate has expired`),
		problem{reason: "the authority in the profile has expired: get a new profile", lasting: true},
	},
	{
		regexp.MustCompile(`VERIFY ERROR: .*error=certificate is not yet valid`),
		problem{reason: "the server's certificate is not valid yet: check this machine's clock", lasting: true},
	},
	{regexp.MustCompile(`VERIFY ERROR: .*error=CRL`), // of a profile's <crl-verify>
		problem{reason: "the server's certificate was withdrawn: get a new profile", lasting: true}},
	{
		regexp.MustCompile(`VERIFY (KU |EKU |X509NAME )?ERROR|VERIFY ERROR`),
		problem{reason: "the server's certificate is not the one that the profile expects: get a new profile, or this is not the server", lasting: true},
	},
	{
		regexp.MustCompile(`WARNING: Your certificate has expired|alert certificate expired`),
		problem{reason: "our certificate has expired: get a new profile", lasting: true},
	},
	{
		regexp.MustCompile(`alert (bad certificate|certificate unknown|certificate revoked|unknown ca|access denied|certificate required)`),
		problem{reason: "the server refuses our certificate: get a new profile", auth: true},
	},
	{
		regexp.MustCompile(`alert (handshake failure|protocol version|insufficient security)|no shared cipher|unsupported protocol`),
		problem{reason: "the server and openvpn have no TLS version or cipher in common: get a newer profile", lasting: true},
	},
	{
		regexp.MustCompile(`Authenticate/Decrypt packet error|tls-crypt unwrap error|packet HMAC authentication failed`),
		problem{reason: "the profile's tls-auth or tls-crypt key is not the server's: get a new profile"},
	},
	{regexp.MustCompile(`TLS key negotiation failed to occur`), problem{reason: "the server does not answer", vague: true}},
	{regexp.MustCompile(`RESOLVE: Cannot resolve host address`), problem{reason: "the server's name can't be looked up"}},
	{regexp.MustCompile(`Inactivity timeout \(--ping-(restart|exit)\)`), problem{reason: "the server has gone silent"}},
	{regexp.MustCompile(`Connection refused`), problem{reason: "nobody listens at the server's address and port"}},
	{regexp.MustCompile(`No route to host|Network is unreachable`), problem{reason: "there is no route to the server"}},
	{regexp.MustCompile(`Cannot open TUN/TAP dev`), problem{reason: "there is no /dev/net/tun: run modprobe tun, or let the container have the device"}},
	{regexp.MustCompile(`Cannot ioctl TUNSETIFF.*busy`), problem{reason: "another program has a link of this name: stop the other openvpn"}},
	{regexp.MustCompile(`Cannot ioctl TUNSETIFF`), problem{reason: "the link can't be made: pic needs the capability CAP_NET_ADMIN"}},
	{
		regexp.MustCompile(`Cannot load (inline )?(CA )?certificate|Cannot load private key|error:.*PEM`),
		problem{reason: "a certificate or key in the profile can't be read: copy the whole file", lasting: true},
	},
	{regexp.MustCompile(`^Options error: `), problem{reason: "openvpn does not accept the profile", lasting: true}},
}

// hint says what a line of openvpn's means; nil: nothing in particular.
func hint(line string) *problem {
	if _, text, ok := strings.Cut(line, "AUTH_FAILED"); ok && strings.Contains(line, "AUTH: Received control message") {
		return refused(strings.TrimPrefix(text, ","))
	}
	for i := range hints {
		if hints[i].pattern.MatchString(line) {
			p := hints[i].problem
			if text, ok := strings.CutPrefix(line, "Options error: "); ok {
				p.reason += ": " + clip(text)
			}
			return &p
		}
	}
	return nil
}

// refused is a server's no to user name and password, with what it says.
func refused(says string) *problem {
	p := &problem{reason: "the server refuses the user name or the password: enter them again", auth: true}
	if says = clip(says); says != "" {
		p.reason += " (it says: " + says + ")"
	}
	return p
}

// clip makes what others wrote fit for a person's eyes.
func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if s = strings.TrimSpace(s); len(s) > 120 {
		s = strings.ToValidUTF8(s[:120], "") + "…"
	}
	return strings.Trim(s, " '")
}
