package auth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"strings"
)

// Names of the cookies. The prefix makes a browser refuse the cookie unless it
// is Secure, has Path=/ and no Domain, so no sibling name can plant one (RFC
// 6265bis, section 4.1.3.2).
const (
	SessionCookieName = "__Host-pic"
	SetupCookieName   = "__Host-pic-setup"
)

const (
	sessionPrefix = "pics_"
	setupPrefix   = "picw_"
)

// SessionCookie carries a session token; the browser drops it when it closes.
func SessionCookie(token string) http.Cookie { return cookie(SessionCookieName, token, 0) }

// ClearSessionCookie makes the browser forget the session.
func ClearSessionCookie() http.Cookie { return cookie(SessionCookieName, "", -1) }

// SetupCookie carries the token of a setup session.
func SetupCookie(token string) http.Cookie { return cookie(SetupCookieName, token, 0) }

// ClearSetupCookie makes the browser forget the setup session.
func ClearSetupCookie() http.Cookie { return cookie(SetupCookieName, "", -1) }

func cookie(name, value string, maxAge int) http.Cookie {
	return http.Cookie{Name: name, Value: value, Path: "/", MaxAge: maxAge, Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode}
}

// SessionToken returns the session token that r carries, or "". Two cookies of
// the name are none: a browser never sends two.
func SessionToken(r *http.Request) string { return cookieToken(r, SessionCookieName, sessionPrefix) }

// SetupToken returns the token of the setup session that r carries, or "".
func SetupToken(r *http.Request) string { return cookieToken(r, SetupCookieName, setupPrefix) }

func cookieToken(r *http.Request, name, prefix string) string {
	found := r.CookiesNamed(name)
	if len(found) != 1 || !tokenShaped(found[0].Value, prefix) {
		return ""
	}
	return found[0].Value
}

const tokenBytes = 32

// newToken returns 256 random bits with a prefix that says what they are, so
// that a leaked one is recognised.
func newToken(prefix string) string {
	b := make([]byte, tokenBytes)
	rand.Read(b)
	return prefix + base64.RawURLEncoding.EncodeToString(b)
}

func tokenShaped(token, prefix string) bool {
	rest, ok := strings.CutPrefix(token, prefix)
	return ok && len(rest) == base64.RawURLEncoding.EncodedLen(tokenBytes)
}

func tokenHash(token string) [sha256.Size]byte { return sha256.Sum256([]byte(token)) }

// CSRFToken derives the X-CSRF-Token of a session from its token. It is bound
// to the session, known to nobody without the cookie, and stored nowhere.
func CSRFToken(token string) string {
	m := hmac.New(sha256.New, []byte(token))
	m.Write([]byte("pic csrf token"))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

// CSRFMatches compares a header's value with the token of the session, in
// constant time.
func CSRFMatches(token, header string) bool {
	return token != "" && subtle.ConstantTimeCompare([]byte(CSRFToken(token)), []byte(header)) == 1
}
