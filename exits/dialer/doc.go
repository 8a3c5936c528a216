// Package dialer reaches the internet through somebody else's server: SOCKS5,
// HTTP CONNECT (also inside TLS) and SSH, each as a [Dialer].
//
// It owns its connections to those servers, keeps the SSH ones alive, and
// makes them with sockets that carry the bypass mark, so that an exit never
// swallows its own carrier.
//
// It must never look up a destination's name itself (the exit does), never
// believe what the server says beyond its bounds, never wait without a limit,
// and never connect around the server when it fails.
package dialer

import (
	"context"
	"errors"
	"fmt"
	"net"
)

// Dialer connects to a destination.
type Dialer interface {
	// DialContext connects; network is "tcp" or "udp", address is IP:port, or
	// name:port where the server resolves (SOCKS5, CONNECT, SSH). A TCP
	// connection has CloseWrite. Errors match one of this package's by errors.Is
	// or errors.As; what ctx's end broke off matches ctx.Err() as well.
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

var (
	// ErrAuth: the server is there and does not accept the credentials.
	ErrAuth = errors.New("credentials refused")
	// ErrRefused: the server is there and does not connect to this destination.
	ErrRefused = errors.New("destination refused")
	// ErrUpstream: the server is not there, does not answer in time, or answers
	// what it should not.
	ErrUpstream = errors.New("upstream not usable")
)

// ErrHostKey says that an SSH server shows another key than the one that is
// pinned. Keys are written as in authorized_keys. Errors hold the value, not a
// pointer to it.
type ErrHostKey struct{ Got, Want string }

func (e ErrHostKey) Error() string {
	return "the SSH server's host key changed: it was " + e.Want + " and is " + e.Got
}

// upstream marks err as a fault of the server.
func upstream(doing string, err error) error {
	return fmt.Errorf("%w: %s: %w", ErrUpstream, doing, err)
}
