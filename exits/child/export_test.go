package child

import (
	"bufio"
	"io"
	"net/netip"
)

// For the fuzz targets and tables: what is read from programs and profiles.
var (
	CheckProfile = checkProfile
	ParsePushed  = parsePushed
	Quoted       = quoted
)

// ParseManagement runs a line through every parser of the management protocol.
func ParseManagement(line string) (kind, state string) {
	e := parseEvent(line)
	st, _ := parseState(e.text)
	_, _, _ = parseCounts(e.text)
	return e.kind, st.name
}

// Hint returns what a line of openvpn's means, "" if nothing in particular.
func Hint(line string) (reason string, auth bool) {
	if p := hint(line); p != nil {
		return p.reason, p.auth
	}
	return "", false
}

// ReadAnswer reads an answer of tor's and what it says of tor.
func ReadAnswer(in io.Reader) (lines []string, progress int, up bool, dns netip.AddrPort, err error) {
	lines, err = readAnswer(bufio.NewReaderSize(in, maxLine))
	s := parseTorStatus(lines)
	return lines, s.progress, s.established, s.dns, err
}

// Torrc is the configuration that tor gets.
func Torrc(dir, data string, countries, bridges []string, password string) (string, error) {
	c := torrc{dir: dir, data: data, countries: countries, bridges: bridges, owner: 1, password: password}
	return c.text()
}
