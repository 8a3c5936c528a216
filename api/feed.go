package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/personal-internet-cell/pic/auth"
)

const (
	maxFeeds  = 32
	feedWrite = 30 * time.Second // a client that takes nothing for so long is cut off
)

// frame is one server-sent event. Its data has no line feed.
type frame struct {
	event, id string // id may be empty
	data      []byte
}

func eventStream(description string) map[string]*huma.Response {
	return map[string]*huma.Response{"200": {
		Description: description,
		Content:     map[string]*huma.MediaType{"text/event-stream": {Schema: &huma.Schema{Type: "string"}}},
	}}
}

// feed streams what open opens until the client leaves, its session or token
// ends, or the cell stops: first, then what comes. render makes events of each
// value. There are at most maxFeeds at a time.
func feed[T any](ctx context.Context, a *API, open func(context.Context) (first []T, in <-chan T, err error), render func(T) []frame) (*huma.StreamResponse, error) {
	if a.feeds.Add(1) > maxFeeds {
		a.feeds.Add(-1)
		return nil, problem(http.StatusTooManyRequests, "too_many", "%d programs follow the cell already: close one", maxFeeds)
	}
	// Opened before the answer begins, so that nothing after it is missed, and
	// a refusal is a problem.
	ctx, cancel := context.WithCancel(ctx)
	context.AfterFunc(ctx, func() { a.feeds.Add(-1) })
	first, in, err := open(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	over, who := a.end(ctx), identityOf(ctx)
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		defer cancel()
		beginStream(hc)
		pump(hc.Context(), a, hc.BodyWriter(), nil, first, in, render, over, who)
	}}, nil
}

// end is closed when the request's session is over; nil on the socket: never.
func (a *API) end(ctx context.Context) <-chan struct{} {
	if s := sessionOf(ctx); s != nil {
		return a.cfg.Sessions.Done(s.ID)
	}
	return nil
}

func beginStream(hc huma.Context) {
	hc.SetHeader("Content-Type", "text/event-stream")
	hc.SetHeader("Cache-Control", "no-store")
	hc.SetHeader("X-Accel-Buffering", "no")
	hc.SetStatus(http.StatusOK)
}

// pump writes opening, then first, then what comes in, until the stream ends.
func pump[T any](ctx context.Context, a *API, w io.Writer, opening []frame, first []T, in <-chan T, render func(T) []frame, over <-chan struct{}, who auth.Identity) {
	// Not every writer has a deadline; then the server's own limits hold.
	deadline := func(t time.Time) {
		if rw, is := w.(http.ResponseWriter); is {
			_ = http.NewResponseController(rw).SetWriteDeadline(t)
		}
	}
	defer deadline(time.Time{})
	send := func(text string) bool {
		deadline(time.Now().Add(feedWrite))
		if _, err := io.WriteString(w, text); err != nil {
			return false
		}
		if f, can := w.(http.Flusher); can {
			f.Flush()
		}
		return ctx.Err() == nil
	}
	each := func(x T) bool {
		for _, f := range render(x) {
			if !send(f.text()) {
				return false
			}
		}
		return true
	}
	if !send("retry: 2000\n: open\n\n") {
		return
	}
	for _, f := range opening {
		if !send(f.text()) {
			return
		}
	}
	for _, x := range first {
		if !each(x) {
			return
		}
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	var look <-chan time.Time // a token's stream ends within a second of the token
	if who.Via == auth.ViaToken {
		t := time.NewTicker(tokenLook)
		defer t.Stop()
		look = t.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-over:
			return
		case <-look:
			if !a.cfg.Tokens.Valid(who) {
				return
			}
		case x, open := <-in:
			if !open || !each(x) {
				return
			}
		case <-beat.C:
			if !send(": alive\n\n") {
				return
			}
		}
	}
}

func (f *frame) text() string {
	id := ""
	if f.id != "" {
		id = "id: " + f.id + "\n"
	}
	return fmt.Sprintf("%sevent: %s\ndata: %s\n\n", id, f.event, f.data)
}
