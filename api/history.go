package api

import (
	"context"
	"net/http"
	"time"

	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/cell"
)

// maxPoints bounds one answer.
const maxPoints = 3000

func (a *API) historyRoutes() {
	if a.cfg.History == nil {
		return
	}
	register(a, Route{Access: auth.AccessAdmin, Operation: op("GET", "/api/health/history", "health-history", "core", "How the cell and its stages were doing")}, a.healthHistory)
	register(a, Route{Access: auth.AccessAdmin, Operation: op("GET", "/api/traffic/history", "traffic-history", "core", "Traffic of all peers together")}, a.trafficHistory)
	register(a, Route{Access: auth.AccessAdmin, Operation: op("GET", "/api/peers/{name}/history", "peer-history", "peers", "Traffic of one peer")}, a.peerHistory)
}

// HistoryRange selects a time and how fine it is shown.
type HistoryRange struct {
	Range string `query:"range" default:"1h" maxLength:"12" doc:"how far back, such as 1h, 24h or 720h, which is the most"`
	Step  string `query:"step" maxLength:"12" doc:"how long an interval is, such as 1m; default: the finest that is kept for the range: 10s for 1h, 1m for 24h, 15m for 720h"`
}

// Intervals says what the points of a history are.
type Intervals struct {
	Since       time.Time `json:"since"`
	Until       time.Time `json:"until"`
	StepSeconds int       `json:"step_seconds" doc:"how long each interval is"`
}

// HealthHistory is how the cell was doing.
type HealthHistory struct {
	Intervals
	Items []HealthPoint `json:"items" nullable:"false" doc:"oldest first; there is none for a time in which the cell did not run"`
}

// HealthPoint is one interval.
type HealthPoint struct {
	Time          time.Time     `json:"time" doc:"when the interval begins"`
	Status        string        `json:"status" enum:"ok,degraded,recovered"`
	Seconds       uint32        `json:"seconds" doc:"of the interval in which the cell ran"`
	UptimeSeconds uint32        `json:"uptime_seconds" doc:"of the process, at the interval's end"`
	Stages        []StageHealth `json:"stages" nullable:"false"`
}

// StageHealth is how one stage was doing.
type StageHealth struct {
	Stage         string              `json:"stage"`
	State         cell.ConditionState `json:"state" doc:"the worst that it was in"`
	InSyncSeconds uint32              `json:"in_sync_seconds"`
}

// TrafficHistory is bytes over time.
type TrafficHistory struct {
	Intervals
	Items []TrafficPoint `json:"items" nullable:"false"`
}

// TrafficPoint is one interval.
type TrafficPoint struct {
	Time    time.Time `json:"time"`
	Seconds uint32    `json:"seconds"`
	cell.Traffic
	Online *uint32 `json:"online,omitempty" doc:"the most peers that were online; of the whole cell only"`
}

// query reads the range; everything wrong with it is a 422.
func (r *HistoryRange) query(now time.Time) (q cell.HistoryQuery, err error) {
	bad := func(field, message string) error {
		return &cell.InvalidError{Fields: []cell.FieldError{{Pointer: "/" + field, Message: message}}}
	}
	span, err := time.ParseDuration(r.Range)
	if err != nil || span < 10*time.Second || span > 31*24*time.Hour {
		return q, bad("range", "must be 10s to 744h, such as 24h")
	}
	var step time.Duration
	if r.Step != "" {
		if step, err = time.ParseDuration(r.Step); err != nil || step < 10*time.Second || step > span {
			return q, bad("step", "must be 10s or more, and no longer than the range")
		}
	}
	return cell.HistoryQuery{Since: now.Add(-span), Until: now.Add(time.Second), Step: step}, nil
}

func (a *API) history(in *HistoryRange, peer string) ([]cell.Sample, Intervals, error) {
	q, err := in.query(a.cfg.Now().UTC().Truncate(time.Second))
	if err != nil {
		return nil, Intervals{}, err
	}
	q.Peer = peer
	samples, step := a.cfg.History(q)
	samples = samples[max(0, len(samples)-maxPoints):]
	return samples, Intervals{q.Since, q.Until, int(step / time.Second)}, nil
}

func (a *API) healthHistory(_ context.Context, in *HistoryRange) (*Out[HealthHistory], error) {
	samples, i, err := a.history(in, "")
	if err != nil {
		return nil, err
	}
	out := HealthHistory{Intervals: i, Items: []HealthPoint{}}
	for _, s := range samples {
		p := HealthPoint{Time: s.Time, Status: "ok", Seconds: s.Seconds, UptimeSeconds: s.Uptime, Stages: []StageHealth{}}
		for _, x := range s.Stages {
			p.Stages = append(p.Stages, StageHealth{x.Stage, x.Worst, x.InSyncSeconds})
			if x.Worst == cell.Failed {
				p.Status = "degraded"
			}
		}
		if s.Recovered {
			p.Status = "recovered"
		}
		out.Items = append(out.Items, p)
	}
	return ok(out)
}

func (a *API) trafficHistory(_ context.Context, in *HistoryRange) (*Out[TrafficHistory], error) {
	samples, i, err := a.history(in, "")
	if err != nil {
		return nil, err
	}
	out := TrafficHistory{Intervals: i, Items: []TrafficPoint{}}
	for _, s := range samples {
		online := s.Online
		out.Items = append(out.Items, TrafficPoint{Time: s.Time, Seconds: s.Seconds, Traffic: s.Total, Online: &online})
	}
	return ok(out)
}

type peerHistoryIn struct {
	Name string `path:"name" maxLength:"64"`
	HistoryRange
}

func (a *API) peerHistory(_ context.Context, in *peerHistoryIn) (*Out[TrafficHistory], error) {
	if s, _ := a.cfg.Engine.Running(); s == nil || s.Peer(in.Name) == nil {
		return nil, notFound("peer", in.Name)
	}
	samples, i, err := a.history(&in.HistoryRange, in.Name)
	if err != nil {
		return nil, err
	}
	out := TrafficHistory{Intervals: i, Items: []TrafficPoint{}}
	for _, s := range samples {
		out.Items = append(out.Items, TrafficPoint{Time: s.Time, Seconds: s.Seconds, Traffic: s.Total})
	}
	return &Out[TrafficHistory]{Status: http.StatusOK, Body: out}, nil
}
