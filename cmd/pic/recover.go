package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"

	"github.com/personal-internet-cell/pic/firewall"
	"github.com/personal-internet-cell/pic/tunnel"
)

// recoverCell makes a revision the running one after the stored state was found
// damaged, and with --flush takes everything of a stopped cell out of the kernel.
func recoverCell(ctx context.Context, inv *invocation) error {
	if !inv.opt.flush {
		body := map[string]uint64{}
		if inv.opt.serve.adopt > 0 {
			body["revision"] = inv.opt.serve.adopt
		}
		return inv.mutate(ctx, http.MethodPost, "/api/recover", body, func(w io.Writer, _ *reply) error {
			_, err := fmt.Fprintln(w, "the cell takes changes again")
			return err
		})
	}
	if newClient(inv.socket).get(ctx, "/health", new(struct{})) == nil {
		return errors.New("the cell is running and would put everything back: stop it first (systemctl stop pic)")
	}
	log := slog.New(slog.NewTextHandler(inv.err, nil))
	fw := firewall.New(&firewall.Config{Log: log})
	tn := tunnel.New(&tunnel.Config{Log: log})
	// The tunnel first: without its link nothing is left to leak.
	if err := errors.Join(tn.Flush(ctx), fw.Flush(ctx)); err != nil {
		return err
	}
	fmt.Fprintln(inv.out, "the kernel holds nothing of this cell any more: peers are disconnected and nothing is blocked")
	return nil
}

func recoverFlags(fs *flag.FlagSet, inv *invocation) {
	fs.BoolVar(&inv.opt.flush, "flush", false, "remove tunnel, rules and routes of a stopped cell from the kernel")
	fs.Uint64Var(&inv.opt.serve.adopt, "adopt", 0, "adopt this revision; default: the one that was recovered")
}
