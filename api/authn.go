package api

import (
	"context"
	"net/http"
	"time"

	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/cell"
)

// Me is who is logged in.
type Me struct {
	User        string     `json:"user"`
	Role        cell.Role  `json:"role"`
	CSRFToken   string     `json:"csrf_token"`
	Expires     *time.Time `json:"expires"`
	ReauthUntil *time.Time `json:"reauth_until" doc:"until when no password is asked again"`
}

type meOut struct {
	Status    int
	SetCookie string `header:"Set-Cookie"`
	Body      Me
}

func (a *API) me(ctx context.Context) Me {
	id := identityOf(ctx)
	m := Me{User: id.User, Role: id.Role}
	if s := sessionOf(ctx); s != nil {
		m = meOf(s)
	}
	return m
}

func meOf(s *auth.Session) Me {
	exp, re := s.Expires().UTC(), s.ReauthUntil().UTC()
	return Me{User: s.User, Role: s.Role, CSRFToken: s.CSRF, Expires: &exp, ReauthUntil: &re}
}

func (a *API) authRoutes() {
	register(a, Route{Access: auth.AccessPublic, Operation: op("POST", "/api/auth/login", "login", "auth", "Log in")}, a.login)
	register(a, Route{Access: auth.AccessUser, Operation: op("POST", "/api/auth/logout", "logout", "auth", "End this session")},
		func(ctx context.Context, _ *struct{ Body Empty }) (*NoContent, error) {
			if s := sessionOf(ctx); s != nil {
				a.cfg.Sessions.Revoke(s.ID)
			}
			c := auth.ClearSessionCookie()
			return &NoContent{Status: http.StatusNoContent, SetCookie: c.String()}, nil
		})
	register(a, Route{Access: auth.AccessUser, Operation: op("GET", "/api/auth/me", "me", "auth", "Who is logged in")},
		func(ctx context.Context, _ *struct{}) (*Out[Me], error) { return ok(a.me(ctx)) })
	register(a, Route{Access: auth.AccessUser, Operation: op("GET", "/api/auth/csrf-token", "csrf-token", "auth", "The token that changes must carry in X-CSRF-Token")},
		func(ctx context.Context, _ *struct{}) (*Out[CSRFToken], error) {
			return ok(CSRFToken{a.me(ctx).CSRFToken})
		})
	register(a, Route{Access: auth.AccessUser, Operation: op("POST", "/api/auth/reauth", "reauth", "auth", "Enter the password again, for what needs that")}, a.reauth)
	register(a, Route{Access: auth.AccessUser, Operation: op("POST", "/api/auth/change-password", "change-password", "auth", "Change one's own password; other sessions end")}, a.changePassword)
	register(a, Route{Access: auth.AccessAdmin, Operation: op("GET", "/api/auth/users", "list-users", "auth", "All users")},
		func(ctx context.Context, _ *struct{}) (*Out[List[User]], error) {
			s, _ := a.cfg.Engine.Running()
			return ok(list(usersOf(s)))
		})
	register(a, Route{Access: auth.AccessAdmin, Reauth: true, Operation: op("POST", "/api/auth/users", "add-user", "auth", "Add a user")}, a.addUser)
	register(a, Route{Access: auth.AccessAdmin, Reauth: true, Operation: op("DELETE", "/api/auth/users/{name}", "remove-user", "auth", "Remove a user; their sessions end at once")}, a.removeUser)
	register(a, Route{Access: auth.AccessAdmin, Reauth: true, Operation: op("POST", "/api/auth/admin/reset-password", "reset-password", "auth", "Set another user's password; their sessions end")}, a.resetPassword)
	register(a, Route{Access: auth.AccessUser, Operation: op("GET", "/api/auth/sessions", "list-sessions", "auth", "One's own sessions; an admin sees all")}, a.listSessions)
	register(a, Route{Access: auth.AccessUser, Operation: op("DELETE", "/api/auth/sessions/{id}", "revoke-session", "auth", "End a session")}, a.revokeSession)
}

// CSRFToken is the answer of /api/auth/csrf-token.
type CSRFToken struct {
	CSRFToken string `json:"csrf_token"`
}

type loginIn struct {
	Body struct {
		User     string `json:"user" maxLength:"64"`
		Password string `json:"password" maxLength:"256"`
		TOTP     string `json:"totp,omitempty" maxLength:"64" doc:"the second factor's code, or a recovery code; asked for with code totp_required"`
	}
}

// login gives one answer for an unknown user and a wrong password, after the
// same work.
func (a *API) login(ctx context.Context, in *loginIn) (*meOut, error) {
	addr := remote(requestOf(ctx)).Addr()
	if err := a.checkLogin(ctx, in.Body.User, in.Body.Password, in.Body.TOTP); err != nil {
		return nil, err
	}
	role, found := a.RoleOf(in.Body.User)
	if !found {
		return nil, wrongLogin()
	}
	if old := sessionOf(ctx); old != nil {
		a.cfg.Sessions.Revoke(old.ID)
	}
	token, s := a.cfg.Sessions.Create(in.Body.User, role, addr)
	a.cfg.Log.Info("logged in", "user", s.User, "address", addr)
	c := auth.SessionCookie(token)
	return &meOut{Status: http.StatusOK, SetCookie: c.String(), Body: meOf(&s)}, nil
}

func wrongLogin() *Problem {
	return problem(http.StatusUnauthorized, "unauthenticated", "user or password is wrong")
}

// checkPassword verifies the password alone: of somebody who is logged in.
func (a *API) checkPassword(ctx context.Context, user, password string) error {
	return a.check(ctx, user, password, func(*cell.User) error { return nil })
}

// checkLogin verifies the password and then the second factor, if there is one.
func (a *API) checkLogin(ctx context.Context, user, password, code string) error {
	return a.check(ctx, user, password, func(u *cell.User) error { return a.checkCode(ctx, u, code) })
}

// check verifies one try, with backoff by account and address, and upgrades an
// old hash. Only when also has passed does the count start afresh.
func (a *API) check(ctx context.Context, user, password string, also func(*cell.User) error) error {
	source := sourceOf(ctx)
	a.noteUser(ctx, user)
	if wait := a.cfg.Backoff.Check(user, source); wait > 0 {
		return tooMany(wait)
	}
	s, _ := a.cfg.Engine.Running()
	u := s.User(user)
	if u == nil {
		if err := a.cfg.Passwords.Dummy(ctx, password); err != nil {
			a.cfg.Backoff.Release(user, source)
			return err
		}
		a.cfg.Backoff.Fail(user, source)
		return wrongLogin()
	}
	hash, err := a.cfg.Secret(u.PasswordHash)
	if err != nil {
		a.cfg.Backoff.Release(user, source)
		return err
	}
	right, rehash, err := a.cfg.Passwords.Verify(ctx, hash, password)
	if err != nil {
		a.cfg.Backoff.Release(user, source)
		return err
	}
	if !right {
		a.cfg.Backoff.Fail(user, source)
		a.cfg.Log.Warn("wrong password", "user", user, "address", source)
		return wrongLogin()
	}
	if err := also(u); err != nil {
		return err
	}
	a.cfg.Backoff.Succeed(user, source)
	if rehash {
		if err := a.setPassword(ctx, user, password, "upgrade the password hash of "+user, Write{}); err != nil {
			a.cfg.Log.Warn("upgrading a password hash", "user", user, "error", err)
		}
	}
	return nil
}

type passwordIn struct {
	Body struct {
		Password string `json:"password" maxLength:"256"`
	}
}

func (a *API) reauth(ctx context.Context, in *passwordIn) (*meOut, error) {
	old := sessionOf(ctx)
	if old == nil {
		return nil, problem(http.StatusConflict, "conflict", "only a browser session can do this")
	}
	if err := a.checkPassword(ctx, old.User, in.Body.Password); err != nil {
		return nil, err
	}
	token, s, live := a.cfg.Sessions.Renew(auth.SessionToken(requestOf(ctx)))
	if !live {
		return nil, auth.Unauthenticated.Problem()
	}
	c := auth.SessionCookie(token)
	return &meOut{Status: http.StatusOK, SetCookie: c.String(), Body: meOf(&s)}, nil
}

type changePasswordIn struct {
	Write
	Body struct {
		Current string `json:"current" maxLength:"256"`
		New     string `json:"new" maxLength:"256"`
	}
}

func (a *API) changePassword(ctx context.Context, in *changePasswordIn) (*NoContent, error) {
	s := sessionOf(ctx)
	if s == nil {
		return nil, problem(http.StatusConflict, "conflict", "use reset-password on the local socket")
	}
	if err := a.checkPassword(ctx, s.User, in.Body.Current); err != nil {
		return nil, err
	}
	if err := a.setPassword(ctx, s.User, in.Body.New, s.User+" changes their password", in.Write); err != nil {
		return nil, err
	}
	a.cfg.Sessions.RevokeUser(s.User, s.ID)
	return &NoContent{Status: http.StatusNoContent}, nil
}

// setPassword stores a new hash under a new reference.
func (a *API) setPassword(ctx context.Context, user, password, message string, w Write, also ...func(*cell.User)) error {
	st, _ := a.cfg.Engine.Running()
	if err := auth.CheckPassword(password, user, st.Identity.Name); err != nil {
		return invalid("/new", "%v", err)
	}
	hash, err := a.cfg.Passwords.Hash(ctx, password)
	if err != nil {
		return err
	}
	ref := a.cfg.NewRef("password")
	_, err = a.commit(ctx, w, change{
		resource: "users/" + user, message: message,
		secrets: map[cell.SecretRef]cell.Secret{ref: hash},
		edit: func(s *cell.State) error {
			u := s.User(user)
			if u == nil {
				return notFound("user", user)
			}
			u.PasswordHash = ref
			for _, f := range also {
				f(u)
			}
			return nil
		},
	})
	return err
}

// User is a person with a login, without anything secret.
type User struct {
	Name    string    `json:"name"`
	Role    cell.Role `json:"role"`
	Created time.Time `json:"created"`
	Peers   []string  `json:"peers" nullable:"false" doc:"the devices they own"`
}

func usersOf(s *cell.State) []User {
	out := []User{}
	for _, u := range s.Users {
		x := User{u.Name, u.Role, u.Created, []string{}}
		for _, p := range s.Peers {
			if p.Owner == u.Name {
				x.Peers = append(x.Peers, p.Name)
			}
		}
		out = append(out, x)
	}
	return out
}

type addUserIn struct {
	Write
	Body struct {
		Name     string    `json:"name" maxLength:"64"`
		Role     cell.Role `json:"role" enum:"admin,peer"`
		Password string    `json:"password" maxLength:"256"`
	}
}

func (a *API) addUser(ctx context.Context, in *addUserIn) (*Out[User], error) {
	b := &in.Body
	if err := auth.CheckPassword(b.Password, b.Name); err != nil {
		return nil, invalid("/password", "%v", err)
	}
	hash, err := a.cfg.Passwords.Hash(ctx, b.Password)
	if err != nil {
		return nil, err
	}
	ref, now := a.cfg.NewRef("password"), a.cfg.Now().UTC().Truncate(time.Second)
	u := cell.User{Name: b.Name, Role: b.Role, PasswordHash: ref, Created: now}
	r, err := a.commit(ctx, in.Write, change{
		resource: "users/" + b.Name, message: "add user " + b.Name,
		secrets: map[cell.SecretRef]cell.Secret{ref: hash},
		edit: func(s *cell.State) error {
			if s.User(b.Name) != nil {
				return problem(http.StatusConflict, "conflict", "there is already a user %q", b.Name)
			}
			s.Users = append(s.Users, u)
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	return answer(a, r, "users/"+b.Name, http.StatusCreated, User{u.Name, u.Role, u.Created, []string{}}), nil
}

type userNameIn struct {
	Write
	Name string `path:"name" maxLength:"64"`
}

func (a *API) removeUser(ctx context.Context, in *userNameIn) (*NoContent, error) {
	r, err := a.commit(ctx, in.Write, change{
		resource: "users/" + in.Name, message: "remove user " + in.Name,
		edit: func(s *cell.State) error { return removeUser(s, in.Name) },
	})
	if err != nil {
		return nil, err
	}
	a.cfg.Sessions.RevokeUser(in.Name, "")
	return noContent(r), nil
}

func removeUser(s *cell.State, name string) error {
	u := s.User(name)
	if u == nil {
		return notFound("user", name)
	}
	admins := 0
	for _, x := range s.Users {
		if x.Role == cell.RoleAdmin {
			admins++
		}
	}
	if u.Role == cell.RoleAdmin && admins == 1 {
		return problem(http.StatusConflict, "conflict", "%s is the only admin: make another one first", name)
	}
	keep := s.Users[:0:0]
	for _, x := range s.Users {
		if x.Name != name {
			keep = append(keep, x)
		}
	}
	s.Users = keep
	for i := range s.Peers {
		if s.Peers[i].Owner == name {
			s.Peers[i].Owner = ""
		}
	}
	return nil
}

// clearSecondFactor is part of a reset: who lost the password may have lost the
// device too.
func clearSecondFactor(u *cell.User) { u.SecondFactor = nil }

type resetIn struct {
	Write
	Body struct {
		User     string `json:"user" maxLength:"64"`
		Password string `json:"password" maxLength:"256"`
	}
}

func (a *API) resetPassword(ctx context.Context, in *resetIn) (*NoContent, error) {
	if err := a.setPassword(ctx, in.Body.User, in.Body.Password, "reset the password of "+in.Body.User, in.Write, clearSecondFactor); err != nil {
		return nil, err
	}
	a.cfg.Sessions.RevokeUser(in.Body.User, "")
	a.cfg.Backoff.Forget(in.Body.User)
	return &NoContent{Status: http.StatusNoContent}, nil
}

// SessionInfo is a session as its owner sees it.
type SessionInfo struct {
	ID       string    `json:"id"`
	User     string    `json:"user"`
	Created  time.Time `json:"created"`
	LastSeen time.Time `json:"last_seen"`
	Address  string    `json:"address"`
	Current  bool      `json:"current"`
}

func (a *API) listSessions(ctx context.Context, _ *struct{}) (*Out[List[SessionInfo]], error) {
	id, current := identityOf(ctx), ""
	if s := sessionOf(ctx); s != nil {
		current = s.ID
	}
	who := id.User
	if id.Role == cell.RoleAdmin {
		who = ""
	}
	var out []SessionInfo
	for _, s := range a.cfg.Sessions.List(who) {
		out = append(out, SessionInfo{s.ID, s.User, s.Created, s.LastSeen, s.Address.String(), s.ID == current})
	}
	return ok(list(out))
}

type sessionIDIn struct {
	ID string `path:"id" maxLength:"64"`
}

func (a *API) revokeSession(ctx context.Context, in *sessionIDIn) (*NoContent, error) {
	id := identityOf(ctx)
	for _, s := range a.cfg.Sessions.List("") {
		if s.ID == in.ID && (id.Role == cell.RoleAdmin || s.User == id.User) {
			a.cfg.Sessions.Revoke(s.ID)
			return &NoContent{Status: http.StatusNoContent}, nil
		}
	}
	return nil, notFound("session", in.ID)
}
