package lifecycle_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

func TestPanicsAreCountedOnTheirWayIntoTheLog(t *testing.T) {
	var out bytes.Buffer
	p := lifecycle.NewPanics()
	log := slog.New(p.Handler(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo}))).With("cell", "home").WithGroup("x")
	_ = lifecycle.Protect(log, "dns query", func() error { panic("index out of range") })
	_ = lifecycle.Protect(log, "dns query", func() error { panic("again") })
	log.Error("recovered from a panic", "task", "nobody", "panic", "only looks like one")
	h := lifecycle.ErrorLog(log, "web request")
	h.Printf("http: panic serving 192.0.2.1:4: nil map\ngoroutine 7")
	h.Printf("http: TLS handshake error from 192.0.2.1:4: EOF")
	got := fmt.Sprint(p.All())
	for _, want := range []string{"{dns query 2 ", " again}", "{web request 1 ", "192.0.2.1:4: nil map"} {
		if !strings.Contains(got, want) {
			t.Errorf("counted %s, want %q in it", got, want)
		}
	}
	if len(p.All()) != 2 {
		t.Errorf("counted %s", got)
	}
	if text := out.String(); !strings.Contains(text, "index out of range") || !strings.Contains(text, "cell=home") || strings.Contains(text, "handshake") {
		t.Errorf("logged %s", text)
	}
	// Without a log they are counted all the same, and the names are bounded.
	quiet := slog.New(p.Handler(slog.DiscardHandler))
	for i := range 200 {
		_ = lifecycle.Protect(quiet, fmt.Sprint("task ", i), func() error { panic(i) })
	}
	if n := len(p.All()); n != 65 {
		t.Errorf("%d names are kept", n)
	}
}
