package api_test

import (
	"bufio"
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/reconcile"
)

func (b *browser) session() string {
	for _, c := range b.cookies() {
		if c.Name == auth.SessionCookieName {
			return c.Value
		}
	}
	return ""
}

// bearing asks who a session cookie belongs to, with nothing else.
func (b *browser) bearing(token string) int {
	return b.r.browser().do("GET", "/api/auth/me", nil, "Cookie", auth.SessionCookieName+"="+token).status
}

// The cookie is one that no script reads, no sibling plants and no other site
// sends (RFC 6265bis), and it is a new one whenever a password was entered:
// what somebody slipped in before is worth nothing, and what was known before
// is not either.
func TestASessionIsNewWhenAPasswordWasEntered(t *testing.T) {
	r, admin := claimedRig(t)
	b := r.browser()
	planted := "pics_" + strings.Repeat("A", 43)
	a := b.want(200, "POST", "/api/auth/login", m{"user": "admin", "password": adminPassword}, "Cookie", auth.SessionCookieName+"="+planted)
	set := a.header.Values("Set-Cookie")
	if len(set) != 1 {
		t.Fatalf("login sets %q", set)
	}
	parts := strings.Split(set[0], "; ")
	token := strings.TrimPrefix(parts[0], auth.SessionCookieName+"=")
	if token == planted || len(token) != len(planted) {
		t.Errorf("the session after a login is %q", token)
	}
	want := map[string]bool{"Path=/": true, "HttpOnly": true, "Secure": true, "SameSite=Strict": true}
	for _, p := range parts[1:] {
		if !want[p] {
			t.Errorf("the cookie has %q: %s", p, set[0])
		}
		delete(want, p)
	}
	if len(want) > 0 {
		t.Errorf("the cookie lacks %v: %s", want, set[0])
	}

	first := admin.session()
	admin.login("admin", adminPassword) // once more in the same browser
	second := admin.session()
	if second == first || admin.bearing(first) != 401 || admin.bearing(second) != 200 {
		t.Errorf("after another login: old %d, new %d", admin.bearing(first), admin.bearing(second))
	}
	old := admin.csrf
	admin.want(200, "POST", "/api/auth/reauth", m{"password": adminPassword})
	third := admin.session()
	if third == second || admin.bearing(second) != 401 || admin.bearing(third) != 200 {
		t.Errorf("after entering the password again: old %d, new %d", admin.bearing(second), admin.bearing(third))
	}
	admin.want(403, "POST", "/api/peers", m{"name": "laptop", "generate_key": true}) // with the CSRF token of the old one
	if admin.me(); admin.csrf == old {
		t.Error("the CSRF token outlived its session")
	}
	admin.want(403, "POST", "/api/auth/reauth", m{"password": adminPassword}, "X-CSRF-Token", old)
}

// What ends a session ends its open event stream too, within a second.
func TestStreamsEndWithTheirSession(t *testing.T) {
	r, admin := claimedRig(t)
	admin.want(201, "POST", "/api/auth/users", m{"name": "kid", "role": "peer", "password": peerPassword})
	for _, c := range []struct {
		name string
		end  func(kid *browser)
	}{
		{"logout", func(kid *browser) { kid.want(204, "POST", "/api/auth/logout", m{}) }},
		{"revoked by an administrator", func(*browser) {
			for _, s := range decode[struct {
				Items []struct{ ID, User string }
			}](t, admin.want(200, "GET", "/api/auth/sessions", nil)).Items {
				if s.User == "kid" {
					admin.want(204, "DELETE", "/api/auth/sessions/"+s.ID, nil)
				}
			}
		}},
		{"another role", func(*browser) {
			role := cell.RoleAdmin
			if s, _ := r.engine.Running(); s.User("kid").Role == role {
				role = cell.RolePeer
			}
			_, err := r.engine.Commit(context.Background(), 0, func(s *cell.State) error {
				s.User("kid").Role = role
				return nil
			}, reconcile.Options{Message: "another role"})
			if err != nil {
				t.Fatal(err)
			}
		}},
		{"password set by an administrator", func(*browser) {
			admin.want(204, "POST", "/api/auth/admin/reset-password", m{"user": "kid", "password": peerPassword})
		}},
		{"password changed elsewhere", func(kid *browser) {
			other := r.browser()
			other.login("kid", peerPassword)
			other.want(204, "POST", "/api/auth/change-password", m{"current": peerPassword, "new": peerPassword + " x"})
			other.want(204, "POST", "/api/auth/change-password", m{"current": peerPassword + " x", "new": peerPassword})
		}},
		{"half an hour without a request", func(*browser) {
			r.clock.by.Add(int64(auth.SessionIdle))
			admin.login("admin", adminPassword)
		}},
		{"the user is gone", func(*browser) { admin.want(204, "DELETE", "/api/auth/users/kid", nil) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			kid := r.browser()
			kid.login("kid", peerPassword)
			ended := kid.stream(t)
			c.end(kid)
			select {
			case <-ended:
			case <-time.After(1500 * time.Millisecond): // a second, and a busy machine
				t.Error("the stream is open after more than a second")
			}
			kid.want(401, "GET", "/api/auth/me", nil)
		})
	}
}

// stream opens an event stream; the channel is closed when it ends.
func (b *browser) stream(t *testing.T) <-chan struct{} {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", b.r.server.URL+"/api/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := b.c.Do(req)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%v %v", resp, err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	sc := bufio.NewScanner(resp.Body)
	if !sc.Scan() {
		t.Fatal("no first event")
	}
	ended := make(chan struct{})
	go func() {
		for sc.Scan() {
		}
		close(ended)
	}()
	return ended
}

// The routes that ask for the password again: users, second factors, tokens,
// keys, everything at once, and what was once. A row that loses its mark is
// noticed here.
func TestWhatAsksForThePasswordAgain(t *testing.T) {
	r, admin := claimedRig(t)
	admin.want(201, "POST", "/api/auth/users", m{"name": "kid", "role": "peer", "password": peerPassword})
	must := []string{
		"POST /api/auth/users", "DELETE /api/auth/users/{name}", "POST /api/auth/admin/reset-password", "PUT /api/config",
		"POST /api/wireguard/keys", "POST /api/revisions/{n}/rollback", "POST /api/auth/tokens",
		"POST /api/auth/second-factor", "POST /api/auth/second-factor/confirm", "DELETE /api/auth/second-factor",
	}
	marked := map[string]bool{}
	for _, row := range r.api.Rows() {
		if row.Reauth {
			marked[row.Method+" "+row.Path] = true
		}
	}
	r.clock.by.Add(int64(auth.ReauthFor + time.Second))
	for _, route := range must {
		if !marked[route] {
			t.Errorf("%s does not ask for the password", route)
		}
	}
	admin.want(401, "POST", "/api/auth/users", m{"name": "more", "role": "peer", "password": peerPassword})
	admin.want(200, "POST", "/api/auth/reauth", m{"password": adminPassword})
	admin.me()
	admin.want(201, "POST", "/api/auth/users", m{"name": "more", "role": "peer", "password": peerPassword})
}
