// Package lifecycle runs long-lived tasks together: all start, the first
// failure or the end of the context stops all, and Run returns when every one
// has returned.
//
// It owns the goroutines it starts. It must never lose one: Run does not
// return before the last task has.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Task is something that runs until its context ends.
type Task interface {
	// Run returns nil when ctx is done, an error when it can't go on.
	Run(ctx context.Context) error
	// Ready is closed once the task does its work; a task that is useful at
	// once returns a closed channel.
	Ready() <-chan struct{}
	String() string
}

// Run runs tasks until ctx is done or one fails, then stops the others, waits
// for all of them, and returns the failures joined (nil after a plain stop).
func Run(ctx context.Context, tasks ...Task) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	for _, t := range tasks {
		wg.Go(func() {
			err := t.Run(ctx)
			if err != nil && !errors.Is(err, context.Canceled) {
				mu.Lock()
				errs = append(errs, fmt.Errorf("running %s: %w", t, err))
				mu.Unlock()
				cancel()
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Func makes a Task of a function that is ready at once.
func Func(name string, run func(ctx context.Context) error) Task {
	return funcTask{name, run}
}

type funcTask struct {
	name string
	run  func(context.Context) error
}

var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

func (f funcTask) Run(ctx context.Context) error { return f.run(ctx) }
func (f funcTask) Ready() <-chan struct{}        { return closed }
func (f funcTask) String() string                { return f.name }

// Guard calls run until it returns without panicking or ctx ends. A panic is
// logged with its stack, counted by onPanic (may be nil), and run is called
// again after a pause that doubles from 50 ms up to 5 s. Every goroutine that
// touches outside input runs under Guard: one packet must not kill the cell.
func Guard(ctx context.Context, log *slog.Logger, name string, onPanic func(), run func(ctx context.Context) error) error {
	pause := 50 * time.Millisecond
	for {
		err, panicked := protect(log, name, func() error { return run(ctx) })
		if !panicked || ctx.Err() != nil {
			return err
		}
		if onPanic != nil {
			onPanic()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, 5*time.Second)
	}
}

// Guarded is t under [Guard]: its Run must be one that can be called again.
func Guarded(log *slog.Logger, t Task) Task { return guarded{t, log} }

type guarded struct {
	Task
	log *slog.Logger
}

func (g guarded) Run(ctx context.Context) error {
	return Guard(ctx, g.log, g.String(), nil, func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel() // what a run that panicked has begun ends with it
		return g.Task.Run(ctx)
	})
}

// Protect runs f and turns a panic into an error, logged with its stack.
func Protect(log *slog.Logger, name string, f func() error) error {
	err, _ := protect(log, name, f)
	return err
}

func protect(log *slog.Logger, name string, f func() error) (err error, panicked bool) {
	defer func() {
		if p := recover(); p != nil {
			Recovered(log, name, p)
			err, panicked = fmt.Errorf("%s panicked: %v", name, p), true
		}
	}()
	return f(), false
}
