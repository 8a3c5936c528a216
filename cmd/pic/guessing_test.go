package main_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// volley is what the helper "fire" sends: requests by a number of clients at
// the same time, from one address, each to the cell's web.
type volley struct {
	To       string // host:port
	From     string // source address; "" is the kernel's choice
	Clients  int
	Requests []shot
}

type shot struct {
	Method, Path, Body, Cookie, Host string
}

// hit is the answer to one shot.
type hit struct {
	Status  int // 0: no answer
	Code    string
	Cookies []string
	Error   string
}

// fire sends a volley and prints the hits in the order of the requests.
func fire([]string) error {
	var v volley
	if err := json.NewDecoder(os.Stdin).Decode(&v); err != nil {
		return err
	}
	d := &net.Dialer{Timeout: 3 * time.Second}
	if v.From != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(v.From)}
	}
	hits := make([]hit, len(v.Requests))
	next := make(chan int)
	var wg sync.WaitGroup
	for range v.Clients {
		t := &http.Transport{
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
			DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "tcp", v.To) },
		}
		c := &http.Client{Transport: t, Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		wg.Go(func() {
			for i := range next {
				hits[i] = v.Requests[i].send(c, v.To)
			}
		})
	}
	for i := range v.Requests {
		next <- i
	}
	close(next)
	wg.Wait()
	return json.NewEncoder(os.Stdout).Encode(hits)
}

func (s shot) send(c *http.Client, to string) (h hit) {
	req, err := http.NewRequest(s.Method, "https://"+to+s.Path, strings.NewReader(s.Body))
	if err != nil {
		return hit{Error: err.Error()}
	}
	if s.Body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if s.Cookie != "" {
		req.Header.Set("Cookie", s.Cookie)
	}
	if s.Host != "" {
		req.Host = s.Host
	}
	resp, err := c.Do(req)
	if err != nil {
		return hit{Error: err.Error()}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	h.Status = resp.StatusCode
	if err != nil {
		h.Error = err.Error()
	}
	var p struct{ Code string }
	_ = json.Unmarshal(b, &p) // an answer without a code has none
	h.Code = p.Code
	for _, k := range resp.Cookies() {
		h.Cookies = append(h.Cookies, k.Name+"="+k.Value)
	}
	return h
}

// fire runs a volley from the other end of the uplink.
func (h *host) fire(v volley) []hit {
	h.t.Helper()
	in, err := json.Marshal(v)
	if err != nil {
		h.t.Fatal(err)
	}
	c := h.far.Self("fire")
	c.Stdin = bytes.NewReader(in)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil {
		h.t.Fatalf("firing: %v\n%s", err, errs.String())
	}
	var hits []hit
	if err := json.Unmarshal(out.Bytes(), &hits); err != nil {
		h.t.Fatal(err)
	}
	return hits
}

func statuses(hits []hit) map[string]int {
	n := map[string]int{}
	for _, x := range hits {
		n[strings.TrimSpace(fmt.Sprint(x.Status, " ", x.Code))]++
	}
	return n
}

// files is every file of the state, by what is in it.
func (h *host) files() map[string]string {
	h.t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(h.path("state"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		sum := sha256.Sum256(b)
		rel, _ := filepath.Rel(h.path("state"), path)
		out[rel] = hex.EncodeToString(sum[:8])
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

// API-2 on the real program: 10,000 guesses find no code, no request of
// somebody without the code writes a file, of 100 claims at once one wins, and
// a public source, or a public address of the cell, gets not one byte.
func TestTheSetupWithstandsTheNetwork(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.start(nil)
	const to = "192.168.77.2:443"
	if got := h.fire(volley{To: to, Clients: 1, Requests: []shot{{Method: "GET", Path: "/api/setup/status"}}}); got[0].Status != 200 {
		t.Fatalf("the control: %+v", got)
	}
	before := h.files()

	var guesses []shot
	for i := range 10_000 {
		guesses = append(guesses, shot{Method: "POST", Path: "/api/setup/step", Body: fmt.Sprintf(`{"step":"code","code":"apple apple apple apple apple %05d"}`, i)})
	}
	if got := statuses(h.fire(volley{To: to, Clients: 8, Requests: guesses})); got["403 wrong_code"] != len(guesses) {
		t.Errorf("%d guesses: %v", len(guesses), got)
	}

	// Every route of the API, and what else strangers send.
	var doc struct {
		Paths map[string]map[string]json.RawMessage
	}
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	openapi, err := h.ns.Command(bin, "openapi").Output()
	if err == nil {
		err = json.Unmarshal(openapi, &doc)
	}
	if err != nil {
		t.Fatal(err)
	}
	var routes []shot
	for path, methods := range doc.Paths {
		path = regexp.MustCompile(`\{[^}]*\}`).ReplaceAllString(path, "1")
		for m := range methods {
			routes = append(routes, shot{Method: strings.ToUpper(m), Path: path, Body: "{}"})
			routes = append(routes, shot{Method: strings.ToUpper(m), Path: path, Body: "{}", Cookie: "__Host-pic-setup=picw_" + strings.Repeat("A", 43) + "; __Host-pic=pics_" + strings.Repeat("A", 43)})
		}
	}
	for _, step := range []string{
		`{"step":"identity","cell_name":"evil","domain_mode":"lan","timezone":"UTC"}`, `{"step":"admin","user":"evil","password":"ultramarine kettle 93"}`,
		`{"step":"review"}`, `{`, `[]`, `{"step":"code","code":"` + strings.Repeat("x", 5000) + `"}`,
	} {
		routes = append(routes, shot{Method: "POST", Path: "/api/setup/step", Body: step})
	}
	for s, n := range statuses(h.fire(volley{To: to, Clients: 4, Requests: routes})) {
		if status, _, _ := strings.Cut(s, " "); status[0] != '4' && s != "200" { // the setup's own questions
			t.Errorf("without the code: %s, %d times", s, n)
		}
	}
	if len(routes) < 120 {
		t.Errorf("only %d routes were tried", len(routes))
	}
	if diff := cmp.Diff(before, h.files()); diff != "" {
		t.Errorf("a request without the code wrote to the disk:\n%s", diff)
	}

	// Public on either side.
	h.far.Exec("ip", "addr", "add", "198.51.100.7/32", "dev", "lo")
	h.ns.Exec("ip", "route", "add", "198.51.100.7/32", "via", "192.168.77.1")
	h.ns.Exec("ip", "addr", "add", "203.0.113.2/32", "dev", "eth0")
	h.far.Exec("ip", "route", "add", "203.0.113.2/32", "via", "192.168.77.2")
	for _, x := range []volley{{To: to, From: "198.51.100.7"}, {To: "203.0.113.2:443"}, {To: "203.0.113.2:443", From: "198.51.100.7"}} {
		x.Clients, x.Requests = 1, []shot{{Method: "GET", Path: "/api/setup/status"}, {Method: "GET", Path: "/api/setup/status", Host: "192.168.77.2"}}
		for _, got := range h.fire(x) {
			if got.Status != 0 || got.Error == "" {
				t.Errorf("%s → %s: %+v, want not a byte", x.From, x.To, got)
			}
		}
	}

	// A hundred claims with the code, by ten people at once.
	code := into[api.SetupCode](t, h.want(200, "GET", "/api/setup/code", "")).Code
	var claims []shot
	for i := range 10 {
		step := func(cookie, body string) hit {
			return h.fire(volley{To: to, Clients: 1, Requests: []shot{{Method: "POST", Path: "/api/setup/step", Body: body, Cookie: cookie}}})[0]
		}
		in := step("", `{"step":"code","code":"`+code+`"}`)
		if in.Status != 200 || len(in.Cookies) != 1 {
			t.Fatalf("the code: %+v", in)
		}
		cookie := in.Cookies[0]
		for _, body := range []string{
			fmt.Sprintf(`{"step":"identity","cell_name":"cell%d","domain_mode":"lan","timezone":"UTC"}`, i),
			fmt.Sprintf(`{"step":"admin","user":"admin%d","password":"ultramarine kettle 93"}`, i),
		} {
			if got := step(cookie, body); got.Status != 200 {
				t.Fatalf("%s: %+v", body, got)
			}
		}
		for range 10 {
			claims = append(claims, shot{Method: "POST", Path: "/api/setup/complete", Body: "{}", Cookie: cookie})
		}
	}
	got := statuses(h.fire(volley{To: to, Clients: len(claims), Requests: claims}))
	if got["201"] != 1 || got["0"] != 0 {
		t.Errorf("%d claims at once: %v, want one 201", len(claims), got)
	}
	if users := into[api.List[api.User]](t, h.want(200, "GET", "/api/auth/users", "")).Items; len(users) != 1 {
		t.Errorf("the cell has %d owners", len(users))
	}
	if more := statuses(h.fire(volley{To: to, Clients: 4, Requests: guesses[:100]})); more["409 conflict"] != 100 {
		t.Errorf("the setup of a claimed cell: %v", more)
	}
}

// API-3 on the real program: of a burst of tries at a password ten are looked
// at, which a SIGKILL does not forget; the right user gets in from elsewhere.
func TestGuessingAPasswordOnTheRealCell(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.claimed()
	const to = "192.168.77.2:443"
	for _, a := range []string{"192.168.77.66/32", "192.168.77.67/32", "192.168.77.68/32"} {
		h.far.Exec("ip", "addr", "add", a, "dev", "eth0")
	}
	try := func(from, password string, n int) map[string]int {
		var list []shot
		for range n {
			list = append(list, shot{Method: "POST", Path: "/api/auth/login", Body: `{"user":"admin","password":"` + password + `"}`})
		}
		return statuses(h.fire(volley{To: to, From: from, Clients: min(n, 20), Requests: list}))
	}
	const right, wrong = "ultramarine kettle 93", "ultramarine kettle 94"
	burst := try("192.168.77.66", wrong, 300)
	tried := burst["401 unauthenticated"]
	if tried == 0 || tried > 10 || tried+burst["429 too_many"] != 300 {
		t.Errorf("300 wrong tries: %v, want at most 10 looked at", burst)
	}
	// What was counted is on the disk within a second.
	inRow := regexp.MustCompile(`"in_row":(\d+)`)
	netnstest.Eventually(t, 5*time.Second, func() error {
		b, err := os.ReadFile(h.path("state/history/backoff"))
		if err != nil {
			return err
		}
		var counts []int
		for _, m := range inRow.FindAllSubmatch(b, -1) {
			n, _ := strconv.Atoi(string(m[1]))
			counts = append(counts, n)
		}
		if !slices.Contains(counts, tried) {
			return fmt.Errorf("%d failures, on the disk %v", tried, counts)
		}
		return nil
	})
	h.kill()
	h.start(nil)
	after := try("192.168.77.66", wrong, 20)
	if tried+after["401 unauthenticated"] > 10 {
		t.Errorf("after a SIGKILL: %v, %d before it", after, tried)
	}
	if got := try("192.168.77.66", right, 1); got["429 too_many"] != 1 {
		t.Errorf("the right password from where it is being guessed at: %v, want to wait", got)
	}
	if got := try("192.168.77.67", right, 1); got["200"] != 1 {
		t.Errorf("the right user from elsewhere: %v", got)
	}
	// The unix socket counts by itself, and the machine's owner is not held up.
	h.want(200, "GET", "/api/status", "")
}
