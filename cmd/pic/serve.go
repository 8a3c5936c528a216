package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

// serveFlags are the flags of `pic serve`.
type serveFlags struct {
	state, runtime string
	scope          string
	uplink         string
	http, https    string
	dnsPort        uint
	ntpPort        uint
	debug          string
	logLevel       string
	adopt          uint64
	api            apiFlag
	resync         time.Duration
	echo           string
	stopChildren   bool
}

func serveCommands() []command {
	return []command{
		{name: "serve", help: "run the cell", flags: serveFlagSet, run: serve},
		{name: "recover", args: "[--adopt N] [--flush]", help: "adopt a revision after damage, or take a stopped cell out of the kernel", flags: recoverFlags, run: recoverCell},
	}
}

func serveFlagSet(fs *flag.FlagSet, inv *invocation) {
	f := &inv.opt.serve
	fs.StringVar(&f.state, "state", defaultState, "the state folder")
	fs.StringVar(&f.runtime, "runtime", defaultRuntime, "the folder for the socket and the ready file")
	fs.StringVar(&f.scope, "firewall", string(cell.ScopeFull), "full: the machine is the cell's, input is default-drop; tunnel: only tunnel, exits, links and services are filtered")
	fs.StringVar(&f.uplink, "uplink", "", "the interface to the internet; default: the one with the default route")
	fs.StringVar(&f.http, "http", ":80", "address of the HTTP redirect")
	fs.StringVar(&f.https, "https", ":443", "address of the web")
	fs.UintVar(&f.dnsPort, "dns-port", 53, "port of the name server")
	fs.UintVar(&f.ntpPort, "ntp-port", 123, "port of the NTP server")
	fs.Var(&f.api, "api", "loopback address of the API for tokens, without TLS; "+apiDefault+" when none is given; off by default")
	fs.StringVar(&f.debug, "debug", "", "loopback address for pprof and /debug/{state,plans,conditions}; off by default")
	fs.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	fs.StringVar(&f.echo, "echo", "", "URL of a service that answers with the address it sees, asked through each exit; default: well-known ones")
	fs.BoolVar(&f.stopChildren, "stop-children", false, "end the exits' programs (openvpn, tor) with the cell; default: leave them, for the next start to take over")
	fs.DurationVar(&f.resync, "resync", 5*time.Minute, "how often everything is looked at although the kernel told of no change; 0: never, for tests")
}

// host turns the flags into the facts plans depend on.
func (f *serveFlags) host() (cell.Host, error) {
	h := cell.Host{Scope: cell.Scope(f.scope), Uplink: f.uplink}
	if h.Scope != cell.ScopeFull && h.Scope != cell.ScopeTunnel {
		return h, fmt.Errorf("--firewall must be full or tunnel, not %q", f.scope)
	}
	for _, p := range []struct {
		name, value string
		to          *uint16
	}{{"--http", f.http, &h.HTTPPort}, {"--https", f.https, &h.HTTPSPort}} {
		host, port, err := net.SplitHostPort(p.value)
		n, err2 := strconv.ParseUint(port, 10, 16)
		if err != nil || err2 != nil || n == 0 {
			return h, fmt.Errorf("%s must look like :443 or 192.0.2.1:443, not %q", p.name, p.value)
		}
		if host != "" {
			if _, err := netip.ParseAddr(host); err != nil {
				return h, fmt.Errorf("%s must name an address or none, not %q", p.name, host)
			}
		}
		*p.to = uint16(n)
	}
	if f.debug != "" {
		if ap, err := netip.ParseAddrPort(f.debug); err != nil || !ap.Addr().IsLoopback() || ap.Port() == 0 {
			return h, errors.New("--debug must be a loopback address and port, such as 127.0.0.1:6060")
		}
	}
	if h.HTTPPort == h.HTTPSPort {
		return h, errors.New("--http and --https need different ports")
	}
	for _, p := range []struct {
		name  string
		value uint
		to    *uint16
	}{{"--dns-port", f.dnsPort, &h.DNSPort}, {"--ntp-port", f.ntpPort, &h.NTPPort}} {
		if p.value < 1 || p.value > 65535 {
			return h, fmt.Errorf("%s must be 1 to 65535", p.name)
		}
		*p.to = uint16(p.value)
	}
	return h, nil
}

// serve runs the cell until SIGTERM. The kernel keeps what it has then:
// tunnels forward, the kill switch holds.
func serve(ctx context.Context, inv *invocation) error {
	f := &inv.opt.serve
	host, err := f.host()
	if err != nil {
		return err
	}
	if err := f.api.resolve(inv.args); err != nil {
		return err
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return fmt.Errorf("--log-level: %w", err)
	}
	panics := lifecycle.NewPanics()
	log := slog.New(panics.Handler(slog.NewTextHandler(inv.err, &slog.HandlerOptions{Level: level})))
	if m := missingCapabilities(); len(m) > 0 {
		return fmt.Errorf("this process lacks %s: run it as root (sudo pic serve) or start the systemd unit (systemctl start pic)", strings.Join(m, ", "))
	}
	if err := os.MkdirAll(f.runtime, 0o755); err != nil {
		return fmt.Errorf("making the runtime folder: %w", err)
	}
	ready := filepath.Join(f.runtime, "ready")
	if err := os.Remove(ready); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	h, err := build(log, panics, f, host)
	if err != nil {
		return err
	}
	defer h.close()
	return h.run(ctx, inv.out, ready)
}

// resync is the engine's word for a period of the flag: there 0 is its default.
func resync(d time.Duration) time.Duration {
	if d <= 0 {
		return -1
	}
	return d
}

// fresh makes the state of a cell nobody has claimed: a key pair, and tunnel
// subnets at random that overlap no network this machine is on.
func fresh(makeRef func(string) cell.SecretRef, generate func() (cell.Secret, cell.Key), random func([]byte), facts cell.Facts) (*cell.State, map[cell.SecretRef]cell.Secret, error) {
	private, public := generate()
	ref := makeRef("wireguard")
	for range 100 {
		var seed [16]byte
		random(seed[:])
		s := cell.Factory(seed, ref, public)
		if !overlapsLocal(s, facts) {
			return s, map[cell.SecretRef]cell.Secret{ref: private}, s.Validate()
		}
	}
	return nil, nil, errors.New("finding a subnet for the tunnel: this machine is on so many 10.0.0.0/8 networks that none is free")
}

func overlapsLocal(s *cell.State, facts cell.Facts) bool {
	for _, l := range facts.Links {
		for _, p := range l.Addresses {
			if p.Masked().Overlaps(s.Network.Tunnel.Reserved4) || p.Masked().Overlaps(s.Network.Tunnel.Prefix6) {
				return true
			}
		}
	}
	return false
}

// buildTime is when this program was built, as the linker was told; the zero
// time when it was not.
func buildTime() time.Time {
	n, err := strconv.ParseInt(built, 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.Unix(n, 0).UTC()
}

// built is the build's Unix time, set by the linker.
var built string
