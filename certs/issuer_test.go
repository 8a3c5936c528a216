package certs_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/certs"
)

func TestTheIssuerRefusesForeignRequests(t *testing.T) {
	h := newHousehold(t, time.Now())
	a, csr := issuer(t, h), requester(t)
	if _, err := a.Issue(t.Context(), csr(x509.CertificateRequest{DNSNames: []string{"home.internal"}})); err != nil {
		t.Fatal("a proper request:", err)
	}
	for name, r := range map[string]x509.CertificateRequest{
		"foreign domain":       {DNSNames: []string{"example.com"}},
		"suffix without dot":   {DNSNames: []string{"evilhome.internal"}},
		"name nobody wants":    {DNSNames: []string{"mail.home.internal"}},
		"wildcard":             {DNSNames: []string{"*.home.internal"}},
		"one of two":           {DNSNames: []string{"home.internal", "example.com"}},
		"public address":       {IPAddresses: []net.IP{net.IPv4(8, 8, 8, 8)}},
		"address nobody wants": {IPAddresses: []net.IP{net.IPv4(10, 1, 2, 3)}},
		"mail":                 {DNSNames: []string{"home.internal"}, EmailAddresses: []string{"a@home.internal"}},
		"no name":              {},
		"newline":              {DNSNames: []string{"home.internal\n.home.internal"}},
	} {
		if _, err := a.Issue(t.Context(), csr(r)); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
	tampered := csr(x509.CertificateRequest{DNSNames: []string{"home.internal"}})
	tampered.Signature[len(tampered.Signature)-1] ^= 1
	if _, err := a.Issue(t.Context(), tampered); err == nil {
		t.Error("signed a request with a wrong signature")
	}
}

func TestTheIssuerRefusesAClockOutsideItsLife(t *testing.T) {
	h := newHousehold(t, time.Now())
	clock := time.Unix(0, 0)
	a, err := certs.NewIssuer(h.compile(t).Authority, h.secrets[h.state.TLS.Authorities[0].IssuingKey], func() time.Time { return clock })
	if err != nil {
		t.Fatal(err)
	}
	a.Want([]string{"home.internal"})
	r := requester(t)(x509.CertificateRequest{DNSNames: []string{"home.internal"}})
	if _, err := a.Issue(t.Context(), r); err == nil || !strings.Contains(err.Error(), "set the clock") {
		t.Fatalf("got %v", err)
	}
	clock = time.Now().AddDate(5, 0, -10)
	got, err := a.Issue(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(got.Certificate)
	if leaf, _ := x509.ParseCertificate(block.Bytes); leaf.NotAfter.After(time.Now().AddDate(5, 0, 0)) {
		t.Fatal("a leaf outlives its issuer")
	}
}

func TestAKeyOfAnotherAuthorityIsRefused(t *testing.T) {
	h := newHousehold(t, time.Now())
	h.addAuthority(t, time.Now())
	_, err := certs.NewIssuer(h.compile(t).Authority, h.secrets[h.state.TLS.Authorities[0].IssuingKey], nil)
	if err == nil {
		t.Fatal("accepted")
	}
	if _, err = certs.NewIssuer(h.compile(t).Authority, cell.NewSecret("canary-key"), nil); err == nil || strings.Contains(err.Error(), "canary") {
		t.Fatalf("got %v", err)
	}
}

// A constraint of "" or "internal" would let the cell sign for everybody.
func TestWideConstraintsAreRefused(t *testing.T) {
	for _, d := range [][]string{nil, {""}, {"."}, {"internal"}, {"home.internal", ""}, {".home.internal"}, {"*.home.internal"}, {"Home.Internal"}, {"10.0.0.1"}, {"a b.internal"}} {
		if _, _, _, err := certs.NewAuthority(d, time.Now()); err == nil {
			t.Errorf("%q accepted", d)
		}
	}
}

func issuer(t testing.TB, h *household) *certs.Authority {
	t.Helper()
	p := h.compile(t)
	a, err := certs.NewIssuer(p.Authority, h.secrets[p.Authority.IssuingKey], nil)
	if err != nil {
		t.Fatal(err)
	}
	a.Want([]string{"home.internal", "192.168.1.10"})
	return a
}

func requester(t testing.TB) func(x509.CertificateRequest) *x509.CertificateRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return func(r x509.CertificateRequest) *x509.CertificateRequest {
		der, err := x509.CreateCertificateRequest(rand.Reader, &r, key)
		if err != nil {
			t.Fatal(err)
		}
		out, err := x509.ParseCertificateRequest(der)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
}

// Whatever the request, no certificate leaves the issuer that names anything
// but the wanted subjects.
func FuzzIssue(f *testing.F) {
	h := newHousehold(f, time.Now())
	a, csr := issuer(f, h), requester(f)
	f.Add(csr(x509.CertificateRequest{DNSNames: []string{"home.internal"}}).Raw, "home.internal")
	f.Add([]byte{0x30, 0x82}, "*.home.internal")
	f.Add([]byte(nil), "home.internal\x00.example.com")
	f.Fuzz(func(t *testing.T, der []byte, name string) {
		try := func(r *x509.CertificateRequest) {
			got, err := a.Issue(t.Context(), r)
			if err != nil {
				return
			}
			block, _ := pem.Decode(got.Certificate)
			leaf, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range leaf.DNSNames {
				if n != "home.internal" {
					t.Fatalf("signed %q", n)
				}
			}
			for _, ip := range leaf.IPAddresses {
				if ip.String() != "192.168.1.10" {
					t.Fatalf("signed %v", ip)
				}
			}
		}
		if r, err := x509.ParseCertificateRequest(der); err == nil {
			try(r)
		}
		// crypto/x509 makes no request of a name that is not IA5.
		if raw, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{name}}, fuzzKey(t)); err == nil {
			if r, err := x509.ParseCertificateRequest(raw); err == nil {
				try(r)
			}
		}
	})
}

func fuzzKey(t *testing.T) *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
