package dialer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
)

// RFC 1928 and RFC 1929. golang.org/x/net/proxy is not used: it has no UDP,
// tells a refusal from a broken server only by text, and takes a goroutine and
// a wrapper per dial.
const (
	socksVersion = 5
	authVersion  = 1 // RFC 1929 §2

	methodNone     = 0x00
	methodPassword = 0x02

	cmdConnect   = 1
	cmdAssociate = 3

	atypIPv4 = 1
	atypName = 3
	atypIPv6 = 4
)

// replies are the REP values of RFC 1928 §6, from 1.
func replyText(code byte) string {
	texts := [...]string{
		"the proxy failed", "not allowed by the proxy's rules", "network unreachable", "host unreachable",
		"connection refused by the destination", "TTL expired", "command not supported", "address type not supported",
	}
	if code >= 1 && int(code) <= len(texts) {
		return texts[code-1]
	}
	return fmt.Sprintf("reply %d", code)
}

// socks speaks the client's side of RFC 1928 up to the reply of a command, and
// returns the address that the reply holds. It reads not one byte more.
func (p *Proxy) socks(rw io.ReadWriter, cmd byte, t target) (target, error) {
	if err := p.socksAuth(rw); err != nil {
		return target{}, err
	}
	if _, err := rw.Write(appendTarget([]byte{socksVersion, cmd, 0}, t)); err != nil {
		return target{}, upstream("sending a request", err)
	}
	code, bound, err := readReply(rw)
	if err != nil {
		return target{}, upstream("reading the proxy's reply", err)
	}
	if code != 0 {
		return target{}, fmt.Errorf("%w: %s", ErrRefused, replyText(code))
	}
	return bound, nil
}

// socksAuth chooses a method (RFC 1928 §3) and proves who we are (RFC 1929).
func (p *Proxy) socksAuth(rw io.ReadWriter) error {
	greeting := []byte{socksVersion, 1, methodNone}
	if p.cfg.Username != "" {
		greeting = []byte{socksVersion, 2, methodNone, methodPassword}
	}
	if _, err := rw.Write(greeting); err != nil {
		return upstream("greeting the proxy", err)
	}
	var b [2]byte
	if _, err := io.ReadFull(rw, b[:]); err != nil {
		return upstream("greeting the proxy", err)
	}
	if b[0] != socksVersion {
		return upstream("greeting the proxy", fmt.Errorf("its answer begins with %#02x, which is not SOCKS5", b[0]))
	}
	switch b[1] {
	case methodNone:
		return nil
	case methodPassword:
		if p.cfg.Username == "" {
			return upstream("greeting the proxy", errors.New("it chose a method that was not offered"))
		}
	case 0xff: // RFC 1928 §3: no acceptable methods
		if p.cfg.Username == "" {
			return fmt.Errorf("%w: the proxy wants a user name and a password", ErrAuth)
		}
		return fmt.Errorf("%w: the proxy takes neither none nor a password", ErrAuth)
	default:
		return upstream("greeting the proxy", fmt.Errorf("it chose method %d, which was not offered", b[1]))
	}
	user, password := p.cfg.Username, p.cfg.Password.Reveal()
	if len(user) > 255 || len(password) > 255 {
		return fmt.Errorf("%w: SOCKS5 has room for 255 bytes of user name and password each", ErrAuth)
	}
	m := append([]byte{authVersion, byte(len(user))}, user...)
	m = append(append(m, byte(len(password))), password...)
	if _, err := rw.Write(m); err != nil {
		return upstream("logging in", err)
	}
	if _, err := io.ReadFull(rw, b[:]); err != nil {
		// RFC 1929 §2: after a refusal the server closes, some without a word.
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: the proxy hung up on them", ErrAuth)
		}
		return upstream("logging in", err)
	}
	// Some servers repeat the version of SOCKS here.
	if b[0] != authVersion && b[0] != socksVersion {
		return upstream("logging in", fmt.Errorf("an answer of version %d", b[0]))
	}
	if b[1] != 0 {
		return fmt.Errorf("%w by the proxy", ErrAuth)
	}
	return nil
}

// appendTarget writes ATYP, address and port (RFC 1928 §5).
func appendTarget(b []byte, t target) []byte {
	switch {
	case t.addr.Is4():
		b = append(append(b, atypIPv4), t.addr.AsSlice()...)
	case t.addr.Is6():
		b = append(append(b, atypIPv6), t.addr.AsSlice()...)
	default: // a name has at most 254 bytes
		b = append(append(b, atypName, byte(len(t.name))), t.name...)
	}
	return binary.BigEndian.AppendUint16(b, t.port)
}

// readReply reads a reply (RFC 1928 §6): at most 262 bytes. The address of a
// failure is not read: servers hang up after the code.
func readReply(r io.Reader) (code byte, bound target, err error) {
	var b [4]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0, target{}, err
	}
	if b[0] != socksVersion {
		return 0, target{}, fmt.Errorf("it begins with %#02x, which is not SOCKS5", b[0])
	}
	if b[1] != 0 {
		return b[1], target{}, nil
	}
	n := 0
	switch b[3] {
	case atypIPv4:
		n = 4
	case atypIPv6:
		n = 16
	case atypName:
		var l [1]byte
		if _, err := io.ReadFull(r, l[:]); err != nil {
			return 0, target{}, err
		}
		n = int(l[0])
	default:
		return 0, target{}, fmt.Errorf("address type %d", b[3])
	}
	buf := make([]byte, n+2)
	if _, err := io.ReadFull(r, buf); err != nil {
		return 0, target{}, err
	}
	bound.port = binary.BigEndian.Uint16(buf[n:])
	if b[3] == atypName {
		bound.name = string(buf[:n])
	} else {
		a, _ := netip.AddrFromSlice(buf[:n])
		bound.addr = a.Unmap()
	}
	return 0, bound, nil
}

// parseDatagram reads the header of RFC 1928 §7. The payload is a part of b.
func parseDatagram(b []byte) (from target, payload []byte, err error) {
	if len(b) < 4 {
		return target{}, nil, errors.New("shorter than its header")
	}
	// An implementation that does not reassemble must drop fragments.
	if b[2] != 0 {
		return target{}, nil, errors.New("a fragment")
	}
	atyp, rest := b[3], b[4:]
	n := 0
	switch atyp {
	case atypIPv4:
		n = 4
	case atypIPv6:
		n = 16
	case atypName:
		if len(rest) < 1 {
			return target{}, nil, errors.New("shorter than its header")
		}
		n, rest = int(rest[0]), rest[1:]
	default:
		return target{}, nil, fmt.Errorf("address type %d", atyp)
	}
	if len(rest) < n+2 {
		return target{}, nil, errors.New("shorter than its header")
	}
	if atyp == atypName {
		from.name = string(rest[:n])
	} else {
		a, _ := netip.AddrFromSlice(rest[:n])
		from.addr = a.Unmap()
	}
	from.port = binary.BigEndian.Uint16(rest[n:])
	return from, rest[n+2:], nil
}
