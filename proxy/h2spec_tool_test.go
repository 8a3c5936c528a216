package proxy_test

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/summerwind/h2spec/config"
	"github.com/summerwind/h2spec/generic"
	"github.com/summerwind/h2spec/hpack"
	spec2 "github.com/summerwind/h2spec/http2"
	"github.com/summerwind/h2spec/spec"

	"github.com/personal-internet-cell/pic/proxy"
)

// known are cases of h2spec, which goes by RFC 7540, that net/http answers
// otherwise; each with why.
var known = map[string]string{
	"http2/4.2/3":     "its frame of 20,000 bytes is within the SETTINGS_MAX_FRAME_SIZE of 1 MiB that the server announces",
	"http2/6.5.3/1":   "a SETTINGS frame that names a setting twice ends the connection; no client sends one",
	"http2/8.1.2.2/1": "answered with status 400, as RFC 9113 §8.1.1 allows for a malformed request",
	"http2/8.1.2.2/2": "the same",
}

// HTTP-1 by the tool that everybody runs, against the proxy with its own TLS.
func TestH2spec(t *testing.T) {
	r := run(t, proxy.Config{Local: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		_, _ = io.Copy(io.Discard, q.Body)
		_, _ = io.WriteString(w, strings.Repeat("a page that is longer than a small window. ", 4))
	})})
	at := netip.MustParseAddrPort(r.https)
	c := &config.Config{Host: at.Addr().String(), Port: int(at.Port()), Path: "/", Timeout: 2 * time.Second, MaxHeaderLen: 4000, TLS: true, Insecure: true}
	groups := []*spec.TestGroup{generic.Spec(), spec2.Spec(), hpack.Spec()}
	silent(t, func() {
		for _, g := range groups {
			g.Test(c)
		}
	})
	passed, seen := 0, 0
	var failed []string
	var walk func(g *spec.TestGroup)
	walk = func(g *spec.TestGroup) {
		for i, x := range g.Tests {
			if x.Result == nil {
				continue
			}
			seen++
			id := fmt.Sprintf("%s/%d", g.ID(), i+1)
			switch why := known[id]; {
			case !x.Result.Failed && !x.Result.Skipped && why == "":
				passed++
			case !x.Result.Failed:
				t.Errorf("%s passes or is skipped although it is listed: %s", id, x.Desc)
			case why != "":
				failed = append(failed, id)
			default:
				t.Errorf("%s %s: %s: %v", id, x.Requirement, x.Desc, x.Result.Error)
			}
		}
		for _, s := range g.Groups {
			walk(s)
		}
	}
	for _, g := range groups {
		walk(g)
	}
	slices.Sort(failed)
	t.Logf("h2spec: %d of %d pass; known to fail: %v", passed, seen, failed)
	if seen < 140 {
		t.Errorf("only %d cases ran", seen)
	}
}

// silent keeps what the tool prints out of the test's output.
func silent(t *testing.T, f func()) {
	t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	out := os.Stdout
	os.Stdout = null
	defer func() { os.Stdout = out }()
	f()
}
