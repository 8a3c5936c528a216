package proxy_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2conn is an HTTP/2 client that sends what it is told, right or wrong.
type h2conn struct {
	t    testing.TB
	conn *tls.Conn
	fr   *http2.Framer
	enc  *hpack.Encoder
	dec  *hpack.Decoder
	buf  bytes.Buffer
	// window is the server's SETTINGS_INITIAL_WINDOW_SIZE and streams its
	// SETTINGS_MAX_CONCURRENT_STREAMS, as its first frame said.
	window, streams, list uint32
	status                string
}

// bareH2 makes the TLS connection and sends no preface.
func (r *running) bareH2(t testing.TB) *h2conn {
	t.Helper()
	conn, err := tls.Dial("tcp", r.https, &tls.Config{InsecureSkipVerify: true, ServerName: lanHost, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if p := conn.ConnectionState().NegotiatedProtocol; p != "h2" {
		t.Fatalf("negotiated %q", p)
	}
	c := &h2conn{t: t, conn: conn, window: 65535}
	c.fr = http2.NewFramer(conn, conn)
	c.fr.AllowIllegalWrites, c.fr.AllowIllegalReads = true, true
	c.enc = hpack.NewEncoder(&c.buf)
	c.dec = hpack.NewDecoder(4096, func(f hpack.HeaderField) {
		if f.Name == ":status" {
			c.status = f.Value
		}
	})
	c.timeout(2 * time.Second)
	return c
}

// h2 connects and exchanges settings (RFC 9113 §3.4).
func (r *running) h2(t testing.TB, settings ...http2.Setting) *h2conn {
	t.Helper()
	c := r.bareH2(t)
	c.write([]byte(http2.ClientPreface))
	c.must(c.fr.WriteSettings(settings...))
	f, err := c.fr.ReadFrame()
	s, is := f.(*http2.SettingsFrame)
	if err != nil || !is || s.IsAck() {
		t.Fatalf("first frame %v %v, want the server's settings", f, err)
	}
	for id, to := range map[http2.SettingID]*uint32{http2.SettingInitialWindowSize: &c.window, http2.SettingMaxConcurrentStreams: &c.streams, http2.SettingMaxHeaderListSize: &c.list} {
		if v, ok := s.Value(id); ok {
			*to = v
		}
	}
	c.must(c.fr.WriteSettingsAck())
	if got := c.until("settings ack"); got != "settings ack" {
		t.Fatalf("after the settings: %s", got)
	}
	return c
}

func (c *h2conn) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *h2conn) timeout(d time.Duration) { c.must(c.conn.SetDeadline(time.Now().Add(d))) }

// write ignores errors: the server may have hung up already, which reading shows.
func (c *h2conn) write(b []byte) { _, _ = c.conn.Write(b) }

// raw sends a frame as it is.
func (c *h2conn) raw(kind http2.FrameType, flags http2.Flags, stream uint32, payload []byte) {
	_ = c.fr.WriteRawFrame(kind, flags, stream, payload)
}

// block encodes pairs of names and values (RFC 7541).
func (c *h2conn) block(fields ...string) []byte {
	c.buf.Reset()
	for i := 0; i+1 < len(fields); i += 2 {
		c.must(c.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}))
	}
	return bytes.Clone(c.buf.Bytes())
}

const (
	endStream  = http2.FlagHeadersEndStream
	endHeaders = http2.FlagHeadersEndHeaders
)

// headers opens a stream with these fields.
func (c *h2conn) headers(stream uint32, flags http2.Flags, fields ...string) {
	c.raw(http2.FrameHeaders, flags, stream, c.block(fields...))
}

func pseudo(method, path string, more ...string) []string {
	return append([]string{":method", method, ":scheme", "https", ":authority", lanHost, ":path", path}, more...)
}

// get and post open a stream properly; post leaves it open.
func (c *h2conn) get(stream uint32, more ...string) {
	c.headers(stream, endStream|endHeaders, pseudo("GET", "/a", more...)...)
}

func (c *h2conn) post(stream uint32, more ...string) {
	c.headers(stream, endHeaders, pseudo("POST", "/a", more...)...)
}

// next reads one frame and puts it in words; "" for what decides nothing.
func (c *h2conn) next() string {
	f, err := c.fr.ReadFrame()
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return "silence"
		}
		return "closed"
	}
	switch f := f.(type) {
	case *http2.GoAwayFrame:
		if f.ErrCode == http2.ErrCodeNo {
			return ""
		}
		return "goaway " + f.ErrCode.String()
	case *http2.RSTStreamFrame:
		return fmt.Sprintf("rst %d %s", f.StreamID, f.ErrCode)
	case *http2.SettingsFrame:
		if f.IsAck() {
			return "settings ack"
		}
	case *http2.PingFrame:
		if f.IsAck() {
			return fmt.Sprintf("pong %s", f.Data)
		}
	case *http2.HeadersFrame:
		c.status = ""
		if _, err := c.dec.Write(f.HeaderBlockFragment()); err != nil {
			return "bad block"
		}
		return fmt.Sprintf("status %d %s", f.StreamID, c.status)
	case *http2.DataFrame:
		return fmt.Sprintf("data %d %d %v", f.StreamID, len(f.Data()), f.StreamEnded())
	}
	return ""
}

// until reads up to the first of these answers (a prefix is enough), or to the
// end of the connection.
func (c *h2conn) until(want ...string) string {
	for {
		got := c.next()
		if got == "silence" || got == "closed" || bytes.HasPrefix([]byte(got), []byte("goaway")) {
			return got
		}
		for _, w := range want {
			if len(got) >= len(w) && got[:len(w)] == w {
				return got
			}
		}
	}
}
