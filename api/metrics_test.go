package api_test

import (
	"context"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/personal-internet-cell/pic/api"
)

var (
	metricName = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*$`)
	sampleLine = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? (\S+)$`)
)

// exposition reads Prometheus' text format 0.0.4 strictly: every family has one
// HELP and one TYPE line before its samples, its samples stand together, and
// no series comes twice.
func exposition(text string) (series map[string]float64, err error) {
	series = map[string]float64{}
	seen := map[string]bool{}
	current, typed := "", false
	if !strings.HasSuffix(text, "\n") || !utf8.ValidString(text) {
		return nil, fmt.Errorf("no line feed at the end, or bad UTF-8")
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		f := strings.SplitN(line, " ", 4)
		switch {
		case strings.HasPrefix(line, "# HELP "):
			if len(f) != 4 || !metricName.MatchString(f[2]) || seen[f[2]] {
				return nil, fmt.Errorf("bad or second HELP: %q", line)
			}
			current, typed, seen[f[2]] = f[2], false, true
		case strings.HasPrefix(line, "# TYPE "):
			if len(f) != 4 || f[2] != current || typed || f[3] != "counter" && f[3] != "gauge" {
				return nil, fmt.Errorf("bad TYPE: %q", line)
			}
			typed = true
		default:
			m := sampleLine.FindStringSubmatch(line)
			if m == nil || m[1] != current || !typed {
				return nil, fmt.Errorf("bad sample in %s: %q", current, line)
			}
			v, err := strconv.ParseFloat(m[3], 64)
			if err != nil {
				return nil, fmt.Errorf("bad value: %q", line)
			}
			key := m[1] + "{" + m[2] + "}"
			if _, twice := series[key]; twice {
				return nil, fmt.Errorf("twice: %q", key)
			}
			series[key] = v
		}
	}
	return series, nil
}

func TestMetricsAreInTheTextFormat(t *testing.T) {
	var m api.Metrics
	m.Family("a_total", api.Counter, "Counts \\ and\nlines with \"quotes\".")
	m.Count(math.MaxUint64, "x", "a\"b\\c\nd\xff", "y", "")
	m.Count(0)
	m.Family("b", api.Gauge, "b")
	m.Value(math.NaN(), "k", "nan")
	m.Value(math.Inf(1), "k", "up")
	m.Value(math.Inf(-1), "k", "down")
	m.Value(1.5e-9, "k", "small")
	m.Bool(true, "k", "yes")
	want := "# HELP a_total Counts \\\\ and\\nlines with \"quotes\".\n# TYPE a_total counter\n" +
		"a_total{x=\"a\\\"b\\\\c\\nd\uFFFD\",y=\"\"} 18446744073709551615\na_total 0\n" +
		"# HELP b b\n# TYPE b gauge\nb{k=\"nan\"} NaN\nb{k=\"up\"} +Inf\nb{k=\"down\"} -Inf\nb{k=\"small\"} 1.5e-09\nb{k=\"yes\"} 1\n"
	text := string(m.Text())
	if !strings.HasPrefix(text, want) {
		t.Fatalf("%s\nwant\n%s", text, want)
	}
	series, err := exposition(text)
	if err != nil || series["b{k=\"small\"}"] != 1.5e-9 || series["pic_metrics_left_out{}"] != 0 {
		t.Fatal(series, err)
	}
	for _, bad := range []string{"x 1\n", "# HELP x x\nx 1\n", "# HELP x x\n# TYPE x gauge\nx 1\nx 1\n", "# HELP x x\n# TYPE x gauge\nx{a=\"b} 1\n", "# HELP x x\n# TYPE x gauge\ny 1\n", "# HELP x x\n# TYPE x gauge\n# HELP x x\n", "# HELP x x\n# TYPE x gauge\nx 1"} {
		if _, err := exposition(bad); err == nil {
			t.Errorf("the reader takes %q", bad)
		}
	}
}

func FuzzMetricLabels(f *testing.F) {
	f.Add("laptop", "a \"b\" \\ \n")
	f.Add("\xff\x00", "}")
	f.Fuzz(func(t *testing.T, value, help string) {
		var m api.Metrics
		m.Family("x", api.Gauge, help)
		m.Count(7, "a", value, "b", value)
		series, err := exposition(string(m.Text()))
		if err != nil || len(series) != 2 {
			t.Fatalf("%q: %v %v", value, series, err)
		}
	})
}

func TestAFamilyIsBounded(t *testing.T) {
	var m api.Metrics
	m.Family("x", api.Gauge, "x")
	for i := range 30_000 {
		m.Count(1, "i", strconv.Itoa(i))
	}
	series, err := exposition(string(m.Text()))
	if err != nil || len(series) != 25_001 || series["pic_metrics_left_out{}"] != 5_000 {
		t.Fatal(len(series), err)
	}
}

func TestMetricsAreNeverOpen(t *testing.T) {
	r, admin := claimedRig(t)
	admin.want(201, "POST", "/api/auth/users", m{"name": "kid", "role": "peer", "password": peerPassword})
	kid, nobody := r.browser(), r.browser()
	kid.login("kid", peerPassword)
	nobody.want(401, "GET", "/metrics", nil)
	kid.want(403, "GET", "/metrics", nil)
	admin.want(403, "GET", "/metrics", nil) // a cookie is not the metrics' access
	wide := admin.token("* /api/**")
	own := kid.token("GET /metrics")
	metrics := admin.token("GET /metrics")
	for token, want := range map[string]int{wide.Secret: 403, own.Secret: 403, metrics.Secret: 200, "pic_" + strings.Repeat("A", 43): 401} {
		if a := r.program(token)("GET", "/metrics", nil); a.status != want {
			t.Errorf("%d, want %d: %s", a.status, want, a.body)
		}
	}
	call := r.program(metrics.Secret)
	if a := call("GET", "/api/status", nil); a.status != 403 {
		t.Errorf("the token for metrics reads the status: %d", a.status)
	}
	a := call("GET", "/metrics", nil)
	series, err := exposition(string(a.body))
	if err != nil || a.header.Get("Content-Type") != "text/plain; version=0.0.4; charset=utf-8" || a.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%v %v", a.header, err)
	}
	_, n := r.engine.Running()
	if series["pic_revision{}"] != float64(n) || series[`pic_auth_refusals_total{code="forbidden"}`] < 5 ||
		series[`pic_stage_condition{stage="firewall",state="in-sync"}`] != 1 || series[`pic_stage_condition{stage="firewall",state="failed"}`] != 0 {
		t.Errorf("%v", series)
	}
	// A page that asks who is signed in is refused, but by nobody's fault.
	if series[`pic_auth_refusals_total{code="unauthenticated"}`] != 1 {
		t.Errorf("%v", series)
	}
	admin.want(204, "DELETE", "/api/auth/tokens/"+metrics.ID, nil)
	if a := call("GET", "/metrics", nil); a.status != 401 {
		t.Errorf("a revoked token: %d", a.status)
	}
}

func TestAnUnclaimedCellHasNoMetrics(t *testing.T) {
	newRig(t).browser().want(428, "GET", "/metrics", nil)
}

func TestTheHouseAddsItsMetrics(t *testing.T) {
	r, admin := claimedRig(t)
	r.metrics = func(_ context.Context, m *api.Metrics) { m.One("pic_house", api.Gauge, "one", 3) }
	tok := admin.token("GET /metrics")
	series, err := exposition(string(r.program(tok.Secret)("GET", "/metrics", nil).body))
	if err != nil || series["pic_house{}"] != 3 {
		t.Fatal(series, err)
	}
}
