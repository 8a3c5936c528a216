package certs_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"encoding/xml"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/certs"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// forge signs a leaf with the issuing key itself, as a thief would, past
// every check of ours.
func forge(t *testing.T, h *household, leaf x509.Certificate) []byte {
	t.Helper()
	parent, key := stolen(t, h)
	der, _ := signed(t, leaf, parent, key)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func stolen(t *testing.T, h *household) (*x509.Certificate, any) {
	t.Helper()
	a := h.state.TLS.Authorities[0]
	block, _ := pem.Decode([]byte(a.Issuing))
	parent, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	block, _ = pem.Decode([]byte(h.secrets[a.IssuingKey].Reveal()))
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return parent, key
}

func signed(t *testing.T, leaf x509.Certificate, parent *x509.Certificate, key any) ([]byte, *ecdsa.PrivateKey) {
	t.Helper()
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf.SerialNumber = big.NewInt(7)
	leaf.NotBefore, leaf.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	if leaf.KeyUsage == 0 {
		leaf.KeyUsage = x509.KeyUsageDigitalSignature
	}
	leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	der, err := x509.CreateCertificate(rand.Reader, &leaf, parent, &own.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return der, own
}

// ID-1: Go and OpenSSL accept the cell's names and refuse everything else
// signed with the stolen key.
func TestNameConstraintsBindTheStolenKey(t *testing.T) {
	netnstest.Need(t, "openssl")
	h := newHousehold(t, time.Now())
	a := h.state.TLS.Authorities[0]
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	root, issuing := write("root.pem", []byte(a.Root)), write("issuing.pem", []byte(a.Issuing))
	for _, c := range []struct {
		name string
		leaf x509.Certificate
		good bool
		flag []string
	}{
		{"apex", x509.Certificate{DNSNames: []string{"home.internal"}}, true, []string{"-verify_hostname", "home.internal"}},
		{"service", x509.Certificate{DNSNames: []string{"files.home.internal"}}, true, []string{"-verify_hostname", "files.home.internal"}},
		{"private address", x509.Certificate{IPAddresses: []net.IP{net.IPv4(192, 168, 1, 10)}}, true, []string{"-verify_ip", "192.168.1.10"}},
		{"private v6", x509.Certificate{IPAddresses: []net.IP{net.ParseIP("fd00::1")}}, true, []string{"-verify_ip", "fd00::1"}},
		{"example.com", x509.Certificate{DNSNames: []string{"example.com"}}, false, nil},
		{"beside ours", x509.Certificate{DNSNames: []string{"home.internal", "example.com"}}, false, nil},
		{"look-alike", x509.Certificate{DNSNames: []string{"evilhome.internal"}}, false, nil},
		{"other cell", x509.Certificate{DNSNames: []string{"other.internal"}}, false, nil},
		{"8.8.8.8", x509.Certificate{IPAddresses: []net.IP{net.IPv4(8, 8, 8, 8)}}, false, nil},
		{"public v6", x509.Certificate{IPAddresses: []net.IP{net.ParseIP("2001:4860:4860::8888")}}, false, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			leaf := forge(t, h, c.leaf)
			block, _ := pem.Decode(leaf)
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			ib, _ := pem.Decode([]byte(a.Issuing))
			ic, _ := x509.ParseCertificate(ib.Bytes)
			if err := verify(t, a.Root, []*x509.Certificate{cert, ic}, ""); (err == nil) != c.good {
				t.Errorf("Go: %v, want good %v", err, c.good)
			}
			args := append([]string{"verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", root, "-untrusted", issuing}, c.flag...)
			out, err := exec.Command("openssl", append(args, write("leaf.pem", leaf))...).CombinedOutput()
			if (err == nil) != c.good {
				t.Errorf("openssl: %v, want good %v\n%s", err, c.good, out)
			}
			if !c.good && !strings.Contains(string(out), "permitted subtree violation") {
				t.Errorf("openssl refused for another reason:\n%s", out)
			}
		})
	}
}

// A leaf of an authority that the thief makes below the issuing one is refused:
// path length 0.
func TestTheIssuingAuthorityCanMakeNoOther(t *testing.T) {
	netnstest.Need(t, "openssl")
	h := newHousehold(t, time.Now())
	parent, key := stolen(t, h)
	sub, subKey := signed(t, x509.Certificate{Subject: pkix.Name{CommonName: "sub"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, parent, key)
	subCert, err := x509.ParseCertificate(sub)
	if err != nil {
		t.Fatal(err)
	}
	leaf, _ := signed(t, x509.Certificate{DNSNames: []string{"home.internal"}}, subCert, subKey)
	leafCert, err := x509.ParseCertificate(leaf)
	if err != nil {
		t.Fatal(err)
	}
	a := h.state.TLS.Authorities[0]
	if err := verify(t, a.Root, []*x509.Certificate{leafCert, subCert, parent}, "home.internal"); err == nil {
		t.Error("Go accepts a leaf of a sub-authority")
	}
	// By the issuing certificate's own word too: the root's length ends there as
	// well, but some verifiers don't look at a trust anchor's.
	if err := verify(t, a.Issuing, []*x509.Certificate{leafCert, subCert}, "home.internal"); err == nil {
		t.Error("the issuing certificate allows a sub-authority")
	}
	dir := t.TempDir()
	file := func(name string, ders ...[]byte) string {
		var b []byte
		for _, d := range ders {
			b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d})...)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, name)
	}
	root, err := certs.RootDER(&a)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("openssl", "verify", "-CAfile", file("root", root), "-untrusted", file("mid", sub, parent.Raw), file("leaf", leaf)).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "path length constraint exceeded") {
		t.Errorf("openssl: %v\n%s", err, out)
	}
}

func TestBothAuthorityCertificatesCarryTheConstraints(t *testing.T) {
	h := newHousehold(t, time.Now())
	a := h.state.TLS.Authorities[0]
	var ids []string
	for i, text := range []string{a.Root, a.Issuing} {
		block, _ := pem.Decode([]byte(text))
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if !c.PermittedDNSDomainsCritical || len(c.PermittedDNSDomains) != 1 || len(c.PermittedIPRanges) != 9 {
			t.Errorf("%s: critical %v, names %v, ranges %v", c.Subject, c.PermittedDNSDomainsCritical, c.PermittedDNSDomains, c.PermittedIPRanges)
		}
		if c.SerialNumber.BitLen() < 64 || len(c.SubjectKeyId) == 0 {
			t.Errorf("%s: serial %x, key id %x", c.Subject, c.SerialNumber, c.SubjectKeyId)
		}
		if c.MaxPathLen != 1-i || c.MaxPathLenZero != (i == 1) {
			t.Errorf("%s: path length %d", c.Subject, c.MaxPathLen)
		}
		ids = append(ids, string(c.SubjectKeyId), string(c.AuthorityKeyId))
	}
	if ids[3] != ids[0] {
		t.Error("the issuing certificate does not name the root's key")
	}
}

// The profile is well-formed whatever the name, holds the root, and keeps its UUIDs.
func TestMobileConfig(t *testing.T) {
	h := newHousehold(t, time.Now())
	a := &h.state.TLS.Authorities[0]
	name := "Tom & <Ann>'s \"cell\" \x00 ]]>"
	b, err := certs.MobileConfig(a, name)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := certs.MobileConfig(a, name)
	if string(b) != string(again) {
		t.Fatal("not stable")
	}
	pairs := plist(t, b)
	want := strings.ReplaceAll(name, "\x00", "\uFFFD")
	if pairs["PayloadDisplayName"][1] != want || pairs["PayloadType"][0] != "com.apple.security.root" || pairs["PayloadType"][1] != "Configuration" {
		t.Fatalf("%q", pairs)
	}
	uuids := pairs["PayloadUUID"]
	form := regexp.MustCompile(`^[0-9A-F]{8}-[0-9A-F]{4}-8[0-9A-F]{3}-[89AB][0-9A-F]{3}-[0-9A-F]{12}$`)
	if len(uuids) != 2 || uuids[0] == uuids[1] || !form.MatchString(uuids[0]) || !form.MatchString(uuids[1]) {
		t.Fatalf("UUIDs %q", uuids)
	}
	der, err := base64.StdEncoding.DecodeString(pairs["PayloadContent"][0])
	if err != nil {
		t.Fatal(err)
	}
	if root, err := certs.RootDER(a); err != nil || string(root) != string(der) {
		t.Fatal("another certificate inside")
	}
	if _, err := certs.MobileConfig(&cell.Authority{ID: "x", Root: "nonsense"}, "x"); err == nil {
		t.Fatal("a profile of nonsense")
	}
}

// plist collects the string and data values of each key in document order.
func plist(t *testing.T, b []byte) map[string][]string {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(string(b)))
	out := map[string][]string{}
	key := ""
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatalf("not well-formed: %v", err)
		}
		s, ok := tok.(xml.StartElement)
		if !ok || (s.Name.Local != "key" && s.Name.Local != "string" && s.Name.Local != "data") {
			continue
		}
		var v string
		if err := d.DecodeElement(&v, &s); err != nil {
			t.Fatal(err)
		}
		if s.Name.Local == "key" {
			key = v
		} else {
			out[key] = append(out[key], v)
		}
	}
}
