package dialer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

const (
	// keepaliveInterval and keepaliveCount are what OpenSSH's manual suggests for
	// ServerAliveInterval and has for ServerAliveCountMax.
	keepaliveInterval = 15 * time.Second
	keepaliveCount    = 3

	// A connection that held so long is renewed at once when it is lost.
	steady     = 10 * time.Second
	minBackoff = time.Second
	maxBackoff = time.Minute
	// Wrong credentials and a changed key don't mend themselves, and servers
	// lock out who insists.
	refusedBackoff = 5 * time.Minute

	// defaultChannels bounds memory: an SSH channel whose reader stopped holds up
	// to 2 MiB (the window of x/crypto/ssh).
	defaultChannels = 512
)

// SSHConfig describes an SSH server that forwards TCP (RFC 4254 §7.2).
type SSHConfig struct {
	Host string
	Port uint16
	User string
	Auth cell.SSHAuth
	// Credential is the private key (OpenSSH or PEM, without a passphrase) or the
	// password.
	Credential cell.Secret
	// HostKey is the pinned key as in authorized_keys. "" means that the first
	// one seen is given to Pin and pinned when that returns nil.
	HostKey string
	// Pin keeps a key for good; nil means that without HostKey nothing connects
	// and [ErrHostKey] tells the key.
	Pin func(key string) error

	Base        Dialer        // connects to the server; nil means &Direct{}
	Timeout     time.Duration // of a connection attempt and of a dial; 0 means 15 s
	Keepalive   time.Duration // between two looks at the server; 0 means 15 s; three without an answer end the connection
	Connections int           // kept at a time, 1 to 4; 0 means 1
	MaxChannels int           // open at a time over all connections; 0 means 512
	Log         *slog.Logger  // nil means none
}

// SSH dials through channels of a few connections to an SSH server, which Run
// keeps.
type SSH struct {
	cfg  SSHConfig
	addr string
	auth ssh.AuthMethod
	key  *hostKey
	bad  error // the configuration can't work
	kick chan struct{}

	mu       sync.Mutex
	links    []*link
	channels int
	running  bool
	stopped  bool          // Run has ended
	ended    int           // attempts to connect that have ended
	last     error         // why the last one failed, or the connection was lost; nil while it is worth waiting
	changed  chan struct{} // closed at the next change of the above
}

var _ Dialer = (*SSH)(nil)

// NewSSH returns a dialer; nothing is connected before Run or Check. It copies
// cfg. A key that can't be read is an [ErrAuth] of every call.
func NewSSH(cfg *SSHConfig) *SSH {
	s := &SSH{
		cfg:     *cfg,
		addr:    net.JoinHostPort(cfg.Host, strconv.Itoa(int(cfg.Port))),
		kick:    make(chan struct{}, 1),
		changed: make(chan struct{}),
	}
	c := &s.cfg
	if c.Base == nil {
		c.Base = &Direct{}
	}
	c.Timeout = orDefault(c.Timeout, handshakeTimeout)
	c.Keepalive = orDefault(c.Keepalive, keepaliveInterval)
	c.Connections = min(orDefault(c.Connections, 1), 4)
	c.MaxChannels = orDefault(c.MaxChannels, defaultChannels)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if s.auth, s.bad = authMethod(cfg.Auth, cfg.Credential); s.bad != nil {
		s.bad = fmt.Errorf("%w: %w", ErrAuth, s.bad)
	}
	var err error
	if s.key, err = newHostKey(cfg.HostKey, cfg.Pin); err != nil {
		s.bad = upstream("checking who the server is", err)
	}
	return s
}

func orDefault[T comparable](v, d T) T {
	if v == *new(T) {
		return d
	}
	return v
}

func authMethod(auth cell.SSHAuth, credential cell.Secret) (ssh.AuthMethod, error) {
	if auth == cell.SSHPassword {
		return ssh.PasswordCallback(func() (string, error) { return credential.Reveal(), nil }), nil
	}
	signer, err := ssh.ParsePrivateKey([]byte(credential.Reveal()))
	if missing := (*ssh.PassphraseMissingError)(nil); errors.As(err, &missing) {
		return nil, errors.New("the private key has a passphrase: give one without")
	}
	if err != nil { // the parser's words might hold a piece of the key
		return nil, errors.New("the private key can't be read: an OpenSSH or PEM key is needed")
	}
	return ssh.PublicKeys(signer), nil
}

// methods are tried in order. Many servers ask for a password only by
// keyboard-interactive (RFC 4256); each hidden question gets it, visible ones
// nothing.
func (s *SSH) methods() []ssh.AuthMethod {
	if s.cfg.Auth != cell.SSHPassword {
		return []ssh.AuthMethod{s.auth}
	}
	return []ssh.AuthMethod{s.auth, ssh.KeyboardInteractive(func(_, _ string, questions []string, echos []bool) ([]string, error) {
		answers := make([]string, len(questions))
		for i := range answers {
			if i < len(echos) && !echos[i] {
				answers[i] = s.cfg.Credential.Reveal()
			}
		}
		return answers, nil
	})}
}

// connect logs in. dead tells when the carrier can't be read any more.
func (s *SSH) connect(ctx context.Context) (_ *ssh.Client, dead *atomic.Bool, _ error) {
	if s.bad != nil {
		return nil, nil, s.bad
	}
	dead = new(atomic.Bool)
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	c, err := s.cfg.Base.DialContext(ctx, "tcp", s.addr)
	if err != nil {
		if !errors.Is(err, ErrUpstream) {
			err = upstream("connecting to the SSH server", err)
		}
		return nil, nil, err
	}
	var (
		client  *ssh.Client
		refused error
	)
	keyErr := make(chan error, 1) // the library may keep only the text
	cfg := &ssh.ClientConfig{
		User: s.cfg.User, Auth: s.methods(),
		HostKeyAlgorithms: s.key.algorithms(),
		HostKeyCallback: func(host string, a net.Addr, k ssh.PublicKey) error { // at every exchange of keys
			err := s.key.check(host, a, k)
			if err != nil {
				select {
				case keyErr <- err:
				default:
				}
			}
			return err
		},
	}
	err = within(ctx, c, func() error {
		conn, channels, requests, err := ssh.NewClientConn(watched{c, dead}, s.addr, cfg)
		if err != nil {
			refused = authRefused(err)
			return upstream("starting SSH", errors.New(clip(err.Error())))
		}
		client = ssh.NewClient(conn, channels, requests)
		return nil
	})
	switch {
	case err == nil:
		return client, dead, nil
	case client != nil: // the time was up just then
		_ = client.Close()
	default:
		_ = c.Close()
	}
	select {
	case err := <-keyErr:
		return nil, nil, err
	default:
	}
	if refused != nil {
		return nil, nil, refused
	}
	return nil, nil, err
}

// authRefused tells a refusal from a broken connection, by the words of the
// library (no method is left; SSH_MSG_USERAUTH_FAILURE at a second method) and
// of OpenSSH (disconnect after MaxAuthTries).
func authRefused(err error) error {
	for _, s := range []string{"unable to authenticate", "unexpected message type 51 ", "Too many authentication failures"} {
		if strings.Contains(err.Error(), s) {
			return fmt.Errorf("%w by the SSH server: %s", ErrAuth, clip(err.Error()))
		}
	}
	return nil
}

// Run keeps the connections, each renewed after a pause that doubles from a
// second up to a minute, and ends them all, and every channel, when ctx does.
func (s *SSH) Run(ctx context.Context) error {
	s.update(func() { s.running, s.stopped = true, false })
	defer s.update(func() { s.running, s.stopped, s.last = false, true, nil })
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := range s.cfg.Connections {
		wg.Go(func() {
			_ = lifecycle.Guard(ctx, s.cfg.Log, s.String(), nil, func(ctx context.Context) error {
				s.keep(ctx, i)
				return nil
			})
		})
	}
	return nil
}

// keep connects again and again. Others than the first wait until that one
// succeeded, so that wrong credentials are tried once.
func (s *SSH) keep(ctx context.Context, n int) {
	pause := minBackoff
	for ctx.Err() == nil {
		if n > 0 && !s.first(ctx) {
			return
		}
		client, dead, err := s.connect(ctx)
		if err == nil {
			began := time.Now()
			err = s.hold(ctx, client, dead)
			if ctx.Err() == nil && time.Since(began) > steady {
				s.cfg.Log.Warn("ssh connection lost", "server", s.addr, "error", err)
				pause = minBackoff
				continue
			}
		}
		if ctx.Err() != nil {
			return
		}
		s.update(func() { s.last = err; s.ended++ })
		wait := pause
		if _, changed := errors.AsType[ErrHostKey](err); changed || errors.Is(err, ErrAuth) {
			wait = refusedBackoff
		}
		wait = wait/2 + rand.N(wait) // two cells don't come back in step
		s.cfg.Log.Warn("ssh connection not up", "server", s.addr, "error", err, "retry_in", wait.Round(time.Millisecond))
		select {
		case <-ctx.Done():
		case <-time.After(wait):
			pause = min(2*pause, maxBackoff)
		case <-s.kick:
			pause = minBackoff
		}
	}
}

// first waits until there is a connection.
func (s *SSH) first(ctx context.Context) bool {
	for {
		s.mu.Lock()
		n, changed := len(s.links), s.changed
		s.mu.Unlock()
		if n > 0 {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// update changes the fields under mu and wakes who waits for a change.
func (s *SSH) update(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
}

// Check asks the server whether it is still there, or, when nothing runs, logs
// in once and leaves. While a lost connection waits to be renewed it has that
// tried at once.
func (s *SSH) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	s.mu.Lock()
	running, before := s.running, s.ended
	var l *link
	if len(s.links) > 0 {
		l = s.links[0]
	}
	s.mu.Unlock()
	if l != nil {
		return l.alive(ctx)
	}
	if !running {
		client, _, err := s.connect(ctx)
		if err != nil {
			return err
		}
		return client.Close()
	}
	select {
	case s.kick <- struct{}{}:
	default:
	}
	for {
		s.mu.Lock()
		up, ended, last, changed := len(s.links) > 0, s.ended, s.last, s.changed
		s.mu.Unlock()
		if up {
			return nil
		}
		if ended > before && last != nil {
			return last
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return upstream("connecting to the SSH server", ctx.Err())
		}
	}
}

// UDP is false: SSH forwards TCP.
func (s *SSH) UDP() bool { return false }

// Ready is closed from the start: dials wait for the connection.
func (s *SSH) Ready() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

func (s *SSH) String() string { return "ssh " + s.addr }

// DialContext opens a channel. While the connection is being made, or Run has
// not begun, it waits;
// while it is lost and not to be renewed yet it returns the reason at once.
// The connection has deadlines and CloseWrite.
func (s *SSH) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	t, err := parseTarget(address)
	if err != nil {
		return nil, err
	}
	if network != "tcp" && network != "tcp4" && network != "tcp6" {
		return nil, fmt.Errorf("%w: SSH carries no %s", ErrRefused, clip(network))
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	for {
		l, err := s.pick(ctx)
		if err != nil {
			return nil, err
		}
		c, err := l.dial(ctx, t)
		if errors.Is(err, errLost) && ctx.Err() == nil {
			s.drop(l)
			continue // on another one
		}
		return c, err
	}
}

// pick returns the connection with the fewest channels.
func (s *SSH) pick(ctx context.Context) (*link, error) {
	for {
		s.mu.Lock()
		var best *link
		for _, l := range s.links {
			if best == nil || l.open < best.open {
				best = l
			}
		}
		full := s.channels >= s.cfg.MaxChannels
		if best != nil && !full {
			s.channels++
			best.open++
		}
		stopped, last, changed := s.stopped, s.last, s.changed
		s.mu.Unlock()
		switch {
		case full:
			return nil, fmt.Errorf("%w: %d connections through the SSH server are open, no more are", ErrRefused, s.cfg.MaxChannels)
		case best != nil:
			return best, nil
		case last != nil:
			return nil, last
		case stopped:
			return nil, upstream("connecting to the SSH server", errors.New("the dialer was stopped"))
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, upstream("connecting to the SSH server", ctx.Err())
		}
	}
}

// release gives a channel's place back.
func (s *SSH) release(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.channels--
	l.open--
}
