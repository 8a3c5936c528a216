package api

import (
	"errors"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
)

// noUI is shown by a binary that was built without the web app.
const noUI = `<!doctype html><html lang="en"><meta charset="utf-8"><title>Personal Internet Cell</title>
<h1>Personal Internet Cell</h1><p>This binary was built without its web app. Run <code>make build</code>, or use the <code>pic</code> command.</p></html>
`

// fallback serves the web app for everything the route table does not name.
// Unknown API paths are problems; other paths without a file are the app's own
// routes, so they get index.html.
func (a *API) fallback(c *gin.Context) {
	w, r := c.Writer, c.Request
	if r.URL.Path == "/api" || strings.HasPrefix(r.URL.Path, "/api/") {
		a.writeHTTPProblem(w, r, problem(http.StatusNotFound, "not_found", "there is no %s; /api/openapi.json lists what there is", r.URL.Path))
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		a.writeHTTPProblem(w, r, problem(http.StatusMethodNotAllowed, "method_not_allowed", "%s is not a method of %s", r.Method, r.URL.Path))
		return
	}
	if to, old := oldPaths[strings.TrimSuffix(r.URL.Path, "/")]; old {
		http.Redirect(w, r, to, http.StatusMovedPermanently)
		return
	}
	name := strings.TrimPrefix(path.Clean("/"+r.URL.Path), "/")
	if strings.HasPrefix(name, ".") || !fs.ValidPath(name) {
		name = ""
	}
	if f, err := a.openAsset(name); err == nil {
		defer f.Close()
		if strings.HasPrefix(name, "assets/") { // their names carry a hash
			w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		} else {
			w.Header().Set("Cache-Control", "no-cache")
		}
		serve(w, r, name, f)
		return
	}
	if strings.HasPrefix(name, "assets/") {
		a.writeHTTPProblem(w, r, problem(http.StatusNotFound, "not_found", "there is no file %s", r.URL.Path))
		return
	}
	w.Header().Set("Cache-Control", "no-cache")
	f, err := a.openAsset("index.html")
	if errors.Is(err, fs.ErrNotExist) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(http.StatusOK)
		_, _ = io.WriteString(w, noUI)
		return
	}
	if err != nil {
		a.writeHTTPProblem(w, r, problem(http.StatusInternalServerError, "internal", "the web app can't be read"))
		return
	}
	defer f.Close()
	serve(w, r, "index.html", f)
}

// oldPaths redirect the original's pages.
var oldPaths = map[string]string{
	"/email": "/services/email", "/calendar": "/services/calendar", "/files": "/services/files", "/store": "/services",
}

func (a *API) openAsset(name string) (fs.File, error) {
	if name == "" {
		return nil, fs.ErrNotExist
	}
	f, err := a.cfg.UI.Open(name)
	if err != nil {
		return nil, err
	}
	if st, err := f.Stat(); err != nil || st.IsDir() {
		return nil, errors.Join(fs.ErrNotExist, f.Close())
	}
	return f, nil
}

// serve answers ranges and conditional requests too (RFC 9110 §13, §14).
func serve(w http.ResponseWriter, r *http.Request, name string, f fs.File) {
	if t := mime.TypeByExtension(path.Ext(name)); t != "" {
		w.Header().Set("Content-Type", t)
	}
	s, seeks := f.(io.ReadSeeker)
	if !seeks { // no file system of ours; copy it
		w.WriteHeader(http.StatusOK)
		_, _ = io.Copy(w, f)
		return
	}
	http.ServeContent(w, r, name, time.Time{}, s)
}
