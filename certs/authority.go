package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/personal-internet-cell/pic/cell"
)

// Lifetimes. A leaf's is short because devices have no way to learn that one
// was revoked; a root's is long because people install it by hand.
const (
	rootYears    = 10
	issuingYears = 5
	leafLifetime = 30 * 24 * time.Hour
	// backdate lets a device whose clock is a little behind accept a new certificate.
	backdate = time.Hour
)

const organization = "Personal Internet Cell"

// maxDomains bounds the name constraints of one authority.
const maxDomains = 16

// NewAuthority makes an internal CA for domains: a root and an issuing
// intermediate, both under critical name constraints (RFC 5280 §4.2.1.10) that
// permit the domains with everything below them and the private address
// ranges, and nothing else. So whoever steals the keys of a cell can't
// impersonate other sites to the devices that trust its root.
//
// The caller stores both keys (PKCS #8 in PEM) as secrets and sets RootKey and
// IssuingKey of the result. Only the issuing key is needed to run; the root's
// may be kept elsewhere.
func NewAuthority(domains []string, now time.Time) (a cell.Authority, rootKey, issuingKey cell.Secret, err error) {
	fail := func(err error) (cell.Authority, cell.Secret, cell.Secret, error) {
		return cell.Authority{}, cell.Secret{}, cell.Secret{}, fmt.Errorf("making an authority: %w", err)
	}
	if err := checkDomains(domains); err != nil {
		return fail(err)
	}
	rk, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fail(err)
	}
	ik, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fail(err)
	}
	now = now.UTC().Truncate(time.Second)
	tag, err := keyTag(rk)
	if err != nil {
		return fail(err)
	}

	template, err := caTemplate(domains, commonName(domains[0], "authority", tag), now, rootYears)
	if err != nil {
		return fail(err)
	}
	root, rootPEM, err := sign(template, template, &rk.PublicKey, rk)
	if err != nil {
		return fail(err)
	}
	// The constraints are repeated: some verifiers ignore those of a trust anchor.
	template, err = caTemplate(domains, commonName(domains[0], "issuing", tag), now, issuingYears)
	if err != nil {
		return fail(err)
	}
	template.MaxPathLen, template.MaxPathLenZero = 0, true
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	_, issuingPEM, err := sign(template, root, &ik.PublicKey, rk)
	if err != nil {
		return fail(err)
	}
	if rootKey, err = keyPEM(rk); err != nil {
		return fail(err)
	}
	if issuingKey, err = keyPEM(ik); err != nil {
		return fail(err)
	}
	return cell.Authority{
		ID:      "ca-" + tag,
		Root:    string(rootPEM),
		Issuing: string(issuingPEM),
		Domains: slices.Clone(domains),
		Created: now,
	}, rootKey, issuingKey, nil
}

// checkDomains refuses what would make a constraint wider than one cell: an
// empty constraint permits every name there is.
func checkDomains(domains []string) error {
	if len(domains) == 0 || len(domains) > maxDomains {
		return fmt.Errorf("an authority needs 1 to %d domains, not %d", maxDomains, len(domains))
	}
	for _, d := range domains {
		if !isHostName(d) || !strings.Contains(d, ".") {
			return fmt.Errorf("%q can't constrain an authority: use a lower-case domain of two labels or more", d)
		}
	}
	return nil
}

// isHostName checks RFC 1123 §2.1 in lower case, without a trailing dot.
func isHostName(s string) bool {
	if len(s) == 0 || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if len(label) == 0 || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			c := label[i]
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
				return false
			}
		}
	}
	// An all-numeric last label would be an address to URL parsers.
	last := s[strings.LastIndexByte(s, '.')+1:]
	return strings.ContainsFunc(last, func(r rune) bool { return r < '0' || r > '9' })
}

func caTemplate(domains []string, cn string, now time.Time, years int) (*x509.Certificate, error) {
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: cn, Organization: []string{organization}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.AddDate(years, 0, 0),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLen:            1,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		// RFC 5280 §4.2.1.10: conforming CAs mark name constraints critical.
		PermittedDNSDomainsCritical: true,
		PermittedDNSDomains:         domains,
		PermittedIPRanges:           permittedRanges(),
	}, nil
}

func permittedRanges() []*net.IPNet {
	var out []*net.IPNet
	for _, p := range privatePrefixes() {
		out = append(out, &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())})
	}
	return out
}

// sign creates and reads back a certificate. The serial number is left to
// crypto/x509: 20 random octets, positive (RFC 5280 §4.1.2.2).
func sign(template, parent *x509.Certificate, public *ecdsa.PublicKey, key *ecdsa.PrivateKey) (*x509.Certificate, []byte, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, nil, err
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	return c, certPEM(der), nil
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func keyPEM(k *ecdsa.PrivateKey) (cell.Secret, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return cell.Secret{}, err
	}
	return cell.NewSecret(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))), nil
}

// keyTag is a short name for a key: 64 bits of the hash of its public half.
func keyTag(k *ecdsa.PrivateKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
	if err != nil {
		return "", err
	}
	h := sha256.Sum256(der)
	return hex.EncodeToString(h[:8]), nil
}

// commonName names the domain and the key: devices list roots by this name,
// and two roots of one domain must differ. RFC 5280 appendix A.1 allows 64
// characters (ub-common-name).
func commonName(domain, role, tag string) string {
	end := " " + role + " " + tag[:6]
	return domain[:min(len(domain), 64-len(end))] + end
}

// parseCert reads exactly one certificate in PEM.
func parseCert(text string) (*x509.Certificate, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" || strings.TrimSpace(string(rest)) != "" {
		return nil, fmt.Errorf("want exactly one certificate in PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}

// serialText is a serial number the way openssl prints it.
func serialText(n *big.Int) string { return strings.ToUpper(hex.EncodeToString(n.Bytes())) }

// addrs converts the addresses of a certificate or request; one that is no
// address becomes the zero Addr, which nothing permits.
func addrs(ips []net.IP) []netip.Addr {
	out := make([]netip.Addr, len(ips))
	for i, ip := range ips {
		a, _ := netip.AddrFromSlice(ip)
		out[i] = a.Unmap()
	}
	return out
}
