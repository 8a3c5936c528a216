package api

import (
	"context"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/cell"
)

// Kinds of metrics, as the exposition names them.
const (
	Counter = "counter"
	Gauge   = "gauge"
)

// maxSamples bounds one family: six lines for each of 10,000 peers come in six
// families, the largest of them with two prefixes per peer.
const maxSamples = 25_000

// Metrics builds one exposition in Prometheus' text format 0.0.4. The zero
// value is empty and ready. It is not safe for concurrent use.
type Metrics struct {
	buf      []byte
	name     string
	samples  int
	left     uint64
	families map[string]bool
}

// Family begins a family; the samples that follow belong to it. A family comes
// once: it panics on a second of the same name, which no monitor would read.
func (m *Metrics) Family(name, kind, help string) {
	if m.families[name] {
		panic("api: the metric " + name + " comes twice")
	}
	if m.families == nil {
		m.families = map[string]bool{}
	}
	m.families[name] = true
	m.name, m.samples = name, 0
	m.buf = append(m.buf, "# HELP "...)
	m.buf = append(m.buf, name...)
	m.buf = append(m.buf, ' ')
	m.buf = escape(m.buf, help, false)
	m.buf = append(m.buf, "\n# TYPE "...)
	m.buf = append(m.buf, name...)
	m.buf = append(m.buf, ' ')
	m.buf = append(m.buf, kind...)
	m.buf = append(m.buf, '\n')
}

// Count adds a whole number; labels are names and values in turn, and no two
// samples of a family have the same.
func (m *Metrics) Count(v uint64, labels ...string) {
	if m.line(labels) {
		m.buf = append(strconv.AppendUint(m.buf, v, 10), '\n')
	}
}

// Value is [Metrics.Count] for what is measured.
func (m *Metrics) Value(v float64, labels ...string) {
	if !m.line(labels) {
		return
	}
	switch {
	case math.IsNaN(v):
		m.buf = append(m.buf, "NaN\n"...)
	case math.IsInf(v, 1):
		m.buf = append(m.buf, "+Inf\n"...)
	case math.IsInf(v, -1):
		m.buf = append(m.buf, "-Inf\n"...)
	default:
		m.buf = append(strconv.AppendFloat(m.buf, v, 'g', -1, 64), '\n')
	}
}

// Bool is 1 or 0.
func (m *Metrics) Bool(v bool, labels ...string) {
	if v {
		m.Count(1, labels...)
	} else {
		m.Count(0, labels...)
	}
}

// One is a family of one sample without labels.
func (m *Metrics) One(name, kind, help string, v float64) {
	m.Family(name, kind, help)
	m.Value(v)
}

// line writes a sample up to its value, unless the family is full.
func (m *Metrics) line(labels []string) bool {
	if m.samples++; m.samples > maxSamples {
		m.left++
		return false
	}
	m.buf = append(m.buf, m.name...)
	for i := 0; i+1 < len(labels); i += 2 {
		if i == 0 {
			m.buf = append(m.buf, '{')
		} else {
			m.buf = append(m.buf, ',')
		}
		m.buf = append(m.buf, labels[i]...)
		m.buf = append(m.buf, '=', '"')
		m.buf = escape(m.buf, labels[i+1], true)
		m.buf = append(m.buf, '"')
	}
	if len(labels) > 1 {
		m.buf = append(m.buf, '}')
	}
	m.buf = append(m.buf, ' ')
	return true
}

// escape writes text as the format wants it in HELP lines and, with the
// quotation mark, in label values. Bad UTF-8 becomes U+FFFD.
func escape(b []byte, text string, quoted bool) []byte {
	for _, r := range text {
		switch {
		case r == '\\':
			b = append(b, '\\', '\\')
		case r == '\n':
			b = append(b, '\\', 'n')
		case r == '"' && quoted:
			b = append(b, '\\', '"')
		case r < 0x80:
			b = append(b, byte(r))
		default:
			b = append(b, string(r)...)
		}
	}
	return b
}

// Text is the exposition.
func (m *Metrics) Text() []byte {
	m.Family("pic_metrics_left_out", Gauge, "Samples left out of this answer because their family was full.")
	m.Count(m.left)
	return m.buf
}

const metricsType = "text/plain; version=0.0.4; charset=utf-8"

func (a *API) metricsRoutes() {
	register(a, Route{Access: auth.AccessMetrics, Operation: op("GET", cell.MetricsPath, "metrics", "core", "Metrics in Prometheus' text format; an administrator's token with the scope GET /metrics, or the local socket")},
		func(ctx context.Context, _ *struct{}) (*textOut, error) {
			// One at a time: who asks again while an answer is made waits.
			select {
			case a.scraping <- struct{}{}:
				defer func() { <-a.scraping }()
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			m := &Metrics{buf: make([]byte, 0, a.scraped+a.scraped/8+16<<10)}
			a.metrics(ctx, m)
			if a.cfg.Metrics != nil {
				a.cfg.Metrics(ctx, m)
			}
			out := &textOut{ContentType: metricsType, CacheControl: "no-store", Body: m.Text()}
			a.scraped = len(out.Body)
			return out, nil
		})
}

// forMetrics turns an administrator's token that asks for the metrics into the
// metrics token that their access is about. The token's scopes come after.
func forMetrics(r *http.Request, who auth.Identity) auth.Identity {
	if r.URL.Path == cell.MetricsPath && who.Role == cell.RoleAdmin {
		who.Via = auth.ViaMetrics
	}
	return who
}

// metrics are what the engine and this room count.
func (a *API) metrics(_ context.Context, m *Metrics) {
	e := a.cfg.Engine
	s, n := e.Running()
	if s == nil {
		s = &cell.State{}
	}
	m.Family("pic_build_info", Gauge, "The running program.")
	m.Count(1, "version", a.cfg.Version)
	m.One("pic_start_time_seconds", Gauge, "When the cell started, in Unix time.", unix(a.cfg.Started))
	m.One("pic_revision", Gauge, "The running revision of the state.", float64(n))
	m.Family("pic_state_recovered", Gauge, "1 while the stored state is damaged and every door is closed.")
	m.Bool(e.Source() == "recovered")
	m.Family("pic_commit_pending", Gauge, "1 while a change waits to be confirmed.")
	m.Bool(e.Pending() != nil)
	m.Family("pic_stage_condition", Gauge, "1 for the state that a stage is in.")
	conditions := e.Status()
	for _, c := range conditions {
		for _, state := range []cell.ConditionState{cell.InSync, cell.Pending, cell.Failed} {
			m.Bool(c.State == state, "stage", c.Stage, "state", string(state))
		}
	}
	m.Family("pic_stage_condition_since_seconds", Gauge, "Since when a stage is in its state, in Unix time.")
	for _, c := range conditions {
		m.Value(unix(c.Since), "stage", c.Stage)
	}
	m.Family("pic_notices", Gauge, "Notices that are shown, by severity.")
	bySeverity := map[cell.Severity]uint64{}
	for _, x := range e.Notices() {
		bySeverity[x.Severity]++
	}
	for _, v := range []cell.Severity{cell.Info, cell.Warning, cell.Alarm} {
		m.Count(bySeverity[v], "severity", string(v))
	}
	m.One("pic_peers", Gauge, "Peers in the running state.", float64(len(s.Peers)))
	a.traffic.metrics(m)
}

// unix is a moment in seconds; 0 for none.
func unix(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixNano()) / 1e9
}

// maxCodes bounds the codes of refusals that are counted by themselves.
const maxCodes = 40

// traffic counts requests. The zero value is ready.
type traffic struct {
	mu       sync.Mutex
	classes  [6]uint64 // by the first digit of the status
	refusals map[string]uint64
}

// note counts one answer; refusals by their code, but for those of pages that
// ask who is signed in before anybody is.
func (t *traffic) note(r *http.Request, status int, n *auditNote) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.classes[min(max(status/100, 0), 5)]++
	if !slices.Contains(refusedStatuses, status) || askedEarly(r, status, n) {
		return
	}
	code := n.code
	if code == "" {
		code = strconv.Itoa(status)
	}
	if t.refusals == nil {
		t.refusals = map[string]uint64{}
	}
	if _, known := t.refusals[code]; !known && len(t.refusals) >= maxCodes {
		code = "other"
	}
	t.refusals[code]++
}

func (t *traffic) metrics(m *Metrics) {
	t.mu.Lock()
	defer t.mu.Unlock()
	m.Family("pic_api_requests_total", Counter, "Answers of the API and the web, by the class of their status.")
	for class := 2; class <= 5; class++ {
		m.Count(t.classes[class], "class", strconv.Itoa(class)+"xx")
	}
	m.Family("pic_auth_refusals_total", Counter, "Requests that were not let in, by the reason's code: unauthenticated, forbidden, csrf, too_many and so on.")
	codes := make([]string, 0, len(t.refusals))
	for c := range t.refusals {
		codes = append(codes, c)
	}
	slices.SortFunc(codes, strings.Compare)
	for _, c := range codes {
		m.Count(t.refusals[c], "code", c)
	}
}
