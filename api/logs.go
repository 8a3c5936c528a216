package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/cell"
)

// maxBacklog bounds what a follower gets of the past.
const maxBacklog = 1000

// Logs is the cell's own log; the datastore keeps it.
type Logs interface {
	Search(cell.LogQuery) (records []cell.LogRecord, more bool)
	Statistics(since time.Time, interval time.Duration) []cell.LogCount
	Subsystems() []string
	Levels() []cell.SubsystemLevel
	// SetLevel of a subsystem; the empty level is the one of the start.
	SetLevel(subsystem string, level cell.LogLevel) error
}

// LogTail follows the log: C is closed when the context ends, and Lost is how
// many lines it was too slow for since it was last asked.
type LogTail struct {
	C    <-chan cell.LogRecord
	Lost func() uint64
}

func (a *API) logRoutes() {
	if a.cfg.Logs == nil {
		return
	}
	register(a, Route{Access: auth.AccessAdmin, Operation: op("GET", "/api/logs/{service}", "list-logs", "logs", "The last lines of one subsystem's log, oldest first")}, a.lastLogs)
	register(a, Route{Access: auth.AccessAdmin, Operation: op("GET", "/api/logs/search", "search-logs", "logs", "Lines of the log, newest first")}, a.searchLogs)
	register(a, Route{Access: auth.AccessAdmin, Operation: op("GET", "/api/logs/statistics", "log-statistics", "logs", "How many lines there were, by subsystem, level and interval")}, a.logStatistics)
	tail := op("GET", "/api/logs/tail", "tail-logs", "logs", "Lines of the log as they come, as server-sent events")
	tail.Responses = eventStream("a stream of `log` events, each a line; `lost` says how many this client was too slow for")
	register(a, Route{Access: auth.AccessAdmin, Operation: tail}, a.tailLogs)
	register(a, Route{Access: auth.AccessAdmin, Operation: op("GET", "/api/logs/levels", "log-levels", "logs", "From which level on lines of each subsystem are kept")},
		func(context.Context, *struct{}) (*Out[List[cell.SubsystemLevel]], error) {
			return ok(list(a.cfg.Logs.Levels()))
		})
	register(a, Route{Access: auth.AccessAdmin, Operation: op("PUT", "/api/logs/levels/{subsystem}", "set-log-level", "logs", "Set the level of one subsystem; it is no revision, and stays over restarts")}, a.setLogLevel)
}

type lastLogsIn struct {
	Service string        `path:"service" maxLength:"20" doc:"a subsystem such as dns, firewall or tunnel"`
	Lines   int           `query:"lines" minimum:"1" maximum:"1000" default:"100"`
	Level   cell.LogLevel `query:"level" enum:"debug,info,warn,error" doc:"the least"`
}

// logSubsystem is a name as the log has it, by which some know it otherwise.
func (a *API) logSubsystem(name string) (string, error) {
	if name == "wireguard" {
		name = "tunnel"
	}
	if !slices.Contains(a.cfg.Logs.Subsystems(), name) {
		return "", notFound("subsystem", name)
	}
	return name, nil
}

func (a *API) lastLogs(_ context.Context, in *lastLogsIn) (*Out[List[cell.LogRecord]], error) {
	name, err := a.logSubsystem(in.Service)
	if err != nil {
		return nil, err
	}
	found, _ := a.cfg.Logs.Search(cell.LogQuery{Subsystem: name, Level: in.Level, Limit: in.Lines})
	slices.Reverse(found)
	return ok(list(found))
}

// LogFilter is what every way to read the log selects by.
type LogFilter struct {
	Text      string        `query:"q" maxLength:"200" doc:"text in the message or a detail (name=value), in any case"`
	Subsystem string        `query:"subsystem" maxLength:"20"`
	Level     cell.LogLevel `query:"level" enum:"debug,info,warn,error" doc:"the least"`
}

func (a *API) logQuery(f *LogFilter) (cell.LogQuery, error) {
	q := cell.LogQuery{Text: f.Text, Level: f.Level}
	if f.Subsystem == "" {
		return q, nil
	}
	name, err := a.logSubsystem(f.Subsystem)
	q.Subsystem = name
	return q, err
}

type searchLogsIn struct {
	LogFilter
	Since  time.Time `query:"since" doc:"RFC 3339"`
	Until  time.Time `query:"until" doc:"RFC 3339"`
	Limit  int       `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	Cursor uint64    `query:"cursor" doc:"next of the page before"`
}

// LogPage is a part of what a search found.
type LogPage struct {
	Items []cell.LogRecord `json:"items" nullable:"false"`
	Next  string           `json:"next" doc:"the cursor of what is older; empty at the end"`
}

func (a *API) searchLogs(_ context.Context, in *searchLogsIn) (*Out[LogPage], error) {
	q, err := a.logQuery(&in.LogFilter)
	if err != nil {
		return nil, err
	}
	q.Since, q.Until, q.Before, q.Limit = in.Since, in.Until, in.Cursor, in.Limit
	found, more := a.cfg.Logs.Search(q)
	page := LogPage{Items: list(found).Items}
	if more {
		page.Next = strconv.FormatUint(found[len(found)-1].Seq, 10)
	}
	return ok(page)
}

type logStatisticsIn struct {
	Since    time.Time `query:"since" doc:"RFC 3339; seven days are kept"`
	Interval string    `query:"interval" enum:"1h,6h,24h" default:"1h"`
}

func (a *API) logStatistics(_ context.Context, in *logStatisticsIn) (*Out[List[cell.LogCount]], error) {
	step, err := time.ParseDuration(in.Interval)
	if err != nil {
		return nil, err
	}
	return ok(list(a.cfg.Logs.Statistics(in.Since, step)))
}

type setLogLevelIn struct {
	Subsystem string `path:"subsystem" maxLength:"20"`
	Body      struct {
		Level cell.LogLevel `json:"level" enum:"debug,info,warn,error,default" doc:"default: the level that the cell was started with"`
	}
}

func (a *API) setLogLevel(ctx context.Context, in *setLogLevelIn) (*Out[List[cell.SubsystemLevel]], error) {
	name, err := a.logSubsystem(in.Subsystem)
	if err != nil {
		return nil, err
	}
	level := in.Body.Level
	if level == "default" {
		level = ""
	}
	if err := a.cfg.Logs.SetLevel(name, level); err != nil {
		return nil, err
	}
	a.cfg.Log.Info("log level set", "of", name, "level", string(in.Body.Level), "author", authorOf(ctx).Name)
	_, n := a.cfg.Engine.Running()
	return &Out[List[cell.SubsystemLevel]]{Status: http.StatusOK, PicRevision: revision(n), Body: list(a.cfg.Logs.Levels())}, nil
}

type tailLogsIn struct {
	LogFilter
	After uint64 `query:"after" doc:"begin with what came after this seq, as far as it is kept; 0: with what comes"`
	Last  string `header:"Last-Event-ID" maxLength:"20" doc:"the same, sent by browsers that connect again"`
}

func (a *API) tailLogs(ctx context.Context, in *tailLogsIn) (*huma.StreamResponse, error) {
	q, err := a.logQuery(&in.LogFilter)
	if err != nil {
		return nil, err
	}
	after := in.After
	if n, err := strconv.ParseUint(in.Last, 10, 64); err == nil {
		after = n
	}
	var lost func() uint64
	return feed(ctx, a, func(ctx context.Context) (first []cell.LogRecord, _ <-chan cell.LogRecord, _ error) {
		t, err := a.cfg.TailLogs(ctx, q)
		if err != nil {
			return nil, nil, problem(http.StatusTooManyRequests, "too_many", "%v: try again later", err)
		}
		lost = t.Lost
		if after > 0 {
			q.Limit = maxBacklog
			first, _ = a.cfg.Logs.Search(q)
			slices.Reverse(first)
		}
		return first, t.C, nil
	}, func(r cell.LogRecord) (out []frame) {
		if n := lost(); n > 0 {
			out = append(out, frame{event: "lost", data: fmt.Appendf(nil, `{"lines":%d}`, n)})
		}
		// A line may come twice: found, and as it came.
		if doc, err := json.Marshal(&r); err == nil && r.Seq > after {
			after = r.Seq
			out = append(out, frame{event: "log", id: strconv.FormatUint(r.Seq, 10), data: doc})
		}
		return out
	})
}
