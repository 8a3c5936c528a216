package certs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/personal-internet-cell/pic/cell"
)

// engine is certmagic for one authority. Another authority gets an engine of
// its own, built before the old one stops: certmagic looks certificates up by
// name, and within one cache the old authority's would stay the answer.
type engine struct {
	signer Signer
	issuer *Authority
	cache  *certmagic.Cache
	config *certmagic.Config
}

func (c *Controller) newEngine(s *Signer) (*engine, error) {
	var key cell.Secret
	var err error
	if key, err = c.cfg.Secret(s.IssuingKey); err != nil {
		return nil, fmt.Errorf("reading the issuing key of authority %s: %w", s.ID, err)
	}
	issuer, err := NewIssuer(s, key, c.cfg.Now)
	if err != nil {
		return nil, err
	}
	e := &engine{signer: *s, issuer: issuer}
	e.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return e.config, nil },
		Logger:           c.zap,
	})
	// Every field that would otherwise come from a package-level default is set.
	e.config = certmagic.New(e.cache, certmagic.Config{
		// A renewal is due in the last third of the lifetime.
		RenewalWindowRatio: 1.0 / 3,
		// Tried in order: public issuers go before the authority, which
		// never fails for want of a network.
		Issuers:   []certmagic.Issuer{issuer},
		KeySource: certmagic.StandardKeyGenerator{KeyType: certmagic.P256},
		// The authority runs no responder and no renewal information server.
		OCSP:       certmagic.OCSPConfig{DisableStapling: true},
		DisableARI: true,
		Storage:    c.storage,
		Logger:     c.zap,
	})
	return e, nil
}

// stop ends the renewal loop and waits for it.
func (e *engine) stop() { e.cache.Stop() }

// manage makes sure that name has a certificate that is not due for renewal,
// and reports whether one had to be obtained.
func (e *engine) manage(ctx context.Context, name string) (obtained bool, err error) {
	if held := e.cache.AllMatchingCertificates(name); len(held) > 0 {
		if !held[0].NeedsRenewal(e.config) {
			return false, nil
		}
		// The loop would do this at its next tick. A clock that was set after
		// boot must not leave an expired certificate in use for that long.
		if err := e.config.RenewCertSync(ctx, name, false); err != nil {
			return false, err
		}
		if err := e.cache.RenewManagedCertificates(ctx); err != nil {
			return false, err
		}
		return true, nil
	}
	stored := e.stored(ctx, name)
	err = e.config.ManageSync(ctx, []string{name})
	if err != nil && ctx.Err() == nil && stored && !e.has(name) {
		// A damaged file is no reason to be without: leafs are cheap.
		key := certmagic.StorageKeys.CertsSitePrefix(e.issuer.IssuerKey(), name)
		if derr := e.config.Storage.Delete(ctx, key); derr != nil && !errors.Is(derr, fs.ErrNotExist) {
			return false, errors.Join(err, derr)
		}
		err = e.config.ManageSync(ctx, []string{name})
		stored = false
	}
	return err == nil && !stored, err
}

// has reports whether a certificate of name is loaded.
func (e *engine) has(name string) bool { return len(e.cache.AllMatchingCertificates(name)) > 0 }

func (e *engine) stored(ctx context.Context, name string) bool {
	return e.config.Storage.Exists(ctx, certmagic.StorageKeys.SiteCert(e.issuer.IssuerKey(), name))
}

// Limits before which a person is told that something has not been renewed.
const (
	leafLate    = leafLifetime / 6
	issuingLate = 90 * 24 * time.Hour
)

// Notices tells what a person should know about the certificates in use.
func (c *Controller) Notices() []cell.Notice {
	s, t, now := *c.applied.Load(), c.table.Load(), c.cfg.Now()
	if s.Mode == "" {
		return nil
	}
	var out []cell.Notice
	add := func(code, subject string, sev cell.Severity, text string) {
		out = append(out, cell.Notice{Code: code, Subject: subject, Severity: sev, Text: text})
	}
	switch {
	case s.Authority == nil:
		add("certs_no_authority", "tls", cell.Alarm, "The cell has no certificate authority that is not retired, so its web pages have a self-signed certificate. Make a new authority under Certificates.")
	case s.Mode != cell.ModeLAN:
		add("certs_own_authority", string(s.Mode), cell.Info, "Certificates are signed by the cell's own authority, also for its public name: this version obtains no public certificates yet. Install the authority's root on your devices, or they will warn.")
	}
	if s.Authority != nil && len(s.Uncovered) > 0 {
		add("certs_uncovered", s.Uncovered[0], cell.Warning, fmt.Sprintf("Authority %s may not sign %s and %d other names: make a new authority for the present domain.", s.Authority.ID, s.Uncovered[0], len(s.Uncovered)-1))
	}
	if e := t.engine; e != nil {
		if left := e.issuer.issuing.NotAfter.Sub(now); left < issuingLate {
			add("authority_expires", e.signer.ID, cell.Warning, fmt.Sprintf("The issuing certificate of authority %s ends on %s: make a new authority and install its root on your devices.", e.signer.ID, e.issuer.issuing.NotAfter.Format(time.DateOnly)))
		}
		for _, m := range c.Certificates() {
			if m.NotAfter.Sub(now) < leafLate {
				add("certs_not_renewed", m.Names[0], cell.Alarm, fmt.Sprintf("The certificate of %s ends on %s and has not been renewed: see the log for the reason.", m.Names[0], m.NotAfter.Format(time.DateTime)))
				break
			}
		}
	}
	return out
}
