package auth

import (
	"time"

	"github.com/personal-internet-cell/pic/cell"
)

// Access says who may use a route. Every route declares one; the zero value
// and unknown values let nobody in.
type Access string

const (
	AccessPublic  Access = "public"  // anybody
	AccessSetup   Access = "setup"   // anybody, also before the claim; the handler asks for the code
	AccessUser    Access = "user"    // either role; the handler filters
	AccessAdmin   Access = "admin"   // administrators
	AccessPeer    Access = "peer"    // role peer only: an administrator has no peer of its own
	AccessCell    Access = "cell"    // linked cells, over their link
	AccessLocal   Access = "local"   // the unix socket
	AccessMetrics Access = "metrics" // the metrics token, loopback, or the unix socket
)

// Accesses lists every declared access.
func Accesses() []Access {
	return []Access{AccessPublic, AccessSetup, AccessUser, AccessAdmin, AccessPeer, AccessCell, AccessLocal, AccessMetrics}
}

// Via says how an identity was proven. The zero value is "not at all".
type Via string

const (
	ViaNone    Via = ""
	ViaSession Via = "session" // session cookie
	ViaToken   Via = "token"   // API token (Bearer)
	ViaSocket  Via = "socket"  // peer credentials of the unix socket
	ViaLink    Via = "link"    // a linked cell, by its link address and signature
	ViaMetrics Via = "metrics" // the metrics token, or a loopback client
)

// Identity is who is asking. The zero value is a stranger.
type Identity struct {
	User     string
	Role     cell.Role // empty: no role, so no access
	Via      Via
	UID      uint32    // with ViaSocket
	Session  string    // public id of the session, with ViaSession
	Token    string    // public id of the API token, with ViaToken
	Reauthed time.Time // when the password was last entered, with ViaSession
}

// Decision is the outcome of an access check. The zero value refuses.
type Decision int

const (
	Forbidden Decision = iota
	Unauthenticated
	SetupRequired
	ReauthRequired
	Allow
)

// Problem returns the refusal to send, or nil for Allow.
func (d Decision) Problem() *Problem {
	switch d {
	case Allow:
		return nil
	case Unauthenticated:
		return errUnauthenticated
	case SetupRequired:
		return errSetupRequired
	case ReauthRequired:
		return errReauth
	default:
		return errForbidden
	}
}

func (d Decision) String() string {
	switch d {
	case Allow:
		return "allow"
	case Unauthenticated:
		return "unauthenticated"
	case SetupRequired:
		return "setup-required"
	case ReauthRequired:
		return "reauth-required"
	default:
		return "forbidden"
	}
}

// Gate is the first question for requests over the network: before the claim
// nothing is offered but the public routes and the setup. The unix socket has
// no gate: whoever is an administrator there owns the machine already.
func Gate(access Access, claimed bool) Decision {
	if claimed || access == AccessPublic || access == AccessSetup {
		return Allow
	}
	return SetupRequired
}

// Allowed decides whether who may use a route of the given access. It is pure;
// asks for a fresh password are a question of their own, see [Reauth].
func Allowed(access Access, who Identity) Decision {
	person := who.Via == ViaSession || who.Via == ViaToken || who.Via == ViaSocket
	allow := false
	switch access {
	case AccessPublic, AccessSetup:
		return Allow
	case AccessUser:
		allow = person && (who.Role == cell.RoleAdmin || who.Role == cell.RolePeer)
	case AccessAdmin:
		allow = person && who.Role == cell.RoleAdmin
	case AccessPeer:
		allow = person && who.Role == cell.RolePeer
	case AccessCell:
		allow = who.Via == ViaLink
	case AccessLocal:
		allow = who.Via == ViaSocket && who.Role == cell.RoleAdmin
	case AccessMetrics:
		allow = who.Via == ViaMetrics || who.Via == ViaSocket && who.Role == cell.RoleAdmin
	default:
		return Forbidden
	}
	switch {
	case allow:
		return Allow
	case who.Via == ViaNone:
		return Unauthenticated
	default:
		return Forbidden
	}
}

// ReauthFor is how long an entered password counts as fresh.
const ReauthFor = 5 * time.Minute

// Reauth decides whether who may use a route that asks for a fresh password. A
// session needs one at most five minutes old; the unix socket is proof enough,
// by the kernel; a token can't enter a password and is refused.
func Reauth(who Identity, now time.Time) Decision {
	switch who.Via {
	case ViaSocket:
		return Allow
	case ViaSession:
		// A time in the future is a clock that was set back: not fresh.
		if age := now.Sub(who.Reauthed); !who.Reauthed.IsZero() && age >= 0 && age <= ReauthFor {
			return Allow
		}
		return ReauthRequired
	case ViaNone:
		return Unauthenticated
	default:
		return Forbidden
	}
}
