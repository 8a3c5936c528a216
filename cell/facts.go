package cell

import "net/netip"

// Facts are what has been learned about the world, never what was configured.
// They are values: the engine replaces them as a whole.
type Facts struct {
	// Host is how the process was started.
	Host   Host   `json:"host"`
	Uplink Uplink `json:"uplink"`
	// Links are the interfaces present, by name.
	Links map[string]LinkFact `json:"links"`
	// Resolvers are the uplink's own DNS servers.
	Resolvers []netip.AddrPort `json:"resolvers"`
	// Expired are names of peers whose time has passed, sorted.
	Expired []string `json:"expired"`
	// ExitLapsed are names of peers whose ExitUntil has passed, sorted.
	ExitLapsed []string `json:"exit_lapsed"`
	// Exits is what is known of each exit, by id.
	Exits map[string]ExitFact `json:"exits"`
	// Chains is the way that each chain takes now, by its id: an exit's id, "direct" or "block".
	Chains map[string]string `json:"chains"`
	// PublicAddress4 and PublicAddress6 are how the internet sees the cell; may be zero.
	PublicAddress4 netip.Addr `json:"public_address4"`
	PublicAddress6 netip.Addr `json:"public_address6"`
	// UserspaceWireGuard is true where the kernel has no WireGuard.
	UserspaceWireGuard bool `json:"userspace_wireguard"`
}

// Scope says how much of the machine the firewall owns.
type Scope string

const (
	ScopeFull   Scope = "full"   // the box belongs to the cell: input is default-drop
	ScopeTunnel Scope = "tunnel" // only tunnel, exits, links and services are filtered
)

// Host are the flags the process was started with, as far as plans depend on them.
type Host struct {
	Scope     Scope  `json:"scope"`
	HTTPPort  uint16 `json:"http_port"`
	HTTPSPort uint16 `json:"https_port"`
	DNSPort   uint16 `json:"dns_port"`
	NTPPort   uint16 `json:"ntp_port"`
	// Uplink overrides the learned uplink; empty means learn it.
	Uplink string `json:"uplink"`
}

// Uplink is the interface to the internet.
type Uplink struct {
	Name      string         `json:"name"`
	Addresses []netip.Prefix `json:"addresses"`
	Gateway4  netip.Addr     `json:"gateway4"`
	Gateway6  netip.Addr     `json:"gateway6"`
}

// LinkFact is what is known of one interface.
type LinkFact struct {
	Index     int            `json:"index"`
	Up        bool           `json:"up"`
	Addresses []netip.Prefix `json:"addresses"`
}

// LocalAddresses lists every address of the machine, in no particular order.
func (f *Facts) LocalAddresses() []netip.Addr {
	var out []netip.Addr
	for _, l := range f.Links {
		for _, p := range l.Addresses {
			out = append(out, p.Addr())
		}
	}
	return out
}

// Severity of a notice.
type Severity string

const (
	Info    Severity = "info"
	Warning Severity = "warning"
	Alarm   Severity = "alarm"
)

// Notice is a problem with a cure, shown to a person. Code and Subject
// together identify it; Text says what is wrong and what to do.
type Notice struct {
	Code     string   `json:"code"`
	Subject  string   `json:"subject"`
	Severity Severity `json:"severity"`
	Text     string   `json:"text"`
}

// ExitState is how an exit is.
type ExitState string

const (
	ExitDisabled   ExitState = "disabled"   // switched off
	ExitConnecting ExitState = "connecting" // not up yet, and nothing is known to be wrong
	ExitUp         ExitState = "up"
	ExitDegraded   ExitState = "degraded" // carries traffic, but checks fail now and then
	ExitBlocked    ExitState = "blocked"  // carries nothing; Reason says why
)

// Carrying reports whether the exit is of use: up, or degraded.
func (s ExitState) Carrying() bool { return s == ExitUp || s == ExitDegraded }

// ExitFact is what plans depend on of one exit. What changes by the second
// (latency, counters) is not here: each change is a settling pass.
type ExitFact struct {
	State ExitState `json:"state"`
	// Endpoint is where a wireguard_ext server is, looked up; invalid: unknown.
	Endpoint netip.AddrPort `json:"endpoint"`
	// Address4 and Address6 are the addresses a server gave us (openvpn).
	Address4 netip.Addr `json:"address4"`
	Address6 netip.Addr `json:"address6"`
	// V6 says whether IPv6 destinations are reached through it.
	V6 bool `json:"v6"`
	// UDP says whether a dialed exit's relay takes UDP.
	UDP bool `json:"udp"`
	// DNS are resolvers that the server told us of, asked through the exit.
	DNS []netip.AddrPort `json:"dns"`
}
