package api

import (
	"context"
	"net/http"

	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/reconcile"
)

// RevisionNow is the running revision.
type RevisionNow struct {
	Revision cell.Revision `json:"revision"`
	Source   string        `json:"source" enum:"current,recovered"`
}

// RevisionItem is a revision in the history.
type RevisionItem struct {
	cell.RevisionInfo
	Current bool `json:"current"`
}

// RevisionFull is a revision with its state.
type RevisionFull struct {
	RevisionItem
	State cell.State `json:"state"`
}

// Committed is the answer to a rollback, confirmation or revert.
type Committed struct {
	Revision cell.Revision `json:"revision"`
}

type revisionIn struct {
	N uint64 `path:"n" minimum:"1"`
}

type revisionActIn struct {
	N    uint64 `path:"n" minimum:"1"`
	Body Empty
}

func (a *API) revisionRoutes() {
	register(a, Route{Access: auth.AccessUser, Operation: op("GET", "/api/revision", "get-revision", "revisions", "The running revision")},
		func(context.Context, *struct{}) (*Out[RevisionNow], error) {
			_, n := a.cfg.Engine.Running()
			return ok(RevisionNow{n, a.cfg.Engine.Source()})
		})
	register(a, Route{Access: auth.AccessAdmin, Operation: op("GET", "/api/revisions", "list-revisions", "revisions", "The history, newest first")}, a.listRevisions)
	register(a, Route{Access: auth.AccessAdmin, Operation: op("GET", "/api/revisions/{n}", "show-revision", "revisions", "One revision with its state")},
		func(_ context.Context, in *revisionIn) (*Out[RevisionFull], error) {
			s, info, err := a.cfg.Engine.StateAt(cell.Revision(in.N))
			if err != nil {
				return nil, err
			}
			_, now := a.cfg.Engine.Running()
			return ok(RevisionFull{RevisionItem{info, info.Number == now}, *s})
		})
	register(a, Route{Access: auth.AccessAdmin, Operation: op("GET", "/api/revisions/{n}/diff", "diff-revision", "revisions", "What a revision changed, against its parent or another")}, a.diffRevision)
	register(a, Route{Access: auth.AccessAdmin, Reauth: true, Operation: op("POST", "/api/revisions/{n}/rollback", "rollback", "revisions", "Make an old revision's state a new revision")}, a.rollback)
	register(a, Route{Access: auth.AccessAdmin, Operation: op("POST", "/api/commits/{n}/confirm", "confirm", "revisions", "Confirm a pending commit; must come on a new connection")}, a.confirm)
	register(a, Route{Access: auth.AccessLocal, Operation: op("POST", "/api/recover", "recover", "revisions", "Adopt a revision after the stored state was found damaged (local socket only)")}, a.recoverState)
	register(a, Route{Access: auth.AccessAdmin, Operation: op("POST", "/api/commits/{n}/revert", "revert", "revisions", "Undo a pending commit now")},
		func(ctx context.Context, in *revisionActIn) (*Out[Committed], error) {
			if err := a.cfg.Engine.Revert(context.WithoutCancel(ctx), cell.Revision(in.N), authorOf(ctx)); err != nil {
				return nil, err
			}
			return a.committed(), nil
		})
}

func (a *API) committed() *Out[Committed] {
	_, n := a.cfg.Engine.Running()
	return &Out[Committed]{Status: http.StatusOK, PicRevision: revision(n), Body: Committed{n}}
}

type listRevisionsIn struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"500" default:"50"`
	Before uint64 `query:"before" doc:"only revisions below this number"`
}

func (a *API) listRevisions(_ context.Context, in *listRevisionsIn) (*Out[List[RevisionItem]], error) {
	infos, err := a.cfg.Engine.Revisions(cell.Revision(in.Before), in.Limit)
	if err != nil {
		return nil, err
	}
	_, now := a.cfg.Engine.Running()
	var out []RevisionItem
	for _, i := range infos {
		out = append(out, RevisionItem{i, i.Number == now})
	}
	return ok(list(out))
}

type diffIn struct {
	N       uint64 `path:"n" minimum:"1"`
	Against uint64 `query:"against" doc:"the revision to compare with; default: the parent"`
}

func (a *API) diffRevision(_ context.Context, in *diffIn) (*Out[Preview], error) {
	n, against := cell.Revision(in.N), cell.Revision(in.Against)
	if against == 0 {
		_, info, err := a.cfg.Engine.StateAt(n)
		if err != nil {
			return nil, err
		}
		against = info.Parent // 0 is the empty document
	}
	p, err := a.cfg.Engine.Diff(against, n)
	if err != nil {
		return nil, err
	}
	return ok(*previewOf(p, false))
}

type rollbackIn struct {
	Write
	N    uint64 `path:"n" minimum:"1"`
	Body Empty
}

func (a *API) rollback(ctx context.Context, in *rollbackIn) (*Out[Committed], error) {
	to := cell.Revision(in.N)
	if in.DryRun {
		old, _, err := a.cfg.Engine.StateAt(to)
		if err != nil {
			return nil, err
		}
		p, err := a.cfg.Engine.Preview(0, reconcile.RollbackEdit(old, false))
		if err != nil {
			return nil, err
		}
		return nil, previewOf(p, true)
	}
	o, _, err := a.options(ctx, in.Write, change{message: "roll back to revision " + revision(to)})
	if err != nil {
		return nil, err
	}
	r, err := a.cfg.Engine.Rollback(context.WithoutCancel(ctx), to, o)
	a.waits(r, err)
	if err != nil {
		return nil, err
	}
	return answer(a, r, "", http.StatusOK, Committed{r.Revision}), nil
}

// confirm demands a connection that was made after the commit had settled.
func (a *API) confirm(ctx context.Context, in *revisionActIn) (*Out[Committed], error) {
	n := cell.Revision(in.N)
	a.mu.Lock()
	settled, known := a.pending[n]
	a.mu.Unlock()
	if r := requestOf(ctx); known && r != nil {
		if made, seen := a.conns.since(connOf(r)); seen && !made.After(settled) {
			p := problem(http.StatusConflict, "old_connection", "confirm on a new connection: this one was open before the change and does not prove that you can still get in; it is closed now, so try again")
			p.hangUp = true
			return nil, p
		}
	}
	if err := a.cfg.Engine.Confirm(context.WithoutCancel(ctx), n, authorOf(ctx)); err != nil {
		return nil, err
	}
	return a.committed(), nil
}

type recoverIn struct {
	Body struct {
		Revision uint64 `json:"revision,omitempty" doc:"the revision to adopt; default: the one that was recovered"`
	}
}

// recoverState is for somebody at the machine, who has seen what was damaged.
func (a *API) recoverState(ctx context.Context, in *recoverIn) (*Out[Committed], error) {
	if a.cfg.Engine.Source() != "recovered" {
		return nil, problem(http.StatusConflict, "conflict", "the stored state is sound: there is nothing to recover from")
	}
	r, err := a.cfg.Engine.Adopt(context.WithoutCancel(ctx), cell.Revision(in.Body.Revision), authorOf(ctx))
	if err != nil {
		return nil, err
	}
	return answer(a, r, "", http.StatusOK, Committed{r.Revision}), nil
}
