package api_test

import (
	"bytes"
	"context"
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
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/personal-internet-cell/pic/auth"
)

var parameter = regexp.MustCompile(`\$?\{[^}]*\}`)

// notInUI is the reviewed list of operations that the UI does not call, each
// with its reason.
func notInUI(t *testing.T) map[string]bool {
	t.Helper()
	b, err := os.ReadFile("testdata/not-in-ui.txt")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		operation, reason, ok := strings.Cut(line, " # ")
		if !ok || strings.TrimSpace(reason) == "" {
			t.Errorf("testdata/not-in-ui.txt: %q gives no reason", line)
		}
		out[strings.Join(strings.Fields(operation), " ")] = true
	}
	return out
}

// usedByUI finds the operations that the sources of the UI name.
func usedByUI(t *testing.T) map[string]bool {
	t.Helper()
	call := regexp.MustCompile(`client\.(GET|POST|PUT|DELETE|PATCH)\(\s*['"]([^'"]+)['"]`)
	link := regexp.MustCompile("['\"`](/(?:api|health)[^'\"`?]*)")
	out := map[string]bool{}
	err := filepath.WalkDir("../ui/src", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(p, ".d.ts") || !strings.HasSuffix(p, ".ts") && !strings.HasSuffix(p, ".tsx") {
			return err
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		for _, m := range call.FindAllSubmatch(b, -1) {
			out[string(m[1])+" "+parameter.ReplaceAllString(string(m[2]), "{}")] = true
		}
		for _, m := range link.FindAllSubmatchIndex(b, -1) {
			if !bytes.HasSuffix(b[:m[0]], []byte("(")) || !regexp.MustCompile(`client\.[A-Z]+\($`).Match(b[:m[0]]) {
				out["GET "+parameter.ReplaceAllString(string(b[m[2]:m[3]]), "{}")] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 20 {
		t.Fatalf("only %d operations found in ui/src: the search is broken", len(out))
	}
	return out
}

// What the API does, the UI does too, or somebody has written down why not.
func TestEveryOperationIsInTheUIOrListed(t *testing.T) {
	r := newRig(t)
	used, listed := usedByUI(t), notInUI(t)
	var missing, stale []string
	for _, row := range r.api.Rows() {
		operation := row.Method + " " + row.Path
		inUI := used[row.Method+" "+parameter.ReplaceAllString(row.Path, "{}")]
		switch {
		case !inUI && !listed[operation]:
			missing = append(missing, operation)
		case inUI && listed[operation]:
			t.Logf("%s is in the UI by now: strike it from testdata/not-in-ui.txt", operation)
		}
		delete(listed, operation)
	}
	for operation := range listed {
		stale = append(stale, operation)
	}
	slices.Sort(stale)
	if d := cmp.Diff([]string(nil), missing); d != "" {
		t.Errorf("neither in the UI nor in testdata/not-in-ui.txt:\n%s", strings.Join(missing, "\n"))
	}
	if len(stale) > 0 {
		t.Errorf("in testdata/not-in-ui.txt, but no operation:\n%s", strings.Join(stale, "\n"))
	}
}

// `pic api METHOD PATH` reaches every operation: the socket refuses none to
// root but those that only make sense for a session or a peer.
func TestEveryOperationIsReachableFromTheCommandLine(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skipf("SKIPPED (privileged) %s: needs root", t.Name())
	}
	r, _ := claimedRig(t)
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	peers := auth.NewSocketPeers(&auth.SocketConfig{})
	srv := &http.Server{Handler: r.api.Socket(), ConnContext: peers.ConnContext, ReadHeaderTimeout: 5 * time.Second}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	c := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	var refused []string
	for _, row := range r.api.Rows() {
		ctx, cancel := context.WithCancel(t.Context())
		var body io.Reader
		if row.Method != http.MethodGet {
			body = strings.NewReader(`{"no such field":1}`)
		}
		req, err := http.NewRequestWithContext(ctx, row.Method, "http://pic"+parameter.ReplaceAllString(row.Path, "nothing"), body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := c.Do(req)
		if err != nil {
			t.Fatalf("%s %s: %v", row.Method, row.Path, err)
		}
		if resp.StatusCode == 401 || resp.StatusCode == 403 || resp.StatusCode == 405 || resp.StatusCode >= 500 {
			refused = append(refused, fmt.Sprint(row.Method, " ", row.Path, " ", resp.StatusCode))
		}
		cancel() // of an event stream
		resp.Body.Close()
	}
	want := []string{"GET /api/peer/exits 403", "PUT /api/peer/exit 403"} // for people with devices of their own
	if d := cmp.Diff(want, refused); d != "" {
		t.Errorf("refused on the socket (-want +got):\n%s", d)
	}
}
