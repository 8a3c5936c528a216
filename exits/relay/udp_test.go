package relay_test

import (
	"bytes"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// ask sends a datagram and waits for it to come back from whom it was sent to.
func ask(c net.Conn, b []byte) error {
	if _, err := c.Write(b); err != nil {
		return err
	}
	got := make([]byte, 65536)
	n, err := c.Read(got) // the socket is connected: answers of others don't arrive
	if err == nil && !bytes.Equal(got[:n], b) {
		err = fmt.Errorf("%d bytes came back of %d", n, len(b))
	}
	return err
}

func TestDatagrams(t *testing.T) {
	do := lab(t, setup{UDP: true, MaxFlows: 40})
	if do == nil {
		return
	}
	for i, host := range []string{server4, server6} {
		c, err := dialFrom(t, "udp", []string{peer4[0], peer6[0]}[i], net.JoinHostPort(host, "7"))
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{1, 1200, 20000, 1, 0, 500} {
			if err := ask(c, make([]byte, size)); err != nil {
				t.Errorf("%d bytes to %s: %v", size, host, err)
			}
		}
	}
	// An answer is counted once it is sent, which may be after it was read here.
	netnstest.Eventually(t, 5*time.Second, func() error {
		s := stats(t, do, "stats")
		if s.Flows != 2 || s.Accepted != 2 || s.BytesUp != 2*21702 || s.BytesDown != 2*21702 || s.Dropped != 0 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	// A burst before the flow is connected: a few wait, order and number hold.
	c, err := dialFrom(t, "udp", peer4[0], net.JoinHostPort(server4, "7"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if _, err := c.Write([]byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[byte]bool{}
	b := make([]byte, 10)
	for range 5 {
		if _, err := c.Read(b); err != nil {
			t.Fatal(err)
		}
		seen[b[0]] = true
	}
	if len(seen) != 5 {
		t.Errorf("of five datagrams %d came back", len(seen))
	}
	// Limits: ten flows of a source, a quarter of all.
	for i := range 20 {
		c, err := dialFrom(t, "udp", peer4[1], net.JoinHostPort(server4, "7"))
		if err != nil {
			t.Fatal(err)
		}
		if i < 10 {
			if err := ask(c, []byte("x")); err != nil {
				t.Errorf("flow %d: %v", i, err)
			}
		} else if _, err := c.Write([]byte("x")); err != nil {
			t.Error(err)
		}
	}
	netnstest.Eventually(t, waitFor, func() error {
		if s := stats(t, do, "stats"); s.Flows != 13 || s.Refused != 10 || s.Dropped != 10 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	// A crash ends its own flow.
	c, err = dialFrom(t, "udp", peer4[0], net.JoinHostPort(server4, "666"))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = c.Write([]byte("x"))
	netnstest.Eventually(t, waitFor, func() error {
		if s := stats(t, do, "stats"); s.Panics != 1 || s.Flows != 13 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	// The second peer moves.
	if got := do("close " + peer4[1]); got != "10" {
		t.Errorf("%s flows were ended", got)
	}
	netnstest.Eventually(t, waitFor, func() error {
		if s := stats(t, do, "stats"); s.Flows != 3 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	if got := do("stop"); got != "<nil> <nil>" {
		t.Errorf("stopping: %s", got)
	}
}

func TestQuietFlowsEnd(t *testing.T) {
	do := lab(t, setup{UDP: true, UDPIdle: 300 * time.Millisecond})
	if do == nil {
		return
	}
	c, err := dialFrom(t, "udp", "", net.JoinHostPort(server4, "7"))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // a flow that ended begins anew
		if err := ask(c, []byte("x")); err != nil {
			t.Fatal(err)
		}
		netnstest.Eventually(t, waitFor, func() error {
			if s := stats(t, do, "stats"); s.Flows != 0 || s.Idle == 0 {
				return fmt.Errorf("%+v", s)
			}
			return nil
		})
	}
	if s := stats(t, do, "stats"); s.Accepted != 2 {
		t.Errorf("%+v", s)
	}
}
