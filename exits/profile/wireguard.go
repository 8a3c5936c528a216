package profile

import (
	"crypto/ecdh"
	"encoding/base64"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/personal-internet-cell/pic/cell"
)

// wgFile collects a wg-quick file (wg-quick(8)).
type wgFile struct {
	*parser
	section         string
	interfaces      int
	peers           int
	seen            map[string]bool
	wg              cell.WireGuardExit
	private, psk    string
	addresses4      int
	addresses6      int
	haveDNSName     bool
	refusedPrivate  bool
	refusedAllowed  bool
	refusedPublic   bool
	refusedEndpoint bool
}

const hookReason = "%s runs commands on the cell, which no profile may: delete the line; routes, names and the kill switch are the cell's own work"

// wgNotes are keys that the cell decides itself.
var wgNotes = map[string]string{
	"listenport": "ListenPort is not used: the cell picks a free port",
	"fwmark":     "FwMark is not used: the cell sets its own mark",
	"table":      "Table is not used: each exit has a routing table of its own",
}

var wgRefused = map[string]string{
	"preup": "PreUp", "postup": "PostUp", "predown": "PreDown", "postdown": "PostDown",
}

// amnezia are the keys of a dialect that plain WireGuard can't speak.
var amnezia = []string{"jc", "jmin", "jmax", "s1", "s2", "s3", "s4", "h1", "h2", "h3", "h4", "i1", "i2", "i3", "i4", "i5", "j1", "j2", "j3", "itime"}

func (p *parser) wireGuard(lines []line) {
	f := &wgFile{parser: p, seen: map[string]bool{}}
	for _, l := range lines {
		text, _, _ := strings.Cut(l.text, "#") // as wg-quick: anywhere in the line
		if text = strings.TrimSpace(text); text == "" || text[0] == ';' {
			continue
		}
		if strings.HasPrefix(text, "[") {
			f.open(l.n, text)
			continue
		}
		key, value, found := strings.Cut(text, "=")
		key, value = strings.ToLower(strings.TrimSpace(key)), strings.TrimSpace(value)
		if !found {
			f.refuse(l.n, "%s is no \"Key = value\" line", word(key))
			continue
		}
		switch f.section {
		case "interface":
			f.ofInterface(l.n, key, value)
		case "peer":
			f.ofPeer(l.n, key, value)
		case "":
			f.refuse(l.n, "%s stands before [Interface]: paste the whole file", word(key))
		}
	}
	f.finish()
}

func (f *wgFile) open(n int, text string) {
	f.section = strings.ToLower(strings.TrimSpace(strings.Trim(text, "[]")))
	switch f.section {
	case "interface":
		if f.interfaces++; f.interfaces == 2 {
			f.refuse(n, "there is a second [Interface]: one file is one exit")
		}
	case "peer":
		if f.peers++; f.peers == 2 {
			f.refuse(n, "there is a second [Peer]: an exit leads to one server, so make an exit of each")
		}
	default:
		f.refuse(n, "there is a section that is neither [Interface] nor [Peer]")
		f.section = "unknown"
	}
}

// once reports a key's first appearance in the file and refuses the others.
func (f *wgFile) once(n int, key, name string) bool {
	if f.seen[key] {
		if f.peers < 2 && f.interfaces < 2 { // else the section is refused already
			f.refuse(n, "%s is there twice: keep one", name)
		}
		return false
	}
	f.seen[key] = true
	return true
}

func (f *wgFile) ofInterface(n int, key, value string) {
	switch key {
	case "privatekey":
		if f.once(n, key, "PrivateKey") {
			f.privateKey(n, value)
		}
	case "address":
		f.address(n, value)
	case "dns":
		f.dns(n, value)
	case "mtu":
		if !f.once(n, key, "MTU") {
			return
		}
		mtu, err := strconv.Atoi(value)
		if err != nil || mtu < 1280 || mtu > 9000 {
			f.refuse(n, "MTU must be 1280 to 9000; without the line it is 1420")
			return
		}
		f.wg.MTU = mtu
	case "saveconfig":
		if !strings.EqualFold(value, "false") {
			f.refuse(n, "SaveConfig would let the link change this configuration: delete the line")
		}
	default:
		name, hook := wgRefused[key]
		note, ignored := wgNotes[key]
		switch {
		case hook:
			f.refuse(n, hookReason, name)
		case ignored:
			f.warn(n, "%s", note)
		case slices.Contains(amnezia, key):
			f.refuse(n, "%s belongs to AmneziaWG, which servers of plain WireGuard don't speak: ask for a WireGuard file", word(key))
		default:
			f.refuse(n, "%s is no key of [Interface]: delete or mend the line", word(key))
		}
	}
}

func (f *wgFile) privateKey(n int, value string) {
	raw, err := base64.StdEncoding.DecodeString(value)
	if err != nil || len(raw) != 32 || !cell.Key(value).Valid() {
		f.refuse(n, "PrivateKey must be 32 bytes in base64 (44 characters, the last is =): copy the whole key")
		f.refusedPrivate = true
		return
	}
	k, err := ecdh.X25519().NewPrivateKey(raw) // RFC 7748 §5; clamps as WireGuard does
	if err != nil {
		f.refuse(n, "PrivateKey is no Curve25519 key")
		f.refusedPrivate = true
		return
	}
	f.private = value
	f.wg.PublicKey = cell.Key(base64.StdEncoding.EncodeToString(k.PublicKey().Bytes()))
}

// list splits a comma list; empty parts are nothing.
func list(value string) []string {
	return strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' })
}

// prefix reads an address with or without its length.
func prefix(s string) (netip.Prefix, bool) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, false
	}
	return p, true
}

func (f *wgFile) address(n int, value string) {
	for _, s := range list(value) {
		p, ok := prefix(s)
		switch {
		case !ok || p.Addr().IsUnspecified() || p.Addr().IsMulticast() || p.Addr().IsLoopback():
			f.refuse(n, "Address must list addresses such as 10.2.0.2/32, fd00::2/128")
		case p.Addr().Is4():
			if f.addresses4++; f.addresses4 == 1 {
				f.d.Address4 = p.Addr()
			} else {
				f.warn(n, "only the first IPv4 address is used")
			}
		default:
			if f.addresses6++; f.addresses6 == 1 {
				f.d.Address6 = p.Addr()
			} else {
				f.warn(n, "only the first IPv6 address is used")
			}
		}
	}
}

const maxDNS = 4

func (f *wgFile) dns(n int, value string) {
	for _, s := range list(value) {
		a, err := netip.ParseAddr(s)
		switch {
		case err != nil:
			if !f.haveDNSName {
				f.warn(n, "search domains of DNS are not used: names are the cell's own work")
			}
			f.haveDNSName = true
		case a.Zone() != "" || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast():
			f.refuse(n, "DNS must list addresses of resolvers behind the exit")
		case slices.Contains(f.wg.DNS, a.Unmap()):
		case len(f.wg.DNS) == maxDNS:
			f.warn(n, "only the first %d resolvers are used", maxDNS)
		default:
			f.wg.DNS = append(f.wg.DNS, a.Unmap())
		}
	}
}

func (f *wgFile) ofPeer(n int, key, value string) {
	switch key {
	case "publickey":
		if f.once(n, key, "PublicKey") {
			if f.wg.PeerKey = cell.Key(value); !f.wg.PeerKey.Valid() {
				f.wg.PeerKey, f.refusedPublic = "", true
				f.refuse(n, "PublicKey must be 32 bytes in base64 (44 characters, the last is =): copy the server's whole key")
			}
		}
	case "presharedkey":
		if f.once(n, key, "PresharedKey") {
			if f.psk = value; !cell.Key(value).Valid() {
				f.psk = ""
				f.refuse(n, "PresharedKey must be 32 bytes in base64 (44 characters, the last is =): copy the whole key")
			}
		}
	case "allowedips":
		f.allowed(n, value)
	case "endpoint":
		if f.once(n, key, "Endpoint") {
			f.endpoint(n, value)
		}
	case "persistentkeepalive":
		if !f.once(n, key, "PersistentKeepalive") || strings.EqualFold(value, "off") {
			return
		}
		k, err := strconv.ParseUint(value, 10, 16)
		if err != nil {
			f.refuse(n, "PersistentKeepalive must be 0 to 65535 seconds, or off")
			return
		}
		f.wg.Keepalive = uint16(k)
	default:
		if _, hook := wgRefused[key]; hook {
			f.refuse(n, hookReason, wgRefused[key])
			return
		}
		f.refuse(n, "%s is no key of [Peer]: delete or mend the line", word(key))
	}
}

const maxAllowed = 64

func (f *wgFile) allowed(n int, value string) {
	for _, s := range list(value) {
		p, ok := prefix(s)
		if !ok {
			f.refusedAllowed = true
			f.refuse(n, "AllowedIPs must list prefixes; 0.0.0.0/0, ::/0 is everything")
			continue
		}
		if p = p.Masked(); slices.Contains(f.wg.AllowedIPs, p) {
			continue
		}
		if len(f.wg.AllowedIPs) == maxAllowed {
			f.refusedAllowed = true
			f.refuse(n, "AllowedIPs has more than %d prefixes: 0.0.0.0/0, ::/0 is everything", maxAllowed)
			return
		}
		f.wg.AllowedIPs = append(f.wg.AllowedIPs, p)
	}
}

func (f *wgFile) endpoint(n int, value string) {
	host, port, ok := splitHostPort(value)
	if !ok || port == 0 {
		f.refusedEndpoint = true
		if strings.Count(value, ":") > 1 && !strings.HasPrefix(value, "[") {
			f.refuse(n, "Endpoint: an IPv6 address stands in brackets, such as [2001:db8::1]:51820")
		} else {
			f.refuse(n, "Endpoint must be host:port, such as vpn.example.net:51820 or [2001:db8::1]:51820")
		}
		return
	}
	f.wg.Endpoint, f.d.Name = joinHostPort(host, port), host
}

func (f *wgFile) finish() {
	f.d.WireGuard = &f.wg
	f.d.Credentials, f.d.PresharedKey = cell.NewSecret(f.private), cell.NewSecret(f.psk)
	w, missing := &f.wg, func(have, told bool, what string) {
		if !have && !told {
			f.refuse(0, "%s", what)
		}
	}
	if f.interfaces == 0 && f.peers == 0 {
		f.refuse(0, "this is no wg-quick file: it begins with [Interface] and has a [Peer]")
		return
	}
	missing(f.private != "", f.refusedPrivate, "there is no PrivateKey in [Interface]: a file of the server's has it; without it make a new one there")
	missing(f.d.Address4.IsValid() || f.d.Address6.IsValid(), false, "there is no Address in [Interface]: the server says which address is yours")
	missing(f.peers > 0, false, "there is no [Peer]: the server's part of the file is missing")
	if f.peers == 0 {
		return
	}
	missing(w.PeerKey != "", f.refusedPublic, "there is no PublicKey in [Peer]: it is the server's key")
	missing(w.Endpoint != "", f.refusedEndpoint, "there is no Endpoint in [Peer]: the cell has to know where the server is")
	missing(len(w.AllowedIPs) > 0, f.refusedAllowed, "there is no AllowedIPs in [Peer]: write AllowedIPs = 0.0.0.0/0, ::/0 for an exit to everywhere")
	if w.PeerKey != "" && w.PeerKey == w.PublicKey {
		f.refuse(0, "PublicKey in [Peer] is the public half of your own PrivateKey: it must be the server's")
	}
	f.families()
}

// families warns of what the exit will not carry.
func (f *wgFile) families() {
	for _, c := range []struct {
		name, every string
		v6          bool
		have        bool
	}{{"IPv4", "0.0.0.0/0", false, f.d.Address4.IsValid()}, {"IPv6", "::/0", true, f.d.Address6.IsValid()}} {
		switch carries := f.wg.Carries(c.v6); {
		case len(f.wg.AllowedIPs) == 0:
		case carries && !c.have:
			f.warn(0, "AllowedIPs has %s, but there is no %s address: %s is blocked on this exit", c.every, c.name, c.name)
		case !carries && c.have:
			f.warn(0, "AllowedIPs has no %s: %s to the internet is blocked on this exit", c.every, c.name)
		}
	}
}
