package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

// apiDefault is where --api listens when no address is given.
const apiDefault = "127.0.0.1:3000"

const apiRetry = 10 * time.Second

// apiFlag is a flag whose value may be left out: --api or --api=ADDR; serve
// also takes the address as the word after it.
type apiFlag struct {
	address string
	bare    bool
}

func (f *apiFlag) String() string   { return f.address }
func (f *apiFlag) IsBoolFlag() bool { return true } // the flag package asks by this name

func (f *apiFlag) Set(value string) error {
	switch value {
	case "true":
		f.address, f.bare = apiDefault, true
	case "false", "":
		f.address, f.bare = "", false
	default:
		f.address, f.bare = value, false
	}
	return nil
}

// resolve takes the word after --api, and refuses what is not loopback: there
// is no TLS on it.
func (f *apiFlag) resolve(rest []string) error {
	if f.bare && len(rest) == 1 {
		f.address, rest = rest[0], nil
	}
	if len(rest) > 0 {
		return errUsage
	}
	if f.address == "" {
		return nil
	}
	ap, err := netip.ParseAddrPort(f.address)
	if err != nil || ap.Port() == 0 || !ap.Addr().IsLoopback() {
		return fmt.Errorf("--api must be a loopback address such as %s, not %q: it is not encrypted; over the network use https and the same tokens", apiDefault, f.address)
	}
	return nil
}

// serveTokens serves the API to programs on this machine that hold a token.
func (h *house) serveTokens(ctx context.Context) error {
	if h.flags.api.address == "" {
		<-ctx.Done()
		return nil
	}
	l, err := net.Listen("tcp", h.flags.api.address)
	for err != nil { // another program's port must not keep the cell down
		h.log.Error("the api for tokens can't listen and tries again", "address", h.flags.api.address, "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(apiRetry):
		}
		l, err = net.Listen("tcp", h.flags.api.address)
	}
	h.log.Info("api for tokens", "address", l.Addr())
	return h.serveHTTP(ctx, "plain api", l, &http.Server{Handler: h.api.TokenOnly()})
}

// newSecondFactors checks codes only while the clock can be right.
func (h *house) newSecondFactors() *auth.SecondFactors {
	return auth.NewSecondFactors(&auth.SecondFactorsConfig{Store: h.store.History(), Plausible: h.plausible, Log: h.log})
}

func (h *house) newTokens() *auth.Tokens {
	return auth.NewTokens(&auth.TokensConfig{Store: h.store.History(), Log: h.log, State: func() *cell.State {
		s, _ := h.engine.Running()
		return s
	}})
}

// identityNotices say what keeps people from signing in, or the record from
// being kept.
func (h *house) identityNotices() []cell.Notice {
	var out []cell.Notice
	if err := h.audit.Failing(); err != nil {
		out = append(out, cell.Notice{
			Code: "audit_not_written", Subject: "audit", Severity: cell.Alarm,
			Text: "The record of who did what can't be written: " + err.Error() + ". Free some space on the disk of the state folder.",
		})
	}
	s, _ := h.engine.Running()
	if s == nil || h.plausible(time.Now()) {
		return out
	}
	for i := range s.Users {
		if s.Users[i].SecondFactor != nil {
			return append(out, cell.Notice{
				Code: "clock_implausible", Subject: "sign-in", Severity: cell.Warning,
				Text: "The cell's clock can't be right, so codes of second factors are not checked. Sign in with a recovery code, or set the clock.",
			})
		}
	}
	return out
}

// watchRevisions puts into the record what happens to revisions without a
// request: a confirmed commit that reverts by itself, a start after a crash.
func (h *house) watchRevisions() lifecycle.Task {
	return lifecycle.Func("audit", func(ctx context.Context) error {
		select {
		case <-h.engine.Ready():
		case <-ctx.Done():
			return nil
		}
		record := func() {
			lifecycle.Fault("audit")
			if h.engine.Source() != "current" {
				return
			}
			if s, _ := h.engine.Running(); s != nil && s.Claimed() {
				h.keepLog()
			}
			if err := h.api.AuditRevisions(); err != nil && !errors.Is(err, context.Canceled) {
				h.log.Error("audit log is not written", "error", err)
			}
		}
		record()
		for range h.engine.Changes(ctx) {
			record()
		}
		return nil
	})
}
