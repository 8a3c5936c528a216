package exits

import (
	"slices"
	"time"

	"github.com/personal-internet-cell/pic/cell"
)

// chainWay is the way that a chain takes, and since when.
type chainWay struct {
	way   string // "" before the first choice
	since time.Time
}

// view of an exit, as a chain needs it.
type view struct {
	state cell.ExitState
	up    time.Time // since when it carries traffic without a break; zero: it doesn't
	fresh bool      // it never failed since it was started
}

// choose is where a chain leads at now, which is in the cell's time zone:
// by the window of its schedule that is on, else by its first member that
// carries traffic; "block" when nothing does. It leaves a worse member for a
// better one only when that one has carried for Hold seconds or never failed, and goes
// "direct" only when every exit listed before it has failed, not while one is
// still connecting.
func (c *Chain) choose(old string, exits map[string]view, now time.Time) string {
	for i := range c.Schedule {
		if w := &c.Schedule[i]; w.On(now) {
			if w.Use == cell.ExitDirect || w.Use == cell.ExitBlock || exits[w.Use].state.Carrying() {
				return w.Use
			}
			return cell.ExitBlock // it is this way's time; none takes its place
		}
	}
	first := c.first(exits)
	at, better := slices.Index(c.Members, old), slices.Index(c.Members, first)
	stays := old == cell.ExitDirect || exits[old].state.Carrying()
	if at < 0 || better < 0 || at <= better || !stays {
		return first
	}
	if up := exits[first].up; !exits[first].fresh && (up.IsZero() || now.Sub(up) < time.Duration(c.Hold)*time.Second) {
		return old
	}
	return first
}

// first is the first member that carries traffic.
func (c *Chain) first(exits map[string]view) string {
	undecided := false
	for _, m := range c.Members {
		switch {
		case m == cell.ExitBlock:
			return cell.ExitBlock
		case m == cell.ExitDirect && undecided:
			return cell.ExitBlock
		case m == cell.ExitDirect || exits[m].state.Carrying():
			return m
		}
		undecided = undecided || exits[m].state == cell.ExitConnecting
	}
	return cell.ExitBlock
}
