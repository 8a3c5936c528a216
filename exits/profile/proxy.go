package profile

import (
	"net/url"
	"strings"

	"github.com/personal-internet-cell/pic/cell"
)

const proxyHow = "write the proxy as a URL, such as socks5://host:1080 or https://user:password@host:443"

// proxy reads one URL; user and password are percent-decoded (RFC 3986 §2.1).
func (p *parser) proxy(lines []line) {
	var found []line
	for _, l := range lines {
		if l.text != "" && l.text[0] != '#' {
			found = append(found, l)
		}
	}
	x := &cell.ProxyExit{}
	p.d.Proxy = x
	switch len(found) {
	case 0:
		p.refuse(0, proxyHow)
		return
	case 1:
	default:
		p.refuse(found[1].n, "there is a second line: an exit leads to one proxy")
		return
	}
	l := found[0]
	u, err := url.Parse(l.text)
	if err != nil || u.Scheme == "" || u.Opaque != "" || u.Host == "" {
		p.refuse(l.n, proxyHow+"; special characters of the password are written as %%XX")
		return
	}
	port := uint16(0)
	switch strings.ToLower(u.Scheme) {
	case "socks5", "socks5h", "socks":
		x.Protocol, port = cell.ProxySOCKS5, 1080
	case "http":
		x.Protocol = cell.ProxyHTTP
	case "https":
		x.Protocol, port = cell.ProxyHTTPS, 443
	case "socks4", "socks4a":
		p.refuse(l.n, "SOCKS4 knows neither IPv6 nor passwords: ask for a SOCKS5 or HTTP proxy")
		return
	default:
		p.refuse(l.n, "%s is no kind of proxy: socks5, http or https", word(u.Scheme))
		return
	}
	if strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		p.refuse(l.n, "a proxy has no path: "+proxyHow)
	}
	var ok bool
	var given uint16
	if x.Host, given, ok = splitHostPort(u.Host); !ok {
		p.refuse(l.n, "the proxy's host must be a host name or an address; an IPv6 address stands in brackets")
		return
	}
	if x.Port = given; given == 0 {
		if x.Port = port; port == 0 {
			p.refuse(l.n, "which port? Write http://host:port; many proxies listen on 3128 or 8080")
		}
	}
	p.d.Name = x.Host
	p.proxyCredentials(l.n, x, u.User)
}

func (p *parser) proxyCredentials(n int, x *cell.ProxyExit, user *url.Userinfo) {
	password := ""
	if user != nil {
		x.Username = user.Username()
		password, _ = user.Password()
	}
	if p.in.Username != "" {
		x.Username = p.in.Username
	}
	if !p.in.Password.Empty() {
		password = p.in.Password.Reveal()
	}
	switch {
	case len(x.Username) > 255 || len(password) > 255: // RFC 1929 §2
		p.refuse(n, "user and password have at most 255 bytes each")
	case strings.ContainsFunc(x.Username+password, func(r rune) bool { return r < 0x20 || r == 0x7f }):
		p.refuse(n, "user and password must be without control characters")
	case x.Protocol != cell.ProxySOCKS5 && strings.Contains(x.Username, ":"): // RFC 7617 §2
		p.refuse(n, "a user's name at an HTTP proxy can't contain a colon")
	case x.Username == "" && password != "":
		p.ask("username")
	case x.Username != "" && password == "":
		p.ask("password")
	}
	p.d.Credentials = cell.NewSecret(password)
	if password != "" && x.Protocol == cell.ProxyHTTP {
		p.warn(n, "the password goes to this proxy in the clear: prefer https, if it has that")
	}
}
