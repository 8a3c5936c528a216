package api

import (
	"context"
	"fmt"
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
	over, who := a.end(ctx), identityOf(ctx)
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		beginStream(hc)
		ctx, cancel := context.WithCancel(hc.Context())
		defer cancel()
		changes := a.cfg.Engine.Changes(ctx)
		_, last := a.cfg.Engine.Running()
		pump(ctx, a, hc.BodyWriter(), []frame{revisionFrame(last)}, nil, changes, func(n cell.Revision) []frame {
			if n == last {
				return []frame{{event: "status", data: []byte("{}")}}
			}
			last = n
			return []frame{revisionFrame(n)}
		}, over, who)
	}}, nil
}

func revisionFrame(n cell.Revision) frame {
	return frame{event: "revision", data: fmt.Appendf(nil, `{"revision":%d}`, n)}
}
