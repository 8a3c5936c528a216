package exits

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/personal-internet-cell/pic/cell"
)

// Status is how an exit or a chain is.
type Status struct {
	ID    string
	Chain bool
	// Way is where a chain leads now: an exit's id, "direct" or "block".
	Way    string
	State  cell.ExitState // of an exit
	Reason string         // why it is not up
	Since  time.Time      // of State, or of Way
	// Latency is how long the last good probe took to connect, 0: none did.
	Latency time.Duration
	// PublicAddress4 and PublicAddress6 are how the internet sees who leaves by
	// it; zero where that is not known.
	PublicAddress4, PublicAddress6 netip.Addr
	// Received and Sent are bytes through a dialed exit's relay.
	Received, Sent uint64
	Connections    int // open in its relay
	// HostKey is the pinned key of an SSH server, PendingHostKey the one that it
	// shows instead.
	HostKey, PendingHostKey string
	Restarts                int
	Missing                 bool // its program is not installed
	V6, UDP                 bool
	Endpoint                netip.AddrPort // of a WireGuard exit's server
}

// Status returns the state of every exit, then of every chain, in order of id.
func (c *Controller) Status() []Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]Status, 0, len(c.plan.Exits)+len(c.plan.Chains))
	for i := range c.plan.Exits {
		out = append(out, c.workers[c.plan.Exits[i].ID].status())
	}
	for i := range c.plan.Chains {
		id := c.plan.Chains[i].ID
		w := c.chains[id]
		if w.way == "" {
			w.way = cell.ExitBlock
		}
		out = append(out, Status{ID: id, Chain: true, Way: w.way, Since: w.since})
	}
	return out
}

func (w *worker) status() Status {
	e, f := w.exit.Load(), w.fact()
	w.mu.Lock()
	defer w.mu.Unlock()
	st := Status{
		ID: e.ID, State: w.health.state, Reason: w.health.reason, Since: w.health.since, Latency: w.latency, PublicAddress4: w.public.v4, PublicAddress6: w.public.v6,
		HostKey: w.c.pinned(e), Restarts: w.restart, V6: f.V6, UDP: f.UDP, Endpoint: f.Endpoint,
	}
	if w.problem != nil {
		st.PendingHostKey, st.Missing = w.problem.HostKey, w.problem.Code == CodeMissing
	}
	if w.relay != nil {
		t := w.relay.Traffic()
		st.Connections, st.Received, st.Sent = t.Connections, t.Received, t.Sent
	}
	if w.child != nil {
		st.Restarts += w.child.Status().Restarts
	}
	return st
}

// Notices are the problems with exits and chains, each with its cure.
func (c *Controller) Notices() []cell.Notice {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []cell.Notice
	slots := map[cell.ExitType]int{}
	for i := range c.plan.Exits {
		e := &c.plan.Exits[i]
		slots[e.Type]++
		if n, ok := c.workers[e.ID].notice(); ok {
			out = append(out, n)
		}
	}
	for i := range c.plan.Chains {
		ch := &c.plan.Chains[i]
		if w := c.chains[ch.ID]; w.way == cell.ExitBlock && !ch.meansBlock(c.conf.Now().In(c.zone)) {
			out = append(out, cell.Notice{
				Code: CodeChain, Subject: ch.ID, Severity: cell.Alarm,
				Text: fmt.Sprintf("no exit of the chain %s carries traffic (%s): who leaves by it is cut off from the internet until one does; choose another exit for them, or mend one", ch.Name, strings.Join(ch.Members, ", ")),
			})
		}
	}
	for _, t := range []cell.ExitType{cell.ExitWireGuard, cell.ExitOpenVPN, cell.ExitTor, cell.ExitSSHuttle, cell.ExitProxy} {
		if slots[t] >= maxOfType {
			out = append(out, cell.Notice{Code: CodeSlots, Subject: string(t), Severity: cell.Info, Text: fmt.Sprintf("all %d exits of type %s are taken: remove one before another can be made", maxOfType, t)})
		}
	}
	return out
}

// maxOfType is how many exits of a type there can be (cell.State.FreeSlot).
const maxOfType = 10

// meansBlock reports whether the schedule wants the chain to block now.
func (c *Chain) meansBlock(now time.Time) bool {
	for i := range c.Schedule {
		if c.Schedule[i].On(now) {
			return c.Schedule[i].Use == cell.ExitBlock
		}
	}
	return len(c.Members) > 0 && c.Members[0] == cell.ExitBlock
}

// notice is what a person should know of the exit.
func (w *worker) notice() (cell.Notice, bool) {
	e := w.exit.Load()
	w.mu.Lock()
	defer w.mu.Unlock()
	n := cell.Notice{Code: CodeDown, Subject: e.ID, Severity: cell.Warning}
	if len(e.Sources) > 0 {
		n.Severity = cell.Alarm // somebody is cut off
	}
	if p := w.problem; p != nil {
		n.Code = p.Code
		n.Text = fmt.Sprintf("exit %s: %s", e.Name, p.Text)
		return n, true
	}
	if w.health.state != cell.ExitBlocked {
		return n, false
	}
	n.Text = fmt.Sprintf("exit %s carries nothing: %s; who leaves by it is cut off until it is back: check its server and its configuration, or choose another exit for them", e.Name, w.health.reason)
	return n, true
}
