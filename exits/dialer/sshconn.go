package dialer

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// sshBuffer is that of each direction of a channel.
const sshBuffer = 16 << 10

// lossDelay is how long the end of a direction waits for the news that it was
// the whole connection which ended: the library tells the channels first.
const lossDelay = 5 * time.Millisecond

// sshConn makes a channel a net.Conn whose Close and deadlines end waiting
// reads and writes at once, which those of an [ssh.Channel] do only when the
// server agrees. Between it and the channel is a pipe for each direction.
type sshConn struct {
	ch              ssh.Channel
	l               *link
	to              target
	in, out         net.Conn    // our ends: what we read, what we write
	inPump, outPump net.Conn    // the pumps' ends of the same
	cut             atomic.Bool // the connection was lost: what we read is not whole
	closed          chan struct{}
	once            sync.Once
}

func newSSHConn(l *link, ch ssh.Channel, to target) *sshConn {
	c := &sshConn{l: l, ch: ch, to: to, closed: make(chan struct{})}
	c.in, c.inPump = net.Pipe()
	c.out, c.outPump = net.Pipe()
	return c
}

// Read returns [io.EOF] when the destination ended its direction, and
// [ErrUpstream] when the SSH connection was lost before it did.
func (c *sshConn) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	if errors.Is(err, io.EOF) && c.cut.Load() {
		err = errLost
	}
	return n, err
}

// Write sends p; it may return before the server has all of it.
func (c *sshConn) Write(p []byte) (int, error) { return c.out.Write(p) }

// CloseWrite ends our direction (RFC 4254 §5.3, EOF).
func (c *sshConn) CloseWrite() error { return c.out.Close() }

// Close ends the channel.
func (c *sshConn) Close() error {
	c.once.Do(func() {
		_ = c.in.Close()
		_ = c.out.Close()
		close(c.closed)
	})
	return nil
}

func (c *sshConn) SetDeadline(t time.Time) error {
	return errors.Join(c.in.SetDeadline(t), c.out.SetDeadline(t))
}
func (c *sshConn) SetReadDeadline(t time.Time) error  { return c.in.SetReadDeadline(t) }
func (c *sshConn) SetWriteDeadline(t time.Time) error { return c.out.SetWriteDeadline(t) }

// LocalAddr is unknown: zero.
func (c *sshConn) LocalAddr() net.Addr { return &net.TCPAddr{} }

// RemoteAddr is the destination where it is an address, else zero.
func (c *sshConn) RemoteAddr() net.Addr {
	if c.to.addr.IsValid() {
		return net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.to.addr, c.to.port))
	}
	return &net.TCPAddr{}
}

// pump copies between the pipes and the channel until both directions have
// ended or the conn is closed, and the server has confirmed it. When it does
// not, the SSH connection is ended.
func (c *sshConn) pump(requests <-chan *ssh.Request) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { ssh.DiscardRequests(requests) }) // until the channel ends
	ended := make(chan struct{}, 2)
	wg.Go(func() { c.send(); ended <- struct{}{} })
	wg.Go(func() { c.receive(); ended <- struct{}{} })
	for n := 0; n < 2; n++ {
		select {
		case <-ended:
			continue
		case <-c.closed:
		}
		break
	}
	_ = c.ch.Close()
	late := time.AfterFunc(closeTimeout, func() { _ = c.l.client.Close() })
	wg.Wait()
	late.Stop()
}

// send copies what we write, then ends our direction.
func (c *sshConn) send() {
	defer func() { _ = c.outPump.Close() }() // a writer learns it
	buf := make([]byte, sshBuffer)
	for {
		n, err := c.outPump.Read(buf)
		if n > 0 {
			if _, werr := c.ch.Write(buf[:n]); werr != nil {
				return
			}
		}
		if err != nil {
			_ = c.ch.CloseWrite()
			return
		}
	}
}

// receive copies what the server sends, then ends that direction.
func (c *sshConn) receive() {
	defer func() { _ = c.inPump.Close() }() // a reader sees it
	buf := make([]byte, sshBuffer)
	for {
		n, err := c.ch.Read(buf)
		if n > 0 {
			if _, werr := c.inPump.Write(buf[:n]); werr != nil {
				// Closed. What still comes is dropped, so that a full window does
				// not keep the server from confirming.
				_, _ = io.Copy(io.Discard, c.ch)
				return
			}
		}
		if err != nil {
			c.cut.Store(c.l.isLost())
			return
		}
	}
}
