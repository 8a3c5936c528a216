package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/reconcile"
)

// Problem is the one shape of an error (RFC 9457). Code is a stable word for
// programs, Detail a sentence for people that says what to do.
type Problem struct {
	Type      string            `json:"type" doc:"always about:blank; code tells problems apart"`
	Title     string            `json:"title"`
	Status    int               `json:"status"`
	Detail    string            `json:"detail"`
	Code      string            `json:"code"`
	RequestID string            `json:"request_id,omitempty"`
	Link      string            `json:"link,omitempty" doc:"where to go to mend it"`
	Errors    []cell.FieldError `json:"errors,omitempty" doc:"every field that is wrong, by JSON pointer"`
	Cuts      []cell.Cut        `json:"cuts,omitempty" doc:"what the refused change would cut off"`

	retryAfter time.Duration
	hangUp     bool // close the connection after this answer
}

func (p *Problem) Error() string  { return p.Detail }
func (p *Problem) GetStatus() int { return p.Status }

// ContentType makes huma answer application/problem+json.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// GetHeaders adds Retry-After (RFC 9110 §10.2.3) where a wait is known.
func (p *Problem) GetHeaders() http.Header {
	h := http.Header{}
	if p.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int((p.retryAfter+time.Second-1)/time.Second)))
	}
	if p.hangUp {
		h.Set("Connection", "close")
	}
	return h
}

func problem(status int, code, format string, a ...any) *Problem {
	return &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Code: code, Detail: fmt.Sprintf(format, a...)}
}

func notFound(what, name string) *Problem {
	return problem(http.StatusNotFound, "not_found", "there is no %s %q", what, name)
}

func invalid(pointer, format string, a ...any) *Problem {
	p := problem(http.StatusUnprocessableEntity, "invalid", format, a...)
	p.Errors = []cell.FieldError{{Pointer: pointer, Message: p.Detail}}
	return p
}

// problemOf maps every error a handler can return. What it does not know is a
// 500 whose text stays in the log.
func (a *API) problemOf(ctx context.Context, err error) error {
	var (
		known   *Problem
		preview *Preview
		bad     *cell.InvalidError
		settle  *reconcile.SettleError
		confirm *reconcile.ConfirmRequiredError
		refusal *auth.Problem
		compile *reconcile.CompileError
	)
	p := (*Problem)(nil)
	switch {
	case errors.As(err, &preview):
		return preview
	case errors.As(err, &known):
		q := *known
		p = &q
	case errors.As(err, &bad):
		p = problem(http.StatusUnprocessableEntity, "invalid", "%s", bad.Error())
		p.Errors = bad.Fields
	case errors.Is(err, reconcile.ErrConflict), errors.Is(err, reconcile.ErrPreconditionFailed):
		p = problem(http.StatusPreconditionFailed, "precondition_failed", "somebody changed this in the meantime: load it again and repeat the change")
	case errors.Is(err, reconcile.ErrCommitPending):
		p = problem(http.StatusConflict, "commit_pending", "another change waits for its confirmation: confirm or revert it first")
		p.Link = "/history"
	case errors.As(err, &confirm):
		p = problem(http.StatusConflict, "confirm_required", "this change would cut off your own connection (%s): repeat it with Confirm-Within, so that it undoes itself unless you confirm it", confirm.Reason)
	case errors.Is(err, reconcile.ErrNoSuchRevision):
		p = problem(http.StatusNotFound, "not_found", "there is no such revision: GET /api/revisions lists those that are kept")
	case errors.Is(err, reconcile.ErrNothingPending):
		p = problem(http.StatusConflict, "conflict", "no change with this number waits for confirmation; it may have reverted by itself")
	case errors.Is(err, reconcile.ErrRecovered):
		p = recovered()
	case errors.Is(err, reconcile.ErrNotBooted):
		p = problem(http.StatusServiceUnavailable, "starting", "the cell is still starting: try again in a moment")
		p.retryAfter = time.Second
	case errors.As(err, &compile):
		p = problem(http.StatusUnprocessableEntity, "invalid", "%s can't be made from this state: %v", compile.Stage, compile.Err)
	case errors.As(err, &settle) && settle.Blocked:
		p = problem(http.StatusServiceUnavailable, "unprotected", "nothing is changed while the %s can't be put in place, for what it guards stays closed: %s. Mend that first; the cell tries again by itself", settle.Stage, settle.Reason)
	case errors.As(err, &settle):
		p = problem(http.StatusInternalServerError, "settle_failed", "%s could not be changed, so the cell went back to the previous revision: %s", settle.Stage, settle.Reason)
	case errors.As(err, &refusal):
		p = fromAuth(refusal)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		p = problem(http.StatusServiceUnavailable, "timeout", "the request took too long or was given up")
	default:
		a.cfg.Log.Error("request failed", "request_id", requestID(ctx), "error", err)
		p = problem(http.StatusInternalServerError, "internal", "something went wrong inside the cell; its log has the details under request %s", requestID(ctx))
		if isDisk(err) {
			p = problem(http.StatusInsufficientStorage, "storage", "the change could not be written to the disk and was not made: %v", err)
		}
	}
	p.RequestID = requestID(ctx)
	noteCode(ctx, p.Code)
	return p
}

// fromAuth gives a refusal of auth the API's shape.
func fromAuth(x *auth.Problem) *Problem {
	p := problem(x.Status, x.Code, "%s", x.Detail)
	p.Link, p.retryAfter = x.Link, x.RetryAfter
	return p
}

func tooMany(wait time.Duration) *Problem {
	p := problem(http.StatusTooManyRequests, "too_many", "too many tries: wait %v", wait.Round(time.Second))
	p.retryAfter = wait
	return p
}

func recovered() *Problem {
	return problem(http.StatusServiceUnavailable, "recovered",
		"the stored state was damaged and has been recovered: everything keeps running as it was, and changes are closed until an administrator runs `pic recover` on the cell")
}

// useProblems makes huma's own refusals (unknown fields, wrong types, bad
// parameters) take the same shape. huma keeps these hooks in package
// variables, so all APIs of a process share them.
func useProblems() {
	huma.NewErrorWithContext = func(ctx huma.Context, status int, msg string, errs ...error) huma.StatusError {
		p := problem(status, codeOf(status), "%s", msg)
		if ctx != nil {
			p.RequestID = requestID(ctx.Context())
		}
		for _, err := range errs {
			f := cell.FieldError{Message: err.Error()}
			var d huma.ErrorDetailer
			if errors.As(err, &d) {
				x := d.ErrorDetail()
				f = cell.FieldError{Pointer: pointerOf(x.Location), Message: x.Message}
			}
			p.Errors = append(p.Errors, f)
		}
		if len(p.Errors) == 1 {
			p.Detail = strings.TrimSpace(p.Errors[0].Pointer + " " + p.Errors[0].Message)
		}
		return p
	}
	huma.NewError = func(status int, msg string, errs ...error) huma.StatusError {
		return huma.NewErrorWithContext(nil, status, msg, errs...)
	}
}

func codeOf(status int) string {
	switch status {
	case http.StatusUnprocessableEntity, http.StatusBadRequest:
		return "invalid"
	case http.StatusNotFound:
		return "not_found"
	case http.StatusUnauthorized:
		return "unauthenticated"
	case http.StatusForbidden:
		return "forbidden"
	case http.StatusConflict:
		return "conflict"
	case http.StatusPreconditionFailed:
		return "precondition_failed"
	case http.StatusTooManyRequests:
		return "too_many"
	case http.StatusMethodNotAllowed:
		return "method_not_allowed"
	case http.StatusRequestEntityTooLarge:
		return "too_large"
	case http.StatusUnsupportedMediaType:
		return "media_type"
	case http.StatusMisdirectedRequest:
		return "misdirected"
	}
	if status >= 500 {
		return "internal"
	}
	return "refused"
}

// pointerOf turns huma's location ("body.peers[2].name") into a JSON pointer
// (RFC 6901): "/peers/2/name". Other places keep their name.
func pointerOf(location string) string {
	rest, body := strings.CutPrefix(location, "body")
	if !body {
		return location
	}
	rest = strings.NewReplacer("[", ".", "]", "").Replace(rest)
	return strings.ReplaceAll(rest, ".", "/")
}
