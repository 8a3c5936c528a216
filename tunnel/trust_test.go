package tunnel_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/tunnel"
)

func (k *fakeKernel) readings() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.shown
}

// A device that is known is not read for a change, and read again once anything
// speaks against it.
func TestAKnownDeviceIsNotReadForAChange(t *testing.T) {
	for _, userspace := range []bool{false, true} {
		t.Run(fmt.Sprint("userspace=", userspace), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, k := newHousehold(), newFake()
				k.noWireGuard = userspace
				c := h.controller(k, false)
				ctx, cancel := context.WithCancel(bg)
				done := make(chan error, 1)
				woken := make(chan struct{}, 10)
				go func() { done <- c.Watch(func() { woken <- struct{}{} }).Run(ctx) }()
				synctest.Wait()
				h.add("laptop", "phone")
				for range 2 {
					_, err := settle(c, h.plan())
					must(t, err)
				}
				before := k.readings()
				h.add("tablet")
				_, err := settle(c, h.plan())
				must(t, err)
				if n := k.readings() - before; n != 0 {
					t.Errorf("one peer more, and the device was read %d times", n)
				}
				if userspace {
					cancel()
					must(t, <-done)
					return
				}

				// Somebody else takes the peer away: the next look finds it.
				key := h.State.Peer("tablet").PublicKey
				must(t, k.WireGuard("pic0").Set(tunnel.Patch{Peers: []tunnel.PeerPatch{{PublicKey: key, Remove: true}}}))
				<-woken
				changed, err := c.Apply(bg, h.plan())
				if err != nil || !changed {
					t.Errorf("after a drift: changed %t, %v", changed, err)
				}

				// An event of the link: it is read, although nothing changed.
				before = k.readings()
				k.events <- tunnel.Event{Name: "pic0"}
				<-woken
				_, err = settle(c, h.plan())
				must(t, err)
				if k.readings() == before {
					t.Error("after an event the device was not read")
				}

				// A link made anew, before its event came.
				must(t, k.DeleteLink("pic0"))
				must(t, k.AddLink("pic0", 1420))
				_, err = settle(c, h.plan())
				must(t, err)
				if n := len(k.links["pic0"].device.Peers); n != 3 {
					t.Errorf("the new link has %d peers of 3", n)
				}

				// Without anybody who looks, it is read each time.
				cancel()
				must(t, <-done)
				before = k.readings()
				_, err = settle(c, h.plan())
				must(t, err)
				if k.readings() == before {
					t.Error("without a watch the device was not read")
				}
			})
		})
	}
}

// TestPatchesMakeWhatReadingMakes edits at random on a device that is only ever
// patched, and compares it with one that is made anew from the plan.
func TestPatchesMakeWhatReadingMakes(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 9))
	h, k := newHousehold(), newFake()
	k.noWireGuard = true
	c := h.controller(k, false)
	h.add("a", "b", "c", "d")
	_, err := settle(c, h.plan())
	must(t, err)
	for n := range 300 {
		i, j := r.IntN(len(h.State.Peers)), r.IntN(len(h.State.Peers))
		p, q := &h.State.Peers[i], &h.State.Peers[j]
		switch r.IntN(8) {
		case 0, 1:
			h.add(fmt.Sprintf("n%d", n))
		case 2:
			if len(h.State.Peers) > 2 {
				h.remove(p.Name)
			}
		case 3: // two exchange their addresses
			p.Address4, q.Address4 = q.Address4, p.Address4
		case 4:
			p.PublicKey, q.PublicKey = q.PublicKey, p.PublicKey
		case 5:
			p.Enabled = !p.Enabled
		case 6:
			p.Name = fmt.Sprintf("r%d", n)
		case 7:
			ref := cell.SecretRef(fmt.Sprintf("psk-%d", n))
			h.Secrets[ref] = tunnel.GeneratePSK().Reveal()
			p.PresharedKey = ref
		}
		before := k.readings()
		_, err := settle(c, h.plan())
		must(t, err)
		if k.readings() != before {
			t.Fatalf("edit %d: the device was read", n)
		}
		fresh := newFake()
		fresh.noWireGuard = true
		_, err = settle(h.controller(fresh, false), h.plan())
		must(t, err)
		if d := cmp.Diff(peersOf(fresh), peersOf(k)); d != "" {
			t.Fatalf("edit %d left another device:\n%s", n, d)
		}
	}
}

// peersOf are the peers of the device, in words.
func peersOf(k *fakeKernel) map[cell.Key]string {
	out := map[cell.Key]string{}
	for _, p := range k.links["pic0"].device.Peers {
		var ips []string
		for _, a := range p.AllowedIPs {
			ips = append(ips, a.String())
		}
		slices.Sort(ips)
		out[p.PublicKey] = fmt.Sprint(ips, " ", p.PresharedKey.Reveal(), " ", p.Keepalive)
	}
	return out
}
