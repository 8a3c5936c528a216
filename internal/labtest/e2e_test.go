package labtest_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/internal/labtest"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

const password = "walrus lantern gravel sonnet 41"

// binary returns the cell's program: PIC_BINARY, or one built here.
func binary(t *testing.T) string {
	t.Helper()
	if b := os.Getenv("PIC_BINARY"); b != "" {
		return b
	}
	bin := filepath.Join(t.TempDir(), "pic")
	c := exec.Command("go", "build", "-tags", "nomsgpack", "-o", bin, "../../cmd/pic")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("building the cell: %v\n%s", err, out)
	}
	return bin
}

// TestEndToEnd is the first day of a cell: a person on the LAN claims it in a
// browser and adds a phone, which then works from the internet; and a change
// that locks everybody out undoes itself.
func TestEndToEnd(t *testing.T) {
	netnstest.Need(t, "chromium", "node", "wg", "wg-quick", "resolvconf", "dig", "curl", "ping")
	l := labtest.New(t, labtest.Options{Binary: binary(t), UI: "../../ui"})
	l.Cell.Start("--firewall", "full")

	if a := l.Cell.API("GET", "/api/status", nil); a.Status != 428 {
		t.Fatalf("an unclaimed cell answers the API with %d %s, want 428", a.Status, a.Body)
	}
	var journey struct{ Config, Filename string }
	l.Chromium(l.LAN, "testdata/journey.mjs", map[string]string{
		"url": "https://" + labtest.CellAddress4 + "/", "code": setupCode(t, l), "cell": "home",
		"password": password, "peer": "phone",
		"screenshots": os.Getenv("PIC_SCREENSHOTS"), "failure": filepath.Join(os.TempDir(), "pic-e2e-failure.png"),
	}, &journey)
	if journey.Filename != "phone.conf" {
		t.Errorf("the configuration is saved as %q", journey.Filename)
	}
	phone := strings.TrimSuffix(journey.Filename, ".conf")
	// The cell tells clients the uplink's address; from the internet that is
	// the home router, which forwards the port.
	config := strings.Replace(journey.Config, labtest.CellAddress4+":51820", labtest.RouterPublic4+":51820", 1)
	if config == journey.Config {
		t.Fatalf("the configuration does not name the cell's address:\n%s", journey.Config)
	}
	l.WGQuick(l.Phone, phone, config)
	// Not subtests: the household fails the test it was built for.
	t.Log("the phone's tunnel serves names, web and time")
	phoneWorks(t, l, phone)
	t.Log("a service is reached by its name")
	serviceWorks(t, l)
	t.Log("a cell that was killed comes back with everything")
	before := revision(t, l)
	l.Cell.Restart()
	if after := revision(t, l); after != before {
		t.Fatalf("revision %d before, %d after", before, after)
	}
	reach(t, l)
	t.Log("a lock-out reverts by itself")
	lockOut(t, l, false)
	t.Log("a lock-out reverts after a crash")
	lockOut(t, l, true)
}

func setupCode(t *testing.T, l *labtest.Lab) string {
	t.Helper()
	var code struct{ Code string }
	if err := json.Unmarshal([]byte(l.Cell.CLI("setup-code", "--json")), &code); err != nil || code.Code == "" {
		t.Fatalf("no setup code: %v\n%s", err, l.Cell.CLI("setup-code", "--json"))
	}
	return code.Code
}

// reach waits until the phone gets the cell's web page by name, with the
// authority as the only trust.
func reach(t *testing.T, l *labtest.Lab) {
	t.Helper()
	root := filepath.Join(l.Dir(), "root.pem")
	a := l.Cell.API("GET", "/api/vault/ca?format=pem", nil)
	if a.Status != 200 {
		t.Fatalf("fetching the authority: %d %s", a.Status, a.Body)
	}
	if err := os.WriteFile(root, a.Body, 0o644); err != nil {
		t.Fatal(err)
	}
	netnstest.Eventually(t, 30*time.Second, func() error {
		out, err := l.Phone.Try("curl", "-sS", "-m", "5", "--cacert", root, "https://home.internal/health")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		if !strings.Contains(out, `"status"`) {
			return errors.New(out)
		}
		return nil
	})
}

func phoneWorks(t *testing.T, l *labtest.Lab, dev string) {
	reach(t, l)
	l.Handshake(l.Phone, dev)
	gateway := strings.TrimSpace(l.Phone.Exec("dig", "+short", "home.internal"))
	if !strings.HasPrefix(gateway, "10.") {
		t.Errorf("home.internal is %q inside the tunnel", gateway)
	}
	for _, c := range []struct{ query, want string }{
		{"phone.peers.home.internal A", "10."},
		{"home.internal AAAA", "fd"},
		{labtest.PublicName + " A", labtest.InternetWeb4},
		{labtest.PublicName + " A +tcp", labtest.InternetWeb4},
	} {
		if got := l.Phone.Exec("dig", append([]string{"+short", "+timeout=3"}, strings.Fields(c.query)...)...); !strings.HasPrefix(got, c.want) {
			t.Errorf("dig %s: %q, want %s…", c.query, got, c.want)
		}
	}
	if got := l.Phone.Exec("dig", "+short", labtest.RebindingName); strings.TrimSpace(got) != "" {
		t.Errorf("an answer from the internet points into the home: %q", got)
	}
	if slices.Contains(l.DNSNames(), "phone.peers.home.internal.") {
		t.Error("a name of the home was asked on the internet")
	}
	if out, err := l.Phone.Try("curl", "-sS", "-m", "5", "http://"+labtest.PublicName+"/"); err != nil || !strings.Contains(out, "hello to "+labtest.RouterPublic4) {
		t.Errorf("the internet through the tunnel: %v %q", err, out)
	}
	var clock struct {
		Answers      int
		Synchronised bool
	}
	told := l.AskTime(l.Phone, gateway)
	if err := l.Cell.API("GET", "/api/ntp/status", nil).Decode(&clock); err != nil || clock.Answers == 0 {
		t.Errorf("the time server counts no answer: %v %+v", err, clock)
	}
	knows := told.Leap != 3 && told.Stratum > 0 && told.Stratum < 16
	if told.Mode != 4 || told.Bytes > 48 || knows != clock.Synchronised || told.Offset.Abs() > time.Second {
		t.Errorf("the time server says %+v, with a clock that is synchronised: %v", told, clock.Synchronised)
	}
	// The plain web is a redirect to the secure one.
	if out := l.Phone.Exec("curl", "-sI", "-m", "5", "http://home.internal/"); !strings.Contains(out, "https://home.internal/") {
		t.Errorf("no redirect: %s", out)
	}
}

func serviceWorks(t *testing.T, l *labtest.Lab) {
	a := l.Cell.API("PUT", "/api/config", map[string]any{"services": []any{map[string]any{
		"id": "echo", "name": "Echo", "subdomain": "echo", "access": "peers", "enabled": true,
		"upstream": "http://" + labtest.ServiceAddress + ":" + labtest.ServicePort,
	}}})
	if a.Status != 200 {
		t.Fatalf("adding a service: %d %s", a.Status, a.Body)
	}
	root := filepath.Join(l.Dir(), "root.pem")
	var got struct {
		Host    string
		Headers map[string][]string
	}
	netnstest.Eventually(t, 20*time.Second, func() error {
		out, err := l.Phone.Try("curl", "-sS", "-m", "5", "--cacert", root, "-H", "X-Forwarded-For: 192.0.2.66", "-H", "X-Real-IP: 192.0.2.66", "https://echo.home.internal/x")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return json.Unmarshal([]byte(out), &got)
	})
	if strings.Contains(fmt.Sprint(got.Headers), "192.0.2.66") {
		t.Errorf("a header that the client forged reached the service: %v", got.Headers)
	}
	if out := l.Phone.Exec("curl", "-sS", "-m", "5", "--cacert", root, "https://echo.home.internal/stream"); out != "part 0\npart 1\npart 2\n" {
		t.Errorf("the stream arrived as %q", out)
	}
}

func revision(t *testing.T, l *labtest.Lab) (n int) {
	t.Helper()
	var r struct{ Revision int }
	if err := l.Cell.API("GET", "/api/revision", nil).Decode(&r); err != nil {
		t.Fatal(err)
	}
	return r.Revision
}

// lockOut commits the removal of the very peer one works from, with a
// countdown, sees it work, and waits for the cell to take it back.
func lockOut(t *testing.T, l *labtest.Lab, crash bool) {
	before := revision(t, l)
	a := l.Cell.API("PUT", "/api/peers/phone", map[string]any{"name": "phone", "enabled": false}, "Confirm-Within: 10")
	if a.Status != 202 || a.Header.Get("Pic-Confirm-By") == "" {
		t.Fatalf("the confirmed commit: %d %v %s", a.Status, a.Header, a.Body)
	}
	if a := l.Cell.API("PUT", "/api/peers/phone", map[string]any{"name": "phone", "note": "meanwhile"}); a.Status != 409 {
		t.Errorf("a commit while one is pending: %d %s, want 409", a.Status, a.Body)
	}
	netnstest.Eventually(t, 10*time.Second, func() error {
		if out, err := l.Phone.Try("curl", "-sk", "-m", "1", "https://home.internal/health"); err == nil {
			return errors.New("the phone that was locked out still gets an answer: " + out)
		}
		return nil
	})
	if crash {
		l.Cell.Restart()
	}
	reach(t, l)
	if a := l.Cell.API("GET", "/api/revisions?limit=20", nil); !strings.Contains(string(a.Body), `"auto-reverted"`) {
		t.Errorf("the history does not say auto-reverted: %s", a.Body)
	}
	if now := revision(t, l); now != before {
		t.Errorf("running revision %d, want %d again", now, before)
	}
}
