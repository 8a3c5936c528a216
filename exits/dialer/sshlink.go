package dialer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// errLost says that the connection ended before the channel was open.
var errLost = fmt.Errorf("%w: the SSH connection was lost", ErrUpstream)

// closeTimeout is how long a server may take to confirm a channel's end
// (RFC 4254 §5.3) before the connection is held for broken. It has to send
// what is under way first, over lines that may be slow.
const closeTimeout = 5 * time.Minute

// link is one connection to the server.
type link struct {
	s      *SSH
	client *ssh.Client
	dead   *atomic.Bool   // the carrier can't be read any more
	lost   chan struct{}  // closed when the library knows
	wg     sync.WaitGroup // of the channels' goroutines
	open   int            // channels; under s.mu
}

// watched is a carrier that tells when it can't be read any more: the library
// ends the channels first and says why later.
type watched struct {
	net.Conn
	dead *atomic.Bool
}

func (w watched) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if err != nil {
		w.dead.Store(true)
	}
	return n, err
}

func (w watched) Close() error {
	w.dead.Store(true)
	return w.Conn.Close()
}

// isLost reports, when a channel has ended, whether all of the connection has.
func (l *link) isLost() bool {
	if l.dead.Load() {
		return true
	}
	t := time.NewTimer(lossDelay)
	defer t.Stop()
	select {
	case <-l.lost:
		return true
	case <-t.C:
		return l.dead.Load()
	}
}

// hold offers a connection for dialing and looks after it until it ends.
func (s *SSH) hold(ctx context.Context, client *ssh.Client, dead *atomic.Bool) error {
	l := &link{s: s, client: client, dead: dead, lost: make(chan struct{})}
	var wg sync.WaitGroup
	var ending error
	wg.Go(func() {
		ending = client.Wait()
		close(l.lost)
	})
	s.update(func() { s.links, s.last = append(s.links, l), nil; s.ended++ })
	s.cfg.Log.Info("ssh connection up", "server", s.addr)
	defer wg.Wait()
	defer l.wg.Wait()
	defer func() { _ = client.Close() }()
	defer s.drop(l)

	tick := time.NewTicker(s.cfg.Keepalive)
	defer tick.Stop()
	answer := make(chan error, 1)
	asked := 0 // ticks since the oldest question without an answer
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.lost:
			return upstream("keeping the SSH connection", errors.New(clip(fmt.Sprint(ending))))
		case <-answer: // an error shows up as a loss
			asked = 0
		case <-tick.C:
			if asked++; asked > keepaliveCount {
				return upstream("keeping the SSH connection", errors.New("the server does not answer any more"))
			}
			if asked == 1 { // answered by a failure too (RFC 4254 §4)
				wg.Go(func() {
					_, _, err := client.SendRequest("keepalive@openssh.com", true, nil)
					answer <- err
				})
			}
		}
	}
}

// drop takes a connection out of use.
func (s *SSH) drop(l *link) {
	s.mu.Lock()
	there := slices.Contains(s.links, l)
	s.mu.Unlock()
	if there {
		s.update(func() { s.links = slices.DeleteFunc(s.links, func(x *link) bool { return x == l }) })
	}
}

// alive asks the server for an answer.
func (l *link) alive(ctx context.Context) error {
	answer := make(chan error, 1)
	l.wg.Go(func() {
		_, _, err := l.client.SendRequest("keepalive@openssh.com", true, nil)
		answer <- err
	})
	select {
	case err := <-answer:
		if err != nil {
			return upstream("asking the SSH server", err)
		}
		return nil
	case <-ctx.Done():
		return upstream("asking the SSH server", ctx.Err())
	}
}

// direct is the payload of direct-tcpip (RFC 4254 §7.2). The originator is
// nobody: the server need not know who in the home asks.
type direct struct {
	Host       string
	Port       uint32
	Originator string
	OriginPort uint32
}

// dial opens a channel; the place that pick took for it is given back when
// everything of it has ended. The library can't break off the opening, so that
// goes on, and ends with the connection at the latest.
func (l *link) dial(ctx context.Context, t target) (*sshConn, error) {
	type result struct {
		c   *sshConn
		err error
	}
	done := make(chan result)
	l.wg.Go(func() {
		defer l.s.release(l)
		ch, requests, err := l.client.OpenChannel("direct-tcpip", ssh.Marshal(&direct{Host: t.host(), Port: uint32(t.port), Originator: "127.0.0.1"}))
		if err != nil {
			select {
			case done <- result{err: openError(err)}:
			case <-ctx.Done():
			}
			return
		}
		c := newSSHConn(l, ch, t)
		select {
		case done <- result{c: c}:
		case <-ctx.Done():
			_ = c.Close()
		}
		c.pump(requests)
	})
	select {
	case r := <-done:
		return r.c, r.err
	case <-ctx.Done():
		return nil, upstream("opening an SSH channel", ctx.Err())
	}
}

func openError(err error) error {
	refused := (*ssh.OpenChannelError)(nil)
	if !errors.As(err, &refused) {
		return errLost
	}
	return fmt.Errorf("%w by the SSH server: %s", ErrRefused, clip(refused.Message))
}
