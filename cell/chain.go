package cell

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// Chain is a list of ways out, tried in order: traffic leaves by the first
// that is up. It is named in exit fields like an exit. It never leads by the
// uplink unless "direct" is a member, and when no member is up it blocks.
type Chain struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// Members are ids of exits; the last may be "direct" or "block".
	Members []string `json:"members"`
	// Hold is how many seconds a better member must have been up before the
	// chain returns to it, 0 to 86400; default 60.
	Hold int `json:"hold"`
	// Schedule makes the chain use one way at set times; the first entry that
	// is on counts.
	Schedule []ChainWindow `json:"schedule"`
}

// ChainWindow is a time of the week, by the cell's own time zone.
type ChainWindow struct {
	// Days are 0 (Sunday) to 6, on which the window begins; empty: every day.
	Days []int `json:"days"`
	// From and Until are minutes after midnight, 0 to 1439; a window whose end is not
	// after its beginning ends on the next day.
	From  int `json:"from"`
	Until int `json:"until"`
	// Use is the id of an exit, "direct" or "block".
	Use string `json:"use"`
}

// On reports whether the window covers t, in t's own location.
func (w *ChainWindow) On(t time.Time) bool {
	on := func(day time.Weekday) bool { return len(w.Days) == 0 || slices.Contains(w.Days, int(day)) }
	m := t.Hour()*60 + t.Minute()
	if w.From < w.Until {
		return on(t.Weekday()) && m >= w.From && m < w.Until
	}
	return on(t.Weekday()) && m >= w.From || on((t.Weekday()+6)%7) && m < w.Until
}

const (
	MaxChains  = 50
	maxMembers = 10
	maxWindows = 20
)

func (c *Chain) validate(v *validation, s *State) {
	if c.ID == ExitDirect || c.ID == ExitBlock || s.Exit(c.ID) != nil {
		v.add("id", "%q is taken", c.ID)
	}
	v.text("name", c.Name, 100)
	if len(c.Members) == 0 || len(c.Members) > maxMembers {
		v.add("members", "1 to %d exits", maxMembers)
	}
	for i, m := range c.Members {
		field := "members/" + strconv.Itoa(i)
		switch {
		case slices.Index(c.Members, m) != i:
			v.add(field, "%q is in the list twice", clip(m))
		case m == ExitDirect || m == ExitBlock:
			if i != len(c.Members)-1 {
				v.add(field, "nothing can follow %q", m)
			}
		case s.Exit(m) == nil:
			v.add(field, "there is no exit %q", clip(m))
		}
	}
	if c.Hold < 0 || c.Hold > 86400 {
		v.add("hold", "must be 0 to 86400 seconds")
	}
	if len(c.Schedule) > maxWindows {
		v.add("schedule", "at most %d entries, not %d", maxWindows, len(c.Schedule))
	}
	for i := range c.Schedule {
		v.in("schedule/"+strconv.Itoa(i), func() { c.Schedule[i].validate(v, s) })
	}
}

func (w *ChainWindow) validate(v *validation, s *State) {
	for i, d := range w.Days {
		if d < 0 || d > 6 {
			v.add("days/"+strconv.Itoa(i), "must be 0 (Sunday) to 6")
		}
	}
	if len(w.Days) > 7 {
		v.add("days", "a week has 7 days")
	}
	if w.From < 0 || w.From > 1439 || w.Until < 0 || w.Until > 1439 {
		v.add("from", "from and until are minutes after midnight, 0 to 1439")
	}
	if w.Use != ExitDirect && w.Use != ExitBlock && s.Exit(w.Use) == nil {
		v.add("use", "there is no exit %q", clip(w.Use))
	}
}

// Chain returns the chain of that id, or nil. The result points into s.
func (s *State) Chain(id string) *Chain {
	return find(s.Chains, func(c *Chain) bool { return c.ID == id })
}

// Way is where an exit field leads now: the id of an exit, [ExitDirect] or
// [ExitBlock]. "" is direct; a chain is the member that f says is active, and
// blocked while nothing has been learned; an unknown id is blocked.
func (s *State) Way(exit string, f *Facts) string {
	switch exit {
	case "", ExitDirect:
		return ExitDirect
	case ExitBlock:
		return ExitBlock
	}
	if s.Exit(exit) != nil {
		return exit
	}
	c := s.Chain(exit)
	if c == nil {
		return ExitBlock
	}
	now := f.Chains[exit]
	if !c.mayUse(now) || now != ExitDirect && now != ExitBlock && s.Exit(now) == nil {
		return ExitBlock // learned under an older state
	}
	return now
}

// mayUse reports whether the chain lists a way: facts may be older than it.
func (c *Chain) mayUse(way string) bool {
	return slices.Contains(c.Members, way) || slices.ContainsFunc(c.Schedule, func(w ChainWindow) bool { return w.Use == way })
}

// PeerWay is where a peer's traffic leaves now, as [State.Way] says it, with an
// exit chosen for a time taken into account.
func (s *State) PeerWay(p *Peer, f *Facts) string { return s.Way(p.ExitNow(f), f) }

// MarkOf is the packet mark of a way, as [State.Way] returns it. Anything else
// has the mark that leads nowhere.
func (s *State) MarkOf(way string) uint32 {
	if way == ExitDirect {
		return MarkDirect
	}
	if e := s.Exit(way); e != nil {
		return e.Mark()
	}
	return MarkBlock
}

// ExitUsers are the peers and services whose exit field leads to an exit or
// chain, also by way of a chain, as "peer laptop" and "service files", sorted.
func (s *State) ExitUsers(id string) []string {
	leads := func(field string) bool {
		if field == id {
			return true
		}
		c := s.Chain(field)
		return c != nil && c.mayUse(id)
	}
	var out []string
	for i := range s.Peers {
		if p := &s.Peers[i]; leads(p.Exit) || p.ExitUntil != nil && leads(p.ExitThen) {
			out = append(out, "peer "+p.Name)
		}
	}
	for i := range s.Services {
		if leads(s.Services[i].Egress) {
			out = append(out, "service "+s.Services[i].ID)
		}
	}
	slices.SortFunc(out, strings.Compare)
	return out
}
