package cell

import (
	"slices"
	"time"
)

// LogLevel is how much a line of the log matters.
type LogLevel string

// The levels, as log/slog has them.
const (
	LogDebug LogLevel = "debug"
	LogInfo  LogLevel = "info"
	LogWarn  LogLevel = "warn"
	LogError LogLevel = "error"
)

// LogLevels lists the levels, the least first.
func LogLevels() []LogLevel { return []LogLevel{LogDebug, LogInfo, LogWarn, LogError} }

// Rank is the level's place among [LogLevels]; -1 for a word that is none.
func (l LogLevel) Rank() int { return slices.Index(LogLevels(), l) }

// LogRecord is one line of the cell's log. It holds no secret.
type LogRecord struct {
	// Seq counts from 1 over all subsystems, in the order of the lines.
	Seq       uint64    `json:"seq"`
	Time      time.Time `json:"time"`
	Level     LogLevel  `json:"level"`
	Subsystem string    `json:"subsystem"`
	Message   string    `json:"message"`
	// Attrs are its details by name, as text.
	Attrs map[string]string `json:"attrs,omitempty"`
}

// LogQuery selects lines; the zero value selects all.
type LogQuery struct {
	// Subsystem, when not empty, is the only one.
	Subsystem string
	// Level is the least; empty is every one.
	Level LogLevel
	// Text is in the message or a detail, in any case.
	Text string
	// Since and Until bound the time; the zero time does not.
	Since, Until time.Time
	// Before, when not 0, is above every Seq.
	Before uint64
	// Limit is how many at most; 0 is none.
	Limit int
}

// LogCount is how many lines there were in an interval.
type LogCount struct {
	Time      time.Time `json:"time" doc:"when the interval begins"`
	Subsystem string    `json:"subsystem"`
	Level     LogLevel  `json:"level"`
	Count     uint64    `json:"count"`
}

// SubsystemLevel is the least level of which lines of a subsystem are kept.
type SubsystemLevel struct {
	Subsystem string   `json:"subsystem"`
	Level     LogLevel `json:"level"`
	Set       bool     `json:"set" doc:"for this subsystem, and not by --log-level"`
}
