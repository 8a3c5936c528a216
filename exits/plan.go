package exits

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/personal-internet-cell/pic/cell"
)

// Relays is the plan: every exit and chain of the cell, in order of id. It is
// plain data and holds no secret. Equal plans are deeply equal and print equal
// text.
type Relays struct {
	Exits  []Exit
	Chains []Chain
	// Timezone is that of the chains' windows, an IANA name; "" is UTC.
	Timezone string
	// Resolvers look up names of servers behind exits, by the uplink.
	Resolvers []netip.AddrPort
	// Uplink is which families the uplink has.
	Uplink Family
}

// Family says which versions of IP there are.
type Family struct{ V4, V6 bool }

// Exit is one exit at work.
type Exit struct {
	ID   string
	Name string // for people; never empty
	Type cell.ExitType
	Slot int
	// Enabled is false for an exit that is configured and not used.
	Enabled bool
	Mark    uint32
	// Link is the interface of a routed exit, "" for dialed ones.
	Link string
	// RelayPort is the port of a dialed exit's transparent relay, 0 for routed ones.
	RelayPort   uint16
	Credentials cell.SecretRef
	Address4    netip.Addr
	Address6    netip.Addr
	// Of these the one of the exit's type is set, or none.
	WireGuard *WireGuard
	OpenVPN   *cell.OpenVPNExit
	Tor       *cell.TorExit
	SSH       *cell.SSHExit
	Proxy     *cell.ProxyExit
	// Socks is where its SOCKS5 server listens; none: it offers none.
	Socks []netip.AddrPort
	// Probes are what health checks connect to through it, at least one.
	Probes []netip.AddrPort
	// Sources are who leaves by it, sorted.
	Sources []netip.Prefix
	// Granted are the addresses of those who may use its SOCKS5 server, sorted.
	Granted []netip.Addr
}

// WireGuard is what health and endpoint look-ups need of a WireGuard exit; the
// device itself is the tunnel's.
type WireGuard struct {
	Endpoint string // host:port
	V4, V6   bool   // carried
}

// Chain is a list of exits of which the first that carries traffic is used.
type Chain struct {
	ID       string
	Name     string // for people; never empty
	Members  []string
	Hold     int // seconds
	Schedule []cell.ChainWindow
}

// configured reports whether the section of the exit's type is there.
func (e *Exit) configured() bool {
	return e.WireGuard != nil || e.OpenVPN != nil || e.Tor != nil || e.SSH != nil || e.Proxy != nil
}

// sameWork reports whether two plans of an exit need the same worker; who uses
// the exit and what probes it are taken over without a restart.
func (e *Exit) sameWork(o *Exit) bool {
	a, b := *e, *o
	for _, x := range []*Exit{&a, &b} {
		x.Name, x.Sources, x.Granted, x.Probes = "", nil, nil, nil
	}
	return reflect.DeepEqual(a, b)
}

// Exit returns the exit of that id, or nil.
func (r *Relays) Exit(id string) *Exit {
	i, ok := slices.BinarySearchFunc(r.Exits, id, func(e Exit, id string) int { return strings.Compare(e.ID, id) })
	if !ok {
		return nil
	}
	return &r.Exits[i]
}

// String renders the plan, one exit or chain a line and what belongs to it
// below.
func (r Relays) String() string {
	var b strings.Builder
	for i := range r.Exits {
		r.Exits[i].write(&b)
	}
	for _, c := range r.Chains {
		fmt.Fprintf(&b, "chain %s: %s, hold %d s\n", c.ID, strings.Join(c.Members, " > "), c.Hold)
		for _, w := range c.Schedule {
			days := "daily"
			if len(w.Days) > 0 {
				days = "on days " + strings.Trim(fmt.Sprint(w.Days), "[]")
			}
			fmt.Fprintf(&b, "  %s %02d:%02d to %02d:%02d: %s\n", days, w.From/60, w.From%60, w.Until/60, w.Until%60, w.Use)
		}
	}
	if len(r.Chains) > 0 && r.Timezone != "" {
		fmt.Fprintf(&b, "time zone %s\n", r.Timezone)
	}
	if len(r.Exits) > 0 {
		fmt.Fprintf(&b, "servers looked up at %s for%s\n", list(r.Resolvers), r.Uplink)
	}
	return b.String()
}

func (f Family) String() string {
	out := ""
	if f.V4 {
		out += " IPv4"
	}
	if f.V6 {
		out += " IPv6"
	}
	return out
}

func (e *Exit) write(b *strings.Builder) {
	fmt.Fprintf(b, "exit %s: %s, mark %#02x", e.ID, e.Type, e.Mark)
	if e.Link != "" {
		fmt.Fprintf(b, ", link %s", e.Link)
	} else {
		fmt.Fprintf(b, ", relay on port %d", e.RelayPort)
	}
	if !e.Enabled {
		b.WriteString(", disabled")
	}
	b.WriteByte('\n')
	switch {
	case e.WireGuard != nil:
		fmt.Fprintf(b, "  to %s, carries%s\n", e.WireGuard.Endpoint, Family{e.WireGuard.V4, e.WireGuard.V6})
	case e.OpenVPN != nil:
		fmt.Fprintf(b, "  profile %s, user %q, credentials %s, to %s\n", e.OpenVPN.Profile, e.OpenVPN.Username, e.Credentials, list(e.OpenVPN.Remotes))
	case e.Tor != nil:
		fmt.Fprintf(b, "  leaves in %s, bridges %s\n", list(e.Tor.Countries), list(e.Tor.Bridges))
	case e.SSH != nil:
		fmt.Fprintf(b, "  to %s@%s port %d by %s %s, host key %q\n", e.SSH.User, e.SSH.Host, e.SSH.Port, e.SSH.Auth, e.Credentials, e.SSH.HostKey)
	case e.Proxy != nil:
		fmt.Fprintf(b, "  to %s://%s port %d as %q, credentials %s\n", e.Proxy.Protocol, e.Proxy.Host, e.Proxy.Port, e.Proxy.Username, e.Credentials)
	default:
		b.WriteString("  not configured\n")
	}
	fmt.Fprintf(b, "  probes %s\n  used by %s\n", list(e.Probes), list(e.Sources))
	if len(e.Socks) > 0 {
		fmt.Fprintf(b, "  SOCKS5 on %s for %s\n", list(e.Socks), list(e.Granted))
	}
}

func list[T any](xs []T) string {
	if len(xs) == 0 {
		return "none"
	}
	return strings.Trim(fmt.Sprint(xs), "[]")
}
