package main

import (
	"context"
	"flag"
	"fmt"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/firewall"
)

func earlyCommands() []command {
	return []command{{
		name: "early-boot", args: "[--firewall full|tunnel]", help: "close the machine until the cell is up (pic-early.service)",
		flags: func(fs *flag.FlagSet, inv *invocation) {
			fs.StringVar(&inv.opt.serve.scope, "firewall", string(cell.ScopeFull), "full: nothing comes in and nothing is forwarded; tunnel: nothing is forwarded")
		}, run: earlyBoot,
	}}
}

// earlyBoot closes the machine before its network is up. Beside a running cell
// it does nothing: the cell's own rules are in place.
func earlyBoot(ctx context.Context, inv *invocation) error {
	scope := cell.Scope(inv.opt.serve.scope)
	if scope != cell.ScopeFull && scope != cell.ScopeTunnel {
		return fmt.Errorf("--firewall must be full or tunnel, not %q", scope)
	}
	if newClient(inv.socket).get(ctx, "/health", new(struct{})) == nil {
		fmt.Fprintln(inv.out, "the cell is running: nothing to do")
		return nil
	}
	_, err := firewall.EarlyBoot(ctx, scope)
	return err
}
