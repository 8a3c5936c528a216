package tunnel

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/personal-internet-cell/pic/cell"
)

// Backend is what carries a device.
type Backend string

const (
	BackendKernel    Backend = "kernel"
	BackendUserspace Backend = "userspace"
)

// Config is what a [Controller] is made of.
type Config struct {
	// Secret reads a key by its reference.
	Secret func(cell.SecretRef) (cell.Secret, error)
	Log    *slog.Logger
	// Userspace makes every device an embedded one, whatever the kernel can do.
	Userspace bool
	// PlainTUN does without segmentation offload, for kernels that break it
	// (downloads through the embedded device stall while ping works).
	PlainTUN bool
	// Kernel is the operating system; nil means this machine's.
	Kernel Kernel
}

// Controller makes the machine's WireGuard devices equal to a plan. Its
// methods may be called from any goroutine.
type Controller struct {
	kernel    Kernel
	log       *slog.Logger
	userspace bool

	mu       sync.Mutex
	vault    vault
	embedded map[string]Embedded
	// names are the links of ours, with the interface index last seen.
	names map[string]int
	// told are the endpoints given, by device.
	told map[string]told
	// settled is the last plan applied without an error, for Watch.
	settled Devices
	trusted map[string]trust         // by device
	watches int                      // Watch tasks that run
	notices map[string][]cell.Notice // by device
	changes changes                  // of the last Apply
}

// New returns a controller that has touched nothing yet.
func New(c *Config) *Controller {
	k := c.Kernel
	if k == nil {
		k = NewHost(c.Log, c.PlainTUN)
	}
	return &Controller{
		kernel:    k,
		log:       c.Log,
		userspace: c.Userspace,
		vault:     vault{read: c.Secret, digests: map[cell.SecretRef][sha256.Size]byte{}},
		embedded:  map[string]Embedded{},
		names:     ourNames(),
		told:      map[string]told{},
		notices:   map[string][]cell.Notice{},
		trusted:   map[string]trust{},
	}
}

// Apply makes the world equal to want and reports whether it changed anything.
// Devices and peers that can be settled are, also when others can't: the error
// names those. When ctx ends between two devices the rest is left as it was.
func (c *Controller) Apply(ctx context.Context, want Devices) (changed bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settled = nil
	c.changes.reset()
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(c.names)) {
		if slices.ContainsFunc(want, func(d Device) bool { return d.Name == name }) {
			continue
		}
		gone, err := c.remove(name)
		c.changes.note(KindLink, gone, 1)
		changed = changed || gone
		if err != nil {
			errs = append(errs, fmt.Errorf("removing %s: %w", name, err))
		}
	}
	for i := range want {
		if err := ctx.Err(); err != nil {
			return changed, errors.Join(append(errs, err)...)
		}
		did, err := c.device(&want[i])
		changed = changed || did
		if err != nil {
			errs = append(errs, fmt.Errorf("settling %s: %w", want[i].Name, err))
		}
	}
	c.vault.keep(want)
	if len(errs) == 0 {
		c.settled = want
	}
	return changed, errors.Join(errs...)
}

// device settles one device. Peers are in place before the link is up, and a
// taken port holds up nothing but itself.
func (c *Controller) device(d *Device) (changed bool, err error) {
	delete(c.notices, d.Name)
	wg, backend, created, err := c.open(d)
	c.changes.note(KindLink, created, 1)
	if err != nil {
		return created, err
	}
	changed = created
	if backend == BackendUserspace && d.Name == cell.TunnelLink { // once is enough
		c.notify(userspaceNotice(d.Name))
	}
	patch, errs, err := c.patch(d, wg, created)
	if err != nil {
		return changed, err
	}
	port := patch.ListenPort
	patch.ListenPort = nil
	if !patch.Empty() {
		if err := wg.Set(patch); err != nil {
			errs = append(errs, fmt.Errorf("configuring the device: %w", err))
		} else {
			changed = true
			c.told[d.Name].note(&patch)
			c.changes.note(KindPeer, true, max(1, len(patch.Peers)))
			c.log.Info("configured wireguard device", "device", d.Name, "peers", len(d.Peers), "peers_changed", len(patch.Peers))
		}
	}
	did, err := c.addresses(d)
	c.changes.note(KindAddress, did, 1)
	changed = changed || did
	if err != nil {
		errs = append(errs, err)
	}
	did, err = c.bringUp(d, wg, port)
	c.changes.note(KindLink, did, 1)
	changed = changed || did
	if err != nil {
		errs = append(errs, c.explainPort(d, err))
	}
	if len(errs) == 0 {
		c.trust(d)
	}
	return changed, errors.Join(errs...)
}

// open returns the device behind d's link, making the link when there is none.
func (c *Controller) open(d *Device) (wg WireGuard, b Backend, created bool, err error) {
	if e := c.embedded[d.Name]; e != nil {
		if _, err := c.kernel.Link(d.Name); err == nil && !e.Closed() {
			return e, BackendUserspace, false, nil
		}
		e.Close() // its link was deleted under it
		delete(c.embedded, d.Name)
	}
	c.names[d.Name] = 0
	l, err := c.kernel.Link(d.Name)
	switch {
	case err == nil && l.Kind == KindWireGuard && !c.userspace:
		c.names[d.Name] = l.Index
		return c.kernel.WireGuard(d.Name), BackendKernel, false, nil
	case err == nil:
		c.notify(foreignNotice(d.Name, l.Kind))
		return nil, "", false, fmt.Errorf("%s is a link of kind %q: %w; stop that program or run: ip link delete %s", d.Name, l.Kind, ErrForeignLink, d.Name)
	case !errors.Is(err, ErrNoLink):
		return nil, "", false, fmt.Errorf("looking for the link: %w", err)
	}
	if !c.userspace {
		err = c.kernel.AddLink(d.Name, d.MTU)
		if err == nil {
			c.log.Info("created wireguard link", "device", d.Name, "backend", string(BackendKernel))
			c.see(d.Name)
			return c.kernel.WireGuard(d.Name), BackendKernel, true, nil
		}
		if !errors.Is(err, ErrNoWireGuard) {
			return nil, "", false, fmt.Errorf("creating the link: %w", cure(err))
		}
	}
	e, err := c.kernel.Embed(d.Name, d.MTU)
	if err != nil {
		return nil, "", false, fmt.Errorf("creating an embedded device: %w", cure(err))
	}
	c.embedded[d.Name] = e
	c.see(d.Name)
	c.log.Info("created wireguard link", "device", d.Name, "backend", string(BackendUserspace))
	return e, BackendUserspace, true, nil
}

// see notes the index of a link of ours, by which address events name it.
func (c *Controller) see(name string) {
	if l, err := c.kernel.Link(name); err == nil {
		c.names[name] = l.Index
	}
}

// cure adds to the errors of a fresh machine what to do about them.
func cure(err error) error {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: pic needs root or the capability CAP_NET_ADMIN", err)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV):
		return fmt.Errorf("%w: the machine has no /dev/net/tun: run modprobe tun, or let the container have the device", err)
	}
	return err
}

func (c *Controller) addresses(d *Device) (changed bool, err error) {
	return setAddresses(c.kernel, d)
}

// setAddresses makes the link's addresses equal to d's. Link-local ones belong to
// the kernel. New ones are added before old ones go.
func setAddresses(k Kernel, d *Device) (changed bool, err error) {
	// Deleting a primary IPv4 address may take others of its subnet with it
	// (promote_secondaries = 0), so look again after a deletion.
	for range 2 {
		have, err := k.Addresses(d.Name)
		if err != nil {
			return changed, fmt.Errorf("listing addresses: %w", err)
		}
		for _, a := range d.Addresses {
			if slices.Contains(have, a) {
				continue
			}
			if err := k.AddAddress(d.Name, a); err != nil {
				return changed, fmt.Errorf("adding address %s: %w", a, err)
			}
			changed = true
		}
		deleted := false
		for _, a := range have {
			if slices.Contains(d.Addresses, a) || a.Addr().IsLinkLocalUnicast() {
				continue
			}
			if err := k.DeleteAddress(d.Name, a); err != nil {
				return changed, fmt.Errorf("removing address %s: %w", a, err)
			}
			changed, deleted = true, true
		}
		if !deleted {
			break
		}
	}
	return changed, nil
}

// bringUp sets port (nil: as it is) and MTU and brings the link up.
func (c *Controller) bringUp(d *Device, wg WireGuard, port *uint16) (changed bool, err error) {
	l, err := c.kernel.Link(d.Name)
	if err != nil {
		return false, fmt.Errorf("reading the link: %w", err)
	}
	if l.MTU != d.MTU {
		if err := c.kernel.SetMTU(d.Name, d.MTU); err != nil {
			return false, fmt.Errorf("setting the MTU to %d: %w", d.MTU, err)
		}
		changed = true
	}
	if port != nil {
		if err := wg.Set(Patch{ListenPort: port}); err != nil {
			return changed, fmt.Errorf("setting the listen port: %w", err)
		}
		changed = true
	}
	if e, ok := wg.(Embedded); ok {
		// Explicitly: the device comes up with its link too, but then nobody
		// hears of a taken port.
		if err := e.Up(); err != nil {
			return changed, fmt.Errorf("opening the sockets: %w", err)
		}
	}
	if !l.Up {
		if err := c.kernel.SetUp(d.Name); err != nil {
			return changed, fmt.Errorf("setting the link up: %w", err)
		}
		changed = true
		// A link that was down has lost its IPv6 addresses.
		if _, err := c.addresses(d); err != nil {
			return changed, err
		}
	}
	return changed, nil
}

func (c *Controller) explainPort(d *Device, err error) error {
	if !isAddrInUse(err) {
		return err
	}
	c.notify(portNotice(d))
	return fmt.Errorf("listening on UDP port %d: %w (see ss -lunp 'sport = :%d'): stop that program, or choose another network.tunnel.listen_port",
		d.ListenPort, ErrPortTaken, d.ListenPort)
}

// remove takes a link of ours away; a foreign one of that name is left alone.
func (c *Controller) remove(name string) (removed bool, err error) {
	delete(c.notices, name)
	delete(c.trusted, name)
	delete(c.told, name)
	if e := c.embedded[name]; e != nil {
		e.Close()
		delete(c.embedded, name)
		removed = true
	} else {
		l, err := c.kernel.Link(name)
		if err == nil && l.Kind == KindWireGuard {
			if err := c.kernel.DeleteLink(name); err != nil {
				return false, err
			}
			removed = true
		} else if err != nil && !errors.Is(err, ErrNoLink) {
			return false, err
		}
	}
	c.names[name] = 0
	if removed {
		c.log.Info("removed wireguard link", "device", name)
	}
	return removed, nil
}

// Flush removes every link of ours. It is for giving the machine back, not for
// stopping: kernel links carry on without this process.
func (c *Controller) Flush(ctx context.Context) error {
	_, err := c.Apply(ctx, nil)
	return err
}

// Close ends embedded devices, whose links vanish with them, and leaves kernel
// links, their peers and sessions as they are.
func (c *Controller) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, e := range c.embedded {
		e.Close()
		delete(c.embedded, name)
	}
	return nil
}
