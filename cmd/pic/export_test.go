package main

import (
	"errors"
	"log/slog"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

// TaskNames are the long-lived tasks of a cell, which is built on the folder
// and not run.
func TaskNames(dir string) (names []string, err error) {
	f := &serveFlags{state: dir, runtime: dir, scope: string(cell.ScopeFull)}
	h, err := build(slog.New(slog.DiscardHandler), lifecycle.NewPanics(), f, cell.Host{Scope: cell.ScopeFull, HTTPPort: 80, HTTPSPort: 443, DNSPort: 53, NTPPort: 123})
	if err != nil {
		return nil, err
	}
	for _, t := range h.tasks {
		names = append(names, t.String())
	}
	return names, errors.Join(h.tunnel.Close(), h.audit.Close(), h.store.Close())
}
