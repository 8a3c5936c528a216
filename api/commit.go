package api

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/reconcile"
)

// Write are the parameters every change of the state takes.
type Write struct {
	IfMatch       string `header:"If-Match" doc:"the resource's ETag; 412 when it has changed since" maxLength:"32"`
	ConfirmWithin int    `header:"Confirm-Within" doc:"seconds; makes a confirmed commit that undoes itself without a confirmation" minimum:"10" maximum:"3600"`
	DryRun        bool   `query:"dry_run" doc:"answer with the preview and change nothing"`
}

// change is a commit to be made.
type change struct {
	resource string // for If-Match and the ETag; "" for the whole document
	message  string
	edit     cell.Edit
	secrets  map[cell.SecretRef]cell.Secret
}

// commit previews or makes a change. A dry run comes back as the error
// *Preview, which problemOf turns into a 200.
func (a *API) commit(ctx context.Context, w Write, c change) (reconcile.Result, error) {
	if w.DryRun {
		p, err := a.cfg.Engine.Preview(0, c.edit)
		if err != nil {
			return reconcile.Result{}, err
		}
		return reconcile.Result{}, previewOf(p, true)
	}
	o, base, err := a.options(ctx, w, c)
	if err != nil {
		return reconcile.Result{}, err
	}
	// A client that goes away does not stop a commit half-way.
	work, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	r, err := a.cfg.Engine.Commit(work, base, c.edit, o)
	a.waits(r, err)
	return r, err
}

// waits remembers when a confirmed commit had settled. Only one can be
// pending, so older ones are forgotten.
func (a *API) waits(r reconcile.Result, err error) {
	if err != nil || !r.Pending {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.pending)
	a.pending[r.Revision] = a.cfg.Now()
}

// options turns a request's parameters into the engine's. Without a resource
// If-Match is about the whole document, which is a base revision.
func (a *API) options(ctx context.Context, w Write, c change) (o reconcile.Options, base cell.Revision, err error) {
	o = reconcile.Options{
		Author:        authorOf(ctx),
		Message:       c.message,
		ConfirmWithin: time.Duration(w.ConfirmWithin) * time.Second,
		Secrets:       c.secrets,
	}
	if w.IfMatch != "" && w.IfMatch != "*" {
		n, err := strconv.ParseUint(strings.Trim(strings.TrimPrefix(w.IfMatch, "W/"), `"`), 10, 64)
		if err != nil {
			return o, 0, problem(http.StatusBadRequest, "invalid", `If-Match must be an ETag of this API, such as "41"`)
		}
		if c.resource == "" {
			base = cell.Revision(n)
		} else {
			o.IfMatch = map[string]cell.Revision{c.resource: cell.Revision(n)}
		}
	}
	if f, ok := flowOf(ctx); ok && a.cfg.Reachable != nil {
		o.Reachable = func(s *cell.State, plans map[string]reconcile.Plan) error { return a.cfg.Reachable(f, s, plans) }
	}
	return o, base, nil
}

// answer fills the headers of a change's answer.
func answer[B any](a *API, r reconcile.Result, resource string, status int, body B) *Out[B] {
	out := &Out[B]{Status: status, PicRevision: revision(r.Revision), Body: body}
	if resource != "" {
		out.ETag = a.etag(resource)
	}
	if r.Pending {
		out.Status, out.PicConfirmBy = http.StatusAccepted, r.ConfirmBy.UTC().Format(time.RFC3339)
		out.Connection = "close" // so that the confirmation comes on a new one
	}
	return out
}

func noContent(r reconcile.Result) *NoContent {
	out := &NoContent{Status: http.StatusNoContent, PicRevision: revision(r.Revision)}
	if r.Pending {
		out.Status, out.PicConfirmBy, out.Connection = http.StatusAccepted, r.ConfirmBy.UTC().Format(time.RFC3339), "close"
	}
	return out
}

func revision(n cell.Revision) string { return strconv.FormatUint(uint64(n), 10) }

func (a *API) etag(resource string) string {
	if resource == "" {
		_, n := a.cfg.Engine.Running()
		return `"` + revision(n) + `"`
	}
	return `"` + revision(a.cfg.Engine.ChangedAt(resource)) + `"`
}

// PlanDiff is how one subsystem's plan changes, as a unified diff in the
// subsystem's own notation.
type PlanDiff struct {
	Stage string `json:"stage"`
	Diff  string `json:"diff"`
}

// Setting is one change of the document.
type Setting struct {
	Pointer string `json:"pointer"`
	Op      string `json:"op" enum:"add,remove,replace"`
	Before  any    `json:"before"`
	After   any    `json:"after"`
}

// Preview is what a change would do.
type Preview struct {
	DryRun   bool          `json:"dry_run"`
	Base     cell.Revision `json:"base"`
	Plans    []PlanDiff    `json:"plans" nullable:"false"`
	Settings []Setting     `json:"settings" nullable:"false"`
	Cuts     []cell.Cut    `json:"cuts" nullable:"false"`
}

// Error and GetStatus let a preview travel the path of errors: huma answers
// with its status and itself as the body.
func (*Preview) Error() string  { return "this is a preview" }
func (*Preview) GetStatus() int { return http.StatusOK }

func previewOf(p *reconcile.Preview, dry bool) *Preview {
	out := &Preview{DryRun: dry, Base: p.Base, Plans: []PlanDiff{}, Settings: []Setting{}, Cuts: p.Cuts}
	for _, d := range p.Plans {
		if d.Diff != "" {
			out.Plans = append(out.Plans, PlanDiff{d.Stage, d.Diff})
		}
	}
	for _, s := range p.Settings {
		out.Settings = append(out.Settings, Setting{s.Pointer, s.Op, s.Before, s.After})
	}
	if out.Cuts == nil {
		out.Cuts = []cell.Cut{}
	}
	return out
}

func isDisk(err error) bool {
	for _, e := range []error{syscall.ENOSPC, syscall.EIO, syscall.EROFS, syscall.EDQUOT, syscall.EMFILE, syscall.ENFILE} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
