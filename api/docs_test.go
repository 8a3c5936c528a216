package api_test

import (
	"strings"
	"testing"
)

// The page loads nothing from elsewhere and needs no exception from the policy.
func TestTheDocsPageKeepsTheContentSecurityPolicy(t *testing.T) {
	r, admin := claimedRig(t)
	r.browser().want(401, "GET", "/api/docs", nil)
	app := admin.want(200, "GET", "/", nil)
	for file, kind := range map[string]string{"/api/docs": "text/html", "/api/docs/docs.js": "text/javascript", "/api/docs/docs.css": "text/css"} {
		a := admin.want(200, "GET", file, nil)
		if got := a.header.Get("Content-Type"); !strings.HasPrefix(got, kind) {
			t.Errorf("%s is %s, want %s", file, got, kind)
		}
		if got, want := a.header.Get("Content-Security-Policy"), app.header.Get("Content-Security-Policy"); got != want || strings.Contains(got, "unsafe") || got == "" {
			t.Errorf("%s has the policy %q, the app %q", file, got, want)
		}
		for _, bad := range []string{"http://", "https://", "innerHTML", "eval(", " style=", " onclick="} {
			if strings.Contains(string(a.body), bad) {
				t.Errorf("%s contains %q", file, bad)
			}
		}
		if file == "/api/docs" && strings.Count(string(a.body), "<script") != strings.Count(string(a.body), `<script src="/api/docs/`) {
			t.Error("the page has a script of its own")
		}
	}
	for _, gone := range []string{"/api/docs/nothing", "/api/docs/..", "/api/docs/.", "/api/docs/%2e%2e%2fapi.go"} {
		if a := admin.do("GET", gone, nil); a.status != 404 {
			t.Errorf("%s: %d", gone, a.status)
		}
	}
}
