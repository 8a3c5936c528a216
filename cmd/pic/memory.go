package main

import (
	"context"
	"os"
	"runtime/debug"

	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

// What the process may take before garbage is collected more often: a flood
// leaves much of it, and the machine is small. It is not a bound on what is in
// use; that every queue and cache has of its own.
const (
	memoryBase = 200 << 20
	// memoryPeer is what a peer takes, embedded WireGuard included.
	memoryPeer = 128 << 10
)

// limitMemory keeps the soft limit fit for the number of peers, unless whoever
// started the program has set one (GOMEMLIMIT).
func (h *house) limitMemory() lifecycle.Task {
	return lifecycle.Func("memory", func(ctx context.Context) error {
		if os.Getenv("GOMEMLIMIT") != "" {
			<-ctx.Done()
			return nil
		}
		set := func() {
			if s, _ := h.engine.Running(); s != nil {
				debug.SetMemoryLimit(memoryBase + memoryPeer*int64(len(s.Peers)))
			}
		}
		set()
		for range h.engine.Changes(ctx) {
			set()
		}
		return nil
	})
}
