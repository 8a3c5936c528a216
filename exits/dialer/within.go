package dialer

import (
	"context"
	"fmt"
	"net"
	"time"
)

// handshakeTimeout is how long one dial through a server may take in all,
// connecting to it included.
const handshakeTimeout = 15 * time.Second

// within runs f, which speaks on c, and makes c's reads and writes fail when
// ctx ends. After an error c is of no more use.
func within(ctx context.Context, c net.Conn, f func() error) error {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	err := f()
	if stop() {
		return err
	}
	if err == nil {
		return upstream("waiting for the server", ctx.Err())
	}
	return fmt.Errorf("%w (%w)", err, ctx.Err())
}
