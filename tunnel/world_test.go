package tunnel_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/netnstest"
	"github.com/personal-internet-cell/pic/tunnel"
)

// bodies are tests that run on the fake kernel always, on an embedded device in
// a namespace when root, and on kernel WireGuard in the virtual machine. A body
// fails by an error, because it runs in a process of its own.
var bodies = map[string]func(k tunnel.Kernel, userspace bool) error{
	"life of a device": deviceLife,
	"life of exits":    exitLife,
	"a link addressed": addressed,
	"drift is mended":  driftIsMended,
	"growth and moves": growthAndMoves,
	"peers watched":    peersWatched,
}

func TestWorldsFake(t *testing.T) {
	for name, body := range bodies {
		for _, userspace := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s userspace=%v", name, userspace), func(t *testing.T) {
				k := newFake()
				k.noWireGuard = userspace
				must(t, body(k, userspace))
			})
		}
	}
}

func TestWorldsUserspace(t *testing.T) { inWorld(t, true, false) }

// Without segmentation offload, for kernels that break it.
func TestWorldsUserspacePlainTUN(t *testing.T) { inWorld(t, true, true) }

// TestKernelWorlds runs in the virtual machine: see needKernel.
func TestKernelWorlds(t *testing.T) { needKernel(t); inWorld(t, false, false) }

func inWorld(t *testing.T, userspace, plain bool) {
	for name := range bodies {
		t.Run(name, func(t *testing.T) {
			out, err := netnstest.New(t, "body").Self("body", name, fmt.Sprint(userspace), fmt.Sprint(plain)).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		})
	}
}

// needKernel skips the test where the kernel has no WireGuard, unless this is
// the virtual machine whose purpose is to have it (PIC_VMTEST=1): there the test
// must run and a kernel without WireGuard is a failure.
func needKernel(t *testing.T) {
	t.Helper()
	must := os.Getenv("PIC_VMTEST") == "1"
	if !must {
		netnstest.Root(t)
	}
	out, err := netnstest.New(t, "probe").Try("ip", "link", "add", "probe0", "type", "wireguard")
	switch {
	case err == nil:
	case must:
		t.Fatalf("this kernel was to have WireGuard: %v: %s", err, out)
	default:
		t.Skipf("SKIPPED (privileged) %s: this kernel has no WireGuard: %s", t.Name(), out)
	}
}

func runBody(args []string) error {
	userspace := args[1] == "true"
	return bodies[args[0]](tunnel.NewHost(quiet, args[2] == "true"), userspace)
}

// expect compares what is on the machine with the plan, by the kernel's word.
func expect(k tunnel.Kernel, c *tunnel.Controller, d tunnel.Device, userspace bool) error {
	st, err := c.Status(bg)
	if err != nil {
		return err
	}
	return expectStatus(k, st, d, userspace)
}

func expectStatus(k tunnel.Kernel, st tunnel.Status, d tunnel.Device, userspace bool) error {
	l, err := k.Link(d.Name)
	if err != nil {
		return err
	}
	backend, kind := tunnel.BackendKernel, tunnel.KindWireGuard
	if userspace {
		backend, kind = tunnel.BackendUserspace, "tuntap"
	}
	if !l.Up || l.MTU != d.MTU || l.Kind != kind || st.Backend != backend {
		return fmt.Errorf("link %+v, backend %s", l, st.Backend)
	}
	have, err := k.Addresses(d.Name)
	if err != nil {
		return err
	}
	have = slices.DeleteFunc(have, func(p netip.Prefix) bool { return p.Addr().IsLinkLocalUnicast() })
	if !sameSet(have, d.Addresses) {
		return fmt.Errorf("addresses %v, want %v", have, d.Addresses)
	}
	if st.PublicKey != d.PublicKey || st.ListenPort != d.ListenPort || st.FirewallMark != d.FirewallMark {
		return fmt.Errorf("device %s port %d mark %d, want %s", st.PublicKey, st.ListenPort, st.FirewallMark, tunnel.Devices{d})
	}
	if len(st.Peers) != len(d.Peers) {
		return fmt.Errorf("%d peers, want %d", len(st.Peers), len(d.Peers))
	}
	for _, p := range d.Peers {
		if got := st.Peers[p.PublicKey]; !sameSet(got.AllowedIPs, p.AllowedIPs) {
			return fmt.Errorf("peer %s has %v, want %v", p.Name, got.AllowedIPs, p.AllowedIPs)
		}
	}
	return nil
}

func sameSet(a, b []netip.Prefix) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(p netip.Prefix) bool { return !slices.Contains(b, p) })
}

// step settles the plan, checks it, and wants a change.
func (h *household) step(k tunnel.Kernel, c *tunnel.Controller, userspace bool, what string) error {
	d := h.plan()
	changed, err := settle(c, d)
	if err == nil && !changed {
		err = errors.New("nothing was changed")
	}
	if err == nil {
		err = expect(k, c, d[0], userspace)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func deviceLife(k tunnel.Kernel, userspace bool) error {
	h := newHousehold()
	h.add("laptop", "phone")
	c := h.controller(k, userspace)
	if err := h.step(k, c, userspace, "creation"); err != nil {
		return err
	}
	h.remove("laptop")
	h.add("tablet") // with the addresses of the laptop
	if err := h.step(k, c, userspace, "replacing a peer"); err != nil {
		return err
	}
	// The process ends and another one takes over.
	if err := c.Close(); err != nil {
		return err
	}
	c = h.controller(k, userspace)
	d := h.plan()
	changed, err := settle(c, d)
	if err != nil {
		return fmt.Errorf("restart: %w", err)
	}
	if changed != userspace {
		return fmt.Errorf("restart: changed=%v, userspace=%v", changed, userspace)
	}
	if err := expect(k, c, d[0], userspace); err != nil {
		return fmt.Errorf("restart: %w", err)
	}
	// Nobody owns the cell any more.
	h.State.Users = nil
	if changed, err := settle(c, h.plan()); err != nil || !changed {
		return fmt.Errorf("unclaimed: changed=%v, %w", changed, err)
	}
	if _, err := k.Link(cell.TunnelLink); !errors.Is(err, tunnel.ErrNoLink) {
		return fmt.Errorf("unclaimed: the link is still there (%v)", err)
	}
	return nil
}

func driftIsMended(k tunnel.Kernel, userspace bool) error {
	h := newHousehold()
	h.add("laptop", "phone")
	c := h.controller(k, userspace)
	if err := h.step(k, c, userspace, "creation"); err != nil {
		return err
	}
	d := h.plan()[0]
	stray := netip.MustParsePrefix("10.17.0.9/24")
	for _, x := range []struct {
		what string
		do   func() error
	}{
		{"a lost address", func() error { return k.DeleteAddress(d.Name, d.Addresses[1]) }},
		{"a stray address", func() error { return k.AddAddress(d.Name, stray) }},
		{"a stray primary address", func() error {
			// Ours becomes a secondary of the stray one and may go with it.
			return errors.Join(k.DeleteAddress(d.Name, d.Addresses[0]), k.AddAddress(d.Name, stray), k.AddAddress(d.Name, d.Addresses[0]))
		}},
		{"another MTU", func() error { return k.SetMTU(d.Name, 1300) }},
		{"a deleted link", func() error { return k.DeleteLink(d.Name) }},
	} {
		if err := x.do(); err != nil {
			return fmt.Errorf("making %s: %w", x.what, err)
		}
		if err := h.step(k, c, userspace, x.what); err != nil {
			return err
		}
	}
	if userspace {
		return nil
	}
	// Somebody changes the peers with another tool.
	wg := k.WireGuard(d.Name)
	_, strange := tunnel.GenerateKey()
	psk := tunnel.GeneratePSK()
	port := uint16(4444)
	if err := wg.Set(tunnel.Patch{ListenPort: &port, Peers: []tunnel.PeerPatch{
		{PublicKey: d.Peers[0].PublicKey, Remove: true},
		{PublicKey: d.Peers[1].PublicKey, PresharedKey: &psk},
		{PublicKey: strange, AllowedIPs: d.Peers[0].AllowedIPs},
	}}); err != nil {
		return err
	}
	return h.step(k, c, userspace, "changed peers")
}

func growthAndMoves(k tunnel.Kernel, userspace bool) error {
	h := newHousehold()
	h.add("laptop", "phone", "tv")
	c := h.controller(k, userspace)
	if err := h.step(k, c, userspace, "creation"); err != nil {
		return err
	}
	t := &h.State.Network.Tunnel
	p := h.State.Peers
	for _, x := range []struct {
		what string
		do   func()
	}{
		{"a larger subnet", func() { t.Prefix4 = netip.PrefixFrom(t.Prefix4.Addr(), 20) }},
		{"swapped addresses", func() {
			p[0].Address4, p[1].Address4 = p[1].Address4, p[0].Address4
			p[1].Address6, p[2].Address6 = p[2].Address6, p[1].Address6
		}},
		{"another port", func() { t.ListenPort = 51999 }},
		{"another MTU", func() { t.MTU = 1380 }},
		{"a preshared key taken away", func() { p[2].PresharedKey = "" }},
		{"another key of the cell", func() {
			private, public := tunnel.GenerateKey()
			h.Secrets["tunnel-2"] = private.Reveal()
			t.PrivateKey, t.PublicKey = "tunnel-2", public
		}},
		{"a peer disabled", func() { p[0].Enabled = false }},
	} {
		x.do()
		if err := h.step(k, c, userspace, x.what); err != nil {
			return err
		}
	}
	return nil
}

// peersWatched changes the peers of a kernel device behind the controller's
// back; an embedded device is out of others' reach.
func peersWatched(k tunnel.Kernel, userspace bool) error {
	if userspace {
		return nil
	}
	h := newHousehold()
	h.add("laptop", "phone")
	c := h.controller(k, false)
	if _, err := settle(c, h.plan()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(bg, 30*time.Second)
	defer cancel()
	woken, done := make(chan struct{}, 100), make(chan error, 1)
	go func() { done <- c.Watch(func() { woken <- struct{}{} }).Run(ctx) }()
	key := h.plan()[0].Peers[0].PublicKey
	if err := k.WireGuard("pic0").Set(tunnel.Patch{Peers: []tunnel.PeerPatch{{PublicKey: key, Remove: true}}}); err != nil {
		return err
	}
	begin := time.Now()
	select {
	case <-woken:
		if d := time.Since(begin); d > 5*time.Second {
			return fmt.Errorf("found after %v", d)
		}
	case <-ctx.Done():
		return errors.New("a removed peer is not found")
	}
	changed, err := c.Apply(bg, h.plan())
	if err != nil || !changed {
		return fmt.Errorf("changed %v, %w", changed, err)
	}
	cancel()
	return <-done
}
