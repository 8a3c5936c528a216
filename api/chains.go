package api

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/cell"
)

// defaultHold is how long a better member must be up before a chain returns to it.
const defaultHold = 60

// Chain is a list of exits that are tried in order, with the way it takes now.
type Chain struct {
	ID       string             `json:"id"`
	Name     string             `json:"name"`
	Members  []string           `json:"members" nullable:"false" doc:"ids of exits; the last may be direct or block"`
	Hold     int                `json:"hold" doc:"seconds a better member must have been up before the chain returns to it"`
	Schedule []cell.ChainWindow `json:"schedule" nullable:"false"`
	Way      string             `json:"way" doc:"where it leads now: an exit's id, direct or block"`
	Since    *time.Time         `json:"since" doc:"since when; null: unknown"`
	UsedBy   []string           `json:"used_by" nullable:"false"`
}

// ChainFields are what a client may set of a chain.
type ChainFields struct {
	Name     *string            `json:"name,omitempty" maxLength:"100"`
	Members  []string           `json:"members,omitempty" maxItems:"10" doc:"ids of exits, tried in order; the last may be direct or block"`
	Hold     *int               `json:"hold,omitempty" minimum:"0" maximum:"86400" doc:"default 60"`
	Schedule []ChainWindowField `json:"schedule,omitempty" maxItems:"20"`
}

// ChainWindowField is a time of the week at which a chain takes one way.
type ChainWindowField struct {
	Days  []int  `json:"days,omitempty" maxItems:"7" doc:"0 (Sunday) to 6, on which it begins; empty: every day"`
	From  int    `json:"from" minimum:"0" maximum:"1439" doc:"minutes after midnight, by the cell's time zone"`
	Until int    `json:"until" minimum:"0" maximum:"1439" doc:"an end that is not after the beginning is on the next day"`
	Use   string `json:"use" maxLength:"63" doc:"an exit's id, direct or block"`
}

type addChainIn struct {
	Write
	Body struct {
		ID string `json:"id,omitempty" maxLength:"63" doc:"default: made of the name"`
		ChainFields
	}
}

type putChainIn struct {
	Write
	ID   string `path:"id" maxLength:"63"`
	Body ChainFields
}

func (a *API) chainRoutes() {
	const chains = "/api/connectivity/chains"
	row := func(method, path, id, summary string) Route {
		return Route{Access: auth.AccessAdmin, Reauth: method != "GET", Operation: op(method, path, id, "connectivity", summary)}
	}
	register(a, row("GET", chains, "list-chains", "All chains of exits"),
		func(ctx context.Context, _ *struct{}) (*Out[List[Chain]], error) {
			s, _ := a.cfg.Engine.Running()
			out := make([]Chain, 0, len(s.Chains))
			for i := range s.Chains {
				out = append(out, a.shownChain(ctx, s, s.Chains[i].ID))
			}
			return ok(List[Chain]{out})
		})
	register(a, row("POST", chains, "add-chain", "Add a chain: exits that are tried in order"), a.addChain)
	register(a, row("GET", chains+"/{id}", "show-chain", "One chain"),
		func(ctx context.Context, in *exitIDIn) (*Out[Chain], error) {
			s, _ := a.cfg.Engine.Running()
			if s.Chain(in.ID) == nil {
				return nil, notFound("chain", in.ID)
			}
			out, _ := ok(a.shownChain(ctx, s, in.ID))
			out.ETag = a.etag("chains/" + in.ID)
			return out, nil
		})
	register(a, row("PUT", chains+"/{id}", "change-chain", "Change a chain; absent fields stay"), a.changeChain)
	register(a, row("DELETE", chains+"/{id}", "remove-chain", "Remove a chain; one in use needs move_to"),
		func(ctx context.Context, in *removeExitIn) (*NoContent, error) {
			if s, _ := a.cfg.Engine.Running(); s.Chain(in.ID) == nil {
				return nil, notFound("chain", in.ID)
			}
			return a.removeWay(ctx, in.Write, "chain", in.ID, in.moveTo())
		})
}

func (a *API) shownChain(ctx context.Context, s *cell.State, id string) Chain {
	c, f := s.Chain(id), a.cfg.Engine.Facts()
	out := Chain{
		ID: c.ID, Name: c.Name, Members: some(c.Members), Hold: c.Hold, Schedule: []cell.ChainWindow{},
		Way: s.Way(id, &f), UsedBy: some(s.ExitUsers(id)),
	}
	for _, w := range c.Schedule {
		w.Days = append([]int{}, w.Days...)
		out.Schedule = append(out.Schedule, w)
	}
	if a.cfg.Exits.Chains != nil {
		if t, known := a.cfg.Exits.Chains(ctx)[id]; known && !t.IsZero() {
			t = t.UTC()
			out.Since = &t
		}
	}
	return out
}

func (f *ChainFields) apply(c *cell.Chain) {
	set(&c.Name, f.Name)
	set(&c.Hold, f.Hold)
	if f.Members != nil {
		c.Members = slices.Clone(f.Members)
	}
	if f.Schedule != nil {
		c.Schedule = make([]cell.ChainWindow, 0, len(f.Schedule))
		for _, w := range f.Schedule {
			c.Schedule = append(c.Schedule, cell.ChainWindow{Days: append([]int{}, w.Days...), From: w.From, Until: w.Until, Use: w.Use})
		}
	}
}

func (a *API) addChain(ctx context.Context, in *addChainIn) (*Out[Chain], error) {
	c := cell.Chain{Name: "chain", Hold: defaultHold, Members: []string{}, Schedule: []cell.ChainWindow{}}
	in.Body.apply(&c)
	if c.ID = in.Body.ID; c.ID == "" {
		s, _ := a.cfg.Engine.Running()
		c.ID = freeID(s, c.Name, "chain")
	}
	r, err := a.commit(ctx, in.Write, change{
		resource: "chains/" + c.ID, message: "add chain " + c.ID,
		edit: func(s *cell.State) error {
			if taken(s, c.ID) {
				return takenProblem(c.ID)
			}
			s.Chains = append(s.Chains, c)
			return nil
		},
	})
	if err != nil {
		return nil, relative(err, "chains")
	}
	return answer(a, r, "chains/"+c.ID, http.StatusCreated, a.shownChain(ctx, r.State, c.ID)), nil
}

func (a *API) changeChain(ctx context.Context, in *putChainIn) (*Out[Chain], error) {
	r, err := a.commit(ctx, in.Write, change{
		resource: "chains/" + in.ID, message: "change chain " + in.ID,
		edit: func(s *cell.State) error {
			c := s.Chain(in.ID)
			if c == nil {
				return notFound("chain", in.ID)
			}
			in.Body.apply(c)
			return nil
		},
	})
	if err != nil {
		return nil, relative(err, "chains")
	}
	return answer(a, r, "chains/"+in.ID, http.StatusOK, a.shownChain(ctx, r.State, in.ID)), nil
}
