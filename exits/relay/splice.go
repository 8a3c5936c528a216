package relay

import (
	"errors"
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// pipeSize is how much one splice(2) moves at most.
	pipeSize = 256 << 10
	// freePipes are kept for reuse; more are closed.
	freePipes = 64
	// smallBuffer waits for data, largeBuffer is used while it flows: what SSH
	// and TLS deliver at once.
	smallBuffer = 1 << 10
	largeBuffer = 16 << 10
)

// pipe is a kernel buffer between two sockets.
type pipe struct{ r, w int }

func (p *pipe) close() { _, _ = unix.Close(p.r), unix.Close(p.w) }

// pipes is where pipes are between uses: only data under way holds one, a
// connection that waits holds none.
type pipes chan *pipe

func (s pipes) get() (*pipe, error) {
	select {
	case p := <-s:
		return p, nil
	default:
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, err
	}
	// Where the user's pipes have too many pages already it stays small.
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize)
	return &pipe{fds[0], fds[1]}, nil
}

// put takes an empty pipe back.
func (s pipes) put(p *pipe) {
	select {
	case s <- p:
	default:
		p.close()
	}
}

func (s pipes) close() {
	for {
		select {
		case p := <-s:
			p.close()
		default:
			return
		}
	}
}

// halfCloser can end one direction of a connection.
type halfCloser interface{ CloseWrite() error }

// raw returns the socket of a connection whose bytes are the socket's own.
func raw(c net.Conn) (syscall.RawConn, bool) {
	switch c := c.(type) {
	case *net.TCPConn:
		r, err := c.SyscallConn()
		return r, err == nil
	case *net.UnixConn:
		r, err := c.SyscallConn()
		return r, err == nil
	}
	return nil, false
}

// half copies one direction until src ends, calls moved with what was copied
// each time, and returns nil when all that src sent has been passed on.
func half(dst, src net.Conn, free pipes, moved func(n int)) error {
	from, ok1 := raw(src)
	to, ok2 := raw(dst)
	if !ok1 || !ok2 {
		return copyBuffered(dst, src, moved)
	}
	m := &mover{free: free}
	in, out := m.in, m.out
	for {
		err := from.Read(in)
		if err = errors.Join(err, m.err); err != nil || m.left == 0 {
			m.release(err != nil)
			return err
		}
		for m.left > 0 {
			before := m.left
			err := to.Write(out)
			if err = errors.Join(err, m.err); err != nil {
				m.release(true)
				return err
			}
			moved(before - m.left)
		}
		m.release(false)
	}
}

// mover moves what one socket has through a pipe into another.
type mover struct {
	free pipes
	p    *pipe
	left int // bytes in p
	err  error
}

// in moves what is there into a pipe; false means nothing is, wait.
func (m *mover) in(fd uintptr) bool {
	if m.p == nil {
		if m.p, m.err = m.free.get(); m.err != nil {
			return true
		}
	}
	for {
		n, err := unix.Splice(int(fd), nil, m.p.w, nil, pipeSize, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			m.free.put(m.p)
			m.p = nil
			return false
		default:
			m.left, m.err = int(max(n, 0)), err
			return true
		}
	}
}

// out moves what is in the pipe; false means there is no room, wait.
func (m *mover) out(fd uintptr) bool {
	for {
		n, err := unix.Splice(m.p.r, nil, int(fd), nil, m.left, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return false
		default:
			m.left, m.err = m.left-int(max(n, 0)), err
			if n == 0 && err == nil {
				m.err = io.ErrShortWrite
			}
			return true
		}
	}
}

// release gives the pipe back; after an error there may be something in it.
func (m *mover) release(broken bool) {
	switch {
	case m.p == nil:
	case broken:
		m.p.close()
	default:
		m.free.put(m.p)
	}
	m.p = nil
}

// copyBuffered is half for what is no plain socket. The buffer is small until
// data fills it, so that ten thousand quiet connections take little.
func copyBuffered(dst, src net.Conn, moved func(n int)) error {
	small := make([]byte, smallBuffer)
	var large []byte
	buf := small
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if _, werr := dst.Write(buf[:n]); werr != nil {
				return werr
			}
			moved(n)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch {
		case n < len(buf):
			buf, large = small, nil
		case large == nil:
			large = make([]byte, largeBuffer)
			buf = large
		}
	}
}
