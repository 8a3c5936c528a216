package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/datastore"
	"github.com/personal-internet-cell/pic/dns"
	"github.com/personal-internet-cell/pic/exits"
	"github.com/personal-internet-cell/pic/firewall"
	"github.com/personal-internet-cell/pic/tunnel"
)

// newExits makes the exits' room. It dials for dns and asks it, tells the
// engine what it learns, and asks the tunnel for handshakes.
func (h *house) newExits() *exits.Controller {
	c := &exits.Config{
		Secret: h.store.Secret, Handshake: h.tunnel.Handshake, Lookup: h.dns.LookupThrough,
		Report: func(known map[string]cell.ExitFact, chains map[string]string) {
			h.engine.Learn(func(f *cell.Facts) { f.Exits, f.Chains = known, chains })
		},
		Pins: &pinStore{history: h.store.History()},
		Address: func(link string, mtu int, addresses []netip.Prefix) error {
			return tunnel.Address(h.log, link, mtu, addresses)
		},
		RuntimeDir: h.flags.runtime, DataDir: programData(h.flags.state), StopChildren: h.flags.stopChildren, Log: h.log,
	}
	if h.flags.echo != "" {
		c.Echo = []string{h.flags.echo}
	}
	return exits.New(c)
}

// programData is where programs that the cell starts keep what they may lose:
// the unit's cache folder, which their own users can reach, or else a part of the
// state folder, where they run as the cell does.
func programData(state string) string {
	if dir := os.Getenv("CACHE_DIRECTORY"); filepath.IsAbs(dir) { // systemd.exec(5), CacheDirectory=
		return dir
	}
	return state
}

// dialExit is dns.Config.Dial.
func (h *house) dialExit(exit string) (dns.Dialer, error) {
	d, err := h.exits.Dial(exit)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// exitStatus is the state of every exit and chain, with what a routed exit
// carried filled in from the firewall's counters, which count for its link; and
// for each mark the packets that the kill switch kept from the uplink.
func (h *house) exitStatus() ([]exits.Status, map[uint32]uint64) {
	out := h.exits.Status()
	counts, err := h.firewall.Counters()
	if err != nil {
		h.log.Warn("reading the exits' counters", "error", err)
		return out, nil
	}
	s, _ := h.engine.Running()
	if s == nil {
		return out, nil
	}
	return mergeCounters(out, s, counts, received("/proc/net/dev"))
}

// received is how many bytes came in by each interface (proc(5), /proc/net/dev).
func received(path string) map[string]uint64 {
	out := map[string]uint64{}
	eachLine(path, func(f []string) {
		if len(f) < 2 {
			return
		}
		// A long number stands right behind the colon on old kernels.
		link, rest, ok := strings.Cut(strings.Join(f[:2], " "), ":")
		n, err := strconv.ParseUint(strings.Fields(rest + " x")[0], 10, 64)
		if ok && err == nil {
			out[link] = n
		}
	})
	return out
}

func mergeCounters(out []exits.Status, s *cell.State, counts []firewall.Counter, in map[string]uint64) ([]exits.Status, map[uint32]uint64) {
	sent, leaked := map[uint32]uint64{}, map[uint32]uint64{}
	for _, c := range counts {
		if c.Leak {
			leaked[c.Mark] += c.Packets
		} else {
			sent[c.Mark] += c.Bytes
		}
	}
	for i := range out {
		if e := s.Exit(out[i].ID); e != nil && e.Routed() {
			out[i].Sent, out[i].Received = sent[e.Mark()], in[e.LinkName()]
		}
	}
	return out, leaked
}

// pinStore keeps the host keys of SSH servers in the history: they are
// learned, and belong in no revision.
type pinStore struct {
	history datastore.History
	mu      sync.Mutex
	pins    map[string]string // nil until read
}

const (
	pinsName = "ssh-host-keys"
	maxPins  = 1000
)

// LoadPin returns the key of a server, "" when none was seen. It fails when
// the file is damaged: not to know is no reason to trust.
func (p *pinStore) LoadPin(server string) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.read(); err != nil {
		return "", err
	}
	return p.pins[server], nil
}

// SavePin keeps the key of a server.
func (p *pinStore) SavePin(server, key string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.read(); err != nil {
		return err
	}
	if len(p.pins) >= maxPins {
		return fmt.Errorf("keeping a host key: there are %d already", len(p.pins))
	}
	next := maps.Clone(p.pins)
	next[server] = key
	b, err := json.Marshal(next)
	if err != nil {
		return err
	}
	if err := p.history.Save(pinsName, b); err != nil {
		return err
	}
	p.pins = next
	return nil
}

func (p *pinStore) read() error {
	if p.pins != nil {
		return nil
	}
	b, err := p.history.Load(pinsName)
	if errors.Is(err, fs.ErrNotExist) {
		p.pins = map[string]string{}
		return nil
	}
	if err != nil {
		return err
	}
	pins := map[string]string{}
	if err := json.Unmarshal(b, &pins); err != nil {
		return fmt.Errorf("reading the host keys: %w", err)
	}
	p.pins = pins
	return nil
}

// lapsed are the names of peers whose exit was chosen for a time that has
// passed, sorted, and how long until the next one's has.
func lapsed(s *cell.State, now time.Time, wait time.Duration) ([]string, time.Duration) {
	var out []string
	for i := range s.Peers {
		switch until := s.Peers[i].ExitUntil; {
		case until == nil:
		case !until.After(now):
			out = append(out, s.Peers[i].Name)
		default:
			wait = min(wait, until.Sub(now)+time.Millisecond)
		}
	}
	slices.Sort(out)
	return out, wait
}
