package tunnel

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/personal-internet-cell/pic/cell"
)

// ClientConfig returns the wg-quick(8) file that sets up the device of peer p.
// psk is the value of p's preshared key (empty: none); private is the device's
// own key in base64, or empty where the cell does not hold it: the line is then
// left for its owner to fill in. The file runs no commands (PreUp and the
// like), which phones refuse to import.
//
// AllowedIPs say what the device sends into the tunnel. What it may reach is
// decided by the cell's firewall.
func ClientConfig(s *cell.State, f cell.Facts, p *cell.Peer, psk cell.Secret, private string) (string, error) {
	t := &s.Network.Tunnel
	endpoint, err := Endpoint(s, f)
	if err != nil {
		return "", err
	}
	if private != "" && !cell.Key(private).Valid() {
		return "", fmt.Errorf("reading the private key of peer %s: %w", p.Name, errKey)
	}
	if !psk.Empty() && !cell.Key(psk.Reveal()).Valid() {
		return "", fmt.Errorf("reading the preshared key of peer %s: %w", p.Name, errKey)
	}
	var addrs []netip.Prefix
	for _, a := range []netip.Addr{p.Address4, p.Address6} {
		if a.IsValid() {
			addrs = append(addrs, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# %s at %s\n[Interface]\n", p.Name, s.Identity.EffectiveDomain())
	if private == "" {
		b.WriteString("# The private key exists only on the device that made it: put it here.\n")
	}
	fmt.Fprintf(&b, "PrivateKey = %s\nAddress = %s\nDNS = %s, %s, %s\nMTU = %d\n\n[Peer]\nPublicKey = %s\n",
		private, joinPrefixes(addrs), t.Gateway4(), t.Gateway6(), s.Identity.EffectiveDomain(), t.MTU, t.PublicKey)
	if !psk.Empty() {
		fmt.Fprintf(&b, "PresharedKey = %s\n", psk.Reveal())
	}
	fmt.Fprintf(&b, "AllowedIPs = %s\nEndpoint = %s\n", joinPrefixes(destinations(s, p)), endpoint)
	if p.Keepalive > 0 {
		fmt.Fprintf(&b, "PersistentKeepalive = %d\n", p.Keepalive)
	}
	return b.String(), nil
}

// destinations are the client's AllowedIPs, without repetition.
func destinations(s *cell.State, p *cell.Peer) []netip.Prefix {
	if p.Destinations != cell.SplitTunnel {
		return []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
	}
	all := s.OurPrefixes()
	for i := range s.Network.LAN {
		if slices.Contains(p.LAN, s.Network.LAN[i].Name) {
			all = append(all, s.Network.LAN[i].Prefixes...)
		}
	}
	var out []netip.Prefix
	for _, x := range all {
		if x.IsValid() && !slices.Contains(out, x) {
			out = append(out, x)
		}
	}
	return out
}

// Endpoint returns the host:port that devices are told: the configured one,
// else the effective domain in public modes, else the uplink's own address.
func Endpoint(s *cell.State, f cell.Facts) (string, error) {
	t := &s.Network.Tunnel
	if t.Endpoint != "" {
		return withPort(t.Endpoint, t.ListenPort), nil
	}
	if m := s.Identity.Mode; m != cell.ModeLAN && m != "" {
		return withPort(s.Identity.EffectiveDomain(), t.ListenPort), nil
	}
	for _, p := range f.Uplink.Addresses {
		// A link-local address means nothing without the interface it is on.
		if a := p.Addr().Unmap(); a.IsValid() && !a.IsLoopback() && !a.IsUnspecified() && !a.IsLinkLocalUnicast() {
			return netip.AddrPortFrom(a.WithZone(""), t.ListenPort).String(), nil
		}
	}
	return "", errors.New("the cell does not know at which address devices reach it: connect its uplink, or set network.tunnel.endpoint to a host name or address")
}

// withPort completes a host, host:port, address or [address]:port.
func withPort(endpoint string, port uint16) string {
	if ap, err := netip.ParseAddrPort(endpoint); err == nil {
		return ap.String()
	}
	if a, err := netip.ParseAddr(strings.Trim(endpoint, "[]")); err == nil {
		return netip.AddrPortFrom(a, port).String()
	}
	if strings.Contains(endpoint, ":") {
		return endpoint
	}
	return endpoint + ":" + strconv.Itoa(int(port))
}

// maxInterfaceName is what Linux allows (IFNAMSIZ less the final zero), and
// wg-quick names the interface after the file.
const maxInterfaceName = 15

// FileName returns the file a peer's configuration is saved as: at most 15 of
// the characters that wg-quick(8) accepts, and ".conf". Names that had to be
// altered end in a digest, so that two peers never share a file.
func FileName(peer string) string {
	name := strings.Map(func(r rune) rune {
		if (r >= 'a' && r <= 'z') || (r >= 'A' && r <= 'Z') || (r >= '0' && r <= '9') || strings.ContainsRune("_=+.-", r) {
			return r
		}
		return '-'
	}, peer)
	name = strings.TrimLeft(name, "-.") // no option, no hidden file
	if name == "" || name != peer || len(name) > maxInterfaceName {
		sum := sha256.Sum256([]byte(peer))
		name = name[:min(len(name), maxInterfaceName-5)] + "-" + hex.EncodeToString(sum[:2])
		name = strings.TrimLeft(name, "-")
	}
	return name + ".conf"
}
