package main

import (
	"context"
	"log/slog"
	"maps"
	"slices"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/datastore"
)

// newLog makes the log that keeps what it passes on to text.
func newLog(level slog.Level, text slog.Handler) (*datastore.Logs, *slog.Logger) {
	logs := datastore.NewLogs(level)
	return logs, slog.New(logs.Handler(text))
}

func (h *house) tailLogs(ctx context.Context, q cell.LogQuery) (api.LogTail, error) {
	w, err := h.logs.Watch(ctx, q)
	if err != nil {
		return api.LogTail{}, err
	}
	return api.LogTail{C: w.C, Lost: w.Lost}, nil
}

func (h *house) logMetrics(m *api.Metrics) {
	t := h.logs.Totals()
	m.Family("pic_log_lines_total", api.Counter, "Lines of the log by subsystem and level.")
	for _, sub := range slices.Sorted(maps.Keys(t.Records)) {
		for _, level := range cell.LogLevels() {
			m.Count(t.Records[sub][level], "subsystem", sub, "level", string(level))
		}
	}
	m.One("pic_log_lost_total", api.Counter, "Lines that the disk did not take.", float64(t.Lost))
	m.Family("pic_panics_total", api.Counter, "Panics that were recovered from, by subsystem.")
	for _, sub := range slices.Sorted(maps.Keys(t.Panics)) {
		m.Count(t.Panics[sub], "subsystem", sub)
	}
}
