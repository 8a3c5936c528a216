package certs

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/personal-internet-cell/pic/cell"
)

// maxRequestNames bounds what one signing request may ask for.
const maxRequestNames = 32

// Authority is the internal CA as a certmagic issuer: it signs in this process
// with the issuing key. Make one with [NewIssuer].
type Authority struct {
	id      string
	root    *x509.Certificate
	issuing *x509.Certificate
	chain   []byte // the issuing certificate in PEM
	key     crypto.Signer
	domains []string
	now     func() time.Time
	wanted  atomic.Pointer[map[string]bool]
}

var _ certmagic.Issuer = (*Authority)(nil)

// NewIssuer makes the issuer of a signer. It signs nothing before
// [Authority.Want] has named the subjects. now may be nil.
func NewIssuer(s *Signer, key cell.Secret, now func() time.Time) (*Authority, error) {
	root, err := parseCert(s.Root)
	if err != nil {
		return nil, fmt.Errorf("reading the root of authority %s: %w", s.ID, err)
	}
	issuing, err := parseCert(s.Issuing)
	if err != nil {
		return nil, fmt.Errorf("reading the issuing certificate of authority %s: %w", s.ID, err)
	}
	signer, err := parseKey(key)
	if err != nil {
		return nil, fmt.Errorf("reading the issuing key of authority %s: %w", s.ID, err)
	}
	if pub, ok := signer.Public().(*ecdsa.PublicKey); !ok || !pub.Equal(issuing.PublicKey) {
		return nil, fmt.Errorf("authority %s: the issuing key does not belong to the issuing certificate", s.ID)
	}
	if now == nil {
		now = time.Now
	}
	a := &Authority{id: s.ID, root: root, issuing: issuing, chain: certPEM(issuing.Raw), key: signer, domains: slices.Clone(s.Domains), now: now}
	a.wanted.Store(&map[string]bool{})
	return a, nil
}

// parseKey never puts a part of the key into its error.
func parseKey(key cell.Secret) (crypto.Signer, error) {
	block, _ := pem.Decode([]byte(key.Reveal()))
	if block == nil {
		return nil, errors.New("want a private key in PEM")
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("want a PKCS #8 private key")
	}
	s, ok := k.(crypto.Signer)
	if !ok {
		return nil, errors.New("this kind of key can't sign")
	}
	return s, nil
}

// Want replaces the subjects that may be signed.
func (a *Authority) Want(subjects []string) {
	m := make(map[string]bool, len(subjects))
	for _, s := range subjects {
		m[s] = true
	}
	a.wanted.Store(&m)
}

// IssuerKey names the authority in certmagic's storage: certificates of
// another authority are never mistaken for this one's.
func (a *Authority) IssuerKey() string { return "authority-" + a.id }

// Issue signs a request for names that are wanted and within the constraints.
// The leaf lives 30 days and comes with the issuing certificate.
func (a *Authority) Issue(ctx context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := a.check(csr); err != nil {
		return nil, fmt.Errorf("refusing a certificate request: %w", err)
	}
	now := a.now()
	if now.Before(a.issuing.NotBefore) || now.After(a.issuing.NotAfter) {
		return nil, fmt.Errorf("authority %s is valid from %s to %s and this machine's clock says %s: set the clock",
			a.id, a.issuing.NotBefore.Format(time.DateOnly), a.issuing.NotAfter.Format(time.DateOnly), now.UTC().Format(time.DateTime))
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{organization}},
		NotBefore:             latest(now.Add(-backdate), a.issuing.NotBefore),
		NotAfter:              earliest(now.Add(leafLifetime-backdate), a.issuing.NotAfter),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		DNSNames:              csr.DNSNames,
		IPAddresses:           csr.IPAddresses,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.issuing, csr.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("signing a certificate: %w", err)
	}
	if err := a.verify(der, now); err != nil {
		return nil, fmt.Errorf("signing a certificate that devices would refuse: %w", err)
	}
	return &certmagic.IssuedCertificate{Certificate: slices.Concat(certPEM(der), a.chain)}, nil
}

// check refuses whatever is not a plain request for wanted names.
func (a *Authority) check(csr *x509.CertificateRequest) error {
	if err := csr.CheckSignature(); err != nil {
		return fmt.Errorf("its signature: %w", err)
	}
	switch k := csr.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if k.Curve.Params().BitSize < 256 {
			return errors.New("an ECDSA key of less than 256 bits")
		}
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 || k.N.BitLen() > 8192 {
			return errors.New("an RSA key must have 2048 to 8192 bits")
		}
	default:
		return fmt.Errorf("a key of type %T", k)
	}
	if len(csr.EmailAddresses)+len(csr.URIs) > 0 {
		return errors.New("only host names and addresses are signed")
	}
	if n := len(csr.DNSNames) + len(csr.IPAddresses); n == 0 || n > maxRequestNames {
		return fmt.Errorf("it has %d names, want 1 to %d", n, maxRequestNames)
	}
	wanted := *a.wanted.Load()
	for _, n := range csr.DNSNames {
		if !isHostName(strings.TrimPrefix(n, "*.")) || !permitted(n, a.domains) {
			return fmt.Errorf("%q is outside the domains of authority %s", n, a.id)
		}
		if !wanted[n] {
			return fmt.Errorf("%q is no name of this cell", n)
		}
	}
	for _, ip := range addrs(csr.IPAddresses) {
		if !ip.IsValid() || !permittedAddr(ip) {
			return fmt.Errorf("%s is no private address", ip)
		}
		if !wanted[ip.String()] {
			return fmt.Errorf("%s is no address of this cell", ip)
		}
	}
	return nil
}

// verify holds the new leaf against the rules that devices apply.
func (a *Authority) verify(der []byte, now time.Time) error {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	roots, issuing := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(a.root)
	issuing.AddCert(a.issuing)
	_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: issuing, CurrentTime: now})
	return err
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// subjectOf brings a server name into the form subjects have: lower case,
// without a trailing dot (RFC 6066 §3 sends none, some clients do), an address
// in its canonical form. It returns "" for what is no name.
func subjectOf(name string) string {
	if a, err := netip.ParseAddr(name); err == nil {
		return a.Unmap().WithZone("").String()
	}
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	if !isHostName(name) {
		return ""
	}
	return name
}
