package reconcile

import (
	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/textdiff"
)

// Preview is what a commit would do, or how two revisions differ.
type Preview struct {
	Base  cell.Revision `json:"base"`
	Plans []PlanDiff    `json:"plans"`
	// Settings are the first 2,000 differences of the documents.
	Settings []cell.Setting `json:"settings"`
	Cuts     []cell.Cut     `json:"cuts"`
}

// PlanDiff is how a stage's plan changes, as a unified diff. Stages whose plan
// stays the same are left out.
type PlanDiff struct {
	Stage string `json:"stage"`
	Diff  string `json:"diff"`
}

// Preview runs an edit like [Engine.Commit], with the same errors, up to the
// point where something would be written. Nothing changes.
func (e *Engine) Preview(base cell.Revision, edit cell.Edit) (*Preview, error) {
	c, err := e.edit(base, edit, nil)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	facts, before := e.facts, e.compiled
	e.mu.Unlock()
	next := e.compile(c.state, facts)
	if err := e.refused(before, next); err != nil {
		return nil, err
	}
	return e.preview(c.parent, c.running, c.state, before, next)
}

// Diff compares two revisions, compiled with what is known now; 0 is the
// empty document. Base of the result is from.
func (e *Engine) Diff(from, to cell.Revision) (*Preview, error) {
	a, err := e.stateOrEmpty(from)
	if err != nil {
		return nil, err
	}
	b, err := e.stateOrEmpty(to)
	if err != nil {
		return nil, err
	}
	facts := e.Facts()
	before := compiled{plans: make([]Plan, len(e.stages)), errs: make([]error, len(e.stages))}
	if from != 0 {
		before = e.compile(a, facts)
	}
	return e.preview(from, a, b, before, e.compile(b, facts))
}

func (e *Engine) stateOrEmpty(n cell.Revision) (*cell.State, error) {
	if n == 0 {
		s := &cell.State{}
		s.Normalize()
		return s, nil
	}
	s, _, err := e.store.State(n)
	return s, err
}

func (e *Engine) preview(base cell.Revision, a, b *cell.State, before, next compiled) (*Preview, error) {
	p := &Preview{Base: base, Plans: []PlanDiff{}, Settings: []cell.Setting{}, Cuts: cell.Impact(a, b)}
	for i, st := range e.stages {
		if e.equalAt(i, before, next) {
			continue
		}
		if d := textdiff.Unified(st.Name(), before.text(i), next.text(i)); d != "" {
			p.Plans = append(p.Plans, PlanDiff{st.Name(), d})
		}
	}
	var err error
	p.Settings, err = cell.Settings(a, b)
	return p, err
}

// text renders a plan, or says why there is none.
func (c compiled) text(i int) string {
	switch {
	case i >= len(c.plans) || (c.plans[i] == nil && c.errs[i] == nil):
		return ""
	case c.errs[i] != nil:
		return "can't be compiled: " + c.errs[i].Error() + "\n"
	}
	return c.plans[i].String()
}
