package api_test

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/auth"
)

func concrete(path string) string {
	return strings.NewReplacer("{name}", "laptop", "{n}", "2", "{id}", "nothing", "{subsystem}", "firewall", "{service}", "dns", "{format}", "state").Replace(path)
}

// The matrix is made of the route table, so a new route is in it.
func TestNothingAnotherSiteSendsHasAnEffect(t *testing.T) {
	r, admin := claimedRig(t)
	admin.want(201, "POST", "/api/peers", m{"name": "laptop", "generate_key": true})
	tok := admin.token("GET /api/status")
	_, before := r.engine.Running()
	sessions := len(decode[api.List[api.SessionInfo]](t, admin.want(200, "GET", "/api/auth/sessions", nil)).Items)
	variants := map[string][]string{
		"cross-site":           {"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "cors"},
		"cross-site, old":      {"Origin", "https://evil.example"},
		"same-site sibling":    {"Origin", "https://files.home.internal", "Sec-Fetch-Site", "same-site"},
		"no headers, text":     {"Content-Type", "text/plain", "X-CSRF-Token", ""},
		"form":                 {"Content-Type", "application/x-www-form-urlencoded", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"},
		"form from our origin": {"Content-Type", "application/x-www-form-urlencoded", "Sec-Fetch-Site", "same-origin"},
		"multipart":            {"Content-Type", "multipart/form-data; boundary=x"},
		"null origin":          {"Origin", "null"},
		"other port":           {"Origin", "https://127.0.0.1:1", "Sec-Fetch-Site", "same-site"},
		"websocket":            {"Upgrade", "websocket", "Connection", "Upgrade", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==", "Origin", "https://evil.example"},
		"method override":      {"X-HTTP-Method-Override", "DELETE", "Origin", "https://evil.example"},
	}
	routes := 0
	for _, row := range r.api.Rows() {
		if row.Method == "GET" {
			continue
		}
		routes++
		path := strings.Replace(concrete(row.Path), "nothing", tok.ID, 1)
		for name, header := range variants {
			method := row.Method
			if name == "websocket" {
				method = "GET"
			}
			a := admin.do(method, path, m{}, header...)
			if !slices.Contains([]int{403, 415}, a.status) {
				t.Errorf("%s: %s %s: %d %s", name, method, path, a.status, a.body)
			}
			if h := a.header; h.Get("Access-Control-Allow-Origin") != "" || h.Get("Access-Control-Allow-Credentials") != "" {
				t.Errorf("%s: %s %s allows another origin", name, method, path)
			}
		}
	}
	if routes < 25 {
		t.Fatalf("only %d mutating routes", routes)
	}
	_, after := r.engine.Running()
	still := len(decode[api.List[api.SessionInfo]](t, admin.want(200, "GET", "/api/auth/sessions", nil)).Items)
	if after != before || still != sessions {
		t.Errorf("revision %d became %d, %d sessions became %d", before, after, sessions, still)
	}
	// The same request from our own page does something, so the matrix can fail.
	admin.want(204, "DELETE", "/api/peers/laptop", nil, "Origin", r.server.URL, "Sec-Fetch-Site", "same-origin")
}

func TestReadsChangeNothing(t *testing.T) {
	r, admin := claimedRig(t)
	admin.want(201, "POST", "/api/peers", m{"name": "laptop", "generate_key": true})
	_, before := r.engine.Running()
	for _, row := range r.api.Rows() {
		if row.Method == "GET" && !isStream(row.Path) {
			admin.do("GET", concrete(row.Path), nil)
			admin.do("HEAD", concrete(row.Path), nil)
		}
	}
	if _, after := r.engine.Running(); after != before {
		t.Errorf("revision %d became %d", before, after)
	}
}

// Observatory's rules (MDN HTTP Observatory, scoring of 2024), for an answer
// with HSTS set by the proxy, which is apart: the base is 100.
func TestAnswersScoreByObservatorysRules(t *testing.T) {
	r, admin := claimedRig(t)
	for _, path := range []string{"/", "/peers/new", "/assets/app-1234.js", "/api/status", "/api/nothing", "/api/auth/me"} {
		for who, b := range map[string]*browser{"admin": admin, "nobody": r.browser()} {
			h := b.do("GET", path, nil).header
			score, csp := 100, h.Get("Content-Security-Policy")
			if strings.Contains(csp, "unsafe") || strings.Contains(csp, "http:") || strings.Contains(csp, "*") || csp == "" {
				score -= 25
			}
			if strings.HasPrefix(csp, "default-src 'none';") {
				score += 10
			}
			if strings.Contains(csp, "frame-ancestors 'none'") {
				score += 5
			} else {
				score -= 20
			}
			if h.Get("X-Content-Type-Options") != "nosniff" {
				score -= 5
			}
			if h.Get("Referrer-Policy") == "no-referrer" {
				score += 5
			}
			if h.Get("Cross-Origin-Resource-Policy") == "same-origin" {
				score += 10
			}
			if h.Get("Access-Control-Allow-Origin") != "" {
				score -= 50
			}
			for _, c := range h.Values("Set-Cookie") {
				if !strings.HasPrefix(c, "__Host-") || !strings.Contains(c, "Secure") || !strings.Contains(c, "HttpOnly") || !strings.Contains(c, "SameSite=Strict") {
					score -= 40
				}
			}
			if score < 115 {
				t.Errorf("%s as %s: %d points: %v", path, who, score, h)
			}
		}
	}
	a := r.browser().want(200, "POST", "/api/auth/login", m{"user": "admin", "password": adminPassword})
	c, err := http.ParseSetCookie(a.header.Get("Set-Cookie"))
	if err != nil || c.Name != auth.SessionCookieName || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" || c.MaxAge != 0 {
		t.Errorf("%+v %v", c, err)
	}
}

func TestThirtyHostsGetNoAnswerOfTheAPI(t *testing.T) {
	r, admin := claimedRig(t)
	name := "home.internal"
	hosts := []string{
		"evil.example", "127.0.0.1.nip.io", "home.internal.evil.example", "evil-home.internal", "xhome.internal", "internal", ".home.internal",
		"home.internal..", "home.internal:0", "home.internal:99999", "home.internal:x", "home.internal/", "home.internal@evil.example", "evil.example#home.internal",
		"home internal", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "127.0.0.2", "0.0.0.0", "[::]", "[::ffff:127.0.0.1]", "[::1%eth0]", "::1", "10.0.0.1", "192.168.7.10",
		"169.254.169.254", "localhost.evil.example", "home.internal,evil.example", "*", "xn--hme-0ua.internal",
	}
	if len(hosts) < 30 {
		t.Fatal(len(hosts))
	}
	ask := func(host string) int {
		req, _ := http.NewRequest("GET", "/", nil)
		req.Host, req.RequestURI = host, "/api/auth/me"
		req.URL.Path = "/api/auth/me"
		for _, c := range admin.cookies() {
			req.AddCookie(c)
		}
		w := &recorder{header: http.Header{}}
		r.api.Web().ServeHTTP(w, req)
		return w.status
	}
	for _, h := range append(hosts, "") {
		if s := ask(h); s != 421 {
			t.Errorf("%q: %d", h, s)
		}
	}
	for _, h := range []string{name, strings.ToUpper(name), name + ".", name + ":443", "127.0.0.1", "[::1]:443", "localhost"} {
		if s := ask(h); s != 200 {
			t.Errorf("our own %q: %d", h, s)
		}
	}
}

type recorder struct {
	header http.Header
	status int
}

func (w *recorder) Header() http.Header { return w.header }
func (w *recorder) WriteHeader(s int)   { w.status = s }
func (w *recorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = 200
	}
	return len(b), nil
}

func TestNoPathParameterLeavesItsPlace(t *testing.T) {
	r, admin := claimedRig(t)
	admin.want(201, "POST", "/api/peers", m{"name": "laptop", "generate_key": true})
	_, before := r.engine.Running()
	payloads := []string{
		"..", "../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "%252e%252e%252fetc%252fpasswd", "..%5c..%5cetc", "....%2f%2f",
		"%2fetc%2fpasswd", "laptop%00", "laptop%2f..%2flaptop", "%c0%ae%c0%ae%2f", "laptop%0d%0aX:%20y", "..;%2f", "~root", "file:%2f%2f%2fetc%2fpasswd", "%20laptop", "laptop.", "LAPTOP",
		"-1", "18446744073709551616", "1e3", "0x1", "__proto__", "*", strings.Repeat("a", 5000),
	}
	seen := 0
	for _, row := range r.api.Rows() {
		if !strings.Contains(row.Path, "{") {
			continue
		}
		seen++
		prefix, rest, _ := strings.Cut(row.Path, "{")
		_, suffix, _ := strings.Cut(rest, "}")
		for _, p := range payloads {
			a := admin.do(row.Method, prefix+p+suffix, m{})
			if p == ".." || strings.HasPrefix(p, "../") {
				if a.status == 500 || strings.Contains(string(a.body), "root:") {
					t.Errorf("%s %s: %d", row.Method, prefix+p+suffix, a.status)
				}
				continue // another path of ours by RFC 3986 §5.2.4, judged by its own row
			}
			if a.status < 400 || a.status >= 500 || strings.Contains(string(a.body), "root:") {
				t.Errorf("%s %s: %d %.200s", row.Method, prefix+p+suffix, a.status, a.body)
			}
			if a.header.Get("X") != "" {
				t.Errorf("%s %s: a header was injected", row.Method, prefix+p+suffix)
			}
		}
	}
	if _, after := r.engine.Running(); after != before || seen < 10 {
		t.Errorf("revision %d became %d; %d routes", before, after, seen)
	}
}

// No text of a request makes the API connect to anything: it only edits the
// state. What reads these fields later is bounded by its own room.
func TestURLsInRequestsAreNeverFetched(t *testing.T) {
	_, admin := claimedRig(t)
	hits := make(chan string, 100)
	target := newTarget(t, hits)
	_, port, _ := strings.Cut(target, ":")
	for _, host := range []string{"127.0.0.1:" + port, "localhost:" + port, "2130706433:" + port, "0x7f.1:" + port, "[::1]:" + port, "[::ffff:127.0.0.1]:" + port, "169.254.169.254", "127.0.0.1.nip.io:" + port} {
		url := "http://" + host + "/canary"
		for _, body := range []m{
			{"services": []m{{"id": "a", "name": "a", "subdomain": "a", "upstream": url, "enabled": true}}},
			{"dns": m{"forwarders": []m{{"address": host}}}},
			{"dns": m{"forwarders": []m{{"url": url}}}},
			{"dns": m{"forwarders": []any{url}}},
			{"network": m{"tunnel": m{"endpoint": host}}},
			{"ddns": m{"api_base_url": url}},
			{"ddns": m{"api_base_url": "https://" + host + "/"}},
			{"clock": m{"sources": []any{host}}},
			{"exits": []m{{"id": "e", "type": "proxy", "url": url}}},
		} {
			admin.do("PUT", "/api/config", body)
			admin.do("POST", "/api/plan", body)
		}
		admin.do("POST", "/api/peers", m{"name": "p", "generate_key": true, "endpoint": host})
		admin.do("POST", "/api/dns/records", m{"name": "x", "type": "CNAME", "value": url})
	}
	admin.do("POST", "/api/network/test", m{})
	select {
	case h := <-hits:
		t.Errorf("something connected: %s", h)
	default:
	}
	if _, err := http.Get("http://" + target); err != nil || len(hits) != 1 {
		t.Fatal(fmt.Errorf("the target sees nothing at all: %w", err))
	}
}

func newTarget(t *testing.T, hits chan<- string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{ReadHeaderTimeout: time.Second, ConnState: func(c net.Conn, s http.ConnState) {
		if s == http.StateNew {
			hits <- c.RemoteAddr().String()
		}
	}}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	return l.Addr().String()
}
