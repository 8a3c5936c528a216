package api

import (
	"context"
	"fmt"
)

// Row is a route as tests see it.
type Row struct {
	Method, Path, Access string
	Reauth               bool
}

// Rows lists the one route table.
func (a *API) Rows() []Row {
	var out []Row
	for _, r := range a.rows {
		out = append(out, Row{r.Method, r.Path, string(r.Access), r.Reauth})
	}
	return out
}

// RegisterWithoutAccess tries to and returns what the panic said.
func RegisterWithoutAccess() (msg string) {
	defer func() { msg = fmt.Sprint(recover()) }()
	register(&API{cfg: &Config{}}, Route{Operation: op("GET", "/api/x", "x", "x", "x")},
		func(context.Context, *struct{}) (*NoContent, error) { return nil, nil })
	return "no panic"
}

// Feeds is how many streams are open.
func (a *API) Feeds() int { return int(a.feeds.Load()) }
