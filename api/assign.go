package api

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/cell"
)

// PeerExit is where a peer's traffic leaves.
type PeerExit struct {
	Peer  string     `json:"peer"`
	Exit  string     `json:"exit" doc:"an exit's or chain's id, direct or block"`
	Until *time.Time `json:"until" doc:"when it becomes what then says; null: never"`
	Then  string     `json:"then"`
	Way   string     `json:"way" doc:"where its traffic leaves now: an exit's id, direct or block"`
}

// PeerExitFields set it.
type PeerExitFields struct {
	Exit  string     `json:"exit" maxLength:"63" doc:"an exit's or chain's id, direct or block"`
	Until *time.Time `json:"until,omitempty" doc:"for a time only"`
	Then  *string    `json:"then,omitempty" maxLength:"63" doc:"with until: what follows; default: what it is now"`
}

type putPeerExitIn struct {
	Write
	Name string `path:"name" maxLength:"63"`
	Body PeerExitFields
}

// ServiceEgress is where a service's own traffic leaves.
type ServiceEgress struct {
	Service string `json:"service"`
	Exit    string `json:"exit"`
	Way     string `json:"way" doc:"where it leaves now"`
}

type putEgressIn struct {
	Write
	ID   string `path:"id" maxLength:"63"`
	Body struct {
		Exit string `json:"exit" maxLength:"63" doc:"an exit's or chain's id, direct or block"`
	}
}

// DeviceExit is a device of the one who asks, and where it may leave.
type DeviceExit struct {
	Device  string       `json:"device"`
	Exit    string       `json:"exit"`
	Until   *time.Time   `json:"until"`
	Then    string       `json:"then"`
	Way     string       `json:"way" doc:"where it leaves now"`
	Choices []ExitChoice `json:"choices" nullable:"false" doc:"what may be chosen; empty: nothing"`
}

// ExitChoice is a way out as its user sees it: no server, no address.
type ExitChoice struct {
	ID    string         `json:"id" doc:"what to send as exit"`
	Name  string         `json:"name"`
	State cell.ExitState `json:"state" enum:"disabled,connecting,up,degraded,blocked"`
}

type ownExitIn struct {
	Write
	Body struct {
		Device string `json:"device" maxLength:"63"`
		Exit   string `json:"exit" maxLength:"63"`
	}
}

func (a *API) assignRoutes() {
	row := func(x auth.Access, method, path, id, summary string) Route {
		return Route{Access: x, Operation: op(method, path, id, "connectivity", summary)}
	}
	register(a, row(auth.AccessAdmin, "PUT", "/api/connectivity/peers/{name}/exit", "assign-peer", "Where a peer's traffic leaves, for good or for a time"), a.putPeerExit)
	register(a, row(auth.AccessAdmin, "GET", "/api/peers/{name}/exit", "show-peer-exit", "Where a peer's traffic leaves"), a.showPeerExit)
	register(a, row(auth.AccessAdmin, "PUT", "/api/peers/{name}/exit", "put-peer-exit", "The same as /api/connectivity/peers/{name}/exit"), a.putPeerExit)
	register(a, row(auth.AccessAdmin, "PUT", "/api/connectivity/services/{id}/egress", "assign-service", "Where a service's own traffic leaves"), a.putEgress)
	register(a, row(auth.AccessPeer, "GET", "/api/peer/exits", "own-exits", "One's own devices, and which exits may be chosen for each"), a.ownExits)
	register(a, row(auth.AccessPeer, "PUT", "/api/peer/exit", "choose-exit", "Choose the exit of one's own device, from what is allowed"), a.chooseExit)
}

func (a *API) shownPeerExit(s *cell.State, name string) PeerExit {
	f, p := a.cfg.Engine.Facts(), s.Peer(name)
	out := PeerExit{Peer: name, Exit: cmp.Or(p.Exit, cell.ExitDirect), Until: p.ExitUntil, Way: s.PeerWay(p, &f)}
	if p.ExitUntil != nil {
		out.Then = cmp.Or(p.ExitThen, cell.ExitDirect)
	}
	return out
}

func (a *API) showPeerExit(_ context.Context, in *peerNameIn) (*Out[PeerExit], error) {
	s, _, err := a.peer(in.Name)
	if err != nil {
		return nil, err
	}
	out, _ := ok(a.shownPeerExit(s, in.Name))
	out.ETag = a.etag("peers/" + in.Name)
	return out, nil
}

func (a *API) putPeerExit(ctx context.Context, in *putPeerExitIn) (*Out[PeerExit], error) {
	b, now := in.Body, a.cfg.Now()
	if b.Until != nil && !b.Until.After(now) {
		return nil, invalid("/until", "until must lie in the future")
	}
	if b.Until == nil && b.Then != nil {
		return nil, invalid("/until", "when does the exit become %s?", *b.Then)
	}
	r, err := a.commit(ctx, in.Write, change{
		resource: "peers/" + in.Name, message: "peer " + in.Name + " leaves by " + b.Exit,
		edit: func(s *cell.State) error {
			p := s.Peer(in.Name)
			if p == nil {
				return notFound("peer", in.Name)
			}
			b.apply(p, now)
			return nil
		},
	})
	if err != nil {
		return nil, exitPointers(err)
	}
	return answer(a, r, "peers/"+in.Name, http.StatusOK, a.shownPeerExit(r.State, in.Name)), nil
}

// apply sets the exit. What follows a time is, unless it is said, what the peer
// had before anything was set for a time.
func (f *PeerExitFields) apply(p *cell.Peer, now time.Time) {
	lasting := p.Exit
	if p.ExitUntil != nil {
		lasting = p.ExitThen
	}
	p.Exit, p.ExitUntil, p.ExitThen = f.Exit, nil, ""
	if f.Until != nil {
		t := f.Until.UTC().Truncate(time.Second)
		if !t.After(now) {
			t = t.Add(time.Second)
		}
		p.ExitUntil, p.ExitThen = &t, cmp.Or(lasting, cell.ExitDirect)
		set(&p.ExitThen, f.Then)
	}
}

// applyExit writes a peer's exit and what goes with it. A new exit without a
// time ends what was set for a time.
func (f *PeerFields) applyExit(p *cell.Peer) {
	if f.Exit != nil && *f.Exit != p.Exit || f.NoExitUntil {
		p.ExitUntil, p.ExitThen = nil, ""
	}
	set(&p.Exit, f.Exit)
	if f.ExitUntil != nil {
		t := f.ExitUntil.UTC().Truncate(time.Second)
		p.ExitUntil, p.ExitThen = &t, cmp.Or(p.ExitThen, cell.ExitDirect)
	}
	set(&p.ExitThen, f.ExitThen)
	if f.ExitChoice != nil {
		p.ExitChoice = slices.Clone(f.ExitChoice)
	}
	if f.Socks != nil {
		p.Socks = slices.Clone(f.Socks)
	}
}

// exitPointers names the fields as these requests do.
func exitPointers(err error) error {
	err = relative(err, "peers")
	if bad, is := err.(*cell.InvalidError); is {
		for i := range bad.Fields {
			switch bad.Fields[i].Pointer {
			case "/exit_then":
				bad.Fields[i].Pointer = "/then"
			case "/exit_until":
				bad.Fields[i].Pointer = "/until"
			}
		}
	}
	return err
}

func (a *API) putEgress(ctx context.Context, in *putEgressIn) (*Out[ServiceEgress], error) {
	r, err := a.commit(ctx, in.Write, change{
		resource: "services/" + in.ID, message: "service " + in.ID + " leaves by " + in.Body.Exit,
		edit: func(s *cell.State) error {
			v := s.Service(in.ID)
			if v == nil {
				return notFound("service", in.ID)
			}
			v.Egress = in.Body.Exit
			return nil
		},
	})
	if bad, is := relative(err, "services").(*cell.InvalidError); is {
		for i := range bad.Fields {
			if bad.Fields[i].Pointer == "/egress" {
				bad.Fields[i].Pointer = "/exit"
			}
		}
		return nil, bad
	}
	if err != nil {
		return nil, err
	}
	f, v := a.cfg.Engine.Facts(), r.State.Service(in.ID)
	return answer(a, r, "services/"+in.ID, http.StatusOK, ServiceEgress{in.ID, cmp.Or(v.Egress, cell.ExitDirect), r.State.Way(v.Egress, &f)}), nil
}

// ownExits lists the devices of the one who asks; nobody else's are named.
func (a *API) ownExits(ctx context.Context, _ *struct{}) (*Out[List[DeviceExit]], error) {
	s, _ := a.cfg.Engine.Running()
	f, st := a.cfg.Engine.Facts(), a.exitStatus(ctx)
	who := identityOf(ctx).User
	var out []DeviceExit
	for i := range s.Peers {
		if p := &s.Peers[i]; who != "" && p.Owner == who {
			x := a.shownPeerExit(s, p.Name)
			out = append(out, DeviceExit{p.Name, x.Exit, x.Until, x.Then, x.Way, choices(s, &f, st, p)})
		}
	}
	return ok(list(out))
}

// choices are the ways that a peer's owner may choose from.
func choices(s *cell.State, f *cell.Facts, st func(string) *ExitStatus, p *cell.Peer) []ExitChoice {
	out := []ExitChoice{}
	add := func(id, name string, state cell.ExitState) {
		if p.MayChoose(id) {
			out = append(out, ExitChoice{id, name, state})
		}
	}
	stateOf := func(way string) cell.ExitState {
		if e := s.Exit(way); e != nil {
			return exitOf(s, f, e, st(way)).State
		}
		if way == cell.ExitBlock {
			return cell.ExitBlocked
		}
		return cell.ExitUp
	}
	for i := range s.Exits {
		add(s.Exits[i].ID, s.Exits[i].Name, stateOf(s.Exits[i].ID))
	}
	for i := range s.Chains {
		add(s.Chains[i].ID, s.Chains[i].Name, stateOf(s.Way(s.Chains[i].ID, f)))
	}
	add(cell.ExitDirect, "the cell's own internet connection", cell.ExitUp)
	add(cell.ExitBlock, "no internet", cell.ExitBlocked)
	return out
}

// chooseExit lets a person set the exit of a device of their own. Whether the
// device is another's or nobody's is not told.
func (a *API) chooseExit(ctx context.Context, in *ownExitIn) (*Out[PeerExit], error) {
	who, b, now := identityOf(ctx).User, in.Body, a.cfg.Now()
	if in.ConfirmWithin > 0 { // it would hold up everybody else's changes
		return nil, problem(http.StatusForbidden, "forbidden", "confirmed commits are for administrators: leave out Confirm-Within")
	}
	r, err := a.commit(ctx, in.Write, change{
		resource: "peers/" + b.Device, message: "peer " + b.Device + " leaves by " + b.Exit + ", as its owner chose",
		edit: func(s *cell.State) error {
			p := s.Peer(b.Device)
			switch {
			case p == nil || who == "" || p.Owner != who:
				return notFound("device", b.Device)
			case !p.MayChoose(b.Exit):
				return problem(http.StatusForbidden, "forbidden", "this exit can't be chosen for %s: ask your admin", b.Device)
			}
			p.Exit = b.Exit
			// What an administrator set to follow, follows; what has followed already
			// is what the choice replaces.
			if p.ExitUntil != nil && !now.Before(*p.ExitUntil) {
				p.ExitUntil, p.ExitThen = nil, ""
			}
			return nil
		},
	})
	if p := (*Preview)(nil); asPreview(err, &p) {
		return nil, ownPreview(p)
	}
	if err != nil {
		return nil, exitPointers(err)
	}
	return answer(a, r, "peers/"+b.Device, http.StatusOK, a.shownPeerExit(r.State, b.Device)), nil
}

// asPreview reports whether err is a dry run's answer.
func asPreview(err error, to **Preview) bool {
	p, is := err.(*Preview)
	*to = p
	return is
}

// ownPreview is a preview without the plans and settings, which show the cell's
// inside: what is cut off is what a person without rights over it may know.
func ownPreview(p *Preview) *Preview {
	q := *p
	q.Plans, q.Settings = []PlanDiff{}, []Setting{}
	q.Cuts = slices.Clone(p.Cuts)
	return &q
}
