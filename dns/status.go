package dns

import (
	"cmp"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/personal-internet-cell/pic/cell"
)

// Status is what the server did and does.
type Status struct {
	Listeners []ListenerStatus `json:"listeners"`
	// Queries counts answers by audience and response code.
	Queries    map[string]map[string]uint64 `json:"queries"`
	Cache      CacheStatus                  `json:"cache"`
	Forwarders []ForwarderStatus            `json:"forwarders"`
	// Panics were recovered; Dropped messages were no queries.
	Panics  uint64 `json:"panics"`
	Dropped uint64 `json:"dropped"`
	// Quick answers were kept in wire form; they are among Queries.
	Quick uint64 `json:"quick"`
	// Limited answers told a source of the internet to come over TCP.
	Limited uint64 `json:"limited"`
}

// ListenerStatus is one address, served or not.
type ListenerStatus struct {
	Address string `json:"address"`
	Up      bool   `json:"up"`
	Problem string `json:"problem"`
}

// CacheStatus counts forwarded answers.
type CacheStatus struct {
	Entries int    `json:"entries"`
	Limit   int    `json:"limit"`
	Bytes   int    `json:"bytes"` // an estimate
	Hits    uint64 `json:"hits"`
	Misses  uint64 `json:"misses"`
	Stale   uint64 `json:"stale"`
}

// ForwarderStatus is one forwarder through one exit that was used.
type ForwarderStatus struct {
	Protocol cell.ForwarderProtocol `json:"protocol"`
	Address  string                 `json:"address"`
	Exit     string                 `json:"exit"`
	Healthy  bool                   `json:"healthy"`
	Failures int                    `json:"failures"` // in a row
	Problem  string                 `json:"problem"`
}

// Status returns a snapshot; lists are never nil.
func (s *Server) Status() Status {
	st := Status{
		Listeners: []ListenerStatus{}, Forwarders: s.resolver.status(), Queries: s.counters.snapshot(),
		Panics: s.counters.panics.Load(), Dropped: s.counters.dropped.Load(), Limited: s.counters.limited.Load(), Quick: s.counters.quicks.Load(), Cache: s.resolver.cache.status(),
	}
	s.mu.Lock()
	for a := range s.listeners {
		st.Listeners = append(st.Listeners, ListenerStatus{Address: a.String(), Up: true})
	}
	for a, p := range s.problems {
		st.Listeners = append(st.Listeners, ListenerStatus{Address: a.String(), Problem: p})
	}
	s.mu.Unlock()
	slices.SortFunc(st.Listeners, func(a, b ListenerStatus) int { return cmp.Compare(a.Address, b.Address) })
	return st
}

// Notices are the problems a person should know of.
func (s *Server) Notices() []cell.Notice {
	var out []cell.Notice
	st := s.Status()
	for _, l := range st.Listeners {
		if !l.Up {
			out = append(out, cell.Notice{Code: "dns_listen", Subject: l.Address, Severity: cell.Warning, Text: l.Problem})
		}
	}
	for _, f := range st.Forwarders {
		if f.Exit == "" && !f.Healthy && f.Failures > 2 { // an exit that is down has a notice of its own
			out = append(out, cell.Notice{
				Code: "dns_forwarder", Subject: f.Address, Severity: cell.Warning,
				Text: "the forwarder " + f.Address + " does not answer (" + f.Problem + "): check the uplink, or name another one under DNS",
			})
		}
	}
	return append(out, exitNotices(&s.tables.Load().plan)...)
}

func (c *cache) status() CacheStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	return CacheStatus{len(c.entries), c.max, c.cost, c.hits, c.misses, c.stale}
}

func (r *resolver) status() []ForwarderStatus {
	out := []ForwarderStatus{}
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for exit, us := range r.upstreams {
		for _, u := range us {
			u.mu.Lock()
			out = append(out, ForwarderStatus{u.conf.Protocol, u.conf.Address.String(), exit, !now.Before(u.retryAt), u.fails, u.lastErr})
			u.mu.Unlock()
		}
	}
	slices.SortStableFunc(out, func(a, b ForwarderStatus) int {
		return cmp.Or(cmp.Compare(a.Exit, b.Exit), cmp.Compare(a.Address, b.Address))
	})
	return out
}

// counters of the whole server.
type counters struct {
	panics, dropped atomic.Uint64
	limited, quicks atomic.Uint64
	answers         [5]answerCounts // of audiences without an exit, by place in labels and response code
	byExit          exitCounters
}

// labels are the audiences that answers are counted by. It is read-only.
var labels = [5]string{string(cell.ViewPeer), string(cell.ViewLAN), audienceService, string(cell.ViewInternet), "unknown"}

func (c *counters) panicked() { c.panics.Add(1) }

func (c *counters) count(a *audience, rcode int) {
	i := len(labels) - 1
	if a != nil {
		if a.exit != "" {
			c.byExit.count(a, rcode)
			return
		}
		i = slices.Index(labels[:], a.label)
	}
	c.answers[i][min(rcode, 23)].Add(1)
}

// quick counts an answer without error that was kept in wire form.
func (c *counters) quick(a *audience) {
	c.quicks.Add(1)
	c.count(a, mdns.RcodeSuccess)
}

// snapshot sums the answers over the exits.
func (c *counters) snapshot() map[string]map[string]uint64 {
	out := map[string]map[string]uint64{}
	for _, q := range c.list() {
		if out[q.View] == nil {
			out[q.View] = map[string]uint64{}
		}
		out[q.View][q.RCode] += q.Count
	}
	return out
}

func rcodeName(code int) string {
	if code == mdns.RcodeBadVers {
		return "BADVERS"
	}
	return cmp.Or(mdns.RcodeToString[code], strconv.Itoa(code))
}
