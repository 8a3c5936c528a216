package cell_test

import (
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/cell"
)

func TestScopesCoverWhatTheySayAndNoMore(t *testing.T) {
	for _, c := range []struct {
		method, pattern, gotMethod, path string
		want                             bool
	}{
		{"GET", "/api/peers", "GET", "/api/peers", true},
		{"GET", "/api/peers", "HEAD", "/api/peers", true},
		{"GET", "/api/peers", "POST", "/api/peers", false},
		{"GET", "/api/peers", "GET", "/api/peers/", false},
		{"GET", "/api/peers", "GET", "/api/peers/a", false},
		{"*", "/api/peers/*", "DELETE", "/api/peers/a", true},
		{"*", "/api/peers/*", "GET", "/api/peers", false},
		{"*", "/api/peers/*", "GET", "/api/peers/a/config", false},
		{"*", "/api/peers/*", "GET", "/api/peers/..", false},
		{"*", "/api/peers/*", "GET", "/api/peers//", false},
		{"GET", "/api/peers/**", "GET", "/api/peers/a/config", true},
		{"GET", "/api/peers/**", "GET", "/api/peers/../config", false},
		{"GET", "/api/peers/**", "GET", "/api/peers//config", false},
		{"GET", "/api/**", "GET", "/api/status", true},
		{"GET", "/api/**", "GET", "/apix/status", false},
		{"", "", "GET", "/api/peers", false},
		{"*", "", "GET", "", true}, // which no request has
	} {
		if got := (cell.TokenScope{Method: c.method, Path: c.pattern}).Covers(c.gotMethod, c.path); got != c.want {
			t.Errorf("%s %s covers %s %s: %v", c.method, c.pattern, c.gotMethod, c.path, got)
		}
	}
	if (&cell.Token{}).Allows("GET", "/api/status") {
		t.Error("a token without scopes may do something")
	}
}

func TestBadTokensAndFactorsAreRefused(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	good := func() cell.Token {
		return cell.Token{
			ID: strings.Repeat("ab", 12), Hash: strings.Repeat("cd", 32), Name: "backup",
			Scopes: []cell.TokenScope{{Method: "GET", Path: "/api/peers/**"}}, Created: now, Expires: now.Add(time.Hour),
		}
	}
	state := func(x cell.Token, f *cell.SecondFactor) error {
		s := cell.Factory([16]byte{1}, "wireguard-a", "")
		before, _ := s.Validate().(*cell.InvalidError)
		s.Users = []cell.User{{Name: "kid", Role: cell.RolePeer, PasswordHash: "password-a", Created: now, Tokens: []cell.Token{x}, SecondFactor: f}}
		after, _ := s.Validate().(*cell.InvalidError)
		if n := fields(after) - fields(before); n > 0 {
			return after
		}
		return nil
	}
	if err := state(good(), &cell.SecondFactor{Secret: "totp-a", Recovery: []string{strings.Repeat("ab", 32)}}); err != nil {
		t.Fatal(err)
	}
	monitor := good()
	monitor.Scopes = []cell.TokenScope{{Method: "GET", Path: cell.MetricsPath}}
	if err := state(monitor, nil); err != nil || !monitor.Allows("GET", "/metrics") || monitor.Allows("POST", "/metrics") {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*cell.Token){
		"id":            func(x *cell.Token) { x.ID = "../../etc" },
		"hash":          func(x *cell.Token) { x.Hash = "pic_secret" },
		"name":          func(x *cell.Token) { x.Name = "two\nlines" },
		"no name":       func(x *cell.Token) { x.Name = "" },
		"expires":       func(x *cell.Token) { x.Expires = x.Created },
		"method":        func(x *cell.Token) { x.Scopes = []cell.TokenScope{{Method: "get", Path: "/api/peers"}} },
		"metrics below": func(x *cell.Token) { x.Scopes = []cell.TokenScope{{Method: "GET", Path: "/metrics/**"}} },
		"outside":       func(x *cell.Token) { x.Scopes = []cell.TokenScope{{Method: "GET", Path: "/**"}} },
		"dots":          func(x *cell.Token) { x.Scopes = []cell.TokenScope{{Method: "GET", Path: "/api/../x"}} },
		"half":          func(x *cell.Token) { x.Scopes = []cell.TokenScope{{Method: "GET", Path: "/api/pe*"}} },
		"middle":        func(x *cell.Token) { x.Scopes = []cell.TokenScope{{Method: "GET", Path: "/api/**/config"}} },
		"too many":      func(x *cell.Token) { x.Scopes = make([]cell.TokenScope, cell.MaxScopes+1) },
	} {
		x := good()
		spoil(&x)
		if state(x, nil) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for name, f := range map[string]*cell.SecondFactor{"no secret": {}, "no hash": {Secret: "totp-a", Recovery: []string{"abcd-efgh"}}} {
		if state(good(), f) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func fields(e *cell.InvalidError) int {
	if e == nil {
		return 0
	}
	return len(e.Fields)
}

func TestTextOfStrangersIsOneLine(t *testing.T) {
	for in, want := range map[string]string{
		"plain name":             "plain name",
		"a\nb\r\x00\x1b[31m":     "a\ufffdb\ufffd\ufffd\ufffd[31m",
		"\u202egnp.exe":          "\ufffdgnp.exe",
		"a\u2028b\u0085":         "a\ufffdb\ufffd",
		"bad \xff utf8":          "bad \ufffd utf8",
		strings.Repeat("x", 500): strings.Repeat("x", 20) + "…",
	} {
		if got := cell.OneLine(in, 20); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
