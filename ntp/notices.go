package ntp

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/personal-internet-cell/pic/cell"
)

// clockNotices are the problems of the clock itself; untold says that clients
// are told of a clock that is not synchronised.
func (s *Server) clockNotices(untold bool) []cell.Notice {
	var out []cell.Notice
	say := func(code, subject string, severity cell.Severity, format string, args ...any) {
		out = append(out, cell.Notice{Code: code, Subject: subject, Severity: severity, Text: fmt.Sprintf(format, args...)})
	}
	var d disciplineStatus
	if p := s.disciplined.Load(); p != nil {
		d = *p
	}
	if untold {
		switch d.mode {
		case ModeNoSources:
			say("clock_unsynchronised", "clock", cell.Warning, "the clock of this machine is not synchronised, and clients are told so: name at least three time servers in clock.sources, or start a time client on this machine (systemctl enable --now systemd-timesyncd, or install chrony)")
		case ModeActive:
			say("clock_unsynchronised", "clock", cell.Warning, "the clock is not synchronised yet, and clients are told so: if this stays, look whether the servers in clock.sources can be reached (UDP port 123)")
		default:
			say("clock_unsynchronised", "clock", cell.Warning, "the clock of this machine is not synchronised, and clients are told so: start a time client on it (systemctl enable --now systemd-timesyncd, or install chrony)")
		}
	}
	if now := s.clock.Now(); !s.Plausible(now) {
		say("clock_implausible", "clock", cell.Warning, "the clock says %s, but it was later than %s already: certificates and one-time codes can't be judged until it is set (name time servers in clock.sources, or: date -s)", now.UTC().Format(time.DateTime), s.floor().UTC().Format(time.DateTime))
	}
	if !d.refused.IsZero() {
		say("clock_sources_implausible", "clock", cell.Warning, "the time servers say %s, which is over already: they are not followed; name others in clock.sources", d.refused.UTC().Format(time.DateTime))
	}
	switch d.mode {
	case ModeDenied:
		if untold {
			say("clock_permission", "clock", cell.Warning, "the cell may not set the clock: give it the capability CAP_SYS_TIME (the packaged unit does), or set clock.discipline to off and run a time client")
		}
	case ModeContested:
		say("clock_contested", "clock", cell.Warning, "another program writes to the clock while the cell steers it: the cell leaves it alone for %v; stop one of the two (clock.discipline off stops the cell's)", contestedFor)
	case ModeActive:
		if d.sources < 3 {
			say("clock_sources_few", "clock", cell.Info, "with fewer than three time servers one that is wrong can't be outvoted: name at least three in clock.sources")
		}
		if d.noMajority {
			say("clock_no_majority", "clock", cell.Warning, "there is no majority among the time servers, so the clock is not moved to where they point: name more servers in clock.sources, of different operators")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.falsetickers)) {
		say("clock_falseticker", name, cell.Warning, "this time server is %v off from what most say, and is not followed: take it out of clock.sources", d.falsetickers[name].Round(time.Millisecond))
	}
	if !d.steppedAt.IsZero() {
		say("clock_stepped", "clock", cell.Info, "the clock was set by %v to what most time servers say; times in logs before that are off by as much", d.stepped.Round(time.Millisecond))
	}
	return out
}
