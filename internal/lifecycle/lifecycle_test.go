package lifecycle_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

func TestFirstFailureStopsAllAndIsNamed(t *testing.T) {
	boom := errors.New("boom")
	var stopped atomic.Bool
	err := lifecycle.Run(t.Context(),
		lifecycle.Func("waiter", func(ctx context.Context) error { <-ctx.Done(); stopped.Store(true); return ctx.Err() }),
		lifecycle.Func("breaker", func(context.Context) error { return boom }))
	if !errors.Is(err, boom) || !stopped.Load() {
		t.Fatalf("err %v, stopped %v", err, stopped.Load())
	}
}

func TestGuardRestartsAfterAPanicAndCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		runs, panics := 0, 0
		err := lifecycle.Guard(ctx, slog.New(slog.NewTextHandler(io.Discard, nil)), "listener", func() { panics++ }, func(context.Context) error {
			if runs++; runs < 3 {
				panic("malformed packet")
			}
			return nil
		})
		if err != nil || runs != 3 || panics != 2 {
			t.Fatalf("err %v, runs %d, panics %d", err, runs, panics)
		}
	})
}
