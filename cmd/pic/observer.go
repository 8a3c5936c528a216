package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/datastore"
	"github.com/personal-internet-cell/pic/internal/lifecycle"
	"github.com/personal-internet-cell/pic/reconcile"
	"github.com/personal-internet-cell/pic/tunnel"
)

const (
	sampleEach = 10 * time.Second
	// sampleShare bounds the time that reading the device may take: a
	// fiftieth, so that 10,000 peers are read less often than ten.
	sampleShare = 50
	// peerEvents bounds the events of one look; the rest is one event.
	peerEvents = 50
)

// observer looks at the cell every ten seconds and whenever something changed,
// and writes down what it sees: samples for the history, and events.
type observer struct {
	engine  *reconcile.Engine
	tunnel  func(context.Context) (tunnel.Status, error)
	samples *datastore.Samples
	events  *datastore.Events
	started time.Time

	seen       bool // something was seen before
	revision   cell.Revision
	pending    cell.Revision
	conditions map[string]cell.Condition
	notices    map[string]cell.Notice

	traffic  map[cell.Key]cell.Traffic // what the device counted last
	online   map[string]bool           // by peer; nil before the first look
	nextLook time.Time                 // at the device
	lastLook time.Time                 // when the last sample ended
	count    uint32                    // peers online
}

// task runs until ctx ends. A panic costs one look.
func (o *observer) task(log *slog.Logger) lifecycle.Task {
	return lifecycle.Func("observer", func(ctx context.Context) error {
		select {
		case <-o.engine.Ready():
		case <-ctx.Done():
			return nil
		}
		return lifecycle.Guard(ctx, log, "observer", nil, func(ctx context.Context) error {
			changes := o.engine.Changes(ctx)
			tick := time.NewTicker(sampleEach)
			defer tick.Stop()
			o.lastLook = time.Now()
			o.look(time.Now())
			for {
				select {
				case <-ctx.Done():
					return nil
				case _, open := <-changes:
					if !open {
						return nil
					}
					lifecycle.Fault("observer")
					o.look(time.Now())
				case <-tick.C:
					o.look(time.Now())
					o.sample(ctx, time.Now())
				}
			}
		})
	})
}

// look tells what is otherwise than at the last look.
func (o *observer) look(now time.Time) {
	_, n := o.engine.Running()
	waits := cell.Revision(0)
	if p := o.engine.Pending(); p != nil {
		waits = p.Revision
	}
	conditions := map[string]cell.Condition{}
	for _, c := range o.engine.Status() {
		conditions[c.Stage] = c
	}
	notices := map[string]cell.Notice{}
	for _, x := range o.engine.Notices() {
		notices[x.Code+" "+x.Subject] = x
	}
	add := func(kind cell.EventKind, subject, what, text string) {
		o.events.Add(cell.Event{Time: now.UTC(), Kind: kind, Subject: subject, What: what, Text: text, Revision: n})
	}
	if n != o.revision {
		add(cell.EventRevision, fmt.Sprint(n), "running", "")
	}
	if waits != o.pending && waits != 0 {
		add(cell.EventRevision, fmt.Sprint(waits), "pending", "waits to be confirmed")
	}
	for _, name := range slices.Sorted(maps.Keys(conditions)) {
		c, before := conditions[name], o.conditions[name]
		// At the first look all is news; that a stage is well is none.
		if c.State == before.State && c.Reason == before.Reason || !o.seen && c.State == cell.InSync {
			continue
		}
		add(cell.EventCondition, name, string(c.State), c.Reason)
	}
	for _, k := range slices.Sorted(maps.Keys(notices)) {
		if _, there := o.notices[k]; !there {
			add(cell.EventNotice, k, "raised", notices[k].Text)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(o.notices)) {
		if _, there := notices[k]; !there {
			add(cell.EventNotice, k, "cleared", "")
		}
	}
	o.seen, o.revision, o.pending, o.conditions, o.notices = true, n, waits, conditions, notices
}

// sample writes down the last ten seconds.
func (o *observer) sample(ctx context.Context, now time.Time) {
	seconds := uint32(min(max(now.Sub(o.lastLook).Round(time.Second)/time.Second, 1), 60))
	o.lastLook = now
	s := cell.Sample{
		Time:    now.UTC().Truncate(sampleEach).Add(-sampleEach),
		Seconds: seconds, Uptime: uint32(max(0, now.Sub(o.started)/time.Second)),
		Recovered: o.engine.Source() == "recovered", Peers: map[string]cell.Traffic{},
	}
	for _, c := range o.engine.Status() {
		x := cell.StageSample{Stage: c.Stage, Worst: c.State}
		if c.State == cell.InSync {
			x.InSyncSeconds = seconds
		}
		s.Stages = append(s.Stages, x)
	}
	if !now.Before(o.nextLook) {
		begin := time.Now()
		if st, err := o.tunnel(ctx); err == nil {
			state, n := o.engine.Running()
			o.peers(now, state, n, &st, &s)
		}
		o.nextLook = now.Add(sampleShare*time.Since(begin) - time.Second)
	}
	s.Online = o.count
	o.samples.Add(&s)
}

// peers adds up what peers did since the last look, and tells who came and went.
func (o *observer) peers(now time.Time, state *cell.State, n cell.Revision, st *tunnel.Status, s *cell.Sample) {
	if state == nil {
		return
	}
	name := make(map[cell.Key]string, len(state.Peers))
	for i := range state.Peers {
		name[state.Peers[i].PublicKey] = state.Peers[i].Name
	}
	first := o.traffic == nil
	traffic, online := make(map[cell.Key]cell.Traffic, len(st.Peers)), map[string]bool{}
	for k, p := range st.Peers {
		is := cell.Traffic{RxBytes: p.ReceivedBytes, TxBytes: p.SentBytes}
		was := o.traffic[k]
		traffic[k] = is
		if p.Online {
			online[name[k]] = true
		}
		if first {
			continue // what a device counted before this process is not of now
		}
		// Counters begin anew with their device or peer.
		if is.RxBytes < was.RxBytes || is.TxBytes < was.TxBytes {
			was = cell.Traffic{}
		}
		d := cell.Traffic{RxBytes: is.RxBytes - was.RxBytes, TxBytes: is.TxBytes - was.TxBytes}
		s.Total.RxBytes += d.RxBytes
		s.Total.TxBytes += d.TxBytes
		if who := name[k]; who != "" && d != (cell.Traffic{}) {
			s.Peers[who] = d
		}
	}
	delete(online, "")
	o.tellPeers(now, n, online)
	o.traffic, o.online, o.count = traffic, online, uint32(len(online))
}

// tellPeers adds an event for each peer that came or went.
func (o *observer) tellPeers(now time.Time, n cell.Revision, online map[string]bool) {
	if o.online == nil {
		return
	}
	type change struct{ peer, what string }
	var changes []change
	for p := range online {
		if !o.online[p] {
			changes = append(changes, change{p, "online"})
		}
	}
	for p := range o.online {
		if !online[p] {
			changes = append(changes, change{p, "offline"})
		}
	}
	slices.SortFunc(changes, func(a, b change) int {
		if a.peer < b.peer {
			return -1
		}
		return 1
	})
	for i, c := range changes {
		if i == peerEvents {
			o.events.Add(cell.Event{Time: now.UTC(), Kind: cell.EventPeer, What: "more", Text: fmt.Sprintf("%d more peers came or went", len(changes)-i), Revision: n})
			return
		}
		o.events.Add(cell.Event{Time: now.UTC(), Kind: cell.EventPeer, Subject: c.peer, What: c.what, Revision: n})
	}
}

// observe makes the task that looks.
func (h *house) observe() lifecycle.Task {
	o := &observer{engine: h.engine, tunnel: h.tunnel.Status, samples: h.samples, events: h.events, started: h.started}
	return o.task(h.log)
}

func (h *house) tailEvents(ctx context.Context) (api.EventTail, error) {
	w, err := h.events.Watch(ctx)
	if err != nil {
		return api.EventTail{}, err
	}
	return api.EventTail{C: w.C, Lost: w.Lost}, nil
}
