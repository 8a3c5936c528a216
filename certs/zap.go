package certs

import (
	"context"
	"log/slog"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapLogger hands certmagic a zap logger that writes to l. Its information
// (locks taken, maintenance started) is our debug level.
func zapLogger(l *slog.Logger) *zap.Logger { return zap.New(bridge{l}) }

// bridge is a zapcore.Core over slog: the one place where the two meet.
type bridge struct{ log *slog.Logger }

var _ zapcore.Core = bridge{}

func (b bridge) Enabled(l zapcore.Level) bool {
	return b.log.Enabled(context.Background(), slogLevel(l))
}

func (b bridge) With(fields []zapcore.Field) zapcore.Core {
	return bridge{slog.New(b.log.Handler().WithAttrs(attrs(fields)))}
}

func (b bridge) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !b.Enabled(e.Level) {
		return c
	}
	return c.AddCore(e, b)
}

func (b bridge) Write(e zapcore.Entry, fields []zapcore.Field) error {
	out := attrs(fields)
	if e.LoggerName != "" {
		out = append(out, slog.String("logger", e.LoggerName))
	}
	b.log.LogAttrs(context.Background(), slogLevel(e.Level), e.Message, out...)
	return nil
}

func (bridge) Sync() error { return nil }

func attrs(fields []zapcore.Field) []slog.Attr {
	enc := zapcore.NewMapObjectEncoder()
	out := make([]slog.Attr, 0, len(fields))
	for _, f := range fields {
		f.AddTo(enc)
		if v, ok := enc.Fields[f.Key]; ok {
			out = append(out, slog.Any(f.Key, v))
		}
	}
	return out
}

func slogLevel(l zapcore.Level) slog.Level {
	switch {
	case l >= zapcore.ErrorLevel:
		return slog.LevelError
	case l == zapcore.WarnLevel:
		return slog.LevelWarn
	}
	return slog.LevelDebug
}
