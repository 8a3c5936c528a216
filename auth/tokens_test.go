package auth_test

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/cell"
)

func tokenState(now time.Time) (secret string, s *cell.State) {
	secret, k := auth.NewAPIToken()
	k.Name, k.Created, k.Expires = "backup", now, now.Add(time.Hour)
	return secret, &cell.State{Users: []cell.User{{Name: "other", Role: cell.RolePeer}, {Name: "admin", Role: cell.RoleAdmin, Tokens: []cell.Token{k}}}}
}

func TestTokensSpeakForTheirUserUntilTheyEnd(t *testing.T) {
	c := newClock()
	secret, s := tokenState(c.Now())
	store := newMemory()
	x := auth.NewTokens(&auth.TokensConfig{Store: store, Now: c.Now, State: func() *cell.State { return s }})
	who, kept, ok := x.Lookup(secret)
	if !ok || who.User != "admin" || who.Role != cell.RoleAdmin || who.Via != auth.ViaToken || who.Token != kept.ID {
		t.Fatalf("%+v %v", who, ok)
	}
	if strings.Contains(kept.Hash, secret) || !strings.HasPrefix(secret, "pic_") || len(secret) != 47 {
		t.Errorf("token %q, hash %q", secret, kept.Hash)
	}
	if auth.Reauth(who, c.Now()) == auth.Allow {
		t.Error("a token counts as a fresh password")
	}
	for _, wrong := range []string{"", "pic_", secret[:46], secret + "A", "pics" + secret[3:], kept.Hash, "pic_" + strings.Repeat("A", 43)} {
		if _, _, ok := x.Lookup(wrong); ok {
			t.Errorf("%q is accepted", wrong)
		}
	}
	if !x.Valid(who) || !x.LastUsed(who.Token).Equal(c.Now()) {
		t.Error("not valid, or no last use")
	}
	next := s.Clone()
	next.Users[1].Role = cell.RolePeer
	s = next
	if x.Valid(who) {
		t.Error("a stream keeps the old role")
	}
	if who, _, _ := x.Lookup(secret); who.Role != cell.RolePeer {
		t.Errorf("the role is %q, not that of now", who.Role)
	}
	c.Add(time.Hour)
	if _, _, ok := x.Lookup(secret); ok {
		t.Error("lives on after its end")
	}
	c.Add(-2 * time.Hour)
	if _, _, ok := x.Lookup(secret); ok {
		t.Error("a token of the future is accepted")
	}
	c.Add(time.Hour)
	s = &cell.State{Users: s.Users[:1]}
	if _, _, ok := x.Lookup(secret); ok {
		t.Error("lives on after its user")
	}
}

func TestLastUsesSurviveARestartWithoutTheToken(t *testing.T) {
	c := newClock()
	secret, s := tokenState(c.Now())
	store := newMemory()
	cfg := &auth.TokensConfig{Store: store, Now: c.Now, State: func() *cell.State { return s }}
	x := auth.NewTokens(cfg)
	who, _, _ := x.Lookup(secret)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := x.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if got := auth.NewTokens(cfg).LastUsed(who.Token); !got.Equal(c.Now()) {
		t.Errorf("last used %v", got)
	}
	if strings.Contains(store.text("tokens"), secret[4:]) {
		t.Error("the token is in the file")
	}
}

func TestBearerIsTheOnlyScheme(t *testing.T) {
	secret, _ := auth.NewAPIToken()
	for _, c := range []struct {
		headers []string
		token   string
		given   bool
	}{
		{nil, "", false},
		{[]string{"Bearer " + secret}, secret, true},
		{[]string{"bearer  " + secret}, secret, true},
		{[]string{"Basic " + secret}, "", true},
		{[]string{secret}, "", true},
		{[]string{"Bearer " + secret + ","}, "", true},
		{[]string{"Bearer"}, "", true},
		{[]string{""}, "", true},
		{[]string{"Bearer " + secret, "Bearer " + secret}, "", true},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		for _, h := range c.headers {
			r.Header.Add("Authorization", h)
		}
		if token, given := auth.BearerToken(r); token != c.token || given != c.given {
			t.Errorf("%q: %q %v", c.headers, token, given)
		}
	}
}

func FuzzBearer(f *testing.F) {
	f.Add("Bearer pic_AAAA")
	f.Fuzz(func(t *testing.T, h string) {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header["Authorization"] = []string{h}
		token, given := auth.BearerToken(r)
		if !given || token != "" && (!strings.HasPrefix(token, "pic_") || len(token) != 47) {
			t.Errorf("%q: %q %v", h, token, given)
		}
	})
}
