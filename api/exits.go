package api

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/personal-internet-cell/pic/cell"
)

// Exits is what the API needs of the exits, as functions; cmd/pic fills it.
// Each may be nil: what it would tell is then unknown, and what it would do is refused.
type Exits struct {
	// Parse understands what was pasted for an exit; nothing is stored.
	Parse func(cell.ExitPaste) *cell.ExitDraft
	// Status is what is known of each exit, by id; exits that are not in it are
	// shown by the engine's facts alone.
	Status func(context.Context) map[string]ExitStatus
	// Chains is when each chain took the way that it takes, by its id.
	Chains func(context.Context) map[string]time.Time
	// Test looks at the world through an exit, at most 30 s.
	Test func(ctx context.Context, id string) (ExitTest, error)
	// Proof sends probes of a shadow source through the real rules.
	Proof func(ctx context.Context, id string) (ExitProof, error)
	// Installed reports whether a program that an exit type needs is there.
	Installed func(program string) bool
}

// ExitStatus is what is known of an exit beside its configuration.
type ExitStatus struct {
	State          cell.ExitState `json:"state" enum:"disabled,connecting,up,degraded,blocked"`
	Reason         string         `json:"reason" doc:"why it is not up, and what to do"`
	Since          *time.Time     `json:"since" doc:"since when it is in this state; null: unknown"`
	LatencyMS      float64        `json:"latency_ms" doc:"of the last check; 0: unknown"`
	PublicAddress4 string         `json:"public_address4" doc:"how the internet sees what leaves by it; empty: unknown"`
	PublicAddress6 string         `json:"public_address6"`
	RxBytes        int64          `json:"rx_bytes" doc:"received through it"`
	TxBytes        int64          `json:"tx_bytes" doc:"sent through it"`
	LeakedPackets  uint64         `json:"leaked_packets" doc:"packets of its users that the kill switch stopped from leaving elsewhere"`
	Connections    int            `json:"connections"`
	PendingHostKey *ExitHostKey   `json:"pending_host_key" doc:"the SSH host key that the server shows instead of the pinned one; the exit is blocked until it is accepted"`
	V6             bool           `json:"v6" doc:"whether IPv6 is carried"`
	UDP            bool           `json:"udp" doc:"whether UDP is carried"`
	Restarts       int            `json:"restarts" doc:"of its program, since the cell started"`
	// HostKey is the SSH host key that was pinned on first use, as in authorized_keys.
	HostKey string `json:"-"`
}

// ExitHostKey is an SSH host key as a person compares it.
type ExitHostKey struct {
	Key         string `json:"key" doc:"as in authorized_keys"`
	Fingerprint string `json:"fingerprint" doc:"as ssh-keygen -l shows it"`
}

// ExitTest is what was seen through an exit.
type ExitTest struct {
	OK             bool      `json:"ok"`
	Time           time.Time `json:"time"`
	PublicAddress4 string    `json:"public_address4" doc:"empty: IPv4 does not get through"`
	PublicAddress6 string    `json:"public_address6" doc:"empty: IPv6 does not get through"`
	LatencyMS      float64   `json:"latency_ms"`
	DNS            bool      `json:"dns" doc:"whether names are resolved through it"`
	Checks         []Check   `json:"checks" nullable:"false" doc:"each thing that was tried, in the order in which it was"`
}

// ExitProof says whether anything of an exit's users could leave elsewhere.
type ExitProof struct {
	Holds         bool        `json:"holds" doc:"nothing left by another way, and every probe was seen where it should be"`
	Time          time.Time   `json:"time"`
	Text          string      `json:"text" doc:"the result in a sentence"`
	LeakedPackets uint64      `json:"leaked_packets" doc:"packets that the kill switch stopped, since the rules were made"`
	Probes        []ExitProbe `json:"probes" nullable:"false"`
}

// ExitProbe is one packet that was sent as a user of the exit would.
type ExitProbe struct {
	Name        string `json:"name" doc:"for people, such as: UDP to the internet, IPv6"`
	Protocol    string `json:"protocol" enum:"tcp,udp,icmp,dns"`
	Family      int    `json:"family" enum:"4,6"`
	Destination string `json:"destination"`
	Outcome     string `json:"outcome" enum:"exit,cell,blocked,leaked,unknown" doc:"where it went: through the exit, no further than the cell, nowhere, or past the exit"`
	OK          bool   `json:"ok"`
	Text        string `json:"text"`
}

// Exit is a way out with its state. Secrets are never in it.
type Exit struct {
	ID        string        `json:"id"`
	Name      string        `json:"name"`
	Type      cell.ExitType `json:"type" enum:"wireguard_ext,openvpn,tor,sshuttle,proxy,cell"`
	CatalogID string        `json:"catalog_id"`
	Kind      string        `json:"kind" enum:"routed,dialed" doc:"routed: a link of the kernel; dialed: a relay and a dialer"`
	Slot      int           `json:"slot"`
	Mark      uint32        `json:"mark"`
	Table     int           `json:"table"`
	RelayPort uint16        `json:"relay_port" doc:"0 for routed exits"`
	SocksPort uint16        `json:"socks_port" doc:"of its SOCKS server on the tunnel address, if socks is on"`
	LinkName  string        `json:"link_name" doc:"empty for dialed exits"`
	Enabled   bool          `json:"enabled"`
	Socks     bool          `json:"socks"`
	Probes    []string      `json:"probes" nullable:"false" doc:"what health checks connect to; empty: the default ones"`
	Created   time.Time     `json:"created"`

	WireGuard *ExitWireGuard `json:"wireguard,omitempty"`
	OpenVPN   *ExitOpenVPN   `json:"openvpn,omitempty"`
	Tor       *ExitTor       `json:"tor,omitempty"`
	SSH       *ExitSSH       `json:"ssh,omitempty"`
	Proxy     *ExitProxy     `json:"proxy,omitempty"`

	Address4       string   `json:"address4" doc:"its own address on its link; empty: none"`
	Address6       string   `json:"address6"`
	HasCredentials bool     `json:"has_credentials"`
	UsedBy         []string `json:"used_by" nullable:"false" doc:"as in: peer laptop, service files, chain away"`
	ExitStatus
}

// ExitWireGuard is the client side of a WireGuard server.
type ExitWireGuard struct {
	PublicKey       cell.Key `json:"public_key" doc:"of our own key"`
	PeerKey         cell.Key `json:"peer_key" doc:"the server's"`
	Endpoint        string   `json:"endpoint"`
	AllowedIPs      []string `json:"allowed_ips" nullable:"false"`
	Keepalive       uint16   `json:"keepalive"`
	MTU             int      `json:"mtu" doc:"0: 1420"`
	DNS             []string `json:"dns" nullable:"false"`
	HasPresharedKey bool     `json:"has_preshared_key"`
}

// ExitOpenVPN is what of a profile is for people.
type ExitOpenVPN struct {
	Remotes  []string `json:"remotes" nullable:"false"`
	Username string   `json:"username"`
}

// ExitTor is how Tor leaves.
type ExitTor struct {
	Countries []string `json:"countries" nullable:"false"`
	Bridges   []string `json:"bridges" nullable:"false"`
}

// ExitSSH is an SSH server.
type ExitSSH struct {
	Host               string       `json:"host"`
	Port               uint16       `json:"port"`
	User               string       `json:"user"`
	Auth               cell.SSHAuth `json:"auth" enum:"key,password"`
	HostKey            string       `json:"host_key" doc:"the pinned key; empty until the server was first seen"`
	HostKeyFingerprint string       `json:"host_key_fingerprint"`
}

// ExitProxy is somebody's proxy.
type ExitProxy struct {
	Protocol cell.ProxyProtocol `json:"protocol" enum:"socks5,http,https"`
	Host     string             `json:"host"`
	Port     uint16             `json:"port"`
	Username string             `json:"username"`
}

// exitType is what the catalogue knows of a type.
type exitType struct {
	Type      cell.ExitType
	CatalogID string
	Program   string
}

// exitTypes are those that a person can make.
func exitTypes() []exitType {
	return []exitType{
		{cell.ExitWireGuard, "wireguard-ext", ""},
		{cell.ExitOpenVPN, "openvpn-client", "openvpn"},
		{cell.ExitTor, "tor", "tor"},
		{cell.ExitSSHuttle, "sshuttle", ""},
		{cell.ExitProxy, "proxy", ""},
	}
}

func catalogID(t cell.ExitType) string {
	for _, x := range exitTypes() {
		if x.Type == t {
			return x.CatalogID
		}
	}
	return ""
}

// address is an address as the API writes it: empty when there is none.
func address(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func strs[T interface{ String() string }](in []T) []string {
	out := make([]string, 0, len(in))
	for _, x := range in {
		out = append(out, x.String())
	}
	return out
}

// exitOf shows an exit; st is nil when nothing but the facts is known.
func exitOf(s *cell.State, f *cell.Facts, e *cell.Exit, st *ExitStatus) Exit {
	out := Exit{
		ID: e.ID, Name: e.Name, Type: e.Type, CatalogID: catalogID(e.Type), Kind: "dialed", Slot: e.Slot, Mark: e.Mark(), Table: e.Table(),
		RelayPort: e.RelayPort(), SocksPort: e.SocksPort(), LinkName: e.LinkName(), Enabled: e.Enabled, Socks: e.Socks, Probes: strs(e.Probes), Created: e.Created,
		Address4: address(e.Address4), Address6: address(e.Address6), HasCredentials: e.Credentials != "", UsedBy: exitUsersOf(s, e.ID),
	}
	if e.Routed() {
		out.Kind = "routed"
	}
	fact := f.Exits[e.ID]
	if st != nil {
		out.ExitStatus = *st
	} else {
		out.ExitStatus = ExitStatus{State: fact.State, V6: fact.V6, UDP: fact.UDP}
	}
	switch {
	case !e.Enabled:
		out.State, out.Reason = cell.ExitDisabled, ""
	case out.State == "":
		out.State = cell.ExitConnecting
	}
	if e.Type == cell.ExitOpenVPN {
		out.Address4, out.Address6 = address(fact.Address4), address(fact.Address6)
	}
	out.config(e)
	return out
}

func (out *Exit) config(e *cell.Exit) {
	switch {
	case e.WireGuard != nil:
		w := e.WireGuard
		out.WireGuard = &ExitWireGuard{w.PublicKey, w.PeerKey, w.Endpoint, strs(w.AllowedIPs), w.Keepalive, w.MTU, strs(w.DNS), w.PresharedKey != ""}
	case e.OpenVPN != nil:
		out.OpenVPN = &ExitOpenVPN{some(e.OpenVPN.Remotes), e.OpenVPN.Username}
	case e.Tor != nil:
		out.Tor = &ExitTor{some(e.Tor.Countries), some(e.Tor.Bridges)}
	case e.SSH != nil:
		x := e.SSH
		out.SSH = &ExitSSH{Host: x.Host, Port: x.Port, User: x.User, Auth: x.Auth, HostKey: x.HostKey}
		if x.HostKey == "" {
			out.SSH.HostKey = out.ExitStatus.HostKey
		}
		if key, fp, err := cell.ParseHostKey(out.SSH.HostKey); err == nil {
			out.SSH.HostKey, out.SSH.HostKeyFingerprint = key, fp
		}
	case e.Proxy != nil:
		x := e.Proxy
		out.Proxy = &ExitProxy{x.Protocol, x.Host, x.Port, x.Username}
	}
}

// exitUsersOf are the peers and services that leave by an exit or chain, and the
// chains that list it.
func exitUsersOf(s *cell.State, id string) []string {
	out := some(s.ExitUsers(id))
	for i := range s.Chains {
		if chainNames(&s.Chains[i], id) {
			out = append(out, "chain "+s.Chains[i].ID)
		}
	}
	return out
}

func chainNames(c *cell.Chain, id string) bool {
	return slices.Contains(c.Members, id) || slices.ContainsFunc(c.Schedule, func(w cell.ChainWindow) bool { return w.Use == id })
}

// exits shows all of a state.
func (a *API) exits(ctx context.Context, s *cell.State) []Exit {
	f := a.cfg.Engine.Facts()
	st := a.exitStatus(ctx)
	out := make([]Exit, 0, len(s.Exits))
	for i := range s.Exits {
		out = append(out, exitOf(s, &f, &s.Exits[i], st(s.Exits[i].ID)))
	}
	return out
}

func (a *API) shownExit(ctx context.Context, s *cell.State, id string) Exit {
	f := a.cfg.Engine.Facts()
	return exitOf(s, &f, s.Exit(id), a.exitStatus(ctx)(id))
}

// exitStatus returns a look-up in one reading of all.
func (a *API) exitStatus(ctx context.Context) func(id string) *ExitStatus {
	var all map[string]ExitStatus
	if a.cfg.Exits.Status != nil {
		all = a.cfg.Exits.Status(ctx)
	}
	return func(id string) *ExitStatus {
		if st, ok := all[id]; ok {
			return &st
		}
		return nil
	}
}

func (a *API) exit(id string) (*cell.State, *cell.Exit, error) {
	s, _ := a.cfg.Engine.Running()
	e := s.Exit(id)
	if e == nil {
		return nil, nil, notFound("exit", id)
	}
	return s, e, nil
}
