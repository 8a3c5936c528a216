package child

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
