package profile

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/personal-internet-cell/pic/cell"
)

// serverName returns a host name or address in the form that a state holds, or "".
func serverName(host string) string {
	if a, err := netip.ParseAddr(host); err == nil {
		if a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
			return ""
		}
		return a.String()
	}
	h := strings.ToLower(strings.TrimSuffix(host, "."))
	if last := h[strings.LastIndexByte(h, '.')+1:]; strings.Trim(last, "0123456789") == "" {
		return "" // an IPv4 address with a mistake in it (RFC 3696 §2)
	}
	if cell.ValidDomain(h) || cell.ValidLabel(h) {
		return h
	}
	return ""
}

// splitHostPort reads host, host:port, an address of either family, [v6] and
// [v6]:port. The port is 0 when there is none.
func splitHostPort(s string) (host string, port uint16, ok bool) {
	var digits string
	hasPort := false
	if rest, bracket := strings.CutPrefix(s, "["); bracket {
		var after string
		if host, after, ok = strings.Cut(rest, "]"); !ok || !strings.Contains(host, ":") {
			return "", 0, false
		}
		if digits, hasPort = strings.CutPrefix(after, ":"); !hasPort && after != "" {
			return "", 0, false
		}
	} else if a, err := netip.ParseAddr(s); err == nil {
		host = a.String()
	} else {
		host, digits, hasPort = strings.Cut(s, ":")
	}
	if hasPort {
		n, err := strconv.ParseUint(digits, 10, 16)
		if err != nil || n == 0 || digits[0] == '+' {
			return "", 0, false
		}
		port = uint16(n)
	}
	host = serverName(host)
	return host, port, host != ""
}

func joinHostPort(host string, port uint16) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host + ":" + strconv.Itoa(int(port))
}
