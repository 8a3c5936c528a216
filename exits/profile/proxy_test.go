package profile_test

import (
	"strings"
	"testing"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/exits/profile"
)

func TestProxyURLs(t *testing.T) {
	for text, want := range map[string]struct {
		cell.ProxyExit
		password string
	}{
		"socks5://proxy.example.net":                       {cell.ProxyExit{Protocol: "socks5", Host: "proxy.example.net", Port: 1080}, ""},
		"socks5h://proxy.example.net:9050/":                {cell.ProxyExit{Protocol: "socks5", Host: "proxy.example.net", Port: 9050}, ""},
		"# work\nHTTP://192.0.2.7:3128":                    {cell.ProxyExit{Protocol: "http", Host: "192.0.2.7", Port: 3128}, ""},
		"https://ann:p%40ss%20w%C3%B6rd@proxy.example.net": {cell.ProxyExit{Protocol: "https", Host: "proxy.example.net", Port: 443, Username: "ann"}, "p@ss wörd"},
		"socks5://a%3Ab:c%2Fd@[2001:db8::1]:1080":          {cell.ProxyExit{Protocol: "socks5", Host: "2001:db8::1", Port: 1080, Username: "a:b"}, "c/d"},
	} {
		d := parse(cell.ExitProxy, text)
		if accepted(t, cell.ExitProxy, d); *d.Proxy != want.ProxyExit || d.Credentials.Reveal() != want.password {
			t.Errorf("%q: %+v", text, d.Proxy)
		}
	}
	for text, want := range map[string]string{
		"":                                     "write the proxy as a URL",
		"proxy.example.net:3128":               "write the proxy as a URL",
		"socks4://proxy.example.net":           "SOCKS4 knows neither",
		"ftp://proxy.example.net":              "ftp is no kind of proxy",
		"http://proxy.example.net":             "which port?",
		"https://proxy.example.net/path":       "a proxy has no path",
		"https://proxy.example.net/?q=hunter2": "a proxy has no path",
		"socks5://:1080":                       "must be a host name",
		"socks5://proxy example":               "write the proxy as a URL",
		"http://a%3Ab:hunter2@h:1":             "can't contain a colon",
		"http://ann:hunter2%0d@h:1":            "without control characters",
		"http://ann:hunter2%zz@h:1":            "are written as %XX",
		"socks5://h\nsocks5://i":               "line 2: there is a second line",
		"socks5://h:0":                         "must be a host name",
	} {
		if d := parse(cell.ExitProxy, text); !strings.Contains(remarks(d.Refused), want) || strings.Contains(remarks(d.Refused), "hunter2") {
			t.Errorf("%q: want %q, got %s", text, want, remarks(d.Refused))
		}
	}
	if d := parse(cell.ExitProxy, "socks5://ann@h"); strings.Join(d.Asks, " ") != "password" {
		t.Errorf("%v", d.Asks)
	}
	d := profile.Parse(cell.ExitPaste{Type: cell.ExitProxy, Config: "http://h:1", Username: "ann", Password: cell.NewSecret("pw")}, profile.Options{})
	if accepted(t, cell.ExitProxy, d); d.Proxy.Username != "ann" || d.Credentials.Reveal() != "pw" {
		t.Errorf("%+v", d.Proxy)
	}
	wants(t, "warnings", d.Warnings, "in the clear")
}

func FuzzProxy(f *testing.F) {
	fuzz(f, cell.ExitProxy, "socks5://a%3Ab:c%2Fd@[2001:db8::1]:1080", "http://h:1", "https://x@y")
}

func TestTorOptions(t *testing.T) {
	const fp = "0123456789ABCDEF0123456789ABCDEF01234567"
	with := func(text string, programs string) *cell.ExitDraft {
		return profile.Parse(cell.ExitPaste{Type: cell.ExitTor, Config: text}, profile.Options{Installed: func(p string) bool { return strings.Contains(programs, p) }})
	}
	for text, want := range map[string]cell.TorExit{
		"":          {},
		"nl, DE nl": {Countries: []string{"nl", "de"}},
		"ExitNodes {nl},{de}\nStrictNodes 1\nUseBridges 1":     {Countries: []string{"nl", "de"}},
		"Bridge 192.0.2.7:443 " + strings.ToLower(fp):          {Bridges: []string{"192.0.2.7:443 " + fp}},
		"[2001:db8::1]:9001\n192.0.2.7:443":                    {Bridges: []string{"[2001:db8::1]:9001", "192.0.2.7:443"}},
		"obfs4 192.0.2.7:443 " + fp + " cert=abc+/ iat-mode=0": {Bridges: []string{"obfs4 192.0.2.7:443 " + fp + " cert=abc+/ iat-mode=0"}},
	} {
		d := with(text, "obfs4proxy")
		if accepted(t, cell.ExitTor, d); strings.Join(d.Tor.Countries, " ") != strings.Join(want.Countries, " ") || strings.Join(d.Tor.Bridges, "\n") != strings.Join(want.Bridges, "\n") {
			t.Errorf("%q: %+v", text, d.Tor)
		}
	}
	for text, want := range map[string]string{
		"xx":                           "two-letter code",
		"ExitNodes $" + fp:             "single relays can't be chosen",
		"ControlPort 9051":             "ControlPort is not understood",
		"obfs4 192.0.2.7:443 " + fp:    "apt install obfs4proxy",
		"snowflake 192.0.2.3:80 " + fp: "bridges of this transport",
		"Bridge":                       "copy it whole",
		"192.0.2.7:443 0123":           "40 hexadecimal digits",
		"192.0.2.7:0":                  "copy it whole",
		"192.0.2.7:443 " + fp + " x=y": "more than it should",
		"HiddenServiceDir /x\nnl":      "line 1: HiddenServiceDir",
	} {
		if d := with(text, ""); !strings.Contains(remarks(d.Refused), want) {
			t.Errorf("%q: want %q, got %s", text, want, remarks(d.Refused))
		}
	}
}

func FuzzTor(f *testing.F) {
	fuzz(f, cell.ExitTor, "nl,de\nBridge obfs4 192.0.2.7:443 0123456789ABCDEF0123456789ABCDEF01234567 cert=x iat-mode=0\n[2001:db8::1]:1")
}
