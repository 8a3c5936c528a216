package api

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/cell"
)

const (
	defaultTokenDays = 90
	maxTokenDays     = 3650
)

// Token is an API token as its owner sees it.
type Token struct {
	ID       string            `json:"id"`
	User     string            `json:"user"`
	Name     string            `json:"name"`
	Scopes   []cell.TokenScope `json:"scopes" nullable:"false"`
	Created  time.Time         `json:"created"`
	Expires  time.Time         `json:"expires"`
	LastUsed *time.Time        `json:"last_used" doc:"null: never"`
}

// NewToken is a token with its secret, which is shown this once.
type NewToken struct {
	Token
	Secret string `json:"token" doc:"send it as Authorization: Bearer …; it is not shown again"`
}

type addTokenIn struct {
	Write
	Body struct {
		Name   string            `json:"name" minLength:"1" maxLength:"64"`
		User   string            `json:"user,omitempty" maxLength:"64" doc:"whose it is; on the local socket only, where nobody is logged in"`
		Scopes []cell.TokenScope `json:"scopes" minItems:"1" maxItems:"20" nullable:"false" doc:"what it may do; everything else is refused"`
		Days   int               `json:"days,omitempty" minimum:"1" maximum:"3650" doc:"until it expires; default 90"`
	}
}

func (a *API) tokenRoutes() {
	register(a, Route{Access: auth.AccessUser, Operation: op("GET", "/api/auth/tokens", "list-tokens", "auth", "One's own API tokens; an admin sees all")}, a.listTokens)
	register(a, Route{Access: auth.AccessUser, Reauth: true, Operation: op("POST", "/api/auth/tokens", "add-token", "auth", "Make an API token; it is shown once")}, a.addToken)
	register(a, Route{Access: auth.AccessUser, Operation: op("DELETE", "/api/auth/tokens/{id}", "revoke-token", "auth", "Revoke an API token; it ends at once")}, a.revokeToken)
}

func (a *API) listTokens(ctx context.Context, _ *struct{}) (*Out[List[Token]], error) {
	s, _ := a.cfg.Engine.Running()
	who := identityOf(ctx)
	var out []Token
	for i := range s.Users {
		u := &s.Users[i]
		if who.Role != cell.RoleAdmin && u.Name != who.User {
			continue
		}
		for j := range u.Tokens {
			out = append(out, a.shownToken(u.Name, &u.Tokens[j]))
		}
	}
	return ok(list(out))
}

func (a *API) shownToken(user string, t *cell.Token) Token {
	x := Token{ID: t.ID, User: user, Name: t.Name, Scopes: t.Scopes, Created: t.Created, Expires: t.Expires}
	if at := a.cfg.Tokens.LastUsed(t.ID); !at.IsZero() {
		x.LastUsed = &at
	}
	return x
}

func (a *API) addToken(ctx context.Context, in *addTokenIn) (*Out[NewToken], error) {
	who, b := identityOf(ctx), &in.Body
	owner := who.User
	if who.Via == auth.ViaSocket {
		owner = b.User
	} else if b.User != "" && b.User != owner {
		return nil, auth.Forbidden.Problem()
	}
	days := b.Days
	if days == 0 {
		days = defaultTokenDays
	}
	secret, t := auth.NewAPIToken()
	t.Name, t.Scopes = b.Name, slices.Clone(b.Scopes)
	t.Created = a.cfg.Now().UTC().Truncate(time.Second)
	t.Expires = t.Created.AddDate(0, 0, min(days, maxTokenDays))
	r, err := a.commit(ctx, in.Write, change{
		resource: "users/" + owner, message: "add an API token of " + owner,
		edit: func(s *cell.State) error {
			u := s.User(owner)
			if u == nil {
				return notFound("user", owner)
			}
			if len(u.Tokens) >= cell.MaxTokensPerUser {
				return problem(http.StatusConflict, "conflict", "%s has %d tokens: revoke one first", owner, len(u.Tokens))
			}
			u.Tokens = append(slices.Clone(u.Tokens), t)
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	return answer(a, r, "users/"+owner, http.StatusCreated, NewToken{a.shownToken(owner, &t), secret}), nil
}

type tokenIDIn struct {
	Write
	ID string `path:"id" maxLength:"64"`
}

func (a *API) revokeToken(ctx context.Context, in *tokenIDIn) (*NoContent, error) {
	who := identityOf(ctx)
	mine := func(u *cell.User, t *cell.Token) bool {
		return t.ID == in.ID && (who.Role == cell.RoleAdmin || u.Name == who.User)
	}
	owner := ""
	if s, _ := a.cfg.Engine.Running(); s != nil {
		for i := range s.Users {
			if slices.ContainsFunc(s.Users[i].Tokens, func(t cell.Token) bool { return mine(&s.Users[i], &t) }) {
				owner = s.Users[i].Name
			}
		}
	}
	if owner == "" {
		return nil, notFound("token", in.ID)
	}
	r, err := a.commit(ctx, in.Write, change{
		resource: "users/" + owner, message: "revoke an API token of " + owner,
		edit: func(s *cell.State) error {
			if u := s.User(owner); u != nil {
				u.Tokens = slices.DeleteFunc(slices.Clone(u.Tokens), func(t cell.Token) bool { return t.ID == in.ID })
			}
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	return noContent(r), nil
}

// bearer resolves an API token. A request with an Authorization header is
// judged by that alone: what is wrong with it is refused, and no cookie counts
// beside it.
func (a *API) bearer(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, given := auth.BearerToken(r)
		if !given {
			next.ServeHTTP(w, r)
			return
		}
		who, kept, ok := a.cfg.Tokens.Lookup(token)
		if !ok {
			// RFC 6750 §3.1.
			w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
			a.writeHTTPProblem(w, r, problem(http.StatusUnauthorized, "unauthenticated", "this token is unknown, revoked or expired"))
			return
		}
		who = forMetrics(r, who)
		r = r.WithContext(context.WithValue(r.Context(), keyToken, who))
		noteWho(r.Context(), who)
		// The decoded path, which is the one that the router matches.
		if !kept.Allows(r.Method, r.URL.Path) {
			w.Header().Set("WWW-Authenticate", `Bearer error="insufficient_scope"`)
			a.writeHTTPProblem(w, r, problem(http.StatusForbidden, "forbidden", "the scopes of this token do not cover %s %s", r.Method, r.URL.Path))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// TokenOnly is the handler for programs on this machine: API tokens, no
// cookies, no pages. It is served without TLS, so on loopback only.
func (a *API) TokenOnly() http.Handler { return a.tokenOnly }

func loopback() []netip.Addr {
	return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
}

func (a *API) tokenChain(next http.Handler) http.Handler {
	guard := auth.NewWebGuard(&auth.WebGuardConfig{
		Names: func() []string { return []string{"localhost"} }, Addresses: loopback, MaxBody: maxBody, Log: a.cfg.Log,
		Write: func(w http.ResponseWriter, r *http.Request, p *auth.Problem) { a.writeHTTPProblem(w, r, fromAuth(p)) },
	})
	needed := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, given := auth.BearerToken(r); !given && r.URL.Path != "/health" {
			w.Header().Set("WWW-Authenticate", "Bearer")
			a.writeHTTPProblem(w, r, problem(http.StatusUnauthorized, "unauthenticated", "send an API token: Authorization: Bearer pic_…"))
			return
		}
		a.bearer(a.gate(next)).ServeHTTP(w, r)
	})
	return a.audited(guard.Wrap(a.inner(needed)))
}
