package auth

import (
	"net/http"
	"time"
)

// Problem is a refusal with its HTTP status and the stable word that clients
// branch on (RFC 9457 calls it a problem detail). The api writes it out as
// application/problem+json; Detail is shown to a person and holds no secret.
type Problem struct {
	Status     int
	Code       string
	Detail     string
	Link       string        // where the cure is, or empty
	RetryAfter time.Duration // for 429, else 0
}

func (p *Problem) Error() string { return p.Detail }

// The refusals of this package. They are compared by identity (errors.Is) and
// must not be changed.
var (
	// ErrBusy is returned when so many passwords are being checked that
	// another one would not be answered soon.
	ErrBusy = &Problem{Status: http.StatusTooManyRequests, Code: "too_many", Detail: "Too many sign-ins at once; try again in a few seconds.", RetryAfter: 3 * time.Second}
	// ErrClaimed is returned to everybody but the one who claims the cell.
	ErrClaimed = &Problem{Status: http.StatusConflict, Code: "conflict", Detail: "This cell has an owner already."}
	// ErrClaiming is returned while another claim is being carried out.
	ErrClaiming = &Problem{Status: http.StatusConflict, Code: "conflict", Detail: "Somebody else is completing the setup right now."}
	// ErrSetupSession is returned for a setup token that is unknown or old.
	ErrSetupSession = &Problem{Status: http.StatusForbidden, Code: "forbidden", Detail: "Enter the setup code first.", Link: "/setup"}

	errSetupRequired   = &Problem{Status: http.StatusPreconditionRequired, Code: "setup_required", Detail: "This cell has no owner yet; finish the setup first.", Link: "/setup"}
	errUnauthenticated = &Problem{Status: http.StatusUnauthorized, Code: "unauthenticated", Detail: "Sign in first."}
	errReauth          = &Problem{Status: http.StatusUnauthorized, Code: "reauth_required", Detail: "Enter your password again for this."}
	errForbidden       = &Problem{Status: http.StatusForbidden, Code: "forbidden", Detail: "Your account may not do this."}
	errMisdirected     = &Problem{Status: http.StatusMisdirectedRequest, Code: "misdirected", Detail: "This cell does not answer under that name; open it by its own name or address."}
	errCrossOrigin     = &Problem{Status: http.StatusForbidden, Code: "csrf", Detail: "Requests from other web sites are refused."}
	errCSRF            = &Problem{Status: http.StatusForbidden, Code: "csrf", Detail: "The X-CSRF-Token header is missing or wrong; reload the page."}
	errMediaType       = &Problem{Status: http.StatusUnsupportedMediaType, Code: "unsupported_media_type", Detail: "Send the header Content-Type: application/json."}
	errTooLarge        = &Problem{Status: http.StatusRequestEntityTooLarge, Code: "too_large", Detail: "The request is too large."}
)
