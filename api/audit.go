package api

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/cell"
)

// Audit is the record of who did what; the datastore has the one on the disk.
type Audit interface {
	// Append returns when the entry is on the disk, Note at once.
	Append(cell.AuditEntry) error
	Note(cell.AuditEntry) error
	List(before uint64, limit int) ([]cell.AuditEntry, error)
	Verify() (cell.AuditReport, error)
	// Recorded is the last status of a revision in the record.
	Recorded(cell.Revision) string
}

// auditRevisions is how far back a look for revisions that are not in the
// record goes: more than can be made between two looks.
const auditRevisions = 50

func (a *API) auditRoutes() {
	register(a, Route{Access: auth.AccessAdmin, Operation: op("GET", "/api/audit", "list-audit", "audit", "Who did what, newest first")},
		func(_ context.Context, in *auditIn) (*Out[List[cell.AuditEntry]], error) {
			entries, err := a.cfg.Audit.List(in.Before, in.Limit)
			if err != nil {
				return nil, err
			}
			return ok(list(entries))
		})
	register(a, Route{Access: auth.AccessAdmin, Operation: op("GET", "/api/audit/verify", "verify-audit", "audit", "Check the record's chain; names the first broken entry")},
		func(context.Context, *struct{}) (*Out[cell.AuditReport], error) {
			r, err := a.cfg.Audit.Verify()
			if err != nil {
				return nil, err
			}
			return ok(r)
		})
}

type auditIn struct {
	Before uint64 `query:"before" doc:"only entries below this number"`
	Limit  int    `query:"limit" minimum:"1" maximum:"500" default:"50"`
}

// auditNote collects, on the way in, what the record says on the way out.
type auditNote struct {
	who  auth.Identity
	user string // the account that was tried, if it exists
	code string
}

func noteOf(ctx context.Context) *auditNote {
	n, _ := ctx.Value(keyAudit).(*auditNote)
	if n == nil {
		return &auditNote{}
	}
	return n
}

func noteWho(ctx context.Context, who auth.Identity) { noteOf(ctx).who = who }
func noteCode(ctx context.Context, code string)      { noteOf(ctx).code = code }

// noteUser names the account of a sign-in. Only accounts that exist are named:
// people type passwords into the field for names.
func (a *API) noteUser(ctx context.Context, user string) {
	if _, exists := a.RoleOf(user); exists {
		noteOf(ctx).user = user
	}
}

// audited records each request that signs in or out, is refused, or changes
// something, before its answer leaves.
func (a *API) audited(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		note := &auditNote{}
		if who, local := auth.SocketIdentity(r.Context()); local {
			note.who = who
		}
		r = r.WithContext(context.WithValue(r.Context(), keyAudit, note))
		next.ServeHTTP(&auditWriter{ResponseWriter: w, before: func(status int) {
			a.traffic.note(r, status, note)
			a.record(r, note, status, w.Header().Get("X-Request-Id"))
		}}, r)
	})
}

// auditWriter calls before with the status, once, before anything is sent.
type auditWriter struct {
	http.ResponseWriter
	before func(status int)
	told   bool
}

func (w *auditWriter) WriteHeader(status int) {
	w.tell(status)
	w.ResponseWriter.WriteHeader(status)
}

func (w *auditWriter) Write(b []byte) (int, error) {
	w.tell(http.StatusOK)
	return w.ResponseWriter.Write(b)
}

// Flush is for event streams; gin asks for it by type.
func (w *auditWriter) Flush() {
	if f, can := w.ResponseWriter.(http.Flusher); can {
		f.Flush()
	}
}

// Unwrap is for http.ResponseController.
func (w *auditWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *auditWriter) tell(status int) {
	if !w.told && status >= 200 { // RFC 9110 §15.2: 1xx come before the answer
		w.told = true
		w.before(status)
	}
}

var refusedStatuses = []int{
	http.StatusUnauthorized, http.StatusForbidden, http.StatusMisdirectedRequest,
	http.StatusUnsupportedMediaType, http.StatusTooManyRequests,
}

// askedEarly: what a page asks before anybody is signed in is no event.
func askedEarly(r *http.Request, status int, note *auditNote) bool {
	return status == http.StatusUnauthorized && (r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions) &&
		note.who.Via == auth.ViaNone && r.Header.Get("Authorization") == ""
}

// record adds what one request did. An entry that can't be written does not
// undo what was done: it is logged, and a notice says so.
func (a *API) record(r *http.Request, note *auditNote, status int, requestID string) {
	changes := r.Method != http.MethodGet && r.Method != http.MethodHead && r.Method != http.MethodOptions
	refused := slices.Contains(refusedStatuses, status)
	if askedEarly(r, status, note) {
		return
	}
	done := changes && status < 300
	if (!refused && !done) || a.cfg.Engine.Source() == "" { // before boot nobody is let in, and nothing may be written
		return
	}
	e := cell.AuditEntry{
		Event: eventOf(r), Outcome: "ok", Subject: r.Method + " " + r.URL.Path, Code: note.code, RequestID: requestID,
		Token: note.who.Token, Who: cell.Author{Name: note.who.User, Via: string(note.who.Via)},
	}
	if e.Who.Name == "" {
		e.Who.Name = note.user
	}
	if note.who.Via != auth.ViaSocket {
		e.Who.Address = remote(r).Addr().String()
	}
	var err error
	switch {
	case !refused:
		e.Code = ""
		if err = a.AuditRevisions(); err == nil && credential(r.URL.Path) {
			err = a.cfg.Audit.Append(e)
		}
	case note.who.Via != auth.ViaNone || note.user != "":
		e.Outcome = "refused"
		err = a.cfg.Audit.Note(e)
	case !a.claimed() && a.cfg.Engine.Source() != "recovered":
		// Nobody's yet, and open to a whole network: without the setup code no
		// request writes to the disk. The program's log has wrong codes.
		return
	default: // strangers must not fill the record
		e.Outcome = "refused"
		admitted, dropped := a.refusals.take(a.cfg.Now())
		if dropped > 0 {
			err = a.cfg.Audit.Note(cell.AuditEntry{
				Event: "refusals_dropped", Outcome: "ok", Who: cell.Author{Name: "pic", Via: "cell"},
				Subject: revision(cell.Revision(dropped)) + " refusals of strangers were not recorded",
			})
		}
		if admitted && err == nil {
			err = a.cfg.Audit.Note(e)
		}
	}
	if err != nil {
		a.cfg.Log.Error("audit log is not written", "error", err)
	}
}

// credential paths change who may get in, or make a change permanent, which a
// revision does not tell.
func credential(path string) bool {
	return strings.HasPrefix(path, "/api/auth/") || strings.HasPrefix(path, "/api/setup/") ||
		strings.HasPrefix(path, "/api/commits/") || path == "/api/recover"
}

// eventOf is the operation's last word for what is about credentials, or
// "refused".
func eventOf(r *http.Request) string {
	if !credential(r.URL.Path) {
		return "refused"
	}
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/api/"), "/")
	switch {
	case len(parts) >= 2 && parts[0] == "auth" && slices.Contains([]string{"users", "sessions", "tokens", "second-factor"}, parts[1]):
		return strings.ToLower(r.Method) + "_" + strings.ReplaceAll(parts[1], "-", "_")
	case parts[0] == "commits" && len(parts) == 3:
		return parts[2]
	}
	return cell.OneLine(strings.Join(parts, "_"), 40)
}

// AuditRevisions puts revisions and changes of their status that the record
// does not have yet into it, whoever caused them, and returns when they are on
// the disk. It is called before a change is answered, and whenever the engine
// says "look again": so what reverts by itself is recorded too.
func (a *API) AuditRevisions() error {
	a.auditing.Lock()
	defer a.auditing.Unlock()
	infos, err := a.cfg.Engine.Revisions(0, auditRevisions)
	if err != nil {
		return err
	}
	for _, info := range slices.Backward(infos) {
		if a.cfg.Audit.Recorded(info.Number) == string(info.Status) {
			continue
		}
		e := cell.AuditEntry{Event: "revision", Outcome: string(info.Status), Who: info.Author, Subject: info.Message, Revision: info.Number}
		if err := a.cfg.Audit.Append(e); err != nil {
			return err
		}
	}
	return nil
}

// Limits of what strangers can write into the record.
const (
	refusalBurst = 200
	refusalEvery = 10 * time.Second
)

// allowance is a token bucket. The zero value is full.
type allowance struct {
	mu      sync.Mutex
	spent   int
	since   time.Time
	dropped uint64
}

// take reports whether one more is admitted, and how many were not since the
// last one that was.
func (l *allowance) take(now time.Time) (admitted bool, dropped uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.since.IsZero() || now.Before(l.since) {
		l.since = now
	}
	if back := int(now.Sub(l.since) / refusalEvery); back > 0 {
		l.spent = max(0, l.spent-back)
		l.since = l.since.Add(time.Duration(back) * refusalEvery)
	}
	if l.spent >= refusalBurst {
		l.dropped++
		return false, 0
	}
	l.spent++
	dropped, l.dropped = l.dropped, 0
	return true, dropped
}
