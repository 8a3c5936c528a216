package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/tunnel"
)

func peerCommands() []command {
	fields := func(fs *flag.FlagSet, inv *invocation) {
		o := &inv.opt
		fs.StringVar(&o.publicKey, "public-key", "", "the device's own public key; without it this command makes a pair and prints the whole configuration")
		fs.StringVar(&o.destinations, "destinations", "", "full or split")
		fs.StringVar(&o.exit, "exit", "", "an exit's id, or direct")
		fs.DurationVar(&o.expires, "expires", 0, "let it in for this long, such as 72h")
		fs.StringVar(&o.note, "note", "", "a note")
		fs.StringVar(&o.owner, "owner", "", "the user whose device it is")
		fs.StringVar(&o.trust, "trust", "", "owner, family or guest")
		fs.StringVar(&o.services, "services", "", "granted services, comma-separated; * is all, none is none")
		fs.StringVar(&o.peers, "peers", "", "peers it may reach, comma-separated")
		fs.StringVar(&o.lan, "lan", "", "networks it may reach, comma-separated")
		fs.BoolVar(&o.noPSK, "no-preshared-key", false, "do without a preshared key")
		writeFlags(fs, inv)
	}
	return []command{
		{name: "peer list", help: "all peers", run: peerList},
		{name: "peer show", args: "NAME", help: "one peer", run: peerShow},
		{
			name: "peer add", args: "NAME", help: "add a peer and print its configuration", run: peerAdd,
			flags: func(fs *flag.FlagSet, inv *invocation) {
				fields(fs, inv)
				fs.BoolVar(&inv.opt.qr, "qr", false, "print the configuration as a QR code too")
				fs.StringVar(&inv.opt.out, "o", "", "write the configuration to this file (mode 0600)")
			},
		},
		{name: "peer config", args: "NAME", help: "the configuration; its PrivateKey line is empty", run: peerConfig},
		{name: "peer qr", args: "NAME", help: "the same as a QR code", run: peerQR},
		{name: "peer remove", args: "NAME", help: "remove a peer", run: peerRemove, flags: writeFlags},
	}
}

func (inv *invocation) name() (string, error) {
	if len(inv.args) != 1 {
		return "", errUsage
	}
	return url.PathEscape(inv.args[0]), nil
}

func peerList(ctx context.Context, inv *invocation) error {
	return fetch(ctx, inv, "/api/peers", func(w io.Writer, l api.List[api.Peer]) error {
		var rows [][]string
		for _, p := range l.Items {
			state := "offline"
			switch {
			case !p.Enabled:
				state = "disabled"
			case p.Online:
				state = "online"
			}
			rows = append(rows, []string{p.Name, state, p.Address4, since(p.LastHandshake), size(p.RxBytes), size(p.TxBytes), p.Endpoint})
		}
		return table(w, []string{"NAME", "STATE", "ADDRESS", "HANDSHAKE", "RECEIVED", "SENT", "ENDPOINT"}, rows)
	})
}

func peerShow(ctx context.Context, inv *invocation) error {
	name, err := inv.name()
	if err != nil {
		return err
	}
	r, err := inv.client().call(ctx, http.MethodGet, "/api/peers/"+name, nil, nil)
	if err != nil {
		return err
	}
	return writeIndented(inv.out, r.body)
}

// peerAdd makes the pair in this process, so that the cell never sees the
// private key.
func peerAdd(ctx context.Context, inv *invocation) error {
	if len(inv.args) != 1 {
		return errUsage
	}
	o := &inv.opt
	body := map[string]any{"name": inv.args[0], "preshared_key": !o.noPSK}
	for k, v := range map[string]string{"destinations": o.destinations, "exit": o.exit, "note": o.note, "owner": o.owner, "trust": o.trust} {
		if v != "" {
			body[k] = v
		}
	}
	for k, v := range map[string]string{"services": o.services, "peers": o.peers, "lan": o.lan} {
		if v == "none" {
			body[k] = []string{}
		} else if v != "" {
			body[k] = strings.Split(v, ",")
		}
	}
	if o.expires > 0 {
		body["expires"] = time.Now().Add(o.expires).UTC().Format(time.RFC3339)
	}
	var private cell.Secret
	body["public_key"] = o.publicKey
	if o.publicKey == "" {
		var public cell.Key
		private, public = tunnel.GenerateKey()
		body["public_key"] = public
	}
	return inv.mutate(ctx, http.MethodPost, "/api/peers", body, func(w io.Writer, r *reply) error {
		var made api.PeerCreated
		if err := json.Unmarshal(r.body, &made); err != nil {
			return err
		}
		return inv.printConfig(w, made, private)
	})
}

func (inv *invocation) printConfig(w io.Writer, made api.PeerCreated, private cell.Secret) error {
	if made.Config == "" {
		return fmt.Errorf("%s was added, but its configuration can't be made yet: set network.tunnel.endpoint to the address that devices should connect to, then run `pic peer config %s`", made.Peer.Name, made.Peer.Name)
	}
	text := made.Config
	if !private.Empty() {
		text = withKey(text, private)
	}
	if inv.opt.out != "" {
		if err := os.WriteFile(inv.opt.out, []byte(text), 0o600); err != nil {
			return err
		}
		fmt.Fprintf(inv.err, "wrote %s; this is the only copy of its private key\n", inv.opt.out)
	} else {
		fmt.Fprint(w, text)
	}
	if inv.opt.qr {
		code, err := api.QRText(text)
		if err != nil {
			return err
		}
		fmt.Fprint(w, code)
	}
	return nil
}

// withKey puts the private key in its line, and drops the comment that asks for it.
func withKey(text string, private cell.Secret) string {
	var b strings.Builder
	lines := strings.SplitAfter(text, "\n")
	for i, line := range lines {
		switch {
		case line == "PrivateKey = \n":
			b.WriteString("PrivateKey = " + private.Reveal() + "\n")
		case strings.HasPrefix(line, "#") && i+1 < len(lines) && lines[i+1] == "PrivateKey = \n":
		default:
			b.WriteString(line)
		}
	}
	return b.String()
}

func peerConfig(ctx context.Context, inv *invocation) error {
	name, err := inv.name()
	if err != nil {
		return err
	}
	r, err := inv.client().call(ctx, http.MethodGet, "/api/peers/"+name+"/config", nil, nil)
	if err != nil {
		return err
	}
	fmt.Fprintln(inv.err, r.header.Get("Pic-Notice"))
	_, err = inv.out.Write(r.body)
	return err
}

func peerQR(ctx context.Context, inv *invocation) error {
	name, err := inv.name()
	if err != nil {
		return err
	}
	r, err := inv.client().call(ctx, http.MethodGet, "/api/peers/"+name+"/config", nil, nil)
	if err != nil {
		return err
	}
	code, err := api.QRText(string(r.body))
	if err != nil {
		return err
	}
	fmt.Fprintln(inv.err, r.header.Get("Pic-Notice"))
	_, err = io.WriteString(inv.out, code)
	return err
}

func peerRemove(ctx context.Context, inv *invocation) error {
	name, err := inv.name()
	if err != nil {
		return err
	}
	return inv.mutate(ctx, http.MethodDelete, "/api/peers/"+name, nil, nil)
}
