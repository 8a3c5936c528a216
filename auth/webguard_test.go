package auth_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/cell"
)

type web struct {
	guard   *auth.WebGuard
	handler http.Handler
	effects int
	log     *logged
}

func newWeb() *web {
	w := &web{log: &logged{}}
	w.guard = auth.NewWebGuard(&auth.WebGuardConfig{
		Names: func() []string { return []string{"heron.internal", "Heron.pic.ngo."} },
		Addresses: func() []netip.Addr {
			return []netip.Addr{netip.MustParseAddr("192.168.7.1"), netip.MustParseAddr("fd00::1"), netip.MustParseAddr("127.0.0.1")}
		},
		CSRFExempt: []string{"/api/auth/login", "/api/setup/step"},
		MaxBody:    1000,
		Log:        w.log.logger(),
	})
	w.handler = w.guard.Wrap(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			rw.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		w.effects++
		rw.WriteHeader(http.StatusNoContent)
	}))
	return w
}

// send makes a request for /api/peers of heron.internal, changed by edit.
func (w *web) send(method, body string, edit func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "/api/peers", strings.NewReader(body))
	r.Host = "heron.internal"
	if edit != nil {
		edit(r)
	}
	out := httptest.NewRecorder()
	w.handler.ServeHTTP(out, r)
	return out
}

func headers(pairs ...string) func(*http.Request) {
	return func(r *http.Request) {
		for i := 0; i < len(pairs); i += 2 {
			r.Header.Set(pairs[i], pairs[i+1])
		}
	}
}

func signedIn(t *testing.T) (token, csrf string) {
	s := auth.NewSessions(&auth.SessionsConfig{Role: newUsers().Role})
	token, made := s.Create("admin", cell.RoleAdmin, home)
	if made.CSRF == "" {
		t.Fatal("no CSRF token")
	}
	return token, made.CSRF
}

func TestWhatOtherSitesSendHasNoEffect(t *testing.T) {
	token, csrf := signedIn(t)
	cookie := "__Host-pic=" + token
	own := []string{"Cookie", cookie, "X-CSRF-Token", csrf, "Content-Type", "application/json", "Sec-Fetch-Site", "same-origin", "Origin", "https://heron.internal"}
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "PURGE"} {
		for _, c := range []struct {
			name   string
			change []string // replaces headers of own; an empty value removes
			code   string   // empty: let through
		}{
			{"own page", nil, ""},
			{"own page, old browser", []string{"Sec-Fetch-Site", ""}, ""},
			{"a tool", []string{"Sec-Fetch-Site", "", "Origin", ""}, ""},
			{"cross-site", []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"}, "csrf"},
			{"sibling name", []string{"Sec-Fetch-Site", "same-site", "Origin", "https://files.heron.internal"}, "csrf"},
			{"cross-site, old browser", []string{"Sec-Fetch-Site", "", "Origin", "https://evil.example"}, "csrf"},
			{"null origin", []string{"Sec-Fetch-Site", "", "Origin", "null"}, "csrf"},
			{"cross-site without origin", []string{"Sec-Fetch-Site", "cross-site", "Origin", ""}, "csrf"},
			{"unheard-of site", []string{"Sec-Fetch-Site", "nearby", "Origin", ""}, "csrf"},
			{"text/plain without browser headers", []string{"Sec-Fetch-Site", "", "Origin", "", "Content-Type", "text/plain"}, "unsupported_media_type"},
			{"form", []string{"Content-Type", "application/x-www-form-urlencoded"}, "unsupported_media_type"},
			{"multipart form", []string{"Content-Type", "multipart/form-data; boundary=x"}, "unsupported_media_type"},
			{"JSON in a comment", []string{"Content-Type", "text/plain; application/json"}, "unsupported_media_type"},
			{"no type", []string{"Content-Type", ""}, "unsupported_media_type"},
			{"JSON in another charset", []string{"Content-Type", "application/json; charset=utf-7"}, "unsupported_media_type"},
			{"merge patch", []string{"Content-Type", "application/merge-patch+json"}, ""},
			{"JSON with charset", []string{"Content-Type", "application/json; charset=UTF-8"}, ""},
			{"no CSRF token", []string{"X-CSRF-Token", ""}, "csrf"},
			{"wrong CSRF token", []string{"X-CSRF-Token", auth.CSRFToken("pics_other")}, "csrf"},
			{"the session token as CSRF token", []string{"X-CSRF-Token", token}, "csrf"},
			{"a cookie that is no token", []string{"Cookie", "__Host-pic=x", "X-CSRF-Token", auth.CSRFToken("x")}, "csrf"},
			{"an empty cookie", []string{"Cookie", "__Host-pic=", "X-CSRF-Token", auth.CSRFToken("")}, "csrf"},
			{"two cookies", []string{"Cookie", cookie + "; " + cookie}, "csrf"},
			{"no cookie", []string{"Cookie", "", "X-CSRF-Token", ""}, ""},
			{"upgrade from elsewhere", []string{"Upgrade", "websocket", "Sec-Fetch-Site", "", "Origin", "https://evil.example"}, "csrf"},
		} {
			w := newWeb()
			out := w.send(method, "{}", func(r *http.Request) {
				headers(own...)(r)
				for i := 0; i < len(c.change); i += 2 {
					if r.Header.Set(c.change[i], c.change[i+1]); c.change[i+1] == "" {
						r.Header.Del(c.change[i])
					}
				}
			})
			var body struct{ Code string }
			_ = json.Unmarshal(out.Body.Bytes(), &body)
			if body.Code != c.code || (w.effects == 0) == (c.code == "") {
				t.Errorf("%s, %s: code %q, %d effects", method, c.name, body.Code, w.effects)
			}
		}
	}
}

func TestDeleteWithoutABodyNeedsNoType(t *testing.T) {
	w := newWeb()
	if out := w.send("DELETE", "", nil); out.Code != 204 {
		t.Errorf("bare: %d", out.Code)
	}
	if out := w.send("DELETE", "", headers("Content-Type", "text/plain")); out.Code != 415 {
		t.Errorf("text/plain: %d", out.Code)
	}
	if out := w.send("POST", "", nil); out.Code != 415 {
		t.Errorf("bare POST: %d", out.Code)
	}
}

func TestReadsFromOtherSitesAreRefusedUnlessSomebodyFollowsALink(t *testing.T) {
	for _, c := range []struct {
		name string
		h    []string
		want int
	}{
		{"own page", []string{"Sec-Fetch-Site", "same-origin", "Sec-Fetch-Mode", "cors"}, 204},
		{"typed", []string{"Sec-Fetch-Site", "none", "Sec-Fetch-Mode", "navigate"}, 204},
		{"link", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"}, 204},
		{"frame", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe"}, 403},
		{"image", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image"}, 403},
		{"sibling's script", []string{"Sec-Fetch-Site", "same-site", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty"}, 403},
		{"socket of another site", []string{"Upgrade", "websocket", "Origin", "https://evil.example"}, 403},
		{"socket without origin", []string{"Upgrade", "websocket"}, 403},
		{"socket of a null origin", []string{"Upgrade", "websocket", "Origin", "null"}, 403},
		{"own socket", []string{"Upgrade", "websocket", "Origin", "https://heron.internal"}, 204},
		{"a tool", nil, 204},
	} {
		if out := newWeb().send("GET", "", headers(c.h...)); out.Code != c.want {
			t.Errorf("%s: %d, want %d", c.name, out.Code, c.want)
		}
	}
}

func TestOnlyTheExactExemptPathsNeedNoCSRFToken(t *testing.T) {
	token, _ := signedIn(t)
	for path, want := range map[string]int{
		"/api/auth/login": 204, "/api/setup/step": 204,
		"/api/auth/login/": 403, "/api/auth/login/../users": 403, "/api/setup/step/x": 403, "/API/auth/login": 403,
		"/api/auth/logout": 403, "/api/auth/change-password": 403, "//api/auth/login": 403, "/api/auth/users": 403,
	} {
		out := newWeb().send("POST", "{}", func(r *http.Request) {
			r.URL.Path = path
			headers("Cookie", "__Host-pic="+token, "Content-Type", "application/json")(r)
		})
		if out.Code != want {
			t.Errorf("%s: %d, want %d", path, out.Code, want)
		}
	}
}

var hostCases = map[string]bool{
	"heron.internal": true, "HERON.internal": true, "heron.internal.": true, "heron.internal:8443": true, "heron.pic.ngo": true,
	"192.168.7.1": true, "192.168.7.1:443": true, "[fd00::1]": true, "[fd00::1]:443": true, "[FD00:0::1]": true, "127.0.0.1:8443": true,
	"": false, ".": false, ":443": false, "evil.example": false, "heron.internal.evil.example": false, "evil.heron.internal": false,
	"heron.internal:": false, "heron.internal:0": false, "heron.internal:65536": false, "heron.internal:443:443": false,
	"heron.internal:0443": false, "heron.internal:x": false, "heron.internal..": false, "xheron.internal": false,
	"heron.internal@evil.example": false, "evil.example#heron.internal": false, "heron.internal/": false, "heron.internal ": false,
	"heron.internal,evil.example": false, "heron.internal\x00": false, "192.168.7.2": false, "192.168.7.1.": false,
	"3232237313": false, "0xc0a80701": false, "192.168.1793": false, "0300.0250.07.01": false, "192.168.7.1.evil.example": false,
	"192.168.7.1.nip.io": false, "[fd00::2]": false, "fd00::1": false, "[fd00::1": false, "[fd00::1]x": false, "[fd00::1%eth0]": false,
	"[::ffff:192.168.7.1]": false, "[192.168.7.1]": false, "localhost": false, "heron_internal": false, "hérön.internal": false,
	"-heron.internal": false, "*": false, "null": false,
}

func TestOnlyOwnNamesAndAddressesAreAnswered(t *testing.T) {
	for host, want := range hostCases {
		w := newWeb()
		out := w.send("GET", "", func(r *http.Request) { r.Host = host })
		if ok := out.Code == 204; ok != want || !ok && (out.Code != 421 || w.effects != 0) {
			t.Errorf("%q: %d, %d effects", host, out.Code, w.effects)
		}
	}
	if auth.HostAllowed("heron.internal", nil, nil) || auth.HostAllowed("127.0.0.1", nil, nil) || auth.HostAllowed("", []string{""}, []netip.Addr{{}}) {
		t.Error("an empty list allows")
	}
}

// What a resolver may read as an address is neither a name nor an address.
func TestNumbersInDisguiseAreNoHosts(t *testing.T) {
	for _, text := range []string{"3232237313", "0xc0a80701", "192.168.1793", "0300.0250.07.01", "1.2.3.0x7f", "example.1", "[fe80::1%eth0]", "fe80::1", "[1.2.3.4]"} {
		if h, err := auth.ParseHost(text); err == nil {
			t.Errorf("%q is %+v", text, h)
		}
	}
}

func FuzzParseHost(f *testing.F) {
	for host := range hostCases {
		f.Add(host)
	}
	f.Fuzz(func(t *testing.T, text string) {
		h, err := auth.ParseHost(text)
		if err != nil {
			return
		}
		if (h.Name != "") == h.Addr.IsValid() {
			t.Fatalf("%q is %+v", text, h)
		}
		back := h.Name
		if h.Addr.Is4() {
			back = h.Addr.String()
		} else if h.Addr.Is6() {
			back = "[" + h.Addr.String() + "]"
		}
		if again, err := auth.ParseHost(back); err != nil || again != h {
			t.Fatalf("%q is %+v, and that is %+v, %v", text, h, again, err)
		}
	})
}

func TestTheRequestIDIsOursAndInEveryAnswer(t *testing.T) {
	w := newWeb()
	seen := map[string]bool{}
	for range 3 {
		var inside, given string
		h := w.guard.RequestID(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			inside, given = auth.RequestID(r.Context()), r.Header.Get("X-Request-Id")
		}))
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("X-Request-Id", "forged\nlevel=ERROR")
		out := httptest.NewRecorder()
		h.ServeHTTP(out, r)
		id := out.Header().Get("X-Request-Id")
		if len(id) != 24 || id != inside || given != "" || seen[id] || r.Header.Get("X-Request-Id") == "" {
			t.Errorf("sent %q, in the context %q, from the client %q", id, inside, given)
		}
		seen[id] = true
	}
	out := w.send("GET", "", func(r *http.Request) { r.Host = "evil.example" })
	var body struct {
		RequestID string `json:"request_id"`
		Status    int
		Code      string
	}
	if err := json.Unmarshal(out.Body.Bytes(), &body); err != nil {
		t.Fatal(err)
	}
	if body.RequestID != out.Header().Get("X-Request-Id") || body.Status != 421 || body.Code != "misdirected" || out.Header().Get("Content-Type") != "application/problem+json" {
		t.Errorf("%+v", body)
	}
	if !strings.Contains(w.log.String(), body.RequestID) {
		t.Error("the refusal is not logged")
	}
}

func TestSecurityHeadersStandOnEveryAnswer(t *testing.T) {
	w := newWeb()
	for name, out := range map[string]*httptest.ResponseRecorder{
		"answer":  w.send("GET", "", nil),
		"refusal": w.send("GET", "", func(r *http.Request) { r.Host = "evil.example" }),
	} {
		for header, want := range map[string]string{
			"Content-Security-Policy":      "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
			"X-Content-Type-Options":       "nosniff",
			"X-Frame-Options":              "DENY",
			"Referrer-Policy":              "no-referrer",
			"Cross-Origin-Opener-Policy":   "same-origin",
			"Cross-Origin-Resource-Policy": "same-origin",
			"Cache-Control":                "no-store",
		} {
			if got := out.Header().Get(header); got != want {
				t.Errorf("%s: %s is %q", name, header, got)
			}
		}
		if p := out.Header().Get("Permissions-Policy"); !strings.Contains(p, "camera=()") {
			t.Errorf("%s: Permissions-Policy is %q", name, p)
		}
	}
	page := w.send("GET", "", func(r *http.Request) { r.URL.Path = "/apis" })
	if page.Header().Get("Cache-Control") != "" {
		t.Error("a page may not be cached")
	}
}

func TestBodiesAreBounded(t *testing.T) {
	w := newWeb()
	big := `"` + strings.Repeat("x", 1000) + `"`
	if out := w.send("POST", big, headers("Content-Type", "application/json")); out.Code != 413 || w.effects != 0 {
		t.Errorf("with a length: %d, %d effects", out.Code, w.effects)
	}
	if out := w.send("POST", big, func(r *http.Request) {
		headers("Content-Type", "application/json")(r)
		r.ContentLength = -1
	}); out.Code != 413 || w.effects != 0 {
		t.Errorf("chunked: %d, %d effects", out.Code, w.effects)
	}
	if out := w.send("POST", `"small"`, headers("Content-Type", "application/json")); out.Code != 204 {
		t.Errorf("small: %d", out.Code)
	}
}

func TestRetryAfterIsRoundedUp(t *testing.T) {
	for wait, want := range map[time.Duration]int{0: 1, time.Millisecond: 1, time.Second: 1, time.Second + 1: 2, 15 * time.Minute: 900} {
		if got := auth.RetryAfterSeconds(wait); got != want {
			t.Errorf("%v: %d", wait, got)
		}
	}
}
