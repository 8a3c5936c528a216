package proxy

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

// stream is a request that is being answered, so that a change of routes can
// end those that are no longer allowed.
type stream struct {
	to         target
	src, local netip.Addr
	plain      bool
	cancel     context.CancelFunc
}

// Handler answers requests on the HTTPS listener.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.serveHTTPS) }

// RedirectHandler answers requests on the HTTP listener: ACME validation and
// redirects to HTTPS, nothing else.
func (s *Server) RedirectHandler() http.Handler { return http.HandlerFunc(s.serveHTTP) }

func (s *Server) serveHTTPS(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	defer s.recovered(r)
	lifecycle.Fault("https request")
	to, ok := parseHost(r.Host)
	src, local := sourceOf(r), localOf(r)

	// Entered before the table is read: a table that comes later sees it.
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	st := &stream{to: to, src: src, local: local, cancel: cancel}
	s.enter(st)
	defer s.leave(st)

	t := s.table.Load()
	switch {
	case !t.admits(src, local, false):
		misdirected(w, "This cell does not answer here.")
		return
	case !ok || !t.portMatches(to, src, t.routes.HTTPSPort):
		misdirected(w, "This cell does not answer for that host name.")
		return
	case r.TLS != nil && !to.sameServerName(r.TLS.ServerName):
		misdirected(w, "The host name of the request is not the one of the TLS connection.")
		return
	case malformed(r, to):
		problem(w, http.StatusBadRequest, "bad_request", "This request contradicts itself.")
		return
	// Methods have a case (RFC 9110 §9.1), but not every service knows.
	case strings.EqualFold(r.Method, http.MethodConnect) || strings.EqualFold(r.Method, http.MethodTrace):
		problem(w, http.StatusMethodNotAllowed, "method_not_allowed", "This method is not supported.")
		return
	}
	if lastOfItsConnection(r) {
		w.Header().Set("Connection", "close")
	}
	service, v := t.resolve(to, src, local)
	switch {
	case v == unknown:
		misdirected(w, "This cell does not answer for that host name.")
	case v == forbidden:
		refuse(w, r, t.services[to.name].title())
	case service == nil:
		s.cfg.Local.ServeHTTP(w, r.WithContext(ctx))
	default:
		s.pass(w, r.WithContext(ctx), t, service, to, src)
	}
}

// malformed reports what net/http lets pass although RFC 9113 calls it
// malformed: another Host than the authority (§8.3.1), several lengths (§8.1.1),
// and a path that is none (§8.3.1). In HTTP/1.1 net/http has seen to these, but
// for an asterisk with a method other than OPTIONS (RFC 9112 §3.2.4).
func malformed(r *http.Request, to target) bool {
	if r.RequestURI == "*" {
		return true
	}
	if r.ProtoMajor != 2 {
		return false
	}
	for _, h := range r.Header["Host"] {
		if t, ok := parseHost(h); !ok || t != to {
			return true
		}
	}
	return len(r.Header["Content-Length"]) > 1 || !strings.HasPrefix(r.RequestURI, "/")
}

// lastOfItsConnection reports whether the framing of a request may have been
// ambiguous. RFC 9112 §6.1 wants the connection closed after a request with a
// length and a coding, or with a coding in HTTP/1.0. net/http removes the loser
// of the two unseen, so every request that could have been one counts: none
// that a browser sends.
func lastOfItsConnection(r *http.Request) bool {
	return r.ProtoMajor == 1 && (r.ProtoMinor == 0 || len(r.TransferEncoding) > 0)
}

// pass hands a request to the upstream of a service.
func (s *Server) pass(w http.ResponseWriter, r *http.Request, t *table, v *service, to target, src netip.Addr) {
	p := passage{host: to.host(), src: src.String(), name: v.title()}
	if to.port != 0 {
		p.host = hostPort(p.host, to.port, 443)
	}
	if z, peer := t.classify(src); z == zonePeer && v.Identity {
		p.peer = peer
	}
	onlyWebSocket(r)
	p.body = paced(w, r)
	v.up.proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), passageKey{}, p)))
}

// title is what people call the service.
func (v *service) title() string {
	if v.Name != "" {
		return v.Name
	}
	return v.ID
}

const acmePath = "/.well-known/acme-challenge/" // RFC 8555 §8.3

func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	defer s.recovered(r)
	lifecycle.Fault("http request")
	t := s.table.Load()
	to, ok := parseHost(r.Host)
	src, local := sourceOf(r), localOf(r)
	if !t.admits(src, local, true) || !ok || !t.portMatches(to, src, t.routes.HTTPPort) {
		misdirected(w, "This cell does not answer for that host name.")
		return
	}
	known := t.local[to.key()] || t.services[to.key()] != nil
	if s.cfg.ACME != nil && t.routes.HTTP01 && known && strings.HasPrefix(r.URL.Path, acmePath) {
		s.cfg.ACME.ServeHTTP(w, r)
		return
	}
	if _, v := t.resolve(to, src, local); v == unknown {
		misdirected(w, "This cell does not answer for that host name.")
		return
	}
	path := r.URL.EscapedPath()
	if !strings.HasPrefix(path, "/") {
		path = "/"
	}
	if r.URL.RawQuery != "" {
		path += "?" + r.URL.RawQuery
	}
	h := w.Header()
	// The body of what was asked for is never read.
	h.Set("Connection", "close")
	h.Set("Location", "https://"+hostPort(to.host(), t.routes.HTTPSPort, 443)+path)
	answer(w, http.StatusPermanentRedirect, "text/plain; charset=utf-8", []byte("This page is at https.\n"))
}

// recovered counts a panic of a handler and ends its connection.
func (s *Server) recovered(r *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	if p != http.ErrAbortHandler {
		s.panics.Add(1)
		lifecycle.Recovered(s.cfg.Log, "proxy request", p, "host", r.Host)
	}
	panic(http.ErrAbortHandler) // net/http closes the connection and says no more
}

func (s *Server) enter(st *stream) {
	s.liveMu.Lock()
	defer s.liveMu.Unlock()
	s.live[st] = struct{}{}
}

func (s *Server) leave(st *stream) {
	s.liveMu.Lock()
	defer s.liveMu.Unlock()
	delete(s.live, st)
}

// cut ends the streams that the table does not allow: a grant that was taken
// away must not live on in an open WebSocket.
func (s *Server) cut(t *table) {
	s.liveMu.Lock()
	defer s.liveMu.Unlock()
	for st := range s.live {
		if t.admits(st.src, st.local, st.plain) {
			if _, v := t.resolve(st.to, st.src, st.local); v == allowed {
				continue
			}
		}
		st.cancel()
	}
}

func sourceOf(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

func localOf(r *http.Request) netip.Addr {
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		return addrOf(a)
	}
	return netip.Addr{}
}
