package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/personal-internet-cell/pic/api"
)

// options are the flags of all subcommands but serve; each command registers
// those it takes.
type options struct {
	file          string
	confirmWithin time.Duration
	dryRun        bool
	limit         int
	against       uint64

	publicKey, owner, note, trust, destinations, exit string
	services, peers, lan                              string
	expires                                           time.Duration
	noPSK, qr                                         bool
	out                                               string

	role          string
	passwordStdin bool
	data          string
	protocol      string
	port          uint
	flush         bool
	serve         serveFlags
	scopes        scopeList
	days          int
	stateDir      string
	exits         exitOptions
}

func writeFlags(fs *flag.FlagSet, inv *invocation) {
	fs.DurationVar(&inv.opt.confirmWithin, "confirm-within", 0, "make a confirmed commit: undone unless `pic confirm` within this time (10s to 1h)")
	fs.BoolVar(&inv.opt.dryRun, "dry-run", false, "show what would change and change nothing")
}

// mutate makes a change and says what became of it.
func (inv *invocation) mutate(ctx context.Context, method, path string, body any, done func(io.Writer, *reply) error) error {
	h := http.Header{}
	if inv.opt.confirmWithin > 0 {
		h.Set("Confirm-Within", strconv.Itoa(int(inv.opt.confirmWithin/time.Second)))
	}
	if inv.opt.dryRun {
		sep := "?"
		if strings.Contains(path, "?") {
			sep = "&"
		}
		path += sep + "dry_run=true"
	}
	r, err := inv.client().call(ctx, method, path, body, h)
	if err != nil {
		return err
	}
	if inv.opt.dryRun {
		return inv.showPreview(r)
	}
	return inv.show(r.body, func(w io.Writer) error {
		if done != nil {
			if err := done(w, r); err != nil {
				return err
			}
		}
		if n := r.header.Get("Pic-Revision"); n != "" {
			fmt.Fprintf(inv.err, "revision %s\n", n)
			if by := r.header.Get("Pic-Confirm-By"); by != "" {
				fmt.Fprintf(inv.err, "waiting for `pic confirm` until %s; without it the change undoes itself\n", by)
			}
		}
		return nil
	})
}

func (inv *invocation) showPreview(r *reply) error {
	var p api.Preview
	if err := json.Unmarshal(r.body, &p); err != nil {
		return err
	}
	return inv.show(r.body, func(w io.Writer) error {
		for _, c := range p.Cuts {
			fmt.Fprintf(w, "cuts off: %s\n", c.Text)
		}
		for _, d := range p.Plans {
			fmt.Fprintf(w, "=== %s\n%s", d.Stage, d.Diff)
		}
		for _, c := range p.Settings {
			fmt.Fprintf(w, "%-7s %s\n", c.Op, c.Pointer)
		}
		if len(p.Settings) == 0 {
			fmt.Fprintln(w, "nothing changes")
		}
		return nil
	})
}

func stateCommands() []command {
	return []command{
		{name: "status", help: "what runs, what waits, what needs you", run: status},
		{
			name: "plan", args: "-f edit.json", help: "show what a JSON merge patch would change", run: plan,
			flags: func(fs *flag.FlagSet, inv *invocation) {
				fs.StringVar(&inv.opt.file, "f", "", "the patch; - is standard input")
			},
		},
		{
			name: "apply", args: "-f edit.json", help: "make the change", run: apply,
			flags: func(fs *flag.FlagSet, inv *invocation) {
				fs.StringVar(&inv.opt.file, "f", "", "the patch; - is standard input")
				writeFlags(fs, inv)
			},
		},
		{name: "confirm", args: "[REVISION]", help: "keep the change that waits", run: func(ctx context.Context, inv *invocation) error { return settlePending(ctx, inv, "confirm") }},
		{name: "revert", args: "[REVISION]", help: "undo the change that waits, now", run: func(ctx context.Context, inv *invocation) error { return settlePending(ctx, inv, "revert") }},
		{name: "rollback", args: "REVISION", help: "make an old revision's state a new revision", run: rollback, flags: writeFlags},
		{
			name: "revisions", help: "the history, newest first", run: revisions,
			flags: func(fs *flag.FlagSet, inv *invocation) {
				fs.IntVar(&inv.opt.limit, "limit", 20, "how many, at most 500")
			},
		},
		{
			name: "diff", args: "REVISION", help: "what a revision changed", run: diff,
			flags: func(fs *flag.FlagSet, inv *invocation) {
				fs.Uint64Var(&inv.opt.against, "against", 0, "compare with this revision; default: its parent")
			},
		},
		{name: "export", args: "nft|wg|zone|state", help: "a plan as text", run: export},
	}
}

func status(ctx context.Context, inv *invocation) error {
	return fetch(ctx, inv, "/api/status", func(w io.Writer, s api.Status) error {
		fmt.Fprintf(w, "%s (%s), revision %d, pic %s, up %v\n", s.Cell.Domain, s.Cell.DomainMode, s.Revision, s.Cell.Version, time.Duration(s.Resources.UptimeSeconds)*time.Second)
		if s.Source != "current" {
			fmt.Fprintf(w, "ALARM: the stored state was damaged. Everything keeps running as it was; changes and the web are closed.\n"+
				"Look at what was found below, then run `pic recover` to adopt revision %d (`pic recover --adopt N`: another of `pic revisions`), or restore a backup.\n", s.Revision)
		}
		if p := s.Pending; p != nil {
			fmt.Fprintf(w, "revision %d by %s (%s) waits for `pic confirm` until %s\n", p.Revision, p.Author.Name, p.Message, p.ConfirmBy.Format(time.RFC3339))
		}
		fmt.Fprintf(w, "peers %d online of %d; wireguard %s on port %d; clock %s\n\n", s.Peers.Online, s.Peers.Total, s.WireGuard.Backend, s.WireGuard.ListenPort, clockWord(s.Clock))
		var rows [][]string
		for _, c := range s.Conditions {
			rows = append(rows, []string{c.Stage, string(c.State), strconv.FormatUint(uint64(c.Revision), 10), since(&c.Since), c.Reason})
		}
		if err := table(w, []string{"STAGE", "STATE", "REVISION", "SINCE", "REASON"}, rows); err != nil {
			return err
		}
		for _, n := range s.Notices {
			fmt.Fprintf(w, "\n%s %s: %s\n", n.Severity, n.Code, n.Text)
		}
		return nil
	})
}

func clockWord(c api.ClockBrief) string {
	if !c.Synchronised {
		return "not synchronised"
	}
	return fmt.Sprintf("synchronised, stratum %d", c.Stratum)
}

// readFile reads -f, or standard input for "-".
func (inv *invocation) readFile() ([]byte, error) {
	switch inv.opt.file {
	case "":
		return nil, errUsage
	case "-":
		return io.ReadAll(io.LimitReader(inv.in, 1<<20))
	}
	return os.ReadFile(inv.opt.file)
}

func plan(ctx context.Context, inv *invocation) error {
	b, err := inv.readFile()
	if err != nil {
		return err
	}
	r, err := inv.client().call(ctx, http.MethodPost, "/api/plan", b, nil)
	if err != nil {
		return err
	}
	return inv.showPreview(r)
}

func apply(ctx context.Context, inv *invocation) error {
	b, err := inv.readFile()
	if err != nil {
		return err
	}
	return inv.mutate(ctx, http.MethodPut, "/api/config", b, nil)
}

// settlePending confirms or reverts the pending commit.
func settlePending(ctx context.Context, inv *invocation, verb string) error {
	n := ""
	if len(inv.args) > 0 {
		n = inv.args[0]
	} else {
		var s api.Status
		if err := inv.client().get(ctx, "/api/status", &s); err != nil {
			return err
		}
		if s.Pending == nil {
			return fmt.Errorf("no change waits for confirmation")
		}
		n = strconv.FormatUint(uint64(s.Pending.Revision), 10)
	}
	return inv.mutate(ctx, http.MethodPost, "/api/commits/"+n+"/"+verb, nil, nil)
}

func rollback(ctx context.Context, inv *invocation) error {
	if len(inv.args) != 1 {
		return errUsage
	}
	return inv.mutate(ctx, http.MethodPost, "/api/revisions/"+inv.args[0]+"/rollback", nil, nil)
}

func revisions(ctx context.Context, inv *invocation) error {
	return fetch(ctx, inv, "/api/revisions?limit="+strconv.Itoa(inv.opt.limit), func(w io.Writer, l api.List[api.RevisionItem]) error {
		var rows [][]string
		for _, r := range l.Items {
			mark := ""
			if r.Current {
				mark = "*"
			}
			rows = append(rows, []string{strconv.FormatUint(uint64(r.Number), 10) + mark, r.Time.Local().Format(time.DateTime), r.Author.Name, string(r.Status), r.Message})
		}
		return table(w, []string{"REVISION", "TIME", "AUTHOR", "STATUS", "MESSAGE"}, rows)
	})
}

func diff(ctx context.Context, inv *invocation) error {
	if len(inv.args) != 1 {
		return errUsage
	}
	path := "/api/revisions/" + inv.args[0] + "/diff"
	if inv.opt.against > 0 {
		path += "?against=" + strconv.FormatUint(inv.opt.against, 10)
	}
	r, err := inv.client().call(ctx, http.MethodGet, path, nil, nil)
	if err != nil {
		return err
	}
	return inv.showPreview(r)
}

func export(ctx context.Context, inv *invocation) error {
	if len(inv.args) != 1 {
		return errUsage
	}
	r, err := inv.client().call(ctx, http.MethodGet, "/api/export/"+inv.args[0], nil, nil)
	if err != nil {
		return err
	}
	_, err = inv.out.Write(r.body)
	return err
}
