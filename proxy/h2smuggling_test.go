package proxy_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/proxy"
)

// HTTP/2 has no bytes that frame a request, until it is translated: every
// field value becomes part of a line, every length a promise (RFC 9113 §8.2.1,
// §8.1.1, §10.3).
func TestNoDesyncFromHTTP2(t *testing.T) {
	with := func(more ...string) []string { return pseudo("POST", "/a", more...) }
	for _, a := range []struct {
		name   string
		fields []string
		body   string // "" sends no DATA frame
		want   []string
	}{
		{"honest", with("content-length", "2"), "hi", []string{"POST /a|hi"}},
		{"no length", with(), "hi", []string{"POST /a|hi"}},
		{"body is a request", with(), evil, []string{"POST /a|" + evil}},
		{"length 0, body is a request", with("content-length", "0"), evil, nil},
		{"length too short", with("content-length", "1"), evil, nil},
		{"length too long", with("content-length", "1000"), evil, nil},
		{"lengths that differ", with("content-length", "2", "content-length", "3"), "hi", nil},
		{"length list", with("content-length", "2, 2"), "hi", nil},
		{"length with plus", with("content-length", "+2"), "hi", nil},
		{"length negative", with("content-length", "-1"), "hi", nil},
		{"length overflow", with("content-length", "18446744073709551618"), "hi", nil},
		{"content_length", with("content_length", "99"), "hi", []string{"POST /a|hi"}},
		{"transfer-encoding", with("transfer-encoding", "chunked"), "0\r\n\r\n" + evil, nil},
		{"transfer_encoding", with("transfer_encoding", "chunked"), "0\r\n\r\n" + evil, []string{"POST /a|0\r\n\r\n" + evil}},
		{"connection", with("connection", "keep-alive"), "hi", nil},
		{"proxy-connection", with("proxy-connection", "keep-alive"), "hi", nil},
		{"keep-alive", with("keep-alive", "1"), "hi", nil},
		{"upgrade", with("upgrade", "websocket"), "hi", nil},
		{"te: gzip", with("te", "gzip"), "hi", nil},
		{"te: trailers", with("te", "trailers"), "hi", []string{"POST /a|hi"}},
		{"CRLF in a value", with("x-a", "b\r\ntransfer-encoding: chunked"), "0\r\n\r\n" + evil, nil},
		{"LF in a value", with("x-a", "b\ntransfer-encoding: chunked"), "0\r\n\r\n" + evil, nil},
		{"CR in a value", with("x-a", "b\rx: y"), "hi", nil},
		{"NUL in a value", with("x-a", "b\x00c"), "hi", nil},
		{"CRLF in a name", with("x\r\ntransfer-encoding", "chunked"), "0\r\n\r\n", nil},
		{"colon in a name", with("transfer-encoding: chunked\r\nx", "y"), "0\r\n\r\n", nil},
		{"space in a name", with("transfer-encoding ", "chunked"), "0\r\n\r\n", nil},
		{"capitals in a name", with("Transfer-Encoding", "chunked"), "0\r\n\r\n", nil},
		{"empty name", with("", "chunked"), "hi", nil},
		{"CRLF in the method", pseudo("GET / HTTP/1.1\r\nHost: x\r\n\r\nGET", "/a"), "", nil},
		{"space in the method", pseudo("GET /smuggled HTTP/1.1", "/a"), "", nil},
		{"empty method", pseudo("", "/a"), "", nil},
		{"method CONNECT with a path", pseudo("CONNECT", "/a"), "", nil},
		{"CONNECT", []string{":method", "CONNECT", ":authority", lanHost + ":443"}, "", nil},
		{"extended CONNECT", pseudo("CONNECT", "/a", ":protocol", "websocket"), "", nil},
		{"TRACE", pseudo("TRACE", "/a"), "", nil},
		{"CRLF in the path", pseudo("GET", "/a HTTP/1.1\r\nHost: x\r\n\r\n"), "", nil},
		{"space in the path", pseudo("GET", "/a HTTP/1.1"), "", []string{"GET /a%20HTTP/1.1|"}},
		{"empty path", pseudo("GET", ""), "", nil},
		{"path without a slash", pseudo("GET", "a"), "", nil},
		{"path is a URL", pseudo("GET", "http://other.example/"), "", nil},
		{"path is an asterisk", pseudo("GET", "*"), "", nil},
		{"fragment in the path", pseudo("GET", "/a#b"), "", []string{"GET /a%23b|"}},
		{"two paths", pseudo("GET", "/a", ":path", "/b"), "", nil},
		{"two methods", pseudo("GET", "/a", ":method", "POST"), "", nil},
		{"two authorities", pseudo("GET", "/a", ":authority", "other.example"), "", nil},
		{"two schemes", pseudo("GET", "/a", ":scheme", "http"), "", nil},
		{"scheme is another", []string{":method", "GET", ":scheme", "http", ":authority", lanHost, ":path", "/a"}, "", []string{"GET /a|"}},
		{"scheme with a URL", []string{":method", "GET", ":scheme", "https://other.example/?", ":authority", lanHost, ":path", "/a"}, "", nil},
		{"no scheme", []string{":method", "GET", ":authority", lanHost, ":path", "/a"}, "", nil},
		{"no method", []string{":scheme", "https", ":authority", lanHost, ":path", "/a"}, "", nil},
		{"no path", []string{":method", "GET", ":scheme", "https", ":authority", lanHost}, "", nil},
		{"unknown pseudo", pseudo("GET", "/a", ":status", "200"), "", nil},
		{"pseudo after a field", []string{":method", "GET", ":scheme", "https", ":authority", lanHost, "x-a", "b", ":path", "/a"}, "", nil},
		{"host differs", pseudo("GET", "/a", "host", "other.example"), "", nil},
		{"host alike", pseudo("GET", "/a", "host", lanHost), "", []string{"GET /a|"}},
		{"authority of another cell", []string{":method", "GET", ":scheme", "https", ":authority", "other.example", ":path", "/a"}, "", nil},
		{"authority with a user", []string{":method", "GET", ":scheme", "https", ":authority", "x@" + lanHost, ":path", "/a"}, "", nil},
		{"authority with a path", []string{":method", "GET", ":scheme", "https", ":authority", lanHost + "/x", ":path", "/a"}, "", nil},
		{"no authority, only host", []string{":method", "GET", ":scheme", "https", ":path", "/a", "host", lanHost}, "", []string{"GET /a|"}},
	} {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			rec := newRecorder(t)
			r := run(t, proxy.Config{Dial: rec.dial})
			c := r.h2(t)
			flags := endHeaders
			if a.body == "" {
				flags |= endStream
			}
			c.headers(1, flags, a.fields...)
			if a.body != "" {
				_ = c.fr.WriteData(1, true, []byte(a.body))
			}
			c.timeout(2 * time.Second)
			got := c.until("status 1", "rst 1")
			refused := !strings.HasPrefix(got, "status 1 2")
			if refused != (len(a.want) == 0) || got == "silence" {
				t.Errorf("answered %q", got)
			}
			c.conn.Close()
			r.victim(t, rec, a.want, []byte(got))
		})
	}
}

// A trailer section may not say what a header section must (RFC 9113 §8.1).
func TestTrailersOfHTTP2DoNotPass(t *testing.T) {
	for name, fields := range map[string][]string{
		"identity": {"x-pic-peer", "laptop"}, "length": {"content-length", "5"}, "pseudo": {":path", "/smuggled"}, "coding": {"transfer-encoding", "chunked"},
	} {
		t.Run(name, func(t *testing.T) {
			rec := newRecorder(t)
			r := run(t, proxy.Config{Dial: rec.dial})
			c := r.h2(t)
			c.post(1, "trailer", fields[0])
			_ = c.fr.WriteData(1, false, []byte("hi"))
			c.headers(1, endHeaders|endStream, fields...)
			got := c.until("status 1", "rst 1")
			seen, faults, raw := rec.snapshot()
			for _, q := range seen {
				if q.target != "/a" || q.body != "hi" || strings.Contains(strings.ToLower(fmt.Sprint(q.fields)), "laptop") {
					t.Errorf("arrived: %+v", q)
				}
			}
			if len(faults) > 0 || got == "silence" || strings.Contains(raw, "laptop") {
				t.Errorf("%s; %q", got, faults)
			}
		})
	}
}
