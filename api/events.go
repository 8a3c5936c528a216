package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/cell"
)

const (
	heartbeat = 20 * time.Second
	tokenLook = 500 * time.Millisecond
)

func (a *API) eventRoutes() {
	register(a, Route{Access: auth.AccessUser, Operation: huma.Operation{
		Method: "GET", Path: "/api/events", OperationID: "events", Tags: []string{"core"},
		Summary: "Server-sent events that say: look again",
		Responses: map[string]*huma.Response{"200": {
			Description: "a stream of `revision` and `status` events",
			Content:     map[string]*huma.MediaType{"text/event-stream": {Schema: &huma.Schema{Type: "string"}}},
		}},
	}}, a.events)
	register(a, Route{Access: auth.AccessPublic, Operation: op("GET", "/api/openapi.json", "openapi", "core", "This API as OpenAPI 3.1")},
		func(context.Context, *struct{}) (*textOut, error) {
			b, err := a.OpenAPI()
			return &textOut{ContentType: "application/openapi+json", Body: b}, err
		})
}

// events streams "look again" until the client leaves, the session ends or the
// cell stops. It never carries news: what changed is read by the usual routes.
func (a *API) events(ctx context.Context, _ *struct{}) (*huma.StreamResponse, error) {
	var over <-chan struct{} // nil on the socket: never
	if s := sessionOf(ctx); s != nil {
		over = a.cfg.Sessions.Done(s.ID)
	}
	who := identityOf(ctx)
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		hc.SetHeader("Content-Type", "text/event-stream")
		hc.SetHeader("Cache-Control", "no-store")
		hc.SetHeader("X-Accel-Buffering", "no")
		hc.SetStatus(http.StatusOK)
		a.stream(hc.Context(), hc.BodyWriter(), over, who)
	}}, nil
}

func (a *API) stream(ctx context.Context, w io.Writer, over <-chan struct{}, who auth.Identity) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	flush := func() bool {
		if f, can := w.(http.Flusher); can {
			f.Flush()
		}
		return ctx.Err() == nil
	}
	changes := a.cfg.Engine.Changes(ctx)
	_, last := a.cfg.Engine.Running()
	say := func(n cell.Revision) bool {
		event, data := "status", "{}"
		if n != last {
			event, data, last = "revision", fmt.Sprintf(`{"revision":%d}`, n), n
		}
		_, err := fmt.Fprintf(w, "event: %s\ndata: %s\n\n", event, data)
		return err == nil && flush()
	}
	if _, err := fmt.Fprintf(w, "retry: 2000\nevent: revision\ndata: {\"revision\":%d}\n\n", last); err != nil || !flush() {
		return
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
		case n, open := <-changes:
			if !open || !say(n) {
				return
			}
		case <-beat.C:
			if _, err := io.WriteString(w, ": alive\n\n"); err != nil || !flush() {
				return
			}
		}
	}
}
