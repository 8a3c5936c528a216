package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/certs"
	"github.com/personal-internet-cell/pic/datastore"
	"github.com/personal-internet-cell/pic/dns"
	"github.com/personal-internet-cell/pic/exits"
	"github.com/personal-internet-cell/pic/firewall"
	"github.com/personal-internet-cell/pic/internal/lifecycle"
	"github.com/personal-internet-cell/pic/ntp"
	"github.com/personal-internet-cell/pic/proxy"
	"github.com/personal-internet-cell/pic/reconcile"
	"github.com/personal-internet-cell/pic/tunnel"
	"github.com/personal-internet-cell/pic/ui"
)

// house is the wired cell.
type house struct {
	log      *slog.Logger
	flags    *serveFlags
	store    *datastore.Store
	engine   *reconcile.Engine
	learner  *learner
	api      *api.API
	code     *auth.SetupCode
	tunnel   *tunnel.Controller
	proxy    *proxy.Server
	dns      *dns.Server
	exits    *exits.Controller
	certs    *certs.Controller
	ntp      *ntp.Server
	nightly  *nightly
	firewall *firewall.Controller
	counts   *counts
	logs     *datastore.Logs
	samples  *datastore.Samples
	events   *datastore.Events
	started  time.Time
	audit    *datastore.Audit
	socket   chan struct{} // closed once the local socket listens
	listens  func()        // closes socket
	keepLog  func()        // begins to keep the log on the disk
	tasks    []lifecycle.Task
	// initProblem is why PIC_INIT_FILE was not used; nil: it was, or is not set.
	initProblem atomic.Pointer[cell.Notice]
	panics      *lifecycle.Panics
}

// build makes every room and hands each what it needs of the others. Nothing
// in the world is touched before run.
func build(log *slog.Logger, logs *datastore.Logs, panics *lifecycle.Panics, f *serveFlags, host cell.Host) (_ *house, err error) {
	store, err := datastore.Open(&datastore.Config{Dir: f.state, Log: log})
	if err != nil {
		return nil, err
	}
	h := &house{log: log, logs: logs, panics: panics, flags: f, store: store, started: time.Now(), socket: make(chan struct{}), learner: newLearner(log, host)}
	defer func() {
		if err != nil {
			err = errors.Join(err, store.Close())
		}
	}()
	// Before the claim no request may write a file, and the log has lines about
	// requests: until then it is kept in memory, and on the standard output.
	h.keepLog = sync.OnceFunc(func() { logs.Attach(store) })
	h.samples, h.events = datastore.OpenSamples(store), datastore.OpenEvents(store)
	h.listens = sync.OnceFunc(func() { close(h.socket) })
	h.nightly = newNightly(log, h.policyNow)
	if h.audit, err = datastore.OpenAudit(store); err != nil {
		return nil, err
	}
	h.code = auth.NewSetupCode(&auth.SetupCodeConfig{OnRotate: h.announce})
	fw := firewall.New(&firewall.Config{Log: log})
	h.firewall = fw
	h.tunnel = tunnel.New(&tunnel.Config{Secret: store.Secret, Log: log})
	h.counts = newCounts(map[string]func() map[string]int{"firewall": fw.Changed, "tunnel": h.tunnel.Changed})
	h.dns = dns.New(&dns.Config{Logger: log, Dial: h.dialExit})
	h.exits = h.newExits()
	h.ntp = ntp.New(&ntp.Config{Logger: log, Adjust: ntp.SystemClock{}, Memory: store.History(), Built: buildTime()})
	if h.certs, err = certs.New(&certs.Config{Dir: store.CertsDir(), Secret: store.Secret, Log: log}); err != nil {
		return nil, err
	}
	var web atomic.Pointer[http.Handler]
	h.proxy = proxy.New(&proxy.Config{
		Local: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			(*web.Load()).ServeHTTP(w, r)
		}),
		TLS: h.certs.TLSConfig(), HTTPAddr: f.http, HTTPSAddr: f.https, Log: log,
	})
	h.engine, err = reconcile.New(&reconcile.Config{
		Store: store, Log: log, Now: time.Now, Facts: readMachine(host), Resync: resync(f.resync),
		Notices: []func() []cell.Notice{h.notices, h.identityNotices, h.panicNotices, logs.Notices, h.samples.Notices},
		Stages: h.counts.watch([]reconcile.Stage{
			reconcile.Required(reconcile.WithNotices(reconcile.NewStage("firewall", firewall.Compile, fw.Apply), fw.Notices)),
			reconcile.WithNotices(reconcile.NewStage("tunnel", tunnel.Compile, tolerantAtFirst(h.tunnel.Apply)), h.tunnel.Notices),
			reconcile.WithNotices(reconcile.NewStage("dns", new(dns.Compiler).Compile, tolerant(h.dns.Apply)), h.dns.Notices),
			reconcile.WithNotices(reconcile.NewStage("ntp", ntp.Compile, tolerant(h.ntp.Apply)), h.ntp.Notices),
			reconcile.WithNotices(reconcile.NewStage("proxy", proxy.Compile, tolerant(h.applyProxy)), h.proxy.Notices),
			reconcile.Background(reconcile.WithNotices(reconcile.NewStage("exits", exits.Compile, h.exits.Apply), h.exits.Notices)),
			reconcile.Background(reconcile.WithNotices(reconcile.NewStage("certs", certs.Compile, h.certs.Apply), h.certs.Notices)),
			reconcile.Background(reconcile.WithNotices(reconcile.NewStage("policy", compilePolicy, applyPolicy), h.nightly.notices)),
		}),
	})
	if err != nil {
		return nil, err
	}
	h.learner.engine = h.engine
	h.learner.userspace = h.tunnel.Embedded
	tokens := h.newTokens()
	sessions, backoff := h.buildAPI(tokens)
	handler := h.api.Web()
	web.Store(&handler)
	look := func() { h.learner.look(); h.engine.Trigger("the kernel changed") }
	// The first six guard what they run themselves: their Run is called once.
	h.tasks = []lifecycle.Task{h.dns, h.ntp, h.proxy, h.certs, h.exits, fw.Watch(look)}
	for _, t := range []lifecycle.Task{
		logs, h.samples, h.events, h.observe(), h.code, sessions, backoff, tokens, h.watchRevisions(), h.tunnel.Watch(look), h.learner.task(), h.nightly.task(h.engine.Changes),
		lifecycle.Func("api", h.serveTokens), lifecycle.Func("socket", h.serveSocket), lifecycle.Func("debug", h.serveDebug),
		watchdog(h.selfCheck), lifecycle.Func("reload", h.reload), h.limitMemory(),
	} {
		h.tasks = append(h.tasks, lifecycle.Guarded(log, t))
	}
	return h, nil
}

func (h *house) buildAPI(tokens *auth.Tokens) (*auth.Sessions, *auth.Backoff) {
	role := func(name string) (cell.Role, bool) { return h.api.RoleOf(name) }
	history := h.store.History()
	sessions := auth.NewSessions(&auth.SessionsConfig{Store: history, Role: role, Log: h.log})
	backoff := auth.NewBackoff(&auth.BackoffConfig{Store: history, Log: h.log})
	h.api = api.New(&api.Config{
		Log: h.log, Now: time.Now, Version: version, Engine: h.engine, Started: h.started, HTTPSPort: h.learner.host.HTTPSPort,
		Passwords: auth.NewPasswords(&auth.PasswordsConfig{Log: h.log}), Sessions: sessions, Backoff: backoff, SetupCode: h.code,
		Tokens: tokens, SecondFactors: h.newSecondFactors(), Audit: h.audit,
		NewRef: h.store.NewRef, Secret: h.store.Secret,
		Tunnel: h.tunnelStatus, GenerateKey: tunnel.GenerateKey, GeneratePSK: tunnel.GeneratePSK,
		ClientConfig: tunnel.ClientConfig, FileName: tunnel.FileName,
		NewAuthority: certs.NewAuthority, Trust: trust, Certificates: h.certificates, Fingerprint: h.certs.EphemeralFingerprint,
		Clock: h.clock, DNS: h.dnsStatus, DNSRecords: dnsRecords, Export: exports(), Reachable: h.reachable, Explain: explain, Policy: policyResults,
		NetworkTest: func(ctx context.Context) []api.Check { return uplinkChecks(ctx, h.engine.Facts()) },
		Exits:       h.apiExits(),
		UI:          ui.Files(), Metrics: h.metrics, Logs: h.logs, TailLogs: h.tailLogs, History: h.samples.Query, Events: h.events, TailEvents: h.tailEvents,
	})
	return sessions, backoff
}

// run boots and serves until ctx ends.
func (h *house) run(ctx context.Context, out io.Writer, ready string) error {
	boot := lifecycle.Func("engine", func(ctx context.Context) error {
		err := h.engine.Boot(ctx, func() (*cell.State, map[cell.SecretRef]cell.Secret, error) {
			return fresh(h.store.NewRef, tunnel.GenerateKey, func(b []byte) { _, _ = rand.Read(b) }, h.engine.Facts())
		})
		if err != nil {
			return fmt.Errorf("booting: %w", err)
		}
		// Booting made links; what depends on them must not wait for the next look.
		h.learner.look()
		if h.engine.Source() == "recovered" {
			h.keepLog()
			h.showAlarm(ctx)
		}
		if err := h.initFile(ctx); err != nil {
			// The cell stays unclaimed and can be claimed by hand: a mistake in
			// the file must not keep the machine from coming up.
			h.log.Error("init file not used", "error", err)
			h.initProblem.Store(&cell.Notice{Code: "init_file", Subject: "setup", Severity: cell.Alarm, Text: err.Error() + ": mend the file and restart, or claim the cell in the browser"})
		}
		if s, _ := h.engine.Running(); s != nil && s.Claimed() {
			h.code.Retire()
			h.keepLog()
		} else {
			h.greet(out)
		}
		// Who is told that the cell is ready may ask it the next moment.
		select {
		case <-h.socket:
		case <-ctx.Done():
			return nil
		}
		if err := os.WriteFile(ready, []byte("ready\n"), 0o644); err != nil {
			return err
		}
		if err := sdNotify("READY=1"); err != nil {
			h.log.Warn("telling systemd", "error", err)
		}
		h.log.Info("cell is up", "after", time.Since(h.started).Round(time.Millisecond), "source", h.engine.Source())
		// With thousands of peers booting takes several times what running does:
		// documents, batches for the kernel, all of it read back.
		debug.FreeOSMemory()
		return lifecycle.Guard(ctx, h.log, "engine", nil, h.engine.Run)
	})
	err := lifecycle.Run(ctx, append([]lifecycle.Task{boot}, h.tasks...)...)
	_ = sdNotify("STOPPING=1")
	return err
}

func (h *house) close() {
	if err := errors.Join(h.tunnel.Close(), h.audit.Close(), h.samples.Close(), h.logs.Close(), h.store.Close()); err != nil {
		h.log.Warn("closing", "error", err)
	}
}

// announce tells a setup code to who reads the journal or the console.
func (h *house) announce(code string) {
	if h.engine == nil || h.api == nil {
		return
	}
	if s, _ := h.engine.Running(); s != nil && !s.Claimed() {
		h.log.Info("setup code", "code", code, "fingerprint", h.certs.EphemeralFingerprint())
	}
}

// greet prints where to go on a fresh cell.
func (h *house) greet(out io.Writer) {
	fmt.Fprintf(out, "\nThis cell has no owner yet. Open one of\n")
	for _, u := range h.api.SetupURLs() {
		fmt.Fprintf(out, "    %s\n", u)
	}
	fmt.Fprintf(out, "and enter the setup code\n    %s\nThe certificate's SHA-256 fingerprint is\n    %s\n\n", h.code.Current(), h.certs.EphemeralFingerprint())
}

// showAlarm lets the web answer with its alarm although nothing is settled: the
// proxy and its certificate are this process's own, not the data plane.
func (h *house) showAlarm(ctx context.Context) {
	h.log.Error("the stored state was damaged: changes are closed until `pic recover`, everything in the kernel stays as it was")
	s, _ := h.engine.Running()
	if s == nil {
		s = &cell.State{}
	}
	routes, err := proxy.Compile(s, h.engine.Facts())
	if err == nil {
		_, err = h.proxy.Apply(ctx, routes)
	}
	if err != nil {
		h.log.Warn("showing the alarm on the web", "error", err)
	}
}

// initFile claims the cell from PIC_INIT_FILE and removes the file.
func (h *house) initFile(ctx context.Context) error {
	path := os.Getenv("PIC_INIT_FILE")
	if path == "" {
		return nil
	}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil // used at an earlier start
	}
	if err != nil {
		return fmt.Errorf("reading PIC_INIT_FILE: %w", err)
	}
	defer f.Close()
	if s, _ := h.engine.Running(); s == nil || s.Claimed() {
		h.log.Warn("init file ignored: the cell is claimed", "path", path)
		return nil
	}
	d := json.NewDecoder(io.LimitReader(f, 64<<10))
	d.DisallowUnknownFields()
	var draft api.Draft
	if err := d.Decode(&draft); err != nil {
		return fmt.Errorf("reading PIC_INIT_FILE: %w", err)
	}
	if _, err := h.api.Claim(ctx, draft); err != nil {
		return fmt.Errorf("claiming from PIC_INIT_FILE: %w", err)
	}
	if err := os.Remove(path); err != nil {
		h.log.Warn("removing the init file, which holds the password", "error", err)
	}
	return nil
}

// serveSocket serves the API on {runtime}/pic.sock for root and pic-admin.
func (h *house) serveSocket(ctx context.Context) error {
	path := filepath.Join(h.flags.runtime, "pic.sock")
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("listening on the local socket: %w", err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return errors.Join(err, l.Close())
	}
	if g, err := user.LookupGroup(auth.AdminGroup); err == nil {
		if gid, err := strconv.Atoi(g.Gid); err == nil {
			if err := os.Chown(path, 0, gid); err != nil {
				h.log.Warn("giving the socket to its group", "group", auth.AdminGroup, "error", err)
			}
		}
	}
	h.listens()
	peers := auth.NewSocketPeers(&auth.SocketConfig{Log: h.log})
	return h.serveHTTP(ctx, "socket", l, &http.Server{Handler: h.api.Socket(), ConnContext: peers.ConnContext})
}

func (h *house) notices() []cell.Notice {
	if n := h.initProblem.Load(); n != nil {
		return []cell.Notice{*n}
	}
	return nil
}

// applyProxy swaps the routes and says which web port it could not get.
func (h *house) applyProxy(ctx context.Context, r proxy.Routes) (bool, error) {
	changed, err := h.proxy.Apply(ctx, r)
	if err == nil {
		err = h.proxy.Listening()
	}
	return changed, err
}

// selfCheck is what the watchdog asks: does the engine answer?
func (h *house) selfCheck(ctx context.Context) error {
	done := make(chan struct{})
	go func() { h.engine.Status(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
