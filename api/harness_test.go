package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/certs"
	"github.com/personal-internet-cell/pic/datastore"
	"github.com/personal-internet-cell/pic/reconcile"
	"github.com/personal-internet-cell/pic/tunnel"
)

const (
	adminPassword = "ultramarine kettle 93"
	peerPassword  = "gravel orchid saddle 4"
)

// rig is a whole API over a real engine, datastore and auth; only the stage
// that would touch the world is a recording one.
type rig struct {
	t      *testing.T
	api    *api.API
	engine *reconcile.Engine
	server *httptest.Server
	code   *auth.SetupCode
	secret func(cell.SecretRef) (cell.Secret, error)
	// cut makes Reachable refuse.
	cut     bool
	store   *datastore.Store
	tokens  *auth.Tokens
	factors *auth.SecondFactors
	audit   *datastore.Audit
	clock   *shiftedClock
	metrics func(context.Context, *api.Metrics)
	exits   exitWorld
}

// shiftedClock is the real one, moved.
type shiftedClock struct{ by atomic.Int64 }

func (c *shiftedClock) Now() time.Time { return time.Now().Add(time.Duration(c.by.Load())) }

type textPlan string

func (p textPlan) String() string { return string(p) }

func newRig(t *testing.T) *rig {
	t.Helper()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	store, err := datastore.Open(&datastore.Config{Dir: t.TempDir(), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	stage := reconcile.NewStage("firewall", func(s *cell.State, _ cell.Facts) (textPlan, error) {
		var b strings.Builder
		for i := range s.Peers {
			fmt.Fprintf(&b, "peer %s %s enabled %v\n", s.Peers[i].Name, s.Peers[i].Address4, s.Peers[i].Enabled)
		}
		return textPlan(b.String()), nil
	}, func(context.Context, textPlan) (bool, error) { return false, nil })
	engine, err := reconcile.New(&reconcile.Config{
		Store: store, Stages: []reconcile.Stage{stage}, Log: log, Now: time.Now,
		Facts: cell.Facts{Uplink: cell.Uplink{Name: "eth0", Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.7.9/24")}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, engine: engine, code: auth.NewSetupCode(&auth.SetupCodeConfig{}), secret: store.Secret}
	r.clock = &shiftedClock{}
	r.tokens = auth.NewTokens(&auth.TokensConfig{Now: r.clock.Now, State: func() *cell.State { s, _ := engine.Running(); return s }})
	r.factors = auth.NewSecondFactors(&auth.SecondFactorsConfig{Now: r.clock.Now})
	if r.audit, err = datastore.OpenAudit(store); err != nil {
		t.Fatal(err)
	}
	r.store = store
	role := func(user string) (cell.Role, bool) { return r.api.RoleOf(user) }
	r.api = api.New(&api.Config{
		Log: log, Now: time.Now, Version: "test", Engine: engine, Started: time.Now(), HTTPSPort: 443,
		Passwords: auth.NewPasswords(&auth.PasswordsConfig{Cost: auth.Cost{Memory: 64, Time: 1, Threads: 1}}),
		Sessions:  auth.NewSessions(&auth.SessionsConfig{Role: role}),
		Backoff:   auth.NewBackoff(&auth.BackoffConfig{}),
		SetupCode: r.code,
		Tokens:    r.tokens, SecondFactors: r.factors, Audit: r.audit,
		NewRef:       store.NewRef,
		Secret:       store.Secret,
		Tunnel:       func(context.Context) (api.TunnelStatus, error) { return api.TunnelStatus{Backend: "kernel"}, nil },
		GenerateKey:  tunnel.GenerateKey,
		GeneratePSK:  tunnel.GeneratePSK,
		ClientConfig: tunnel.ClientConfig,
		FileName:     tunnel.FileName,
		NewAuthority: certs.NewAuthority,
		Trust: func(a *cell.Authority, _, format string) (api.File, error) {
			b, err := certs.RootPEM(a)
			return api.File{Name: "root." + format, ContentType: "application/x-pem-file", Data: b}, err
		},
		Certificates: func() []api.Certificate { return nil },
		Fingerprint:  func() string { return "AA:BB" },
		Clock:        func() api.ClockStatus { return api.ClockStatus{Stratum: 16, Leap: 3} },
		DNS:          func() api.DNSStatus { return api.DNSStatus{Listeners: []string{}} },
		DNSRecords:   func(*cell.State, cell.Facts) ([]api.DNSRecord, error) { return nil, nil },
		Export:       map[string]func(*cell.State, cell.Facts) (string, error){"nft": func(*cell.State, cell.Facts) (string, error) { return "table inet pic\n", nil }},
		Reachable: func(api.Flow, *cell.State, map[string]reconcile.Plan) error {
			if r.cut {
				return fmt.Errorf("your peer would be unknown")
			}
			return nil
		},
		Explain: func(_ *cell.State, _ cell.Facts, q api.ExplainQuery) (api.Explanation, error) {
			if q.From == "nobody" {
				return api.Explanation{}, &cell.InvalidError{Fields: []cell.FieldError{{Pointer: "/from", Message: "there is no peer or service"}}}
			}
			return api.Explanation{Verdict: "dropped", Reason: q.From + " to " + q.To, Names: []api.ExplainStep{}, Paths: []api.ExplainPath{}}, nil
		},
		Policy: func(s *cell.State, _ cell.Facts) (out []api.PolicyResult, _ error) {
			for _, text := range s.Network.Policy {
				out = append(out, api.PolicyResult{Assertion: text, Result: "holds"})
			}
			return out, nil
		},
		Metrics: func(ctx context.Context, m *api.Metrics) {
			if r.metrics != nil {
				r.metrics(ctx, m)
			}
		},
		NetworkTest: func(context.Context) []api.Check { return nil },
		Exits:       r.exits.house(),
		UI:          fstest.MapFS{"index.html": {Data: []byte("<!doctype html><title>app</title>")}, "assets/app-1234.js": {Data: []byte("1")}},
	})
	err = engine.Boot(t.Context(), func() (*cell.State, map[cell.SecretRef]cell.Secret, error) {
		private, public := tunnel.GenerateKey()
		ref := store.NewRef("wireguard")
		return cell.Factory([16]byte{7, 7, 7}, ref, public), map[cell.SecretRef]cell.Secret{ref: private}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- engine.Run(ctx) }()
	r.server = httptest.NewTLSServer(r.api.Web())
	t.Cleanup(func() {
		r.server.CloseClientConnections()
		r.server.Close()
		cancel()
		<-done
		_ = r.audit.Close()
		_ = store.Close()
	})
	return r
}

// browser is a client with cookies and the CSRF token of its session.
type browser struct {
	t    *testing.T
	r    *rig
	c    *http.Client
	csrf string
}

func (r *rig) browser() *browser {
	jar, _ := cookiejar.New(nil)
	c := *r.server.Client()
	c.Jar = jar
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &browser{t: r.t, r: r, c: &c}
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) problem() (p struct {
	Code, Detail string
	Errors       []cell.FieldError
},
) {
	_ = json.Unmarshal(a.body, &p)
	return p
}

func decode[T any](t *testing.T, a answer) (v T) {
	t.Helper()
	if err := json.Unmarshal(a.body, &v); err != nil {
		t.Fatalf("decoding %s: %v", a.body, err)
	}
	return v
}

// do sends body (a string as it is, anything else as JSON).
func (b *browser) do(method, path string, body any, header ...string) answer {
	b.t.Helper()
	var rd io.Reader
	switch x := body.(type) {
	case nil:
	case string:
		rd = strings.NewReader(x)
	default:
		enc, err := json.Marshal(x)
		if err != nil {
			b.t.Fatal(err)
		}
		rd = bytes.NewReader(enc)
	}
	req, err := http.NewRequestWithContext(b.t.Context(), method, b.r.server.URL+path, rd)
	if err != nil {
		b.t.Fatal(err)
	}
	if rd != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if b.csrf != "" {
		req.Header.Set("X-CSRF-Token", b.csrf)
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i+1] == "" {
			req.Header.Del(header[i])
			continue
		}
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := b.c.Do(req)
	if err != nil {
		b.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, out}
}

func (b *browser) want(status int, method, path string, body any, header ...string) answer {
	b.t.Helper()
	a := b.do(method, path, body, header...)
	if a.status != status {
		b.t.Fatalf("%s %s: %d, want %d: %s", method, path, a.status, status, a.body)
	}
	return a
}

type m = map[string]any

// claim goes through the wizard and leaves the browser logged in.
func (b *browser) claim() {
	b.t.Helper()
	b.want(200, "POST", "/api/setup/step", m{"step": "code", "code": b.r.code.Current()})
	b.want(200, "POST", "/api/setup/step", m{"step": "identity", "cell_name": "home", "domain_mode": "lan", "timezone": "Europe/Berlin"})
	b.want(200, "POST", "/api/setup/step", m{"step": "admin", "user": "admin", "password": adminPassword})
	b.want(201, "POST", "/api/setup/complete", m{})
	b.me()
}

func (b *browser) me() {
	b.t.Helper()
	b.csrf = decode[api.Me](b.t, b.want(200, "GET", "/api/auth/me", nil)).CSRFToken
}

func (b *browser) login(user, password string) {
	b.t.Helper()
	b.csrf = decode[api.Me](b.t, b.want(200, "POST", "/api/auth/login", m{"user": user, "password": password})).CSRFToken
}

func (b *browser) hasSession() bool {
	u, _ := url.Parse(b.r.server.URL)
	for _, c := range b.c.Jar.Cookies(u) {
		if c.Name == auth.SessionCookieName {
			return true
		}
	}
	return false
}

func claimedRig(t *testing.T) (*rig, *browser) {
	r := newRig(t)
	b := r.browser()
	b.claim()
	return r, b
}

func (b *browser) cookies() []*http.Cookie {
	u, _ := url.Parse(b.r.server.URL)
	return b.c.Jar.Cookies(u)
}
