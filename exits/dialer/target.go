package dialer

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// target is a destination: an address, or a name that the server looks up.
type target struct {
	addr netip.Addr // invalid for a name
	name string
	port uint16
}

// parseTarget reads IP:port or name:port. A name is written into requests, so
// it is letters, digits, hyphens, underscores and dots and nothing else.
func parseTarget(address string) (target, error) {
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return target{}, fmt.Errorf("%w: %q is not host:port", ErrRefused, clip(address))
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 {
		return target{}, fmt.Errorf("%w: %q is no port", ErrRefused, clip(portText))
	}
	if a, err := netip.ParseAddr(host); err == nil && a.Zone() == "" {
		return target{addr: a.Unmap(), port: uint16(port)}, nil
	}
	if !validName(host) {
		return target{}, fmt.Errorf("%w: %q is no host name", ErrRefused, clip(host))
	}
	return target{name: host, port: uint16(port)}, nil
}

// validName checks the form of RFC 1123 §2.1, with underscores, which names
// out there have; at most 253 bytes in labels of 1 to 63.
func validName(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}

func (t target) host() string {
	if t.addr.IsValid() {
		return t.addr.String()
	}
	return t.name
}

func (t target) String() string { return net.JoinHostPort(t.host(), strconv.Itoa(int(t.port))) }

// clip is text of strangers as it may stand in an error: printable and short.
func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f || r == '\ufffd' {
			return '?'
		}
		return r
	}, s[:min(len(s), 4*120)])
	if r := []rune(s); len(r) > 120 {
		s = string(r[:120]) + "…"
	}
	return s
}
