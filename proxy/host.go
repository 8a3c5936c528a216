package proxy

import (
	"net/netip"
	"strconv"
	"strings"
)

// target is a parsed Host field (RFC 9110 §7.2): a name in lower case without
// a trailing dot, or an address; port is 0 where none was given.
type target struct {
	name string
	addr netip.Addr
	port uint16
}

// parseHost accepts what a browser sends and nothing else: no user, no zone,
// no IPv4 address in another notation than four decimal numbers.
func parseHost(s string) (target, bool) {
	if len(s) == 0 || len(s) > 262 { // 253 for a name, a dot, and the port
		return target{}, false
	}
	var t target
	host, port, hasPort := s, "", false
	if s[0] == '[' {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return target{}, false
		}
		host = s[1:end]
		if rest := s[end+1:]; rest != "" {
			if rest[0] != ':' {
				return target{}, false
			}
			port, hasPort = rest[1:], true
		}
		a, err := netip.ParseAddr(host)
		if err != nil || !a.Is6() || a.Is4In6() || a.Zone() != "" {
			return target{}, false
		}
		t.addr = a
	} else {
		host, port, hasPort = strings.Cut(s, ":")
		if a, err := netip.ParseAddr(host); err == nil {
			if !a.Is4() {
				return target{}, false
			}
			t.addr = a
		} else {
			host = strings.TrimSuffix(strings.ToLower(host), ".")
			if !isHostName(host) {
				return target{}, false
			}
			t.name = host
		}
	}
	if !hasPort {
		return t, true
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || port[0] == '0' {
		return target{}, false
	}
	t.port = uint16(n)
	return t, true
}

// isHostName checks RFC 1123 §2.1 in lower case. A last label of digits only
// would be an address to some parsers (WHATWG URL, "ends in a number").
func isHostName(s string) bool {
	if len(s) == 0 || len(s) > 253 {
		return false
	}
	digits := false
	for label := range strings.SplitSeq(s, ".") {
		if len(label) == 0 || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		digits = true
		for i := range len(label) {
			c := label[i]
			switch {
			case c >= '0' && c <= '9':
			case c >= 'a' && c <= 'z', c == '-':
				digits = false
			default:
				return false
			}
		}
	}
	return !digits
}

// host is the name or the address, as it stands in a URL.
func (t target) host() string {
	if t.name != "" {
		return t.name
	}
	if t.addr.Is6() {
		return "[" + t.addr.String() + "]"
	}
	return t.addr.String()
}

// key is how the table lists the target.
func (t target) key() string {
	if t.name != "" {
		return t.name
	}
	return t.addr.String()
}

// loopback reports whether the target is this machine by its loopback name.
func (t target) loopback() bool {
	return t.name == "localhost" || t.addr.IsValid() && t.addr.IsLoopback()
}

// hostPort is the target for another scheme's port.
func hostPort(host string, port, standard uint16) string {
	if port == standard {
		return host
	}
	return host + ":" + strconv.Itoa(int(port))
}

// sameServerName compares a TLS server name with the target. A client sends
// none for a literal (RFC 6066 §3) and must send one for a name.
func (t target) sameServerName(sni string) bool {
	if sni == "" {
		return t.name == ""
	}
	if a, err := netip.ParseAddr(sni); err == nil {
		return a == t.addr
	}
	return strings.TrimSuffix(strings.ToLower(sni), ".") == t.name
}
