package cell

import (
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Limits of API tokens.
const (
	MaxTokensPerUser = 20
	MaxScopes        = 20
)

// Token is an API token of a user. Only its hash is kept: the token itself has
// 256 random bits, so that the hash tells nobody what it was.
type Token struct {
	// ID names the token in lists and for revoking; 24 hex digits.
	ID string `json:"id"`
	// Name is what its owner calls it.
	Name string `json:"name"`
	// Hash is SHA-256 of the whole token, in hex.
	Hash string `json:"hash"`
	// Scopes are what it may do, within what its owner may; none is nothing.
	Scopes  []TokenScope `json:"scopes"`
	Created time.Time    `json:"created"`
	// Expires is when it ends.
	Expires time.Time `json:"expires"`
}

// Allows reports whether one of the scopes covers a request.
func (t *Token) Allows(method, path string) bool {
	return slices.ContainsFunc(t.Scopes, func(s TokenScope) bool { return s.Covers(method, path) })
}

// TokenScope is a set of requests that a token may make.
type TokenScope struct {
	// Method is an HTTP method in capitals, or * for every method.
	Method string `json:"method"`
	// Path is an absolute path in which a segment * stands for any one segment,
	// and ** at the end for any number of them, none included. It is below /api,
	// or [MetricsPath], which no pattern covers.
	Path string `json:"path"`
}

// MetricsPath is where monitors read the cell's metrics.
const MetricsPath = "/metrics"

// Covers reports whether a request is in the scope. A scope for GET covers
// HEAD (RFC 9110 §9.3.2). Paths are compared byte by byte; one that is not
// clean (dot or empty segments) is in no scope.
func (s TokenScope) Covers(method, path string) bool {
	if s.Method != "*" && s.Method != method && !(s.Method == "GET" && method == "HEAD") {
		return false
	}
	want, got := strings.Split(s.Path, "/"), strings.Split(path, "/")
	for i, g := range got {
		if i > 0 && (g == "" || g == "." || g == "..") {
			return false
		}
	}
	for i, w := range want {
		switch {
		case w == "**" && i == len(want)-1:
			return true
		case i >= len(got), w != "*" && w != got[i]:
			return false
		}
	}
	return len(want) == len(got)
}

func (s TokenScope) validate(v *validation) {
	if !slices.Contains([]string{"*", "GET", "POST", "PUT", "DELETE"}, s.Method) {
		v.add("method", "must be GET, POST, PUT, DELETE or *")
	}
	if s.Path == MetricsPath {
		return
	}
	segments := strings.Split(s.Path, "/")
	if len(s.Path) > 200 || len(segments) < 2 || segments[0] != "" || segments[1] != "api" {
		v.add("path", "must be a path below /api, such as /api/peers or /api/peers/*, or /metrics")
		return
	}
	for i, x := range segments[1:] {
		last := i == len(segments)-2
		if x == "" || x == "." || x == ".." || strings.ContainsFunc(x, func(r rune) bool { return r <= ' ' || r > '~' || r == '%' || r == '?' }) ||
			strings.Contains(x, "*") && x != "*" && !(x == "**" && last) {
			v.add("path", "%q can't be a part of a path: use plain segments, * for any one, and ** at the end for the rest", clip(x))
			return
		}
	}
}

func (t *Token) validate(v *validation) {
	if b, err := hex.DecodeString(t.ID); err != nil || len(b) != 12 {
		v.add("id", "must be 24 hex digits")
	}
	if b, err := hex.DecodeString(t.Hash); err != nil || len(b) != 32 {
		v.add("hash", "must be 64 hex digits")
	}
	if n := len(t.Name); n < 1 || n > 64 || strings.ContainsFunc(t.Name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		v.add("name", "must be 1 to 64 characters on one line")
	}
	v.max("scopes", len(t.Scopes), MaxScopes)
	for i, s := range t.Scopes {
		v.in("scopes/"+strconv.Itoa(i), func() { s.validate(v) })
	}
	if !t.Expires.After(t.Created) || !ValidTime(t.Expires) || !ValidTime(t.Created) {
		v.add("expires", "must be after created")
	}
}

// RecoveryCodes is how many a second factor has at most.
const RecoveryCodes = 10

// SecondFactor is a user's TOTP (RFC 6238).
type SecondFactor struct {
	// Secret is the shared secret, in base32 without padding.
	Secret SecretRef `json:"secret"`
	// Recovery are SHA-256 of the recovery codes, in hex; which of them are
	// used is history.
	Recovery []string `json:"recovery"`
	// Since is when it was confirmed.
	Since time.Time `json:"since"`
}

func (f *SecondFactor) validate(v *validation) {
	if f.Secret == "" {
		v.add("secret", "a second factor needs its secret")
	}
	v.max("recovery", len(f.Recovery), RecoveryCodes)
	for i, r := range f.Recovery {
		if b, err := hex.DecodeString(r); err != nil || len(b) != 32 {
			v.add("recovery/"+strconv.Itoa(i), "must be 64 hex digits")
		}
	}
}
