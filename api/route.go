package api

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/personal-internet-cell/pic/auth"
)

// Route is a row of the one route table: an operation, who may call it, and
// whether that needs the password again (≤ 5 minutes old).
type Route struct {
	huma.Operation
	Access auth.Access
	Reauth bool
}

// row describes a registered route for tests, docs and the CLI.
type row struct {
	Method, Path string
	Access       auth.Access
	Reauth       bool
	OperationID  string
}

// register adds a route. It panics on a row without an access, an id or a
// summary: such a table can't be served, and the first test that builds the
// API finds it.
func register[I, O any](a *API, r Route, handle func(context.Context, *I) (*O, error)) {
	if !slices.Contains(auth.Accesses(), r.Access) {
		panic(fmt.Sprintf("api: %s %s has no access", r.Method, r.Path))
	}
	if r.OperationID == "" || r.Summary == "" {
		panic(fmt.Sprintf("api: %s %s has no id or summary", r.Method, r.Path))
	}
	a.rows = append(a.rows, row{r.Method, r.Path, r.Access, r.Reauth, r.OperationID})
	op := r.Operation
	op.Extensions = map[string]any{"x-roles": rolesOf(r.Access), "x-reauth": r.Reauth}
	op.MaxBodyBytes = maxBody
	op.BodyReadTimeout = 10 * time.Second
	op.RejectUnknownQueryParameters = true
	op.Errors = []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusUnprocessableEntity}
	op.Middlewares = append(op.Middlewares, func(ctx huma.Context, next func(huma.Context)) {
		if err := a.authorize(ctx.Context(), r); err != nil {
			a.writeProblem(ctx, a.problemOf(ctx.Context(), err))
			return
		}
		next(ctx)
	})
	huma.Register(a.huma, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := handle(ctx, in)
		if err != nil {
			return nil, a.problemOf(ctx, err)
		}
		return out, nil
	})
}

// rolesOf names who may call a route, for the OpenAPI document.
func rolesOf(x auth.Access) []string {
	switch x {
	case auth.AccessAdmin:
		return []string{"admin"}
	case auth.AccessPeer:
		return []string{"peer"}
	case auth.AccessUser:
		return []string{"admin", "peer"}
	case auth.AccessLocal:
		return []string{"local"}
	}
	return []string{string(x)}
}

// authorize decides on one request from its identity alone.
func (a *API) authorize(ctx context.Context, r Route) error {
	who := identityOf(ctx)
	if d := auth.Allowed(r.Access, who); d != auth.Allow {
		return d.Problem()
	}
	if d := auth.Reauth(who, a.cfg.Now()); r.Reauth && d != auth.Allow {
		return d.Problem()
	}
	return nil
}

// Out is an answer that carries a resource's revision.
type Out[B any] struct {
	Status       int
	ETag         string `header:"ETag" doc:"the last revision that changed this resource"`
	PicRevision  string `header:"Pic-Revision" doc:"the revision this change made"`
	PicConfirmBy string `header:"Pic-Confirm-By" doc:"until when a confirmed commit waits (RFC 3339)"`
	Connection   string `header:"Connection" doc:"close after a confirmed commit, so that its confirmation comes on a new connection"`
	Body         B
}

// NoContent is an answer without a body.
type NoContent struct {
	Status       int
	PicRevision  string `header:"Pic-Revision"`
	PicConfirmBy string `header:"Pic-Confirm-By"`
	Connection   string `header:"Connection"`
	SetCookie    string `header:"Set-Cookie"`
}

// List wraps items, so that a list can grow fields and is never null.
type List[T any] struct {
	Items []T `json:"items" nullable:"false"`
}

func list[T any](items []T) List[T] {
	if items == nil {
		items = []T{}
	}
	return List[T]{items}
}

func ok[B any](b B) (*Out[B], error) { return &Out[B]{Status: http.StatusOK, Body: b}, nil }

// Empty is the body of a request that needs none. Mutations still send {} as
// application/json, which no HTML form can do.
type Empty struct{}
