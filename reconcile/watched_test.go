package reconcile_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/reconcile"
)

type numberPlan string

func (p numberPlan) String() string { return string(p) }

// A change under the plan that is in place is somebody else's doing; one that
// a new plan or a failed try asks for is not.
func TestWatchedTellsDriftFromChange(t *testing.T) {
	var changed bool
	var fail error
	var got []reconcile.Applied
	s := reconcile.Watched(reconcile.NewStage("dns",
		func(*cell.State, cell.Facts) (numberPlan, error) { return "", nil },
		func(context.Context, numberPlan) (bool, error) { return changed, fail }),
		func(a reconcile.Applied) {
			a.Took = 0
			got = append(got, a)
		})
	down := errors.New("down")
	for _, x := range []struct {
		plan    numberPlan
		changed bool
		err     error
	}{
		{"1", true, nil}, {"1", false, nil}, {"1", true, nil}, {"2", true, down}, {"2", true, nil}, {"2", true, nil},
	} {
		changed, fail = x.changed, x.err
		if c, err := s.Apply(t.Context(), x.plan); c != x.changed || !errors.Is(err, x.err) {
			t.Fatal(c, err)
		}
	}
	want := []reconcile.Applied{
		{Stage: "dns", Changed: true},
		{Stage: "dns"},
		{Stage: "dns", Changed: true, Again: true},
		{Stage: "dns", Changed: true, Err: down},
		{Stage: "dns", Changed: true},
		{Stage: "dns", Changed: true, Again: true},
	}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b error) bool { return errors.Is(a, b) }), cmp.Comparer(func(a, b time.Duration) bool { return a == b })); d != "" {
		t.Error(d)
	}
}
