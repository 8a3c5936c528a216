package proxy

import (
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// How slow a client may be once its header is read. A client that moves
// nothing holds a connection and one of its service, for nothing.
const (
	// writeStall is how long one write, at most a TLS record of 16 KiB, may wait
	// for a client that does not read.
	writeStall = 2 * time.Minute
	// A request's body brings bodyStep bytes, or its end, every bodyStall.
	bodyStall = time.Minute
	bodyStep  = 1 << 10
)

// slowBody is a request's body with a deadline that moves as bytes come. It is
// read by one goroutine, as every body is.
type slowBody struct {
	io.ReadCloser
	control *http.ResponseController
	until   atomic.Int64 // the deadline in Unix nanoseconds; 0: none
	got     int
}

// paced gives a request with a body its deadline. It returns nil where there
// is no body.
func paced(w http.ResponseWriter, r *http.Request) *slowBody {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return nil
	}
	b := &slowBody{ReadCloser: r.Body, control: http.NewResponseController(w)}
	r.Body = b
	return b
}

// late reports whether the client missed the deadline. It looks at the clock,
// for net/http cancels the request before the read that failed returns.
func (b *slowBody) late() bool {
	if b == nil {
		return false
	}
	t := b.until.Load()
	return t != 0 && t <= time.Now().UnixNano()
}

func (b *slowBody) Read(p []byte) (int, error) {
	if b.until.Load() == 0 || b.got >= bodyStep {
		b.got = 0
		b.deadline(time.Now().Add(bodyStall))
	}
	n, err := b.ReadCloser.Read(p)
	b.got += n
	if err != nil && !b.late() {
		// net/http now waits on the connection for the client to go away, and
		// would take the deadline for that.
		b.deadline(time.Time{})
	}
	return n, err
}

func (b *slowBody) deadline(t time.Time) {
	if t.IsZero() {
		b.until.Store(0)
	} else {
		b.until.Store(t.UnixNano())
	}
	_ = b.control.SetReadDeadline(t) // a connection that can't is one of a test
}
