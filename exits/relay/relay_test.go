package relay_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/internal/netnstest"
)

func TestConnectionsThroughTheFirewallsRules(t *testing.T) {
	do := lab(t, setup{Firewall: true})
	if do == nil {
		return
	}
	for i, host := range []string{server4, server6} {
		src := []string{peer4[0], peer6[0]}[i]
		// A half-close arrives, and what is said after it comes back.
		c, err := dialFrom(t, "tcp", src, net.JoinHostPort(host, "80"))
		if err != nil {
			t.Fatal(err)
		}
		const size = 5_000_000
		if _, err := c.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		_ = c.(*net.TCPConn).CloseWrite()
		want := fmt.Sprintf("%d bytes at %s", size, net.JoinHostPort(host, "80"))
		if b, err := io.ReadAll(c); err != nil || string(b) != want {
			t.Errorf("%q, %v; want %q", b, err, want)
		}
		// Both directions at once, to the bit.
		if c, err = dialFrom(t, "tcp", src, net.JoinHostPort(host, "7")); err != nil {
			t.Fatal(err)
		}
		sent := make([]byte, 3_000_000)
		_, _ = rand.Read(sent)
		go func() {
			_, _ = c.Write(sent)
			_ = c.(*net.TCPConn).CloseWrite()
		}()
		if b, err := io.ReadAll(c); err != nil || !bytes.Equal(b, sent) {
			t.Errorf("%d bytes came back of %d, or others: %v", len(b), len(sent), err)
		}
		// The server ends first; the client can still speak.
		if c, err = dialFrom(t, "tcp", src, net.JoinHostPort(host, "83")); err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, c); err != nil || n != 4<<20 {
			t.Errorf("%d bytes, %v", n, err)
		}
		_ = c.Close() // it was open this way
	}
	netnstest.Eventually(t, waitFor, func() error {
		s := stats(t, do, "stats")
		if s.Active != 0 || s.Accepted != 6 || s.BytesUp != 2*(5_000_000+3_000_000) || s.BytesDown < 2*(3_000_000+4<<20) || s.Failed+s.Refused+s.Panics+s.Idle != 0 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
}

func isReset(err error) bool { return errors.Is(err, syscall.ECONNRESET) }

func TestFailuresAreToldAtOnce(t *testing.T) {
	do := lab(t, setup{})
	if do == nil {
		return
	}
	for i, host := range []string{server4, server6} {
		// Where nobody listens: a reset, not a hang and not an end.
		began := time.Now()
		c, err := dialFrom(t, "tcp", "", net.JoinHostPort(host, "81"))
		if err == nil {
			_, err = c.Read(make([]byte, 1))
		}
		if !isReset(err) {
			t.Errorf("a closed port at %s: %v", host, err)
		}
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("it took %v", d)
		}
		// A server that resets is not one that ends.
		if c, err = dialFrom(t, "tcp", "", net.JoinHostPort(host, "82")); err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write([]byte("xy"))
		if b, err := io.ReadAll(c); !isReset(err) {
			t.Errorf("a reset at %s: %q, %v", host, b, err)
		}
		// A crash ends its own connection.
		if c, err = dialFrom(t, "tcp", "", net.JoinHostPort(host, "666")); err == nil { // the reset may be quicker
			_, err = c.Read(make([]byte, 1))
		}
		if !isReset(err) {
			t.Errorf("a crash: %v", err)
		}
		if got := stats(t, do, "stats").Panics; got != uint64(i+1) {
			t.Errorf("%d panics", got)
		}
		// A client that resets is passed on: the connection is gone here.
		if c, err = dialFrom(t, "tcp", "", net.JoinHostPort(host, "7")); err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write([]byte("x"))
		_, _ = io.ReadFull(c, make([]byte, 1))
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
		// An upstream that is no socket is copied with buffers.
		if c, err = dialFrom(t, "tcp", "", net.JoinHostPort(host, "667")); err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write(make([]byte, 1_000_000))
		_ = c.(*net.TCPConn).CloseWrite()
		if b, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(b), "1000000 bytes") {
			t.Errorf("with buffers: %q, %v", b, err)
		}
	}
	// What is addressed to the relay itself would be a loop.
	for _, a := range []string{"127.0.0.1", "::1"} {
		before := stats(t, do, "stats").Refused
		_ = do("self " + net.JoinHostPort(a, fmt.Sprint(port)))
		netnstest.Eventually(t, waitFor, func() error {
			if got := stats(t, do, "stats").Refused; got != before+1 {
				return fmt.Errorf("%d refused, want %d", got, before+1)
			}
			return nil
		})
	}
	netnstest.Eventually(t, waitFor, func() error {
		if s := stats(t, do, "stats"); s.Active != 0 || s.Failed != 2 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
}

func TestLimitsAndMoves(t *testing.T) {
	do := lab(t, setup{MaxConns: 12, MaxPerSource: 10})
	if do == nil {
		return
	}
	open := func(src string) (net.Conn, error) {
		c, err := dialFrom(t, "tcp", src, net.JoinHostPort(server4, "7"))
		if err != nil {
			return nil, err
		}
		if _, err = c.Write([]byte("x")); err == nil {
			_, err = io.ReadFull(c, make([]byte, 1))
		}
		return c, err
	}
	var first, second []net.Conn
	for i := range 10 {
		c, err := open(peer4[0])
		if err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		first = append(first, c)
	}
	if _, err := open(peer4[0]); !isReset(err) {
		t.Errorf("one more than a source may have: %v", err)
	}
	for range 2 {
		c, err := open(peer4[1])
		if err != nil {
			t.Fatal(err)
		}
		second = append(second, c)
	}
	if _, err := open(peer4[1]); !isReset(err) {
		t.Errorf("one more than all may have: %v", err)
	}
	// The first peer moves to another exit.
	if got := do("close " + peer4[0]); got != "10" {
		t.Errorf("%s connections were ended", got)
	}
	for _, c := range first {
		if _, err := c.Read(make([]byte, 1)); !isReset(err) {
			t.Errorf("a moved peer's connection: %v", err)
		}
	}
	for _, c := range second { // the other's go on
		if _, err := c.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Error(err)
		}
	}
	netnstest.Eventually(t, waitFor, func() error {
		_, err := open(peer4[0])
		return err
	})
	if s := stats(t, do, "stats"); s.Refused < 2 {
		t.Errorf("%+v", s)
	}
	// The end of the relay is the end of all.
	if got := do("stop"); got != "<nil> <nil>" {
		t.Errorf("stopping: %s", got)
	}
	if _, err := second[0].Read(make([]byte, 1)); !isReset(err) {
		t.Errorf("after the relay's end: %v", err)
	}
	if s := stats(t, do, "stats"); s.Active != 0 {
		t.Errorf("%+v", s)
	}
}

func TestIdleConnectionsEnd(t *testing.T) {
	do := lab(t, setup{Idle: 400 * time.Millisecond})
	if do == nil {
		return
	}
	quiet, err := dialFrom(t, "tcp", "", net.JoinHostPort(server4, "7"))
	if err != nil {
		t.Fatal(err)
	}
	busy, err := dialFrom(t, "tcp", "", net.JoinHostPort(server6, "7"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := quiet.Read(make([]byte, 1))
		done <- err
	}()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for ended := false; !ended; {
		select {
		case err := <-done:
			if !isReset(err) {
				t.Errorf("a quiet connection ended with %v", err)
			}
			ended = true
		case <-tick.C:
			if _, err := busy.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(busy, make([]byte, 1)); err != nil {
				t.Fatalf("a busy connection ended: %v", err)
			}
		}
	}
	netnstest.Eventually(t, waitFor, func() error {
		if s := stats(t, do, "stats"); s.Idle != 1 || s.Active != 1 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
}

// Connections that wait hold two files each and no pipe.
func TestWaitingConnectionsHoldNoPipes(t *testing.T) {
	do := lab(t, setup{})
	if do == nil {
		return
	}
	var before, after int
	_, _ = fmt.Sscan(do("files"), &before)
	const n = 100
	for range n {
		c, err := dialFrom(t, "tcp", "", net.JoinHostPort(server4, "7"))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write([]byte("x"))
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	_, _ = fmt.Sscan(do("files"), &after)
	if after-before > 2*n+20 {
		t.Errorf("%d connections hold %d files", n, after-before)
	}
}
