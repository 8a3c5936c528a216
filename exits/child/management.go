package child

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The management interface of openvpn: lines of text, those that begin with ">"
// unasked (management-notes.txt of OpenVPN 2.6).

const (
	// maxManagement bounds a line; a server's PUSH_REPLY is the longest.
	maxManagement = 64 << 10
	// maxEnv bounds the variables of one UPDOWN event.
	maxEnv = 512
	// writeWithin bounds a command.
	writeWithin = 5 * time.Second
)

// event is a line that openvpn sends unasked.
type event struct {
	// kind is the word between ">" and ":", such as STATE; or empty for an
	// answer to a command.
	kind, text string
}

// parseEvent splits a line of the management interface.
func parseEvent(line string) event {
	if rest, ok := strings.CutPrefix(line, ">"); ok {
		if kind, text, ok := strings.Cut(rest, ":"); ok {
			return event{kind, text}
		}
	}
	return event{"", line}
}

// vpnState is a line of the STATE event or of the answer to "state": time,
// name, description, and the addresses once there are any.
type vpnState struct {
	name, detail       string
	address4, address6 netip.Addr
}

func parseState(text string) (s vpnState, ok bool) {
	f := strings.Split(text, ",")
	if len(f) < 3 {
		return s, false
	}
	if _, err := strconv.ParseInt(f[0], 10, 64); err != nil {
		return s, false
	}
	s.name, s.detail = f[1], f[2]
	if len(f) > 3 {
		s.address4 = family(f[3], false)
	}
	if len(f) > 8 {
		s.address6 = family(f[8], true)
	}
	return s, s.name != ""
}

// family parses an address of one family that a host may have; else invalid.
func family(text string, v6 bool) netip.Addr {
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" || a.Is4In6() || a.Is6() != v6 || !a.IsGlobalUnicast() {
		return netip.Addr{}
	}
	return a
}

// parseCounts reads the BYTECOUNT event: received, sent.
func parseCounts(text string) (received, sent uint64, ok bool) {
	a, b, _ := strings.Cut(text, ",")
	received, err1 := strconv.ParseUint(a, 10, 64)
	sent, err2 := strconv.ParseUint(b, 10, 64)
	return received, sent, err1 == nil && err2 == nil
}

// pushed is what a server gave us.
type pushed struct {
	Address4, Address6 netip.Addr
	MTU                int
	DNS                []netip.AddrPort
}

// maxResolvers bounds the resolvers taken from a server.
const maxResolvers = 4

// parsePushed reads the environment of an UPDOWN event (openvpn(8),
// "Environmental Variables"). What is no sensible value is left out.
func parsePushed(env map[string]string) pushed {
	p := pushed{Address4: family(env["ifconfig_local"], false), Address6: family(env["ifconfig_ipv6_local"], true)}
	if n, err := strconv.Atoi(env["tun_mtu"]); err == nil && n >= 576 && n <= 9000 {
		p.MTU = n
	}
	add := func(text string) {
		a, err := netip.ParseAddr(text)
		if err == nil && a.Zone() == "" && a.IsGlobalUnicast() && len(p.DNS) < maxResolvers {
			p.DNS = append(p.DNS, netip.AddrPortFrom(a.Unmap(), 53))
		}
	}
	for i := 1; i <= 64; i++ {
		f := strings.Fields(env["foreign_option_"+strconv.Itoa(i)])
		if len(f) == 3 && f[0] == "dhcp-option" && (f[1] == "DNS" || f[1] == "DNS6") {
			add(f[2])
		}
	}
	return p
}

// management is a connection to openvpn's management socket.
type management struct {
	conn net.Conn
	in   *bufio.Scanner
	mu   sync.Mutex // of writes
}

func newManagement(c net.Conn) *management {
	m := &management{conn: c, in: bufio.NewScanner(c)}
	m.in.Buffer(make([]byte, 4096), maxManagement)
	return m
}

// next returns the next line; an error when openvpn has ended.
func (m *management) next() (event, error) {
	if !m.in.Scan() {
		if err := m.in.Err(); err != nil {
			return event{}, fmt.Errorf("reading the management socket: %w", err)
		}
		return event{}, errors.New("the management socket was closed")
	}
	return parseEvent(strings.TrimRight(m.in.Text(), "\r")), nil
}

// send writes commands, one a line.
func (m *management) send(commands ...string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.conn.SetWriteDeadline(time.Now().Add(writeWithin)); err != nil {
		return err
	}
	_, err := m.conn.Write([]byte(strings.Join(commands, "\n") + "\n"))
	return err
}

// quoted is an argument as openvpn's lexer wants it.
func quoted(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}
