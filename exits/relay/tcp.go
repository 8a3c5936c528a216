package relay

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

const (
	// defaultIdle is the least a translator may keep a quiet connection
	// (RFC 5382 REQ-5).
	defaultIdle = 2*time.Hour + 4*time.Minute
	// halfIdle is how long a connection of which one direction has ended may be
	// quiet (RFC 5382 REQ-5: transitory, at least four minutes).
	halfIdle = 5 * time.Minute

	dialTimeout = 20 * time.Second
	// acceptPause is what follows an accept that failed for want of files.
	acceptPause = 100 * time.Millisecond
)

// counters are shared by all connections of a server.
type counters struct {
	accepted, refused, failed, idle, panics, up, down atomic.Uint64
}

// joiner joins clients with upstreams, within limits.
type joiner struct {
	table *table
	count *counters
	free  pipes
	idle  time.Duration
	log   *slog.Logger
}

// accept calls handle for each connection, each on a goroutine of its own,
// until l is closed; it returns when all have ended.
func accept(l *net.TCPListener, handle func(*net.TCPConn)) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil { // out of files, or gone before it was accepted
			time.Sleep(acceptPause)
			continue
		}
		wg.Go(func() { handle(c) })
	}
}

// protect runs f; a panic ends e and is counted.
func (j *joiner) protect(e *entry, name string, f func() error) error {
	done := false
	err := lifecycle.Protect(j.log, name, func() error {
		err := f()
		done = true
		return err
	})
	if !done {
		j.count.panics.Add(1)
		e.abort()
	}
	return err
}

// admit makes an entry for a client that was accepted; nil, and a reset, when
// there are too many.
func (j *joiner) admit(c *net.TCPConn, src netip.Addr) *entry {
	e := j.table.add(src, j.idle)
	if e == nil {
		j.count.refused.Add(1)
		reset(c)
		return nil
	}
	j.count.accepted.Add(1)
	e.onEnd(func() { reset(c) })
	return e
}

// dial calls f with a context that ends in time, or with e.
func (j *joiner) dial(ctx context.Context, e *entry, f func(context.Context) (net.Conn, error)) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	e.onEnd(cancel)
	up, err := f(ctx)
	if err == nil && up == nil {
		err = errors.New("no connection and no reason")
	}
	if err != nil {
		j.count.failed.Add(1)
		return nil, err
	}
	e.last.Store(j.table.now())
	e.onEnd(func() { _ = up.Close() })
	return up, nil
}

// join copies both ways until both directions have ended, each by itself, or
// something fails: then both ends are told by a reset.
func (j *joiner) join(e *entry, client, up net.Conn) {
	server := up
	if u, ok := up.(interface{ Unread() ([]byte, net.Conn) }); ok {
		var head []byte
		head, server = u.Unread() // it was read along with a proxy's answer
		if len(head) > 0 {
			if _, err := client.Write(head); err != nil {
				e.abort()
				return
			}
			j.count.down.Add(uint64(len(head)))
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() { j.half(e, server, client, &j.count.up) })
	j.half(e, client, server, &j.count.down)
	wg.Wait()
	_ = client.Close()
	_ = up.Close()
}

func (j *joiner) half(e *entry, dst, src net.Conn, total *atomic.Uint64) {
	err := j.protect(e, "relay copy", func() error {
		return half(dst, src, j.free, func(n int) {
			total.Add(uint64(n))
			e.last.Store(j.table.now())
		})
	})
	if err != nil {
		e.abort()
		return
	}
	e.idle.Store(int64(min(j.idle, halfIdle)))
	e.last.Store(j.table.now())
	if h, ok := dst.(halfCloser); ok {
		_ = h.CloseWrite()
	} else {
		_ = dst.Close()
	}
}

// closeFrom ends what a source has open, and waits for nothing.
func closeFrom(src netip.Addr, tables ...*table) int {
	n := 0
	for _, t := range tables {
		for _, e := range t.from(src.Unmap()) {
			e.abort()
			n++
		}
	}
	return n
}
