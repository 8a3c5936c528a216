package child

import (
	"fmt"
	"slices"
	"strings"
)

// allowed are the directives that a profile may have. Profiles are checked, and
// written anew, when they are pasted; this is the last look before a program
// with rights to the network reads one.
var allowed = strings.Fields(`client tls-client pull float nobind remote-random remote-random-hostname persist-key
	persist-tun fast-io push-peer-info ping-timer-rem tls-exit comp-noadapt remote proto port rport resolv-retry
	connect-retry connect-retry-max connect-timeout server-poll-timeout keepalive ping ping-restart ping-exit
	remote-cert-tls remote-cert-eku remote-cert-ku verify-x509-name peer-fingerprint verify-hash cipher data-ciphers
	data-ciphers-fallback ncp-ciphers auth tls-cipher tls-ciphersuites tls-groups tls-cert-profile tls-version-min
	tls-version-max key-direction reneg-sec reneg-bytes reneg-pkts hand-window tran-window tls-timeout replay-window
	mssfix tun-mtu tun-mtu-extra tun-mtu-max link-mtu fragment mtu-disc sndbuf rcvbuf socket-flags txqueuelen
	explicit-exit-notify topology pull-filter compress comp-lzo allow-compression auth-user-pass ignore-unknown-option`)

// blocks may stand inline.
var blocks = []string{"ca", "extra-certs", "cert", "key", "tls-auth", "tls-crypt", "tls-crypt-v2", "peer-fingerprint", "connection"}

// checkProfile refuses a profile that could do more than speak to its server.
func checkProfile(profile string) (directives []string, err error) {
	if strings.ContainsRune(profile, 0) {
		return nil, fmt.Errorf("the profile has a zero byte")
	}
	inside := ""
	n := 0
	for line := range strings.Lines(profile) {
		n++
		line = strings.TrimSpace(line)
		if inside != "" && inside != "connection" {
			if line == "</"+inside+">" {
				inside = ""
			}
			continue
		}
		switch {
		case line == "" || line[0] == '#' || line[0] == ';':
			continue
		case inside != "" && line == "</"+inside+">":
			inside = ""
			continue
		case line[0] == '<':
			name := strings.TrimSuffix(line[1:], ">")
			if inside != "" || !slices.Contains(blocks, name) || line != "<"+name+">" {
				return nil, fmt.Errorf("line %d of the profile: the block %.40q is not allowed", n, line)
			}
			inside = name
			continue
		}
		f := strings.Fields(line)
		if !slices.Contains(allowed, f[0]) { // also one in quotes, or with dashes before it
			return nil, fmt.Errorf("line %d of the profile: %.40q is not allowed", n, f[0])
		}
		if f[0] == "auth-user-pass" && len(f) > 1 {
			return nil, fmt.Errorf("line %d of the profile: auth-user-pass names a file, which is not allowed", n)
		}
		directives = append(directives, f[0])
	}
	if inside != "" {
		return nil, fmt.Errorf("the block <%s> of the profile has no end", inside)
	}
	return directives, nil
}

// pulls are the options that are taken from a server: none that routes, sets
// names, runs or shows something. The first that fits decides.
var pulls = []string{
	"ifconfig ", "ifconfig-ipv6 ", "topology ", "route-gateway ", "tun-mtu ", "ping ", "ping-restart ", "peer-id ",
	"cipher ", "protocol-flags ", "key-derivation ", "dhcp-option DNS", "auth-token", "compress", "comp-lzo",
	"explicit-exit-notify", "sndbuf ", "rcvbuf ",
}

// arguments are openvpn's command line. What comes after --config wins over the
// profile; with --script-security 0 nothing is run even if it were named.
func (o *OpenVPN) arguments(directives []string) []string {
	args := []string{
		"--config", "stdin",
		"--dev", o.link, "--dev-type", "tun", "--disable-dco",
		"--script-security", "0", "--route-noexec", "--ifconfig-noexec",
		"--persist-tun", "--persist-key", "--auth-nocache", "--nobind",
		"--mark", "1", // cell.MarkBypass
		"--verb", "3", "--suppress-timestamps",
		"--management", o.socket(), "unix", "--management-hold", "--management-query-passwords", "--management-up-down",
	}
	// The user is changed once the link is open; new sockets then have no mark,
	// but nothing of the host's own output enters an exit anyway.
	if o.as != nil {
		args = append(args, "--user", o.as.name, "--group", o.as.group)
	}
	if !slices.ContainsFunc(directives, func(d string) bool { return d == "keepalive" || d == "ping" || d == "ping-restart" || d == "ping-exit" }) {
		// A server that says nothing of it must be missed all the same.
		args = append(args, "--ping", "10", "--ping-restart", "60")
	}
	for _, p := range pulls {
		args = append(args, "--pull-filter", "accept", p)
	}
	return append(args, "--pull-filter", "ignore", "")
}
