package api

import (
	"context"
	"embed"
	"mime"
	"path"

	"github.com/personal-internet-cell/pic/auth"
)

// docFiles are the page that renders the OpenAPI document. Its script and style
// are files of their own, so that the content security policy stays as it is.
//
//go:embed docs
var docFiles embed.FS

func (a *API) docRoutes() {
	register(a, Route{Access: auth.AccessUser, Operation: op("GET", "/api/docs", "docs", "core", "This API as a page")},
		func(context.Context, *struct{}) (*textOut, error) { return docFile("index.html") })
	register(a, Route{Access: auth.AccessUser, Operation: op("GET", "/api/docs/{file}", "docs-file", "core", "Script and style of the page")},
		func(_ context.Context, in *docFileIn) (*textOut, error) { return docFile(in.File) })
}

type docFileIn struct {
	File string `path:"file" doc:"docs.js or docs.css"`
}

func docFile(name string) (*textOut, error) {
	b, err := docFiles.ReadFile(path.Join("docs", path.Base(name)))
	if err != nil {
		return nil, notFound("file", name)
	}
	return &textOut{ContentType: mime.TypeByExtension(path.Ext(name)), Body: b}, nil
}
