package auth

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// ErrorWriter sends a refusal; the api injects the one that writes
// application/problem+json.
type ErrorWriter func(w http.ResponseWriter, r *http.Request, p *Problem)

// WebGuardConfig configures [NewWebGuard].
type WebGuardConfig struct {
	// Names are the host names that the cell answers to, and Addresses those
	// of its interfaces, loopback included; both are asked for on every
	// request and must be fast. Nil means none.
	Names     func() []string
	Addresses func() []netip.Addr
	// CSRFExempt are the exact paths at which a session cookie may come
	// without X-CSRF-Token: login and setup, where the page has none yet.
	CSRFExempt []string
	// MaxBody bounds a request's body in bytes; zero: 1 MiB.
	MaxBody int64
	Write   ErrorWriter // nil: a plain problem+json writer
	Log     *slog.Logger
}

// WebGuard holds the checks that stand before every handler. Requests of the
// unix socket (see [SocketIdentity]) pass those that are about browsers, since
// no browser can reach it.
type WebGuard struct {
	names     func() []string
	addresses func() []netip.Addr
	exempt    []string
	maxBody   int64
	write     ErrorWriter
	log       *slog.Logger
	cross     *http.CrossOriginProtection
}

// NewWebGuard returns the guards.
func NewWebGuard(cfg *WebGuardConfig) *WebGuard {
	g := &WebGuard{
		names: cfg.Names, addresses: cfg.Addresses, exempt: cfg.CSRFExempt, maxBody: cfg.MaxBody,
		write: cfg.Write, log: orDiscard(cfg.Log),
		// No trusted origins and no bypass patterns: a pattern once let more
		// through than it said (GO-2025-3955).
		cross: http.NewCrossOriginProtection(),
	}
	if g.names == nil {
		g.names = func() []string { return nil }
	}
	if g.addresses == nil {
		g.addresses = func() []netip.Addr { return nil }
	}
	if g.maxBody <= 0 {
		g.maxBody = 1 << 20
	}
	if g.write == nil {
		g.write = writeProblem
	}
	return g
}

// Wrap puts all guards before next, in their order: request id, headers, host,
// limits, cross-origin, media type, CSRF token.
func (g *WebGuard) Wrap(next http.Handler) http.Handler {
	return g.RequestID(g.Headers(g.Hosts(g.Limits(g.CrossOrigin(g.JSON(g.CSRF(next)))))))
}

type requestIDKey struct{}

// RequestID gives every request an id of our own making and sends it as
// X-Request-Id; one that the client sent is removed, so that nobody can write
// into our logs with it.
func (g *WebGuard) RequestID(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := make([]byte, 12)
		rand.Read(b)
		id := hex.EncodeToString(b)
		r = r.WithContext(context.WithValue(r.Context(), requestIDKey{}, id))
		r.Header = r.Header.Clone()
		r.Header.Del("X-Request-Id")
		w.Header().Set("X-Request-Id", id)
		next.ServeHTTP(w, r)
	})
}

// RequestID returns the id of the request that ctx belongs to, or "".
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// Hosts answers 421 to requests that name another host (RFC 9110, section
// 15.5.20).
func (g *WebGuard) Hosts(next http.Handler) http.Handler {
	return g.check(next, func(r *http.Request) *Problem {
		if !HostAllowed(r.Host, g.names(), g.addresses()) {
			return errMisdirected
		}
		return nil
	})
}

// Limits bounds the body; a handler that reads past the bound gets
// *http.MaxBytesError.
func (g *WebGuard) Limits(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength > g.maxBody {
			g.refuse(w, r, errTooLarge)
			return
		}
		if r.Body != nil {
			r.Body = http.MaxBytesReader(w, r.Body, g.maxBody)
		}
		next.ServeHTTP(w, r)
	})
}

// CrossOrigin refuses what another site's page makes a browser send: changes
// by Fetch Metadata or Origin, reads by Fetch Metadata unless somebody follows
// a link, upgrades unless they come from our own page. A sibling name
// ("same-site") is another site: services have their own.
func (g *WebGuard) CrossOrigin(next http.Handler) http.Handler {
	return g.check(next, func(r *http.Request) *Problem {
		if g.cross.Check(r) != nil {
			return errCrossOrigin
		}
		if r.Header.Get("Upgrade") != "" && !sameOrigin(r) {
			return errCrossOrigin
		}
		switch site := r.Header.Get("Sec-Fetch-Site"); site {
		case "", "same-origin", "none":
			return nil
		}
		navigation := r.Method == http.MethodGet && r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document"
		if !navigation {
			return errCrossOrigin
		}
		return nil
	})
}

// sameOrigin reports whether Origin is there and names the host of the request
// (RFC 6455, section 10.2). The scheme is not compared: behind a proxy this
// server does not know it.
func sameOrigin(r *http.Request) bool {
	u, err := url.Parse(r.Header.Get("Origin"))
	return err == nil && u.Host != "" && strings.EqualFold(u.Host, r.Host)
}

// JSON refuses changes that are not sent as JSON, which a form of another site
// can't be. DELETE without a body needs no type, but must not have another.
func (g *WebGuard) JSON(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent := r.Header.Get("Content-Type")
		bare := r.Method == http.MethodDelete && sent == "" && r.ContentLength == 0
		if mutating(r.Method) && !bare && !isJSON(sent) {
			g.refuse(w, r, errMediaType)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func isJSON(contentType string) bool {
	kind, params, err := mime.ParseMediaType(contentType)
	if err != nil || kind != "application/json" && kind != "application/merge-patch+json" {
		return false
	}
	charset, ok := params["charset"]
	return !ok || strings.EqualFold(charset, "utf-8")
}

// CSRF asks for the token of the session wherever a session cookie comes with
// a change. A cookie that is not one of ours counts as one that has no token.
func (g *WebGuard) CSRF(next http.Handler) http.Handler {
	return g.check(next, func(r *http.Request) *Problem {
		if !mutating(r.Method) || len(r.CookiesNamed(SessionCookieName)) == 0 || slices.Contains(g.exempt, r.URL.Path) {
			return nil
		}
		if !CSRFMatches(SessionToken(r), r.Header.Get("X-CSRF-Token")) {
			return errCSRF
		}
		return nil
	})
}

// mutating methods change something; what is not known to be safe does (RFC
// 9110, section 9.2.1).
func mutating(method string) bool {
	return method != http.MethodGet && method != http.MethodHead && method != http.MethodOptions
}

// check runs a guard that is about browsers.
func (g *WebGuard) check(next http.Handler, guard func(*http.Request) *Problem) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, local := SocketIdentity(r.Context()); !local {
			if p := guard(r); p != nil {
				g.refuse(w, r, p)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

func (g *WebGuard) refuse(w http.ResponseWriter, r *http.Request, p *Problem) {
	g.log.Info("refused a request", "status", p.Status, "code", p.Code, "method", r.Method, "path", r.URL.Path,
		"host", r.Host, "remote", r.RemoteAddr, "request_id", RequestID(r.Context()))
	g.write(w, r, p)
}

// problemBody is RFC 9457, with our extensions.
type problemBody struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail"`
	Code      string `json:"code"`
	Link      string `json:"link,omitempty"`
	RequestID string `json:"request_id"`
}

func writeProblem(w http.ResponseWriter, r *http.Request, p *Problem) {
	w.Header().Set("Content-Type", "application/problem+json")
	if p.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(RetryAfterSeconds(p.RetryAfter)))
	}
	w.WriteHeader(p.Status)
	// An error here is a client that went away.
	_ = json.NewEncoder(w).Encode(problemBody{
		Type: "about:blank", Title: http.StatusText(p.Status), Status: p.Status, Detail: p.Detail,
		Code: p.Code, Link: p.Link, RequestID: RequestID(r.Context()),
	})
}
