package main

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/scenario"
)

// Every answer of explain has the verdict, the way, and the line of the state
// that decided.
func TestExplainNamesTheWayAndTheLine(t *testing.T) {
	h := scenario.Load(t, "testdata/scenarios/household.txtar")
	up := h.Facts
	up.Links = map[string]cell.LinkFact{"wg_ext0": {Index: 9, Up: true}, "br-mail": {Index: 10, Up: true}}
	for name, l := range h.Facts.Links {
		up.Links[name] = l
	}
	for _, c := range []struct {
		name          string
		q             api.ExplainQuery
		exitUp        bool
		verdict       string
		passes        bool
		pointer, line string
		kinds         string // of the first path's steps
		says          string // somewhere in the steps
	}{
		{
			"a granted service by URL",
			api.ExplainQuery{From: "phone", To: "https://files.home.internal/x"},
			false,
			"accepted", true, "/peers/0/services", `["*"]`, "ingress mark table rule proxy", "hands the request to the service files",
		},
		{
			"a service nobody granted",
			api.ExplainQuery{From: "tv", To: "files"},
			false,
			"refused", false, "/peers/2/services", `[]`, "ingress mark table rule proxy", "is hidden",
		},
		{
			"a service open to peers",
			api.ExplainQuery{From: "tv", To: "https://mail.home.internal"},
			false,
			"accepted", true, "/services/1/access", `"peers"`, "ingress mark table rule proxy", "service mail",
		},
		{
			"a service's own port",
			api.ExplainQuery{From: "tv", To: "mail", Port: 993},
			true,
			"accepted", true, "/services/1/access", `"peers"`, "ingress mark table rule rule out", "it leaves by br-mail",
		},
		{
			"a network that is not up",
			api.ExplainQuery{From: "tv", To: "mail", Port: 993},
			false,
			"unreachable", false, "", "", "ingress mark table", "is not there",
		},
		{
			"the world by an exit that is down",
			api.ExplainQuery{From: "laptop", To: "https://example.com"},
			false,
			"unreachable", false, "/peers/1/exit", `"nl"`, "ingress mark table", "asked by nl",
		},
		{
			"the world by an exit",
			api.ExplainQuery{From: "laptop", To: "example.com"},
			true,
			"accepted", true, "/exits/0", "", "ingress mark table rule rule nat out", "it leaves by wg_ext0",
		},
		{
			"the world by a relay",
			api.ExplainQuery{From: "tv", To: "internet"},
			false,
			"relayed", true, "/peers/2/exit", `"onion"`, "ingress mark nat table rule rule", "relay on port 9040",
		},
		{
			"no UDP by a relay",
			api.ExplainQuery{From: "tv", To: "internet", Protocol: "udp"},
			false,
			"rejected", false, "/peers/2/exit", `"onion"`, "ingress mark rule", "rejects it",
		},
		{
			"the internet directly",
			api.ExplainQuery{From: "phone", To: "203.0.113.9:80"},
			false,
			"accepted", true, "/network/uplink", `""`, "ingress mark table rule rule nat out", "masquerade",
		},
		{
			"another peer, granted",
			api.ExplainQuery{From: "laptop", To: "phone"},
			false,
			"accepted", true, "/peers/1/peers/0", `"phone"`, "ingress mark table rule rule out", "it leaves by pic0",
		},
		{
			"another peer, not granted",
			api.ExplainQuery{From: "phone", To: "laptop"},
			false,
			"dropped", false, "/network/tunnel/prefix4", `"10.20.0.0/24"`, "ingress mark table rule rule", "drops it",
		},
		{
			"a port forward",
			api.ExplainQuery{From: "internet", To: "192.168.1.5", Protocol: "udp", Port: 7777},
			false,
			"accepted", true, "/network/forwards/0", "", "ingress nat table rule rule out", "its destination becomes 10.20.0.2:7777",
		},
		{
			"a closed port of the cell",
			api.ExplainQuery{From: "internet", To: "192.168.1.5"},
			false,
			"dropped", false, "", "", "ingress table rule", "uplink",
		},
		{
			"WireGuard from the internet",
			api.ExplainQuery{From: "internet", To: "192.168.1.5", Protocol: "udp", Port: 51820},
			false,
			"accepted", true, "/network/tunnel/listen_port", "51820", "ingress table rule", "WireGuard",
		},
		{
			"a printer's record",
			api.ExplainQuery{From: "laptop", To: "printer.home.internal", Port: 80},
			false,
			"accepted", true, "/peers/1/lan", `["lan"]`, "ingress mark table rule rule nat out", "[192.168.7.20]",
		},
		{
			"no such name",
			api.ExplainQuery{From: "phone", To: "nosuch.home.internal"},
			false,
			"no name", false, "", "", "", "no address of the name",
		},
		{
			"echo",
			api.ExplainQuery{From: "phone", To: "cell", Protocol: "icmp"},
			false,
			"accepted", true, "", "", "ingress mark table rule", "ICMP echo",
		},
		{
			"a foreign name at our address",
			api.ExplainQuery{From: "phone", To: "https://10.20.0.1"},
			false,
			"accepted", true, "/identity", "", "ingress mark table rule proxy", "own pages",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := h.Facts
			if c.exitUp {
				f = up
			}
			x, err := explain(h.State, f, c.q)
			if err != nil {
				t.Fatal(err)
			}
			var text bytes.Buffer
			showExplanation(&text, &x)
			var kinds []string
			if len(x.Paths) > 0 {
				for _, s := range x.Paths[0].Steps {
					kinds = append(kinds, s.Kind)
				}
			}
			got := []any{x.Verdict, x.Passes, x.Pointer, strings.Join(kinds, " ")}
			if d := cmp.Diff([]any{c.verdict, c.passes, c.pointer, c.kinds}, got); d != "" {
				t.Errorf("%s\n%s", d, text.String())
			}
			if (c.line != "" && x.Line != c.line) || (x.Pointer != "" && x.Line == "") {
				t.Errorf("the line at %s is %s", x.Pointer, x.Line)
			}
			if x.Reason == "" || !strings.Contains(text.String(), c.says) {
				t.Errorf("%q is not said:\n%s", c.says, text.String())
			}
		})
	}
}

// What explain says passes, the trace lets pass, and nothing else.
func TestExplainAddsNothingToTheTrace(t *testing.T) {
	h := scenario.Load(t, "testdata/scenarios/household.txtar")
	w, err := newWays(h.State, h.Facts)
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{"phone", "laptop", "tv", "files", "internet", "lan:lan", "cell", "10.20.0.99"} {
		for _, to := range []string{"phone", "internet", "cell", "10.20.0.3", "172.20.1.2", "192.168.7.9"} {
			for _, protocol := range []string{"tcp", "udp", "icmp"} {
				x, err := explain(h.State, h.Facts, api.ExplainQuery{From: from, To: to, Protocol: protocol, Port: 443})
				if err != nil {
					t.Fatal(err)
				}
				e, _ := w.end("", from)
				for _, p := range x.Paths {
					r := w.policy.Trace(w.packet(e, p.Source, p.Destination, protocol, p.Port))
					if r.Passes() != p.Passes && p.Verdict != "refused" || string(r.Outcome) != p.Verdict && p.Verdict != "refused" {
						t.Errorf("%s → %s %s: %+v, traced %+v", from, to, protocol, p, r)
					}
				}
			}
		}
	}
}

func TestExplainRefusesWhatItCannotUnderstand(t *testing.T) {
	h := scenario.Load(t, "testdata/scenarios/household.txtar")
	for _, c := range []struct {
		q       api.ExplainQuery
		pointer string
	}{
		{api.ExplainQuery{From: "nobody", To: "internet"}, "/from"},
		{api.ExplainQuery{From: "lan:nowhere", To: "internet"}, "/from"},
		{api.ExplainQuery{From: "phone", To: "nobody"}, "/to"},
		{api.ExplainQuery{From: "phone", To: "ftp://files.home.internal"}, "/to"},
		{api.ExplainQuery{From: "phone", To: "https://"}, "/to"},
		{api.ExplainQuery{From: "phone", To: "a name"}, "/to"},
	} {
		_, err := explain(h.State, h.Facts, c.q)
		var bad *cell.InvalidError
		if !errors.As(err, &bad) || !slices.ContainsFunc(bad.Fields, func(f cell.FieldError) bool { return f.Pointer == c.pointer }) {
			t.Errorf("%+v: %v", c.q, err)
		}
	}
}
