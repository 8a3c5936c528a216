package child

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// control speaks tor's control protocol (control-spec.txt): a command, and lines
// of a three-digit code in answer. No events are asked for.
type control struct {
	conn net.Conn
	in   *bufio.Reader
}

const (
	// maxAnswer bounds the lines of one answer.
	maxAnswer = 64
	// answerWithin bounds the wait for an answer.
	answerWithin = 10 * time.Second
)

func newControl(c net.Conn) *control { return &control{c, bufio.NewReaderSize(c, maxLine)} }

func (k *control) close() { _ = k.conn.Close() }

// command sends a line and returns the lines of the answer, without code.
func (k *control) command(line string) ([]string, error) {
	if err := k.conn.SetDeadline(time.Now().Add(answerWithin)); err != nil {
		return nil, err
	}
	if _, err := k.conn.Write([]byte(line + "\r\n")); err != nil {
		return nil, err
	}
	return readAnswer(k.in)
}

// readAnswer reads one answer (control-spec, "Message format"). Data blocks are
// not asked for and refused. Errors quote what tor says, never what it was sent.
func readAnswer(in *bufio.Reader) ([]string, error) {
	var out []string
	for range maxAnswer {
		b, err := in.ReadSlice('\n')
		if err != nil {
			return nil, fmt.Errorf("reading the control socket: %w", err)
		}
		l := strings.TrimRight(string(b), "\r\n")
		if len(l) < 4 {
			return nil, errors.New("reading the control socket: a line that is too short")
		}
		code, sep, text := l[:3], l[3], l[4:]
		switch {
		case code == "650": // an event nobody asked for
			continue
		case code != "250":
			return nil, fmt.Errorf("tor says %s %s", code, clip(text))
		case sep == ' ':
			return out, nil
		case sep != '-':
			return nil, errors.New("reading the control socket: an answer of an unknown form")
		}
		out = append(out, text)
	}
	return nil, errors.New("reading the control socket: the answer does not end")
}

// torStatus is how tor is.
type torStatus struct {
	progress         int // of bootstrapping, 0 to 100
	summary, warning string
	established      bool // it has a working circuit
	dns              netip.AddrPort
	read, written    uint64
}

func (k *control) status() (torStatus, error) {
	lines, err := k.command("GETINFO status/bootstrap-phase status/circuit-established net/listeners/dns traffic/read traffic/written")
	if err != nil {
		return torStatus{}, err
	}
	return parseTorStatus(lines), nil
}

// parseTorStatus reads the answer to GETINFO; what is not understood is left
// at zero, which is "not up".
func parseTorStatus(lines []string) (s torStatus) {
	for _, l := range lines {
		key, value, _ := strings.Cut(l, "=")
		switch key {
		case "status/bootstrap-phase":
			words := keywords(value)
			if n, err := strconv.Atoi(words["PROGRESS"]); err == nil && n >= 0 && n <= 100 {
				s.progress = n
			}
			s.summary, s.warning = words["SUMMARY"], words["WARNING"]
		case "status/circuit-established":
			s.established = value == "1"
		case "net/listeners/dns":
			a, err := netip.ParseAddrPort(strings.Trim(value, `"`))
			if err == nil && a.Addr().IsLoopback() && a.Port() != 0 {
				s.dns = a
			}
		case "traffic/read":
			s.read, _ = strconv.ParseUint(value, 10, 64)
		case "traffic/written":
			s.written, _ = strconv.ParseUint(value, 10, 64)
		}
	}
	return s
}

// keywords reads KEY=value and KEY="quoted value" pairs; other words are
// skipped.
func keywords(text string) map[string]string {
	out := map[string]string{}
	for text = strings.TrimLeft(text, " "); text != ""; text = strings.TrimLeft(text, " ") {
		end := strings.IndexAny(text, " =")
		if end < 0 || text[end] == ' ' {
			if end < 0 {
				return out
			}
			text = text[end:]
			continue
		}
		key := text[:end]
		text = text[end+1:]
		if strings.HasPrefix(text, `"`) {
			var b strings.Builder
			i := 1
			for ; i < len(text) && text[i] != '"'; i++ {
				if text[i] == '\\' && i+1 < len(text) {
					i++
				}
				b.WriteByte(text[i])
			}
			out[key], text = b.String(), text[min(i+1, len(text)):]
			continue
		}
		value, rest, _ := strings.Cut(text, " ")
		out[key], text = value, rest
	}
	return out
}
