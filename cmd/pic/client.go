package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// client calls the API over the local socket; the kernel tells the cell who we are.
type client struct {
	http *http.Client
	path string
}

func newClient(socket string) *client {
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
		DisableKeepAlives: true, // a confirmation must come on a new connection
	}
	return &client{&http.Client{Transport: t, Timeout: 3 * time.Minute}, socket}
}

// problemError is an answer of the API's problem+json.
type problemError struct {
	Status int    `json:"status"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
	Errors []struct {
		Pointer string `json:"pointer"`
		Message string `json:"message"`
	} `json:"errors"`
}

func (p *problemError) Error() string {
	if len(p.Errors) == 0 {
		return p.Detail
	}
	var b strings.Builder
	for i, e := range p.Errors {
		if i > 0 {
			b.WriteString("\n     ")
		}
		b.WriteString(strings.TrimSpace(e.Pointer + ": " + e.Message))
	}
	return b.String()
}

// reply is an answer with its headers.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// call sends body (nil: none) as JSON and returns the answer; a problem is an error.
func (c *client) call(ctx context.Context, method, path string, body any, header http.Header) (*reply, error) {
	var r io.Reader
	switch b := body.(type) {
	case nil:
		if method != http.MethodGet && method != http.MethodDelete {
			r = strings.NewReader("{}")
		}
	case []byte:
		r = bytes.NewReader(b)
	default:
		enc, err := json.Marshal(b)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(enc)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://pic"+path, r)
	if err != nil {
		return nil, err
	}
	if r != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.explain(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 400 {
		p := &problemError{}
		if json.Unmarshal(b, p) != nil || p.Detail == "" {
			return nil, fmt.Errorf("the cell answered %s", resp.Status)
		}
		return nil, p
	}
	return &reply{resp.StatusCode, resp.Header, b}, nil
}

func (c *client) explain(err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no cell is running at %s: start one with `pic serve`, or name its socket with --socket", c.path)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%s is for root and members of the group pic-admin: use sudo", c.path)
	}
	return err
}

// get decodes a GET into v.
func (c *client) get(ctx context.Context, path string, v any) error {
	r, err := c.call(ctx, http.MethodGet, path, nil, nil)
	if err != nil {
		return err
	}
	return json.Unmarshal(r.body, v)
}

func (inv *invocation) client() *client { return newClient(inv.socket) }

// show prints an answer: as it came with --json, else by human.
func (inv *invocation) show(body []byte, human func(w io.Writer) error) error {
	if inv.json {
		return writeIndented(inv.out, body)
	}
	return human(inv.out)
}

func writeIndented(w io.Writer, body []byte) error {
	var buf bytes.Buffer
	if json.Indent(&buf, bytes.TrimSpace(body), "", "  ") != nil {
		_, err := w.Write(body)
		return err
	}
	buf.WriteByte('\n')
	_, err := buf.WriteTo(w)
	return err
}

// fetch GETs path and shows it.
func fetch[T any](ctx context.Context, inv *invocation, path string, human func(io.Writer, T) error) error {
	r, err := inv.client().call(ctx, http.MethodGet, path, nil, nil)
	if err != nil {
		return err
	}
	var v T
	if err := json.Unmarshal(r.body, &v); err != nil {
		return err
	}
	return inv.show(r.body, func(w io.Writer) error { return human(w, v) })
}

// table prints aligned columns.
func table(w io.Writer, head []string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(head, "\t"))
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	return t.Flush()
}

// since is a moment as a person says it.
func since(t *time.Time) string {
	if t == nil || t.IsZero() {
		return "never"
	}
	d := time.Since(*t).Round(time.Second)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds ago", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh ago", int(d.Hours()))
	}
	return fmt.Sprintf("%dd ago", int(d.Hours()/24))
}

func size(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1024, 0
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	return fmt.Sprintf("%.1f %ciB", f, units[i])
}
