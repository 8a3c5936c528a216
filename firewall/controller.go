package firewall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/personal-internet-cell/pic/cell"
)

// Config is what a [Controller] needs.
type Config struct {
	// Log must not be nil.
	Log *slog.Logger
}

// Controller makes the kernel equal to policies. Its methods may be called
// from any goroutine; one Apply runs at a time.
type Controller struct {
	log *slog.Logger

	mu    sync.Mutex // held through Apply and Flush
	cut   []session  // to be ended, kept when an Apply stops early
	known knowledge  // guarded by mu

	// sysctls are those of the last policy that was applied, for Watch.
	sysctls atomic.Pointer[[]Sysctl]

	earlyEnded bool // the early table is known to be gone; guarded by mu

	notices noticeBoard
	changes changes // of the last Apply
}

// New returns a controller that has touched nothing yet.
func New(c *Config) *Controller { return &Controller{log: c.Log} }

// Apply makes the kernel equal to p and reports whether anything had to
// change. It adds before it deletes and orders its steps so that a stop at any
// point leaves more closed, never more open: guard table, policy rules and
// unreachable routes; then table pic; then routes by links, sysctls, a read
// back of all of it, and forwarding at the very end. When ctx ends it returns
// between two steps.
func (c *Controller) Apply(ctx context.Context, p Policy) (changed bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := mayAdminister(); err != nil {
		return false, err
	}
	c.changes.reset()
	p = p.forKernel()
	c.sysctls.Store(nil) // a parameter that can't be set is retried by the caller's clock
	steps := []struct {
		doing string
		run   func() (bool, error)
	}{
		{"applying the guard table", func() (bool, error) { return c.applyTable(ctx, &p.Guard, nil) }},
		{"adding policy rules", func() (bool, error) { return addRules(p.Rules) }},
		{"adding unreachable routes", func() (bool, error) { return addRoutes(p.Routes, func(r Route) bool { return r.Kind != Unicast }) }},
		{"applying the rule table", func() (bool, error) { return c.applyTable(ctx, &p.Main, &c.cut) }},
		{"applying the accounting table", func() (bool, error) { return c.applyTable(ctx, &p.Acct, nil) }},
		{"adding routes", func() (bool, error) { return addRoutes(p.Routes, func(r Route) bool { return r.Kind == Unicast }) }},
		{"removing policy rules", func() (bool, error) { return removeRules(p.Rules) }},
		{"removing routes", func() (bool, error) { return removeRoutes(p.Routes) }},
		{"setting kernel parameters", func() (bool, error) { return applySysctls(p.Sysctls) }},
		{"ending connections", c.endSessions},
		{"reading back", func() (bool, error) { return false, c.verify(p, changed) }},
		{"enabling forwarding", func() (bool, error) { return applySysctls(p.Forwarding) }},
		{"passing Docker's firewall", func() (bool, error) { return c.passDocker(len(p.Forwarding) > 0), nil }},
		{"ending the early rules", func() (bool, error) { return c.endEarly(ctx) }},
	}
	for _, s := range steps {
		if err := ctx.Err(); err != nil {
			return changed, fmt.Errorf("%s: %w", s.doing, err)
		}
		did, err := s.run()
		if did {
			c.changes.note(s.doing)
			c.log.Debug("changed the kernel", "step", s.doing)
		}
		changed = changed || did
		if err != nil {
			return changed, fmt.Errorf("%s: %w", s.doing, explain(err))
		}
	}
	all := slices.Concat(p.Sysctls, p.Forwarding)
	c.sysctls.Store(&all)
	c.look(p)
	return changed, nil
}

// endSessions forgets the connections that lost their ground.
func (c *Controller) endSessions() (bool, error) {
	changed, err := endSessions(c.cut)
	if err == nil {
		c.cut = nil
	}
	return changed, err
}

// explain says what is missing and what to do, where the kernel says only why.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EAFNOSUPPORT):
		return fmt.Errorf("%w: the kernel lacks netfilter (load nf_tables: modprobe nf_tables)", err)
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%w: the kernel lacks a part of nf_tables (load nft_ct, nft_fib_inet, nft_masq, nft_nat, nft_reject_inet, nft_socket, nft_tproxy)", err)
	}
	return err
}

// forKernel leaves out the rules and routes of a family the kernel was started
// without: it has no packets of that family either.
func (p Policy) forKernel() Policy {
	if slices.Contains(kernelFamilies(), 6) {
		return p
	}
	p.Rules = slices.DeleteFunc(slices.Clone(p.Rules), func(r RoutingRule) bool { return r.Family == 6 })
	p.Routes = slices.DeleteFunc(slices.Clone(p.Routes), func(r Route) bool { return r.Prefix.Addr().Is6() })
	return p
}

// mayAdminister refuses early, because the libraries hide the kernel's EPERM.
func mayAdminister() error {
	var data [2]unix.CapUserData
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]); err != nil {
		return fmt.Errorf("reading the capabilities of this process: %w", err)
	}
	if data[0].Effective&(1<<unix.CAP_NET_ADMIN) == 0 {
		return fmt.Errorf("writing firewall rules needs the capability CAP_NET_ADMIN: run as root, or give the unit AmbientCapabilities=CAP_NET_ADMIN: %w", unix.EPERM)
	}
	return nil
}

// verify reads everything back. Nothing is forwarded before that succeeded.
func (c *Controller) verify(p Policy, changed bool) error {
	if !changed && len(p.Forwarding) == 0 {
		return nil
	}
	if err := c.verifyTables(&p.Guard, &p.Main, &p.Acct); err != nil {
		return err
	}
	have, err := listRules()
	if err != nil {
		return err
	}
	for _, r := range p.Rules {
		if !slices.ContainsFunc(have, func(k kernelRule) bool { return k.is(r) }) {
			return fmt.Errorf("the policy rule %q is missing", r)
		}
	}
	routes, err := listRoutes(p.Routes)
	if err != nil {
		return err
	}
	for _, r := range p.Routes {
		// Routes by an interface come and go with it; these must be there.
		if r.Kind == Unreachable && !slices.ContainsFunc(routes, func(k kernelRoute) bool { return k.is(r) }) {
			return fmt.Errorf("the route %q is missing", r)
		}
	}
	return nil
}

// verifyTables reads back the tables that are not known to be as written.
func (c *Controller) verifyTables(tables ...*Table) error {
	if c.knownNow(tables...) {
		return nil
	}
	before, err := generation()
	if err != nil {
		return err
	}
	for _, t := range tables {
		same, err := tableMatches(t)
		if err != nil {
			return err
		}
		if !same {
			return fmt.Errorf("table %s is not as it was written: another program changes it", t.Name)
		}
	}
	if after, err := generation(); err == nil && before == after {
		for _, t := range tables {
			c.known.note(t, after, time.Now())
		}
	}
	return nil
}

// applyTable makes one table equal to the plan, by what is known of it or by
// reading it.
func (c *Controller) applyTable(ctx context.Context, t *Table, cut *[]session) (bool, error) {
	if done, changed := c.patch(t, cut); done {
		return changed, nil
	}
	return applyTable(ctx, &c.known, t, cut)
}

// Flush removes everything of ours from the kernel: tables, policy rules and
// routes. Forwarding is left as it is, others may depend on it.
func (c *Controller) Flush(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := mayAdminister(); err != nil {
		return err
	}
	if _, err := removeRules(nil); err != nil {
		return fmt.Errorf("removing policy rules: %w", explain(err))
	}
	if _, err := removeRoutes(nil); err != nil {
		return fmt.Errorf("removing routes: %w", explain(err))
	}
	c.passDocker(false)
	if err := deleteTables(ctx, "pic", "pic_guard", "pic_acct", earlyTable); err != nil {
		return fmt.Errorf("deleting tables: %w", explain(err))
	}
	return nil
}

// Notices lists what a person should know about the firewall, in order.
func (c *Controller) Notices() []cell.Notice { return c.notices.list() }

// noticeBoard keeps notices by code and subject.
type noticeBoard struct {
	mu sync.Mutex
	m  map[string]cell.Notice
}

func (b *noticeBoard) set(n cell.Notice, on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.m == nil {
		b.m = map[string]cell.Notice{}
	}
	if key := n.Code + " " + n.Subject; on {
		b.m[key] = n
	} else {
		delete(b.m, key)
	}
}

func (b *noticeBoard) list() []cell.Notice {
	b.mu.Lock()
	defer b.mu.Unlock()
	keys := make([]string, 0, len(b.m))
	for k := range b.m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	out := make([]cell.Notice, 0, len(keys))
	for _, k := range keys {
		out = append(out, b.m[k])
	}
	return out
}
