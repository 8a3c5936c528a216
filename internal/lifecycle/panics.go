package lifecycle

import (
	"context"
	"fmt"
	stdlog "log"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"
)

// Recovered logs a panic that the caller has just recovered from, with its
// stack, as [Guard] and [Protect] do. It is called in the deferred function.
func Recovered(log *slog.Logger, task string, p any, attrs ...any) {
	log.Error("recovered from a panic", append([]any{"task", task, "panic", recovered(fmt.Sprint(p)), "stack", string(debug.Stack())}, attrs...)...)
}

// recovered is the text of a panic, by whose type [Panics] knows the record.
type recovered string

// maxPanicTasks bounds the names that are told apart; the rest is one.
const maxPanicTasks = 64

// PanicCount is how often a task has panicked since the start.
type PanicCount struct {
	Task  string
	Count uint64
	Last  time.Time
	Text  string // of the last one
}

// Panics counts panics that were recovered from. The log is the one thing that
// every part of the cell is handed, so the count is taken from what passes
// through it: see [Panics.Handler].
type Panics struct {
	mu    sync.Mutex
	tasks map[string]PanicCount
}

// NewPanics counts from zero.
func NewPanics() *Panics { return &Panics{tasks: map[string]PanicCount{}} }

// Handler counts what [Recovered] logs and hands every record on to next.
func (p *Panics) Handler(next slog.Handler) slog.Handler { return &panicHandler{next, p} }

// All lists the tasks that have panicked, by name.
func (p *Panics) All() []PanicCount {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]PanicCount, 0, len(p.tasks))
	for _, name := range slices.Sorted(maps.Keys(p.tasks)) {
		out = append(out, p.tasks[name])
	}
	return out
}

func (p *Panics) count(task, text string, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, known := p.tasks[task]; !known && len(p.tasks) >= maxPanicTasks {
		task = "other tasks"
	}
	p.tasks[task] = PanicCount{task, p.tasks[task].Count + 1, at, text}
}

type panicHandler struct {
	next slog.Handler
	to   *Panics
}

func (h *panicHandler) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelError || h.next.Enabled(ctx, l)
}

func (h *panicHandler) Handle(ctx context.Context, r slog.Record) error {
	var task, text string
	var is bool
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "task" {
			task = a.Value.String()
		}
		if v, ok := a.Value.Any().(recovered); ok {
			text, is = string(v), true
		}
		return true
	})
	if is {
		h.to.count(task, text, r.Time)
	}
	if !h.next.Enabled(ctx, r.Level) {
		return nil
	}
	return h.next.Handle(ctx, r)
}

func (h *panicHandler) WithAttrs(a []slog.Attr) slog.Handler {
	return &panicHandler{h.next.WithAttrs(a), h.to}
}

func (h *panicHandler) WithGroup(name string) slog.Handler {
	return &panicHandler{h.next.WithGroup(name), h.to}
}

// ErrorLog is a log for an [http.Server]: what clients do is for debugging, a
// panic of the server's own, which it has recovered from, is told and counted.
func ErrorLog(log *slog.Logger, task string) *stdlog.Logger {
	return stdlog.New(errorLog{log, task}, "", 0)
}

type errorLog struct {
	log  *slog.Logger
	task string
}

// Write gets one message. net/http says "http: panic serving ADDRESS: REASON",
// its HTTP/2 server "http2: panic serving".
func (l errorLog) Write(b []byte) (int, error) {
	text := strings.TrimSpace(string(b))
	if _, reason, found := strings.Cut(text, ": panic serving "); found {
		reason, stack, _ := strings.Cut(reason, "\n")
		l.log.Error("recovered from a panic", "task", l.task, "panic", recovered(reason), "stack", stack)
	} else {
		l.log.Debug("http server", "task", l.task, "message", text)
	}
	return len(b), nil
}
