package exits

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

// Config is what a [Controller] needs of the rest of the cell.
type Config struct {
	// Secret reveals the secret of a reference.
	Secret func(cell.SecretRef) (cell.Secret, error)
	// Report is told what is known of exits and chains, whenever that changes.
	// It is called by one goroutine at a time and owns what it is given.
	Report func(exits map[string]cell.ExitFact, chains map[string]string)
	// Handshake is when a WireGuard link last shook hands; false: unknown.
	Handshake func(link string) (time.Time, bool)
	// Lookup asks for the addresses of a name through an exit, for [Controller.Test].
	Lookup func(ctx context.Context, exit, name string) ([]netip.Addr, error)
	Pins   PinStore
	// Resolve looks up a server's name around the exits; nil: at the plan's
	// resolvers, with sockets that carry the bypass mark.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// Echo are URLs of services that answer with the address they see; nil:
	// [DefaultEcho]. Empty: public addresses are not learned.
	Echo []string
	// Probes replace those of every exit; nil: as the plan says. For tests.
	Probes []netip.AddrPort
	// Address gives a link that a program of ours opened these addresses.
	Address func(link string, mtu int, addresses []netip.Prefix) error
	// RuntimeDir and DataDir are for the sockets and the data of supervised
	// programs. They run as users of their own only where others may pass
	// through both.
	RuntimeDir, DataDir string
	// StopChildren ends supervised programs with the cell.
	StopChildren bool
	// Now is the clock of schedules; nil: time.Now.
	Now func() time.Time
	// Parts make the exits' parts; nil: the real ones.
	Parts *Parts
	Log   *slog.Logger
}

// Controller keeps every exit at work. Its methods may be called from any
// goroutine.
type Controller struct {
	conf  Config
	parts *Parts
	log   *slog.Logger
	base  context.Context // ends with Run
	stop  context.CancelFunc
	work  sync.WaitGroup
	wake  chan struct{}
	ready chan struct{}

	mu      sync.Mutex
	plan    Relays
	applied bool
	zone    *time.Location
	workers map[string]*worker
	chains  map[string]chainWay
	// reported is what Report was last told; nil: nothing yet.
	reported *report
}

type report struct {
	exits  map[string]cell.ExitFact
	chains map[string]string
}

// New returns a controller that runs nothing yet.
func New(c *Config) *Controller {
	out := &Controller{
		conf: *c, parts: c.Parts, log: c.Log, wake: make(chan struct{}, 1), ready: make(chan struct{}),
		workers: map[string]*worker{}, chains: map[string]chainWay{}, zone: time.UTC,
	}
	if out.conf.Now == nil {
		out.conf.Now = time.Now
	}
	if out.conf.Echo == nil {
		out.conf.Echo = DefaultEcho()
	}
	if out.parts == nil {
		out.parts = realParts(&out.conf)
	}
	out.base, out.stop = context.WithCancel(context.Background())
	return out
}

func (c *Controller) String() string { return "exits" }

// Ready is closed once Run has begun.
func (c *Controller) Ready() <-chan struct{} { return c.ready }

// Apply makes the exits at work those of the plan: a new or changed exit's
// worker is started anew, those of others keep their connections, and a source
// that left an exit loses the connections it had there. It returns without
// waiting for an exit to connect.
func (c *Controller) Apply(ctx context.Context, plan Relays) (changed bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, fmt.Errorf("applying the exits: %w", err)
	}
	zone := time.UTC
	if plan.Timezone != "" {
		if zone, err = time.LoadLocation(plan.Timezone); err != nil {
			return false, fmt.Errorf("applying the exits: %w", err)
		}
	}
	if c.conf.Probes != nil {
		plan.Exits = slices.Clone(plan.Exits)
		for i := range plan.Exits {
			plan.Exits[i].Probes = c.conf.Probes
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.base.Err() != nil {
		return false, errors.New("applying the exits: they have stopped")
	}
	if c.applied && reflect.DeepEqual(c.plan, plan) {
		return false, nil
	}
	if !c.applied {
		c.sweep(&plan)
	}
	c.plan, c.applied, c.zone = plan, true, zone
	for id, w := range c.workers {
		if plan.Exit(id) == nil {
			w.cancel()
			delete(c.workers, id)
			c.log.Info("exit removed", "exit", id)
		}
	}
	for i := range plan.Exits {
		e := &plan.Exits[i]
		w := c.workers[e.ID]
		if w != nil && w.exit.Load().sameWork(e) {
			w.take(e)
			continue
		}
		c.workers[e.ID] = c.start(e, w)
	}
	for id := range c.chains {
		if !slices.ContainsFunc(plan.Chains, func(x Chain) bool { return x.ID == id }) {
			delete(c.chains, id)
		}
	}
	c.look()
	return true, nil
}

// sweep ends the programs of exits that went while no cell was running.
func (c *Controller) sweep(plan *Relays) {
	if c.parts.Sweep == nil {
		return
	}
	var keep []string
	for i := range plan.Exits {
		if e := &plan.Exits[i]; e.Enabled && e.OpenVPN != nil {
			keep = append(keep, e.Link)
		}
	}
	if err := c.parts.Sweep(keep); err != nil {
		c.log.Warn("ending programs of exits that are gone", "error", err)
	}
}

// start runs a worker; it begins when the one that it replaces has ended,
// which may hold the same port.
func (c *Controller) start(e *Exit, old *worker) *worker {
	ctx, cancel := context.WithCancel(c.base)
	w := newWorker(c, e, cancel)
	if old != nil {
		old.cancel()
		c.log.Info("exit changed", "exit", e.ID)
	}
	c.work.Go(func() {
		defer close(w.done)
		defer cancel()
		if old != nil {
			<-old.done
		}
		w.run(ctx)
	})
	return w
}

// look asks Run to look at the exits' states.
func (c *Controller) look() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Run owns every worker: when ctx ends it stops them and waits for them.
// Meanwhile it leads the chains and reports the facts. It must be called once.
func (c *Controller) Run(ctx context.Context) error {
	close(c.ready)
	err := lifecycle.Guard(ctx, c.log, "exits", nil, func(ctx context.Context) error {
		for {
			lifecycle.Fault("exits")
			timer := time.NewTimer(c.settle())
			select {
			case <-ctx.Done():
				timer.Stop()
				return nil
			case <-c.wake:
			case <-timer.C:
			}
			timer.Stop()
		}
	})
	c.mu.Lock()
	c.stop()
	c.mu.Unlock()
	c.work.Wait()
	return err
}

// settle chooses the ways of the chains, reports what changed, and returns
// when to look again although nothing happened.
func (c *Controller) settle() time.Duration {
	next, told := c.choose()
	if told != nil && c.conf.Report != nil {
		c.conf.Report(maps.Clone(told.exits), maps.Clone(told.chains))
	}
	return next
}

func (c *Controller) choose() (next time.Duration, tell *report) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.applied {
		return time.Hour, nil
	}
	now := c.conf.Now().In(c.zone)
	next = time.Hour
	r := report{exits: make(map[string]cell.ExitFact, len(c.workers)), chains: make(map[string]string, len(c.plan.Chains))}
	views := make(map[string]view, len(c.workers))
	for id, w := range c.workers {
		r.exits[id] = w.fact()
		views[id] = w.view()
	}
	for i := range c.plan.Chains {
		ch := &c.plan.Chains[i]
		old := c.chains[ch.ID]
		way := ch.choose(old.way, views, now)
		if way != old.way {
			c.log.Info("chain leads another way", "chain", ch.ID, "from", old.way, "to", way)
			c.chains[ch.ID] = chainWay{way, now}
		}
		r.chains[ch.ID] = way
		if len(ch.Schedule) > 0 {
			next = min(next, time.Minute-time.Duration(now.Second())*time.Second-time.Duration(now.Nanosecond())+time.Millisecond)
		}
		if better := ch.first(views); better != way && !views[better].up.IsZero() {
			if held := time.Duration(ch.Hold)*time.Second - now.Sub(views[better].up); held >= 0 {
				next = min(next, held+time.Millisecond)
			}
		}
	}
	if c.reported != nil && reflect.DeepEqual(*c.reported, r) {
		return next, nil
	}
	c.reported = &r
	return next, &r
}

// Dial returns the dialer of an exit, for the names of those who leave by it.
// It fails at once when the exit doesn't carry traffic; so does each dial when
// that has become so.
func (c *Controller) Dial(exit string) (Dialer, error) {
	c.mu.Lock()
	w := c.workers[exit]
	c.mu.Unlock()
	if w == nil {
		return nil, fmt.Errorf("reaching exit %q: there is none of that name", exit)
	}
	if err := w.carries(); err != nil {
		return nil, fmt.Errorf("reaching exit %s: %w", exit, err)
	}
	return w, nil
}
