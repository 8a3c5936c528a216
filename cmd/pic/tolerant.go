package main

import (
	"context"
	"errors"
	"syscall"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/tunnel"
)

type applier[P any] func(context.Context, P) (bool, error)

// tolerant makes a port that another program holds a degraded stage: the rest
// of the plan is in force, and no commit fails for it.
func tolerant[P any](apply applier[P]) applier[P] {
	return func(ctx context.Context, p P) (bool, error) {
		changed, err := apply(ctx, p)
		return changed, degraded(err)
	}
}

func degraded(err error) error {
	if errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, tunnel.ErrPortTaken) {
		return &cell.DegradedError{Err: err}
	}
	return err
}

// tolerantAtFirst does so until the tunnel has worked once. After that a taken
// port means that a commit moved the tunnel there, which would cut off every
// peer: that commit has to fail.
func tolerantAtFirst(apply applier[tunnel.Devices]) applier[tunnel.Devices] {
	worked := false
	return func(ctx context.Context, p tunnel.Devices) (bool, error) {
		changed, err := apply(ctx, p)
		switch {
		case err == nil:
			worked = len(p) > 0
		case !worked:
			err = degraded(err)
		}
		return changed, err
	}
}
