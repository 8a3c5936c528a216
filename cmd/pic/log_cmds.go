package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/cell"
)

// logOptions are the flags of `pic logs`.
type logOptions struct {
	follow                 bool
	subsystem, level, grep string
	since                  time.Duration
	lines                  int
}

func logCommands() []command {
	return []command{
		{
			name: "logs", help: "the cell's log", run: showLogs,
			flags: func(fs *flag.FlagSet, inv *invocation) {
				o := &inv.opt.logs
				fs.BoolVar(&o.follow, "follow", false, "go on with what comes")
				fs.StringVar(&o.subsystem, "subsystem", "", "only of one: dns, firewall, tunnel, proxy, …")
				fs.StringVar(&o.level, "level", "", "the least: debug, info, warn or error")
				fs.StringVar(&o.grep, "grep", "", "only lines with this text in the message or a detail, in any case")
				fs.DurationVar(&o.since, "since", 0, "only as old as this, such as 2h")
				fs.IntVar(&o.lines, "lines", 50, "at most so many, up to 1000")
			},
		},
		{name: "logs statistics", help: "how many lines there were, by day, subsystem and level", run: logStatistics},
		{name: "logs level", args: "[SUBSYSTEM debug|info|warn|error|default]", help: "the levels, or set one", run: logLevel},
	}
}

func (o *logOptions) query() url.Values {
	q := url.Values{}
	for k, v := range map[string]string{"q": o.grep, "subsystem": o.subsystem, "level": o.level} {
		if v != "" {
			q.Set(k, v)
		}
	}
	return q
}

func showLogs(ctx context.Context, inv *invocation) error {
	o := &inv.opt.logs
	if len(inv.args) > 0 {
		return errUsage
	}
	q := o.query()
	q.Set("limit", strconv.Itoa(o.lines))
	if o.since > 0 {
		q.Set("since", time.Now().Add(-o.since).UTC().Format(time.RFC3339))
	}
	r, err := inv.client().call(ctx, http.MethodGet, "/api/logs/search?"+q.Encode(), nil, nil)
	if err != nil {
		return err
	}
	var page api.LogPage
	if err := json.Unmarshal(r.body, &page); err != nil {
		return err
	}
	slices.Reverse(page.Items)
	if inv.json && !o.follow {
		return writeIndented(inv.out, r.body)
	}
	last := uint64(0)
	for i := range page.Items {
		if err := inv.logLine(&page.Items[i]); err != nil {
			return err
		}
		last = page.Items[i].Seq
	}
	if !o.follow {
		return nil
	}
	return inv.followLogs(ctx, o.query(), last)
}

// logLine prints one line; with --json, as JSON.
func (inv *invocation) logLine(r *cell.LogRecord) error {
	if inv.json {
		return json.NewEncoder(inv.out).Encode(r)
	}
	_, err := io.WriteString(inv.out, logText(r))
	return err
}

// logText is a line for a person: what strangers put into it can't act on the
// terminal.
func logText(r *cell.LogRecord) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %-5s %-9s %s", r.Time.Local().Format("2006-01-02 15:04:05.000"), strings.ToUpper(string(r.Level)), r.Subsystem, cell.OneLine(r.Message, 1000))
	for _, k := range slices.Sorted(maps.Keys(r.Attrs)) {
		v := r.Attrs[k]
		if quoted := strconv.Quote(v); quoted != `"`+v+`"` || strings.ContainsAny(v, " =") || v == "" {
			v = quoted
		}
		fmt.Fprintf(&b, " %s=%s", cell.OneLine(k, 100), v)
	}
	return b.String() + "\n"
}

// followLogs prints lines above a number as they come, until ctx ends or the
// cell stops.
func (inv *invocation) followLogs(ctx context.Context, q url.Values, last uint64) error {
	q.Set("after", strconv.FormatUint(max(last, 1), 10))
	return inv.client().follow(ctx, "/api/logs/tail?"+q.Encode(), func(event string, data []byte) error {
		if event == "lost" {
			fmt.Fprintln(inv.err, "pic: some lines came too fast to be shown")
			return nil
		}
		var r cell.LogRecord
		if err := json.Unmarshal(data, &r); err != nil {
			return err
		}
		return inv.logLine(&r)
	})
}

// follow reads server-sent events until the stream ends, which is an error
// unless ctx ended it.
func (c *client) follow(ctx context.Context, path string, each func(event string, data []byte) error) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://pic"+path, nil)
	if err != nil {
		return err
	}
	endless := &http.Client{Transport: c.http.Transport}
	resp, err := endless.Do(req)
	if err != nil {
		return c.explain(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		p := &problemError{}
		if json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(p) != nil || p.Detail == "" {
			return fmt.Errorf("the cell answered %s", resp.Status)
		}
		return p
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	event := ""
	for lines.Scan() {
		name, value, _ := bytes.Cut(lines.Bytes(), []byte(": "))
		switch string(name) {
		case "event":
			event = string(value)
		case "data":
			if err := each(event, value); err != nil {
				return err
			}
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return errors.Join(lines.Err(), errors.New("the cell has ended the stream"))
}

func logStatistics(ctx context.Context, inv *invocation) error {
	return fetch(ctx, inv, "/api/logs/statistics?interval=24h", func(w io.Writer, l api.List[cell.LogCount]) error {
		var rows [][]string
		for _, c := range l.Items {
			rows = append(rows, []string{c.Time.Local().Format(time.DateTime), c.Subsystem, string(c.Level), strconv.FormatUint(c.Count, 10)})
		}
		return table(w, []string{"FROM", "SUBSYSTEM", "LEVEL", "LINES"}, rows)
	})
}

func logLevel(ctx context.Context, inv *invocation) error {
	show := func(w io.Writer, l api.List[cell.SubsystemLevel]) error {
		var rows [][]string
		for _, x := range l.Items {
			by := "start"
			if x.Set {
				by = "set"
			}
			rows = append(rows, []string{x.Subsystem, string(x.Level), by})
		}
		return table(w, []string{"SUBSYSTEM", "LEVEL", "BY"}, rows)
	}
	switch len(inv.args) {
	case 0:
		return fetch(ctx, inv, "/api/logs/levels", show)
	case 2:
		r, err := inv.client().call(ctx, http.MethodPut, "/api/logs/levels/"+url.PathEscape(inv.args[0]), map[string]string{"level": inv.args[1]}, nil)
		if err != nil {
			return err
		}
		var l api.List[cell.SubsystemLevel]
		if err := json.Unmarshal(r.body, &l); err != nil {
			return err
		}
		return inv.show(r.body, func(w io.Writer) error { return show(w, l) })
	}
	return errUsage
}
