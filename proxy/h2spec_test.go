package proxy_test

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/personal-internet-cell/pic/proxy"
)

// What the clause asks for, as it may show on the wire. An endpoint may treat a
// stream error as a connection error (RFC 9113 §5.4.2), and may close the
// connection after any (§5.4.1).
func connError(codes ...http2.ErrCode) []string {
	out := []string{"closed"}
	for _, c := range codes {
		out = append(out, "goaway "+c.String())
	}
	return out
}

func streamError(codes ...http2.ErrCode) []string {
	out := connError(codes...)
	for _, c := range codes {
		out = append(out, "rst 1 "+c.String())
	}
	return out
}

// malformedRequest may be answered before it is reset (RFC 9113 §8.1.1).
func malformedRequest() []string {
	return append(streamError(http2.ErrCodeProtocol), "status 1 400")
}

// clause is one requirement of RFC 9113 or RFC 7541 on a server. do returns
// nothing: what the server then says first, of what could decide, must be in want.
type clause struct {
	name string
	do   func(*h2conn)
	want []string
}

func u32(n uint32, rest ...byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, n), rest...)
}

func setting(id uint16, v uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(nil, id), v)
}

const (
	protocol    = http2.ErrCodeProtocol
	frameSize   = http2.ErrCodeFrameSize
	flowControl = http2.ErrCodeFlowControl
	closedError = http2.ErrCodeStreamClosed
	compression = http2.ErrCodeCompression
	ok200       = "status 1 200"
)

func pong(c *h2conn) { c.must(c.fr.WritePing(false, [8]byte{'a', 'l', 'i', 'v', 'e', '!', '!', '!'})) }

var alive = []string{"pong alive!!!"}

func clauses() []clause {
	ok := []string{ok200}
	malformed := malformedRequest()
	field := func(more ...string) func(*h2conn) { return func(c *h2conn) { c.get(1, more...) } }
	open := func(fields ...string) func(*h2conn) {
		return func(c *h2conn) { c.headers(1, endHeaders|endStream, fields...) }
	}
	frame := func(kind http2.FrameType, flags http2.Flags, stream uint32, payload []byte) func(*h2conn) {
		return func(c *h2conn) { c.raw(kind, flags, stream, payload) }
	}
	// block sends bytes as a header block.
	block := func(b ...byte) func(*h2conn) {
		return func(c *h2conn) { c.raw(http2.FrameHeaders, endHeaders|endStream, 1, b) }
	}
	// then runs f after a request was answered in full.
	then := func(f func(*h2conn)) func(*h2conn) {
		return func(c *h2conn) {
			c.get(1)
			for {
				if got := c.until("data 1", "status 1"); !strings.HasPrefix(got, "status") && !strings.HasSuffix(got, "false") {
					break
				}
			}
			f(c)
		}
	}
	// opened runs f while stream 1 waits for its body.
	opened := func(f func(*h2conn)) func(*h2conn) { return func(c *h2conn) { c.post(1); f(c) } }

	return []clause{
		// Starting: RFC 9113 §3.4.
		{"3.4 a request is answered", func(c *h2conn) { c.get(1) }, ok},
		{"3.4 a POST is answered", func(c *h2conn) { c.post(1); _ = c.fr.WriteData(1, true, []byte("hi")) }, ok},
		{"3.4 HEAD is answered", open(pseudo("HEAD", "/a")...), ok},
		{"3.4 OPTIONS is answered", open(pseudo("OPTIONS", "/a")...), ok},

		// Frames: §4.1, §4.2.
		{"4.1 unknown frame types are ignored", func(c *h2conn) { c.raw(0x42, 0, 0, make([]byte, 8)); pong(c) }, alive},
		{"4.1 undefined flags are ignored", func(c *h2conn) { c.raw(http2.FramePing, 0x16, 0, []byte("alive!!!")) }, alive},
		{"4.1 the reserved bit is ignored", func(c *h2conn) { c.raw(http2.FramePing, 0, 1<<31, []byte("alive!!!")) }, alive},
		{"4.2 a DATA frame of 2^14 octets is read", opened(func(c *h2conn) { _ = c.fr.WriteData(1, true, make([]byte, 1<<14)) }), ok},
		{"4.2 a DATA frame over the limit", opened(func(c *h2conn) { c.raw(http2.FrameData, 0, 1, make([]byte, 1<<20+1)) }), streamError(frameSize)},
		{"4.2 a HEADERS frame over the limit", frame(http2.FrameHeaders, endHeaders|endStream, 1, make([]byte, 1<<20+1)), connError(frameSize)},
		{"4.3 an invalid block", block(0x40), connError(compression)},
		{"4.3 another frame inside a block", func(c *h2conn) { c.raw(http2.FrameHeaders, endStream, 1, c.block(pseudo("GET", "/a")...)); pong(c) }, connError(protocol)},
		{"4.3 another stream inside a block", func(c *h2conn) {
			b := c.block(pseudo("GET", "/a")...)
			c.raw(http2.FrameHeaders, endStream, 1, b)
			c.raw(http2.FrameHeaders, endStream|endHeaders, 3, b)
		}, connError(protocol)},

		// Stream states: §5.1.
		{"5.1 DATA on an idle stream", frame(http2.FrameData, 0, 1, []byte("a")), connError(protocol, closedError)},
		{"5.1 RST_STREAM on an idle stream", frame(http2.FrameRSTStream, 0, 1, u32(8)), connError(protocol)},
		{"5.1 WINDOW_UPDATE on an idle stream", frame(http2.FrameWindowUpdate, 0, 1, u32(100)), connError(protocol)},
		{"5.1 CONTINUATION on an idle stream", frame(http2.FrameContinuation, endHeaders, 1, []byte{0x82}), connError(protocol)},
		{"5.1 DATA on a half-closed stream", func(c *h2conn) {
			c.headers(1, endHeaders|endStream, pseudo("GET", "/slow")...)
			c.raw(http2.FrameData, 1, 1, []byte("a"))
		}, streamError(closedError)},
		{"5.1 HEADERS on a half-closed stream", func(c *h2conn) { c.headers(1, endHeaders|endStream, pseudo("GET", "/slow")...); c.get(1) }, streamError(closedError)},
		{"5.1 CONTINUATION on a half-closed stream", func(c *h2conn) {
			c.headers(1, endHeaders|endStream, pseudo("GET", "/slow")...)
			c.raw(http2.FrameContinuation, endHeaders, 1, []byte{0x82})
		}, connError(protocol, closedError)},
		{"5.1 DATA after RST_STREAM", opened(func(c *h2conn) { c.raw(http2.FrameRSTStream, 0, 1, u32(8)); c.raw(http2.FrameData, 1, 1, []byte("a")) }), streamError(closedError)},
		{"5.1 HEADERS after RST_STREAM", opened(func(c *h2conn) { c.raw(http2.FrameRSTStream, 0, 1, u32(8)); c.get(1) }), streamError(closedError, protocol)},
		{"5.1 CONTINUATION after RST_STREAM", opened(func(c *h2conn) {
			c.raw(http2.FrameRSTStream, 0, 1, u32(8))
			c.raw(http2.FrameContinuation, endHeaders, 1, []byte{0x82})
		}), connError(protocol, closedError)},
		{"5.1 DATA on a closed stream", then(frame(http2.FrameData, 1, 1, []byte("a"))), streamError(closedError)},
		{"5.1 HEADERS on a closed stream", then(func(c *h2conn) { c.get(1) }), connError(closedError, protocol)},
		{"5.1 CONTINUATION on a closed stream", then(frame(http2.FrameContinuation, endHeaders, 1, []byte{0x82})), connError(protocol, closedError)},
		{"5.1 WINDOW_UPDATE on a closed stream is ignored", then(func(c *h2conn) { c.raw(http2.FrameWindowUpdate, 0, 1, u32(100)); pong(c) }), alive},
		{"5.1 PRIORITY on a closed stream is ignored", then(func(c *h2conn) { c.raw(http2.FramePriority, 0, 1, u32(0, 16)); pong(c) }), alive},
		{"5.1.1 an even stream id", func(c *h2conn) { c.get(2) }, connError(protocol)},
		{"5.1.1 a smaller stream id", func(c *h2conn) { c.headers(5, endHeaders|endStream, pseudo("GET", "/slow")...); c.get(3) }, connError(protocol, closedError)},
		{"5.1.2 more streams than the server allows", func(c *h2conn) {
			for i := range c.streams + 1 {
				c.headers(1+2*i, endHeaders|endStream, pseudo("GET", "/slow")...)
			}
		}, []string{"goaway PROTOCOL_ERROR", "closed", "rst 257 REFUSED_STREAM", "rst 257 PROTOCOL_ERROR"}},
		{"5.3.1 a stream that depends on itself, PRIORITY", func(c *h2conn) { c.raw(http2.FramePriority, 0, 1, u32(1, 255)); pong(c) }, append(streamError(protocol), alive...)},

		// DATA: §6.1.
		{"6.1 DATA on stream 0", frame(http2.FrameData, 0, 0, []byte("a")), connError(protocol)},
		{"6.1 padding longer than the payload", opened(frame(http2.FrameData, 0x8, 1, []byte{200, 'a'})), connError(protocol)},
		{"6.1 padded DATA is read", opened(frame(http2.FrameData, 0x9, 1, []byte{2, 'h', 'i', 0, 0})), ok},
		{"6.1 padded, without the length", opened(frame(http2.FrameData, 0x9, 1, nil)), connError(protocol, frameSize)},

		// HEADERS: §6.2.
		{"6.2 HEADERS on stream 0", func(c *h2conn) { c.get(0) }, connError(protocol)},
		{"6.2 padding longer than the payload", func(c *h2conn) {
			c.raw(http2.FrameHeaders, 0xd, 1, append([]byte{255}, c.block(pseudo("GET", "/a")...)...))
		}, connError(protocol)},
		{"6.2 padded HEADERS with priority are read", func(c *h2conn) {
			b := append([]byte{3, 0, 0, 0, 0, 16}, c.block(pseudo("GET", "/a")...)...)
			c.raw(http2.FrameHeaders, 0x2d, 1, append(b, 0, 0, 0))
		}, ok},
		{"6.2 priority cut off", frame(http2.FrameHeaders, 0x25, 1, []byte{0, 0}), connError(protocol, frameSize, compression)},

		// PRIORITY, RST_STREAM: §6.3, §6.4.
		{"6.3 PRIORITY on stream 0", frame(http2.FramePriority, 0, 0, u32(0, 16)), connError(protocol)},
		{"6.3 PRIORITY of another length", opened(frame(http2.FramePriority, 0, 1, u32(0))), streamError(frameSize)},
		{"6.4 RST_STREAM on stream 0", frame(http2.FrameRSTStream, 0, 0, u32(8)), connError(protocol)},
		{"6.4 RST_STREAM of another length", opened(frame(http2.FrameRSTStream, 0, 1, []byte{0, 0, 8})), connError(frameSize)},

		// SETTINGS: §6.5.
		{"6.5 settings are acknowledged", frame(http2.FrameSettings, 0, 0, nil), []string{"settings ack"}},
		{"6.5 an acknowledgement with a payload", frame(http2.FrameSettings, 1, 0, setting(1, 0)), connError(frameSize)},
		{"6.5 settings on a stream", frame(http2.FrameSettings, 0, 1, nil), connError(protocol)},
		{"6.5 settings of another length", frame(http2.FrameSettings, 0, 0, []byte{0, 3, 0}), connError(frameSize)},
		{"6.5.2 ENABLE_PUSH is neither 0 nor 1", frame(http2.FrameSettings, 0, 0, setting(2, 2)), connError(protocol)},
		{"6.5.2 INITIAL_WINDOW_SIZE over 2^31-1", frame(http2.FrameSettings, 0, 0, setting(4, 1<<31)), connError(flowControl)},
		{"6.5.2 MAX_FRAME_SIZE under 2^14", frame(http2.FrameSettings, 0, 0, setting(5, 1<<14-1)), connError(protocol)},
		{"6.5.2 MAX_FRAME_SIZE over 2^24-1", frame(http2.FrameSettings, 0, 0, setting(5, 1<<24)), connError(protocol)},
		{"6.5.2 unknown settings are ignored", frame(http2.FrameSettings, 0, 0, setting(0xff, 1)), []string{"settings ack"}},
		{"6.5.3 the last of several values counts", func(c *h2conn) {
			c.raw(http2.FrameSettings, 0, 0, append(setting(4, 100), setting(4, 1)...))
			c.until("settings ack")
			c.get(1)
			c.until(ok200)
		}, []string{"data 1 1 false"}},

		// PUSH_PROMISE, PING, GOAWAY: §6.6 to §6.8.
		{"6.6 PUSH_PROMISE from a client", func(c *h2conn) {
			c.raw(http2.FramePushPromise, endHeaders, 1, append(u32(2), c.block(pseudo("GET", "/a")...)...))
		}, connError(protocol)},
		{"6.7 PING is answered", pong, alive},
		{"6.7 an answer to no PING is ignored", func(c *h2conn) { c.raw(http2.FramePing, 1, 0, []byte("invalid!")); pong(c) }, alive},
		{"6.7 PING on a stream", frame(http2.FramePing, 0, 1, make([]byte, 8)), connError(protocol)},
		{"6.7 PING of another length", frame(http2.FramePing, 0, 0, make([]byte, 6)), connError(frameSize)},
		{"6.8 GOAWAY on a stream", frame(http2.FrameGoAway, 0, 1, make([]byte, 8)), connError(protocol)},

		// WINDOW_UPDATE: §6.9.
		{"6.9 an increment of 0", frame(http2.FrameWindowUpdate, 0, 0, u32(0)), connError(protocol)},
		{"6.9 an increment of 0 on a stream", opened(frame(http2.FrameWindowUpdate, 0, 1, u32(0))), streamError(protocol)},
		{"6.9 of another length", frame(http2.FrameWindowUpdate, 0, 0, []byte{0, 0, 1}), connError(frameSize)},
		{"6.9.1 the connection's window over 2^31-1", func(c *h2conn) {
			for range 2 {
				c.raw(http2.FrameWindowUpdate, 0, 0, u32(1<<31-1))
			}
		}, connError(flowControl)},
		{"6.9.1 a stream's window over 2^31-1", opened(func(c *h2conn) {
			for range 2 {
				c.raw(http2.FrameWindowUpdate, 0, 1, u32(1<<31-1))
			}
		}), streamError(flowControl)},
		{"6.9.1 no more DATA than the window has", func(c *h2conn) {
			c.raw(http2.FrameSettings, 0, 0, setting(4, 1))
			c.until("settings ack")
			c.get(1)
			c.until(ok200)
		}, []string{"data 1 1 false"}},
		{"6.9.2 a changed initial window counts for open streams", func(c *h2conn) {
			c.raw(http2.FrameSettings, 0, 0, setting(4, 0))
			c.until("settings ack")
			c.get(1)
			c.until(ok200)
			c.raw(http2.FrameSettings, 0, 0, setting(4, 1))
			c.until("settings ack")
		}, []string{"data 1 1 false"}},
		{"6.9.2 an initial window that overflows a stream's", opened(func(c *h2conn) {
			c.raw(http2.FrameWindowUpdate, 0, 1, u32(1<<31-1-65535))
			c.raw(http2.FrameSettings, 0, 0, setting(4, 65536))
		}), connError(flowControl)},

		// CONTINUATION: §6.10.
		{"6.10 a block in three frames is read", func(c *h2conn) {
			b := c.block(pseudo("GET", "/a")...)
			c.raw(http2.FrameHeaders, endStream, 1, b[:1])
			c.raw(http2.FrameContinuation, 0, 1, b[1:2])
			c.raw(http2.FrameContinuation, endHeaders, 1, b[2:])
		}, ok},
		{"6.10 CONTINUATION after the end of the block", func(c *h2conn) {
			c.post(1)
			c.raw(http2.FrameContinuation, endHeaders, 1, []byte{0x82})
		}, connError(protocol)},
		{"6.10 CONTINUATION on stream 0", func(c *h2conn) {
			c.raw(http2.FrameHeaders, endStream, 1, c.block(pseudo("GET", "/a")...))
			c.raw(http2.FrameContinuation, endHeaders, 0, nil)
		}, connError(protocol)},
		{"6.10 CONTINUATION after DATA", opened(func(c *h2conn) {
			_ = c.fr.WriteData(1, false, []byte("a"))
			c.raw(http2.FrameContinuation, endHeaders, 1, []byte{0x82})
		}), connError(protocol)},
		{"6.10 an endless block ends (CVE-2023-45288)", func(c *h2conn) {
			c.raw(http2.FrameHeaders, endStream, 1, c.block(pseudo("GET", "/a")...))
			b := c.block("x-a", strings.Repeat("~", 10<<10))
			for range 1000 {
				c.raw(http2.FrameContinuation, 0, 1, b)
			}
		}, append(connError(protocol, http2.ErrCodeEnhanceYourCalm, compression), "status 1 431")},
		{"7 an unknown error code is ignored", func(c *h2conn) { c.raw(http2.FrameGoAway, 0, 0, append(u32(0), u32(0xff)...)); pong(c) }, append(slices.Clone(alive), "closed")},
		{"7 an unknown code in RST_STREAM is ignored", opened(func(c *h2conn) { c.raw(http2.FrameRSTStream, 0, 1, u32(0xff)); pong(c) }), alive},

		// Messages: §8.1, §8.2, §8.3.
		{"8.1 HEADERS after DATA without END_STREAM", opened(func(c *h2conn) {
			_ = c.fr.WriteData(1, false, []byte("a"))
			c.headers(1, endHeaders, "x-a", "b")
		}), streamError(protocol)},
		{"8.1 trailers are read", opened(func(c *h2conn) {
			_ = c.fr.WriteData(1, false, []byte("a"))
			c.headers(1, endHeaders|endStream, "x-a", "b")
		}), ok},
		{"8.1.1 a length that is not the body's", func(c *h2conn) { c.post(1, "content-length", "1"); _ = c.fr.WriteData(1, true, []byte("two")) }, malformed},
		{"8.1.1 a length that is not the frames'", func(c *h2conn) {
			c.post(1, "content-length", "1")
			_ = c.fr.WriteData(1, false, []byte("a"))
			_ = c.fr.WriteData(1, true, []byte("b"))
		}, malformed},
		{"8.2.1 a name in capitals", field("X-Test", "ok"), malformed},
		{"8.2.1 a name with a space", field("x a", "ok"), malformed},
		{"8.2.1 a name with a colon", field("x:a", "ok"), malformed},
		{"8.2.1 a name with a high octet", field("x\xffa", "ok"), malformed},
		{"8.2.1 a value with NUL", field("x", "a\x00"), malformed},
		{"8.2.1 a value with CR", field("x", "a\rb"), malformed},
		{"8.2.1 a value with LF", field("x", "a\nb"), malformed},
		{"8.2.2 Connection", field("connection", "keep-alive"), malformed},
		{"8.2.2 Keep-Alive", field("keep-alive", "5"), malformed},
		{"8.2.2 Transfer-Encoding", field("transfer-encoding", "chunked"), malformed},
		{"8.2.2 Upgrade", field("upgrade", "h2c"), malformed},
		{"8.2.2 TE other than trailers", field("te", "trailers, deflate"), malformed},
		{"8.2.2 TE trailers", field("te", "trailers"), ok},
		{"8.2.3 cookie crumbs", field("cookie", "a=1", "cookie", "b=2"), ok},
		{"8.3 an unknown pseudo-header", open(pseudo("GET", "/a", ":test", "ok")...), malformed},
		{"8.3 a response's pseudo-header", open(pseudo("GET", "/a", ":status", "200")...), malformed},
		{"8.3 a pseudo-header in trailers", opened(func(c *h2conn) { c.headers(1, endHeaders|endStream, ":method", "GET") }), malformed},
		{"8.3 a pseudo-header after a field", open("x-a", "b", ":method", "GET", ":scheme", "https", ":authority", lanHost, ":path", "/a"), malformed},
		{"8.3.1 an empty path", open(pseudo("GET", "")...), malformed},
		{"8.3.1 no method", open(":scheme", "https", ":authority", lanHost, ":path", "/a"), malformed},
		{"8.3.1 no scheme", open(":method", "GET", ":authority", lanHost, ":path", "/a"), malformed},
		{"8.3.1 no path", open(":method", "GET", ":scheme", "https", ":authority", lanHost), malformed},
		{"8.3.1 two methods", open(pseudo("GET", "/a", ":method", "GET")...), malformed},
		{"8.3.1 two schemes", open(pseudo("GET", "/a", ":scheme", "https")...), malformed},
		{"8.3.1 two paths", open(pseudo("GET", "/a", ":path", "/a")...), malformed},
		{"8.4 PUSH_PROMISE on an open stream", opened(frame(http2.FramePushPromise, endHeaders, 1, append(u32(2), 0x82))), connError(protocol)},

		// HPACK: RFC 7541.
		{"HPACK 2.3.3 an index past the tables", block(0xff, 0x80, 0x01), connError(compression)},
		{"HPACK 4.2 a table size change inside a block", func(c *h2conn) {
			c.raw(http2.FrameHeaders, endHeaders|endStream, 1, append(c.block(pseudo("GET", "/a")...), 0x20))
		}, connError(compression)},
		{"HPACK 5.2 padding of a string over 7 bits", block(0x82, 0x87, 0x84, 0x00, 0x83, 0xf9, 0x63, 0xff, 0xff, 0x83, 0xf9, 0x63, 0xe7), connError(compression)},
		{"HPACK 5.2 padding of a string with zeros", block(0x82, 0x87, 0x84, 0x00, 0x82, 0xf2, 0xb0, 0x83, 0xf9, 0x63, 0xe7), connError(compression)},
		{"HPACK 5.2 a string with EOS", block(0x82, 0x87, 0x84, 0x00, 0x88, 0xf2, 0xb2, 0x4b, 0xff, 0xff, 0xff, 0xff, 0x7f, 0x84, 0xf9, 0x63, 0xe7), connError(compression)},
		{"HPACK 6.1 index 0", block(0x80), connError(compression)},
		{"HPACK 6.3 a table over the limit", func(c *h2conn) {
			c.raw(http2.FrameHeaders, endHeaders|endStream, 1, append([]byte{0x3f, 0xe1, 0xff, 0x03}, c.block(pseudo("GET", "/a")...)...))
		}, connError(compression)},
	}
}

// deviations are where net/http does otherwise, and why that is let be. When
// one of them is mended, the test asks to strike it.
var deviations = map[string]struct{ got, why string }{
	"6.2 padding longer than the payload":     {"rst 1 PROTOCOL_ERROR", "the stream ends instead of the connection; only the sender's own later header blocks can suffer"},
	"6.5.3 the last of several values counts": {"closed", "a SETTINGS frame that names a setting twice ends the connection; no client sends one"},
}

// HTTP-1: the clauses of RFC 9113 and RFC 7541 that bind a server, in the order
// that h2spec has made customary, against the proxy with a service behind it.
func TestHTTP2ByTheLetter(t *testing.T) {
	rec := newRecorder(t)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	r := run(t, proxy.Config{Dial: rec.dial})
	rec.hold = release
	all := clauses()
	if len(all) < 100 {
		t.Fatalf("only %d clauses", len(all))
	}
	for _, x := range all {
		t.Run(strings.ReplaceAll(x.name, " ", "_"), func(t *testing.T) {
			c := r.h2(t)
			x.do(c)
			c.timeout(2 * time.Second)
			got := c.until("goaway", "rst", "status", "data", "pong", "settings ack")
			if d, is := deviations[x.name]; is {
				if got != d.got {
					t.Errorf("the server: %s; it used to be %s: is the deviation mended?", got, d.got)
				}
				t.Logf("a known deviation: %s (%s)", got, d.why)
				return
			}
			if !slices.ContainsFunc(x.want, func(w string) bool { return strings.HasPrefix(got, w) }) {
				t.Errorf("the server: %s, want one of %q", got, x.want)
			}
		})
	}
	t.Run("3.4_no_preface", func(t *testing.T) {
		c := r.bareH2(t)
		c.write([]byte("INVALID CONNECTION PREFACE\r\n\r\n"))
		if got := c.until("goaway"); got != "closed" && got != "goaway PROTOCOL_ERROR" {
			t.Error(got)
		}
	})
	t.Run("3.4_a_preface_without_settings", func(t *testing.T) {
		c := r.bareH2(t)
		c.write([]byte(http2.ClientPreface))
		pong(c)
		if got := c.until("goaway", "pong"); got != "closed" && got != "goaway PROTOCOL_ERROR" {
			t.Error(got)
		}
	})
}
