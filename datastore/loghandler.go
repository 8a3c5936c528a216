package datastore

import (
	"context"
	"encoding"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/personal-internet-cell/pic/cell"
)

// Limits of one line, in bytes.
const (
	logMessage = 500
	logValue   = 4 << 10
	logAttrs   = 24

	// panicMessage is what internal/lifecycle says of a panic.
	panicMessage = "recovered from a panic"

	module           = "github.com/personal-internet-cell/pic/"
	defaultSubsystem = "pic"
)

// rooms are the subsystems of the log that are always there.
func rooms() []string {
	return []string{
		"api", "auth", "backup", "certs", "datastore", "ddns", "dns", "exits", "firewall", "links",
		"ntp", defaultSubsystem, "policy", "proxy", "reconcile", "store", "tunnel",
	}
}

// secretKeys are names under which no value is shown, whatever it is. Secrets
// redact themselves; this is for who logs one by mistake.
func secretKey(key string) bool {
	switch strings.ToLower(key) {
	case "password", "secret", "token", "cookie", "authorization", "private_key", "preshared_key", "passphrase", "pin":
		return true
	}
	return false
}

// Redact is a ReplaceAttr of [slog.HandlerOptions] that hides what stands under
// the name of a secret.
func Redact(_ []string, a slog.Attr) slog.Attr {
	if secretKey(a.Key) {
		a.Value = cell.Secret{}.LogValue()
	}
	return a
}

// Handler returns a handler that keeps each line and passes it on to next. The
// subsystem of a line is the room whose code logs it, unless an attribute
// "subsystem" names one; the engine's lines about a stage belong to the stage.
func (l *Logs) Handler(next slog.Handler) slog.Handler { return &logHandler{logs: l, next: next} }

type logHandler struct {
	logs      *Logs
	next      slog.Handler
	attrs     []slog.Attr // with their groups in front of their keys
	group     string      // "", or ends with a dot
	subsystem string      // of an attribute
}

func (h *logHandler) Enabled(_ context.Context, level slog.Level) bool {
	return int64(level) >= h.logs.least.Load()
}

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	x := *h
	x.next = h.next.WithAttrs(attrs)
	x.attrs = slices.Clone(h.attrs)
	for _, a := range attrs {
		if name := a.Value.String(); h.group == "" && a.Key == "subsystem" && validSubsystem(name) {
			x.subsystem = name
			continue
		}
		a.Key = h.group + a.Key
		x.attrs = append(x.attrs, a)
	}
	return &x
}

func (h *logHandler) WithGroup(name string) slog.Handler {
	x := *h
	x.next = h.next.WithGroup(name)
	if name != "" {
		x.group += name + "."
	}
	return &x
}

func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	rec := cell.LogRecord{Time: r.Time.UTC(), Level: levelOf(r.Level), Message: clipLog(r.Message, logMessage)}
	if r.Time.IsZero() {
		rec.Time = time.Now().UTC()
	}
	if n := r.NumAttrs() + len(h.attrs); n > 0 {
		rec.Attrs = make(map[string]string, min(n, logAttrs))
	}
	for _, a := range h.attrs {
		putAttr(rec.Attrs, "", a)
	}
	named := h.subsystem
	r.Attrs(func(a slog.Attr) bool {
		if name := a.Value; a.Key == "subsystem" && h.group == "" && name.Kind() == slog.KindString && validSubsystem(name.String()) {
			named = name.String()
			return true
		}
		putAttr(rec.Attrs, h.group, a)
		return true
	})
	if rec.Subsystem = named; named == "" {
		rec.Subsystem = subsystemOf(h.logs.roomOf(r.PC), rec.Attrs)
	}
	if !h.logs.wants(rec.Subsystem, r.Level) {
		return nil
	}
	h.logs.add(rec)
	return h.next.Handle(ctx, r)
}

// putAttr renders one attribute, groups with a dot.
func putAttr(to map[string]string, group string, a slog.Attr) {
	key := group + a.Key
	if secretKey(a.Key) {
		a.Value = cell.Secret{}.LogValue()
	}
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			group = key + "."
		}
		for _, x := range v.Group() {
			putAttr(to, group, x)
		}
		return
	}
	if a.Key == "" || len(to) >= logAttrs {
		return
	}
	to[clipLog(key, 64)] = clipLog(attrText(v), logValue)
}

// attrText is what slog's own text handler would write, without its quotes.
func attrText(v slog.Value) (text string) {
	defer func() {
		if p := recover(); p != nil {
			text = fmt.Sprintf("!PANIC: %v", p)
		}
	}()
	switch v.Kind() {
	case slog.KindTime:
		return v.Time().UTC().Format(time.RFC3339Nano)
	case slog.KindAny:
		switch x := v.Any().(type) {
		case error:
			return x.Error()
		case encoding.TextMarshaler:
			b, err := x.MarshalText()
			if err != nil {
				return "!ERROR: " + err.Error()
			}
			return string(b)
		case []byte:
			return string(x)
		}
		return fmt.Sprintf("%+v", v.Any())
	}
	return v.String()
}

// clipLog bounds text and makes it valid UTF-8.
func clipLog(text string, most int) string {
	if len(text) > most {
		text = text[:most] + "…"
	}
	if utf8.ValidString(text) {
		return text
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

func levelOf(l slog.Level) cell.LogLevel {
	switch {
	case l < slog.LevelInfo:
		return cell.LogDebug
	case l < slog.LevelWarn:
		return cell.LogInfo
	case l < slog.LevelError:
		return cell.LogWarn
	}
	return cell.LogError
}

// subsystemOf is the room, or what the room logs about: the engine a stage,
// and a guard a task whose name has a room's in it.
func subsystemOf(room string, attrs map[string]string) string {
	switch room {
	case "reconcile":
		if s := attrs["stage"]; validSubsystem(s) {
			return s
		}
	case "internal":
		for word := range strings.FieldsSeq(strings.ToLower(attrs["task"])) {
			if slices.Contains(rooms(), word) {
				return word
			}
		}
		return defaultSubsystem
	}
	return room
}

// roomOf names the room of a place in the code: the folder below the module.
// Places that log are remembered; there are a few hundred.
func (l *Logs) roomOf(pc uintptr) string {
	if pc == 0 {
		return defaultSubsystem
	}
	if room, known := l.places.Load(pc); known {
		return room.(string)
	}
	f, _ := runtime.CallersFrames([]uintptr{pc}).Next()
	room := roomOfFunction(f.Function)
	l.places.Store(pc, room)
	return room
}

func roomOfFunction(name string) string {
	path, ours := strings.CutPrefix(name, module)
	if !ours {
		return defaultSubsystem // package main among them
	}
	if i := strings.IndexAny(path, "./"); i > 0 {
		path = path[:i]
	}
	if !validSubsystem(path) {
		return defaultSubsystem // a test's package
	}
	return path
}

// validSubsystem reports whether s may name one: 1 to 20 of a-z, 0-9 and -.
func validSubsystem(s string) bool {
	if len(s) < 1 || len(s) > 20 {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}
