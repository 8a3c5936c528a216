package main

import (
	"context"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

// sdNotify tells systemd (sd_notify(3)); without systemd it does nothing.
func sdNotify(state string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte(state))
	return err
}

// watchdog feeds systemd's watchdog while check passes; a cell that can't
// answer itself is restarted (sd_watchdog_enabled(3)).
func watchdog(check func(context.Context) error) lifecycle.Task {
	return lifecycle.Func("watchdog", func(ctx context.Context) error {
		usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
		if err != nil || usec <= 0 {
			<-ctx.Done()
			return nil
		}
		every := time.Duration(usec) * time.Microsecond / 3
		t := time.NewTicker(every)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-t.C:
				probe, cancel := context.WithTimeout(ctx, every)
				if check(probe) == nil {
					_ = sdNotify("WATCHDOG=1")
				}
				cancel()
			}
		}
	})
}
