package relay_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/exits/dialer"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

const socks4 = "10.17.0.1:10880"

func TestSOCKSServerWithCurl(t *testing.T) {
	do := lab(t, setup{}, "curl")
	if do == nil {
		return
	}
	curl := func(src string, args ...string) (string, error) {
		c := exec.CommandContext(t.Context(), "curl", append([]string{"-sS", "--max-time", "10", "--interface", src}, args...)...)
		out, err := c.CombinedOutput()
		return string(out), err
	}
	// The name exists only behind the exit: nobody here looks it up.
	for _, x := range []struct{ src, proxy, host string }{
		{peer4[0], socks4, "web.example.test"},
		{peer4[0], socks4, server4},
		{peer4[0], socks4, "[" + server6 + "]"},
		{peer6[0], "[fd02:304:506::1]:10880", "web.example.test"},
	} {
		out, err := curl(x.src, "--socks5-hostname", x.proxy, "http://"+x.host+":8080/")
		if err != nil || !strings.Contains(out, "hello at") {
			t.Errorf("%+v: %q, %v", x, out, err)
		}
	}
	for what, x := range map[string]struct{ src, dst, reply string }{
		"a peer without a grant":      {peer4[1], server4 + ":80", ""},
		"nobody listens":              {peer4[0], server4 + ":81", "(5)"},
		"a name that is none":         {peer4[0], "other.example.test:80", "(4)"},
		"the exit's own loopback":     {peer4[0], "127.0.0.1:80", "(5)"},
		"… by name":                   {peer4[0], "localhost:80", "(5)"},
		"a dialer that crashes":       {peer4[0], server4 + ":666", ""},
		"… and an upstream that lies": {peer4[0], "nowhere.test:667", "(4)"},
	} {
		out, err := curl(x.src, "--socks5-hostname", socks4, "telnet://"+x.dst)
		if err == nil || !strings.Contains(out, x.reply) {
			t.Errorf("%s: %q, %v", what, out, err)
		}
	}
	if s := stats(t, do, "socks"); s.Panics != 1 || s.Refused != 1 {
		t.Errorf("%+v", s)
	}
}

// Our own client speaks to our own server: half-closes, data sent along with
// the request, upstreams that are no socket, limits, moves.
func TestSOCKSServerKeepsWhatConnectionsAre(t *testing.T) {
	do := lab(t, setup{MaxPerSource: 5, Handshake: 500 * time.Millisecond})
	if do == nil {
		return
	}
	p := dialer.NewProxy(&dialer.ProxyConfig{
		Protocol: cell.ProxySOCKS5, Host: "10.17.0.1", Port: 10880,
		Base: &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(peer4[0])}},
	})
	for _, dst := range []string{server4 + ":80", "[" + server6 + "]:80", "web.example.test:80", server4 + ":667"} {
		c, err := p.DialContext(t.Context(), "tcp", dst)
		if err != nil {
			t.Fatalf("%s: %v", dst, err)
		}
		_ = c.SetDeadline(time.Now().Add(waitFor))
		_, _ = c.Write(make([]byte, 2_000_000))
		_ = c.(*net.TCPConn).CloseWrite()
		if b, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(b), "2000000 bytes") {
			t.Errorf("%s: %q, %v", dst, b, err)
		}
		_ = c.Close()
	}
	// Request and data in one segment: they stay in order.
	c, err := dialFrom(t, "tcp", peer4[0], socks4)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = c.Write([]byte("\x05\x01\x00\x05\x01\x00\x01\xc6\x33\x64\x09\x00\x07first"))
	b := make([]byte, 2+10+len("first"))
	if _, err := io.ReadFull(c, b); err != nil || string(b[12:]) != "first" {
		t.Errorf("%q, %v", b, err)
	}
	_, _ = c.Write([]byte("second"))
	if _, err := io.ReadFull(c, b[:6]); err != nil || string(b[:6]) != "second" {
		t.Errorf("%q, %v", b, err)
	}
	_ = c.Close()
	// BIND and UDP ASSOCIATE are not had: 7.
	for _, cmd := range []string{"\x02", "\x03"} {
		c, err := dialFrom(t, "tcp", peer4[0], socks4)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write([]byte("\x05\x01\x00\x05" + cmd + "\x00\x01\xc6\x33\x64\x09\x00\x07"))
		if b, _ := io.ReadAll(c); len(b) < 4 || b[3] != 7 {
			t.Errorf("%q", b)
		}
	}
	// Whoever says nothing, or nonsense, is cut off; others are served meanwhile.
	netnstest.Eventually(t, waitFor, func() error {
		if s := stats(t, do, "socks"); s.Active != 0 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	silent := make([]net.Conn, 5)
	for i := range silent {
		if silent[i], err = dialFrom(t, "tcp", peer4[0], socks4); err != nil {
			t.Fatal(err)
		}
	}
	netnstest.Eventually(t, waitFor, func() error {
		if s := stats(t, do, "socks"); s.Active != 5 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	if _, err := p.DialContext(t.Context(), "tcp", server4+":80"); err == nil {
		t.Error("one more than a source may have was served")
	}
	if n, err := silent[0].Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a client that says nothing was told %d bytes, %v", n, err)
	}
	if got := do("stop"); got != "<nil> <nil>" {
		t.Errorf("stopping: %s", got)
	}
}
