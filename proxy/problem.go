package proxy

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"strings"
)

// problem answers with problem details (RFC 9457).
func problem(w http.ResponseWriter, status int, code, detail string) {
	body, err := json.Marshal(struct {
		Type      string     `json:"type"`
		Title     string     `json:"title"`
		Status    int        `json:"status"`
		Detail    string     `json:"detail"`
		Code      string     `json:"code"`
		RequestID string     `json:"request_id"`
		Errors    []struct{} `json:"errors"`
	}{"about:blank", http.StatusText(status), status, detail, code, rand.Text(), []struct{}{}})
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	answer(w, status, "application/problem+json", body)
}

// misdirected is RFC 9110 §15.5.20: this server does not answer for that host.
// It closes the connection, so that a browser that shared it opens another.
func misdirected(w http.ResponseWriter, detail string) {
	w.Header().Set("Connection", "close")
	problem(w, http.StatusMisdirectedRequest, "misdirected", detail)
}

// refuse tells a person of the house that a service is not for this device.
func refuse(w http.ResponseWriter, r *http.Request, service string) {
	text := fmt.Sprintf("This device may not open %s. Ask the admin of this cell to grant it.", service)
	page(w, r, http.StatusForbidden, "forbidden", "Not for this device", text)
}

// unavailable is the maintenance page.
func unavailable(w http.ResponseWriter, r *http.Request, service string) {
	w.Header().Set("Retry-After", retryAfter)
	text := fmt.Sprintf("%s is not running at the moment. This page tries again by itself.", service)
	page(w, r, http.StatusServiceUnavailable, "upstream_down", "Back soon", text)
}

// page answers browsers with a page and programs with a problem.
func page(w http.ResponseWriter, r *http.Request, status int, code, title, text string) {
	if !strings.Contains(r.Header.Get("Accept"), "text/html") {
		problem(w, status, code, text)
		return
	}
	refresh := ""
	if s := w.Header().Get("Retry-After"); s != "" && r.Method == http.MethodGet {
		refresh = `<meta http-equiv="refresh" content="` + s + `">`
	}
	w.Header().Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	body := fmt.Sprintf("<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">%s<title>%s</title></head><body><h1>%s</h1><p>%s</p></body></html>\n",
		refresh, html.EscapeString(title), html.EscapeString(title), html.EscapeString(text))
	answer(w, status, "text/html; charset=utf-8", []byte(body))
}

func answer(w http.ResponseWriter, status int, contentType string, body []byte) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client may be gone
}
