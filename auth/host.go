package auth

import (
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

var errHost = errors.New("not a host name or address")

// Host is the parsed value of a Host header: a name in lower case without the
// final dot, or an address; exactly one of them.
type Host struct {
	Name string
	Addr netip.Addr
}

// ParseHost reads a Host header (RFC 9110, section 7.2) strictly: IPv6 in
// brackets and without a zone, a port of 1 to 65535 or none, names of letters,
// digits and hyphens. Names that some resolvers read as an address
// ("2130706433", "0x7f.1") are refused, as browsers do (WHATWG URL, "ends in a
// number").
func ParseHost(text string) (Host, error) {
	if inner, ok := strings.CutPrefix(text, "["); ok {
		literal, rest, ok := strings.Cut(inner, "]")
		addr, err := netip.ParseAddr(literal)
		if !ok || err != nil || !addr.Is6() || addr.Zone() != "" || !portOrNone(rest) {
			return Host{}, errHost
		}
		return Host{Addr: addr}, nil
	}
	name, port, found := strings.Cut(text, ":")
	if found && !portOrNone(":"+port) {
		return Host{}, errHost
	}
	if addr, err := netip.ParseAddr(name); err == nil && addr.Is4() {
		return Host{Addr: addr}, nil
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if !dnsName(name) {
		return Host{}, errHost
	}
	return Host{Name: name}, nil
}

func portOrNone(text string) bool {
	if text == "" {
		return true
	}
	digits, ok := strings.CutPrefix(text, ":")
	n, err := strconv.ParseUint(digits, 10, 16)
	return ok && err == nil && n > 0 && strconv.FormatUint(n, 10) == digits
}

func dnsName(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	labels := strings.Split(name, ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' {
			return false
		}
		if strings.ContainsFunc(l, notLDH) {
			return false
		}
	}
	last := labels[len(labels)-1]
	return !strings.HasPrefix(last, "0x") && strings.Trim(last, "0123456789") != ""
}

func notLDH(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-')
}

// HostAllowed reports whether a request for host is meant for this cell: it
// names the cell exactly, or is an address of one of its interfaces. Anything
// else is another site's name that points here (DNS rebinding) or a stray.
func HostAllowed(host string, names []string, addresses []netip.Addr) bool {
	h, err := ParseHost(host)
	if err != nil {
		return false
	}
	if h.Addr.IsValid() {
		return slices.Contains(addresses, h.Addr)
	}
	return slices.ContainsFunc(names, func(n string) bool {
		return strings.EqualFold(strings.TrimSuffix(n, "."), h.Name)
	})
}
