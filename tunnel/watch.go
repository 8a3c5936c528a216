package tunnel

import (
	"context"
	"time"

	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

const (
	// watchQuiet is how long events are collected before the trigger.
	watchQuiet = 250 * time.Millisecond
	// watchRetry is the pause before a broken subscription is renewed.
	watchRetry = time.Second
)

// Watch returns a task that calls trigger after a link of ours went away or
// down, or lost an address, whoever did it. Events within 250 ms make one call.
// Changes of peers have no event in Linux: those are found by the next Apply.
func (c *Controller) Watch(trigger func()) lifecycle.Task {
	return lifecycle.Func("tunnel watch", func(ctx context.Context) error {
		return c.watch(ctx, trigger)
	})
}

func (c *Controller) watch(ctx context.Context, trigger func()) error {
	events := make(chan struct{}, 1)
	poke := func() {
		select {
		case events <- struct{}{}:
		default:
		}
	}
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		done <- lifecycle.Guard(ctx, c.log, "tunnel watch", nil, func(ctx context.Context) error { return c.listen(ctx, poke) })
	}()
	defer func() { cancel(); <-done }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-events:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchQuiet):
		}
		select { // what came meanwhile is covered by this call
		case <-events:
		default:
		}
		trigger()
	}
}

// listen keeps a subscription open. After a break something may have been
// missed, which counts as an event.
func (c *Controller) listen(ctx context.Context, poke func()) error {
	for ctx.Err() == nil {
		err := c.kernel.Watch(ctx, func(e Event) {
			if c.ours(e) {
				poke()
			}
		})
		if err == nil {
			continue
		}
		c.log.Warn("watching links was interrupted", "error", err)
		poke()
		select {
		case <-ctx.Done():
		case <-time.After(watchRetry):
		}
	}
	return nil
}

func (c *Controller) ours(e Event) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, index := range c.names {
		if e.Name == name || (e.Name == "" && index != 0 && index == e.Index) {
			return true
		}
	}
	return false
}
