// Package api is the cell's REST API: one table of routes, each with the access
// it needs, over the engine's edit, preview, commit and rollback.
//
// It owns the HTTP handler that the proxy and the local socket serve. It must
// never touch the world itself: a handler reads the running state, builds an
// edit and hands it to the engine. A route without an access can't be
// registered.
package api
