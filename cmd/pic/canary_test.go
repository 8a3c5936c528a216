package main_test

import (
	"context"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// canaries are secrets that must not appear anywhere they could be read.
type canaries map[string]string

func (c canaries) add(name, value string) {
	if value != "" {
		c[name] = value
	}
}

// leaks names the canaries that text holds, as they are or in a usual code.
func (c canaries) leaks(text string) (names []string) {
	lower := strings.ToLower(text)
	for name, v := range c {
		forms := []string{v, url.QueryEscape(v), base64.StdEncoding.EncodeToString([]byte(v))}
		if raw, err := base64.StdEncoding.DecodeString(v); err == nil && len(raw) >= 16 {
			forms = append(forms, hex.EncodeToString(raw), base64.RawURLEncoding.EncodeToString(raw))
		}
		for _, f := range forms {
			if strings.Contains(text, f) || strings.Contains(lower, hex.EncodeToString([]byte(f))) {
				names = append(names, name)
				break
			}
		}
	}
	return names
}

// secrets adds every file of the secrets folder; of a key in PEM its body.
func (c canaries) secrets(t *testing.T, dir string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		_, value, _ := strings.Cut(string(b), "\n") // the first line is the checksum
		if p, _ := pem.Decode([]byte(value)); p != nil {
			// The middle of the key: its head is the same in every key of the kind.
			value = base64.StdEncoding.EncodeToString(p.Bytes[30:63])
		}
		c.add("secret "+f.Name(), strings.TrimSpace(value))
	}
}

// overWeb sends one request over HTTPS from inside the cell's namespace.
func (h *host) overWeb(method, path, body string, header ...string) (status string, head, text string) {
	h.t.Helper()
	args := []string{"curl", "-sk", "-i", "-X", method, "https://192.168.77.2" + path, "-H", "Content-Type: application/json"}
	for _, x := range header {
		args = append(args, "-H", x)
	}
	if body != "" {
		args = append(args, "-d", body)
	}
	out := strings.ReplaceAll(h.ns.Exec(args[0], args[1:]...), "\r\n", "\n")
	head, text, _ = strings.Cut(out, "\n\n")
	status, _, _ = strings.Cut(strings.TrimPrefix(head, "HTTP/2 "), " ")
	return strings.TrimSpace(strings.SplitN(status, "\n", 2)[0]), head, text
}

// Secrets of every kind are planted through the real binary, and then looked
// for in everything it shows: logs at debug level, each GET, event streams,
// exports, plans, the debug listener, its arguments and environment, the
// runtime folder, revisions, the audit log, and the dump of a dying process.
func TestNoCanarySings(t *testing.T) {
	h := newHost(t)
	c := canaries{}
	h.claimed("--log-level", "debug", "--api", "--debug", "127.0.0.1:6060")
	c.add("password of admin", "ultramarine kettle 93")

	for i := range 5 {
		pw := fmt.Sprintf("canary gravel orchid %d saddle", i)
		c.add(fmt.Sprintf("password %d", i), pw)
		h.want(201, "POST", "/api/auth/users", fmt.Sprintf(`{"name":"user%d","role":"peer","password":%q}`, i, pw))
	}
	c.add("reset password", "canary lantern drift 55 quarry")
	h.want(204, "POST", "/api/auth/admin/reset-password", `{"user":"user1","password":"canary lantern drift 55 quarry"}`)
	for i := range 10 {
		p := into[api.PeerCreated](t, h.want(201, "POST", "/api/peers", fmt.Sprintf(`{"name":"peer%d","generate_key":true}`, i)))
		c.add("private key of "+p.Peer.Name, p.PrivateKey)
	}
	h.plantExits(t, c)
	for i := range 3 {
		tok := into[api.NewToken](t, h.want(201, "POST", "/api/auth/tokens", fmt.Sprintf(`{"name":"t%d","user":"admin","scopes":[{"method":"GET","path":"/api/status"}]}`, i)))
		c.add("token "+tok.ID, tok.Secret)
		if out := h.ns.Exec("curl", "-s", "-H", "Authorization: Bearer "+tok.Secret, "http://127.0.0.1:3000/api/status"); !strings.Contains(out, `"cell"`) {
			t.Fatalf("the token does not work: %s", out)
		}
	}
	// What is typed wrong is as secret as what is right.
	c.add("wrong password", "canary mistyped walnut 31")
	c.add("password typed as a name", "canary-in-the-wrong-field-77")
	h.overWeb("POST", "/api/auth/login", `{"user":"admin","password":"canary mistyped walnut 31"}`)
	h.overWeb("POST", "/api/auth/login", `{"user":"canary-in-the-wrong-field-77","password":"x"}`)
	c.add("forged token", "pic_"+strings.Repeat("Canary0", 6)+"A")
	h.overWeb("GET", "/api/status", "", "Authorization: Bearer "+c["forged token"])
	c.add("mistyped field", "canary-unknown-field-12")
	h.overWeb("POST", "/api/auth/login", `{"user":"admin","passwort":"canary-unknown-field-12"}`)

	status, head, text := h.overWeb("POST", "/api/auth/login", `{"user":"admin","password":"ultramarine kettle 93"}`)
	var me api.Me
	_, session, _ := strings.Cut(head, auth.SessionCookieName+"=")
	session, _, _ = strings.Cut(session, ";")
	if err := json.Unmarshal([]byte(text), &me); status != "200" || session == "" || err != nil {
		t.Fatalf("login: %s\n%s\n%s", status, head, text)
	}
	c.add("session", session)
	cookie, csrf := "Cookie: "+auth.SessionCookieName+"="+session, "X-CSRF-Token: "+me.CSRFToken
	_, _, text = h.overWeb("POST", "/api/auth/second-factor", `{}`, cookie, csrf)
	var e api.Enrolment
	if err := json.Unmarshal([]byte(text), &e); err != nil || e.Secret == "" {
		t.Fatal(text)
	}
	raw, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(e.Secret)
	if err != nil {
		t.Fatal(err)
	}
	c.add("totp secret", e.Secret)
	_, _, text = h.overWeb("POST", "/api/auth/second-factor/confirm", fmt.Sprintf(`{"code":%q}`, auth.TOTP(raw, time.Now())), cookie, csrf)
	var codes api.RecoveryCodes
	if err := json.Unmarshal([]byte(text), &codes); err != nil || len(codes.RecoveryCodes) != 10 {
		t.Fatal(text)
	}
	for i, x := range codes.RecoveryCodes {
		c.add(fmt.Sprintf("recovery code %d", i), x)
	}
	h.want(202, "DELETE", "/api/peers/peer9", "", "Confirm-Within", "10")
	c.secrets(t, h.path("state/secrets"))
	if len(c) < 40 {
		t.Fatalf("only %d canaries", len(c))
	}

	shown := h.shown(t)
	// The dump of a dying process: SIGQUIT makes the Go runtime print every stack.
	if err := syscall.Kill(h.pid(), syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	h.ended(10 * time.Second)
	shown["log and dump"] = h.log.String()
	if !strings.Contains(shown["log and dump"], "goroutine ") || !strings.Contains(shown["log and dump"], "level=DEBUG") {
		t.Error("there is no dump, or nothing at debug level")
	}
	for where, text := range shown {
		if names := c.leaks(text); len(names) > 0 {
			t.Errorf("%s shows %v", where, names)
		}
	}
	// The search finds what is there.
	if len(c.leaks("x"+session+"y")) != 1 {
		t.Error("the search is blind")
	}
	t.Logf("%d canaries in %d places", len(c), len(shown))
}

// pid is the cell's own process: ip netns exec becomes it.
func (h *host) pid() int { return h.cmd.Process.Pid }

// shown collects everything the running cell shows, by place.
func (h *host) shown(t *testing.T) map[string]string {
	out := map[string]string{}
	var doc struct {
		Paths map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal(h.want(200, "GET", "/api/openapi.json", "").body, &doc); err != nil {
		t.Fatal(err)
	}
	for path, methods := range doc.Paths {
		_, reads := methods["get"]
		// A peer's configuration is handed out on purpose.
		if !reads || path == "/api/events" || strings.HasSuffix(path, "/config") && path != "/api/config" || strings.HasSuffix(path, "/qr") {
			continue
		}
		formats := []string{""}
		if strings.Contains(path, "{format}") {
			formats = []string{"nft", "wg", "zone", "state", "proxy", "certs", "ntp", "exits"}
		}
		for _, format := range formats {
			p := strings.NewReplacer("{name}", "peer1", "{n}", "5", "{id}", "x", "{format}", format, "{subsystem}", "firewall").Replace(path)
			if r, err := h.try("GET", p, ""); err == nil {
				out["GET "+p] = string(r.body)
			}
		}
	}
	out["events"] = h.events(t)
	for _, name := range []string{"state", "plans", "conditions", "pprof/goroutine?debug=2"} {
		out["debug "+name] = h.ns.Exec("curl", "-s", "http://127.0.0.1:6060/debug/"+name)
	}
	for _, f := range []string{"cmdline", "environ"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", h.pid(), f))
		if err != nil || len(b) == 0 {
			t.Fatalf("%s: %v", f, err)
		}
		out["proc "+f] = string(b)
	}
	for _, dir := range []string{"run", "state/revisions", "state/history"} {
		err := filepath.WalkDir(h.path(dir), func(p string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			b, err := os.ReadFile(p)
			out["file "+p] = string(b)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// events reads the stream until the pending change has been taken back.
func (h *host) events(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Second)
	defer cancel()
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", h.path("run/pic.sock"))
	}}
	req, _ := http.NewRequestWithContext(ctx, "GET", "http://pic/api/events", nil)
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body) // ends with ctx
	if !strings.Contains(string(b), "event: revision") {
		t.Errorf("no event came: %s", b)
	}
	return string(b)
}

// Revisions, also those that revert by themselves, are in the real cell's
// audit log, which pic audit verify checks while the cell runs and without it.
func TestTheRealCellsAuditLogHolds(t *testing.T) {
	h := newHost(t)
	h.claimed()
	h.want(202, "POST", "/api/peers", `{"name":"laptop","generate_key":true}`, "Confirm-Within", "10")
	netnstest.Eventually(t, 20*time.Second, func() error {
		entries := into[api.List[cell.AuditEntry]](t, h.want(200, "GET", "/api/audit", "")).Items
		for _, e := range entries {
			if e.Event == "revision" && e.Outcome == "auto-reverted" {
				return nil
			}
		}
		return fmt.Errorf("%+v", entries)
	})
	h.kill()
	verify := func() (string, error) {
		out, err := exec.Command(h.bin, "audit", "verify", "--state", h.path("state")).CombinedOutput()
		return string(out), err
	}
	if out, err := verify(); err != nil || !strings.Contains(out, "one unbroken chain") {
		t.Fatalf("%s %v", out, err)
	}
	h.start(nil)
	h.want(201, "POST", "/api/peers", addPhone)
	h.term(10 * time.Second)
	if out, err := verify(); err != nil {
		t.Fatalf("after a kill and a restart: %s %v", out, err)
	}
	files, _ := filepath.Glob(h.path("state/history/audit-*"))
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files[0], []byte(strings.Replace(string(b), "add peer laptop", "add peer lAptop", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := verify(); err == nil || !strings.Contains(out, "broken: entry ") {
		t.Errorf("a changed entry is not named: %s %v", out, err)
	}
}
