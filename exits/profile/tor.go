package profile

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/personal-internet-cell/pic/cell"
)

const (
	maxCountries = 64
	maxBridges   = 32
)

// countries are the codes of ISO 3166-1 alpha-2.
const countries = " ad ae af ag ai al am ao aq ar as at au aw ax az ba bb bd be bf bg bh bi bj bl bm bn bo bq br bs bt bv bw by bz" +
	" ca cc cd cf cg ch ci ck cl cm cn co cr cu cv cw cx cy cz de dj dk dm do dz ec ee eg eh er es et fi fj fk fm fo fr" +
	" ga gb gd ge gf gg gh gi gl gm gn gp gq gr gs gt gu gw gy hk hm hn hr ht hu id ie il im in io iq ir is it je jm jo jp" +
	" ke kg kh ki km kn kp kr kw ky kz la lb lc li lk lr ls lt lu lv ly ma mc md me mf mg mh mk ml mm mn mo mp mq mr ms mt mu mv mw mx my mz" +
	" na nc ne nf ng ni nl no np nr nu nz om pa pe pf pg ph pk pl pm pn pr ps pt pw py qa re ro rs ru rw" +
	" sa sb sc sd se sg sh si sj sk sl sm sn so sr ss st sv sx sy sz tc td tf tg th tj tk tl tm tn to tr tt tv tw tz" +
	" ua ug um us uy uz va vc ve vg vi vn vu wf ws ye yt za zm zw "

// obfs4 programs, in the order in which they are looked for.
var obfs4 = []string{"obfs4proxy", "lyrebird"}

// tor reads countries ("nl, de", or an ExitNodes line of torrc) and bridge
// lines, with or without the word Bridge. An empty text is any exit, no bridge.
func (p *parser) tor(lines []line) {
	p.d.Tor = &cell.TorExit{}
	for _, l := range lines {
		if l.text == "" || l.text[0] == '#' {
			continue
		}
		f := strings.Fields(l.text)
		switch strings.ToLower(f[0]) {
		case "exitnodes":
			p.countries(l.n, strings.Join(f[1:], ","))
		case "bridge":
			p.bridge(l.n, f[1:])
		case "usebridges", "strictnodes":
		case "clienttransportplugin":
			p.warn(l.n, "the cell starts a transport's program itself, if it is installed")
		default:
			switch _, err := netip.ParseAddrPort(f[0]); {
			case err == nil || len(f) > 1 && looksLikeBridge(f[1]):
				p.bridge(l.n, f)
			case len(strings.Trim(f[0], "{},")) == 2 || strings.Contains(f[0], ","):
				p.countries(l.n, strings.Join(f, ","))
			default:
				p.refuse(l.n, "%s is not understood: write countries (nl, de) or bridge lines, one a line", word(f[0]))
			}
		}
	}
	if p.d.Name = "tor"; len(p.d.Tor.Countries) == 1 {
		p.d.Name += " " + p.d.Tor.Countries[0]
	}
}

func looksLikeBridge(s string) bool {
	_, err := netip.ParseAddrPort(s)
	return err == nil
}

func (p *parser) countries(n int, text string) {
	for c := range strings.SplitSeq(text, ",") {
		c = strings.ToLower(strings.Trim(c, "{} \t"))
		switch {
		case c == "":
		case len(c) != 2 || !strings.Contains(countries, " "+c+" "):
			p.refuse(n, "a country is written as its two-letter code, such as nl; single relays can't be chosen")
			return
		case slices.Contains(p.d.Tor.Countries, c):
		case len(p.d.Tor.Countries) == maxCountries:
			p.refuse(n, "there are more than %d countries: no line at all means any", maxCountries)
			return
		default:
			p.d.Tor.Countries = append(p.d.Tor.Countries, c)
		}
	}
}

// bridge reads [transport] address:port [fingerprint] [key=value …].
func (p *parser) bridge(n int, f []string) {
	const how = "a bridge line is ADDRESS:PORT FINGERPRINT: copy it whole from bridges.torproject.org"
	if len(f) == 0 {
		p.refuse(n, how)
		return
	}
	transport := ""
	at := 0
	if !looksLikeBridge(f[0]) {
		transport, at = strings.ToLower(f[0]), 1
	}
	if len(f) <= at || !looksLikeBridge(f[at]) {
		p.refuse(n, how)
		return
	}
	if !p.transport(n, transport) {
		return
	}
	ap := netip.MustParseAddrPort(f[at])
	if ap.Port() == 0 || ap.Addr().Zone() != "" || ap.Addr().IsUnspecified() || ap.Addr().IsMulticast() || ap.Addr().IsLoopback() {
		p.refuse(n, how)
		return
	}
	line := ap.String()
	rest := f[at+1:]
	if len(rest) > 0 && !strings.Contains(rest[0], "=") {
		if !isFingerprint(rest[0]) {
			p.refuse(n, "the bridge's fingerprint must be 40 hexadecimal digits")
			return
		}
		line += " " + strings.ToUpper(rest[0])
		rest = rest[1:]
	}
	for _, a := range rest {
		k, v, ok := strings.Cut(a, "=")
		if !ok || transport == "" || word(k) == "this line" || !onlyASCII(v) {
			p.refuse(n, "the bridge line has more than it should: "+how)
			return
		}
		line += " " + a
	}
	if transport != "" {
		line = transport + " " + line
	}
	switch {
	case len(line) > 1000:
		p.refuse(n, "the bridge line is too long")
	case slices.Contains(p.d.Tor.Bridges, line):
	case len(p.d.Tor.Bridges) == maxBridges:
		p.refuse(n, "at most %s bridges", strconv.Itoa(maxBridges))
	default:
		p.d.Tor.Bridges = append(p.d.Tor.Bridges, line)
	}
}

// transport reports whether a bridge's pluggable transport can be spoken.
func (p *parser) transport(n int, name string) bool {
	switch name {
	case "", "vanilla":
		return name == "" || p.refused(n, "leave out the word vanilla: such a line begins with the address")
	case "obfs4":
		if p.o.Installed != nil && slices.ContainsFunc(obfs4, p.o.Installed) {
			return true
		}
		return p.refused(n, "bridges of obfs4 need a program that is not installed: `apt install obfs4proxy` on the cell, or use bridges without a transport")
	}
	return p.refused(n, "bridges of this transport are not supported: use those without a transport, or obfs4")
}

func (p *parser) refused(n int, text string) bool {
	p.refuse(n, "%s", text)
	return false
}

func isFingerprint(s string) bool {
	return len(s) == 40 && strings.Trim(strings.ToLower(s), "0123456789abcdef") == ""
}
