package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/cell"
)

var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// windowList is a flag that may be given many times.
type windowList []api.ChainWindowField

func (l *windowList) String() string { return "" }

func (l *windowList) Set(text string) error {
	f := strings.Fields(text)
	if len(f) != 3 {
		return errors.New("must look like 'mon,fri 22:00-06:00 block'")
	}
	w := api.ChainWindowField{Use: f[2]}
	if f[0] != "daily" {
		for d := range strings.SplitSeq(strings.ToLower(f[0]), ",") {
			i := slices.Index(weekdays, d)
			if i < 0 {
				return fmt.Errorf("%q is no day: %s, or daily", d, strings.Join(weekdays, ", "))
			}
			w.Days = append(w.Days, i)
		}
	}
	from, until, _ := strings.Cut(f[1], "-")
	for _, x := range []struct {
		text string
		to   *int
	}{{from, &w.From}, {until, &w.Until}} {
		t, err := time.Parse("15:04", x.text)
		if err != nil {
			return fmt.Errorf("%q is no time such as 06:30", x.text)
		}
		*x.to = t.Hour()*60 + t.Minute()
	}
	*l = append(*l, w)
	return nil
}

// windowText is the inverse of windowList.Set.
func windowText(w cell.ChainWindow) string {
	var days []string
	for _, d := range w.Days {
		if d >= 0 && d < len(weekdays) {
			days = append(days, weekdays[d])
		}
	}
	clock := func(m int) string { return fmt.Sprintf("%02d:%02d", m/60, m%60) }
	return fmt.Sprintf("%s %s-%s %s", cmp.Or(strings.Join(days, ","), "daily"), clock(w.From), clock(w.Until), w.Use)
}

func chainList(ctx context.Context, inv *invocation) error {
	return fetch(ctx, inv, chainsAPI, func(w io.Writer, l api.List[api.Chain]) error {
		var rows [][]string
		for _, c := range l.Items {
			var windows []string
			for _, x := range c.Schedule {
				windows = append(windows, windowText(x))
			}
			rows = append(rows, []string{c.ID, strings.Join(c.Members, " → "), c.Way, since(c.Since), strings.Join(windows, "; "), strings.Join(c.UsedBy, ", ")})
		}
		return table(w, []string{"ID", "EXITS", "NOW", "SINCE", "SCHEDULE", "USED BY"}, rows)
	})
}

func (inv *invocation) chainBody(members []string) map[string]any {
	o, body := &inv.opt.exits, map[string]any{}
	if len(members) > 0 {
		body["members"] = members
	}
	if o.name != "" {
		body["name"] = o.name
	}
	if o.hold >= 0 {
		body["hold"] = int(o.hold / time.Second)
	}
	if o.windows != nil {
		body["schedule"] = o.windows
	}
	return body
}

func chainAdd(ctx context.Context, inv *invocation) error {
	if len(inv.args) < 2 {
		return errUsage
	}
	inv.opt.exits.name = cmp.Or(inv.opt.exits.name, inv.args[0])
	return inv.mutate(ctx, http.MethodPost, chainsAPI, inv.chainBody(inv.args[1:]), func(w io.Writer, r *reply) error {
		var c api.Chain
		if err := json.Unmarshal(r.body, &c); err != nil {
			return err
		}
		_, err := fmt.Fprintln(w, c.ID)
		return err
	})
}

func chainSet(ctx context.Context, inv *invocation) error {
	if len(inv.args) < 1 {
		return errUsage
	}
	body := inv.chainBody(inv.args[1:])
	if len(body) == 0 {
		return errUsage
	}
	return inv.mutate(ctx, http.MethodPut, chainsAPI+"/"+url.PathEscape(inv.args[0]), body, nothing)
}
