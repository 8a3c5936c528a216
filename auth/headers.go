package auth

import (
	"net/http"
	"strings"
	"time"
)

// contentPolicy lets the pages of the cell load what the cell itself serves and
// nothing else (CSP Level 3). Trusted Types are left out: React assigns markup
// to innerHTML for SVG and for dangerouslySetInnerHTML without a policy.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; " +
	"connect-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// permissionsPolicy turns off what the pages never use.
const permissionsPolicy = "accelerometer=(), camera=(), display-capture=(), geolocation=(), gyroscope=(), microphone=(), " +
	"midi=(), payment=(), serial=(), usb=(), xr-spatial-tracking=()"

// Headers sets the security headers of every answer, refusals included, and
// forbids caches to keep answers of the API. Strict-Transport-Security is the
// proxy's: only it knows whether the certificate is a public one.
func (g *WebGuard) Headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", contentPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Permissions-Policy", permissionsPolicy)
		if r.URL.Path == "/api" || strings.HasPrefix(r.URL.Path, "/api/") {
			h.Set("Cache-Control", "no-store")
		}
		next.ServeHTTP(w, r)
	})
}

// RetryAfterSeconds rounds a wait up to what a Retry-After header says (RFC
// 9110, section 10.2.3); at least 1.
func RetryAfterSeconds(wait time.Duration) int {
	return max(1, int((wait+time.Second-1)/time.Second))
}
