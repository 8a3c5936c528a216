package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/api"
)

func TestUnclaimedCellOffersOnlySetup(t *testing.T) {
	r := newRig(t)
	b := r.browser()
	b.want(200, "GET", "/health", nil)
	for _, path := range []string{"/api/status", "/api/peers", "/api/config", "/api/nothing", "/api/auth/me", "/api/openapi.json"} {
		a := b.want(428, "GET", path, nil)
		if a.problem().Code != "setup_required" || !strings.Contains(string(a.body), `"/setup"`) {
			t.Errorf("%s: %s", path, a.body)
		}
	}
	b.want(428, "POST", "/api/auth/login", m{"user": "admin", "password": "x"})
	if s, n := r.engine.Running(); n != 1 || s.Claimed() {
		t.Fatalf("revision %d, claimed %v", n, s.Claimed())
	}
}

func TestSetupNeedsTheCodeAndRotatesAfterFiveTries(t *testing.T) {
	r := newRig(t)
	b := r.browser()
	b.want(403, "POST", "/api/setup/step", m{"step": "identity", "cell_name": "home", "domain_mode": "lan"})
	b.want(403, "POST", "/api/setup/complete", m{})
	first := r.code.Current()
	for range 5 {
		b.want(403, "POST", "/api/setup/step", m{"step": "code", "code": "one two three four five six"})
	}
	if r.code.Current() == first {
		t.Fatal("the code did not change after five wrong tries")
	}
	b.want(403, "POST", "/api/setup/step", m{"step": "code", "code": first})
	b.claim()
	if s, _ := r.engine.Running(); !s.Claimed() || s.TLS.Signing() == nil || s.Identity.Name != "home" {
		t.Fatalf("the claim is not one commit of admin, identity and authority")
	}
	if _, n := r.engine.Running(); n != 2 {
		t.Fatalf("the claim made revision %d, want 2", n)
	}
	b.want(409, "POST", "/api/setup/step", m{"step": "code", "code": first})
}

func TestWizardNamesWrongFields(t *testing.T) {
	r := newRig(t)
	b := r.browser()
	b.want(200, "POST", "/api/setup/step", m{"step": "code", "code": r.code.Current()})
	for _, c := range []struct {
		body    m
		pointer string
	}{
		{m{"step": "identity", "cell_name": "My Cell", "domain_mode": "lan"}, "/cell_name"},
		{m{"step": "identity", "cell_name": "home", "domain_mode": "nonsense"}, "/domain_mode"},
		{m{"step": "identity", "cell_name": "home", "domain_mode": "http01"}, "/domain"},
		{m{"step": "admin", "user": "admin", "password": "short"}, "/password"},
		{m{"step": "admin", "user": "admin", "password": "password12345"}, "/password"},
		{m{"step": "admin", "user": "Admin!", "password": adminPassword}, "/user"},
		{m{"step": "what"}, "/step"},
		{m{"step": "code", "code": "x", "extra": 1}, "/extra"},
		{m{"step": 7}, "/step"},
	} {
		a := b.want(422, "POST", "/api/setup/step", c.body)
		if p := a.problem(); len(p.Errors) == 0 || p.Errors[0].Pointer != c.pointer {
			t.Errorf("%v: %s", c.body, a.body)
		}
	}
}

func TestOfManyConcurrentClaimsOneWins(t *testing.T) {
	r := newRig(t)
	var wg sync.WaitGroup
	var won atomic.Int32
	browsers := make([]*browser, 10)
	for i := range browsers {
		b := r.browser()
		b.want(200, "POST", "/api/setup/step", m{"step": "code", "code": r.code.Current()})
		b.want(200, "POST", "/api/setup/step", m{"step": "identity", "cell_name": fmt.Sprintf("cell%d", i), "domain_mode": "lan"})
		b.want(200, "POST", "/api/setup/step", m{"step": "admin", "user": "admin", "password": adminPassword})
		browsers[i] = b
	}
	for _, b := range browsers {
		for range 10 {
			wg.Go(func() {
				switch a := b.do("POST", "/api/setup/complete", m{}); a.status {
				case 201:
					won.Add(1)
				case 409, 403:
				default:
					t.Errorf("%d %s", a.status, a.body)
				}
			})
		}
	}
	wg.Wait()
	s, n := r.engine.Running()
	if won.Load() != 1 || len(s.Users) != 1 || n != 2 {
		t.Fatalf("%d claims won, %d users, revision %d", won.Load(), len(s.Users), n)
	}
}

// The guard test: every route × every role × every method. What a row does not
// allow is refused, and a path has no method beyond its rows.
func TestEveryRouteRefusesWhatItsRowDoesNotAllow(t *testing.T) {
	r, admin := claimedRig(t)
	admin.want(201, "POST", "/api/auth/users", m{"name": "kid", "role": "peer", "password": peerPassword})
	kid, nobody := r.browser(), r.browser()
	kid.login("kid", peerPassword)
	rows := r.api.Rows()
	if len(rows) < 40 {
		t.Fatalf("only %d routes: the table is not all there", len(rows))
	}
	may := map[string]func(access string) bool{
		"nobody": func(a string) bool { return a == "public" || a == "setup" },
		"peer":   func(a string) bool { return a == "public" || a == "setup" || a == "user" || a == "peer" },
		"admin":  func(a string) bool { return a == "public" || a == "setup" || a == "user" || a == "admin" },
	}
	byPath := map[string]map[string]bool{}
	for _, row := range rows {
		if byPath[row.Path] == nil {
			byPath[row.Path] = map[string]bool{}
		}
		byPath[row.Path][row.Method] = true
		if isStream(row.Path) || row.Path == "/api/auth/logout" {
			continue // a stream and the end of the session have tests of their own
		}
		path := strings.NewReplacer("{name}", "nobody-here", "{n}", "999999", "{id}", "nothing", "{subsystem}", "nothing", "{service}", "nothing", "{format}", "nothing").Replace(row.Path)
		for who, b := range map[string]*browser{"nobody": nobody, "peer": kid, "admin": admin} {
			a := b.do(row.Method, path, `{"no such field":1}`)
			refused := a.status == 401 || a.status == 403
			if row.Path == "/api/auth/login" || strings.HasPrefix(row.Path, "/api/setup/") {
				refused = false // they refuse by what is in the body
			}
			if want := !may[who](row.Access); refused != want && !strings.Contains(row.Path, "setup") && row.Path != "/api/auth/login" {
				t.Errorf("%s %s (%s) as %s: %d %s", row.Method, row.Path, row.Access, who, a.status, a.body)
			}
		}
	}
	for path, methods := range byPath {
		concrete := strings.NewReplacer("{name}", "nobody-here", "{n}", "999999", "{id}", "nothing", "{subsystem}", "nothing", "{service}", "nothing", "{format}", "nothing").Replace(path)
		for _, method := range []string{"GET", "POST", "PUT", "DELETE", "PATCH", "TRACE"} {
			if methods[method] || (method == "GET" && path == "/health") {
				continue
			}
			if a := admin.do(method, concrete, `{}`); a.status != 405 && a.status != 404 {
				t.Errorf("%s %s is no row, but answers %d", method, path, a.status)
			}
		}
	}
}

func TestARouteWithoutAccessCannotBeRegistered(t *testing.T) {
	if msg := api.RegisterWithoutAccess(); !strings.Contains(msg, "no access") {
		t.Fatalf("registered: %q", msg)
	}
}

func TestLoginAnswersUnknownAndWrongAlikeAndBacksOff(t *testing.T) {
	r, _ := claimedRig(t)
	b := r.browser()
	wrong := b.want(401, "POST", "/api/auth/login", m{"user": "admin", "password": "not this one at all"})
	unknown := b.want(401, "POST", "/api/auth/login", m{"user": "ghost", "password": "not this one at all"})
	if wrong.problem().Detail != unknown.problem().Detail {
		t.Fatalf("%s\n%s", wrong.body, unknown.body)
	}
	limited := false
	for range 12 {
		if a := b.do("POST", "/api/auth/login", m{"user": "admin", "password": "not this one at all"}); a.status == 429 {
			limited = a.header.Get("Retry-After") != ""
			break
		}
	}
	if !limited {
		t.Fatal("no 429 with Retry-After after a dozen wrong tries")
	}
	if b.hasSession() {
		t.Fatal("a failed login left a session")
	}
}

func TestChangesNeedTheCSRFTokenAndJSONAndOurOrigin(t *testing.T) {
	r, b := claimedRig(t)
	_, before := r.engine.Running()
	peer := m{"name": "laptop", "generate_key": true}
	b.want(403, "POST", "/api/peers", peer, "X-CSRF-Token", "")
	b.want(403, "POST", "/api/peers", peer, "X-CSRF-Token", "nonsense")
	b.want(403, "POST", "/api/peers", peer, "Sec-Fetch-Site", "cross-site")
	b.want(403, "POST", "/api/peers", peer, "Sec-Fetch-Site", "same-site")
	b.want(403, "POST", "/api/peers", peer, "Origin", "https://evil.example")
	b.want(403, "POST", "/api/peers", peer, "Origin", "null")
	for _, typ := range []string{"text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"} {
		b.want(415, "POST", "/api/peers", `{"name":"laptop","generate_key":true}`, "Content-Type", typ)
	}
	if _, after := r.engine.Running(); after != before {
		t.Fatalf("a refused request made revision %d", after)
	}
	b.want(421, "GET", "/api/status", nil, "Host", "evil.example")
}

func TestPeerLifeCycle(t *testing.T) {
	r, b := claimedRig(t)
	a := b.want(201, "POST", "/api/peers", m{"name": "laptop", "generate_key": true, "trust": "owner", "note": "mine"})
	made := decode[api.PeerCreated](t, a)
	if made.PrivateKey == "" || !strings.Contains(made.Config, "PrivateKey = "+made.PrivateKey) || made.FileName != "laptop.conf" || !made.Peer.PresharedKey {
		t.Fatalf("%+v", made)
	}
	if a.header.Get("Pic-Revision") != "3" || a.header.Get("ETag") != `"3"` {
		t.Fatalf("headers %v", a.header)
	}
	if state, _ := json.Marshal(decode[json.RawMessage](t, b.want(200, "GET", "/api/config", nil))); strings.Contains(string(state), made.PrivateKey) {
		t.Fatal("the private key is in the state")
	}
	// The cell does not hold the key, so the file comes without it.
	conf := b.want(200, "GET", "/api/peers/laptop/config", nil)
	if strings.Contains(string(conf.body), made.PrivateKey) || !strings.Contains(string(conf.body), "PrivateKey = \n") ||
		!strings.HasPrefix(conf.header.Get("Content-Type"), "text/plain") || !strings.Contains(conf.header.Get("Content-Disposition"), `"laptop.conf"`) {
		t.Fatalf("%v\n%s", conf.header, conf.body)
	}
	if qr := b.want(200, "GET", "/api/peers/laptop/qr", nil); !strings.HasPrefix(string(qr.body), "<svg") {
		t.Fatalf("%s", qr.body)
	}
	// Optimistic locking by resource.
	b.want(201, "POST", "/api/peers", m{"name": "phone", "generate_key": true})
	b.want(200, "PUT", "/api/peers/laptop", m{"note": "still at 3"}, "If-Match", `"3"`)
	stale := b.want(412, "PUT", "/api/peers/laptop", m{"note": "late"}, "If-Match", `"3"`)
	if stale.problem().Code != "precondition_failed" {
		t.Fatalf("%s", stale.body)
	}
	// A dry run says what is cut off and changes nothing.
	_, before := r.engine.Running()
	p := decode[api.Preview](t, b.want(200, "DELETE", "/api/peers/laptop?dry_run=1", nil))
	if _, after := r.engine.Running(); after != before || len(p.Cuts) != 1 || p.Cuts[0].Subject != "laptop" || !strings.Contains(p.Plans[0].Diff, "-peer laptop") {
		t.Fatalf("%+v", p)
	}
	b.want(204, "DELETE", "/api/peers/laptop", nil)
	b.want(404, "GET", "/api/peers/laptop", nil)
	b.want(404, "DELETE", "/api/peers/laptop", nil)
}

func TestBadPeersAreRefusedWhole(t *testing.T) {
	r, b := claimedRig(t)
	b.want(201, "POST", "/api/peers", m{"name": "laptop", "public_key": "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="})
	_, before := r.engine.Running()
	for _, c := range []struct {
		name    string
		status  int
		body    any
		pointer string
	}{
		{"unknown field", 422, m{"name": "x", "generate_key": true, "nmae": "y"}, "/nmae"},
		{"wrong type", 422, m{"name": 5, "generate_key": true}, "/name"},
		{"no key", 422, m{"name": "x"}, "/public_key"},
		{"both keys", 422, m{"name": "x", "generate_key": true, "public_key": "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="}, "/public_key"},
		{"no label", 422, m{"name": "no label", "generate_key": true}, "/name"},
		{"duplicate name", 409, m{"name": "laptop", "generate_key": true}, ""},
		{"duplicate key", 422, m{"name": "x", "public_key": "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="}, "/public_key"},
		{"keepalive", 422, m{"name": "x", "generate_key": true, "keepalive": 70000}, "/keepalive"},
		{"past expiry", 422, m{"name": "x", "generate_key": true, "expires": "2001-01-01T00:00:00Z"}, "/expires"},
		{"unknown service", 422, m{"name": "x", "generate_key": true, "services": []string{"mail"}}, "/services/0"},
		{"unknown owner", 422, m{"name": "x", "generate_key": true, "owner": "nobody"}, "/owner"},
		{"no JSON", 400, `{"name":`, ""},
		{"array", 422, `[]`, ""},
	} {
		a := b.want(c.status, "POST", "/api/peers", c.body)
		if p := a.problem(); p.Detail == "" || (c.pointer != "" && (len(p.Errors) == 0 || p.Errors[0].Pointer != c.pointer)) {
			t.Errorf("%s: %s", c.name, a.body)
		}
	}
	if _, after := r.engine.Running(); after != before {
		t.Fatalf("a refused peer made revision %d", after)
	}
}

func TestConfirmedCommitRevertsByItselfOrIsConfirmedOnANewConnection(t *testing.T) {
	r, b := claimedRig(t)
	b.want(201, "POST", "/api/peers", m{"name": "laptop", "generate_key": true})
	_, before := r.engine.Running()
	a := b.want(202, "PUT", "/api/peers/laptop", m{"enabled": false}, "Confirm-Within", "60")
	n := a.header.Get("Pic-Revision")
	if a.header.Get("Pic-Confirm-By") == "" || n == "" {
		t.Fatalf("headers %v", a.header)
	}
	if a := b.want(409, "PUT", "/api/peers/laptop", m{"note": "x"}); a.problem().Code != "commit_pending" {
		t.Fatalf("%s", a.body)
	}
	if st := decode[api.Status](t, b.want(200, "GET", "/api/status", nil)); st.Pending == nil || st.Pending.Author.Name != "admin" {
		t.Fatalf("status does not say what is pending: %+v", st.Pending)
	}
	b.want(200, "POST", "/api/commits/"+n+"/revert", m{})
	if s, now := r.engine.Running(); now != before || !s.Peer("laptop").Enabled {
		t.Fatalf("not reverted: revision %d", now)
	}
	// Confirmed: the old connection is refused, a new one is not.
	old := r.browser()
	old.c.Jar, old.csrf = b.c.Jar, b.csrf
	old.want(200, "GET", "/api/status", nil)
	a = b.want(202, "PUT", "/api/peers/laptop", m{"enabled": false}, "Confirm-Within", "60")
	n = a.header.Get("Pic-Revision")
	b.c.CloseIdleConnections()
	b.want(200, "POST", "/api/commits/"+n+"/confirm", m{})
	if s, _ := r.engine.Running(); s.Peer("laptop").Enabled {
		t.Fatal("the confirmed change is gone")
	}
	b.want(409, "POST", "/api/commits/"+n+"/confirm", m{})
}

func TestAConnectionFromBeforeTheCommitCannotConfirmIt(t *testing.T) {
	_, b := claimedRig(t)
	b.want(201, "POST", "/api/peers", m{"name": "laptop", "generate_key": true})
	// A second client of the same session whose connection is older.
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = b.r.server.Client().Transport.(*http.Transport).TLSClientConfig
	old := &browser{t: t, r: b.r, c: &http.Client{Transport: transport, Jar: b.c.Jar}, csrf: b.csrf}
	defer transport.CloseIdleConnections()
	old.want(200, "GET", "/api/status", nil)
	n := b.want(202, "PUT", "/api/peers/laptop", m{"note": "x"}, "Confirm-Within", "60").header.Get("Pic-Revision")
	if a := old.want(409, "POST", "/api/commits/"+n+"/confirm", m{}); a.problem().Code != "old_connection" {
		t.Fatalf("%s", a.body)
	}
	old.want(200, "POST", "/api/commits/"+n+"/confirm", m{}) // the refusal closed the old one
}

func TestACommitThatCutsOffItsAuthorNeedsACountdown(t *testing.T) {
	r, b := claimedRig(t)
	b.want(201, "POST", "/api/peers", m{"name": "laptop", "generate_key": true})
	r.cut = true
	a := b.want(409, "DELETE", "/api/peers/laptop", nil)
	if p := a.problem(); p.Code != "confirm_required" || !strings.Contains(p.Detail, "your peer would be unknown") {
		t.Fatalf("%s", a.body)
	}
	b.want(202, "DELETE", "/api/peers/laptop", nil, "Confirm-Within", "60")
}

func TestRevisionsDiffAndRollback(t *testing.T) {
	r, b := claimedRig(t)
	b.want(201, "POST", "/api/peers", m{"name": "laptop", "generate_key": true})
	b.want(204, "DELETE", "/api/peers/laptop", nil)
	l := decode[api.List[api.RevisionItem]](t, b.want(200, "GET", "/api/revisions?limit=2", nil))
	if len(l.Items) != 2 || l.Items[0].Number != 4 || !l.Items[0].Current || l.Items[0].Author.Name != "admin" || l.Items[0].Author.Address == "" {
		t.Fatalf("%+v", l.Items)
	}
	d := decode[api.Preview](t, b.want(200, "GET", "/api/revisions/3/diff", nil))
	if len(d.Plans) != 1 || !strings.Contains(d.Plans[0].Diff, "+peer laptop") {
		t.Fatalf("%+v", d)
	}
	b.want(404, "GET", "/api/revisions/99", nil)
	b.want(404, "POST", "/api/revisions/99/rollback", m{})
	p := decode[api.Preview](t, b.want(200, "POST", "/api/revisions/3/rollback?dry_run=1", m{}))
	if !p.DryRun || len(p.Settings) == 0 {
		t.Fatalf("%+v", p)
	}
	b.want(200, "POST", "/api/revisions/3/rollback", m{})
	if s, n := r.engine.Running(); n != 5 || s.Peer("laptop") == nil {
		t.Fatalf("revision %d, peers %d", n, len(s.Peers))
	}
}

func TestConfigPatch(t *testing.T) {
	r, b := claimedRig(t)
	b.want(200, "PUT", "/api/config", m{"network": m{"tunnel": m{"mtu": 1380}}})
	if s, _ := r.engine.Running(); s.Network.Tunnel.MTU != 1380 || s.Network.Tunnel.ListenPort != 51820 {
		t.Fatalf("%+v", s.Network.Tunnel)
	}
	b.want(201, "POST", "/api/peers", m{"name": "laptop", "generate_key": true})
	s, before := r.engine.Running()
	for _, c := range []struct {
		name    string
		patch   any
		pointer string
	}{
		{"unknown section", m{"nonsense": 1}, ""},
		{"wrong type", m{"network": m{"tunnel": m{"mtu": "big"}}}, "/network/tunnel/mtu"},
		{"out of range", m{"network": m{"tunnel": m{"mtu": 10}}}, "/network/tunnel/mtu"},
		{"port out of range", m{"network": m{"tunnel": m{"listen_port": 70000}}}, "/network/tunnel/listen_port"},
		{"users", m{"users": []any{}}, "/users"},
		{"authorities", m{"tls": m{"authorities": []any{}}}, "/tls/authorities"},
		{"another secret in the preshared key", m{"peers": []m{{
			"name": "laptop", "public_key": s.Peers[0].PublicKey, "address4": s.Peers[0].Address4,
			"address6": s.Peers[0].Address6, "destinations": "full", "trust": "owner", "enabled": true, "preshared_key": s.Network.Tunnel.PrivateKey,
		}}}, "/peers/laptop/preshared_key"},
		{"overlapping subnets", m{"network": m{"lan": []m{{"name": "lan", "interface": "eth1", "prefixes": []string{s.Network.Tunnel.Prefix4.String()}}}}}, "/network/lan/0/prefixes/0"},
		{"array", `[1]`, ""},
	} {
		a := b.want(422, "PUT", "/api/config", c.patch)
		if p := a.problem(); c.pointer != "" && (len(p.Errors) == 0 || p.Errors[0].Pointer != c.pointer) {
			t.Errorf("%s: %s", c.name, a.body)
		}
	}
	if _, after := r.engine.Running(); after != before {
		t.Fatalf("a refused patch made revision %d", after)
	}
	b.want(200, "PUT", "/api/config", m{"clock": m{"sources": []string{"192.0.2.5"}}}, "If-Match", `"2"`) // nobody else touched the clock
	b.want(412, "PUT", "/api/config", m{"network": m{"tunnel": m{"mtu": 1400}}}, "If-Match", `"2"`)
}

func TestANewDomainGetsAnAuthorityAndARollbackTheOldOne(t *testing.T) {
	r, b := claimedRig(t)
	s, _ := r.engine.Running()
	first := s.TLS.SigningFor(s.Identity.Domains()).ID
	b.want(200, "PUT", "/api/config?dry_run=1", m{"identity": m{"name": "castle"}})
	b.want(200, "PUT", "/api/config", m{"identity": m{"name": "castle"}})
	s, _ = r.engine.Running()
	a := s.TLS.SigningFor(s.Identity.Domains())
	if len(s.TLS.Authorities) != 2 || a.ID == first || !a.Covers([]string{"castle.internal", "files.castle.internal"}) || a.Covers([]string{"home.internal"}) {
		t.Fatalf("%d authorities, %s signs for %v", len(s.TLS.Authorities), a.ID, a.Domains)
	}
	if _, err := r.secret(a.IssuingKey); err != nil {
		t.Fatal(err)
	}
	b.want(200, "PUT", "/api/config", m{"clock": m{"sources": []string{"192.0.2.5"}}}) // no third one
	b.want(200, "POST", "/api/revisions/2/rollback", m{})
	s, _ = r.engine.Running()
	if got := s.TLS.SigningFor(s.Identity.Domains()).ID; got != first || len(s.TLS.Authorities) != 2 {
		t.Fatalf("after the rollback %s signs, of %d", got, len(s.TLS.Authorities))
	}
}

func TestSessionEndsAtOnceWhenItsUserGoes(t *testing.T) {
	r, admin := claimedRig(t)
	admin.want(201, "POST", "/api/auth/users", m{"name": "kid", "role": "peer", "password": peerPassword})
	kid := r.browser()
	kid.login("kid", peerPassword)
	req, _ := http.NewRequestWithContext(t.Context(), "GET", r.server.URL+"/api/events", nil)
	resp, err := kid.c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	ended := make(chan struct{})
	sc := bufio.NewScanner(resp.Body)
	if !sc.Scan() {
		t.Fatal("no first event")
	}
	go func() {
		for sc.Scan() {
		}
		close(ended)
	}()
	admin.want(204, "DELETE", "/api/auth/users/kid", nil)
	select {
	case <-ended:
	case <-time.After(2 * time.Second):
		t.Fatal("the event stream of a removed user stays open")
	}
	kid.want(401, "GET", "/api/auth/me", nil)
	admin.want(409, "DELETE", "/api/auth/users/admin", nil) // the last admin
}

func TestEventsSayLookAgainWithTheRevision(t *testing.T) {
	r, b := claimedRig(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "GET", r.server.URL+"/api/events", nil)
	resp, err := b.c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := make(chan string, 64)
	go func() {
		sc := bufio.NewScanner(resp.Body)
		for sc.Scan() {
			lines <- sc.Text()
		}
		close(lines)
	}()
	b.want(201, "POST", "/api/peers", m{"name": "laptop", "generate_key": true})
	for line := range lines {
		if line == `data: {"revision":3}` {
			return
		}
	}
	t.Fatal("no event named revision 3")
}

func TestUIAndUnknownPaths(t *testing.T) {
	_, b := claimedRig(t)
	deep := b.want(200, "GET", "/peers/laptop", nil)
	if !strings.Contains(string(deep.body), "<title>app") || deep.header.Get("Content-Security-Policy") == "" {
		t.Fatalf("%v %s", deep.header, deep.body)
	}
	if asset := b.want(200, "GET", "/assets/app-1234.js", nil); !strings.Contains(asset.header.Get("Cache-Control"), "immutable") {
		t.Fatalf("%v", asset.header)
	}
	b.want(404, "GET", "/assets/gone.js", nil)
	b.want(404, "GET", "/api/nothing", nil)
	b.want(301, "GET", "/email", nil)
	b.want(405, "POST", "/peers", m{})
}

func TestOpenAPIIs31AndNamesRoles(t *testing.T) {
	_, b := claimedRig(t)
	doc := decode[struct {
		OpenAPI string `json:"openapi"`
		Paths   map[string]map[string]struct {
			Roles []string `json:"x-roles"`
		} `json:"paths"`
	}](t, b.want(200, "GET", "/api/openapi.json", nil))
	if !strings.HasPrefix(doc.OpenAPI, "3.1") || len(doc.Paths) < 30 {
		t.Fatalf("%s, %d paths", doc.OpenAPI, len(doc.Paths))
	}
	for path, ops := range doc.Paths {
		for method, op := range ops {
			if len(op.Roles) == 0 {
				t.Errorf("%s %s has no x-roles", method, path)
			}
		}
	}
}

func TestNoSecretLeavesByTheAPI(t *testing.T) {
	r, b := claimedRig(t)
	b.want(201, "POST", "/api/peers", m{"name": "laptop", "generate_key": true})
	s, _ := r.engine.Running()
	var all strings.Builder
	for _, row := range r.api.Rows() {
		if row.Method == "GET" && !isStream(row.Path) && row.Path != "/api/peers/{name}/config" && row.Path != "/api/peers/{name}/qr" {
			all.Write(b.do("GET", strings.NewReplacer("{name}", "laptop", "{n}", "3", "{format}", "state", "{subsystem}", "firewall").Replace(row.Path), nil).body)
		}
	}
	for _, ref := range s.SecretRefs() {
		secret, err := r.secret(ref)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(all.String(), secret.Reveal()) {
			t.Errorf("the secret %s left by a GET", ref)
		}
	}
	if strings.Contains(all.String(), adminPassword) {
		t.Error("the password left")
	}
}

func TestPasswordChangeEndsOtherSessions(t *testing.T) {
	r, b := claimedRig(t)
	other := r.browser()
	other.login("admin", adminPassword)
	const next = "cobalt harness 77 willow"
	b.want(401, "POST", "/api/auth/change-password", m{"current": "wrong wrong wrong", "new": next})
	b.want(422, "POST", "/api/auth/change-password", m{"current": adminPassword, "new": "short"})
	b.want(204, "POST", "/api/auth/change-password", m{"current": adminPassword, "new": next})
	b.want(200, "GET", "/api/auth/me", nil)
	other.want(401, "GET", "/api/auth/me", nil)
	other.csrf = ""
	other.login("admin", next)
	other.want(204, "POST", "/api/auth/logout", m{})
	other.want(401, "GET", "/api/auth/me", nil)
}
