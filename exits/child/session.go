package child

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

const (
	// patience is how long an exit may be connecting before it is blocked.
	patience = 30 * time.Second
	// configureEvery is how often the link's addresses are looked after.
	configureEvery = 15 * time.Second
	// lastHold bounds the pause between two attempts of a running openvpn.
	lastHold = 30 * time.Second
)

// session is one openvpn and the connection to it. Its fields belong to the
// goroutine of run, but for hint.
type session struct {
	o       *OpenVPN
	process *process // nil: adopted
	adopted bool
	mem     memory
	m       *management

	mu   sync.Mutex
	hint *problem // what was printed last, or the first thing that only a person can mend

	env       map[string]string // of the UPDOWN event being read
	up        bool
	downSince time.Time
	attempts  int       // since it was up
	release   time.Time // of the hold; zero: none
	looked    time.Time // after the link
}

// early takes what openvpn prints before there is a management connection, and
// after.
func (s *session) early(line string) { s.note(hint(line)) }

// note keeps p unless there is something better.
func (s *session) note(p *problem) {
	if p == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hint == nil || !s.hint.lasting && !s.hint.auth && !p.vague {
		s.hint = p
	}
}

func (s *session) noted() *problem {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hint
}

// run drives openvpn until it ends or ctx does.
func (s *session) run(ctx context.Context, conn net.Conn) error {
	s.m = newManagement(conn)
	events := make(chan event)
	quit := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(events)
		_ = lifecycle.Protect(s.o.log, "openvpn management", func() error {
			for {
				e, err := s.m.next()
				if err != nil {
					return err
				}
				select {
				case events <- e:
				case <-quit:
					return nil
				}
			}
		})
	})
	kept := false
	defer func() { // also after a panic
		close(quit)
		if !kept {
			s.end()
		}
		_ = conn.Close()
		reader.Wait()
	}()
	s.downSince = time.Now()
	begin := []string{"log on", "state on", "bytecount 5"}
	if s.adopted {
		begin = append(begin, "state")
	}
	if err := s.m.send(begin...); err != nil {
		return fmt.Errorf("writing to openvpn: %w", err)
	}
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			kept = s.o.cfg.Keep != nil && s.o.cfg.Keep()
			return ctx.Err()
		case e, ok := <-events:
			if !ok {
				return s.ended()
			}
			err = s.handle(e)
		case now := <-tick.C:
			err = s.tick(now)
		}
		if err != nil {
			return err
		}
	}
}

// end ends openvpn.
func (s *session) end() {
	if s.process != nil {
		s.process.end(func() {
			if s.m.send("signal SIGTERM") != nil {
				_ = s.process.cmd.Process.Kill()
			}
		})
	}
	if err := replace(s.o.cfg.RuntimeDir, s.o.link); err != nil {
		s.o.log.Warn("ending openvpn failed", "exit", s.o.name, "error", err)
	}
}

// ended says why openvpn ended.
func (s *session) ended() error {
	if s.process != nil {
		select {
		case <-s.process.done:
		case <-time.After(stopWithin):
		}
	}
	if p := s.noted(); p != nil {
		return p
	}
	if s.process == nil {
		return errors.New("openvpn ended")
	}
	last := s.process.last()
	if len(last) == 0 {
		return errors.New("openvpn ended without a word")
	}
	return fmt.Errorf("openvpn ended: %s", clip(last[len(last)-1]))
}

func (s *session) handle(e event) error {
	switch e.kind {
	case "HOLD":
		s.hold()
	case "STATE":
		if st, ok := parseState(e.text); ok {
			return s.state(st)
		}
	case "": // the answer to "state"
		if st, ok := parseState(e.text); ok {
			return s.state(st)
		}
	case "LOG":
		s.logged(e.text)
	case "FATAL":
		s.note(hint(e.text))
		s.note(&problem{reason: clip(e.text)})
	case "PASSWORD":
		return s.password(e.text)
	case "UPDOWN":
		return s.upDown(e.text)
	case "BYTECOUNT":
		if received, sent, ok := parseCounts(e.text); ok {
			s.o.set(func(st *ChildStatus) { st.Received, st.Sent = received, sent })
		}
	}
	return nil
}

// hold is openvpn waiting to be let go: at the start at once, after that with a
// growing pause.
func (s *session) hold() {
	s.release = time.Now()
	if s.attempts == 0 {
		return
	}
	wait := grow(firstPause, lastHold, s.attempts)
	if p := s.noted(); p != nil && (p.lasting || p.auth) {
		wait = grow(slowPause, lastSlow, s.attempts)
	}
	s.release = s.release.Add(wait)
}

// doing are openvpn's states in words.
var doing = map[string]string{
	"CONNECTING": "connecting", "RESOLVE": "looking up the server's name", "TCP_CONNECT": "connecting to the server",
	"WAIT": "waiting for the server", "AUTH": "authenticating", "AUTH_PENDING": "the server wants more proof, which nobody here can give",
	"GET_CONFIG": "asking the server for addresses", "ASSIGN_IP": "setting addresses", "ADD_ROUTES": "setting addresses",
}

// lost are openvpn's reasons to try again, in words.
var lost = map[string]string{
	"tls-error": "the server does not answer", "ping-restart": "the server has gone silent", "server_poll": "the server does not answer",
	"connection-reset": "the server closed the connection", "remote-exit": "the server ended the connection", "auth-failure": "the server refuses the user name or the password",
}

func (s *session) state(st vpnState) error {
	switch st.name {
	case "CONNECTED":
		if s.mem.Pushed.Address4 != st.address4 && st.address4.IsValid() && s.adopted { // it reconnected while nobody looked
			s.mem.Pushed.Address4, s.mem.Pushed.Address6 = st.address4, st.address6
		}
		return s.connected()
	case "RECONNECTING":
		s.attempts++
		why := lost[st.detail]
		if why == "" {
			why = "the connection was lost (" + clip(st.detail) + ")"
		}
		s.note(&problem{reason: why, vague: true})
		s.down(s.noted().reason)
	case "EXITING":
		if st.detail == "auth-failure" {
			s.note(refused(""))
		}
		s.down("ending")
	default:
		if what, ok := doing[st.name]; ok && s.o.Status().State == cell.ExitConnecting {
			s.o.say(cell.ExitConnecting, what)
		}
	}
	return nil
}

// down notes that the exit carries nothing, and why.
func (s *session) down(reason string) {
	if s.up {
		s.up, s.downSince = false, time.Now()
	}
	state := cell.ExitConnecting
	p := s.noted()
	if time.Since(s.downSince) > patience || p != nil && (p.lasting || p.auth) {
		state = cell.ExitBlocked
	}
	s.o.say(state, reason)
	s.o.set(func(st *ChildStatus) { st.Auth = p != nil && p.auth })
}

// connected is the tunnel in working order.
func (s *session) connected() error {
	if err := s.configure(); err != nil {
		return err
	}
	s.up, s.attempts = true, 0
	s.mu.Lock()
	s.hint = nil
	s.mu.Unlock()
	g := s.mem.Pushed
	s.o.set(func(st *ChildStatus) {
		st.State, st.Reason, st.Auth, st.Missing = cell.ExitUp, "", false, false
		st.Address4, st.Address6, st.DNS = g.Address4, g.Address6, g.DNS
	})
	return nil
}

// configure sets the link as the server said: each address alone, without the
// subnet it may claim.
func (s *session) configure() error {
	s.looked = time.Now()
	g := s.mem.Pushed
	var as []netip.Prefix
	for _, a := range []netip.Addr{g.Address4, g.Address6} {
		if a.IsValid() {
			as = append(as, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	if len(as) == 0 {
		return &problem{reason: "the server gave no address", lasting: true}
	}
	mtu := g.MTU
	if mtu == 0 {
		mtu = 1500
	}
	if g.Address6.IsValid() {
		mtu = max(mtu, 1280) // RFC 8200 §5
	}
	if err := s.o.cfg.Configure(s.o.link, mtu, as); err != nil {
		return fmt.Errorf("setting the addresses of %s: %w", s.o.link, err)
	}
	return nil
}

func (s *session) upDown(text string) error {
	if kv, ok := strings.CutPrefix(text, "ENV,"); ok {
		if kv != "END" {
			if k, v, ok := strings.Cut(kv, "="); ok && len(s.env) < maxEnv {
				s.env[k] = v
			}
			return nil
		}
		env := s.env
		s.env = nil
		if env["pic_event"] != "UP" {
			return nil
		}
		s.mem.Pushed = parsePushed(env)
		s.remember()
		return s.configure()
	}
	word, _, _ := strings.Cut(text, ",")
	s.env = map[string]string{"pic_event": word}
	return nil
}

// password answers a question for secrets. What it is asked is not logged.
func (s *session) password(text string) error {
	user, pass := s.o.cfg.Username, s.o.cfg.Password
	switch {
	case strings.HasPrefix(text, "Need ") && strings.ContainsFunc(user+pass.Reveal(), func(r rune) bool { return r < 0x20 || r == 0x7f }):
		// One more line would be one more command.
		return &problem{reason: "user name and password can't have control characters: enter them again", auth: true}
	case strings.HasPrefix(text, "Verification Failed: 'Auth'"):
		s.note(refused(""))
	case strings.HasPrefix(text, "Verification Failed: 'Private Key'"):
		return &problem{reason: "the password does not open the key in the profile: enter it again", auth: true}
	case strings.HasPrefix(text, "Need 'Auth'"):
		switch {
		case strings.Contains(text, " SC:"):
			return &problem{reason: "the server asks for a one-time code, which nobody here can give: ask for a profile without", auth: true}
		case user == "" || pass.Empty():
			return &problem{reason: "the server asks for a user name and a password: enter them", auth: true}
		}
		return s.m.send("username \"Auth\" "+quoted(user), "password \"Auth\" "+quoted(pass.Reveal()))
	case strings.HasPrefix(text, "Need 'Private Key'"):
		if pass.Empty() {
			return &problem{reason: "the key in the profile is locked: enter its password", auth: true}
		}
		return s.m.send("password \"Private Key\" " + quoted(pass.Reveal()))
	case strings.HasPrefix(text, "Need "):
		return &problem{reason: "the profile asks for a password of a kind that an exit can't have", lasting: true}
	}
	return nil
}

// logged takes a line of openvpn's log: time, flags, text. Lines with what the
// server pushed may hold a token.
func (s *session) logged(text string) {
	f := strings.SplitN(text, ",", 3)
	if len(f) < 3 {
		return
	}
	s.note(hint(f[2]))
	if strings.Contains(f[2], "PUSH") || strings.Contains(f[2], "auth-token") {
		return
	}
	if strings.ContainsAny(f[1], "FNW") {
		s.o.log.Warn("openvpn says", "exit", s.o.name, "text", clip(f[2]))
	} else {
		s.o.log.Debug("openvpn says", "exit", s.o.name, "text", clip(f[2]))
	}
}

func (s *session) tick(now time.Time) error {
	if !s.release.IsZero() && !now.Before(s.release) {
		s.release = time.Time{}
		s.mu.Lock()
		s.hint = nil // another attempt, another reason
		s.mu.Unlock()
		if err := s.m.send("hold release"); err != nil {
			return fmt.Errorf("writing to openvpn: %w", err)
		}
	}
	if s.up && now.Sub(s.looked) > configureEvery {
		return s.configure()
	}
	st := s.o.Status()
	p := s.noted()
	final := p != nil && (p.lasting || p.auth)
	if !s.up && st.State == cell.ExitConnecting && (final || now.Sub(s.downSince) > patience) {
		reason := st.Reason
		if p != nil {
			reason = p.reason
		}
		s.down(reason)
	}
	return nil
}
