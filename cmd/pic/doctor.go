package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/cell"
)

// doctor checks the machine and says how to mend each fault. It fails when one
// would keep the cell from working.
func doctor(ctx context.Context, inv *invocation) error {
	checks := machineChecks(ctx, inv.client())
	b, err := json.Marshal(map[string]any{"items": checks})
	if err != nil {
		return err
	}
	if err := inv.show(b, func(w io.Writer) error {
		for _, c := range checks {
			mark := "ok  "
			if !c.OK {
				mark = "MEND"
			}
			fmt.Fprintf(w, "%s  %-22s %s\n", mark, c.Name, c.Text)
		}
		return nil
	}); err != nil {
		return err
	}
	for _, c := range checks {
		if !c.OK {
			return errors.New("something needs mending")
		}
	}
	return nil
}

func machineChecks(ctx context.Context, c *client) []api.Check {
	running := c.get(ctx, "/health", new(api.Health)) == nil
	out := []api.Check{capabilityCheck(), kernelCheck("nftables", "/proc/sys/net/netfilter", "nf_tables"), tunCheck(), wireguardCheck(), forwardingCheck()}
	if running {
		out = append(out, good("ports", "a cell is running here and holds its ports; `pic status` shows any it could not get"))
	} else {
		out = append(out, portChecks()...)
	}
	f := readMachine(cell.Host{})
	return append(append(out, uplinkChecks(ctx, f)...), clockCheck(), dockerCheck())
}

func good(name, format string, a ...any) api.Check {
	return api.Check{Name: name, OK: true, Text: fmt.Sprintf(format, a...)}
}

func bad(name, format string, a ...any) api.Check {
	return api.Check{Name: name, Text: fmt.Sprintf(format, a...)}
}

// Capabilities that serving needs, by bit (capabilities(7)).
var neededCaps = []struct {
	bit  uint
	name string
	why  string
}{
	{12, "CAP_NET_ADMIN", "WireGuard, routes and the firewall"},
	{10, "CAP_NET_BIND_SERVICE", "ports 53, 80, 123 and 443"},
}

// missingCapabilities names those this process lacks.
func missingCapabilities() []string {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		if hex, found := strings.CutPrefix(line, "CapEff:"); found {
			n, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
			if err != nil {
				return nil
			}
			var missing []string
			for _, c := range neededCaps {
				if n&(1<<c.bit) == 0 {
					missing = append(missing, c.name+" ("+c.why+")")
				}
			}
			return missing
		}
	}
	return nil
}

func capabilityCheck() api.Check {
	if m := missingCapabilities(); len(m) > 0 {
		return bad("capabilities", "missing %s: run as root, or start the systemd unit", strings.Join(m, ", "))
	}
	return good("capabilities", "enough")
}

func kernelCheck(name, path, module string) api.Check {
	if _, err := os.Stat(path); err == nil {
		return good(name, "the kernel has it")
	}
	if _, err := os.Stat("/sys/module/" + module); err == nil {
		return good(name, "the kernel has it")
	}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		if found, _ := filepath.Glob("/lib/modules/" + strings.TrimSpace(string(release)) + "/kernel/net/netfilter/" + module + ".ko*"); len(found) > 0 {
			return good(name, "the module is installed and loads on demand")
		}
	}
	return bad(name, "the kernel has no %s: install a kernel with it (Debian: linux-image-%s)", module, runtime.GOARCH)
}

func tunCheck() api.Check {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return bad("tun", "/dev/net/tun can't be opened (%v): run `modprobe tun`", errors.Unwrap(err))
	}
	_ = f.Close()
	return good("tun", "there")
}

func wireguardCheck() api.Check {
	if _, err := os.Stat("/sys/module/wireguard"); err == nil {
		return good("wireguard", "in the kernel")
	}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		if found, _ := filepath.Glob("/lib/modules/" + strings.TrimSpace(string(release)) + "/kernel/drivers/net/wireguard/wireguard.ko*"); len(found) > 0 {
			return good("wireguard", "the module is installed and loads on demand")
		}
	}
	return good("wireguard", "not in this kernel: the embedded one is used, which is slower and pauses when pic stops")
}

func forwardingCheck() api.Check {
	if f, err := os.OpenFile("/proc/sys/net/ipv4/ip_forward", os.O_WRONLY, 0); err != nil {
		return bad("forwarding", "/proc/sys/net can't be written (%v): run outside a container, or with the systemd unit", errors.Unwrap(err))
	} else {
		_ = f.Close()
	}
	return good("forwarding", "can be switched on")
}

func portChecks() []api.Check {
	var out []api.Check
	for _, p := range []struct {
		network string
		port    int
		what    string
	}{{"tcp", 80, "web"}, {"tcp", 443, "web"}, {"udp", 51820, "WireGuard"}} {
		name := fmt.Sprintf("port %d/%s", p.port, p.network)
		if err := tryPort(p.network, p.port); errors.Is(err, syscall.EADDRINUSE) {
			out = append(out, bad(name, "taken by another program, so %s can't start: `ss -lnp 'sport = :%d'` names it; stop it, or choose another port", p.what, p.port))
		} else if err != nil {
			out = append(out, bad(name, "%v", err))
		} else {
			out = append(out, good(name, "free"))
		}
	}
	return out
}

func tryPort(network string, port int) error {
	addr := ":" + strconv.Itoa(port)
	if network == "udp" {
		c, err := net.ListenPacket("udp", addr)
		if err != nil {
			return err
		}
		return c.Close()
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	return l.Close()
}

// uplinkChecks look at the way out; they send only to the resolvers the
// machine itself is configured with.
func uplinkChecks(ctx context.Context, f cell.Facts) []api.Check {
	if f.Uplink.Name == "" {
		return []api.Check{bad("uplink", "no default route: connect the machine, or name the interface with --uplink")}
	}
	out := []api.Check{good("uplink", "%s %v", f.Uplink.Name, f.Uplink.Addresses)}
	if len(f.Resolvers) == 0 {
		return append(out, bad("resolvers", "the machine knows no DNS server: set dns.forwarders, or mend /etc/resolv.conf"))
	}
	for _, r := range f.Resolvers {
		if err := askResolver(ctx, r); err != nil {
			out = append(out, bad("resolver "+r.Addr().String(), "no answer (%v): check the uplink, or set dns.forwarders", err))
		} else {
			out = append(out, good("resolver "+r.Addr().String(), "answers"))
		}
	}
	return out
}

// askResolver asks for the root's name servers, which every resolver knows.
func askResolver(ctx context.Context, r netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	res := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, r.String())
	}}
	_, err := res.LookupNS(ctx, ".")
	var e *net.DNSError
	if errors.As(err, &e) && e.IsNotFound {
		return nil // it answered
	}
	return err
}

func clockCheck() api.Check {
	if built := buildTime(); time.Now().Before(built) {
		return bad("clock", "it is before this program was built (%s): set the clock, or let an NTP daemon do it", built.Format(time.DateOnly))
	}
	return good("clock", "plausible: %s", time.Now().UTC().Format(time.RFC3339))
}

func dockerCheck() api.Check {
	if _, err := os.Stat("/var/run/docker.sock"); err != nil {
		return good("docker", "not installed: the store's services need it (apt install docker.io), nothing else does")
	}
	return good("docker", "its socket is there")
}
