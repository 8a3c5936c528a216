package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/cell"
)

// exitLook bounds a test or proof of an exit.
const exitLook = 45 * time.Second

type exitIDIn struct {
	ID string `path:"id" maxLength:"63"`
}

type addExitIn struct {
	Write
	Body struct {
		ID   string        `json:"id,omitempty" maxLength:"63" doc:"default: made of the name"`
		Type cell.ExitType `json:"type" enum:"wireguard_ext,openvpn,tor,sshuttle,proxy"`
		ExitFields
	}
}

type putExitIn struct {
	Write
	ID   string `path:"id" maxLength:"63"`
	Body ExitFields
}

// removeExitIn takes move_to in the query or in a body; the body is for clients
// that write everything there.
type removeExitIn struct {
	Write
	ID     string `path:"id" maxLength:"63"`
	MoveTo string `query:"move_to" maxLength:"63" doc:"where its users leave instead: an exit, a chain, direct or block"`
	Body   *struct {
		MoveTo string `json:"move_to,omitempty" maxLength:"63"`
	}
}

func (in *removeExitIn) moveTo() string {
	if in.Body != nil && in.MoveTo == "" {
		return in.Body.MoveTo
	}
	return in.MoveTo
}

type parseExitIn struct {
	Body struct {
		Type       cell.ExitType `json:"type" enum:"wireguard_ext,openvpn,tor,sshuttle,proxy"`
		Config     string        `json:"config" maxLength:"65536"`
		Username   *string       `json:"username,omitempty" maxLength:"255"`
		Password   *string       `json:"password,omitempty" maxLength:"1024"`
		PrivateKey *string       `json:"private_key,omitempty" maxLength:"65536"`
		Passphrase *string       `json:"passphrase,omitempty" maxLength:"1024"`
	}
}

// ExitParsed is what was understood of a pasted configuration.
type ExitParsed struct {
	OK        bool              `json:"ok" doc:"an exit can be made of it, once what it asks for is given"`
	Name      string            `json:"name" doc:"a proposal"`
	Address4  string            `json:"address4"`
	Address6  string            `json:"address6"`
	WireGuard *ExitWireGuard    `json:"wireguard,omitempty"`
	OpenVPN   *ExitOpenVPN      `json:"openvpn,omitempty"`
	Tor       *ExitTor          `json:"tor,omitempty"`
	SSH       *ExitSSH          `json:"ssh,omitempty"`
	Proxy     *ExitProxy        `json:"proxy,omitempty"`
	Asks      []string          `json:"asks" nullable:"false" enum:"username,password,private_key,passphrase" doc:"what is still needed; private_key and password together: one of them"`
	Warnings  []cell.ExitRemark `json:"warnings" nullable:"false"`
	Refused   []cell.ExitRemark `json:"refused" nullable:"false"`
}

// ExitTypeInfo is a type of exit that the cell knows.
type ExitTypeInfo struct {
	Type           cell.ExitType `json:"type"`
	CatalogID      string        `json:"catalog_id"`
	Enabled        bool          `json:"enabled" doc:"an exit of this type is on"`
	Program        string        `json:"program" doc:"what it needs beside the cell; empty: nothing"`
	Installed      bool          `json:"installed"`
	InstallCommand string        `json:"install_command" doc:"empty when nothing has to be installed"`
	Count          int           `json:"count"`
	Max            int           `json:"max"`
}

const maxExitsOfType = 10

func (a *API) connectivityRoutes() {
	const exits = "/api/connectivity/exits"
	list := func(ctx context.Context, _ *struct{}) (*Out[List[Exit]], error) {
		s, _ := a.cfg.Engine.Running()
		return ok(List[Exit]{a.exits(ctx, s)})
	}
	admin := func(method, path, id, summary string) Route {
		return Route{Access: auth.AccessAdmin, Operation: op(method, path, id, "connectivity", summary)}
	}
	fresh := func(method, path, id, summary string) Route {
		r := admin(method, path, id, summary)
		r.Reauth = true
		return r
	}
	register(a, admin("GET", exits, "list-exits", "All exits with their states"), list)
	register(a, admin("GET", "/api/routing/exits", "list-routing-exits", "The same as /api/connectivity/exits"), list)
	register(a, fresh("POST", exits, "add-exit", "Add an exit: a pasted configuration, or single fields"), a.addExit)
	register(a, admin("POST", exits+"/parse", "parse-exit", "What a pasted configuration means, line by line; nothing is stored"), a.parseExit)
	register(a, admin("GET", exits+"/{id}", "show-exit", "One exit"), a.showExit)
	register(a, fresh("PUT", exits+"/{id}", "change-exit", "Change an exit; absent fields and secrets stay"), a.changeExit)
	register(a, fresh("DELETE", exits+"/{id}", "remove-exit", "Remove an exit; one in use needs move_to"), a.removeExit)
	register(a, fresh("POST", exits+"/{id}/host-key", "accept-host-key", "Pin the SSH host key that the server shows now"), a.acceptHostKey)
	register(a, admin("GET", exits+"/{id}/proof", "prove-exit", "Probes of a shadow source, and whether any left elsewhere"), a.proveExit)
	register(a, admin("GET", exits+"/{id}/test", "test-exit", "The public address, latency and names seen through it"), a.testExit)
	register(a, admin("POST", exits+"/{id}/test", "test-exit-now", "The same as GET"), func(ctx context.Context, in *struct {
		ID   string `path:"id" maxLength:"63"`
		Body Empty
	},
	) (*Out[ExitTest], error) {
		return look(ctx, a, in.ID, a.cfg.Exits.Test)
	})
	register(a, admin("GET", "/api/connectivity/types", "list-exit-types", "The types of exits, and what each needs"), a.exitTypes)
	a.chainRoutes()
	a.assignRoutes()
}

func (a *API) showExit(ctx context.Context, in *exitIDIn) (*Out[Exit], error) {
	s, _, err := a.exit(in.ID)
	if err != nil {
		return nil, err
	}
	out, _ := ok(a.shownExit(ctx, s, in.ID))
	out.ETag = a.etag("exits/" + in.ID)
	return out, nil
}

func (a *API) addExit(ctx context.Context, in *addExitIn) (*Out[Exit], error) {
	b := &in.Body
	c, err := a.newExitChange(b.Type, &b.ExitFields, nil)
	if err != nil {
		return nil, err
	}
	e := cell.Exit{Type: b.Type, Name: catalogID(b.Type), Enabled: true, Created: a.cfg.Now().UTC().Truncate(time.Second)}
	if c.draft != nil {
		e.Name = cmp.Or(c.draft.Name, e.Name)
	}
	c.apply(&e)
	s, _ := a.cfg.Engine.Running()
	if e.ID = b.ID; e.ID == "" {
		e.ID = freeID(s, e.Name, catalogID(b.Type))
	}
	r, err := a.commit(ctx, in.Write, change{
		resource: "exits/" + e.ID, message: "add exit " + e.ID, secrets: c.secrets,
		edit: func(s *cell.State) error { return addExit(s, e) },
	})
	if err != nil {
		return nil, relative(err, "exits")
	}
	return answer(a, r, "exits/"+e.ID, http.StatusCreated, a.shownExit(ctx, r.State, e.ID)), nil
}

// addExit gives the exit the lowest free slot of its type, for life.
func addExit(s *cell.State, e cell.Exit) error {
	if taken(s, e.ID) {
		return takenProblem(e.ID)
	}
	slot, err := s.FreeSlot(e.Type)
	if err != nil {
		return problem(http.StatusConflict, "slots_used", "%v", err)
	}
	e.Slot = slot
	s.Exits = append(s.Exits, e)
	return nil
}

func (a *API) changeExit(ctx context.Context, in *putExitIn) (*Out[Exit], error) {
	_, old, err := a.exit(in.ID)
	if err != nil {
		return nil, err
	}
	c, err := a.newExitChange(old.Type, &in.Body, old)
	if err != nil {
		return nil, err
	}
	return a.editExit(ctx, in.Write, in.ID, "change exit "+in.ID, c.secrets, c.apply)
}

// editExit commits a change of one exit that is there.
func (a *API) editExit(ctx context.Context, w Write, id, message string, secrets map[cell.SecretRef]cell.Secret, apply func(*cell.Exit)) (*Out[Exit], error) {
	r, err := a.commit(ctx, w, change{
		resource: "exits/" + id, message: message, secrets: secrets,
		edit: func(s *cell.State) error {
			e := s.Exit(id)
			if e == nil {
				return notFound("exit", id)
			}
			apply(e)
			return nil
		},
	})
	if err != nil {
		return nil, relative(err, "exits")
	}
	return answer(a, r, "exits/"+id, http.StatusOK, a.shownExit(ctx, r.State, id)), nil
}

func (a *API) removeExit(ctx context.Context, in *removeExitIn) (*NoContent, error) {
	if _, _, err := a.exit(in.ID); err != nil {
		return nil, err
	}
	return a.removeWay(ctx, in.Write, "exit", in.ID, in.moveTo())
}

// removeWay removes an exit or chain; kind is which. One in use is refused, with
// what its removal would cut off, unless its users have somewhere to go.
func (a *API) removeWay(ctx context.Context, w Write, kind, id, moveTo string) (*NoContent, error) {
	edit := func(s *cell.State) error {
		if users := exitUsersOf(s, id); len(users) > 0 && moveTo == "" {
			return inUse(s, kind, id, users)
		}
		return dropWay(s, kind, id, moveTo)
	}
	r, err := a.commit(ctx, w, change{resource: kind + "s/" + id, message: "remove " + kind + " " + id, edit: edit})
	if err != nil {
		return nil, err
	}
	return noContent(r), nil
}

// inUse says who would lose what: as if their traffic were blocked instead.
func inUse(s *cell.State, kind, id string, users []string) *Problem {
	next := s.Clone()
	p := problem(http.StatusConflict, "in_use", "%s %s is used by %s: say with move_to where they leave instead (block, direct, or another exit)",
		kind, id, someOf(users))
	if err := dropWay(next, kind, id, cell.ExitBlock); err == nil {
		p.Cuts = cell.Impact(s, next)
	}
	return p
}

// someOf lists at most ten.
func someOf(names []string) string {
	if n := len(names); n > 10 {
		return strings.Join(names[:10], ", ") + fmt.Sprintf(" and %d more", n-10)
	}
	return strings.Join(names, ", ")
}

// dropWay takes an exit or chain out of the state and puts moveTo in its place
// where it was in use. A chain only loses the member: it never leads anywhere
// that its owner did not write.
func dropWay(s *cell.State, kind, id, moveTo string) error {
	if moveTo != "" && (moveTo == id || moveTo != cell.ExitDirect && moveTo != cell.ExitBlock && s.Exit(moveTo) == nil && s.Chain(moveTo) == nil) {
		return invalid("/move_to", "must be direct, block, or another exit or chain")
	}
	move := func(field *string) {
		if *field == id {
			*field = moveTo
		}
	}
	for i := range s.Peers {
		p := &s.Peers[i]
		move(&p.Exit)
		move(&p.ExitThen)
		p.ExitChoice, p.Socks = without(p.ExitChoice, id), without(p.Socks, id)
	}
	for i := range s.Services {
		move(&s.Services[i].Egress)
	}
	if kind == "chain" {
		s.Chains = slices.DeleteFunc(s.Chains, func(c cell.Chain) bool { return c.ID == id })
		return nil
	}
	use := moveTo
	if s.Chain(moveTo) != nil || moveTo == "" {
		use = cell.ExitBlock // no chain within a chain
	}
	for i := range s.Chains {
		c := &s.Chains[i]
		if !chainNames(c, id) {
			continue
		}
		if c.Members = without(c.Members, id); len(c.Members) == 0 {
			c.Members = []string{use}
		}
		c.Schedule = slices.Clone(c.Schedule)
		for j := range c.Schedule {
			if c.Schedule[j].Use == id {
				c.Schedule[j].Use = use
			}
		}
	}
	s.Exits = slices.DeleteFunc(s.Exits, func(e cell.Exit) bool { return e.ID == id })
	return nil
}

// without returns list itself when x is not in it.
func without(list []string, x string) []string {
	if !slices.Contains(list, x) {
		return list
	}
	return slices.DeleteFunc(slices.Clone(list), func(y string) bool { return y == x })
}

func (a *API) parseExit(_ context.Context, in *parseExitIn) (*Out[ExitParsed], error) {
	b := &in.Body
	c := exitChange{a: a, t: b.Type, f: &ExitFields{Username: b.Username, Password: b.Password, PrivateKey: b.PrivateKey, Passphrase: b.Passphrase}}
	d := c.parse(b.Config)
	shown := Exit{}
	shown.config(&cell.Exit{WireGuard: d.WireGuard, OpenVPN: d.OpenVPN, Tor: d.Tor, SSH: d.SSH, Proxy: d.Proxy})
	if shown.WireGuard != nil {
		shown.WireGuard.HasPresharedKey = !d.PresharedKey.Empty()
	}
	return ok(ExitParsed{
		OK: len(d.Refused) == 0, Name: d.Name, Address4: address(d.Address4), Address6: address(d.Address6),
		WireGuard: shown.WireGuard, OpenVPN: shown.OpenVPN, Tor: shown.Tor, SSH: shown.SSH, Proxy: shown.Proxy,
		Asks: some(d.Asks), Warnings: list(d.Warnings).Items, Refused: list(d.Refused).Items,
	})
}

type hostKeyIn struct {
	Write
	ID   string `path:"id" maxLength:"63"`
	Body struct {
		Key string `json:"key" minLength:"1" maxLength:"4096" doc:"the key to pin, as in authorized_keys"`
	}
}

func (a *API) acceptHostKey(ctx context.Context, in *hostKeyIn) (*Out[Exit], error) {
	_, e, err := a.exit(in.ID)
	if err != nil {
		return nil, err
	}
	if e.SSH == nil {
		return nil, problem(http.StatusConflict, "conflict", "%s is no SSH exit: it has no host key", in.ID)
	}
	key, _, err := cell.ParseHostKey(in.Body.Key)
	if err != nil {
		return nil, invalid("/key", "%v", err)
	}
	// Between looking and accepting the server may have shown yet another key.
	if st := a.exitStatus(ctx)(in.ID); st != nil && st.PendingHostKey != nil && st.PendingHostKey.Key != key {
		return nil, problem(http.StatusConflict, "conflict", "the server shows another key now (%s): look at it again", st.PendingHostKey.Fingerprint)
	}
	return a.editExit(ctx, in.Write, in.ID, "pin the host key of exit "+in.ID, nil, func(e *cell.Exit) {
		if e.SSH != nil {
			x := *e.SSH
			x.HostKey = key
			e.SSH = &x
		}
	})
}

func (a *API) testExit(ctx context.Context, in *exitIDIn) (*Out[ExitTest], error) {
	return look(ctx, a, in.ID, a.cfg.Exits.Test)
}

func (a *API) proveExit(ctx context.Context, in *exitIDIn) (*Out[ExitProof], error) {
	return look(ctx, a, in.ID, a.cfg.Exits.Proof)
}

// look asks the exits about one of them, for a bounded time.
func look[T any](ctx context.Context, a *API, id string, ask func(context.Context, string) (T, error)) (*Out[T], error) {
	_, e, err := a.exit(id)
	if err != nil {
		return nil, err
	}
	if ask == nil {
		return nil, problem(http.StatusServiceUnavailable, "unavailable", "exits do not run on this cell")
	}
	if !e.Enabled {
		return nil, problem(http.StatusConflict, "conflict", "exit %s is switched off: enable it first", id)
	}
	ctx, cancel := context.WithTimeout(ctx, exitLook)
	defer cancel()
	v, err := ask(ctx, id)
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return nil, problem(http.StatusConflict, "conflict", "%v", err)
	}
	if err != nil {
		return nil, err
	}
	return ok(v)
}

func (a *API) exitTypes(context.Context, *struct{}) (*Out[List[ExitTypeInfo]], error) {
	s, _ := a.cfg.Engine.Running()
	var out []ExitTypeInfo
	for _, t := range exitTypes() {
		x := ExitTypeInfo{Type: t.Type, CatalogID: t.CatalogID, Program: t.Program, Installed: true, Max: maxExitsOfType}
		if t.Program != "" {
			if x.Installed = a.cfg.Exits.Installed != nil && a.cfg.Exits.Installed(t.Program); !x.Installed {
				x.InstallCommand = "apt install " + t.Program
			}
		}
		for i := range s.Exits {
			if s.Exits[i].Type == t.Type {
				x.Count++
				x.Enabled = x.Enabled || s.Exits[i].Enabled
			}
		}
		out = append(out, x)
	}
	return ok(list(out))
}

// relative makes the state's pointers relative to the request where they are
// about an element of the section that it changes.
func relative(err error, section string) error {
	bad := (*cell.InvalidError)(nil)
	if !errors.As(err, &bad) {
		return err
	}
	out := &cell.InvalidError{}
	for _, f := range bad.Fields {
		if rest, own := strings.CutPrefix(f.Pointer, "/"+section+"/"); own {
			if _, field, ok := strings.Cut(rest, "/"); ok {
				f.Pointer = "/" + field
			}
		}
		out.Fields = append(out.Fields, f)
	}
	return out
}
