package api

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

type ctxKey int

const (
	keySession ctxKey = iota
	keyRequest
	keySocket
	keyToken
	keyAudit
)

func requestID(ctx context.Context) string { return auth.RequestID(ctx) }

// identityOf says who asks: the socket's peer, the session's user, or nobody.
func identityOf(ctx context.Context) auth.Identity {
	if ctx.Value(keySocket) != nil {
		id, _ := auth.SocketIdentity(ctx)
		return id
	}
	if t, ok := ctx.Value(keyToken).(auth.Identity); ok {
		return t
	}
	if s := sessionOf(ctx); s != nil {
		return s.Identity()
	}
	return auth.Identity{}
}

// sessionOf returns the session of a request, nil on the socket or without one.
func sessionOf(ctx context.Context) *auth.Session {
	s, _ := ctx.Value(keySession).(*auth.Session)
	return s
}

func requestOf(ctx context.Context) *http.Request {
	r, _ := ctx.Value(keyRequest).(*http.Request)
	return r
}

// sourceOf is where tries of passwords come from, for backoff.
func sourceOf(ctx context.Context) auth.Source {
	if id := identityOf(ctx); id.Via == auth.ViaSocket {
		return auth.SourceUID(id.UID)
	}
	return auth.SourceAddress(remote(requestOf(ctx)).Addr())
}

// authorOf names who asks, for the history.
func authorOf(ctx context.Context) cell.Author {
	id := identityOf(ctx)
	a := cell.Author{Name: id.User, Via: string(id.Via)}
	if r := requestOf(ctx); r != nil && id.Via != auth.ViaSocket {
		a.Address = remote(r).Addr().String()
	}
	return a
}

// flowOf returns the connection of a web request.
func flowOf(ctx context.Context) (Flow, bool) {
	r := requestOf(ctx)
	if r == nil || identityOf(ctx).Via == auth.ViaSocket {
		return Flow{}, false
	}
	f := Flow{Remote: remote(r), Local: local(r)}
	return f, f.Remote.IsValid() && f.Local.IsValid()
}

// remote is the peer of the connection. Only the connection counts: no header
// says who a client is.
func remote(r *http.Request) netip.AddrPort {
	ap, _ := netip.ParseAddrPort(r.RemoteAddr)
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

func local(r *http.Request) netip.AddrPort {
	a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return netip.AddrPort{}
	}
	ap, _ := netip.ParseAddrPort(a.String())
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// webChain wraps the router for browsers: the guards of auth (request id,
// headers, host, limits, cross-origin, JSON type, CSRF), then session and gate.
func (a *API) webChain(next http.Handler) http.Handler {
	guard := auth.NewWebGuard(&auth.WebGuardConfig{
		Names:      a.webNames,
		Addresses:  a.localAddresses,
		CSRFExempt: []string{"/api/auth/login", "/api/setup/step", "/api/setup/complete"},
		MaxBody:    maxBody,
		Log:        a.cfg.Log,
		Write: func(w http.ResponseWriter, r *http.Request, p *auth.Problem) {
			a.writeHTTPProblem(w, r, fromAuth(p))
		},
	})
	return a.audited(guard.Wrap(a.inner(a.bearer(a.session(a.gate(next))))))
}

// socketChain wraps the router for the local socket: the kernel has proved who
// connects, and no browser can reach it.
func (a *API) socketChain(next http.Handler) http.Handler {
	guard := auth.NewWebGuard(&auth.WebGuardConfig{MaxBody: maxBody, Log: a.cfg.Log})
	h := a.audited(guard.RequestID(guard.Limits(a.inner(a.gate(next)))))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, known := auth.SocketIdentity(r.Context())
		if !known || id.Role != cell.RoleAdmin {
			a.writeHTTPProblem(w, r, problem(http.StatusForbidden, "forbidden", "only root and members of the group %s may use this socket", auth.AdminGroup))
			return
		}
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), keySocket, true)))
	})
}

// webNames and localAddresses are the hosts the UI and API answer to.
func (a *API) webNames() []string {
	names := []string{"localhost"}
	if s, _ := a.cfg.Engine.Running(); s != nil {
		names = append(names, s.WebNames()...)
	}
	return names
}

func (a *API) localAddresses() []netip.Addr {
	f := a.cfg.Engine.Facts()
	return append(f.LocalAddresses(), netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback())
}

// inner remembers the request and its connection, and turns a panic into a 500.
func (a *API) inner(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.conns.see(connOf(r), a.cfg.Now())
		r = r.WithContext(context.WithValue(r.Context(), keyRequest, r))
		defer func() {
			if p := recover(); p != nil {
				if err, is := p.(error); is && errors.Is(err, http.ErrAbortHandler) {
					panic(p) // net/http's own way to drop a connection
				}
				lifecycle.Recovered(a.cfg.Log, "api request", p, "request_id", requestID(r.Context()), "path", r.URL.Path)
				a.writeHTTPProblem(w, r, problem(http.StatusInternalServerError, "internal", "something went wrong inside the cell; its log has the details under request %s", requestID(r.Context())))
			}
		}()
		lifecycle.Fault("api request")
		next.ServeHTTP(w, r)
	})
}

// session resolves the cookie to an identity. The role comes from the running
// state at every request, so a change takes effect at once.
func (a *API) session(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token := auth.SessionToken(r)
		if _, given := auth.BearerToken(r); token == "" || given {
			next.ServeHTTP(w, r)
			return
		}
		s, live := a.cfg.Sessions.Lookup(token)
		if !live {
			c := auth.ClearSessionCookie()
			http.SetCookie(w, &c)
			next.ServeHTTP(w, r)
			return
		}
		noteWho(r.Context(), s.Identity())
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), keySession, &s)))
	})
}

// RoleOf says which role a user has in the running state.
func (a *API) RoleOf(user string) (cell.Role, bool) {
	s, _ := a.cfg.Engine.Running()
	if s == nil {
		return "", false
	}
	u := s.User(user)
	if u == nil {
		return "", false
	}
	return u.Role, true
}

// gate keeps an unclaimed cell to /api/setup and a recovered one to its alarm.
func (a *API) gate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		isAPI := strings.HasPrefix(r.URL.Path, "/api/") || r.URL.Path == "/api" || r.URL.Path == cell.MetricsPath
		s, _ := a.cfg.Engine.Running()
		switch {
		case !isAPI:
		case a.cfg.Engine.Source() == "recovered":
			if r.Context().Value(keySocket) == nil || (r.Method != http.MethodGet && r.Method != http.MethodHead && r.URL.Path != "/api/recover") {
				a.writeHTTPProblem(w, r, recovered())
				return
			}
		case s == nil || !s.Claimed():
			if !strings.HasPrefix(r.URL.Path, "/api/setup/") {
				p := problem(http.StatusPreconditionRequired, "setup_required", "nobody has claimed this cell yet: open /setup and enter the setup code")
				p.Link = "/setup"
				a.writeHTTPProblem(w, r, p)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// writeHTTPProblem answers outside huma, in the same shape.
func (a *API) writeHTTPProblem(w http.ResponseWriter, r *http.Request, p *Problem) {
	q := *p
	q.RequestID = requestID(r.Context())
	noteCode(r.Context(), q.Code)
	h := w.Header()
	for k, v := range q.GetHeaders() {
		h[k] = v
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(q.Status)
	if err := json.NewEncoder(w).Encode(&q); err != nil {
		a.cfg.Log.Debug("client went away", "error", err)
	}
}

// writeProblem answers inside huma.
func (a *API) writeProblem(ctx huma.Context, err error) {
	var p *Problem
	if !errors.As(err, &p) {
		p = problem(http.StatusInternalServerError, "internal", "%v", err)
	}
	for k, v := range p.GetHeaders() {
		ctx.SetHeader(k, strings.Join(v, ", "))
	}
	noteCode(ctx.Context(), p.Code)
	ctx.SetHeader("Content-Type", "application/problem+json")
	ctx.SetStatus(p.Status)
	if err := json.NewEncoder(ctx.BodyWriter()).Encode(p); err != nil {
		a.cfg.Log.Debug("client went away", "error", err)
	}
}
