package certs

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/personal-internet-cell/pic/cell"
)

// maxAddresses bounds the addresses that get a certificate: a box with
// hundreds of container bridges needs none for most of them.
const maxAddresses = 64

// Subjects is what must have a certificate and who signs it.
//
// Every name is listed by itself, none by wildcard: the authority signs in
// this process in a millisecond, so a wildcard would save nothing and would
// let one leaked key speak for names that nobody asked for.
type Subjects struct {
	// Mode is the domain mode, empty before the claim.
	Mode cell.DomainMode
	// Names are host names, Addresses are for clients that connect to an
	// address and send no SNI (RFC 6066 §3 forbids literals there). Both sorted.
	Names     []string
	Addresses []netip.Addr
	// Authority signs; nil means that only the ephemeral certificate is served.
	Authority *Signer
	// Uncovered are names the cell wants but the authority may not sign. Sorted.
	Uncovered []string
}

// Signer is the authority that signs.
type Signer struct {
	ID            string
	Root, Issuing string // PEM
	IssuingKey    cell.SecretRef
	Domains       []string
}

// Compile lists the subjects of a state. It returns an error for no state that
// validates: what can't be signed is left out and named in a notice.
func Compile(s *cell.State, f cell.Facts) (Subjects, error) {
	if !s.Claimed() {
		return Subjects{}, nil
	}
	out := Subjects{Mode: s.Identity.Mode}
	names := s.WebNames()
	for i := range s.Services {
		if v := &s.Services[i]; v.Enabled {
			names = append(names, s.ServiceNames(v)...)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)

	a := s.TLS.SigningFor(s.Identity.Domains())
	if a == nil {
		out.Uncovered = names
		return out, nil
	}
	out.Authority = &Signer{ID: a.ID, Root: a.Root, Issuing: a.Issuing, IssuingKey: a.IssuingKey, Domains: a.Domains}
	for _, n := range names {
		if permitted(n, a.Domains) {
			out.Names = append(out.Names, n)
		} else {
			out.Uncovered = append(out.Uncovered, n)
		}
	}
	out.Addresses = addresses(s, &f)
	return out, nil
}

// addresses lists where clients without SNI may arrive. Public addresses are
// left out (the constraints forbid them, and a scanner learns no name), and so
// are link-local IPv6 ones, which browsers can't open.
func addresses(s *cell.State, f *cell.Facts) []netip.Addr {
	local := f.LocalAddresses()
	slices.SortFunc(local, netip.Addr.Compare)
	// The ones that people use come first, where the cap can't reach them.
	first := []netip.Addr{
		netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback(),
		s.Network.Tunnel.Gateway4(), s.Network.Tunnel.Gateway6(),
	}
	for _, l := range s.Network.LAN {
		first = append(first, l.Addresses...)
	}
	for _, p := range f.Uplink.Addresses {
		first = append(first, p.Addr())
	}
	var out []netip.Addr
	for _, a := range append(first, local...) {
		a = a.Unmap().WithZone("")
		if !a.IsValid() || !permittedAddr(a) || (a.Is6() && a.IsLinkLocalUnicast()) || slices.Contains(out, a) {
			continue
		}
		if len(out) < maxAddresses {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// all lists names and addresses as certificate subjects.
func (s Subjects) all() []string {
	out := slices.Clone(s.Names)
	for _, a := range s.Addresses {
		out = append(out, a.String())
	}
	return out
}

// String is one line per subject, "name signer", after a line for the signer.
func (s Subjects) String() string {
	if s.Mode == "" {
		return "ephemeral self-signed\n"
	}
	var b strings.Builder
	by := "ephemeral"
	if a := s.Authority; a != nil {
		by = a.ID
		fmt.Fprintf(&b, "authority %s key %s permits %s\n", a.ID, a.IssuingKey, strings.Join(a.Domains, " "))
	}
	for _, n := range s.all() {
		fmt.Fprintf(&b, "%s %s\n", n, by)
	}
	for _, n := range s.Uncovered {
		fmt.Fprintf(&b, "%s none\n", n)
	}
	return b.String()
}

// permitted reports whether name equals one of domains or lies below it (RFC
// 5280 §4.2.1.10, dNSName).
func permitted(name string, domains []string) bool {
	return slices.ContainsFunc(domains, func(d string) bool {
		return d != "" && (name == d || strings.HasSuffix(name, "."+d))
	})
}

func permittedAddr(a netip.Addr) bool {
	return slices.ContainsFunc(privatePrefixes(), func(p netip.Prefix) bool { return p.Contains(a) })
}

// privatePrefixes are the addresses an authority may sign: private, shared
// (RFC 6598), link-local, loopback.
func privatePrefixes() []netip.Prefix {
	v4 := func(a, b byte, bits int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{a, b}), bits)
	}
	return []netip.Prefix{
		v4(10, 0, 8), v4(172, 16, 12), v4(192, 168, 16), v4(127, 0, 8), v4(169, 254, 16), v4(100, 64, 10),
		netip.PrefixFrom(netip.IPv6Loopback(), 128),
		netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfc}), 7),
		netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfe, 0x80}), 10),
	}
}
