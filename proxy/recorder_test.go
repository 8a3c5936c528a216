package proxy_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// recorder is an upstream on a raw socket. It reads by the letter of RFC 9112
// and keeps every byte; whatever two readers could frame differently is a
// fault. Its answer's body is the target of the request, so that a client sees
// whose answer it got.
type recorder struct {
	t  testing.TB
	ln net.Listener
	// hold keeps requests for /slow until it is closed; may be nil.
	hold <-chan struct{}

	mu     sync.Mutex
	seen   []recorded
	faults []string
	raw    strings.Builder
}

// recorded is a request as it arrived.
type recorded struct {
	method, target, body string
	fields               []string // as they came, "name: value"
}

func newRecorder(t testing.TB) *recorder {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{t: t, ln: ln}
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			wg.Go(func() { r.serve(c) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return r
}

func (r *recorder) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, r.ln.Addr().String())
}

// snapshot returns what was seen so far, faults included.
func (r *recorder) snapshot() (seen []recorded, faults []string, raw string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]recorded(nil), r.seen...), append([]string(nil), r.faults...), r.raw.String()
}

func (r *recorder) fault(format string, a ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = append(r.faults, fmt.Sprintf(format, a...))
}

// tee keeps what is read.
type tee struct{ r *recorder }

func (w tee) Write(p []byte) (int, error) {
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	return w.r.raw.Write(p)
}

func (r *recorder) serve(c net.Conn) {
	defer c.Close()
	in := bufio.NewReader(io.TeeReader(c, tee{r}))
	for {
		if _, err := in.Peek(1); err != nil {
			return
		}
		q, err := r.read(in, c)
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || isReset(err) {
			return // cut off in the middle: nobody can take it for a whole one
		}
		if err != nil {
			r.fault("%v", err)
			return
		}
		r.mu.Lock()
		r.seen = append(r.seen, q)
		r.mu.Unlock()
		if q.target == "/slow" && r.hold != nil {
			<-r.hold
		}
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(q.target))
		if q.method != "HEAD" {
			_, _ = io.WriteString(c, q.target)
		}
	}
}

func isReset(err error) bool {
	var op *net.OpError
	return errors.As(err, &op)
}

// line reads up to CRLF and refuses a CR or LF of any other kind.
func line(in *bufio.Reader) (string, error) {
	s, err := in.ReadString('\n')
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return "", err
	}
	s, ok := strings.CutSuffix(s, "\r\n")
	if !ok || strings.ContainsAny(s, "\r\x00") {
		return "", fmt.Errorf("a line with a stray CR, LF or NUL: %q", s)
	}
	return s, nil
}

const tchar = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

func isToken(s string) bool {
	return s != "" && strings.Trim(s, tchar) == ""
}

func (r *recorder) read(in *bufio.Reader, out io.Writer) (q recorded, err error) {
	first, err := line(in)
	if err != nil {
		return q, err
	}
	parts := strings.Split(first, " ")
	if len(parts) != 3 || !isToken(parts[0]) || parts[2] != "HTTP/1.1" || !strings.HasPrefix(parts[1], "/") && parts[1] != "*" {
		return q, fmt.Errorf("a request line that is none: %q", first)
	}
	q.method, q.target = parts[0], parts[1]
	var lengths, codings, hosts []string
	for {
		l, err := line(in)
		if err != nil {
			return q, err
		}
		if l == "" {
			break
		}
		name, value, ok := strings.Cut(l, ":")
		if !ok || !isToken(name) {
			return q, fmt.Errorf("a field that is none: %q", l)
		}
		q.fields = append(q.fields, l)
		value = strings.Trim(value, " \t")
		// As lenient readers do, "_" counts as "-".
		switch strings.ReplaceAll(strings.ToLower(name), "_", "-") {
		case "content-length":
			lengths = append(lengths, value)
		case "transfer-encoding":
			codings = append(codings, value)
		case "host":
			hosts = append(hosts, value)
		case "expect":
			_, _ = io.WriteString(out, "HTTP/1.1 100 Continue\r\n\r\n")
		}
	}
	switch {
	case len(hosts) != 1 || hosts[0] != lanHost:
		return q, fmt.Errorf("Host %q", hosts)
	case len(lengths)+len(codings) > 1:
		return q, fmt.Errorf("framed more than once: lengths %q, codings %q", lengths, codings)
	case len(codings) == 1:
		if codings[0] != "chunked" {
			return q, fmt.Errorf("coding %q", codings[0])
		}
		q.body, err = chunks(in)
	case len(lengths) == 1:
		n, convErr := strconv.ParseUint(lengths[0], 10, 31)
		if convErr != nil || lengths[0] != strconv.FormatUint(n, 10) {
			return q, fmt.Errorf("length %q", lengths[0])
		}
		b := make([]byte, n)
		_, err = io.ReadFull(in, b)
		q.body = string(b)
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return q, err
}

// chunks reads a chunked body without extensions and trailers.
func chunks(in *bufio.Reader) (string, error) {
	var body strings.Builder
	for {
		size, err := line(in)
		if err != nil {
			return "", err
		}
		n, err := strconv.ParseUint(size, 16, 31)
		if err != nil {
			return "", fmt.Errorf("chunk size %q", size)
		}
		if n > 0 {
			if _, err := io.CopyN(&body, in, int64(n)); err != nil {
				return "", io.ErrUnexpectedEOF
			}
		}
		if end, err := line(in); err != nil {
			return "", err
		} else if end != "" {
			return "", fmt.Errorf("after a chunk: %q", end)
		}
		if n == 0 {
			return body.String(), nil
		}
	}
}

// The recorder must be able to see a desync: these go to it past the proxy.
func TestTheRecorderSeesADesync(t *testing.T) {
	const h = "Host: " + lanHost + "\r\n"
	for name, raw := range map[string]string{
		"length and coding":     "POST / HTTP/1.1\r\n" + h + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"two lengths":           "POST / HTTP/1.1\r\n" + h + "Content-Length: 0\r\nContent-Length: 5\r\n\r\n",
		"underscored length":    "POST / HTTP/1.1\r\n" + h + "Content-Length: 0\r\nContent_Length: 5\r\n\r\n",
		"bare LF":               "GET / HTTP/1.1\n" + h + "\r\n",
		"bare CR":               "GET / HTTP/1.1\r\n" + h + "A: b\rC: d\r\n\r\n",
		"space before colon":    "GET / HTTP/1.1\r\n" + h + "Transfer-Encoding : chunked\r\n\r\n",
		"chunk extension":       "POST / HTTP/1.1\r\n" + h + "Transfer-Encoding: chunked\r\n\r\n1;a=b\r\na\r\n0\r\n\r\n",
		"trailer":               "POST / HTTP/1.1\r\n" + h + "Transfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n\r\n",
		"half a request before": "x\r\nGET / HTTP/1.1\r\n" + h + "\r\n",
		"another host":          "GET / HTTP/1.1\r\nHost: other.example\r\n\r\n",
		"an absolute target":    "GET http://other.example/ HTTP/1.1\r\n" + h + "\r\n",
	} {
		r := newRecorder(t)
		c, err := net.Dial("tcp", r.ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, raw)
		_, _ = io.Copy(io.Discard, c) // it hangs up at a fault
		c.Close()
		if _, faults, _ := r.snapshot(); len(faults) == 0 {
			t.Errorf("%s: not seen", name)
		}
	}
}
