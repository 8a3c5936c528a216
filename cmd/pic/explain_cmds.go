package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"

	"github.com/personal-internet-cell/pic/api"
)

func explainCommands() []command {
	return []command{
		{
			name: "explain", args: "FROM TO", help: "what becomes of a flow, and which line of the state decided", run: explainFlow,
			flags: func(fs *flag.FlagSet, inv *invocation) {
				fs.StringVar(&inv.opt.protocol, "protocol", "", "tcp (default), udp or icmp")
				fs.UintVar(&inv.opt.port, "port", 0, "default 443, or the URL's")
			},
		},
		{name: "policy list", help: "the policy tests, each with its result", run: policyList},
		{name: "policy test", help: "the same; the exit status is 1 when one fails", run: policyTest},
	}
}

func explainFlow(ctx context.Context, inv *invocation) error {
	if len(inv.args) != 2 || inv.opt.port > 65535 {
		return errUsage
	}
	r, err := inv.client().call(ctx, http.MethodPost, "/api/explain",
		api.ExplainQuery{From: inv.args[0], To: inv.args[1], Protocol: inv.opt.protocol, Port: uint16(inv.opt.port)}, nil)
	if err != nil {
		return err
	}
	var x api.Explanation
	if err := json.Unmarshal(r.body, &x); err != nil {
		return err
	}
	return inv.show(r.body, func(w io.Writer) error { showExplanation(w, &x); return nil })
}

func showExplanation(w io.Writer, x *api.Explanation) {
	fmt.Fprintf(w, "%s: %s\n", x.Verdict, x.Reason)
	if x.Pointer != "" {
		fmt.Fprintf(w, "decided by %s: %s\n", x.Pointer, x.Line)
	}
	showSteps(w, x.Names)
	for i := range x.Paths {
		p := &x.Paths[i]
		to := p.Destination.String()
		if p.Protocol != "icmp" {
			to = hostOf(p.Destination) + fmt.Sprintf(":%d", p.Port)
		}
		fmt.Fprintf(w, "\n%s %s → %s: %s\n", p.Protocol, p.Source, to, p.Verdict)
		showSteps(w, p.Steps)
	}
}

func showSteps(w io.Writer, steps []api.ExplainStep) {
	for _, s := range steps {
		line := ""
		if s.Pointer != "" {
			line = "  [" + s.Pointer + "]"
		}
		fmt.Fprintf(w, "  %-8s %s%s\n", s.Kind, s.Text, line)
	}
}

func showPolicy(w io.Writer, l api.List[api.PolicyResult]) error {
	var rows [][]string
	for _, p := range l.Items {
		rows = append(rows, []string{p.Result, p.Assertion, p.Text})
	}
	return table(w, []string{"RESULT", "TEST", "WHY"}, rows)
}

func policyList(ctx context.Context, inv *invocation) error {
	return fetch(ctx, inv, "/api/firewall/policy", showPolicy)
}

func policyTest(ctx context.Context, inv *invocation) error {
	r, err := inv.client().call(ctx, http.MethodGet, "/api/firewall/policy", nil, nil)
	if err != nil {
		return err
	}
	var l api.List[api.PolicyResult]
	if err := json.Unmarshal(r.body, &l); err != nil {
		return err
	}
	if err := inv.show(r.body, func(w io.Writer) error { return showPolicy(w, l) }); err != nil {
		return err
	}
	failed := 0
	for _, p := range l.Items {
		if p.Result == policyFails {
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d policy tests fail", failed, len(l.Items))
	}
	return nil
}
