package api_test

import (
	"context"
	"encoding/base32"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// program is a client with a token and nothing else.
func (r *rig) program(token string) func(method, path string, body any, header ...string) answer {
	b := r.browser()
	return func(method, path string, body any, header ...string) answer {
		return b.do(method, path, body, append([]string{"Authorization", "Bearer " + token}, header...)...)
	}
}

func (b *browser) token(scopes ...string) api.NewToken {
	b.t.Helper()
	var list []m
	for _, s := range scopes {
		method, path, _ := strings.Cut(s, " ")
		list = append(list, m{"method": method, "path": path})
	}
	return decode[api.NewToken](b.t, b.want(201, "POST", "/api/auth/tokens", m{"name": "script", "scopes": list}))
}

func TestATokenMayDoWhatItsScopesSayAndNoMore(t *testing.T) {
	r, admin := claimedRig(t)
	tok := admin.token("GET /api/peers", "POST /api/peers", "* /api/peers/*")
	call := r.program(tok.Secret)
	for _, c := range []struct {
		method, path string
		body         any
		want         int
	}{
		{"POST", "/api/peers", m{"name": "laptop", "generate_key": true}, 201},
		{"GET", "/api/peers", nil, 200},
		{"GET", "/api/peers/laptop", nil, 200},
		{"GET", "/api/peers/laptop/config", nil, 403}, // one segment more
		{"GET", "/api/peers/laptop%2Fconfig", nil, 403},
		{"GET", "/api/peers/../status", nil, 403},
		{"GET", "/api/status", nil, 403},
		{"POST", "/api/auth/tokens", m{"name": "more", "scopes": []m{{"method": "*", "path": "/api/**"}}}, 403},
		{"DELETE", "/api/peers/laptop", nil, 204},
	} {
		if a := call(c.method, c.path, c.body); a.status != c.want {
			t.Errorf("%s %s: %d, want %d: %s", c.method, c.path, a.status, c.want, a.body)
		}
	}
	list := decode[api.List[api.Token]](t, admin.want(200, "GET", "/api/auth/tokens", nil))
	if len(list.Items) != 1 || list.Items[0].LastUsed == nil || strings.Contains(fmt.Sprint(list), tok.Secret) {
		t.Errorf("%+v", list)
	}
	admin.want(204, "DELETE", "/api/auth/tokens/"+tok.ID, nil)
	if a := call("GET", "/api/peers", nil); a.status != 401 || a.header.Get("WWW-Authenticate") == "" {
		t.Errorf("a revoked token: %d %v", a.status, a.header)
	}
}

func TestATokenNeverCountsAsAFreshPasswordOrAsACookie(t *testing.T) {
	r, admin := claimedRig(t)
	tok := admin.token("* /api/**")
	call := r.program(tok.Secret)
	for _, row := range r.api.Rows() {
		if !row.Reauth {
			continue
		}
		path := strings.NewReplacer("{name}", "admin", "{n}", "1", "{id}", tok.ID).Replace(row.Path)
		if a := call(row.Method, path, m{}); a.status != 403 {
			t.Errorf("%s %s: %d %s", row.Method, path, a.status, a.body)
		}
	}
	// A token needs no CSRF token, and another site's page can't use it.
	if a := call("POST", "/api/peers", m{"name": "a", "generate_key": true}); a.status != 201 {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := call("POST", "/api/peers", m{"name": "b", "generate_key": true}, "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"); a.status != 403 {
		t.Errorf("cross-site with a token: %d", a.status)
	}
	// A wrong token is not saved by a session beside it.
	if a := admin.do("GET", "/api/auth/me", nil, "Authorization", "Bearer pic_wrong"); a.status != 401 {
		t.Errorf("a wrong token beside a session: %d", a.status)
	}
	if a := admin.do("GET", "/api/auth/me", nil, "Authorization", "Basic YWRtaW46eA=="); a.status != 401 {
		t.Errorf("Basic beside a session: %d", a.status)
	}
	if a := r.browser().do("GET", "/api/auth/me", nil, "Cookie", auth.SessionCookieName+"="+tok.Secret); a.status != 401 {
		t.Errorf("a token as a cookie: %d", a.status)
	}
	r.clock.by.Store(int64(91 * 24 * time.Hour))
	if a := call("GET", "/api/status", nil); a.status != 401 {
		t.Errorf("an expired token: %d", a.status)
	}
}

func TestThePlainListenerTakesTokensOnly(t *testing.T) {
	r, admin := claimedRig(t)
	tok := admin.token("GET /api/status")
	srv := httptest.NewServer(r.api.TokenOnly())
	defer srv.Close()
	cookie := ""
	for _, c := range admin.cookies() {
		cookie += c.Name + "=" + c.Value + "; "
	}
	for name, c := range map[string]struct {
		path, auth, cookie, host string
		want                     int
	}{
		"token":      {"/api/status", "Bearer " + tok.Secret, "", "", 200},
		"nothing":    {"/api/status", "", "", "", 401},
		"cookie":     {"/api/status", "", cookie, "", 401},
		"page":       {"/", "", cookie, "", 401},
		"setup":      {"/api/setup/status", "", "", "", 401},
		"wrong":      {"/api/status", "Bearer pic_x", cookie, "", 401},
		"scope":      {"/api/peers", "Bearer " + tok.Secret, cookie, "", 403},
		"other host": {"/api/status", "Bearer " + tok.Secret, "", "evil.example", 421},
	} {
		req, _ := http.NewRequest("GET", srv.URL+c.path, nil)
		if c.auth != "" {
			req.Header.Set("Authorization", c.auth)
		}
		if c.cookie != "" {
			req.Header.Set("Cookie", c.cookie)
		}
		if c.host != "" {
			req.Host = c.host
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.want {
			t.Errorf("%s: %d, want %d", name, resp.StatusCode, c.want)
		}
	}
}

func TestATokensStreamEndsWithTheToken(t *testing.T) {
	r, admin := claimedRig(t)
	tok := admin.token("GET /api/events")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "GET", r.server.URL+"/api/events", nil)
	req.Header.Set("Authorization", "Bearer "+tok.Secret)
	resp, err := r.server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Fatal(resp.Status)
	}
	admin.want(204, "DELETE", "/api/auth/tokens/"+tok.ID, nil)
	if _, err := io.ReadAll(resp.Body); err != nil {
		t.Errorf("the stream outlives its token: %v", err)
	}
}

// enrol turns the second factor on and returns its secret and recovery codes.
func (b *browser) enrol() (secret []byte, codes []string) {
	b.t.Helper()
	e := decode[api.Enrolment](b.t, b.want(200, "POST", "/api/auth/second-factor", m{}))
	secret, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(e.Secret)
	if err != nil {
		b.t.Fatal(err)
	}
	b.want(422, "POST", "/api/auth/second-factor/confirm", m{"code": "12345"})
	code := auth.TOTP(secret, b.r.clock.Now())
	codes = decode[api.RecoveryCodes](b.t, b.want(200, "POST", "/api/auth/second-factor/confirm", m{"code": code})).RecoveryCodes
	return secret, codes
}

func TestLoginAsksForTheSecondFactor(t *testing.T) {
	r, admin := claimedRig(t)
	other := r.browser()
	other.login("admin", adminPassword)
	secret, codes := admin.enrol()
	if len(codes) != 10 {
		t.Fatal(codes)
	}
	other.want(401, "GET", "/api/auth/me", nil) // sessions that had one factor end
	b := r.browser()
	login := func(pw, code string) answer {
		return b.do("POST", "/api/auth/login", m{"user": "admin", "password": pw, "totp": code})
	}
	now := auth.TOTP(secret, r.clock.Now().Add(30*time.Second)) // one ahead: within the window, and later than any used
	if a := login(adminPassword, ""); a.status != 401 || a.problem().Code != "totp_required" || b.hasSession() {
		t.Fatalf("without a code: %d %s", a.status, a.body)
	}
	if a := login("wrong wrong wrong", now); a.problem().Code != "unauthenticated" {
		t.Errorf("wrong password with a right code: %s", a.body)
	}
	if a := login(adminPassword, "000000"); a.problem().Code != "totp_wrong" || b.hasSession() {
		t.Errorf("wrong code: %s", a.body)
	}
	if a := login(adminPassword, now); a.status != 200 {
		t.Fatalf("right code: %s", a.body)
	}
	if a := login(adminPassword, now); a.status != 401 {
		t.Errorf("replayed: %s", a.body)
	}
	if a := login(adminPassword, codes[3]); a.status != 200 {
		t.Errorf("recovery: %s", a.body)
	}
	if a := login(adminPassword, codes[3]); a.status != 401 {
		t.Errorf("recovery twice: %s", a.body)
	}
	if f := decode[api.SecondFactor](t, admin.want(200, "GET", "/api/auth/second-factor", nil)); !f.Enabled || f.RecoveryLeft != 9 {
		t.Errorf("%+v", f)
	}
	// Removing it asks for no code, but for a fresh password (the session has one).
	admin.want(204, "DELETE", "/api/auth/second-factor", nil)
	if a := login(adminPassword, ""); a.status != 200 {
		t.Errorf("after removal: %s", a.body)
	}
}

func TestGuessingCodesIsSlowedDownEvenWithThePassword(t *testing.T) {
	r, admin := claimedRig(t)
	admin.enrol()
	b := r.browser()
	tries := 0
	for i := range 30 {
		a := b.do("POST", "/api/auth/login", m{"user": "admin", "password": adminPassword, "totp": fmt.Sprintf("%06d", i)})
		if a.status == 429 {
			break
		}
		// The right password without a code must not reset the count.
		b.do("POST", "/api/auth/login", m{"user": "admin", "password": adminPassword})
		tries++
	}
	if tries > 10 {
		t.Errorf("%d guesses without a wait", tries)
	}
}

func TestAResetClearsTheSecondFactorAndRollbackDoesNotTouchIt(t *testing.T) {
	r, admin := claimedRig(t)
	_, before := r.engine.Running()
	admin.enrol()
	tok := admin.token("GET /api/status")
	admin.want(200, "POST", fmt.Sprintf("/api/revisions/%d/rollback", before), m{})
	if s, _ := r.engine.Running(); s.User("admin").SecondFactor == nil || len(s.User("admin").Tokens) != 1 {
		t.Error("a rollback took the second factor or a token away")
	}
	admin.want(204, "DELETE", "/api/auth/tokens/"+tok.ID, nil)
	_, now := r.engine.Running()
	admin.want(200, "POST", fmt.Sprintf("/api/revisions/%d/rollback", now-1), m{})
	if s, _ := r.engine.Running(); len(s.User("admin").Tokens) != 0 {
		t.Error("a rollback brought a revoked token back")
	}
	admin.want(422, "PUT", "/api/config", m{"users": []m{}})
	admin.want(204, "POST", "/api/auth/admin/reset-password", m{"user": "admin", "password": "cobalt harness 77 willow"})
	if s, _ := r.engine.Running(); s.User("admin").SecondFactor != nil {
		t.Error("the second factor outlives a reset")
	}
}

func TestAPeerCannotTouchAnothersThings(t *testing.T) {
	r, admin := claimedRig(t)
	for _, n := range []string{"ann", "bob"} {
		admin.want(201, "POST", "/api/auth/users", m{"name": n, "role": "peer", "password": peerPassword})
	}
	ann, bob := r.browser(), r.browser()
	ann.login("ann", peerPassword)
	bob.login("bob", peerPassword)
	tok := bob.token("GET /api/auth/me")
	session := decode[api.List[api.SessionInfo]](t, bob.want(200, "GET", "/api/auth/sessions", nil)).Items[0].ID
	ann.want(404, "DELETE", "/api/auth/tokens/"+tok.ID, nil)
	ann.want(404, "DELETE", "/api/auth/sessions/"+session, nil)
	ann.want(403, "POST", "/api/auth/tokens", m{"name": "x", "user": "admin", "scopes": []m{{"method": "*", "path": "/api/**"}}})
	for _, path := range []string{"/api/auth/tokens", "/api/auth/sessions"} {
		if a := ann.want(200, "GET", path, nil); strings.Contains(string(a.body), "bob") || strings.Contains(string(a.body), "admin") {
			t.Errorf("%s shows another's: %s", path, a.body)
		}
	}
	if f := decode[api.SecondFactor](t, ann.want(200, "GET", "/api/auth/second-factor", nil)); f.Enabled {
		t.Error(f)
	}
	// A peer's token is a peer, whatever its scopes say.
	if a := r.program(ann.token("* /api/**").Secret)("GET", "/api/audit", nil); a.status != 403 {
		t.Errorf("a peer's token reads the audit log: %d", a.status)
	}
	bob.want(200, "GET", "/api/auth/me", nil)
}

func (r *rig) auditOf(event string) (out []cell.AuditEntry) {
	entries, err := r.audit.List(0, 500)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, e := range entries {
		if e.Event == event {
			out = append(out, e)
		}
	}
	return out
}

func TestTheAuditLogTellsWhoDidWhat(t *testing.T) {
	r, admin := claimedRig(t)
	b := r.browser()
	b.do("POST", "/api/auth/login", m{"user": "admin", "password": "wrong wrong wrong"})
	b.do("POST", "/api/auth/login", m{"user": "my secret typed as a name", "password": "x"})
	b.do("GET", "/api/peers%0A%7B%7D", nil, "Host", "evil.example")
	admin.want(201, "POST", "/api/peers", m{"name": "laptop", "generate_key": true})
	_, n := r.engine.Running()
	// The entry was there before the answer.
	if e := r.auditOf("revision"); len(e) == 0 || e[0].Revision != n || e[0].Who.Name != "admin" || e[0].Who.Via != "session" || e[0].Who.Address != "127.0.0.1" || e[0].Outcome != "committed" {
		t.Fatalf("%+v", e)
	}
	if e := r.auditOf("auth_login"); len(e) != 2 || e[1].Outcome != "refused" || e[1].Who.Name != "admin" || e[0].Who.Name != "" {
		t.Errorf("%+v", e)
	}
	if e := r.auditOf("setup_complete"); len(e) != 1 {
		t.Errorf("the claim: %+v", e)
	}
	admin.want(202, "DELETE", "/api/peers/laptop", nil, "Confirm-Within", "10")
	admin.want(200, "POST", fmt.Sprintf("/api/commits/%d/revert", n+1), m{})
	if e := r.auditOf("revision"); e[0].Revision != n+1 || e[0].Outcome != "reverted" || e[1].Outcome != "pending" {
		t.Errorf("%+v", e[:2])
	}
	if e := r.auditOf("revert"); len(e) != 1 || e[0].Who.Name != "admin" {
		t.Errorf("%+v", e)
	}
	report := decode[cell.AuditReport](t, admin.want(200, "GET", "/api/audit/verify", nil))
	page := admin.want(200, "GET", "/api/audit?limit=500", nil)
	if report.Broken != "" || report.Entries < 8 || strings.Contains(string(page.body), "my secret") || strings.Contains(string(page.body), adminPassword) {
		t.Errorf("%+v %s", report, page.body)
	}
}

func TestARevertNobodyAskedForIsAudited(t *testing.T) {
	t.Parallel()
	r, admin := claimedRig(t)
	admin.want(202, "POST", "/api/peers", m{"name": "laptop", "generate_key": true}, "Confirm-Within", "10")
	_, n := r.engine.Running()
	netnstest.Eventually(t, 20*time.Second, func() error {
		if err := r.api.AuditRevisions(); err != nil {
			return err
		}
		if e := r.auditOf("revision")[0]; e.Revision != n || e.Outcome != "auto-reverted" {
			return fmt.Errorf("%+v", e)
		}
		return nil
	})
}

func TestStrangersCannotFillTheAuditLog(t *testing.T) {
	r, _ := claimedRig(t)
	b := r.browser()
	for range 300 {
		b.do("POST", "/api/peers", m{})
	}
	if n := len(r.auditOf("refused")); n != 200 {
		t.Errorf("%d refusals are in the log", n)
	}
}
