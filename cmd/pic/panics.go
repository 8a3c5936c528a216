package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

// panicsTold is how long a panic is told of after the last one.
const panicsTold = 7 * 24 * time.Hour

// panicNotices tell of programming errors that the cell has met and survived.
func (h *house) panicNotices() []cell.Notice {
	var out []cell.Notice
	for _, p := range h.panics.All() {
		if time.Since(p.Last) > panicsTold {
			continue
		}
		out = append(out, cell.Notice{
			Code: "panic", Subject: p.Task, Severity: cell.Warning,
			Text: fmt.Sprintf("A programming error of the cell was met in %s (%d times since the start, last on %s) and cost what was being done there; everything went on. Please report it with its lines of the log: journalctl -u pic -g 'recovered from a panic'.",
				p.Task, p.Count, p.Last.UTC().Format(time.RFC3339)),
		})
	}
	return out
}

// serveHTTP serves until ctx ends, then gives requests two seconds. A panic of
// a request costs that request; one of accepting is the caller's, with the
// listener closed.
func (h *house) serveHTTP(ctx context.Context, name string, l net.Listener, srv *http.Server) error {
	srv.ReadHeaderTimeout, srv.IdleTimeout, srv.MaxHeaderBytes = 5*time.Second, time.Minute, 32<<10
	srv.ErrorLog = lifecycle.ErrorLog(h.log, name+" request")
	handler := srv.Handler
	srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		lifecycle.Fault(name + " request")
		handler.ServeHTTP(w, r)
	})
	greet := srv.ConnContext
	srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context { // on the accepting goroutine
		defer func() {
			if p := recover(); p != nil {
				_ = c.Close() // nobody else would
				panic(p)
			}
		}()
		lifecycle.Fault("listener " + name)
		if greet != nil {
			ctx = greet(ctx, c)
		}
		return ctx
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			_ = srv.Close()
		}
	})
	err := srv.Serve(l)
	if stop() { // the listener broke
		return err
	}
	<-ended
	return nil
}
