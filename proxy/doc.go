// Package proxy answers HTTPS by host name: the cell's own UI and API, and the
// services behind it, each to those who may reach it.
//
// It owns the web listeners (by default 80 and 443), the connections on them,
// and the connections to upstreams.
//
// It must never pass on an identity that a client claimed for itself, never
// answer for a host name or to a source that the plan does not allow, and
// never tunnel any protocol but WebSocket.
package proxy
