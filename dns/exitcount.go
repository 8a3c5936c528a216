package dns

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
)

// maxCountedExits bounds the pairs of audience and exit that are counted by
// themselves; a cell has at most 60 exits, but exits come and go.
const maxCountedExits = 300

// QueryCount is how many answers one audience got with one response code.
type QueryCount struct {
	View  string `json:"view"`
	RCode string `json:"rcode"`
	// Exit is the way by which names of others are asked for this audience:
	// empty for the uplink, "other" for exits past a limit.
	Exit  string `json:"exit"`
	Count uint64 `json:"count"`
}

// exitCounters counts answers to audiences that have an exit. Counters outlive
// the exit, so that none goes backward. The zero value is ready.
type exitCounters struct {
	m     sync.Map // exitKey → *answerCounts
	pairs atomic.Int32
}

type exitKey struct{ label, exit string }

func (c *exitCounters) count(a *audience, rcode int) {
	k := exitKey{a.label, a.exit}
	v, known := c.m.Load(k)
	if !known {
		if c.pairs.Load() >= maxCountedExits {
			k.exit = "other"
		}
		if v, known = c.m.LoadOrStore(k, new(answerCounts)); !known {
			c.pairs.Add(1)
		}
	}
	v.(*answerCounts)[min(rcode, len(answerCounts{})-1)].Add(1)
}

// answerCounts are by response code; the last is for all greater ones.
type answerCounts [24]atomic.Uint64

// QueryCounts are the answers since the start, by audience, response code and
// exit, in that order, without zeros. None is ever smaller than it was.
func (s *Server) QueryCounts() []QueryCount { return s.counters.list() }

func (c *counters) list() []QueryCount {
	out := []QueryCount{}
	add := func(label, exit string, counts *answerCounts) {
		for code := range counts {
			if n := counts[code].Load(); n > 0 {
				out = append(out, QueryCount{View: label, RCode: rcodeName(code), Exit: exit, Count: n})
			}
		}
	}
	for i, label := range labels {
		add(label, "", &c.answers[i])
	}
	c.byExit.m.Range(func(k, v any) bool {
		key := k.(exitKey)
		add(key.label, key.exit, v.(*answerCounts))
		return true
	})
	slices.SortFunc(out, func(a, b QueryCount) int {
		return cmp.Or(cmp.Compare(a.View, b.View), cmp.Compare(a.RCode, b.RCode), cmp.Compare(a.Exit, b.Exit))
	})
	return out
}
