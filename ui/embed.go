// Package ui holds the built admin UI, so that the binary carries it. It owns
// nothing in the world. It must never hold logic: embed.go is its only Go file.
package ui

import (
	"embed"
	"io/fs"
)

//go:embed all:dist
var dist embed.FS

// Files returns the built UI, rooted at its index.html. A binary built without
// the UI has an empty tree.
func Files() fs.FS {
	sub, err := fs.Sub(dist, "dist")
	if err != nil {
		panic("ui: dist is embedded, so this can't happen: " + err.Error())
	}
	return sub
}
