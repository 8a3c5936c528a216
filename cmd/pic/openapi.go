package main

import (
	"embed"
	"io"
	"log/slog"
	"time"

	"github.com/personal-internet-cell/pic/api"
)

// openAPI is the document of the route table, made without a cell.
func openAPI() ([]byte, error) {
	a := api.New(&api.Config{Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Now: time.Now, Version: version, UI: embed.FS{}})
	return a.OpenAPI()
}
