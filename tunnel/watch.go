package tunnel

import (
	"context"
	"time"

	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

const (
	// watchQuiet is the least time between two triggers. The first event of a
	// burst triggers at once: who is triggered gathers too.
	watchQuiet = 250 * time.Millisecond
	// watchRetry is the pause before a broken subscription is renewed.
	watchRetry = time.Second
	// pollPeers is how often the peers of kernel devices are compared, for which
	// Linux has no event; less often when that takes more than 2 % of the time.
	pollPeers = 2 * time.Second
	pollShare = 50
)

// Watch returns a task that calls trigger after something of a link or an
// address of ours changed, whoever did it: at once, then at most every 250 ms,
// with one more call for what came in between. Changes of keys and peers have no
// event in Linux: a look every two seconds finds those.
func (c *Controller) Watch(trigger func()) lifecycle.Task {
	return lifecycle.Func("tunnel watch", func(ctx context.Context) error {
		return c.watch(ctx, trigger)
	})
}

func (c *Controller) watch(ctx context.Context, trigger func()) error {
	defer c.watching()()
	events := make(chan struct{}, 1)
	poke := func() {
		c.doubt()
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
	polled := make(chan error, 1)
	go func() {
		polled <- lifecycle.Guard(ctx, c.log, "peer poll", nil, func(ctx context.Context) error { return c.poll(ctx, poke) })
	}()
	defer func() { cancel(); <-done; <-polled }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-events:
		}
		trigger()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchQuiet):
		}
	}
}

// poll compares the devices in the kernel with the plan last settled.
func (c *Controller) poll(ctx context.Context, poke func()) error {
	wait := pollPeers
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		lifecycle.Fault("peer poll")
		begin := time.Now()
		if c.drifted() {
			poke()
		}
		wait = max(pollPeers, pollShare*time.Since(begin))
	}
}

// drifted reports whether a kernel device is not as the last plan settled has
// it. Embedded devices are out of others' reach; a device that can't be read is
// left to the events of its link.
func (c *Controller) drifted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.settled {
		d := &c.settled[i]
		if c.embedded[d.Name] != nil {
			continue
		}
		l, err := c.kernel.Link(d.Name)
		if err != nil || l.Kind != KindWireGuard {
			continue
		}
		have, err := c.kernel.WireGuard(d.Name).Show()
		if err != nil {
			continue
		}
		if patch, errs := diff(d, &have, &c.vault, c.told[d.Name]); len(errs) == 0 && !patch.Empty() {
			return true
		}
	}
	return false
}

// listen keeps a subscription open. After a break something may have been
// missed, which counts as an event.
func (c *Controller) listen(ctx context.Context, poke func()) error {
	for ctx.Err() == nil {
		err := c.kernel.Watch(ctx, func(e Event) {
			lifecycle.Fault("tunnel watch")
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
		if e.Name == name || (index != 0 && index == e.Index) { // by index: also one that was renamed
			return true
		}
	}
	return false
}
