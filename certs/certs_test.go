package certs_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/certs"
	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

// household is a claimed cell with its authority and the secrets of it.
type household struct {
	state   *cell.State
	facts   cell.Facts
	secrets map[cell.SecretRef]cell.Secret
}

func (h *household) secret(r cell.SecretRef) (cell.Secret, error) {
	s, ok := h.secrets[r]
	if !ok {
		return cell.Secret{}, errors.New("no such secret")
	}
	return s, nil
}

func newHousehold(t testing.TB, now time.Time) *household {
	t.Helper()
	s := cell.Factory([16]byte{1, 2, 3}, "tunnel", cell.Key("AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="))
	s.Identity = cell.Identity{Name: "home", Mode: cell.ModeLAN}
	s.Users = []cell.User{{Name: "admin", Role: cell.RoleAdmin, PasswordHash: "pw"}}
	s.Services = []cell.Service{
		{ID: "files", Subdomain: "files", Access: cell.AccessPeers, Upstream: "http://172.20.1.2:80", Enabled: true},
		{ID: "off", Subdomain: "off", Access: cell.AccessPeers},
	}
	h := &household{state: s, secrets: map[cell.SecretRef]cell.Secret{}}
	h.facts = cell.Facts{Links: map[string]cell.LinkFact{
		"eth0": {Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.1.10/24"), netip.MustParsePrefix("203.0.113.9/24"), netip.MustParsePrefix("fe80::1/64")}},
	}}
	h.addAuthority(t, now)
	return h
}

func (h *household) addAuthority(t testing.TB, now time.Time) {
	t.Helper()
	a, rootKey, issuingKey, err := certs.NewAuthority(h.state.Identity.Domains(), now)
	if err != nil {
		t.Fatal(err)
	}
	a.RootKey, a.IssuingKey = cell.SecretRef(a.ID+"-root"), cell.SecretRef(a.ID+"-issuing")
	h.secrets[a.RootKey], h.secrets[a.IssuingKey] = rootKey, issuingKey
	h.state.TLS.Authorities = append(h.state.TLS.Authorities, a)
	if err := h.state.Validate(); err != nil {
		t.Fatal(err)
	}
}

func (h *household) compile(t testing.TB) certs.Subjects {
	t.Helper()
	p, err := certs.Compile(h.state, h.facts)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (h *household) controller(t testing.TB, dir string) *certs.Controller {
	t.Helper()
	c, err := certs.New(&certs.Config{Dir: dir, Secret: h.secret, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- lifecycle.Run(ctx, c) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return c
}

func apply(t testing.TB, c *certs.Controller, p certs.Subjects) bool {
	t.Helper()
	changed, err := c.Apply(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return changed
}

// handshake returns the chain a client with this SNI is given; the server's
// side of the connection has the local address local.
func handshake(c *certs.Controller, sni string, local netip.Addr) ([]*x509.Certificate, error) {
	a, b := net.Pipe()
	defer a.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer b.Close()
		srv := tls.Server(localConn{b, local}, c.TLSConfig())
		_ = srv.Handshake()
	}()
	cl := tls.Client(a, &tls.Config{ServerName: sni, InsecureSkipVerify: true})
	err := cl.Handshake()
	a.Close()
	<-done
	return cl.ConnectionState().PeerCertificates, err
}

type localConn struct {
	net.Conn
	addr netip.Addr
}

func (c localConn) LocalAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.addr, 443))
}

var lanAddr = netip.MustParseAddr("192.168.1.10")

func verify(t testing.TB, root string, chain []*x509.Certificate, name string) error {
	t.Helper()
	roots, mid := x509.NewCertPool(), x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(root)) {
		t.Fatal("no root")
	}
	for _, c := range chain[1:] {
		mid.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{DNSName: name, Roots: roots, Intermediates: mid})
	return err
}

func TestCompileListsNamesAndPrivateAddresses(t *testing.T) {
	h := newHousehold(t, time.Now())
	id := h.state.TLS.Authorities[0].ID
	want := strings.Join([]string{
		"authority " + id + " key " + id + "-issuing permits home.internal",
		"api.home.internal " + id,
		"files.home.internal " + id,
		"home.internal " + id,
		"pic.home.internal " + id,
		"10.17.0.1 " + id,
		"127.0.0.1 " + id,
		"192.168.1.10 " + id,
		"::1 " + id,
		"fd02:300::1 " + id,
	}, "\n") + "\n"
	if d := cmp.Diff(want, h.compile(t).String()); d != "" {
		t.Fatal(d)
	}
	if d := cmp.Diff(h.compile(t), h.compile(t), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Fatal("not deterministic:", d)
	}
}

func TestCompileOfAnUnclaimedCellAsksForNothing(t *testing.T) {
	h := newHousehold(t, time.Now())
	h.state.Users = nil
	if d := cmp.Diff(certs.Subjects{}, h.compile(t)); d != "" {
		t.Fatal(d)
	}
}

func TestUnclaimedServesTheEphemeralCertificateOnly(t *testing.T) {
	h := newHousehold(t, time.Now())
	dir := t.TempDir()
	c := h.controller(t, dir)
	if apply(t, c, certs.Subjects{}) {
		t.Fatal("an empty plan changed something")
	}
	for _, sni := range []string{"", "home.internal", "example.com"} {
		chain, err := handshake(c, sni, lanAddr)
		if err != nil {
			t.Fatal(err)
		}
		if len(chain) != 1 || chain[0].Subject.CommonName != "unclaimed cell" {
			t.Fatalf("%q got %v", sni, chain[0].Subject)
		}
	}
	if other := h.controller(t, dir); other.EphemeralFingerprint() == c.EphemeralFingerprint() || len(c.EphemeralFingerprint()) != 95 {
		t.Fatal("the ephemeral certificate must be new at each start")
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Fatalf("the ephemeral key reached the disk: %v", entries)
	}
}

func TestClaimServesTheAuthorityAtOnce(t *testing.T) {
	h := newHousehold(t, time.Now())
	c := h.controller(t, t.TempDir())
	p := h.compile(t)
	if !apply(t, c, p) {
		t.Fatal("the first Apply must change something")
	}
	if apply(t, c, p) {
		t.Fatal("the second Apply must change nothing")
	}
	root := h.state.TLS.Authorities[0].Root
	for _, sni := range []string{"home.internal", "API.Home.Internal", "files.home.internal"} {
		chain, err := handshake(c, sni, lanAddr)
		if err != nil {
			t.Fatal(sni, err)
		}
		if err := verify(t, root, chain, sni); err != nil {
			t.Fatal(err)
		}
		if life := chain[0].NotAfter.Sub(chain[0].NotBefore); life > 30*24*time.Hour {
			t.Fatalf("leaf lives %v", life)
		}
	}
	for _, a := range []string{"192.168.1.10", "10.17.0.1", "::1", "fd02:300::1"} {
		chain, err := handshake(c, "", netip.MustParseAddr(a))
		if err != nil {
			t.Fatal(a, err)
		}
		if err := verify(t, root, chain, a); err != nil {
			t.Fatal(err)
		}
	}
	if n := c.Notices(); len(n) != 0 {
		t.Fatalf("unexpected notices %v", n)
	}
	got := c.Certificates()
	if len(got) != len(p.Names)+len(p.Addresses) || got[0].Authority != h.state.TLS.Authorities[0].ID || got[0].Serial == "" {
		t.Fatalf("%+v", got)
	}
}

func TestAnUnknownServerNameGetsNoCertificate(t *testing.T) {
	h := newHousehold(t, time.Now())
	c := h.controller(t, t.TempDir())
	apply(t, c, h.compile(t))
	for _, x := range []struct {
		sni   string
		local netip.Addr
	}{
		{"example.com", lanAddr},
		{"off.home.internal", lanAddr},
		{"x.files.home.internal", lanAddr},
		{"localhost", lanAddr},
		{"", netip.MustParseAddr("203.0.113.9")},
	} {
		chain, err := handshake(c, x.sni, x.local)
		if err == nil || !strings.Contains(err.Error(), "unrecognized name") || len(chain) != 0 {
			t.Errorf("%+v: got %v and %d certificates", x, err, len(chain))
		}
	}
	chain, err := handshake(c, "localhost", netip.MustParseAddr("127.0.0.1"))
	if err != nil || chain[0].Subject.CommonName != "unclaimed cell" {
		t.Fatalf("localhost on the machine itself: %v", err)
	}
}

func TestARestartReusesStoredCertificates(t *testing.T) {
	h := newHousehold(t, time.Now())
	dir := t.TempDir()
	p := h.compile(t)
	c := h.controller(t, dir)
	apply(t, c, p)
	before := c.Certificates()
	again := h.controller(t, dir)
	apply(t, again, p)
	if d := cmp.Diff(before, again.Certificates()); d != "" {
		t.Fatal(d)
	}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(p, ".key") {
			if i, _ := d.Info(); i.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s has mode %v", p, i.Mode())
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestADamagedCertificateIsReplaced(t *testing.T) {
	h := newHousehold(t, time.Now())
	dir := t.TempDir()
	p := h.compile(t)
	apply(t, h.controller(t, dir), p)
	damaged := 0
	_ = filepath.WalkDir(dir, func(p string, _ fs.DirEntry, _ error) error {
		if strings.HasSuffix(p, "files.home.internal.crt") || strings.HasSuffix(p, "api.home.internal.key") {
			damaged++
			return os.WriteFile(p, nil, 0o600) // as after a power cut
		}
		return nil
	})
	if damaged != 2 {
		t.Fatalf("damaged %d files", damaged)
	}
	c := h.controller(t, dir)
	apply(t, c, p)
	if n := len(c.Certificates()); n != len(p.Names)+len(p.Addresses) {
		t.Fatalf("%d certificates", n)
	}
}

func TestRemovedSubjectsAreNoLongerServed(t *testing.T) {
	h := newHousehold(t, time.Now())
	c := h.controller(t, t.TempDir())
	apply(t, c, h.compile(t))
	h.state.Services[0].Enabled = false
	if !apply(t, c, h.compile(t)) {
		t.Fatal("nothing changed")
	}
	if _, err := handshake(c, "files.home.internal", lanAddr); err == nil {
		t.Fatal("a disabled service still has a certificate")
	}
	if apply(t, c, h.compile(t)) {
		t.Fatal("the second Apply changed something")
	}
}

func TestChangeOfDomainMakesTheNewAuthoritySign(t *testing.T) {
	h := newHousehold(t, time.Now())
	c := h.controller(t, t.TempDir())
	apply(t, c, h.compile(t))
	h.state.Identity = cell.Identity{Name: "home", Mode: cell.ModeOwn, Domain: "example.net"}
	if h.state.TLS.Authorities[0].Covers(h.state.Identity.Domains()) {
		t.Fatal("the old authority must not cover the new domain")
	}

	// Without a new authority: what it may sign is served, the rest is named.
	apply(t, c, h.compile(t))
	if n := c.Notices(); !slices.ContainsFunc(n, func(n cell.Notice) bool { return n.Code == "certs_uncovered" }) {
		t.Fatalf("no notice in %v", n)
	}
	h.addAuthority(t, time.Now())
	if !h.state.TLS.Authorities[1].Covers(h.state.Identity.Domains()) {
		t.Fatal("the new authority must cover its domain")
	}
	if !apply(t, c, h.compile(t)) || apply(t, c, h.compile(t)) {
		t.Fatal("want one change, then none")
	}
	for _, n := range []string{"example.net", "files.example.net", "home.internal"} {
		chain, err := handshake(c, n, lanAddr)
		if err != nil {
			t.Fatal(n, err)
		}
		if err := verify(t, h.state.TLS.Authorities[1].Root, chain, n); err != nil {
			t.Fatal(err)
		}
		if verify(t, h.state.TLS.Authorities[0].Root, chain, n) == nil {
			t.Fatal("signed by the old authority")
		}
	}
	if n := c.Notices(); len(n) != 1 || n[0].Code != "certs_own_authority" {
		t.Fatalf("notices %v", n)
	}
	// Both are offered for trust until one is retired.
	for i := range h.state.TLS.Authorities {
		if b, err := certs.RootPEM(&h.state.TLS.Authorities[i]); err != nil || !bytes.Contains(b, []byte("BEGIN CERTIFICATE")) {
			t.Fatal(err)
		}
	}
}

func TestWithoutAnAuthorityTheEphemeralCertificateServes(t *testing.T) {
	h := newHousehold(t, time.Now())
	c := h.controller(t, t.TempDir())
	h.state.TLS.Authorities = nil
	apply(t, c, h.compile(t))
	if n := c.Notices(); len(n) != 1 || n[0].Code != "certs_no_authority" || n[0].Severity != cell.Alarm {
		t.Fatalf("notices %v", n)
	}
	if chain, err := handshake(c, "home.internal", lanAddr); err != nil || chain[0].Subject.CommonName != "unclaimed cell" {
		t.Fatal(err)
	}
}

func TestAMissingKeyKeepsWhatIsServed(t *testing.T) {
	h := newHousehold(t, time.Now())
	c := h.controller(t, t.TempDir())
	apply(t, c, h.compile(t))
	h.addAuthority(t, time.Now())
	clear(h.secrets)
	if _, err := c.Apply(t.Context(), h.compile(t)); err == nil {
		t.Fatal("no error without the key")
	}
	if _, err := handshake(c, "home.internal", lanAddr); err != nil {
		t.Fatal("the old certificate is gone:", err)
	}
}

// The leaf is renewed in the last third of its 30 days, by the task alone.
func TestLeafsAreRenewedAtTwoThirds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHousehold(t, time.Now())
		h.facts = cell.Facts{}
		var warnings bytes.Buffer
		log := slog.New(slog.NewTextHandler(&warnings, &slog.HandlerOptions{Level: slog.LevelWarn}))
		c, err := certs.New(&certs.Config{Dir: t.TempDir(), Secret: h.secret, Log: log})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		apply(t, c, h.compile(t))
		h.state.Services = nil // a name no longer wanted must not be renewed, nor tried
		apply(t, c, h.compile(t))
		first := c.Certificates()

		<-time.After(19*24*time.Hour + 12*time.Hour)
		synctest.Wait()
		if d := cmp.Diff(first, c.Certificates()); d != "" {
			t.Fatal("renewed too early:", d)
		}
		<-time.After(24 * time.Hour)
		synctest.Wait()
		for i, now := range c.Certificates() {
			if now.Serial == first[i].Serial || !now.NotAfter.After(first[i].NotAfter.Add(19*24*time.Hour)) {
				t.Errorf("%v was not renewed: ends %v", now.Names, now.NotAfter)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if warnings.Len() > 0 {
			t.Errorf("logged: %s", warnings.String())
		}
	})
}
