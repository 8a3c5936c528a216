package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/datastore"
)

func identityCommands() []command {
	return []command{
		{name: "token list", help: "all API tokens", run: tokenList},
		{
			name: "token create", args: "NAME --user USER --scope 'GET /api/peers'…", help: "make an API token; it is shown once", run: tokenCreate,
			flags: func(fs *flag.FlagSet, inv *invocation) {
				fs.StringVar(&inv.opt.owner, "user", "admin", "whose token it is: it may do no more than they may")
				fs.Var(&inv.opt.scopes, "scope", "METHOD PATH that it may use, or the word metrics; * is any method or one part of a path, ** the rest; may be given again")
				fs.IntVar(&inv.opt.days, "days", 90, "until it expires")
			},
		},
		{name: "token revoke", args: "ID", help: "revoke an API token at once", run: tokenRevoke, flags: writeFlags},
		{
			name: "audit list", help: "who did what, newest first", run: auditList,
			flags: func(fs *flag.FlagSet, inv *invocation) {
				fs.IntVar(&inv.opt.limit, "limit", 50, "how many entries")
				fs.Uint64Var(&inv.opt.against, "before", 0, "only entries below this number")
			},
		},
		{
			name: "audit verify", help: "check the record's chain; names the first broken entry", run: auditVerify,
			flags: func(fs *flag.FlagSet, inv *invocation) {
				fs.StringVar(&inv.opt.stateDir, "state", "", "check the files in this state folder instead of asking a running cell")
			},
		},
	}
}

// scopeList is a flag that may be given many times.
type scopeList []cell.TokenScope

func (l *scopeList) String() string { return "" }

func (l *scopeList) Set(text string) error {
	if text == "metrics" {
		text = "GET " + cell.MetricsPath
	}
	f := strings.Fields(text)
	if len(f) != 2 {
		return errors.New("must look like 'GET /api/peers', or be the word metrics")
	}
	*l = append(*l, cell.TokenScope{Method: strings.ToUpper(f[0]), Path: f[1]})
	return nil
}

func tokenList(ctx context.Context, inv *invocation) error {
	return fetch(ctx, inv, "/api/auth/tokens", func(w io.Writer, l api.List[api.Token]) error {
		var rows [][]string
		for _, t := range l.Items {
			var scopes []string
			for _, s := range t.Scopes {
				scopes = append(scopes, s.Method+" "+s.Path)
			}
			rows = append(rows, []string{t.ID, t.User, t.Name, t.Expires.Local().Format(time.DateOnly), since(t.LastUsed), strings.Join(scopes, ", ")})
		}
		return table(w, []string{"ID", "USER", "NAME", "EXPIRES", "USED", "SCOPES"}, rows)
	})
}

func tokenCreate(ctx context.Context, inv *invocation) error {
	if len(inv.args) != 1 || len(inv.opt.scopes) == 0 {
		return errUsage
	}
	body := map[string]any{"name": inv.args[0], "user": inv.opt.owner, "scopes": inv.opt.scopes, "days": inv.opt.days}
	return inv.mutate(ctx, http.MethodPost, "/api/auth/tokens", body, func(w io.Writer, r *reply) error {
		var t api.NewToken
		if err := json.Unmarshal(r.body, &t); err != nil {
			return err
		}
		fmt.Fprintln(w, t.Secret)
		fmt.Fprintf(inv.err, "token %s of %s, until %s; it is not shown again\n", t.ID, t.User, t.Expires.Local().Format(time.DateOnly))
		return nil
	})
}

func tokenRevoke(ctx context.Context, inv *invocation) error {
	if len(inv.args) != 1 {
		return errUsage
	}
	return inv.mutate(ctx, http.MethodDelete, "/api/auth/tokens/"+url.PathEscape(inv.args[0]), nil, nil)
}

func auditList(ctx context.Context, inv *invocation) error {
	q := url.Values{"limit": {strconv.Itoa(inv.opt.limit)}}
	if inv.opt.against > 0 {
		q.Set("before", strconv.FormatUint(inv.opt.against, 10))
	}
	return fetch(ctx, inv, "/api/audit?"+q.Encode(), func(w io.Writer, l api.List[cell.AuditEntry]) error {
		var rows [][]string
		for _, e := range l.Items {
			rev := ""
			if e.Revision > 0 {
				rev = strconv.FormatUint(uint64(e.Revision), 10)
			}
			rows = append(rows, []string{strconv.FormatUint(e.Seq, 10), e.Time.Local().Format(time.DateTime), e.Event, e.Outcome, e.Who.Name, e.Who.Via, e.Who.Address, rev, e.Subject})
		}
		return table(w, []string{"N", "WHEN", "EVENT", "OUTCOME", "WHO", "VIA", "FROM", "REVISION", "WHAT"}, rows)
	})
}

// auditVerify needs no running cell with --state: it only reads.
func auditVerify(ctx context.Context, inv *invocation) error {
	var r cell.AuditReport
	var err error
	if inv.opt.stateDir != "" {
		r, err = datastore.VerifyAuditIn(inv.opt.stateDir)
	} else {
		err = inv.client().get(ctx, "/api/audit/verify", &r)
	}
	if err != nil {
		return err
	}
	doc, err := json.Marshal(r)
	if err != nil {
		return err
	}
	err = inv.show(doc, func(w io.Writer) error {
		if r.Broken != "" {
			return nil
		}
		_, err := fmt.Fprintf(w, "%d entries, %d to %d, in one unbroken chain\nhead %s\n", r.Entries, r.First, r.Last, r.Head)
		return err
	})
	if err == nil && r.Broken != "" {
		err = fmt.Errorf("the audit log is broken: %s", r.Broken)
	}
	return err
}
