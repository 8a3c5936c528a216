package reconcile

import (
	"context"
	"fmt"
	"reflect"

	"github.com/personal-internet-cell/pic/cell"
)

// Plan is what a stage wants of the world, in the notation of its field. Equal
// plans print equal text. A plan is read-only.
type Plan interface{ fmt.Stringer }

// Stage is one subsystem as the engine sees it.
type Stage interface {
	Name() string
	// Compile is pure and deterministic; it holds on to nothing it is given, and
	// runs beside that of other stages, and beside another of its own.
	Compile(*cell.State, cell.Facts) (Plan, error)
	// Apply makes the world equal to the plan and reports whether it had to
	// change anything. Applied twice, the second time changes nothing. It must
	// return soon after ctx ends.
	Apply(context.Context, Plan) (changed bool, err error)
}

// Noticer is a Stage that has notices of its own; see also [WithNotices].
type Noticer interface{ Notices() []cell.Notice }

// Learner is a Stage that learns facts; see also [WithLearn]. Learn reports
// until ctx ends; the engine runs it and starts it again when it fails. An
// edit given to report replaces slices and may write to maps.
type Learner interface {
	Learn(ctx context.Context, report func(func(*cell.Facts))) error
}

// NewStage makes a Stage of a subsystem's two functions. A plan type with a
// method Equal(P) bool is compared by it, others structurally.
func NewStage[P Plan](name string, compile func(*cell.State, cell.Facts) (P, error), apply func(context.Context, P) (bool, error)) Stage {
	return &typed[P]{name, compile, apply}
}

type typed[P Plan] struct {
	name    string
	compile func(*cell.State, cell.Facts) (P, error)
	apply   func(context.Context, P) (bool, error)
}

func (t *typed[P]) Name() string { return t.name }

func (t *typed[P]) Compile(s *cell.State, f cell.Facts) (Plan, error) {
	p, err := t.compile(s, f)
	if err != nil {
		return nil, err
	}
	return p, nil
}

func (t *typed[P]) Apply(ctx context.Context, p Plan) (bool, error) {
	own, ok := p.(P)
	if !ok {
		return false, fmt.Errorf("applying %s: a plan of type %T", t.name, p)
	}
	return t.apply(ctx, own)
}

func (t *typed[P]) equal(a, b Plan) bool {
	x, ok1 := a.(P)
	y, ok2 := b.(P)
	if !ok1 || !ok2 {
		return false
	}
	if e, ok := a.(interface{ Equal(P) bool }); ok {
		return e.Equal(y)
	}
	return reflect.DeepEqual(x, y)
}

// stage is a Stage and how the engine treats it.
type stage struct {
	Stage
	background bool
	required   bool
	notices    func() []cell.Notice
	learn      func(context.Context, func(func(*cell.Facts))) error
}

func wrap(s Stage) *stage {
	if w, ok := s.(*stage); ok {
		c := *w
		return &c
	}
	w := &stage{Stage: s}
	if n, ok := s.(Noticer); ok {
		w.notices = n.Notices
	}
	if l, ok := s.(Learner); ok {
		w.learn = l.Learn
	}
	return w
}

// Background makes a stage converge later, on its own time, and never fail a
// commit. Its Apply may take long, and may run beside other stages'.
func Background(s Stage) Stage {
	w := wrap(s)
	w.background = true
	return w
}

// Required keeps the stages after s from being applied while s fails: what
// they would open, s has to guard. It has no effect on a background stage.
func Required(s Stage) Stage {
	w := wrap(s)
	w.required = true
	return w
}

// WithNotices attaches notices to a stage.
func WithNotices(s Stage, notices func() []cell.Notice) Stage {
	w := wrap(s)
	w.notices = notices
	return w
}

// WithLearn attaches a source of facts to a stage, see [Learner].
func WithLearn(s Stage, learn func(ctx context.Context, report func(func(*cell.Facts))) error) Stage {
	w := wrap(s)
	w.learn = learn
	return w
}

func (s *stage) equal(a, b Plan) bool {
	if e, ok := s.Stage.(interface{ equal(a, b Plan) bool }); ok {
		return e.equal(a, b)
	}
	return reflect.DeepEqual(a, b)
}
