package exits

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/personal-internet-cell/pic/cell"
)

// lookAgain is the least time between two look-ups of a silent server.
const lookAgain = 15 * time.Second

// servers are the addresses behind a WireGuard exit's endpoint.
type servers struct {
	now    netip.AddrPort // in use; invalid: none found yet
	looked time.Time      // when the name was last looked up
}

func (w *worker) server() netip.AddrPort {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.servers.now
}

// findServer looks the endpoint's name up, around the exits. Called again, it
// follows a name that moved, and goes on to the next of several addresses:
// the one in use is silent.
func (w *worker) findServer(ctx context.Context, e *Exit) error {
	host, port, err := net.SplitHostPort(e.WireGuard.Endpoint)
	if err != nil {
		return &Problem{Code: CodeBroken, Text: fmt.Sprintf("its endpoint %q is not host:port", e.WireGuard.Endpoint)}
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return &Problem{Code: CodeBroken, Text: fmt.Sprintf("its endpoint %q is not host:port", e.WireGuard.Endpoint)}
	}
	if a, err := netip.ParseAddr(host); err == nil {
		w.mu.Lock()
		w.servers.now = netip.AddrPortFrom(a.Unmap(), uint16(n))
		w.mu.Unlock()
		return nil
	}
	now := w.c.conf.Now()
	w.mu.Lock()
	early := w.servers.now.IsValid() && now.Sub(w.servers.looked) < lookAgain
	if !early {
		w.servers.looked = now
	}
	w.mu.Unlock()
	if early {
		return nil
	}
	rctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	found, err := w.c.resolve(rctx, host)
	if err != nil {
		return fmt.Errorf("looking up its server %s: %w", host, err)
	}
	usable := w.c.reachable(found)
	if len(usable) == 0 {
		return fmt.Errorf("looking up its server %s: the uplink reaches none of its addresses %s", host, list(found))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	next := usable[0]
	if i := slices.Index(usable, w.servers.now.Addr()); i >= 0 {
		next = usable[(i+1)%len(usable)]
	}
	if to := netip.AddrPortFrom(next, uint16(n)); to != w.servers.now {
		if w.servers.now.IsValid() {
			w.c.log.Info("exit tries another address of its server", "exit", e.ID, "from", w.servers.now, "to", to)
		}
		w.servers.now = to
	}
	return nil
}

// reachable keeps the addresses of families that the uplink has, sorted so
// that two look-ups in another order are the same.
func (c *Controller) reachable(found []netip.Addr) []netip.Addr {
	c.mu.Lock()
	have := c.plan.Uplink
	c.mu.Unlock()
	var out []netip.Addr
	for _, a := range found {
		if a = a.Unmap(); a.Is4() && have.V4 || a.Is6() && have.V6 {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// resolve looks a name up by the uplink, never through an exit and never at a
// resolver of the machine's own, which may be the cell.
func (c *Controller) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if c.conf.Resolve != nil {
		return c.conf.Resolve(ctx, host)
	}
	c.mu.Lock()
	servers := c.plan.Resolvers
	c.mu.Unlock()
	if len(servers) == 0 {
		return nil, fmt.Errorf("looking up %s: the uplink has told of no resolver, and none is configured", host)
	}
	var turn atomic.Uint32
	around := net.Dialer{Control: socketOptions(cell.MarkBypass, "")}
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return around.DialContext(ctx, network, servers[int(turn.Add(1)-1)%len(servers)].String())
	}}
	// A dot at the end keeps the machine's search domains out.
	return r.LookupNetIP(ctx, "ip", strings.TrimSuffix(host, ".")+".")
}
