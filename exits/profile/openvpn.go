package profile

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/personal-internet-cell/pic/cell"
)

const (
	ovpnPort   = 1194
	maxRemotes = 64
)

// ovpn collects an .ovpn profile (openvpn(8)) into its normalised form: the
// allow-listed directives in their order, quoted alike, then the blocks.
type ovpn struct {
	*parser
	out       []string
	blocks    map[string]string // name → normalised text
	at        map[string]int    // directive or block → line of its first appearance
	files     map[string]int    // directives that refer to a file or [inline]
	ignorable []string          // of ignore-unknown-option
	asksUser  bool
	proto     string
	port      uint16
	remotes   []remote
	conn      *[]string // lines of the <connection> that is open
}

type remote struct {
	host, proto string
	port        uint16
}

func (p *parser) openVPN(lines []line) {
	o := &ovpn{parser: p, blocks: map[string]string{}, at: map[string]int{}, files: map[string]int{}}
	p.d.OpenVPN = &cell.OpenVPNExit{}
	for i := 0; i < len(lines); i++ {
		l := lines[i]
		if l.text == "" || l.text[0] == '#' || l.text[0] == ';' {
			continue
		}
		if l.text[0] == '<' {
			i = o.block(lines, i)
			continue
		}
		o.directive(l)
	}
	if o.conn != nil {
		o.refuse(o.at["<connection>"], "<connection> has no end: add </connection>")
	}
	o.finish()
}

// block takes an inline block that begins at lines[i] and returns the index of
// its last line.
func (o *ovpn) block(lines []line, i int) int {
	begin := lines[i]
	name := strings.Trim(begin.text, "<>")
	switch {
	case begin.text == "</connection>" && o.conn != nil:
		o.out = append(append(append(o.out, "<connection>"), *o.conn...), "</connection>")
		o.conn = nil
		return i
	case begin.text == "<connection>" && o.conn == nil:
		o.conn, o.at["<connection>"] = &[]string{}, begin.n
		return i
	}
	end := slices.IndexFunc(lines[i:], func(l line) bool { return l.text == "</"+name+">" })
	if end < 0 || strings.HasPrefix(name, "/") {
		o.refuse(begin.n, "the block that begins here has no end: copy the whole file")
		return i
	}
	body := lines[i+1 : i+end]
	switch {
	case o.conn != nil:
		o.refuse(begin.n, "a block stands inside <connection>: move it out")
	case name == "auth-user-pass":
		o.userPass(begin.n, body)
	case !slices.Contains(inlines, name):
		o.refuse(begin.n, "the block <%s> is not supported: a profile has <ca>, <cert> and <key>", word(name))
	case o.at["<"+name+">"] > 0:
		o.refuse(begin.n, "there is a second <%s>: keep one", name)
	default:
		o.at["<"+name+">"] = begin.n
		o.inline(begin.n, name, body)
	}
	return i + end
}

// userPass takes user and password from the profile (openvpn ≥ 2.6).
func (o *ovpn) userPass(n int, body []line) {
	o.asksUser = true
	if len(body) > 0 {
		o.d.OpenVPN.Username = body[0].text
	}
	if len(body) > 1 {
		o.d.Credentials = cell.NewSecret(body[1].text)
	}
	if len(body) > 2 || len(o.d.OpenVPN.Username) > 255 {
		o.refuse(n, "<auth-user-pass> has two lines: the user's name and the password")
	}
}

// tokens splits a line as openvpn does: white space, quotes, and comments that
// begin where an argument could.
func tokens(text string) (out []string, ok bool) {
	for {
		text = strings.TrimLeft(text, " \t")
		if text == "" || text[0] == '#' || text[0] == ';' {
			return out, true
		}
		if q := text[0]; q == '"' || q == '\'' {
			end := strings.IndexByte(text[1:], q)
			if end < 0 {
				return nil, false
			}
			out, text = append(out, text[1:1+end]), text[2+end:]
			if text != "" && text[0] != ' ' && text[0] != '\t' {
				return nil, false
			}
			continue
		}
		end := strings.IndexAny(text, " \t")
		if end < 0 {
			end = len(text)
		}
		w := text[:end]
		if strings.ContainsAny(w, "\"'\\") {
			return nil, false
		}
		out, text = append(out, w), text[end:]
	}
}

func (o *ovpn) directive(l line) {
	f, ok := tokens(l.text)
	if !ok || len(f) == 0 || strings.Contains(l.text, "\\") {
		o.refuse(l.n, "the line's quotes or backslashes are not understood: write it without them")
		return
	}
	name, args := strings.TrimPrefix(f[0], "--"), f[1:]
	optional := false
	if name == "setenv" {
		if len(args) < 2 || args[0] != "opt" {
			o.setenv(l.n, args)
			return
		}
		name, args, optional = strings.TrimPrefix(args[1], "--"), args[2:], true
	}
	if o.special(l.n, name, args) {
		return
	}
	r, known := ruleOf(name)
	switch {
	case !known && (optional || slices.Contains(o.ignorable, name)):
		o.warn(l.n, "%s is not understood, and optional: it is left out", word(name))
	case !known:
		o.refuse(l.n, "%s is no directive that is known to be safe: delete the line, if the server works without it", word(name))
	case r.kind == left:
		if name != "verb" && name != "dev-type" && name != "auth-nocache" {
			o.warn(l.n, r.text, name)
		}
	case r.kind == barred:
		o.refuse(l.n, r.text, name)
	case o.conn != nil && !r.nested:
		o.refuse(l.n, "%s can't stand in <connection>: move it out", name)
	case len(args) < r.min || len(args) > r.max || slices.ContainsFunc(args, func(a string) bool { return !r.arg(a) }):
		o.refuse(l.n, "%s has arguments that are not understood: compare the line with the manual of openvpn", name)
	default:
		o.keep(l.n, name, args)
	}
}

// special handles the directives that are neither kept nor left as they are.
func (o *ovpn) special(n int, name string, args []string) bool {
	switch name {
	case "dev":
		if len(args) == 1 && strings.HasPrefix(args[0], "tap") {
			o.refuse(n, "dev tap makes a bridge, but an exit routes: ask for a profile with dev tun")
		}
	case "dev-type":
		if len(args) != 1 || args[0] != "tap" {
			return false
		}
		o.refuse(n, "dev-type tap makes a bridge, but an exit routes: ask for a profile with dev tun")
	case "auth-user-pass":
		o.asksUser = true
		if len(args) > 0 && args[0] != "[inline]" {
			o.warn(n, "auth-user-pass refers to a file, which is not here: enter user and password instead")
		}
	case "ignore-unknown-option":
		o.ignorable = append(o.ignorable, args...)
	case "extra-certs", "ca", "cert", "key", "tls-auth", "tls-crypt", "tls-crypt-v2":
		if (name == "tls-auth") && len(args) == 2 && (args[1] == "0" || args[1] == "1") && o.at["key-direction"] == 0 {
			o.keep(n, "key-direction", args[1:])
		}
		if len(args) > 0 && args[0] != "[inline]" && o.files[name] == 0 {
			o.files[name] = n
		}
	case "pkcs12", "crl-verify":
		o.refuse(n, "%s refers to a file, which is not here: ask for a profile with <ca>, <cert> and <key>", name)
	default:
		return false
	}
	return true
}

var harmlessEnv = regexp.MustCompile(`^UV_[A-Z0-9_]{1,60}$`)

// setenv keeps what is only told to the server; other variables are for
// scripts, which don't exist here.
func (o *ovpn) setenv(n int, args []string) {
	switch {
	case len(args) == 2 && harmlessEnv.MatchString(args[0]) && printable(args[1]) && o.conn == nil:
		o.keep(n, "setenv", args)
	case len(args) > 0 && oneOf("FORWARD_COMPATIBLE CLIENT_CERT FRIENDLY_NAME PROFILE USERNAME_IS_EMAIL ALLOW_PASSWORD_SAVE")(args[0]):
		o.warn(n, "setenv %s is not used", args[0])
	default:
		o.refuse(n, "setenv sets variables for scripts, and there are none: delete the line")
	}
}

func (o *ovpn) keep(n int, name string, args []string) {
	if (name == "client" || name == "key-direction") && o.at[name] > 0 {
		return
	}
	if o.at[name] == 0 {
		o.at[name] = n
	}
	if !o.meaning(n, name, args) {
		return
	}
	text := name
	for _, a := range args {
		if !token(a) {
			a = `"` + a + `"`
		}
		text += " " + a
	}
	if o.conn != nil {
		*o.conn = append(*o.conn, text)
		return
	}
	o.out = append(o.out, text)
}

// meaning checks what a kept directive says; false leaves it out.
func (o *ovpn) meaning(n int, name string, args []string) bool {
	switch name {
	case "client":
		return false // finish puts it first
	case "remote":
		return o.remote(n, args)
	case "proto":
		if o.conn == nil {
			o.proto = args[0]
		}
	case "port", "rport":
		port, err := strconv.ParseUint(args[0], 10, 16)
		if err != nil || port == 0 {
			o.refuse(n, "%s must be 1 to 65535", name)
			return false
		}
		if o.conn == nil {
			o.port = uint16(port)
		}
	case "pull-filter":
		if !oneOf("accept ignore reject")(args[0]) {
			o.refuse(n, "pull-filter is accept, ignore or reject, and a text")
			return false
		}
	case "comp-lzo", "compress", "allow-compression":
		if len(args) == 0 || !oneOf("no stub stub-v2 asym migrate")(args[0]) {
			o.warn(n, "%s compresses before encrypting, which lets listeners guess at content (VORACLE): ask the server's operator for a profile without", name)
		}
	case "cipher", "auth", "data-ciphers", "data-ciphers-fallback":
		if slices.Contains(strings.Split(strings.ToLower(args[0]), ":"), "none") {
			o.warn(n, "%s none sends your traffic unprotected", name)
		}
	}
	return true
}

func (o *ovpn) remote(n int, args []string) bool {
	r := remote{host: serverName(args[0])}
	if r.host == "" {
		o.refuse(n, "remote must name a host or an address, then perhaps a port and a protocol")
		return false
	}
	if len(args) > 1 {
		port, err := strconv.ParseUint(args[1], 10, 16)
		if err != nil || port == 0 {
			o.refuse(n, "the port of remote must be 1 to 65535")
			return false
		}
		r.port = uint16(port)
	}
	if len(args) > 2 {
		if !oneOf(protocols)(args[2]) {
			o.refuse(n, "the protocol of remote must be udp or tcp")
			return false
		}
		r.proto = args[2]
	}
	if len(o.remotes) == maxRemotes {
		o.refuse(n, "there are more than %d remotes: keep the nearest", maxRemotes)
		return false
	}
	o.remotes = append(o.remotes, r)
	return true
}

func (o *ovpn) finish() {
	d := o.d
	for name, n := range o.files {
		if o.at["<"+name+">"] == 0 {
			o.refuse(n, fileReason, name, name, name)
		}
	}
	if len(o.remotes) == 0 && o.at["remote"] == 0 { // else a line was refused
		o.refuse(0, "there is no remote: which server? A line such as remote vpn.example.net 1194 udp is missing")
	}
	have := func(name string) bool { return o.at["<"+name+">"] > 0 || o.files[name] > 0 }
	if !have("ca") && o.at["peer-fingerprint"] == 0 {
		o.refuse(0, "there is no <ca>: without the authority's certificate anybody could pose as the server")
	}
	if have("cert") != have("key") {
		o.refuse(0, "a client certificate needs its key: the profile has only one of <cert> and <key>")
	}
	if !have("cert") && !o.asksUser {
		o.refuse(0, "the profile has neither <cert> and <key> nor auth-user-pass: how does the server know you?")
	}
	if have("ca") && o.at["remote-cert-tls"]+o.at["remote-cert-eku"]+o.at["remote-cert-ku"]+o.at["verify-x509-name"]+o.at["peer-fingerprint"]+o.at["verify-hash"] == 0 {
		o.warn(0, "the profile does not say how to know the server from other clients: add remote-cert-tls server")
	}
	o.certificates()
	o.credentials()
	for _, r := range o.remotes {
		if r.port == 0 {
			r.port = o.port
		}
		if r.port == 0 {
			r.port = ovpnPort
		}
		if r.proto == "" {
			r.proto = o.proto
		}
		proto := "udp"
		if strings.HasPrefix(r.proto, "tcp") {
			proto = "tcp"
		}
		if x := joinHostPort(r.host, r.port) + "/" + proto; !slices.Contains(d.OpenVPN.Remotes, x) {
			d.OpenVPN.Remotes = append(d.OpenVPN.Remotes, x)
		}
		if d.Name == "" {
			d.Name = r.host
		}
	}
	d.Profile = cell.NewSecret(o.text())
}

// credentials merges what the profile and the person say.
func (o *ovpn) credentials() {
	d := o.d
	if !o.asksUser {
		if !o.in.Password.Empty() || o.in.Username != "" {
			o.warn(0, "the profile has no auth-user-pass, so the server asks for no password: it is not kept")
		}
		return
	}
	if o.in.Username != "" {
		d.OpenVPN.Username = o.in.Username
	}
	if !o.in.Password.Empty() {
		d.Credentials = o.in.Password
	}
	if d.OpenVPN.Username == "" {
		o.ask("username")
	}
	if d.Credentials.Empty() {
		o.ask("password")
	}
	if strings.ContainsFunc(d.OpenVPN.Username+d.Credentials.Reveal(), func(r rune) bool { return r < 0x20 || r == 0x7f }) || len(d.OpenVPN.Username) > 255 {
		o.refuse(0, "user and password must be short lines without control characters")
	}
}

// text is the normalised profile; parsing it again gives the same.
func (o *ovpn) text() string {
	var b strings.Builder
	b.WriteString("client\n")
	for _, l := range o.out {
		b.WriteString(l + "\n")
	}
	if o.asksUser {
		b.WriteString("auth-user-pass\n")
	}
	for _, name := range inlines {
		if t, ok := o.blocks[name]; ok {
			b.WriteString("<" + name + ">\n" + t + "</" + name + ">\n")
		}
	}
	return b.String()
}
