package cell_test

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/personal-internet-cell/pic/cell"
)

// full is a state in which every list has an element and every switch is on,
// so that whatever is taken from it is missed by somebody.
func full(t testing.TB) *cell.State {
	s := claimed()
	s.Identity = cell.Identity{Name: "home", Mode: cell.ModeOwn, Domain: "home.example.org"}
	s.Users = append(s.Users, cell.User{Name: "kid", Role: cell.RoleAdmin, PasswordHash: "pw2", Tokens: []cell.Token{{
		ID: strings.Repeat("a", 24), Name: "ci", Hash: strings.Repeat("b", 64), Scopes: []cell.TokenScope{{Method: "GET", Path: "/api/**"}}, Created: soon.Add(-24 * time.Hour), Expires: soon,
	}}})
	n := &s.Network
	n.Uplink, n.PublicWeb = "eth0", true
	n.LAN = []cell.LAN{{Name: "lan", Interface: "eth1", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24")}, Addresses: []netip.Addr{netip.MustParseAddr("192.168.7.1")}}}
	s.DNS.Public = true
	s.DNS.RebindAllow = []string{"plex.direct"}
	s.DNS.Records = []cell.Record{{Name: "printer", Type: "A", Value: "192.168.7.20", Views: []cell.View{}}}
	s.DDNS.Provider = "cloudflare"
	s.TLS.Authorities = []cell.Authority{{ID: "ca", Root: "-BEGIN CERTIFICATE-", Issuing: "-BEGIN CERTIFICATE-", RootKey: "r", IssuingKey: "i", Domains: []string{}}}
	s.Links = []cell.Link{{
		Name: "aunt", Domain: "aunt.example.org", PublicKey: key(90), Endpoint: "aunt.example.org:51820", Enabled: true,
		Address4: netip.MustParseAddr("10.98.0.1"), Address6: netip.MustParseAddr("fd98::1"), PresharedKey: "psk", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.99.0.0/24")},
	}}
	s.Exits = []cell.Exit{
		{ID: "nl", Type: cell.ExitWireGuard, Enabled: true, Address4: netip.MustParseAddr("10.64.0.9"), Address6: netip.MustParseAddr("fc00::9"), Credentials: "c"},
		{ID: "aunt", Type: cell.ExitCell, Link: "aunt", Enabled: true},
	}
	s.Chains = []cell.Chain{{ID: "away", Members: []string{"nl", "aunt", cell.ExitBlock}, Schedule: []cell.ChainWindow{{From: 60, Until: 120, Use: cell.ExitBlock}}}}
	s.Services = []cell.Service{
		{
			ID: "files", Subdomain: "files", Upstream: "http://172.20.1.2:80", Access: cell.AccessInternet, Bridge: "br-files", Enabled: true,
			Prefix4: netip.MustParsePrefix("172.20.1.0/24"), Prefix6: netip.MustParsePrefix("fd30::/64"), Egress: "nl", Ports: []cell.ServicePort{{Protocol: cell.TCP, Port: 993}},
		},
		{ID: "mail", Subdomain: "mail", Upstream: "http://192.168.7.9:80", Access: cell.AccessGranted, Enabled: true},
	}
	addPeer(t, s, "laptop", 2)
	addPeer(t, s, "phone", 3)
	p := &s.Peers[0]
	p.Socks, s.Exits[0].Socks = []string{"nl"}, true
	s.Services[1].Egress = "away"
	p.Exit, p.Services, p.Peers, p.LAN, p.Owner, p.PresharedKey = "nl", []string{"mail"}, []string{"phone"}, []string{"lan"}, "kid", "psk3"
	n.Forwards = []cell.Forward{{Name: "game", Protocol: cell.UDP, Port: 7777, Peer: "phone", TargetPort: 7000, Enabled: true}}
	s.Normalize()
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	return s
}

// soon is a time of expiry.
var soon = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

// impacts has an edit for each field whose change can cut somebody off: the
// field, the edit, and "kind subject: words" of the cuts that are said.
var impacts = []struct {
	field string
	edit  func(*cell.State)
	want  []string
}{
	{"identity/name", func(s *cell.State) { s.Identity.Name = "flat" }, []string{"name home.internal: every address under home.internal stops resolving"}},
	{"identity/domain_mode", func(s *cell.State) { s.Identity.Mode, s.Identity.Domain = cell.ModeLAN, "" }, []string{"name home.example.org: stops resolving"}},
	{"identity/domain", func(s *cell.State) { s.Identity.Domain = "flat.example.org" }, []string{"name home.example.org: the new domain is flat.example.org"}},

	{"network/tunnel/prefix4", func(s *cell.State) {
		s.Network.Tunnel.Reserved4, s.Network.Tunnel.Prefix4 = netip.MustParsePrefix("10.40.0.0/16"), netip.MustParsePrefix("10.40.0.0/24")
		s.Peers[0].Address4, s.Peers[1].Address4 = netip.MustParseAddr("10.40.0.2"), netip.MustParseAddr("10.40.0.3")
	}, []string{"peer *: the cell's addresses in the tunnel change", "peer laptop: its addresses change", "peer phone: its addresses change"}},
	{"network/tunnel/prefix6", func(s *cell.State) {
		s.Network.Tunnel.Prefix6 = netip.MustParsePrefix("fd00:9::/64")
		s.Peers[0].Address6, s.Peers[1].Address6 = netip.MustParseAddr("fd00:9::2"), netip.MustParseAddr("fd00:9::3")
	}, []string{"peer *: the cell's addresses in the tunnel change", "peer laptop: its addresses change", "peer phone: its addresses change"}},
	{"network/tunnel/listen_port", func(s *cell.State) { s.Network.Tunnel.ListenPort = 51821 }, []string{"peer *: the WireGuard port changes to 51821"}},
	{"network/tunnel/private_key", func(s *cell.State) { s.Network.Tunnel.PrivateKey = "other" }, []string{"peer *: the cell's key changes"}},
	{"network/tunnel/public_key", func(s *cell.State) { s.Network.Tunnel.PublicKey = key(80) }, []string{"peer *: the cell's key changes"}},
	{"network/tunnel/mtu", func(s *cell.State) { s.Network.Tunnel.MTU = 1500 }, []string{"peer *: packets in the tunnel grow to 1500 bytes"}},
	{"network/uplink", func(s *cell.State) { s.Network.Uplink = "" }, []string{"internet eth0: connections by it end"}},
	{"network/public_web", func(s *cell.State) { s.Network.PublicWeb = false }, []string{"internet public_web: the internet can no longer reach"}},
	{"network/services_prefix", func(s *cell.State) { s.Network.ServicesPrefix = netip.MustParsePrefix("172.16.0.0/12") }, []string{"network 172.20.0.0/16: no longer get addresses"}},
	{"network/lan", func(s *cell.State) { s.Network.LAN = nil; s.Peers[0].LAN = nil }, []string{"network lan: is no longer one of yours", "peer laptop: can no longer reach the network lan"}},
	{"network/lan/interface", func(s *cell.State) { s.Network.LAN[0].Interface = "eth2" }, []string{"network lan: no longer on eth1 but on eth2"}},
	{"network/lan/prefixes", func(s *cell.State) {
		s.Network.LAN[0].Prefixes = []netip.Prefix{netip.MustParsePrefix("192.168.7.0/28")}
	}, []string{"network lan: 192.168.7.0/24 is no longer part"}},
	{"network/lan/addresses", func(s *cell.State) { s.Network.LAN[0].Addresses = nil }, []string{"network lan: no longer served at 192.168.7.1"}},
	{"network/forwards", func(s *cell.State) { s.Network.Forwards = nil }, []string{"forward game: 7777/udp is no longer forwarded"}},
	{"network/forwards/protocol", func(s *cell.State) { s.Network.Forwards[0].Protocol = cell.TCP }, []string{"forward game: 7777/udp is no longer forwarded"}},
	{"network/forwards/port", func(s *cell.State) { s.Network.Forwards[0].Port = 7778 }, []string{"forward game: 7777/udp is no longer forwarded"}},
	{"network/forwards/enabled", func(s *cell.State) { s.Network.Forwards[0].Enabled = false }, []string{"forward game: 7777/udp is no longer forwarded"}},
	{"network/forwards/target_port", func(s *cell.State) { s.Network.Forwards[0].TargetPort = 1 }, []string{"forward game: no longer leads to port 7000 of phone"}},
	{
		"network/forwards/peer", func(s *cell.State) { s.Peers[0].Exit = ""; s.Network.Forwards[0].Peer = "laptop" },
		[]string{"peer laptop: leaves by direct instead of nl", "forward game: no longer leads to port 7000 of phone"},
	},
	{"network/forwards/service", func(s *cell.State) {
		s.Network.Forwards[0].Peer, s.Network.Forwards[0].Service, s.Services[1].Egress = "", "mail", cell.ExitDirect
	}, []string{"service mail: leaves by direct instead of away", "forward game: no longer leads to port 7000 of phone"}},

	{"dns/records", func(s *cell.State) { s.DNS.Records = nil }, []string{"name printer: to the view peer", "name printer: to the view lan"}},
	{"dns/records/name", func(s *cell.State) { s.DNS.Records[0].Name = "x" }, []string{"name printer: to the view peer", "name printer: to the view lan"}},
	{"dns/records/type", func(s *cell.State) { s.DNS.Records[0].Type, s.DNS.Records[0].Value = "TXT", "x" }, []string{"name printer: to the view peer", "name printer: to the view lan"}},
	{"dns/records/value", func(s *cell.State) { s.DNS.Records[0].Value = "192.168.7.21" }, []string{"name printer: to the view peer", "name printer: to the view lan"}},
	{"dns/records/views", func(s *cell.State) { s.DNS.Records[0].Views = []cell.View{cell.ViewPeer} }, []string{"name printer: to the view lan"}},
	{"dns/rebind_allow", func(s *cell.State) { s.DNS.RebindAllow = nil }, []string{"name plex.direct: are dropped again"}},
	{"dns/public", func(s *cell.State) { s.DNS.Public = false }, []string{"name home.example.org: the internet can no longer resolve"}},
	{"ddns/provider", func(s *cell.State) { s.DDNS.Provider = "none" }, []string{"name home.example.org: no longer published"}},

	{"tls/authorities", func(s *cell.State) { s.TLS.Authorities = nil }, []string{"authority ca: trust only the authority ca"}},
	{"tls/authorities/retired", func(s *cell.State) { s.TLS.Authorities[0].Retired = true }, []string{"authority ca: trust only the authority ca"}},

	{"users", func(s *cell.State) { s.Users = s.Users[:1]; s.Peers[0].Owner = "" }, []string{"user kid: can no longer log in", "user kid: the API token ci of kid stops working", "user kid: no longer owns the device laptop"}},
	{"users/tokens", func(s *cell.State) { s.Users[1].Tokens = nil }, []string{"user kid: the API token ci of kid stops working"}},
	{"users/tokens/hash", func(s *cell.State) {
		s.Users[1].Tokens = slices.Clone(s.Users[1].Tokens)
		s.Users[1].Tokens[0].Hash = strings.Repeat("c", 64)
	}, []string{"user kid: the API token ci of kid stops working"}},
	{"users/tokens/expires", func(s *cell.State) {
		s.Users[1].Tokens = slices.Clone(s.Users[1].Tokens)
		s.Users[1].Tokens[0].Expires = soon.Add(-time.Hour)
	}, []string{"user kid: the API token ci of kid stops working"}},
	{"users/tokens/scopes", func(s *cell.State) {
		s.Users[1].Tokens = slices.Clone(s.Users[1].Tokens)
		s.Users[1].Tokens[0].Scopes = []cell.TokenScope{{Method: "GET", Path: "/api/status"}}
	}, []string{"user kid: the API token ci of kid may do less"}},
	{"users/role", func(s *cell.State) { s.Users[1].Role = cell.RolePeer }, []string{"user kid: can no longer administer"}},
	{"users/password_hash", func(s *cell.State) { s.Users[1].PasswordHash = "new" }, []string{"user kid: with the old password"}},

	{"peers", func(s *cell.State) { s.Peers = s.Peers[1:] }, []string{"peer laptop: loses the tunnel: its key is no longer accepted"}},
	{"peers/public_key", func(s *cell.State) { s.Peers[0].PublicKey = key(81) }, []string{"peer laptop: its keys change"}},
	{"peers/preshared_key", func(s *cell.State) { s.Peers[0].PresharedKey = "" }, []string{"peer laptop: its keys change"}},
	{"peers/address4", func(s *cell.State) { s.Peers[0].Address4 = s.Network.Tunnel.Gateway4().Next().Next().Next().Next() }, []string{"peer laptop: its addresses change"}},
	{"peers/address6", func(s *cell.State) { s.Peers[0].Address6 = s.Network.Tunnel.Gateway6().Next().Next().Next().Next() }, []string{"peer laptop: its addresses change"}},
	{"peers/destinations", func(s *cell.State) { s.Peers[0].Destinations = cell.SplitTunnel }, []string{"peer laptop: reaches the internet past the cell"}},
	{"peers/exit", func(s *cell.State) { s.Peers[0].Exit = cell.ExitDirect }, []string{"peer laptop: leaves by direct instead of nl"}},
	{"peers/exit_until", func(s *cell.State) { s.Peers[0].ExitUntil, s.Peers[0].ExitThen = &soon, "aunt" }, []string{"peer laptop: leaves by aunt from 2030-01-02T03:04:05Z on"}},
	{"peers/socks", func(s *cell.State) { s.Peers[0].Socks = nil }, []string{"peer laptop: can no longer use the SOCKS server of the exit nl"}},
	{"peers/expires", func(s *cell.State) { s.Peers[0].Expires = &soon }, []string{"peer laptop: only until 2030-01-02T03:04:05Z"}},
	{"peers/enabled", func(s *cell.State) { s.Peers[0].Enabled = false }, []string{"peer laptop: loses the tunnel until"}},
	{"peers/owner", func(s *cell.State) { s.Peers[0].Owner = "" }, []string{"user kid: no longer owns the device laptop"}},
	{"peers/services", func(s *cell.State) { s.Peers[0].Services = nil }, []string{"peer laptop: can no longer reach mail"}},
	{"peers/peers", func(s *cell.State) { s.Peers[0].Peers = nil }, []string{"peer laptop: can no longer reach the peer phone"}},
	{"peers/lan", func(s *cell.State) { s.Peers[0].LAN = nil }, []string{"peer laptop: can no longer reach the network lan"}},

	{"links", func(s *cell.State) { s.Links = nil; s.Exits = s.Exits[:1]; s.Chains[0].Members = []string{"nl"} }, []string{"exit aunt: is gone", "exit away: aunt is no longer a way", "link aunt: is disconnected"}},
	{"links/domain", func(s *cell.State) { s.Links[0].Domain = "x.example.org" }, []string{"link aunt: names under aunt.example.org"}},
	{"links/public_key", func(s *cell.State) { s.Links[0].PublicKey = key(82) }, []string{"link aunt: linked anew"}},
	{"links/preshared_key", func(s *cell.State) { s.Links[0].PresharedKey = "x" }, []string{"link aunt: linked anew"}},
	{"links/endpoint", func(s *cell.State) { s.Links[0].Endpoint = "" }, []string{"link aunt: is looked for at"}},
	{"links/address4", func(s *cell.State) { s.Links[0].Address4 = netip.Addr{} }, []string{"link aunt: linked anew"}},
	{"links/address6", func(s *cell.State) { s.Links[0].Address6 = netip.Addr{} }, []string{"link aunt: linked anew"}},
	{"links/prefixes", func(s *cell.State) { s.Links[0].Prefixes = nil }, []string{"link aunt: 10.99.0.0/24 of the linked cell"}},
	{"links/enabled", func(s *cell.State) { s.Links[0].Enabled = false }, []string{"link aunt: until it is enabled again"}},

	{
		"exits", func(s *cell.State) {
			s.Exits = s.Exits[1:]
			s.Chains = []cell.Chain{}
			s.Peers[0].Exit, s.Peers[0].Socks, s.Services[0].Egress, s.Services[1].Egress = "", nil, "", ""
		},
		[]string{"peer laptop: leaves by direct instead of nl", "peer laptop: can no longer use the SOCKS", "service files: leaves by direct instead of nl", "service mail: leaves by direct instead of away", "exit nl: the exit nl is gone", "exit away: the chain away is gone"},
	},
	{"exits/type", func(s *cell.State) { s.Exits[0].Type = cell.ExitOpenVPN }, []string{"exit nl: it is set up anew"}},
	{"exits/slot", func(s *cell.State) { s.Exits[0].Slot = 3 }, []string{"exit nl: it is set up anew"}},
	{"exits/enabled", func(s *cell.State) { s.Exits[0].Enabled = false }, []string{"exit nl: laptop, files lose the internet"}},
	{"exits/address4", func(s *cell.State) { s.Exits[0].Address4 = netip.Addr{} }, []string{"exit nl: it is set up anew"}},
	{"exits/address6", func(s *cell.State) { s.Exits[0].Address6 = netip.Addr{} }, []string{"exit nl: it is set up anew"}},
	{"exits/link", func(s *cell.State) {
		l := s.Links[0]
		l.Name, l.PublicKey, l.Prefixes = "uncle", key(91), []netip.Prefix{}
		s.Links = append(s.Links, l)
		s.Exits[1].Link = "uncle"
	}, []string{"exit aunt: it is set up anew"}},
	{"exits/credentials", func(s *cell.State) { s.Exits[0].Credentials = "" }, []string{"exit nl: it is set up anew"}},

	{"exits/wireguard", func(s *cell.State) {
		s.Exits[0].WireGuard = &cell.WireGuardExit{PublicKey: key(60), PeerKey: key(61), Endpoint: "vpn.example.net:51820", AllowedIPs: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}}
	}, []string{"exit nl: it is set up anew"}},
	{"exits/openvpn", func(s *cell.State) {
		s.Exits[0].Type, s.Exits[0].OpenVPN = cell.ExitOpenVPN, &cell.OpenVPNExit{Profile: "p"}
	}, []string{"exit nl: it is set up anew"}},
	{"exits/tor", func(s *cell.State) { s.Exits[0].Type, s.Exits[0].Tor = cell.ExitTor, &cell.TorExit{} }, []string{"exit nl: it is set up anew"}},
	{"exits/ssh", func(s *cell.State) {
		s.Exits[0].Type, s.Exits[0].SSH = cell.ExitSSHuttle, &cell.SSHExit{Host: "ssh.example.net", Port: 22, User: "me", Auth: cell.SSHKey}
	}, []string{"exit nl: it is set up anew"}},
	{"exits/proxy", func(s *cell.State) {
		s.Exits[0].Type, s.Exits[0].Proxy = cell.ExitProxy, &cell.ProxyExit{Protocol: cell.ProxySOCKS5, Host: "192.0.2.1", Port: 1080}
	}, []string{"exit nl: it is set up anew"}},
	{"exits/socks", func(s *cell.State) { s.Exits[0].Socks = false }, []string{"exit nl: the SOCKS server of the exit nl closes"}},
	{"chains", func(s *cell.State) { s.Chains, s.Services[1].Egress = nil, "nl" }, []string{"service mail: leaves by nl instead of away", "exit away: the chain away is gone"}},
	{"chains/members", func(s *cell.State) { s.Chains[0].Members = []string{"aunt"} }, []string{"exit away: nl is no longer a way of the chain away"}},
	{"chains/members", func(s *cell.State) { s.Chains[0].Members = []string{"aunt", "nl"} }, []string{"exit away: tries aunt first"}},
	{"chains/schedule", func(s *cell.State) { s.Chains[0].Schedule = nil }, []string{"exit away: the schedule of the chain away changes"}},
	{"chains/schedule/days", func(s *cell.State) {
		s.Chains[0].Schedule = []cell.ChainWindow{{Days: []int{1}, From: 60, Until: 120, Use: cell.ExitBlock}}
	}, []string{"exit away: the schedule of the chain away changes"}},
	{"chains/schedule/from", func(s *cell.State) {
		s.Chains[0].Schedule = []cell.ChainWindow{{From: 30, Until: 120, Use: cell.ExitBlock}}
	}, []string{"exit away: the schedule of the chain away changes"}},
	{"chains/schedule/until", func(s *cell.State) {
		s.Chains[0].Schedule = []cell.ChainWindow{{From: 60, Until: 90, Use: cell.ExitBlock}}
	}, []string{"exit away: the schedule of the chain away changes"}},
	{"chains/schedule/use", func(s *cell.State) {
		s.Chains[0].Schedule = []cell.ChainWindow{{From: 60, Until: 120, Use: "nl"}}
	}, []string{"exit away: the schedule of the chain away changes"}},

	{"services", func(s *cell.State) { s.Services = s.Services[1:] }, []string{"service files: files.home.example.org stops answering"}},
	{"services/subdomain", func(s *cell.State) { s.Services[0].Subdomain = "f" }, []string{"service files: the name becomes f.home.example.org"}},
	{"services/upstream", func(s *cell.State) { s.Services[1].Upstream = "" }, []string{"service mail: nothing is behind it"}},
	{
		"services/access", func(s *cell.State) { s.Services[0].Access = cell.AccessAdmin },
		[]string{"peer laptop: can no longer reach files", "peer phone: can no longer reach files", "service files: the local networks can no longer", "service files: the internet can no longer"},
	},
	{"services/bridge", func(s *cell.State) { s.Services[0].Bridge = "br-f" }, []string{"service files: its network changes"}},
	{"services/prefix4", func(s *cell.State) { s.Services[0].Prefix4 = netip.MustParsePrefix("172.20.9.0/24") }, []string{"service files: its network changes"}},
	{"services/prefix6", func(s *cell.State) { s.Services[0].Prefix6 = netip.Prefix{} }, []string{"service files: its network changes"}},
	{"services/egress", func(s *cell.State) { s.Services[0].Egress = "aunt" }, []string{"service files: leaves by aunt instead of nl"}},
	{"services/ports", func(s *cell.State) { s.Services[0].Ports = nil }, []string{"service files: 993/tcp of files closes"}},
	{"services/ports/protocol", func(s *cell.State) { s.Services[0].Ports = []cell.ServicePort{{Protocol: cell.UDP, Port: 993}} }, []string{"service files: 993/tcp of files closes"}},
	{"services/ports/port", func(s *cell.State) { s.Services[0].Ports = []cell.ServicePort{{Protocol: cell.TCP, Port: 994}} }, []string{"service files: 993/tcp of files closes"}},
	{"services/enabled", func(s *cell.State) { s.Services[1].Enabled = false }, []string{"service mail: mail.home.example.org stops answering"}},
}

// harmless are the fields whose change takes nothing from anybody, with why.
var harmless = map[string]string{
	"schema":                      "the engine keeps it",
	"identity/timezone":           "how times are shown",
	"identity/language":           "how the pages read",
	"network/tunnel/reserved4":    "where later addresses come from",
	"network/tunnel/endpoint":     "told to clients made later; old ones keep theirs",
	"network/lan/name":            "an id: another name is another network, see network/lan",
	"network/forwards/name":       "a label",
	"network/policy":              "a gate, which opens nothing and closes nothing",
	"dns/forwarders":              "names of the world are asked elsewhere, and answered all the same",
	"dns/forwarders/protocol":     "the same",
	"dns/forwarders/address":      "the same",
	"dns/forwarders/server_name":  "the same",
	"dns/forwarders/path":         "the same",
	"dns/records/ttl":             "how long answers are kept",
	"dns/cache_size":              "speed only",
	"clock/sources":               "the time stays the time",
	"clock/discipline":            "the same; its own notice says when nobody steers the clock",
	"tls/authorities/id":          "an id: see tls/authorities",
	"tls/authorities/root":        "never changes under its id",
	"tls/authorities/issuing":     "never changes under its id",
	"tls/authorities/root_key":    "never changes under its id",
	"tls/authorities/issuing_key": "never changes under its id",
	"tls/authorities/domains":     "never changes under its id",
	"tls/authorities/created":     "a date",
	"tls/solver":                  "certificates that are there stay",
	"tls/solver_token":            "the same",
	"tls/email":                   "the same",
	"ddns/api_base_url":           "the same name by another door",
	"ddns/totp_secret":            "the same",
	"ddns/token":                  "the same",
	"users/name":                  "an id: see users",
	"users/created":               "a date",
	"users/tokens/id":             "an id: see users/tokens",
	"users/tokens/name":           "a label",
	"users/tokens/created":        "a date",
	"users/tokens/scopes/method":  "see users/tokens/scopes",
	"users/tokens/scopes/path":    "see users/tokens/scopes",
	"users/second_factor":         "asked for at the next login; its owner sets it up themselves",
	"peers/name":                  "an id: see peers",
	"peers/keepalive":             "told to clients made later",
	"peers/note":                  "a note",
	"peers/trust":                 "the default grants of a new peer",
	"peers/created":               "a date",
	"links/name":                  "an id: see links",
	"exits/id":                    "an id: see exits",
	"exits/name":                  "a label",
	"exits/probes":                "what health checks ask",
	"exits/created":               "a date",
	"chains/id":                   "an id: see chains",
	"chains/name":                 "a label",
	"chains/hold":                 "when the chain returns to a better way",
	"peers/exit_then":             "see peers/exit_until",
	"peers/exit_choice":           "what its owner may choose next; the exit stays",
	"services/id":                 "an id: see services",
	"services/name":               "a label",
	"services/capabilities":       "what the pages offer",
	"services/created":            "a date",
}

func TestImpactOfEveryKindOfChange(t *testing.T) {
	for _, c := range impacts {
		t.Run(c.field, func(t *testing.T) {
			from := full(t)
			to := from.Clone()
			c.edit(to)
			to.Normalize()
			if err := to.Validate(); err != nil {
				t.Fatalf("the edit is not one that could be made: %v", err)
			}
			var got []string
			for _, x := range cell.Impact(from, to) {
				got = append(got, fmt.Sprintf("%s %s: %s", x.Kind, x.Subject, x.Text))
			}
			ok := len(got) == len(c.want)
			for i := 0; ok && i < len(got); i++ {
				head, words, _ := strings.Cut(c.want[i], ": ")
				ok = strings.HasPrefix(got[i], head+": ") && strings.Contains(got[i], words)
			}
			if !ok {
				t.Fatal(cmp.Diff(c.want, got))
			}
			if n := cell.Impact(to, to); len(n) != 0 {
				t.Fatalf("no change cuts off %v", n)
			}
		})
	}
}

// A field that is added to the state is either in the table above or is
// harmless for a reason that somebody wrote down.
func TestNoFieldOfTheStateIsForgottenByImpact(t *testing.T) {
	known := map[string]bool{}
	for _, c := range impacts {
		known[c.field] = true
	}
	var walk func(path string, typ reflect.Type)
	seen := map[string]bool{}
	walk = func(path string, typ reflect.Type) {
		ours := typ.PkgPath() != "" && strings.HasSuffix(typ.PkgPath(), "/cell")
		switch {
		case typ.Kind() == reflect.Struct && ours:
			for i := range typ.NumField() {
				name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
				walk(strings.TrimPrefix(path+"/"+name, "/"), typ.Field(i).Type)
			}
			return
		case typ.Kind() == reflect.Slice && typ.Elem().Kind() == reflect.Struct && strings.HasSuffix(typ.Elem().PkgPath(), "/cell"):
			walk(path, typ.Elem())
		}
		seen[path] = true
		if known[path] == (harmless[path] != "") {
			t.Errorf("%s: in the table %t, harmless %q", path, known[path], harmless[path])
		}
	}
	walk("", reflect.TypeFor[cell.State]())
	for path := range known {
		if !seen[path] {
			t.Errorf("%s is in the table and no field", path)
		}
	}
	if len(seen) < 100 {
		t.Errorf("only %d fields were found", len(seen))
	}
}
