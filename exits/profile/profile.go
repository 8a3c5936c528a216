// Package profile understands what people paste to describe an exit: a wg-quick
// file, an .ovpn profile, an SSH target and key, a proxy's URL, Tor's options.
// It owns nothing in the world: text goes in, a draft or every reason against
// it comes out. It must never repeat a value in a message, because people paste
// secrets into the wrong place, and never let a line through that it does not know.
package profile

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/personal-internet-cell/pic/cell"
)

// Options are what the verdict on a text depends on besides the text.
type Options struct {
	// Now decides whether certificates have expired.
	Now time.Time
	// Installed reports whether a program is there; nil: none is. It is asked
	// about Tor's pluggable transports only.
	Installed func(program string) bool
}

// Parse reads what was pasted for an exit of in.Type. It always returns a
// draft; with entries in Refused it is only good for showing.
func Parse(in cell.ExitPaste, o Options) *cell.ExitDraft {
	p := &parser{in: in, o: o, d: &cell.ExitDraft{}}
	lines, ok := p.lines()
	if !ok {
		return p.d
	}
	switch in.Type {
	case cell.ExitWireGuard:
		p.wireGuard(lines)
	case cell.ExitOpenVPN:
		p.openVPN(lines)
	case cell.ExitSSHuttle:
		p.ssh(lines)
	case cell.ExitProxy:
		p.proxy(lines)
	case cell.ExitTor:
		p.tor(lines)
	default:
		p.refuse(0, "exits of this type are not made from a text")
	}
	p.sort()
	return p.d
}

const (
	maxRemarks = 100 // of each kind; a file with more is none of ours
	maxLine    = 8192
)

type parser struct {
	in cell.ExitPaste
	o  Options
	d  *cell.ExitDraft
}

// line is a line without the space around it. Numbers begin at 1.
type line struct {
	n    int
	text string
}

func (p *parser) refuse(n int, format string, a ...any) {
	if len(p.d.Refused) < maxRemarks {
		p.d.Refused = append(p.d.Refused, cell.ExitRemark{Line: n, Text: fmt.Sprintf(format, a...)})
	}
}

func (p *parser) warn(n int, format string, a ...any) {
	if len(p.d.Warnings) < maxRemarks {
		p.d.Warnings = append(p.d.Warnings, cell.ExitRemark{Line: n, Text: fmt.Sprintf(format, a...)})
	}
}

func (p *parser) ask(what string) {
	if !slices.Contains(p.d.Asks, what) {
		p.d.Asks = append(p.d.Asks, what)
	}
}

func (p *parser) sort() {
	byLine := func(a, b cell.ExitRemark) int { return a.Line - b.Line }
	slices.SortStableFunc(p.d.Refused, byLine)
	slices.SortStableFunc(p.d.Warnings, byLine)
}

// lines splits the text: LF, CRLF or CR ends a line, a byte order mark before
// the first is dropped. It refuses what no text file of the kind contains.
func (p *parser) lines() ([]line, bool) {
	text := p.in.Config
	switch {
	case len(text) > cell.MaxExitConfig:
		p.refuse(0, "the text has more than %d KiB: this is not the right file", cell.MaxExitConfig>>10)
		return nil, false
	case !utf8.ValidString(text):
		p.refuse(0, "this is not a text file in UTF-8: open it in an editor and save it as UTF-8")
		return nil, false
	}
	text = strings.TrimPrefix(text, "\ufeff")
	text = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(text)
	var out []line
	n := 0
	for l := range strings.SplitSeq(text, "\n") {
		n++
		if len(l) > maxLine {
			p.refuse(n, "the line is longer than %d bytes", maxLine)
		}
		if strings.ContainsFunc(l, func(r rune) bool { return r < 0x20 && r != '\t' || r == 0x7f }) {
			p.refuse(n, "the line has control characters: type it anew")
		}
		out = append(out, line{n, strings.TrimSpace(l)})
	}
	return out, len(p.d.Refused) == 0
}

// word is how a key or directive is named in a message: as it is when it looks
// like one, never when it could be a value that slipped to its place.
func word(s string) string {
	if len(s) == 0 || len(s) > 32 {
		return "this line"
	}
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r != '-' && r != '_' {
			return "this line"
		}
	}
	return s
}

// onlyASCII reports whether s is printable ASCII without spaces.
func onlyASCII(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= 0x20 || r >= 0x7f })
}
