package dialer_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/exits/dialer"
)

// script is a server whose words are known beforehand.
type script struct {
	net.Conn
	in   *bytes.Reader
	peer net.Addr
	sent []byte
}

func (s *script) Read(p []byte) (int, error)  { return s.in.Read(p) }
func (s *script) Write(p []byte) (int, error) { s.sent = append(s.sent, p...); return len(p), nil }
func (s *script) Close() error                { return nil }
func (s *script) SetDeadline(time.Time) error { return nil }
func (s *script) RemoteAddr() net.Addr        { return s.peer }
func newScript(b []byte) *script {
	return &script{in: bytes.NewReader(b), peer: &net.TCPAddr{IP: net.IPv4(198, 51, 100, 7), Port: 1080}}
}

// base hands out connections by network.
type base func(network, address string) net.Conn

func (b base) DialContext(_ context.Context, network, address string) (net.Conn, error) {
	return b(network, address), nil
}

func scripted(protocol cell.ProxyProtocol, b base) *dialer.Proxy {
	return dialer.NewProxy(&dialer.ProxyConfig{Protocol: protocol, Host: "proxy.test", Port: 1080, Username: "u", Password: cell.NewSecret("p"), Base: b})
}

// FuzzSOCKSReply: whatever a server says, a dial ends, and a connection that
// it yields begins right behind the reply.
func FuzzSOCKSReply(f *testing.F) {
	for _, s := range []string{
		"\x05\x00\x05\x00\x00\x01\x01\x02\x03\x04\x00\x50data", "\x05\x02\x01\x00\x05\x00\x00\x04aaaaaaaaaaaaaaaa\x00\x50",
		"\x05\x00\x05\x00\x00\x03\x04name\x00\x50x", "\x05\x00\x05\x00\x00\x03\x00\x00\x50", "\x05\xff", "\x05\x02\x01\x01", "\x05\x00\x05\x05\x00\x01", "\x04", "",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s := newScript(data)
		c, err := scripted(cell.ProxySOCKS5, func(string, string) net.Conn { return s }).DialContext(t.Context(), "tcp", "name.test:80")
		used := len(data) - s.in.Len()
		if used > 2+2+4+1+255+2 {
			t.Errorf("%d bytes were read", used)
		}
		if err != nil {
			return
		}
		got, _ := io.ReadAll(c)
		if !bytes.HasSuffix(data, got) || len(got) > len(data)-2-10+3 || data[0] != 5 {
			t.Errorf("%q yields a connection with %q", data, got)
		}
		if !bytes.HasSuffix(s.sent, []byte("\x05\x01\x00\x03\x09name.test\x00\x50")) {
			t.Errorf("asked for %q", s.sent)
		}
	})
}

// FuzzUDPHeader: a datagram is read as RFC 1928 §7 says, or dropped; and the
// reply to ASSOCIATE never points our socket into the home.
func FuzzUDPHeader(f *testing.F) {
	f.Add([]byte("\x01\x0a\x00\x00\x05\x04\x38"), []byte("\x00\x00\x00\x01\xc0\x00\x02\x01\x00\x35answer"))
	f.Add([]byte("\x01\x7f\x00\x00\x01\x04\x38"), []byte("\x00\x00\x01\x01\xc0\x00\x02\x01\x00\x35fragment"))
	f.Add([]byte("\x04aaaaaaaaaaaaaaaa\x04\x38"), []byte("\x00\x00\x00\x03\x04name\x00\x35answer"))
	f.Add([]byte("\x01\xc0\xa8\x01\x01\x00\x35"), []byte("\x00\x00\x00\x04aaaaaaaaaaaaaaaa\x00\x35answer"))
	f.Fuzz(func(t *testing.T, bound, datagram []byte) {
		ctl := newScript(append([]byte("\x05\x00\x05\x00\x00"), bound...))
		var to string
		p := scripted(cell.ProxySOCKS5, func(network, address string) net.Conn {
			if network == "udp" {
				to = address
				return newScript(datagram)
			}
			return ctl
		})
		c, err := p.DialContext(t.Context(), "udp", "192.0.2.1:53")
		if err != nil {
			return
		}
		defer c.Close()
		a, err := netip.ParseAddrPort(to)
		if err != nil || a.Port() == 0 || !a.Addr().IsGlobalUnicast() || a.Addr().IsPrivate() {
			t.Errorf("a reply of %q points to %s", bound, to)
		}
		b := make([]byte, 65536)
		n, err := c.Read(b)
		if err != nil {
			return
		}
		// Read again by hand.
		if len(datagram) < 10 || datagram[2] != 0 {
			t.Fatalf("%q was not dropped", datagram)
		}
		skip := map[byte]int{1: 10, 4: 22, 3: 7 + int(datagram[4])}[datagram[3]]
		if skip == 0 || !bytes.Equal(b[:n], datagram[skip:]) || binary.BigEndian.Uint16(datagram[skip-2:]) != 53 {
			t.Errorf("%q yields %q", datagram, b[:n])
		}
	})
}

// FuzzConnectResponse: whatever an HTTP proxy says, a dial ends, reads no more
// than a bounded head, and loses nothing behind it.
func FuzzConnectResponse(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\n\r\ndata", "HTTP/1.0 200\n\ndata", "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n", "HTTP/1.1 503 \xff\x00\r\n\r\n", "SSH-2.0-x", "HTTP/1.1 200 OK\r\n a\r\n\r\n", "",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s := newScript(data)
		c, err := scripted(cell.ProxyHTTP, func(string, string) net.Conn { return s }).DialContext(t.Context(), "tcp", "[2001:db8::1]:443")
		if used := len(data) - s.in.Len(); used > 6*16<<10 {
			t.Errorf("%d bytes were read", used)
		}
		if err != nil {
			if strings.ContainsFunc(err.Error(), func(r rune) bool { return r < 0x20 || r == 0x7f }) {
				t.Errorf("control characters in %q", err)
			}
			return
		}
		got, _ := io.ReadAll(c)
		head := data[:len(data)-len(got)]
		if !bytes.HasSuffix(data, got) || !bytes.HasPrefix(data, []byte("HTTP/")) || (!bytes.HasSuffix(head, []byte("\n\n")) && !bytes.HasSuffix(head, []byte("\n\r\n"))) {
			t.Errorf("%q yields a connection with %q", data, got)
		}
		if !bytes.HasPrefix(s.sent, []byte("CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\nProxy-Authorization: Basic dTpw\r\n\r\n")) {
			t.Errorf("asked for %q", s.sent)
		}
	})
}
