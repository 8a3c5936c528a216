package api

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/reconcile"
)

// Draft is what the setup wizard collects; PIC_INIT_FILE has the same fields.
type Draft struct {
	CellName   string          `json:"cell_name"`
	DomainMode cell.DomainMode `json:"domain_mode"`
	Domain     string          `json:"domain"`
	Timezone   string          `json:"timezone"`
	Language   string          `json:"language"`
	User       string          `json:"user"`
	// Password is hashed at once in the wizard; only PIC_INIT_FILE carries it.
	Password string `json:"password"`

	hash cell.Secret
	step string
}

// newDraft is where a wizard begins.
func newDraft() Draft {
	return Draft{DomainMode: cell.ModeLAN, Timezone: "UTC", User: "admin", step: "identity"}
}

// draftOf returns the draft that the request's setup cookie unlocks. Drafts
// live in memory only: before the claim no request writes a file.
func (a *API) draftOf(ctx context.Context) (token string, d Draft, unlocked bool) {
	r := requestOf(ctx)
	if r == nil {
		return "", Draft{}, false
	}
	token = auth.SetupToken(r)
	d, unlocked = a.drafts.Draft(token)
	return token, d, unlocked
}

// SetupStatus says how far the setup is.
type SetupStatus struct {
	Claimed  bool   `json:"claimed"`
	Step     string `json:"step" enum:"code,identity,admin,review,done"`
	Unlocked bool   `json:"unlocked" doc:"this browser has given the setup code"`
}

// SetupData is what was entered so far.
type SetupData struct {
	CellName    string          `json:"cell_name"`
	DomainMode  cell.DomainMode `json:"domain_mode"`
	Domain      string          `json:"domain"`
	Timezone    string          `json:"timezone"`
	Language    string          `json:"language"`
	User        string          `json:"user"`
	HasPassword bool            `json:"has_password"`
}

// SetupStep is the wizard's present step.
type SetupStep struct {
	Step     string    `json:"step"`
	Unlocked bool      `json:"unlocked"`
	Data     SetupData `json:"data"`
}

type setupStepOut struct {
	SetCookie string `header:"Set-Cookie"`
	Body      SetupStep
}

type setupStepIn struct {
	Body struct {
		Step       string          `json:"step" enum:"code,identity,admin"`
		Code       string          `json:"code,omitempty" maxLength:"200"`
		CellName   string          `json:"cell_name,omitempty" maxLength:"63"`
		DomainMode cell.DomainMode `json:"domain_mode,omitempty" maxLength:"20"`
		Domain     string          `json:"domain,omitempty" maxLength:"253"`
		Timezone   string          `json:"timezone,omitempty" maxLength:"64"`
		Language   string          `json:"language,omitempty" maxLength:"35"`
		User       string          `json:"user,omitempty" maxLength:"64"`
		Password   string          `json:"password,omitempty" maxLength:"256"`
	}
}

// Claimed is the answer to a finished setup.
type Claimed struct {
	Revision    cell.Revision `json:"revision"`
	Domain      string        `json:"domain"`
	URL         string        `json:"url"`
	Fingerprint string        `json:"fingerprint" doc:"SHA-256 of the certificate shown during setup"`
}

type claimOut struct {
	Status      int
	SetCookie   []string `header:"Set-Cookie"`
	PicRevision string   `header:"Pic-Revision"`
	Body        Claimed
}

func (a *API) setupRoutes() {
	register(a, Route{Access: auth.AccessSetup, Operation: op("GET", "/api/setup/status", "setup-status", "setup", "Whether the cell is claimed, and the wizard's step")},
		func(ctx context.Context, _ *struct{}) (*Out[SetupStatus], error) {
			if a.claimed() {
				return ok(SetupStatus{Claimed: true, Step: "done"})
			}
			_, d, unlocked := a.draftOf(ctx)
			if !unlocked {
				d.step = "code"
			}
			return ok(SetupStatus{Step: d.step, Unlocked: unlocked})
		})
	register(a, Route{Access: auth.AccessSetup, Operation: op("GET", "/api/setup/step", "setup-step", "setup", "The wizard's present step and what was entered")},
		func(ctx context.Context, _ *struct{}) (*setupStepOut, error) {
			if a.claimed() {
				return &setupStepOut{Body: SetupStep{Step: "done"}}, nil
			}
			_, d, unlocked := a.draftOf(ctx)
			return &setupStepOut{Body: stepOf(d, unlocked)}, nil
		})
	register(a, Route{Access: auth.AccessSetup, Operation: op("POST", "/api/setup/step", "setup-submit", "setup", "Submit one step: the code first, then identity and admin in any order")}, a.setupSubmit)
	register(a, Route{Access: auth.AccessSetup, Operation: op("POST", "/api/setup/complete", "setup-complete", "setup", "Claim the cell: one commit of admin, identity and authority")}, a.setupComplete)
	register(a, Route{Access: auth.AccessLocal, Operation: op("GET", "/api/setup/code", "setup-code", "setup", "The current setup code (local socket only)")},
		func(ctx context.Context, _ *struct{}) (*Out[SetupCode], error) {
			if a.claimed() {
				return nil, problem(http.StatusConflict, "conflict", "this cell is claimed: there is no setup code")
			}
			return ok(SetupCode{Code: a.cfg.SetupCode.Current(), Fingerprint: a.cfg.Fingerprint(), URLs: a.SetupURLs()})
		})
}

// SetupCode is what the console shows.
type SetupCode struct {
	Code        string   `json:"code"`
	Fingerprint string   `json:"fingerprint"`
	URLs        []string `json:"urls" nullable:"false"`
}

// SetupURLs are the private addresses at which the wizard can be reached.
func (a *API) SetupURLs() []string {
	urls := []string{}
	f := a.cfg.Engine.Facts()
	for _, ip := range f.LocalAddresses() {
		if ip.IsPrivate() && !ip.IsLinkLocalUnicast() {
			urls = append(urls, a.url(ip.String())+"/setup")
		}
	}
	return append(urls, a.url("localhost")+"/setup")
}

// url is https://host with the port where it is not the usual one.
func (a *API) url(host string) string {
	if ip, err := netip.ParseAddr(host); err == nil && ip.Is6() {
		host = "[" + host + "]"
	}
	if a.cfg.HTTPSPort != 443 {
		host = net.JoinHostPort(strings.Trim(host, "[]"), strconv.Itoa(int(a.cfg.HTTPSPort)))
	}
	return "https://" + host
}

func (a *API) claimed() bool {
	s, _ := a.cfg.Engine.Running()
	return s != nil && s.Claimed()
}

func stepOf(d Draft, unlocked bool) SetupStep {
	if !unlocked {
		return SetupStep{Step: "code"}
	}
	return SetupStep{Step: d.step, Unlocked: true, Data: SetupData{d.CellName, d.DomainMode, d.Domain, d.Timezone, d.Language, d.User, !d.hash.Empty()}}
}

func (a *API) setupSubmit(ctx context.Context, in *setupStepIn) (*setupStepOut, error) {
	if a.claimed() {
		return nil, alreadyClaimed()
	}
	b := &in.Body
	if b.Step == "code" {
		return a.setupUnlock(ctx, b.Code)
	}
	token, d, unlocked := a.draftOf(ctx)
	if !unlocked {
		return nil, auth.ErrSetupSession
	}
	switch b.Step {
	case "identity":
		d.CellName, d.DomainMode, d.Domain = b.CellName, b.DomainMode, b.Domain
		d.Timezone, d.Language = b.Timezone, b.Language
		if err := a.checkDraft(&d); err != nil {
			return nil, err
		}
		d.step = "admin"
	case "admin":
		hash, err := a.hashFor(ctx, b.User, b.Password, d.CellName)
		if err != nil {
			return nil, err
		}
		d.User, d.hash = b.User, hash
	}
	if d.CellName != "" && !d.hash.Empty() {
		d.step = "review"
	}
	if err := a.drafts.Update(token, func(x *Draft) error { *x = d; return nil }); err != nil {
		return nil, err
	}
	return &setupStepOut{Body: stepOf(d, true)}, nil
}

// hashFor checks the admin's name and password and hashes it at once, so that
// the draft never holds the password.
func (a *API) hashFor(ctx context.Context, user, password, cellName string) (cell.Secret, error) {
	if !cell.ValidUserName(user) {
		return cell.Secret{}, invalid("/user", "%q must be 1 to 64 of a-z, 0-9, dot, - and _, beginning with a letter", user)
	}
	if err := auth.CheckPassword(password, user, cellName); err != nil {
		return cell.Secret{}, invalid("/password", "%v", err)
	}
	return a.cfg.Passwords.Hash(ctx, password)
}

func (a *API) setupUnlock(ctx context.Context, code string) (*setupStepOut, error) {
	right, left, rotated := a.cfg.SetupCode.Check(code)
	if !right {
		a.cfg.Log.Warn("wrong setup code", "address", authorOf(ctx).Address, "tries_left", left)
		if rotated {
			return nil, problem(http.StatusForbidden, "wrong_code", "that was the last try: a new code is on the console; `pic setup-code` prints it")
		}
		return nil, problem(http.StatusForbidden, "wrong_code", "that is not the setup code: %d tries left", left)
	}
	d := newDraft()
	c := auth.SetupCookie(a.drafts.Create(d))
	return &setupStepOut{SetCookie: c.String(), Body: stepOf(d, true)}, nil
}

// checkDraft validates the identity against the whole state, so that the
// wizard refuses now what the claim would refuse later.
func (a *API) checkDraft(d *Draft) error {
	s, _ := a.cfg.Engine.Running()
	c := s.Clone()
	c.Identity = d.identity()
	if err := c.Validate(); err != nil {
		return draftPointers(err)
	}
	return nil
}

func (d *Draft) identity() cell.Identity {
	return cell.Identity{Name: d.CellName, Mode: d.DomainMode, Domain: d.Domain, Timezone: d.Timezone, Language: d.Language}
}

// draftPointers moves the state's pointers to the wizard's fields.
func draftPointers(err error) error {
	bad, is := err.(*cell.InvalidError)
	if !is {
		return err
	}
	names := map[string]string{"/identity/name": "/cell_name", "/identity/domain_mode": "/domain_mode", "/identity/domain": "/domain", "/identity/timezone": "/timezone", "/identity/language": "/language"}
	out := &cell.InvalidError{}
	for _, f := range bad.Fields {
		if n, known := names[f.Pointer]; known {
			f.Pointer = n
		}
		out.Fields = append(out.Fields, f)
	}
	return out
}

func alreadyClaimed() *Problem {
	p := problem(http.StatusConflict, "conflict", "this cell is already claimed: log in")
	p.Link = "/login"
	return p
}

func (a *API) setupComplete(ctx context.Context, _ *struct{ Body Empty }) (*claimOut, error) {
	if a.claimed() {
		return nil, alreadyClaimed()
	}
	_, d, unlocked := a.draftOf(ctx)
	if !unlocked {
		return nil, auth.ErrSetupSession
	}
	if d.step != "review" {
		return nil, problem(http.StatusUnprocessableEntity, "invalid", "the step %q is not finished", d.step)
	}
	from := remote(requestOf(ctx)).Addr()
	fingerprint := a.cfg.Fingerprint()
	r, err := a.claim(ctx, &d, cell.Author{Name: d.User, Via: "setup", Address: from.String()})
	if err != nil {
		return nil, draftPointers(err)
	}
	token, _ := a.cfg.Sessions.Create(d.User, cell.RoleAdmin, from)
	session, done := auth.SessionCookie(token), auth.ClearSetupCookie()
	return &claimOut{
		Status: http.StatusCreated, PicRevision: revision(r.Revision),
		SetCookie: []string{session.String(), done.String()},
		Body:      Claimed{r.Revision, r.State.Identity.EffectiveDomain(), a.url(r.State.Identity.EffectiveDomain()), fingerprint},
	}, nil
}

// Claim claims the cell from a file of the same fields as the wizard.
func (a *API) Claim(ctx context.Context, d Draft) (reconcile.Result, error) {
	if a.claimed() {
		return reconcile.Result{}, alreadyClaimed()
	}
	hash, err := a.hashFor(ctx, d.User, d.Password, d.CellName)
	if err != nil {
		return reconcile.Result{}, err
	}
	d.hash = hash
	return a.claim(ctx, &d, cell.Author{Name: d.User, Via: "setup"})
}

// claim is one commit: admin account, identity and authority. The edit itself
// checks that nobody was first, so of many concurrent claims one wins.
func (a *API) claim(ctx context.Context, d *Draft, author cell.Author) (reconcile.Result, error) {
	now := a.cfg.Now().UTC().Truncate(time.Second)
	hashRef := a.cfg.NewRef("password")
	authority, rootKey, issuingKey, err := a.cfg.NewAuthority(d.identity().Domains(), now)
	if err != nil {
		return reconcile.Result{}, err
	}
	authority.RootKey, authority.IssuingKey = a.cfg.NewRef("ca-root"), a.cfg.NewRef("ca-issuing")
	edit := func(s *cell.State) error {
		if s.Claimed() {
			return alreadyClaimed()
		}
		s.Identity = d.identity()
		s.Users = append(s.Users, cell.User{Name: d.User, Role: cell.RoleAdmin, PasswordHash: hashRef, Created: now})
		s.TLS.Authorities = append(s.TLS.Authorities, authority)
		return nil
	}
	work, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	r, err := a.cfg.Engine.Commit(work, 0, edit, reconcile.Options{
		Author: author, Message: "claim the cell",
		Secrets: map[cell.SecretRef]cell.Secret{hashRef: d.hash, authority.RootKey: rootKey, authority.IssuingKey: issuingKey},
	})
	if err != nil {
		return r, err
	}
	a.drafts.End()
	a.cfg.SetupCode.Retire()
	a.cfg.Log.Info("cell claimed", "user", d.User, "domain", r.State.Identity.EffectiveDomain(), "revision", r.Revision)
	return r, nil
}

// op is an operation's frame.
func op(method, path, id, tag, summary string) huma.Operation {
	return huma.Operation{Method: method, Path: path, OperationID: id, Tags: []string{tag}, Summary: summary}
}
