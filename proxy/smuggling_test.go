package proxy_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/personal-internet-cell/pic/proxy"
)

// attack is bytes from a client, and the targets that may arrive at the
// service because of them. An attack that arrives must arrive as what the
// client's bytes mean by RFC 9112, in a framing that nobody can misread.
type attack struct {
	name string
	raw  string
	want []string // "METHOD target|body"
}

const (
	hostLine = "Host: " + lanHost + "\r\n"
	post     = "POST /a HTTP/1.1\r\n" + hostLine
	get      = "GET /a HTTP/1.1\r\n" + hostLine
	chunked  = "Transfer-Encoding: chunked\r\n"
	// evil is the request that must stay a body, or not be read at all.
	evil = "GET /smuggled HTTP/1.1\r\n" + hostLine + "\r\n"
)

func attacks() []attack {
	list := []attack{
		// CL.TE and TE.CL: RFC 9112 §6.1, the coding overrides the length.
		// and the connection ends, so that what a front end took for a body is not read as a request.
		{"CL.TE, short length", post + "Content-Length: 60\r\n" + chunked + "\r\n0\r\n\r\n" + evil, []string{"POST /a|"}},
		{"CL.TE, TE first", post + chunked + "Content-Length: 60\r\n\r\n0\r\n\r\n" + evil, []string{"POST /a|"}},
		{"TE.CL, body is a request", post + "Content-Length: 4\r\n" + chunked + fmt.Sprintf("\r\n%x\r\n%s\r\n0\r\n\r\n", len(evil), evil), []string{"POST /a|" + evil}},
		{"CL hides a request", post + fmt.Sprintf("Content-Length: %d\r\n\r\n", len(evil)) + evil, []string{"POST /a|" + evil}},
		{"CL.0, GET with a body", get + fmt.Sprintf("Content-Length: %d\r\n\r\n", len(evil)) + evil, []string{"GET /a|" + evil}},
		{"HEAD with a body", "HEAD /a HTTP/1.1\r\n" + hostLine + fmt.Sprintf("Content-Length: %d\r\n\r\n", len(evil)) + evil, []string{"HEAD /a|" + evil}},
		// The coding does not exist in HTTP/1.0: the length counts, and the connection ends.
		{"TE in HTTP/1.0", "POST /a HTTP/1.0\r\n" + hostLine + chunked + "\r\n0\r\n\r\n" + evil, []string{"POST /a|"}},
		{"CL and TE in HTTP/1.0", "POST /a HTTP/1.0\r\nConnection: keep-alive\r\n" + hostLine + "Content-Length: 3\r\n" + chunked + "\r\n0\r\n\r\n" + evil, []string{"POST /a|0\r\n"}},

		// Lengths: RFC 9112 §6.3 item 5.
		{"CL list, different", post + "Content-Length: 1, 2\r\n\r\nab", nil},
		{"CL twice, different", post + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", nil},
		{"CL twice, alike", post + "Content-Length: 1\r\nContent-Length: 1\r\n\r\na", []string{"POST /a|a"}},
		{"CL list, alike", post + "Content-Length: 1, 1\r\n\r\na", nil},
		{"CL with plus", post + "Content-Length: +1\r\n\r\na", nil},
		{"CL with minus", post + "Content-Length: -1\r\n\r\na", nil},
		{"CL with a space inside", post + "Content-Length: 1 1\r\n\r\na", nil},
		{"CL hexadecimal", post + "Content-Length: 0x1\r\n\r\na", nil},
		{"CL exponent", post + "Content-Length: 1e1\r\n\r\na", nil},
		{"CL decimal point", post + "Content-Length: 1.0\r\n\r\na", nil},
		{"CL underscore", post + "Content-Length: 1_0\r\n\r\na", nil},
		{"CL overflow", post + "Content-Length: 18446744073709551617\r\n\r\na", nil},
		{"CL empty", post + "Content-Length:\r\n\r\n" + evil, nil},
		{"CL Arabic digits", post + "Content-Length: ١\r\n\r\na", nil},
		{"Content_Length", post + fmt.Sprintf("Content_Length: %d\r\nContent-Length: 0\r\n\r\n", len(evil)), []string{"POST /a|"}},

		// TE.TE: any coding that one reader takes for chunked and another does not.
		{"TE xchunked", post + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", nil},
		{"TE chunked, identity", post + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", nil},
		{"TE identity, chunked", post + "Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n", nil},
		{"TE gzip, chunked", post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", nil},
		{"TE chunked, chunked", post + "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", nil},
		{"TE twice", post + chunked + "Transfer-Encoding: identity\r\n\r\n0\r\n\r\n", nil},
		{"TE twice, alike", post + chunked + chunked + "\r\n0\r\n\r\n", nil},
		{"TE identity with CL", post + "Transfer-Encoding: identity\r\nContent-Length: 1\r\n\r\na", nil},
		{"TE empty", post + "Transfer-Encoding:\r\nContent-Length: 1\r\n\r\na", nil},
		{"TE quoted", post + "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", nil},
		{"TE in capitals", post + "Transfer-Encoding: CHUNKED\r\n\r\n1\r\nb\r\n0\r\n\r\n", []string{"POST /a|b"}},
		{"TE with a parameter", post + "Transfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n", nil},
		{"TE vertical tab", post + "Transfer-Encoding:\vchunked\r\n\r\n0\r\n\r\n", nil},
		{"TE trailing NUL", post + "Transfer-Encoding: chunked\x00\r\n\r\n0\r\n\r\n", nil},
		{"TE non-breaking space", post + "Transfer-Encoding:\u00a0chunked\r\n\r\n0\r\n\r\n", nil},
		{"TE folded", post + "Transfer-Encoding:\r\n chunked\r\n\r\n1\r\nb\r\n0\r\n\r\n", []string{"POST /a|b"}},
		{"TE behind a bare CR", post + "X-A: b\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", nil},
		{"Transfer_Encoding", post + "Transfer_Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", []string{"POST /a|0\r\n\r\n"}},

		// Fields: RFC 9112 §5.1, no space before the colon; §5.2, no folding.
		{"space before the colon", post + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", nil},
		{"tab before the colon", post + "Content-Length\t: 1\r\n\r\na", nil},
		{"space before the name", "POST /a HTTP/1.1\r\n " + chunked + hostLine + "\r\n0\r\n\r\n", nil},
		{"no colon", post + "Transfer-Encoding chunked\r\n\r\n", nil},
		{"no name", post + ": chunked\r\n\r\n", nil},
		{"NUL in a name", post + "Transfer\x00-Encoding: chunked\r\n\r\n", nil},
		{"NUL in a value", get + "X-A: a\x00b\r\n\r\n", nil},
		{"bare CR in a value", get + "X-A: a\rX-B: b\r\n\r\n", nil},
		{"bare CR ends a line", "GET /a HTTP/1.1\r" + hostLine + "\r\n", nil},
		{"Connection names Content-Length", post + "Connection: Content-Length\r\nContent-Length: 2\r\n\r\nhi", []string{"POST /a|hi"}},
		{"Connection names Transfer-Encoding", post + "Connection: Transfer-Encoding\r\n" + chunked + "\r\n2\r\nhi\r\n0\r\n\r\n", []string{"POST /a|hi"}},
		{"Connection names Host", get + "Connection: Host\r\n\r\n", []string{"GET /a|"}},
		{"oversized section", get + "X-A: " + strings.Repeat("a", 64<<10) + "\r\n\r\n", nil},
		{"many fields", get + strings.Repeat("A: b\r\n", 20000) + "\r\n", nil},
		{"oversized request line", "GET /" + strings.Repeat("a", 64<<10) + " HTTP/1.1\r\n" + hostLine + "\r\n", nil},

		// Hosts: RFC 9112 §3.2.
		{"two hosts", get + hostLine + "\r\n", nil},
		{"two hosts, different", get + "Host: other.example\r\n\r\n", nil},
		{"no host", "GET /a HTTP/1.1\r\n\r\n", nil},
		{"host with a path", "GET /a HTTP/1.1\r\nHost: " + lanHost + "/x\r\n\r\n", nil},
		{"host with a user", "GET /a HTTP/1.1\r\nHost: x@" + lanHost + "\r\n\r\n", nil},
		{"host with a comma", "GET /a HTTP/1.1\r\nHost: " + lanHost + ",other.example\r\n\r\n", nil},
		{"absolute form, another host", "GET http://other.example/ HTTP/1.1\r\n" + hostLine + "\r\n", nil},
		{"absolute form, ours", "GET http://" + lanHost + "/a HTTP/1.1\r\nHost: other.example\r\n\r\n", []string{"GET /a|"}},
		{"absolute form with a user", "GET http://x@" + lanHost + "/a HTTP/1.1\r\n" + hostLine + "\r\n", []string{"GET /a|"}},

		// Request lines: RFC 9112 §3.
		{"two spaces", "GET  /a HTTP/1.1\r\n" + hostLine + "\r\n", nil},
		{"tabs", "GET\t/a\tHTTP/1.1\r\n" + hostLine + "\r\n", nil},
		{"space in the target", "GET /a b HTTP/1.1\r\n" + hostLine + "\r\n", nil},
		{"NUL in the target", "GET /a\x00 HTTP/1.1\r\n" + hostLine + "\r\n", nil},
		{"no version", "GET /a\r\n" + hostLine + "\r\n", nil},
		{"version 1.9", "GET /a HTTP/1.9\r\n" + hostLine + "\r\n", []string{"GET /a|"}},
		{"version 2.0", "GET /a HTTP/2.0\r\n" + hostLine + "\r\n", nil},
		{"asterisk without OPTIONS", "GET * HTTP/1.1\r\n" + hostLine + "\r\n", nil},
		{"lower-case version", "GET /a http/1.1\r\n" + hostLine + "\r\n", nil},
		{"method with a colon", "GET: /a HTTP/1.1\r\n" + hostLine + "\r\n", nil},
		{"CRLF encoded in the target", "GET /a%0d%0aX:%20b HTTP/1.1\r\n" + hostLine + "\r\n", []string{"GET /a%0d%0aX:%20b|"}},
		{"encoded dots and slashes stay", "GET /a%2f..%2f..%2e%5c?b=%0a HTTP/1.1\r\n" + hostLine + "\r\n", []string{"GET /a%2f..%2f..%2e%5c?b=%0a|"}},
		{"CONNECT", "CONNECT " + lanHost + ":443 HTTP/1.1\r\n" + hostLine + "\r\n" + evil, nil},
		{"CONNECT elsewhere", "CONNECT 127.0.0.1:22 HTTP/1.1\r\n" + hostLine + "\r\n", nil},
		{"TRACE", "TRACE /a HTTP/1.1\r\n" + hostLine + "\r\n", nil},
		{"TRACE in small letters", "trace /a HTTP/1.1\r\n" + hostLine + "\r\n", nil},

		// Chunks: RFC 9112 §7.1.
		{"chunk hides a request", post + chunked + fmt.Sprintf("\r\n%x\r\n%s\r\n0\r\n\r\n", len(evil), evil), []string{"POST /a|" + evil}},
		{"chunk extension", post + chunked + "\r\n1;a=b\r\nx\r\n0;c\r\n\r\n", []string{"POST /a|x"}},
		{"chunk extension with a bare CR", post + chunked + "\r\n1;a\rb\r\nx\r\n0\r\n\r\n", nil},
		{"chunk extension with a bare LF", post + chunked + "\r\n1;a\nx\r\n0\r\n\r\n", nil},
		{"chunk extension, quoted CRLF", post + chunked + "\r\n1;a=\"\r\nx\"\r\n0\r\n\r\n", nil},
		{"chunk extension, endless", post + chunked + "\r\n1;" + strings.Repeat("a", 64<<10) + "\r\nx\r\n0\r\n\r\n", nil},
		{"chunk size with 0x", post + chunked + "\r\n0x1\r\nx\r\n0\r\n\r\n", nil},
		{"chunk size with plus", post + chunked + "\r\n+1\r\nx\r\n0\r\n\r\n", nil},
		{"chunk size with minus", post + chunked + "\r\n-1\r\nx\r\n0\r\n\r\n", nil},
		{"chunk size empty", post + chunked + "\r\n\r\nx\r\n0\r\n\r\n", nil},
		{"chunk size overflow", post + chunked + "\r\n10000000000000001\r\nx\r\n0\r\n\r\n", nil},
		{"chunk size with zeros", post + chunked + "\r\n0000000000000001\r\nx\r\n0\r\n\r\n", []string{"POST /a|x"}},
		{"chunk longer than its size", post + chunked + "\r\n1\r\nxy\r\n0\r\n\r\n", nil},
		{"chunk ended by LF", post + chunked + "\r\n1\r\nx\n0\r\n\r\n", nil},
		{"chunk ended by CR CR LF", post + chunked + "\r\n1\r\nx\r\r\n0\r\n\r\n", nil},
		{"trailer names a length", post + "Trailer: Content-Length\r\n" + chunked + "\r\n0\r\nContent-Length: 9\r\n\r\n", nil},
		{"trailer not announced", post + chunked + "\r\n1\r\nx\r\n0\r\nX-Pic-Peer: laptop\r\n\r\n", []string{"POST /a|x"}},
		{"body cut off", post + "Content-Length: 100\r\n\r\n" + evil, nil},
		{"Expect and a request", post + "Expect: 100-continue\r\n" + fmt.Sprintf("Content-Length: %d\r\n\r\n", len(evil)) + evil, []string{"POST /a|" + evil}},
		{"Expect of another kind", post + "Expect: 200-ok\r\nContent-Length: 1\r\n\r\na", nil},

		// Upgrades and prefaces.
		{"h2c upgrade", get + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n", []string{"GET /a|"}},
		{"h2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", nil},
		{"WebSocket that the service refuses, and more", get + "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", []string{"GET /a|"}},
		{"empty lines first", "\r\n\r\n" + get + "\r\n", nil},

		// Two honest requests in one flight must arrive as two.
		{"pipelined", get + "\r\n" + "GET /b HTTP/1.1\r\n" + hostLine + "\r\n", []string{"GET /a|", "GET /b|"}},
	}
	return list
}

// HTTP-2: 0 desyncs. After each attack the next person's request through the
// same pool of connections gets its own answer.
func TestNoDesync(t *testing.T) {
	list := attacks()
	if len(list) < 60 {
		t.Fatalf("only %d attacks", len(list))
	}
	for _, a := range list {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			rec := newRecorder(t)
			r := run(t, proxy.Config{Dial: rec.dial})
			conn := r.dialTLS(t, lanHost)
			_, _ = io.WriteString(conn, a.raw) // a refusal may come before the end
			if err := conn.SetReadDeadline(time.Now().Add(700 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			answers, _ := io.ReadAll(conn)
			conn.Close()
			r.victim(t, rec, a.want, answers)
		})
	}
}

// victim asks twice after an attack and compares all that arrived.
func (r *running) victim(t *testing.T, rec *recorder, want []string, answers []byte) {
	t.Helper()
	c := r.client(t, false)
	for i := range 2 {
		target := fmt.Sprintf("/victim%d", i)
		resp, err := c.Get("https://" + lanHost + target)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(body) != target {
			t.Errorf("the next person asked for %s and got %q", target, body)
		}
		want = append(want[:len(want):len(want)], "GET "+target+"|")
	}
	seen, faults, raw := rec.snapshot()
	var got []string
	for _, q := range seen {
		got = append(got, q.method+" "+q.target+"|"+q.body)
		for _, f := range q.fields {
			if name, _, _ := strings.Cut(f, ":"); strings.EqualFold(name, "X-Pic-Peer") {
				t.Errorf("identity arrived: %s", f)
			}
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("arrived (-want +got):\n%s\nanswers:\n%.600q", d, answers)
	}
	if len(faults) > 0 {
		t.Errorf("could be misread: %q\n%.2000q", faults, raw)
	}
}

// Whatever a refused request was, its connection is not read on.
func TestARefusedRequestEndsItsConnection(t *testing.T) {
	rec := newRecorder(t)
	r := run(t, proxy.Config{Dial: rec.dial})
	for _, raw := range []string{
		post + "Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
		post + "Transfer-Encoding: xchunked\r\n\r\n",
		get + "X-A : b\r\n\r\n",
		"GET /a b HTTP/1.1\r\n" + hostLine + "\r\n",
	} {
		conn := r.dialTLS(t, lanHost)
		_, _ = io.WriteString(conn, raw+evil)
		in := bufio.NewReader(conn)
		resp, err := http.ReadResponse(in, nil)
		if err != nil || resp.StatusCode < 400 {
			t.Fatalf("%q: %v %v", raw, resp, err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		if rest, _ := io.ReadAll(in); len(bytes.TrimSpace(rest)) != 0 {
			t.Errorf("%q: answered again: %q", raw, rest)
		}
	}
	if seen, _, _ := rec.snapshot(); len(seen) != 0 {
		t.Errorf("arrived: %v", seen)
	}
}
