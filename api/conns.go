package api

import (
	"net/http"
	"sync"
	"time"
)

// connLog remembers when each connection was first seen, so that a pending
// commit is confirmed on one that was made after it: an old connection may live
// on under rules that let no new one in, and would prove nothing.
type connLog struct {
	mu    sync.Mutex
	first map[string]seen
}

type seen struct{ first, last time.Time }

const (
	maxConns   = 4096
	connMemory = 15 * time.Minute
)

// connOf names a connection by its two ends; "" on the local socket.
func connOf(r *http.Request) string {
	l := local(r)
	if !l.IsValid() {
		return ""
	}
	return r.RemoteAddr + " " + l.String()
}

func (c *connLog) see(key string, now time.Time) {
	if key == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.first == nil {
		c.first = map[string]seen{}
	}
	s, known := c.first[key]
	if !known || now.Sub(s.last) > connMemory {
		s.first = now
	}
	s.last = now
	c.first[key] = s
	if len(c.first) <= maxConns {
		return
	}
	for k, s := range c.first { // drop the stale, and then whatever comes first
		if now.Sub(s.last) > connMemory || len(c.first) > maxConns {
			delete(c.first, k)
		}
	}
}

// since returns when the connection was first seen; false when it is unknown
// (the local socket, which makes one for each call).
func (c *connLog) since(key string) (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, known := c.first[key]
	return s.first, known && key != ""
}
