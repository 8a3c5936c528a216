package profile

import (
	"strconv"
	"strings"
)

// rule is what becomes of a directive of openvpn(8): kept with checked
// arguments, left out with a note, or refused with a reason. A directive
// without a rule is refused: what is not known to be safe is not.
type rule struct {
	kind kind
	// min and max are how many arguments a kept directive has.
	min, max int
	arg      func(string) bool // of each argument
	text     string            // the note or the reason
	nested   bool              // may stand in <connection>
}

type kind int

const (
	kept kind = iota
	left
	barred
)

func number(s string) bool {
	_, err := strconv.ParseInt(s, 10, 32)
	return err == nil
}

// token is a word without anything that a configuration file gives a meaning.
func token(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-:+=,/@", r)
	})
}

// printable is text that can stand between double quotes.
func printable(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f || r == '"' || r == '\\' })
}

func oneOf(words string) func(string) bool {
	return func(s string) bool { return s != "" && strings.Contains(" "+words+" ", " "+s+" ") }
}

func orNumber(words string) func(string) bool {
	return func(s string) bool { return number(s) || oneOf(words)(s) }
}

const protocols = "udp udp4 udp6 tcp tcp4 tcp6 tcp-client tcp4-client tcp6-client"

// keepers are directives that say how to reach the server and what to speak.
var keepers = map[string]rule{
	"client": {}, "tls-client": {}, "pull": {}, "float": {nested: true}, "nobind": {nested: true},
	"remote-random": {}, "remote-random-hostname": {}, "persist-key": {}, "persist-tun": {},
	"fast-io": {}, "push-peer-info": {}, "ping-timer-rem": {}, "tls-exit": {}, "comp-noadapt": {},
	"remote":                {min: 1, max: 3, arg: token, nested: true},
	"proto":                 {min: 1, max: 1, arg: oneOf(protocols), nested: true},
	"port":                  {min: 1, max: 1, arg: number, nested: true},
	"rport":                 {min: 1, max: 1, arg: number, nested: true},
	"resolv-retry":          {min: 1, max: 1, arg: orNumber("infinite")},
	"connect-retry":         {min: 1, max: 2, arg: number, nested: true},
	"connect-retry-max":     {min: 1, max: 1, arg: orNumber("unlimited"), nested: true},
	"connect-timeout":       {min: 1, max: 1, arg: number, nested: true},
	"server-poll-timeout":   {min: 1, max: 1, arg: number, nested: true},
	"keepalive":             {min: 2, max: 2, arg: number},
	"ping":                  {min: 1, max: 1, arg: number},
	"ping-restart":          {min: 1, max: 1, arg: number},
	"ping-exit":             {min: 1, max: 1, arg: number},
	"remote-cert-tls":       {min: 1, max: 1, arg: oneOf("server")},
	"remote-cert-eku":       {min: 1, max: 1, arg: printable},
	"remote-cert-ku":        {min: 0, max: 8, arg: token},
	"verify-x509-name":      {min: 1, max: 2, arg: printable},
	"peer-fingerprint":      {min: 1, max: 1, arg: token},
	"verify-hash":           {min: 1, max: 2, arg: token},
	"cipher":                {min: 1, max: 1, arg: token},
	"data-ciphers":          {min: 1, max: 1, arg: token},
	"data-ciphers-fallback": {min: 1, max: 1, arg: token},
	"ncp-ciphers":           {min: 1, max: 1, arg: token},
	"auth":                  {min: 1, max: 1, arg: token},
	"tls-cipher":            {min: 1, max: 1, arg: printable},
	"tls-ciphersuites":      {min: 1, max: 1, arg: token},
	"tls-groups":            {min: 1, max: 1, arg: token},
	"tls-cert-profile":      {min: 1, max: 1, arg: token},
	"tls-version-min":       {min: 1, max: 2, arg: oneOf("1.0 1.1 1.2 1.3 or-highest")},
	"tls-version-max":       {min: 1, max: 1, arg: oneOf("1.0 1.1 1.2 1.3")},
	"key-direction":         {min: 1, max: 1, arg: oneOf("0 1")},
	"reneg-sec":             {min: 1, max: 2, arg: number},
	"reneg-bytes":           {min: 1, max: 1, arg: number},
	"reneg-pkts":            {min: 1, max: 1, arg: number},
	"hand-window":           {min: 1, max: 1, arg: number},
	"tran-window":           {min: 1, max: 1, arg: number},
	"tls-timeout":           {min: 1, max: 1, arg: number},
	"replay-window":         {min: 1, max: 2, arg: number},
	"mssfix":                {min: 0, max: 2, arg: orNumber("mtu fixed"), nested: true},
	"tun-mtu":               {min: 1, max: 2, arg: number, nested: true},
	"tun-mtu-extra":         {min: 1, max: 1, arg: number, nested: true},
	"tun-mtu-max":           {min: 1, max: 1, arg: number},
	"link-mtu":              {min: 1, max: 1, arg: number, nested: true},
	"fragment":              {min: 1, max: 2, arg: orNumber("mtu"), nested: true},
	"mtu-disc":              {min: 1, max: 1, arg: oneOf("no maybe yes")},
	"sndbuf":                {min: 1, max: 1, arg: number},
	"rcvbuf":                {min: 1, max: 1, arg: number},
	"socket-flags":          {min: 1, max: 2, arg: token},
	"txqueuelen":            {min: 1, max: 1, arg: number},
	"explicit-exit-notify":  {min: 0, max: 1, arg: number, nested: true},
	"topology":              {min: 1, max: 1, arg: oneOf("subnet net30 p2p")},
	"pull-filter":           {min: 2, max: 2, arg: printable},
	"compress":              {min: 0, max: 1, arg: token},
	"comp-lzo":              {min: 0, max: 1, arg: oneOf("yes no adaptive")},
	"allow-compression":     {min: 1, max: 1, arg: oneOf("yes no asym")},
}

const (
	routesNote  = "%s is not used: routes and names are the cell's own work, and the kill switch with them"
	ownNote     = "%s is not used: the cell decides it"
	runsReason  = "%s runs a program on the cell, which no profile may: delete the line; the cell sets addresses, routes and names itself"
	writeReason = "%s makes openvpn write or read files of the cell, which no profile may: delete the line"
	mgmtReason  = "%s opens openvpn to somebody else, but the cell drives it: delete the line"
	sideReason  = "%s belongs to a server: ask for the client's profile"
	carrReason  = "%s sends the connection through a proxy, which an exit of type openvpn can't: delete the lines about the proxy"
	fileReason  = "%s refers to a file, which is not here: put the file's text between <%s> and </%s>"
)

// groups are directives that share their fate; the first word of text is theirs.
var groups = []struct {
	kind  kind
	text  string
	words string
}{
	{left, routesNote, "route route-ipv6 route-nopull route-delay route-method route-metric route-gateway redirect-gateway redirect-private " +
		"ifconfig ifconfig-ipv6 ifconfig-nowarn dhcp-option dns block-outside-dns block-ipv6 block-local register-dns route-noexec ifconfig-noexec allow-pull-fqdn client-nat"},
	{left, ownNote, "dev-type dev-node verb mute mute-replay-warnings daemon user group nice mlock persist-local-ip persist-remote-ip suppress-timestamps machine-readable-output " +
		"remap-usr1 mark bind-dev multihome local lport bind disable-dco auth-nocache auth-retry inactive passtos up-delay up-restart down-pre show-net-up ip-win32 win-sys tap-sleep " +
		"dhcp-renew dhcp-release windows-driver service setenv-safe ncp-disable status-version session-timeout single-session test-crypto errors-to-stderr syslog echo parameter cryptoapicert"},
	{barred, runsReason, "script-security up down route-up route-pre-down ipchange iproute tls-verify auth-user-pass-verify client-connect client-disconnect client-crresponse learn-address " +
		"plugin pkcs11-providers pkcs11-id engine providers tls-crypt-v2-verify x-shell script dns-updown"},
	{barred, writeReason, "log log-append writepid status tmp-dir config cd chroot replay-persist askpass tls-export-cert ifconfig-pool-persist capath http-proxy-user-pass auth-gen-token-secret setcon"},
	{barred, sideReason, "server server-ipv6 server-bridge mode tls-server port-share push push-reset client-to-client client-config-dir ccd-exclusive duplicate-cn max-clients dh auth-gen-token opt-verify bcast-buffers"},
	{barred, carrReason, "http-proxy http-proxy-option http-proxy-retry http-proxy-timeout socks-proxy socks-proxy-retry http-proxy-override"},
	{barred, "%s needs somebody to answer at each connection, and nobody is there: ask for a profile with a certificate or a password", "static-challenge auth-token auth-token-user"},
	{barred, "%s is gone from openvpn and would no longer check the server: replace the line by remote-cert-tls server", "ns-cert-type tls-remote"},
	{barred, "%s makes a link without TLS, which openvpn no longer has: ask for a profile with certificates", "secret"},
}

// inlines are blocks whose text is taken into the profile.
var inlines = []string{"ca", "extra-certs", "cert", "key", "tls-auth", "tls-crypt", "tls-crypt-v2"}

// ruleOf finds a directive's rule.
func ruleOf(name string) (rule, bool) {
	if r, ok := keepers[name]; ok {
		if r.arg == nil {
			r.arg = func(string) bool { return false }
		}
		return r, true
	}
	if strings.HasPrefix(name, "management") {
		return rule{kind: barred, text: mgmtReason}, true
	}
	for _, g := range groups {
		if oneOf(g.words)(name) {
			return rule{kind: g.kind, text: g.text}, true
		}
	}
	return rule{}, false
}
