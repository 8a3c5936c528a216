package cell

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// Numbers of the routing scheme (spec: network.md, "Exits").
const (
	MarkMask   uint32 = 0xff // the bits of the packet mark that are ours
	MarkBypass uint32 = 0x01 // the cell's own sockets: never enter an exit
	MarkDirect uint32 = 0x02 // allowed to leave by the uplink
	MarkBlock  uint32 = 0x03 // allowed to leave nowhere
	TableCell         = 100  // only prefixes of ours, never a default

	// RouteProtocol tags every kernel route and policy rule of ours
	// (rtnetlink(7), rtm_protocol); values above 4 are for administrators.
	RouteProtocol = 0x70

	// ExitDirect in an exit field means "by the uplink".
	ExitDirect = "direct"
	// ExitBlock in an exit field means "not at all": only the cell and prefixes
	// of ours are reached.
	ExitBlock = "block"

	// TunnelLink is the WireGuard device that peers join.
	TunnelLink = "pic0"

	maxSlots = 10

	// socksBase + mark is the port of an exit's SOCKS5 server.
	socksBase = 10800
)

// ExitType is a way out other than the uplink.
type ExitType string

const (
	ExitWireGuard ExitType = "wireguard_ext"
	ExitOpenVPN   ExitType = "openvpn"
	ExitTor       ExitType = "tor"
	ExitSSHuttle  ExitType = "sshuttle"
	ExitProxy     ExitType = "proxy"
	ExitCell      ExitType = "cell"
)

// exitNumbers are those of slot 0; slot n adds n to each.
var exitNumbers = map[ExitType]struct {
	mark  uint32
	table int
	relay uint16 // 0: routed
	link  string // "": dialed
}{
	ExitWireGuard: {0x10, 110, 0, "wg_ext"},
	ExitOpenVPN:   {0x20, 120, 0, "tun"},
	ExitTor:       {0x30, 130, 9040, ""},
	ExitSSHuttle:  {0x40, 140, 12300, ""},
	ExitProxy:     {0x50, 150, 12345, ""},
	ExitCell:      {0x60, 160, 0, "wg_cell"},
}

// Exit is a named way out. Its slot, and with it mark, table, relay port and
// link name, is allocated once and kept for life, so that removing one exit
// never re-routes another's connections.
type Exit struct {
	ID      string   `json:"id"`
	Name    string   `json:"name"`
	Type    ExitType `json:"type"`
	Slot    int      `json:"slot"`
	Enabled bool     `json:"enabled"`
	// Address4 and Address6 are the exit's own addresses on its link (routed
	// exits); the zero value where the family is not carried.
	Address4 netip.Addr `json:"address4"`
	Address6 netip.Addr `json:"address6"`
	// Link names the linked cell (type cell).
	Link string `json:"link"`
	// Credentials is the secret that the type needs: the private key
	// (wireguard_ext), the password of auth-user-pass (openvpn), the private key
	// or password (sshuttle), the password (proxy).
	Credentials SecretRef `json:"credentials"`
	// Of the next five the one of the exit's type is set. An exit without it is
	// blocked and says so.
	WireGuard *WireGuardExit `json:"wireguard,omitempty"`
	OpenVPN   *OpenVPNExit   `json:"openvpn,omitempty"`
	Tor       *TorExit       `json:"tor,omitempty"`
	SSH       *SSHExit       `json:"ssh,omitempty"`
	Proxy     *ProxyExit     `json:"proxy,omitempty"`
	// Socks offers a SOCKS5 server (RFC 1928) on the tunnel address to peers that
	// are granted it (Peer.Socks), at [Exit.SocksPort].
	Socks bool `json:"socks,omitempty"`
	// Probes are what health checks connect to through the exit, TCP; empty
	// means [DefaultProbes].
	Probes  []netip.AddrPort `json:"probes,omitempty"`
	Created time.Time        `json:"created,omitzero"`
}

// Routed reports whether the exit has a kernel link; the others have a dialer
// behind a transparent relay.
func (e *Exit) Routed() bool { return exitNumbers[e.Type].link != "" }

// Mark is the packet mark of traffic that leaves by e.
func (e *Exit) Mark() uint32 { return exitNumbers[e.Type].mark + uint32(e.Slot) }

// Table is the number of e's routing table.
func (e *Exit) Table() int { return exitNumbers[e.Type].table + e.Slot }

// RelayPort is the port of a dialed exit's transparent relay, 0 for routed ones.
func (e *Exit) RelayPort() uint16 {
	if n := exitNumbers[e.Type]; n.relay != 0 {
		return n.relay + uint16(e.Slot)
	}
	return 0
}

// SocksPort is the port of e's SOCKS5 server on the tunnel addresses.
func (e *Exit) SocksPort() uint16 { return socksBase + uint16(e.Mark()) }

// LinkName is the interface of a routed exit, "" for dialed ones.
func (e *Exit) LinkName() string {
	if n := exitNumbers[e.Type]; n.link != "" {
		return n.link + strconv.Itoa(e.Slot)
	}
	return ""
}

// FreeSlot returns the lowest slot of type t that no exit holds.
func (s *State) FreeSlot(t ExitType) (int, error) {
	var used [maxSlots]bool
	for i := range s.Exits {
		if s.Exits[i].Type == t && s.Exits[i].Slot >= 0 && s.Exits[i].Slot < maxSlots {
			used[s.Exits[i].Slot] = true
		}
	}
	if i := slices.Index(used[:], false); i >= 0 {
		return i, nil
	}
	return 0, fmt.Errorf("all %d exits of type %s are taken: remove one first", maxSlots, t)
}

func (e *Exit) validate(v *validation, s *State) {
	if _, ok := exitNumbers[e.Type]; !ok {
		v.add("type", "%q is no exit type", e.Type)
		return
	}
	if e.ID == ExitDirect || e.ID == ExitBlock {
		v.add("id", "%q is a word of its own and can't name an exit", e.ID)
	}
	if e.Slot < 0 || e.Slot >= maxSlots {
		v.add("slot", "must be 0 to %d", maxSlots-1)
	}
	if e.Address4.IsValid() && !e.Address4.Is4() {
		v.add("address4", "must be an IPv4 address")
	}
	if e.Address6.IsValid() && (!e.Address6.Is6() || e.Address6.Is4In6()) {
		v.add("address6", "must be an IPv6 address")
	}
	if e.Type == ExitCell && find(s.Links, func(l *Link) bool { return l.Name == e.Link }) == nil {
		v.add("link", "there is no linked cell %q", e.Link)
	}
	e.validateConfig(v)
}

// OurLink reports whether an interface name belongs to the cell: the tunnel, or
// the link of an exit, whether or not there is such an exit.
func OurLink(name string) bool { return ourLink(name) }

// ourLink reports whether an interface name belongs to the cell.
func ourLink(name string) bool {
	if name == TunnelLink {
		return true
	}
	for _, n := range exitNumbers {
		if n.link == "" || len(name) != len(n.link)+1 || name[:len(n.link)] != n.link {
			continue
		}
		if d := name[len(n.link)]; d >= '0' && d <= '9' {
			return true
		}
	}
	return false
}
