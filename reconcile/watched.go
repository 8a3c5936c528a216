package reconcile

import (
	"context"
	"time"
)

// Applied is one Apply of a stage, for whoever counts them.
type Applied struct {
	Stage   string
	Changed bool
	// Again: the plan is the one that was last applied without an error, so
	// what had to be changed was changed by somebody else.
	Again bool
	Err   error
	Took  time.Duration
}

// Watched tells seen of each Apply of s, from the goroutine that applies it.
func Watched(s Stage, seen func(Applied)) Stage {
	w := wrap(s)
	w.Stage = &watched{Stage: w.Stage, seen: seen}
	return w
}

// watched remembers the last plan that was applied. A stage is applied by one
// goroutine at a time, so it needs no lock.
type watched struct {
	Stage
	seen func(Applied)
	last Plan
}

func (w *watched) Apply(ctx context.Context, p Plan) (bool, error) {
	begin := time.Now()
	changed, err := w.Stage.Apply(ctx, p)
	w.seen(Applied{
		Stage: w.Name(), Changed: changed, Err: err, Took: time.Since(begin),
		Again: changed && w.last != nil && w.equal(w.last, p),
	})
	if err == nil {
		w.last = p
	}
	return changed, err
}

func (w *watched) equal(a, b Plan) bool { return (&stage{Stage: w.Stage}).equal(a, b) }
