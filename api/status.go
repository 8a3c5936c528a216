package api

import (
	"context"
	"net/http"
	"runtime"
	"time"

	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/cell"
)

// Health is public and says no more than a load balancer needs.
type Health struct {
	Status  string `json:"status" enum:"ok,degraded,recovered"`
	Version string `json:"version"`
}

// Status is the summary the overview shows.
type Status struct {
	Cell       CellInfo         `json:"cell"`
	Revision   cell.Revision    `json:"revision"`
	Source     string           `json:"source" enum:"current,recovered"`
	Pending    *PendingCommit   `json:"pending"`
	Conditions []cell.Condition `json:"conditions" nullable:"false"`
	Notices    []cell.Notice    `json:"notices" nullable:"false"`
	Peers      PeerTotals       `json:"peers"`
	Clock      ClockBrief       `json:"clock"`
	WireGuard  WireGuardBrief   `json:"wireguard"`
	Resources  Resources        `json:"resources"`
}

// CellInfo names the cell.
type CellInfo struct {
	Name       string          `json:"name"`
	Domain     string          `json:"domain"`
	DomainMode cell.DomainMode `json:"domain_mode"`
	Version    string          `json:"version"`
	Started    time.Time       `json:"started"`
	Claimed    bool            `json:"claimed"`
}

// PendingCommit waits for its confirmation.
type PendingCommit struct {
	Revision  cell.Revision `json:"revision"`
	Author    cell.Author   `json:"author"`
	Message   string        `json:"message"`
	ConfirmBy time.Time     `json:"confirm_by"`
}

// PeerTotals counts peers.
type PeerTotals struct {
	Total   int   `json:"total"`
	Online  int   `json:"online"`
	RxBytes int64 `json:"rx_bytes"`
	TxBytes int64 `json:"tx_bytes"`
}

// ClockBrief is the clock in three numbers.
type ClockBrief struct {
	Synchronised  bool    `json:"synchronised"`
	Stratum       int     `json:"stratum"`
	OffsetSeconds float64 `json:"offset_seconds"`
}

// WireGuardBrief is the tunnel's device.
type WireGuardBrief struct {
	Backend    string   `json:"backend" doc:"kernel, userspace or none"`
	ListenPort uint16   `json:"listen_port"`
	PublicKey  cell.Key `json:"public_key"`
}

// Resources the process uses.
type Resources struct {
	MemoryBytes   uint64 `json:"memory_bytes"`
	Goroutines    int    `json:"goroutines"`
	UptimeSeconds int64  `json:"uptime_seconds"`
}

func (a *API) statusRoutes() {
	register(a, Route{Access: auth.AccessPublic, Operation: op("GET", "/health", "health", "core", "Whether the cell works")},
		func(context.Context, *struct{}) (*Out[Health], error) { return ok(a.health()) })
	register(a, Route{Access: auth.AccessAdmin, Operation: op("GET", "/api/status", "status", "core", "Everything the overview shows")},
		func(ctx context.Context, _ *struct{}) (*Out[Status], error) { return ok(a.status(ctx)) })
	register(a, Route{Access: auth.AccessAdmin, Operation: op("GET", "/api/{subsystem}/status", "subsystem-status", "core", "One subsystem's condition")}, a.subsystemStatus)
	register(a, Route{Access: auth.AccessAdmin, Operation: op("POST", "/api/{subsystem}/restart", "subsystem-restart", "core", "Compare the world with the plan again and repair it")}, a.subsystemRestart)
}

func (a *API) health() Health {
	h := Health{"ok", a.cfg.Version}
	for _, c := range a.cfg.Engine.Status() {
		if c.State == cell.Failed {
			h.Status = "degraded"
		}
	}
	if a.cfg.Engine.Source() == "recovered" {
		h.Status = "recovered"
	}
	return h
}

func (a *API) status(ctx context.Context) Status {
	e := a.cfg.Engine
	s, n := e.Running()
	if s == nil {
		s = &cell.State{}
	}
	st := Status{
		Cell:       CellInfo{s.Identity.Name, s.Identity.EffectiveDomain(), s.Identity.Mode, a.cfg.Version, a.cfg.Started, s.Claimed()},
		Revision:   n,
		Source:     e.Source(),
		Conditions: e.Status(),
		Notices:    e.Notices(),
	}
	if st.Conditions == nil {
		st.Conditions = []cell.Condition{}
	}
	if st.Notices == nil {
		st.Notices = []cell.Notice{}
	}
	if p := e.Pending(); p != nil {
		st.Pending = &PendingCommit{p.Revision, p.Author, p.Message, p.ConfirmBy.UTC()}
	}
	st.WireGuard = WireGuardBrief{"none", s.Network.Tunnel.ListenPort, s.Network.Tunnel.PublicKey}
	st.Peers.Total = len(s.Peers)
	if t, err := a.cfg.Tunnel(ctx); err == nil {
		st.WireGuard.Backend = t.Backend
		for i := range s.Peers {
			x := t.Peers[s.Peers[i].PublicKey]
			st.Peers.RxBytes += x.RxBytes
			st.Peers.TxBytes += x.TxBytes
			if x.Online {
				st.Peers.Online++
			}
		}
	}
	c := a.cfg.Clock()
	st.Clock = ClockBrief{c.Synchronised, c.Stratum, c.OffsetSeconds}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	st.Resources = Resources{m.Sys - m.HeapReleased, runtime.NumGoroutine(), int64(a.cfg.Now().Sub(a.cfg.Started) / time.Second)}
	return st
}

type subsystemIn struct {
	Subsystem string `path:"subsystem" maxLength:"20"`
}

// SubsystemStatus is the one shape of every subsystem.
type SubsystemStatus struct {
	Condition cell.Condition `json:"condition"`
	Notices   []cell.Notice  `json:"notices" nullable:"false"`
}

func (a *API) condition(name string) (cell.Condition, bool) {
	if name == "wireguard" {
		name = "tunnel"
	}
	for _, c := range a.cfg.Engine.Status() {
		if c.Stage == name {
			return c, true
		}
	}
	return cell.Condition{}, false
}

func (a *API) subsystemStatus(_ context.Context, in *subsystemIn) (*Out[SubsystemStatus], error) {
	c, found := a.condition(in.Subsystem)
	if !found {
		return nil, notFound("subsystem", in.Subsystem)
	}
	out := SubsystemStatus{Condition: c, Notices: []cell.Notice{}}
	for _, n := range a.cfg.Engine.Notices() {
		if n.Subject == in.Subsystem || n.Subject == c.Stage {
			out.Notices = append(out.Notices, n)
		}
	}
	return ok(out)
}

type restartIn struct {
	Subsystem string `path:"subsystem" maxLength:"20"`
	Body      Empty
}

func (a *API) subsystemRestart(_ context.Context, in *restartIn) (*Out[SubsystemStatus], error) {
	c, found := a.condition(in.Subsystem)
	if !found {
		return nil, notFound("subsystem", in.Subsystem)
	}
	a.cfg.Engine.Trigger("restart of " + c.Stage + " asked for")
	return &Out[SubsystemStatus]{Status: http.StatusAccepted, Body: SubsystemStatus{Condition: c, Notices: []cell.Notice{}}}, nil
}
