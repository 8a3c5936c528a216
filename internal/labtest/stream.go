package labtest

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// streamRate is how many packets a second each side of a stream sends.
const streamRate = 1200

// Side is what one side of a stream counted.
type Side struct {
	Sent     int `json:"sent"`     // packets given to the kernel
	Received int `json:"received"` // different sequence numbers of the other side
}

// Loss of a finished stream.
type Loss struct {
	Client, Server Side
	Elapsed        time.Duration
}

// Up and Down are the packets lost from client to server and back.
func (l Loss) Up() int   { return l.Client.Sent - l.Server.Received }
func (l Loss) Down() int { return l.Server.Sent - l.Client.Received }

func (l Loss) String() string {
	return fmt.Sprintf("up %d sent %d lost, down %d sent %d lost, %.0f packets/s each way",
		l.Client.Sent, l.Up(), l.Server.Sent, l.Down(), float64(l.Client.Sent)/l.Elapsed.Seconds())
}

// Stream sends sequence-numbered datagrams between client and server, which
// listens on addr, for d in both directions of one flow, and counts what
// arrives. The returned function waits for the end.
func (l *Lab) Stream(client, server *Host, addr netip.AddrPort, d time.Duration) (wait func() Loss) {
	l.t.Helper()
	self, err := os.Executable()
	if err != nil {
		l.t.Fatal(err)
	}
	type result struct {
		side Side
		err  error
	}
	start := func(h *Host, role string) <-chan result {
		v, err := json.Marshal([]string{"stream", role, addr.String(), d.String()})
		if err != nil {
			l.t.Fatal(err)
		}
		c := h.Command(self)
		c.Env = append(os.Environ(), selfEnv+"="+string(v))
		c.Stderr = os.Stderr
		done := make(chan result, 1)
		go func() {
			var r result
			out, err := c.Output()
			if r.err = err; err == nil {
				r.err = json.Unmarshal(out, &r.side)
			}
			done <- r
		}()
		return done
	}
	s, c := start(server, "server"), start(client, "client")
	return func() Loss {
		l.t.Helper()
		rs, rc := <-s, <-c
		if err := errors.Join(rs.err, rc.err); err != nil {
			l.t.Fatalf("the stream: %v", err)
		}
		return Loss{Client: rc.side, Server: rs.side, Elapsed: d}
	}
}

// stream is the process behind one side. The client knocks until the server
// answers, then both count from zero; what is under way at the end has a
// second to arrive.
func stream(ctx context.Context, role, addr string, d time.Duration) error {
	var conn *net.UDPConn
	var err error
	var to netip.AddrPort
	target, err := netip.ParseAddrPort(addr)
	if err != nil {
		return err
	}
	if role == "server" {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(target))
	} else {
		conn, err = net.ListenUDP("udp", nil)
		to = target
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetReadBuffer(8 << 20); err != nil {
		return err
	}
	if role == "server" {
		to, err = awaitKnock(conn)
	} else {
		err = knock(conn, to)
	}
	if err != nil {
		return err
	}
	end := time.Now().Add(d)
	var side Side
	var wg sync.WaitGroup
	wg.Go(func() { side.Received = count(conn, end.Add(time.Second)) })
	side.Sent = send(ctx, conn, to, end)
	wg.Wait()
	return json.NewEncoder(os.Stdout).Encode(side)
}

// A knock is shorter than a numbered packet, so the two can't be confused.
func knock(conn *net.UDPConn, to netip.AddrPort) error {
	buf := make([]byte, 64)
	for range 300 {
		if _, err := conn.WriteToUDPAddrPort([]byte{1}, to); err != nil {
			return err
		}
		if err := conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			return err
		}
		if n, _, err := conn.ReadFromUDPAddrPort(buf); err == nil && n == 1 {
			return nil
		}
	}
	return fmt.Errorf("no answer from %s", to)
}

func awaitKnock(conn *net.UDPConn) (netip.AddrPort, error) {
	if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return netip.AddrPort{}, err
	}
	_, from, err := conn.ReadFromUDPAddrPort(make([]byte, 64))
	if err != nil {
		return netip.AddrPort{}, err
	}
	_, err = conn.WriteToUDPAddrPort([]byte{1}, from)
	return from, err
}

// burst bounds how many packets go out at once when the sender catches up
// after a stall: the queues on the way (WireGuard's hold 1,024) belong to the
// test's load, not to what it measures.
const burst = 32

// send keeps to the rate by the clock; after a stall it catches up.
func send(ctx context.Context, conn *net.UDPConn, to netip.AddrPort, end time.Time) (sent int) {
	start := time.Now()
	packet := make([]byte, 100)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for now := start; now.Before(end) && ctx.Err() == nil; now = <-tick.C {
		due := min(int(now.Sub(start).Seconds()*streamRate), sent+burst)
		for ; sent < due; sent++ {
			binary.BigEndian.PutUint64(packet, uint64(sent))
			if _, err := conn.WriteToUDPAddrPort(packet, to); err != nil {
				break // not sent, so not lost: the next tick tries it again
			}
		}
	}
	return sent
}

// count reads until the deadline and counts different sequence numbers.
func count(conn *net.UDPConn, until time.Time) int {
	seen := map[uint64]bool{}
	buf := make([]byte, 2048)
	for {
		if conn.SetReadDeadline(until) != nil {
			return len(seen)
		}
		n, _, err := conn.ReadFromUDPAddrPort(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return len(seen)
		case err == nil && n >= 8:
			seen[binary.BigEndian.Uint64(buf)] = true
		}
	}
}
