package dialer_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/exits/dialer"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// patience is the limit that the dialers of these tests have.
const patience = 300 * time.Millisecond

// checker is what Proxy and SSH have in common.
type checker interface {
	dialer.Dialer
	Check(ctx context.Context) error
	Run(ctx context.Context) error
}

// everyDialer makes one of each kind for a server on a port of 127.0.0.1. They
// need no privileges.
func everyDialer(t *testing.T, port uint16) map[string]checker {
	_, private, _ := newKey(t)
	out := map[string]checker{"ssh": dialer.NewSSH(&dialer.SSHConfig{
		Host: "127.0.0.1", Port: port, User: "root", Auth: cell.SSHKey, Credential: cell.NewSecret(private),
		Pin: func(string) error { return nil }, Base: &net.Dialer{}, Timeout: patience,
	})}
	for _, p := range []cell.ProxyProtocol{cell.ProxySOCKS5, cell.ProxyHTTP, cell.ProxyHTTPS} {
		out[string(p)] = dialer.NewProxy(&dialer.ProxyConfig{
			Protocol: p, Host: "127.0.0.1", Port: port, Username: "ann", Password: cell.NewSecret("secret"),
			Base: &net.Dialer{}, Timeout: patience,
		})
	}
	return out
}

// fails checks that a check and a dial end in ErrUpstream, in time.
func fails(t *testing.T, what string, d checker) {
	t.Helper()
	began := time.Now()
	want(t, what+": check", d.Check(t.Context()), dialer.ErrUpstream)
	if s, ok := d.(*dialer.SSH); ok {
		defer run(t, s)()
	}
	_, err := d.DialContext(t.Context(), "tcp", "192.0.2.1:80")
	want(t, what+": dial", err, dialer.ErrUpstream)
	if took := time.Since(began); took > 2*patience+2*time.Second {
		t.Errorf("%s took %v", what, took)
	}
}

// say answers with text as soon as something was read, and then stalls.
func say(texts ...string) func(net.Conn) {
	return func(c net.Conn) {
		b := make([]byte, 4096)
		for _, text := range texts {
			if _, err := c.Read(b); err != nil {
				return
			}
			if _, err := io.WriteString(c, text); err != nil {
				return
			}
		}
		_, _ = io.Copy(io.Discard, c)
	}
}

func TestServersThatAreNoneEndInTheirTime(t *testing.T) {
	t.Parallel()
	nobody := serve(t, "127.0.0.1:0", func(net.Conn) {})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := uint16(l.Addr().(*net.TCPAddr).Port)
	_ = l.Close()
	endless := func(prefix, again string) func(net.Conn) {
		return func(c net.Conn) {
			_, _ = c.Read(make([]byte, 4096))
			_, err := io.WriteString(c, prefix)
			for err == nil {
				_, err = io.WriteString(c, again)
			}
		}
	}
	for what, port := range map[string]uint16{
		"closed port":  closed,
		"hangs up":     nobody,
		"says nothing": serve(t, "127.0.0.1:0", say()),
		"garbage":      serve(t, "127.0.0.1:0", say("\x00\xff\x13garbage\r\n\r\n")),
		"no end":       serve(t, "127.0.0.1:0", endless("", strings.Repeat("x", 1000))),
	} {
		for kind, d := range everyDialer(t, port) {
			fails(t, kind+" "+what, d)
		}
	}
	// Each protocol, broken off or gone on for ever behind a good beginning.
	for _, x := range []struct {
		kind, what string
		handle     func(net.Conn)
	}{
		{"socks5", "stalls before the login", say("\x05\x02")},
		{"socks5", "stalls after the login", say("\x05\x02", "\x01\x00")},
		{"socks5", "stalls in the reply", say("\x05\x02", "\x01\x00", "\x05\x00\x00\x03\xff")},
		{"socks5", "another version", say("\x04\x02")},
		{"socks5", "a method that was not offered", say("\x05\x01")},
		{"socks5", "an address type that is none", say("\x05\x00", "\x05\x00\x00\x09")},
		{"http", "stalls in the head", say("HTTP/1.1 200 OK\r\nX-A: b\r\n")},
		{"http", "a head without end", endless("HTTP/1.1 200 OK\r\nX-A: ", "aaaaaaaa")},
		{"http", "interim answers without end", endless("", "HTTP/1.1 102 Processing\r\n\r\n")},
		{"http", "a status that is none", say("HTTP/1.1 -2 OK\r\n\r\n")},
		{"ssh", "stalls after its version", say("SSH-2.0-x\r\n")},
		{"ssh", "version 1", say("SSH-1.5-x\r\n")},
		{"ssh", "lines without end", endless("", "hello\r\n")},
		{"ssh", "packets of garbage", say("SSH-2.0-x\r\n" + strings.Repeat("\xff", 100))},
	} {
		fails(t, x.kind+" "+x.what, everyDialer(t, serve(t, "127.0.0.1:0", x.handle))[x.kind])
	}
}

// What ends a dial early ends it at once, and says so.
func TestADialEndsWithItsContext(t *testing.T) {
	t.Parallel()
	accepted := make(chan struct{}, 10)
	port := serve(t, "127.0.0.1:0", func(c net.Conn) {
		accepted <- struct{}{}
		_, _ = io.Copy(io.Discard, c)
	})
	for kind, d := range everyDialer(t, port) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- d.Check(ctx) }()
		<-accepted
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) || !errors.Is(err, dialer.ErrUpstream) {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// Destinations are written into requests: what is no name never is.
func TestDestinationsCantCarryRequests(t *testing.T) {
	t.Parallel()
	port := serve(t, "127.0.0.1:0", say("\x05\x00", "\x05\x00\x00\x01aaaabb"))
	for kind, d := range everyDialer(t, port) {
		for _, bad := range []string{
			"", "example.test", "example.test:0", "example.test:http", "example.test:70000", ":80", "a..b:80",
			"exa mple:80", "a\r\nHost: b:80", "a\x00b:80", "fe80::1%eth0:80", "[fe80::1%eth0]:80", "ä.test:80",
			strings.Repeat("a", 64) + ":80", strings.Repeat("a.", 127) + "a:80",
		} {
			if _, err := d.DialContext(t.Context(), "tcp", bad); !errors.Is(err, dialer.ErrRefused) {
				t.Errorf("%s to %q: %v", kind, bad, err)
			}
		}
		if _, err := d.DialContext(t.Context(), "unix", "a.test:80"); !errors.Is(err, dialer.ErrRefused) {
			t.Errorf("%s over unix: %v", kind, err)
		}
	}
}

// What a proxy sends right behind its answer belongs to the connection.
func TestDataBehindTheAnswerIsNotLost(t *testing.T) {
	t.Parallel()
	for kind, handle := range map[string]func(net.Conn){
		"socks5": say("\x05\x00", "\x05\x00\x00\x03\x04name\x00\x50220 ready\r\n"),
		"http":   say("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 Connected\nContent-Length: 5\n\n220 ready\r\n"),
	} {
		c, err := everyDialer(t, serve(t, "127.0.0.1:0", handle))[kind].DialContext(t.Context(), "tcp", "name.test:25")
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		_ = c.SetDeadline(time.Now().Add(waitFor))
		b := make([]byte, len("220 ready\r\n"))
		if _, err := io.ReadFull(c, b); err != nil || string(b) != "220 ready\r\n" {
			t.Errorf("%s: %q, %v", kind, b, err)
		}
		_ = c.Close()
	}
	// It can be taken off, so that the rest is spliced.
	c, err := everyDialer(t, serve(t, "127.0.0.1:0", say("HTTP/1.1 200 OK\r\n\r\nhead")))["http"].DialContext(t.Context(), "tcp", "192.0.2.1:25")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	u, ok := c.(interface{ Unread() ([]byte, net.Conn) })
	if !ok {
		t.Fatalf("what came in one segment with the answer is not on a %T", c)
	}
	head, rest := u.Unread()
	if _, tcp := rest.(*net.TCPConn); string(head) != "head" || !tcp {
		t.Errorf("%q on a %T", head, rest)
	}
}

// server is an SSH server with faults.
type server struct {
	config *ssh.ServerConfig
	deaf   chan struct{} // closed: answers no request any more
	mute   bool          // never answers the opening of a channel
}

func (s *server) handle(c net.Conn) {
	conn, channels, requests, err := ssh.NewServerConn(c, s.config)
	if err != nil {
		return
	}
	defer conn.Close()
	go func() {
		for r := range requests {
			select {
			case <-s.deaf:
			default:
				_ = r.Reply(false, nil)
			}
		}
	}()
	for n := range channels {
		if s.mute {
			continue
		}
		ch, rs, err := n.Accept()
		if err != nil {
			return
		}
		go ssh.DiscardRequests(rs)
		go func() { _, _ = io.Copy(ch, ch) }()
	}
}

func faulty(t *testing.T, edit func(*server)) *dialer.SSH {
	t.Helper()
	public, _, signer := newKey(t)
	s := &server{config: &ssh.ServerConfig{NoClientAuth: true}, deaf: make(chan struct{})}
	s.config.AddHostKey(signer)
	edit(s)
	return dialer.NewSSH(&dialer.SSHConfig{
		Host: "127.0.0.1", Port: serve(t, "127.0.0.1:0", s.handle), User: "ann", Auth: cell.SSHPassword, Credential: cell.NewSecret("secret"),
		HostKey: public, Base: &net.Dialer{}, Timeout: patience, Keepalive: 30 * time.Millisecond,
	})
}

func TestAnSSHServerThatStopsAnsweringIsLeft(t *testing.T) {
	t.Parallel()
	var deaf chan struct{}
	d := faulty(t, func(s *server) { deaf = s.deaf })
	run(t, d)
	c, err := d.DialContext(t.Context(), "tcp", "192.0.2.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(waitFor))
	if _, err := c.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	close(deaf) // data would still pass
	if _, err := io.ReadAll(c); !errors.Is(err, dialer.ErrUpstream) {
		t.Errorf("the connection of a deaf server ended with %v", err)
	}
}

func TestAnSSHServerThatOpensNoChannelIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	d := faulty(t, func(s *server) { s.mute = true })
	run(t, d)
	for range 3 {
		_, err := d.DialContext(t.Context(), "tcp", "192.0.2.1:80")
		want(t, "a channel that is never opened", err, dialer.ErrUpstream)
	}
}

func TestPasswordsAreGivenToHiddenQuestionsOnly(t *testing.T) {
	t.Parallel()
	var got []string
	ask := func(_ ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
		a, err := ask("", "", []string{"Name: ", "Password: "}, []bool{true, false})
		got = a
		if err != nil || len(a) != 2 || a[1] != "secret" {
			return nil, fmt.Errorf("no")
		}
		return nil, nil
	}
	d := faulty(t, func(s *server) {
		s.config.NoClientAuth = false
		s.config.KeyboardInteractiveCallback = ask
	})
	if err := d.Check(t.Context()); err != nil || len(got) != 2 || got[0] != "" {
		t.Errorf("answered %q, %v", got, err)
	}
}

func TestALostServerIsTriedAgainWhenAsked(t *testing.T) {
	t.Parallel()
	public, _, signer := newKey(t)
	s := &server{config: &ssh.ServerConfig{NoClientAuth: true}, deaf: make(chan struct{})}
	s.config.AddHostKey(signer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	_ = l.Close()
	d := dialer.NewSSH(&dialer.SSHConfig{
		Host: "127.0.0.1", Port: port, User: "ann", Auth: cell.SSHPassword, HostKey: public, Base: &net.Dialer{}, Timeout: waitFor,
	})
	run(t, d)
	_, err = d.DialContext(t.Context(), "tcp", "192.0.2.1:80")
	want(t, "nobody there", err, dialer.ErrUpstream)
	serve(t, fmt.Sprint("127.0.0.1:", port), s.handle)
	netnstest.Eventually(t, waitFor, func() error { return d.Check(t.Context()) })
}
