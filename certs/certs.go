package certs

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

// cleanEvery is how often certificates that nobody renewed are swept from the
// disk, keepExpired how long they stay after their end.
const (
	cleanEvery  = 24 * time.Hour
	keepExpired = 14 * 24 * time.Hour
)

// Config is what a [Controller] needs.
type Config struct {
	// Dir is the folder for leaf certificates and their keys; made with mode 0700.
	Dir string
	// Secret reveals the issuing key. It is called when the authority changes.
	Secret func(cell.SecretRef) (cell.Secret, error)
	Log    *slog.Logger
	// Now is the clock that certificates are dated by; nil is time.Now.
	Now func() time.Time
}

// Controller obtains, renews and serves certificates. It implements
// [lifecycle.Task]: Run owns the renewal, Apply and GetCertificate work
// without it.
type Controller struct {
	cfg       Config
	zap       *zap.Logger
	storage   *certmagic.FileStorage
	ephemeral *tls.Certificate
	table     atomic.Pointer[table]

	mu sync.Mutex // serialises Apply and the end of Run
	// applied is read while Apply waits for an issuer, so it has no part in mu.
	applied atomic.Pointer[Subjects]
	stopped bool
}

var _ lifecycle.Task = (*Controller)(nil)

// table is what handshakes read; it is replaced as a whole.
type table struct {
	engine   *engine // nil: only the ephemeral certificate
	subjects map[string]bool
}

// New makes a controller that serves the ephemeral certificate.
func New(cfg *Config) (*Controller, error) {
	c := &Controller{cfg: *cfg}
	if c.cfg.Now == nil {
		c.cfg.Now = time.Now
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the certificate folder: %w", err)
	}
	// The folder is this process's alone (the store is locked), so a lock in it
	// is of one that was killed. certmagic would wait ten seconds to believe it,
	// and the boot with it.
	if err := os.RemoveAll(filepath.Join(cfg.Dir, "locks")); err != nil {
		return nil, fmt.Errorf("removing the locks of a process that was killed: %w", err)
	}
	var err error
	if c.ephemeral, err = newEphemeral(c.cfg.Now()); err != nil {
		return nil, err
	}
	c.zap = zapLogger(cfg.Log)
	c.storage = &certmagic.FileStorage{Path: cfg.Dir}
	c.table.Store(&table{})
	c.applied.Store(&Subjects{})
	return c, nil
}

// EphemeralFingerprint is the SHA-256 of the self-signed certificate, as
// browsers show it (AB:CD:…). It stands beside the setup code.
func (c *Controller) EphemeralFingerprint() string {
	return fingerprint(c.ephemeral.Certificate[0])
}

// Apply obtains what is missing, renews what is due, and drops what is no
// longer wanted. What could be had is served even if some of it failed; the
// error names the rest.
func (c *Controller) Apply(ctx context.Context, s Subjects) (changed bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return false, errors.New("applying certificates: the task has stopped")
	}
	old := c.table.Load()
	if s.Authority == nil {
		changed = old.engine != nil
		c.replace(&table{})
		c.applied.Store(&s)
		return changed, nil
	}

	e := old.engine
	if e == nil || !reflect.DeepEqual(e.signer, *s.Authority) {
		if e, err = c.newEngine(s.Authority); err != nil {
			return false, fmt.Errorf("applying certificates: %w", err)
		}
		changed = true
	}
	wanted := s.all()
	e.issuer.Want(wanted)
	next := &table{engine: e, subjects: make(map[string]bool, len(wanted))}
	var errs []error
	for _, name := range wanted {
		obtained, err := e.manage(ctx, name)
		if err != nil {
			errs = append(errs, err)
			if !e.has(name) { // one that could not be renewed is still served
				continue
			}
		}
		next.subjects[name] = true
		changed = changed || obtained || !old.subjects[name]
	}
	if len(next.subjects) == 0 && old.engine != e {
		// Nothing could be had: what is served now is better than nothing.
		e.stop()
		return false, fmt.Errorf("applying certificates: %w", errors.Join(errs...))
	}
	if old.engine == e {
		for name := range old.subjects {
			if !slices.Contains(wanted, name) {
				e.cache.RemoveManaged([]certmagic.SubjectIssuer{{Subject: name}})
				changed = true
			}
		}
	}
	c.replace(next)
	c.applied.Store(&s)
	if err := errors.Join(errs...); err != nil {
		return changed, fmt.Errorf("applying certificates: %w", err)
	}
	return changed, nil
}

// replace swaps the table and stops an engine that it no longer uses.
func (c *Controller) replace(next *table) {
	old := c.table.Swap(next)
	if old.engine != nil && old.engine != next.engine {
		old.engine.stop()
	}
}

// GetCertificate chooses the certificate of a handshake; it is a
// tls.Config.GetCertificate. A nil certificate without an error makes
// crypto/tls answer unrecognized_name (RFC 6066 §3).
func (c *Controller) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	t := c.table.Load()
	if t.engine == nil {
		return c.ephemeral, nil
	}
	local := localAddr(hello.Conn)
	name := subjectOf(hello.ServerName)
	if hello.ServerName == "" {
		name = local.String()
	}
	if name == "localhost" && local.IsLoopback() {
		// The authority may not sign this name. On the machine itself the
		// self-signed certificate goes on serving it.
		return c.ephemeral, nil
	}
	if !t.subjects[name] {
		return nil, nil
	}
	h := *hello
	h.ServerName = name
	return t.engine.config.GetCertificateWithContext(hello.Context(), &h)
}

func localAddr(c net.Conn) netip.Addr {
	if c == nil {
		return netip.Addr{}
	}
	ap, err := netip.ParseAddrPort(c.LocalAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

// TLSConfig is for the HTTPS listener: TLS 1.2 and later, Go's own choice of
// key exchange (X25519MLKEM768 first), h2 and HTTP/1.1. Of TLS 1.2 only the
// ciphers with forward secrecy and authenticated encryption are left (RFC 9325
// §4.2); those of TLS 1.3 can't be chosen.
func (c *Controller) TLSConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: c.GetCertificate,
	}
}

// Run renews certificates until ctx ends; then it stops the renewal and waits
// for it. What is served stays served.
func (c *Controller) Run(ctx context.Context) error {
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.stopped = true
		if e := c.table.Load().engine; e != nil {
			e.stop()
		}
	}()
	// The engine's own loop renews; this one sweeps the disk.
	tick := time.NewTicker(cleanEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			c.clean(ctx)
		}
	}
}

func (c *Controller) clean(ctx context.Context) {
	err := lifecycle.Protect(c.cfg.Log, "certificate sweep", func() error {
		return certmagic.CleanStorage(ctx, c.storage, certmagic.CleanStorageOptions{
			Logger: c.zap, ExpiredCerts: true, ExpiredCertGracePeriod: keepExpired,
		})
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) && ctx.Err() == nil {
		c.cfg.Log.Warn("sweeping expired certificates failed", "error", err)
	}
}

// Ready is closed from the start: a certificate is served at once.
func (c *Controller) Ready() <-chan struct{} {
	ready := make(chan struct{})
	close(ready)
	return ready
}

func (c *Controller) String() string { return "certs" }

// Certificate describes a certificate in use, for people.
type Certificate struct {
	Serial    string    `json:"serial"` // upper-case hexadecimal
	Subject   string    `json:"subject"`
	Names     []string  `json:"names"` // host names, then addresses
	Issuer    string    `json:"issuer"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	Authority string    `json:"authority"` // its id, "" for the ephemeral certificate
}

// Certificates lists what is served, sorted by name; before the claim that is
// the ephemeral certificate.
func (c *Controller) Certificates() []Certificate {
	t := c.table.Load()
	if t.engine == nil {
		return []Certificate{describe(c.ephemeral, "")}
	}
	out := make([]Certificate, 0, len(t.subjects))
	for name := range t.subjects {
		for _, m := range t.engine.cache.AllMatchingCertificates(name) {
			out = append(out, describe(&m.Certificate, t.engine.signer.ID))
		}
	}
	slices.SortFunc(out, func(a, b Certificate) int {
		return strings.Compare(strings.Join(a.Names, ","), strings.Join(b.Names, ","))
	})
	return out
}

func describe(c *tls.Certificate, authority string) Certificate {
	l := c.Leaf
	d := Certificate{
		Serial: serialText(l.SerialNumber), Subject: l.Subject.String(), Names: slices.Clone(l.DNSNames),
		Issuer: l.Issuer.String(), NotBefore: l.NotBefore, NotAfter: l.NotAfter, Authority: authority,
	}
	for _, a := range addrs(l.IPAddresses) {
		d.Names = append(d.Names, a.String())
	}
	return d
}
