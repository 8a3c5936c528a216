package api

import (
	"context"
	"net/http"
	"net/netip"

	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/cell"
)

// ExplainQuery asks what becomes of a flow.
type ExplainQuery struct {
	From     string `json:"from" doc:"a peer, a service, internet, cell, lan:NAME, or an address" minLength:"1" maxLength:"300"`
	To       string `json:"to" doc:"a URL, a host name, an address, a peer, a service, internet, cell or lan:NAME" minLength:"1" maxLength:"2048"`
	Protocol string `json:"protocol,omitempty" doc:"default tcp" enum:"tcp,udp,icmp"`
	Port     uint16 `json:"port,omitempty" doc:"default 443, or the URL's" minimum:"1" maximum:"65535"`
}

// Explanation says what happens to a flow, on which way, and why. Verdict is
// that of the first path that passes, or else of the first path.
type Explanation struct {
	Revision cell.Revision `json:"revision"`
	Passes   bool          `json:"passes"`
	Verdict  string        `json:"verdict" doc:"accepted, relayed, dropped, rejected, unreachable, prohibited, refused (by the proxy), or no name"`
	Reason   string        `json:"reason"`
	Pointer  string        `json:"pointer" doc:"the line of the state that decided (RFC 6901); empty when a built-in rule did"`
	Line     string        `json:"line" doc:"what that line says"`
	// Names are the steps before any packet: how To became addresses.
	Names []ExplainStep `json:"names" nullable:"false"`
	Paths []ExplainPath `json:"paths" nullable:"false" doc:"one for each address"`
}

// ExplainPath is the way of one packet.
type ExplainPath struct {
	Source      netip.Addr    `json:"source"`
	Destination netip.Addr    `json:"destination"`
	Protocol    string        `json:"protocol"`
	Port        uint16        `json:"port"`
	Passes      bool          `json:"passes"`
	Verdict     string        `json:"verdict"`
	Reason      string        `json:"reason"`
	Pointer     string        `json:"pointer"`
	Line        string        `json:"line"`
	Out         string        `json:"out" doc:"the interface it leaves by; empty when it ends in the cell"`
	Steps       []ExplainStep `json:"steps" nullable:"false"`
}

// ExplainStep is one thing that happens on the way.
type ExplainStep struct {
	Kind    string `json:"kind" doc:"name, ingress, mark, nat, table, rule, out or proxy"`
	Text    string `json:"text"`
	Pointer string `json:"pointer"`
}

// PolicyResult is a policy test and what became of it.
type PolicyResult struct {
	Assertion string `json:"assertion"`
	Pointer   string `json:"pointer"`
	// Result is unknown while the cell does not know enough of its network,
	// such as its uplink; an unknown test refuses nothing.
	Result string `json:"result" enum:"holds,fails,unknown"`
	Text   string `json:"text" doc:"why it fails or is unknown: the packet and its path"`
}

type policyIn struct {
	Write
	Body struct {
		Items []string `json:"items" maxItems:"200" nullable:"false"`
	}
}

func (a *API) explainRoutes() {
	register(a, Route{Access: auth.AccessAdmin, Operation: op("POST", "/api/explain", "explain", "network", "What becomes of a flow, on which way, and which line of the state decided")}, a.explain)
	register(a, Route{Access: auth.AccessAdmin, Operation: op("GET", "/api/firewall/policy", "list-policy", "network", "The policy tests, each with its result now")},
		func(context.Context, *struct{}) (*Out[List[PolicyResult]], error) {
			s, _ := a.cfg.Engine.Running()
			out, err := a.policy(s)
			if err == nil {
				out.ETag = a.etag("network/policy")
			}
			return out, err
		})
	register(a, Route{Access: auth.AccessAdmin, Operation: op("PUT", "/api/firewall/policy", "put-policy", "network", "Replace the policy tests; refused while one fails")},
		func(ctx context.Context, in *policyIn) (*Out[List[PolicyResult]], error) {
			items := append([]string{}, in.Body.Items...)
			r, err := a.commit(ctx, in.Write, change{
				resource: "network/policy", message: "change the policy tests",
				edit: func(s *cell.State) error { s.Network.Policy = items; return nil },
			})
			if err != nil {
				return nil, err
			}
			results, err := a.policy(r.State)
			if err != nil {
				return nil, err
			}
			return answer(a, r, "network/policy", http.StatusOK, results.Body), nil
		})
}

func (a *API) explain(_ context.Context, in *struct{ Body ExplainQuery }) (*Out[Explanation], error) {
	s, n := a.cfg.Engine.Running()
	if s == nil {
		return nil, recovered()
	}
	x, err := a.cfg.Explain(s, a.cfg.Engine.Facts(), in.Body)
	if err != nil {
		return nil, err
	}
	x.Revision = n
	return ok(x)
}

func (a *API) policy(s *cell.State) (*Out[List[PolicyResult]], error) {
	if s == nil {
		return nil, recovered()
	}
	items, err := a.cfg.Policy(s, a.cfg.Engine.Facts())
	if err != nil {
		return nil, err
	}
	return ok(list(items))
}
