package dialer

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
)

const (
	// maxHead is the longest answer to CONNECT that is read.
	maxHead = 16 << 10
	// maxInterim is how many 1xx answers may precede the real one.
	maxInterim = 5
)

// httpConnect asks for a tunnel (RFC 9110 §9.3.6). What came behind the answer
// is the tunnel's first data and returned.
func (p *Proxy) httpConnect(rw io.ReadWriter, t target) (rest []byte, err error) {
	b := fmt.Appendf(nil, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n", t, t)
	if p.cfg.Username != "" { // RFC 7617 §2
		login := p.cfg.Username + ":" + p.cfg.Password.Reveal()
		b = fmt.Appendf(b, "Proxy-Authorization: Basic %s\r\n", base64.StdEncoding.EncodeToString([]byte(login)))
	}
	if _, err := rw.Write(append(b, "\r\n"...)); err != nil {
		return nil, upstream("asking for a tunnel", err)
	}
	return readConnect(rw)
}

// readConnect reads the answer to CONNECT and returns what came behind it.
func readConnect(r io.Reader) (rest []byte, err error) {
	var buf []byte
	for range maxInterim + 1 {
		var head []byte
		if head, buf, err = readHead(r, buf); err != nil {
			return nil, upstream("reading the proxy's answer", err)
		}
		res, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), &http.Request{Method: http.MethodConnect})
		if err != nil {
			return nil, upstream("reading the proxy's answer", errors.New(clip(err.Error())))
		}
		_ = res.Body.Close()
		switch code := res.StatusCode; {
		case code >= 100 && code < 200: // RFC 9110 §15.2: interim
			continue
		case code >= 200 && code < 300: // any 2xx is a tunnel; a content length means nothing
			return buf, nil
		case code == http.StatusProxyAuthRequired, code == http.StatusUnauthorized:
			return nil, fmt.Errorf("%w: the proxy says %s", ErrAuth, clip(res.Status))
		default:
			return nil, fmt.Errorf("%w: the proxy says %s", ErrRefused, clip(res.Status))
		}
	}
	return nil, upstream("reading the proxy's answer", errors.New("it has no end"))
}

// readHead reads up to the empty line that ends a header section. buf is what
// was read before; rest is what was read behind the line.
func readHead(r io.Reader, buf []byte) (head, rest []byte, err error) {
	for {
		if end := headEnd(buf); end > 0 {
			return buf[:end], buf[end:], nil
		}
		if len(buf) >= maxHead {
			return nil, nil, errors.New("it is too long")
		}
		// What is no HTTP is told at once, not when it ends.
		if n := min(len(buf), len("HTTP/")); string(buf[:n]) != "HTTP/"[:n] {
			return nil, nil, errors.New("it is not HTTP")
		}
		if cap(buf)-len(buf) < 512 {
			buf = append(make([]byte, 0, max(1024, 2*cap(buf))), buf...)
		}
		n, err := r.Read(buf[len(buf):min(cap(buf), maxHead)])
		buf = buf[:len(buf)+n]
		if err != nil && n == 0 {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, nil, err
		}
	}
}

// headEnd is where the header section ends, 0 if it does not. A lone LF ends a
// line too (RFC 9112 §2.2).
func headEnd(b []byte) int {
	for i := 0; ; {
		n := bytes.IndexByte(b[i:], '\n')
		if n < 0 {
			return 0
		}
		i += n + 1
		switch {
		case bytes.HasPrefix(b[i:], []byte("\n")):
			return i + 1
		case bytes.HasPrefix(b[i:], []byte("\r\n")):
			return i + 2
		}
	}
}

// headed is a connection of which some bytes were read already.
type headed struct {
	net.Conn
	mu   sync.Mutex
	head []byte
}

// Read returns the head first.
func (h *headed) Read(p []byte) (int, error) {
	h.mu.Lock()
	if len(h.head) > 0 {
		n := copy(p, h.head)
		h.head = h.head[n:]
		h.mu.Unlock()
		return n, nil
	}
	h.mu.Unlock()
	return h.Conn.Read(p)
}

// Unread takes the head off, so that the rest can be spliced.
func (h *headed) Unread() ([]byte, net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	head := h.head
	h.head = nil
	return head, h.Conn
}

// CloseWrite ends our direction, where the carrier can.
func (h *headed) CloseWrite() error {
	if c, ok := h.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}
