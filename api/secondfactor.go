package api

import (
	"context"
	"net/http"
	"time"

	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/reconcile"
)

// SecondFactor says whether one's login asks for a code.
type SecondFactor struct {
	Enabled      bool       `json:"enabled"`
	Since        *time.Time `json:"since"`
	RecoveryLeft int        `json:"recovery_left" doc:"unused recovery codes"`
}

// Enrolment is a secret that waits for its first code.
type Enrolment struct {
	Secret string `json:"secret" doc:"base32, for typing"`
	URI    string `json:"uri" doc:"otpauth://, for a QR code"`
}

// RecoveryCodes are shown once.
type RecoveryCodes struct {
	RecoveryCodes []string `json:"recovery_codes" nullable:"false" doc:"each is good once, instead of a code"`
}

type codeIn struct {
	Write
	Body struct {
		Code string `json:"code" maxLength:"64"`
	}
}

func (a *API) secondFactorRoutes() {
	const path = "/api/auth/second-factor"
	register(a, Route{Access: auth.AccessUser, Operation: op("GET", path, "second-factor", "auth", "Whether one's own login asks for a code")},
		func(ctx context.Context, _ *struct{}) (*Out[SecondFactor], error) {
			return ok(a.secondFactor(identityOf(ctx).User))
		})
	register(a, Route{Access: auth.AccessUser, Reauth: true, Operation: op("POST", path, "enrol-second-factor", "auth", "Begin a second factor (TOTP); nothing changes before its first code")},
		func(ctx context.Context, _ *struct{ Body Empty }) (*Out[Enrolment], error) {
			s := sessionOf(ctx)
			if s == nil {
				return nil, onlySession()
			}
			st, _ := a.cfg.Engine.Running()
			secret, uri := a.cfg.SecondFactors.Enrol(s.User, "PIC "+st.Identity.Name)
			return ok(Enrolment{secret, uri})
		})
	register(a, Route{Access: auth.AccessUser, Reauth: true, Operation: op("POST", path+"/confirm", "confirm-second-factor", "auth", "Turn the second factor on with its first code; answers with the recovery codes")}, a.confirmSecondFactor)
	register(a, Route{Access: auth.AccessUser, Reauth: true, Operation: op("DELETE", path, "remove-second-factor", "auth", "Turn one's own second factor off")}, a.removeSecondFactor)
}

func onlySession() *Problem {
	return problem(http.StatusConflict, "conflict", "only a browser session can do this")
}

func (a *API) secondFactor(user string) (out SecondFactor) {
	s, _ := a.cfg.Engine.Running()
	if u := s.User(user); u != nil && u.SecondFactor != nil {
		since := u.SecondFactor.Since
		out = SecondFactor{true, &since, a.cfg.SecondFactors.RecoveryLeft(user, u.SecondFactor)}
	}
	return out
}

func (a *API) confirmSecondFactor(ctx context.Context, in *codeIn) (*Out[RecoveryCodes], error) {
	s := sessionOf(ctx)
	if s == nil {
		return nil, onlySession()
	}
	source := sourceOf(ctx)
	if wait := a.cfg.Backoff.Check(s.User, source); wait > 0 {
		return nil, tooMany(wait)
	}
	secret, err := a.cfg.SecondFactors.Confirm(s.User, in.Body.Code)
	a.cfg.Backoff.Release(s.User, source) // a wrong code of one's own new secret is no guess
	if err != nil {
		return nil, err
	}
	codes, hashes := auth.NewRecoveryCodes()
	ref := a.cfg.NewRef("totp")
	f := &cell.SecondFactor{Secret: ref, Recovery: hashes, Since: a.cfg.Now().UTC().Truncate(time.Second)}
	r, err := a.setSecondFactor(ctx, in.Write, s.User, "turn on the second factor of "+s.User, f, map[cell.SecretRef]cell.Secret{ref: secret})
	if err != nil {
		return nil, err
	}
	a.cfg.Sessions.RevokeUser(s.User, s.ID)
	return answer(a, r, "", http.StatusOK, RecoveryCodes{codes}), nil
}

func (a *API) removeSecondFactor(ctx context.Context, in *struct{ Write }) (*NoContent, error) {
	s := sessionOf(ctx)
	if s == nil {
		return nil, onlySession()
	}
	r, err := a.setSecondFactor(ctx, in.Write, s.User, "turn off the second factor of "+s.User, nil, nil)
	if err != nil {
		return nil, err
	}
	return noContent(r), nil
}

func (a *API) setSecondFactor(ctx context.Context, w Write, user, message string, f *cell.SecondFactor, secrets map[cell.SecretRef]cell.Secret) (reconcile.Result, error) {
	return a.commit(ctx, w, change{
		resource: "users/" + user, message: message, secrets: secrets,
		edit: func(s *cell.State) error {
			u := s.User(user)
			if u == nil {
				return notFound("user", user)
			}
			u.SecondFactor = f
			return nil
		},
	})
}

// checkCode is the second step of a login; u has passed the first. It uses the
// same count of tries, which the caller has opened with Check.
func (a *API) checkCode(ctx context.Context, u *cell.User, code string) error {
	source := sourceOf(ctx)
	if u.SecondFactor == nil {
		return nil
	}
	if code == "" {
		a.cfg.Backoff.Release(u.Name, source)
		return problem(http.StatusUnauthorized, "totp_required", "enter the code of your authenticator, or a recovery code")
	}
	secret, err := a.cfg.Secret(u.SecondFactor.Secret)
	if err != nil {
		a.cfg.Backoff.Release(u.Name, source)
		return err
	}
	right, err := a.cfg.SecondFactors.Check(u.Name, u.SecondFactor, secret, code)
	if err != nil {
		a.cfg.Backoff.Release(u.Name, source)
		return err
	}
	if !right {
		a.cfg.Backoff.Fail(u.Name, source)
		a.cfg.Log.Warn("wrong second factor", "user", u.Name, "address", source)
		return problem(http.StatusUnauthorized, "totp_wrong", "this code is wrong or was used before; wait for the next one")
	}
	return nil
}
