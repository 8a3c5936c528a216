package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/cell"
)

// exitOptions are flags of `pic exit` and `pic chain`. No secret is one: what
// stands in arguments is seen by everybody on the machine.
type exitOptions struct {
	name, username, passwordFile, keyFile, passphraseFile string
	enabled, socks, probes, moveTo                        string
	hold, until                                           time.Duration
	then                                                  string
	windows                                               windowList
}

func exitCommands() []command {
	fields := func(fs *flag.FlagSet, inv *invocation) {
		o := &inv.opt.exits
		fs.StringVar(&inv.opt.file, "f", "", "the file that the provider gave; - is standard input")
		fs.StringVar(&o.name, "name", "", "what people call it")
		fs.StringVar(&o.username, "username", "", "who logs in")
		fs.StringVar(&o.passwordFile, "password-file", "", "read the password from this file; - is standard input")
		fs.StringVar(&o.keyFile, "private-key", "", "read the SSH key from this file; - is standard input")
		fs.StringVar(&o.passphraseFile, "passphrase-file", "", "read the passphrase of the key from this file")
		fs.StringVar(&o.enabled, "enabled", "", "yes or no")
		fs.StringVar(&o.socks, "socks", "", "yes or no: a SOCKS server for peers that are granted it")
		fs.StringVar(&o.probes, "probes", "", "what health checks connect to, such as 9.9.9.9:443, comma-separated")
		writeFlags(fs, inv)
	}
	remove := func(fs *flag.FlagSet, inv *invocation) {
		fs.StringVar(&inv.opt.exits.moveTo, "move-to", "", "where its users leave instead: an exit, a chain, direct or block")
		writeFlags(fs, inv)
	}
	chain := func(fs *flag.FlagSet, inv *invocation) {
		fs.DurationVar(&inv.opt.exits.hold, "hold", -1, "how long a better exit must be up before the chain returns to it; default 1m")
		fs.Var(&inv.opt.exits.windows, "window", "'DAYS FROM-UNTIL EXIT', such as 'mon,fri 22:00-06:00 block' or 'daily 09:00-17:00 nl'; may be given again")
		fs.StringVar(&inv.opt.exits.name, "name", "", "what people call it")
		writeFlags(fs, inv)
	}
	return []command{
		{name: "exit list", help: "all exits with their states", run: exitList},
		{name: "exit show", args: "ID", help: "one exit", run: func(ctx context.Context, inv *invocation) error { return showJSON(ctx, inv, exitsAPI) }},
		{name: "exit add", args: "wireguard|openvpn|ssh|proxy|tor [TARGET] [-f FILE]", help: "add an exit: TARGET is a file, user@host, a URL without a password, or countries", run: exitAdd, flags: fields},
		{name: "exit set", args: "ID [-f FILE]", help: "change an exit; what is not named stays", run: exitSet, flags: fields},
		{name: "exit remove", args: "ID", help: "remove an exit", run: func(ctx context.Context, inv *invocation) error { return removeWay(ctx, inv, exitsAPI) }, flags: remove},
		{name: "exit test", args: "ID", help: "the public address, latency and names seen through it", run: exitTest},
		{name: "exit proof", args: "ID", help: "probes that show that nothing of its users leaves elsewhere", run: exitProof},
		{name: "exit host-key", args: "ID [accept]", help: "the SSH host key; accept pins the one that the server shows now", run: exitHostKey, flags: writeFlags},
		{name: "exit types", help: "the types of exits, and what each needs", run: exitTypes},
		{name: "chain list", help: "all chains of exits", run: chainList},
		{name: "chain add", args: "NAME EXIT…", help: "add a chain: exits that are tried in order; the last may be direct or block", run: chainAdd, flags: chain},
		{name: "chain set", args: "ID [EXIT…]", help: "change a chain", run: chainSet, flags: chain},
		{name: "chain remove", args: "ID", help: "remove a chain", run: func(ctx context.Context, inv *invocation) error { return removeWay(ctx, inv, chainsAPI) }, flags: remove},
		{
			name: "peer set-exit", args: "PEER EXIT", help: "where a peer's traffic leaves: an exit, a chain, direct or block", run: peerSetExit,
			flags: func(fs *flag.FlagSet, inv *invocation) {
				fs.DurationVar(&inv.opt.exits.until, "until", 0, "for this long, such as 2h")
				fs.StringVar(&inv.opt.exits.then, "then", "", "what follows; default: what it is now")
				writeFlags(fs, inv)
			},
		},
	}
}

const (
	exitsAPI  = "/api/connectivity/exits"
	chainsAPI = "/api/connectivity/chains"
)

// exitWords are what people call the types.
var exitWords = map[string]cell.ExitType{
	"wireguard": cell.ExitWireGuard, "wireguard_ext": cell.ExitWireGuard, "wireguard-ext": cell.ExitWireGuard, "wg": cell.ExitWireGuard,
	"openvpn": cell.ExitOpenVPN, "openvpn-client": cell.ExitOpenVPN, "ovpn": cell.ExitOpenVPN,
	"ssh": cell.ExitSSHuttle, "sshuttle": cell.ExitSSHuttle, "proxy": cell.ExitProxy, "tor": cell.ExitTor,
}

func showJSON(ctx context.Context, inv *invocation, path string) error {
	id, err := inv.name()
	if err != nil {
		return err
	}
	r, err := inv.client().call(ctx, http.MethodGet, path+"/"+id, nil, nil)
	if err != nil {
		return err
	}
	return writeIndented(inv.out, r.body)
}

func removeWay(ctx context.Context, inv *invocation, path string) error {
	id, err := inv.name()
	if err != nil {
		return err
	}
	path += "/" + id
	if to := inv.opt.exits.moveTo; to != "" {
		path += "?move_to=" + url.QueryEscape(to)
	}
	return inv.mutate(ctx, http.MethodDelete, path, nil, nil)
}

func exitList(ctx context.Context, inv *invocation) error {
	return fetch(ctx, inv, exitsAPI, func(w io.Writer, l api.List[api.Exit]) error {
		var rows [][]string
		for _, e := range l.Items {
			latency := ""
			if e.LatencyMS > 0 {
				latency = fmt.Sprintf("%.0f ms", e.LatencyMS)
			}
			rows = append(rows, []string{e.ID, string(e.Type), string(e.State), cmp.Or(e.PublicAddress4, e.PublicAddress6), latency, size(e.RxBytes), size(e.TxBytes), strings.Join(e.UsedBy, ", "), e.Reason})
		}
		return table(w, []string{"ID", "TYPE", "STATE", "ADDRESS", "LATENCY", "RECEIVED", "SENT", "USED BY", "REASON"}, rows)
	})
}

// read takes a file, or standard input, whose text can be used once.
func (inv *invocation) read(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	if file == "-" {
		if inv.stdinUsed {
			return "", errors.New("standard input can stand for one file only")
		}
		inv.stdinUsed = true
		b, err := io.ReadAll(io.LimitReader(inv.in, cell.MaxExitConfig+1))
		return string(b), err
	}
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, cell.MaxExitConfig+1))
	return string(b), err
}

// exitBody makes the request's body of the flags.
func (inv *invocation) exitBody() (map[string]any, error) {
	o, body := &inv.opt.exits, map[string]any{}
	for k, v := range map[string]string{"name": o.name, "username": o.username} {
		if v != "" {
			body[k] = v
		}
	}
	for k, v := range map[string]string{"enabled": o.enabled, "socks": o.socks} {
		switch v {
		case "":
		case "yes", "no":
			body[k] = v == "yes"
		default:
			return nil, fmt.Errorf("--%s is yes or no", k)
		}
	}
	if o.probes != "" {
		body["probes"] = strings.Split(o.probes, ",")
	}
	for _, x := range []struct{ key, file string }{{"config", inv.opt.file}, {"password", o.passwordFile}, {"private_key", o.keyFile}, {"passphrase", o.passphraseFile}} {
		if x.file == "" {
			continue
		}
		text, err := inv.read(x.file)
		if err != nil {
			return nil, err
		}
		if x.key == "password" || x.key == "passphrase" {
			text, _, _ = strings.Cut(text, "\n")
			text = strings.TrimSuffix(text, "\r")
		}
		body[x.key] = text
	}
	return body, nil
}

func exitAdd(ctx context.Context, inv *invocation) error {
	if len(inv.args) < 1 || len(inv.args) > 2 {
		return errUsage
	}
	t, known := exitWords[strings.ToLower(inv.args[0])]
	if !known {
		return fmt.Errorf("%q is no type of exit: wireguard, openvpn, ssh, proxy or tor", inv.args[0])
	}
	target := ""
	if len(inv.args) == 2 {
		target = inv.args[1]
	}
	switch {
	case target != "" && inv.opt.file != "":
		return errors.New("give either a target or -f")
	case t == cell.ExitWireGuard || t == cell.ExitOpenVPN:
		inv.opt.file = cmp.Or(inv.opt.file, target, "-")
	case strings.Contains(userOf(target), ":"):
		return errors.New("a password in an argument is seen by everybody on the machine: leave it out, and it is asked for; or put the URL in a file (-f)")
	}
	body, err := inv.exitBody()
	if err != nil {
		return err
	}
	if target != "" && body["config"] == nil {
		body["config"] = target
	}
	body["type"] = t
	if err := inv.askMissing(ctx, body); err != nil {
		return err
	}
	return inv.mutate(ctx, http.MethodPost, exitsAPI, body, func(w io.Writer, r *reply) error {
		var e api.Exit
		if err := json.Unmarshal(r.body, &e); err != nil {
			return err
		}
		_, err := fmt.Fprintln(w, e.ID)
		return err
	})
}

// userOf is what stands before the @ of a URL or of user@host.
func userOf(target string) string {
	at := strings.LastIndexByte(target, '@')
	if at < 0 {
		return ""
	}
	user := target[:at]
	if _, rest, scheme := strings.Cut(user, "//"); scheme {
		return rest
	}
	return user
}

// askMissing lets the cell read the configuration, shows its warnings, and asks
// on the terminal for what is missing.
func (inv *invocation) askMissing(ctx context.Context, body map[string]any) error {
	ask := map[string]any{}
	for _, k := range []string{"type", "config", "username", "password", "private_key", "passphrase"} {
		if v, given := body[k]; given {
			ask[k] = v
		}
	}
	if ask["config"] == nil {
		ask["config"] = ""
	}
	r, err := inv.client().call(ctx, http.MethodPost, exitsAPI+"/parse", ask, nil)
	if err != nil {
		return err
	}
	var d api.ExitParsed
	if err := json.Unmarshal(r.body, &d); err != nil {
		return err
	}
	for _, x := range d.Warnings {
		fmt.Fprintf(inv.err, "note: %s\n", x)
	}
	if !d.OK {
		var all []string
		for _, x := range d.Refused {
			all = append(all, x.String())
		}
		return errors.New(strings.Join(all, "\n     "))
	}
	for _, what := range d.Asks {
		if what == "private_key" { // with it comes password: one of them
			continue
		}
		v, err := inv.prompt(what)
		if err != nil {
			return err
		}
		body[what] = v
	}
	return nil
}

// prompt asks on the terminal; what is no name is not echoed.
func (inv *invocation) prompt(what string) (string, error) {
	f, is := inv.in.(*os.File)
	if !is || !term.IsTerminal(int(f.Fd())) {
		flags := map[string]string{"username": "--username", "password": "--password-file (or, for ssh, --private-key)", "passphrase": "--passphrase-file"}
		return "", fmt.Errorf("the %s is missing, and there is no terminal to ask on: use %s", what, flags[what])
	}
	fmt.Fprintf(inv.err, "%s: ", what)
	if what == "username" {
		line, err := bufio.NewReader(io.LimitReader(f, 1024)).ReadString('\n')
		return strings.TrimSpace(line), err
	}
	b, err := term.ReadPassword(int(f.Fd()))
	fmt.Fprintln(inv.err)
	return string(b), err
}

func exitSet(ctx context.Context, inv *invocation) error {
	id, err := inv.name()
	if err != nil {
		return err
	}
	body, err := inv.exitBody()
	if err != nil {
		return err
	}
	if len(body) == 0 {
		return errUsage
	}
	return inv.mutate(ctx, http.MethodPut, exitsAPI+"/"+id, body, nothing)
}

// nothing is what a change prints that says all on standard error.
func nothing(io.Writer, *reply) error { return nil }

// report GETs path and shows it, and fails by what is in it, also with --json.
func report[T any](ctx context.Context, inv *invocation, path string, human func(io.Writer, T) error, verdict func(T) error) error {
	r, err := inv.client().call(ctx, http.MethodGet, path, nil, nil)
	if err != nil {
		return err
	}
	var v T
	if err := json.Unmarshal(r.body, &v); err != nil {
		return err
	}
	return errors.Join(inv.show(r.body, func(w io.Writer) error { return human(w, v) }), verdict(v))
}

func fine(ok bool) string {
	if ok {
		return "ok"
	}
	return "FAILS"
}

func exitTest(ctx context.Context, inv *invocation) error {
	id, err := inv.name()
	if err != nil {
		return err
	}
	return report(ctx, inv, exitsAPI+"/"+id+"/test", func(w io.Writer, x api.ExitTest) error {
		const no = "does not get through"
		fmt.Fprintf(w, "IPv4     %s\nIPv6     %s\nlatency  %.0f ms\nnames    %s\n", cmp.Or(x.PublicAddress4, no), cmp.Or(x.PublicAddress6, no), x.LatencyMS, fine(x.DNS))
		for _, c := range x.Checks {
			fmt.Fprintf(w, "%-5s %s: %s\n", fine(c.OK), c.Name, c.Text)
		}
		return nil
	}, func(x api.ExitTest) error {
		if !x.OK {
			return errors.New("the exit does not work")
		}
		return nil
	})
}

func exitProof(ctx context.Context, inv *invocation) error {
	id, err := inv.name()
	if err != nil {
		return err
	}
	return report(ctx, inv, exitsAPI+"/"+id+"/proof", func(w io.Writer, x api.ExitProof) error {
		var rows [][]string
		for _, p := range x.Probes {
			rows = append(rows, []string{p.Name, p.Destination, p.Outcome, fine(p.OK), p.Text})
		}
		if err := table(w, []string{"PROBE", "TO", "WENT TO", "", ""}, rows); err != nil {
			return err
		}
		_, err := fmt.Fprintf(w, "%s\n%d packets were stopped by the kill switch\n", x.Text, x.LeakedPackets)
		return err
	}, func(x api.ExitProof) error {
		if !x.Holds {
			return errors.New("the proof does not hold")
		}
		return nil
	})
}

func exitHostKey(ctx context.Context, inv *invocation) error {
	accept := len(inv.args) == 2 && inv.args[1] == "accept"
	if len(inv.args) != 1 && !accept {
		return errUsage
	}
	path := exitsAPI + "/" + url.PathEscape(inv.args[0])
	var e api.Exit
	if err := inv.client().get(ctx, path, &e); err != nil {
		return err
	}
	switch {
	case e.SSH == nil:
		return fmt.Errorf("%s is no SSH exit: it has no host key", e.ID)
	case accept && e.PendingHostKey == nil:
		return errors.New("the server shows no other key than the pinned one")
	case accept:
		return inv.mutate(ctx, http.MethodPost, path+"/host-key", map[string]string{"key": e.PendingHostKey.Key}, func(w io.Writer, _ *reply) error {
			_, err := fmt.Fprintf(w, "pinned %s\n", e.PendingHostKey.Fingerprint)
			return err
		})
	}
	doc, err := json.Marshal(map[string]any{"host_key": e.SSH.HostKey, "host_key_fingerprint": e.SSH.HostKeyFingerprint, "pending_host_key": e.PendingHostKey})
	if err != nil {
		return err
	}
	return inv.show(doc, func(w io.Writer) error {
		fmt.Fprintf(w, "pinned   %s\n         %s\n", cmp.Or(e.SSH.HostKeyFingerprint, "none yet: the first key that is seen"), e.SSH.HostKey)
		if k := e.PendingHostKey; k != nil {
			fmt.Fprintf(w, "CHANGED  %s\n         %s\nCompare it with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the server, then: pic exit host-key %s accept\n", k.Fingerprint, k.Key, e.ID)
		}
		return nil
	})
}

func exitTypes(ctx context.Context, inv *invocation) error {
	return fetch(ctx, inv, "/api/connectivity/types", func(w io.Writer, l api.List[api.ExitTypeInfo]) error {
		var rows [][]string
		for _, t := range l.Items {
			need := cmp.Or(t.InstallCommand, "nothing")
			rows = append(rows, []string{t.CatalogID, string(t.Type), fmt.Sprintf("%d of %d", t.Count, t.Max), need})
		}
		return table(w, []string{"CATALOG ID", "TYPE", "EXITS", "STILL NEEDS"}, rows)
	})
}

func peerSetExit(ctx context.Context, inv *invocation) error {
	if len(inv.args) != 2 {
		return errUsage
	}
	o := &inv.opt.exits
	body := map[string]any{"exit": inv.args[1]}
	if o.until > 0 {
		body["until"] = time.Now().Add(o.until).UTC().Format(time.RFC3339)
	}
	if o.then != "" {
		body["then"] = o.then
	}
	return inv.mutate(ctx, http.MethodPut, "/api/connectivity/peers/"+url.PathEscape(inv.args[0])+"/exit", body, func(w io.Writer, r *reply) error {
		var p api.PeerExit
		if err := json.Unmarshal(r.body, &p); err != nil {
			return err
		}
		until := ""
		if p.Until != nil {
			until = fmt.Sprintf(" until %s, then by %s", p.Until.Local().Format(time.DateTime), p.Then)
		}
		_, err := fmt.Fprintf(w, "%s leaves by %s%s\n", p.Peer, p.Exit, until)
		return err
	})
}
