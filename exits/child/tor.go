package child

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/cgroup"
)

// TorConfig is what a [Tor] is made of.
type TorConfig struct {
	ID string
	// Countries are where to leave, two letters each; empty: anywhere.
	Countries []string
	// Bridges are bridge lines without the word Bridge.
	Bridges []string
	// RuntimeDir holds tor's sockets, in a folder named after the exit; DataDir
	// is tor's own, for this exit alone. Where this process may change users
	// both must be reachable for tor's user, or tor runs as we do.
	RuntimeDir, DataDir string
	// Program is tor's path; "" looks for it.
	Program string
	// Groups give tor limits of its own; nil: it has those of this process.
	Groups *cgroup.Tree
	// Extra are lines of torrc that tests need.
	Extra []string
	// Changed is called after Status changed; may be nil.
	Changed func()
	Log     *slog.Logger
}

// Tor is a supervised tor. It ends with this process, whichever way that ends:
// what it carries comes from a relay in this process.
type Tor struct {
	supervisor
	cfg TorConfig
	as  *account // nil: as we are
}

// torPatience is how long tor may take to be of use before the exit is blocked.
const torPatience = 2 * time.Minute

// NewTor returns a tor that is not running yet.
func NewTor(c *TorConfig) *Tor {
	t := &Tor{cfg: *c}
	t.name, t.log, t.changed = c.ID, c.Log, c.Changed
	t.status.State = cell.ExitDisabled
	return t
}

func (t *Tor) String() string         { return "tor of " + t.name }
func (t *Tor) Ready() <-chan struct{} { return ready() }

// SOCKSAddr is the path of tor's SOCKS5 socket. Connections with different
// user names get circuits of their own.
func (t *Tor) SOCKSAddr() string     { return filepath.Join(t.dir(), "socks") }
func (t *Tor) dir() string           { return filepath.Join(t.cfg.RuntimeDir, t.cfg.ID) }
func (t *Tor) controlSocket() string { return filepath.Join(t.dir(), "control") }

// Run keeps tor running until ctx is done, then ends it and returns nil.
func (t *Tor) Run(ctx context.Context) error { return t.run(ctx, t.once) }

// once runs tor until it ends.
func (t *Tor) once(ctx context.Context) error {
	path, err := find(or(t.cfg.Program, "tor"), "tor")
	if err != nil {
		return err
	}
	c := torrc{
		dir: t.dir(), data: t.cfg.DataDir, countries: t.cfg.Countries, bridges: t.cfg.Bridges, extra: t.cfg.Extra,
		owner: os.Getpid(), password: rand.Text(),
	}
	if err := c.look(); err != nil {
		return err
	}
	text, err := c.text()
	if err != nil {
		return &problem{reason: err.Error(), lasting: true}
	}
	if err := t.folders(); err != nil {
		return err
	}
	// A file of defaults on the machine is not for this tor.
	p, err := start(&command{
		path: path, args: []string{"-f", "-", "--defaults-torrc", "/dev/null"}, stdin: text,
		as: t.as, with: true, log: t.log, line: t.logged,
		groups: t.cfg.Groups, group: "tor-" + t.cfg.ID, limits: cgroup.Limits{Memory: 512 << 20, Tasks: 64},
	})
	if err != nil {
		return err
	}
	defer p.end(nil) // also after a panic
	k, err := t.connect(ctx, p, c.password)
	if err != nil {
		return err
	}
	defer k.close()
	return t.follow(ctx, p, k)
}

// folders makes tor's folders, and chooses whom it runs as.
func (t *Tor) folders() error {
	if err := private(t.cfg.RuntimeDir, t.cfg.ID); err != nil {
		return err
	}
	// The one above may be passed through, for tor's user.
	if err := os.MkdirAll(filepath.Dir(t.cfg.DataDir), 0o711); err != nil {
		return fmt.Errorf("making tor's data directory: %w", err)
	}
	if err := os.Chmod(filepath.Dir(t.cfg.DataDir), 0o711); err != nil { // also with another umask
		return fmt.Errorf("making tor's data directory: %w", err)
	}
	if err := os.Mkdir(t.cfg.DataDir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("making tor's data directory: %w", err)
	}
	t.as = lookup("debian-tor")
	if t.as != nil && (!reachable(t.cfg.RuntimeDir) || !reachable(filepath.Dir(t.cfg.DataDir))) {
		t.log.Warn("tor's user can't reach its folders: tor runs as the cell does", "exit", t.name, "user", t.as.name)
		t.as = nil
	}
	for _, s := range []string{t.SOCKSAddr(), t.controlSocket()} { // of a tor that was killed
		if err := os.Remove(s); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("tidying the runtime directory: %w", err)
		}
	}
	uid, gid := os.Geteuid(), os.Getegid()
	if t.as == nil {
		return own(t.cfg.DataDir, uid, gid)
	}
	// Ours, and open to tor's group: this process may be a root that is not
	// allowed to look into others' folders.
	if err := errors.Join(os.Chown(t.dir(), uid, int(t.as.gid)), os.Chmod(t.dir(), 0o770)); err != nil {
		return fmt.Errorf("giving tor its runtime directory: %w", err)
	}
	return own(t.cfg.DataDir, int(t.as.uid), int(t.as.gid))
}

// own gives a folder and what is in it to a user. What can't be given, because
// another user ran tor before, is thrown away: tor fetches it again.
func own(dir string, uid, gid int) error {
	i, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if owner(i) == uid {
		return nil
	}
	if owner(i) != os.Geteuid() {
		if err := os.Chown(dir, os.Geteuid(), os.Getegid()); err != nil {
			return fmt.Errorf("taking over tor's data directory: %w", err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("emptying tor's data directory: %w", err)
		}
	}
	return os.Chown(dir, uid, gid)
}

// reachable reports whether every user may pass through dir and its parents.
func reachable(dir string) bool {
	for {
		i, err := os.Stat(dir)
		if err != nil || i.Mode()&0o001 == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
		dir = filepath.Dir(dir)
	}
}

// connect waits for the control socket and proves itself.
func (t *Tor) connect(ctx context.Context, p *process, password string) (*control, error) {
	deadline := time.Now().Add(20 * time.Second)
	for {
		conn, err := net.DialTimeout("unix", t.controlSocket(), time.Second)
		if err == nil {
			k := newControl(conn)
			// From here on tor ends when this connection does; the look at our
			// process id is no longer needed (control-spec, TAKEOWNERSHIP).
			for _, c := range []string{`AUTHENTICATE "` + password + `"`, "TAKEOWNERSHIP", "RESETCONF __OwningControllerProcess"} {
				if _, err := k.command(c); err != nil {
					k.close()
					return nil, fmt.Errorf("taking control of tor: %w", err)
				}
			}
			return k, nil
		}
		select {
		case <-p.done:
			return nil, torEnded(p)
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return nil, errors.New("tor does not open its control socket")
		}
	}
}

// follow keeps the status true until tor ends or ctx does.
func (t *Tor) follow(ctx context.Context, p *process, k *control) error {
	since := time.Now() // not up
	for {
		s, err := k.status()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.done:
			return torEnded(p)
		default:
		}
		if err != nil {
			return fmt.Errorf("asking tor how it is: %w", err)
		}
		wait := 5 * time.Second
		if s.established && s.progress == 100 {
			since = time.Now()
			t.set(func(st *ChildStatus) {
				st.State, st.Reason, st.Missing = cell.ExitUp, "", false
				st.DNS = nil
				if s.dns.IsValid() {
					st.DNS = []netip.AddrPort{s.dns}
				}
			})
		} else {
			wait = 500 * time.Millisecond
			state := cell.ExitConnecting
			if time.Since(since) > torPatience {
				state = cell.ExitBlocked
			}
			t.say(state, t.words(s))
		}
		t.set(func(st *ChildStatus) { st.Received, st.Sent = s.read, s.written })
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.done:
			return torEnded(p)
		case <-time.After(wait):
		}
	}
}

// words say how far tor has come.
func (t *Tor) words(s torStatus) string {
	if s.progress == 100 {
		if len(t.cfg.Countries) > 0 {
			return "tor finds no way out in the countries that were chosen (" + strings.Join(t.cfg.Countries, ", ") + ")"
		}
		return "tor looks for a way through its network"
	}
	text := fmt.Sprintf("%d %%: %s", s.progress, clip(s.summary))
	if s.warning != "" {
		text += " (" + clip(s.warning) + ")"
	}
	return text
}

// torEnded says why tor ended: its last complaint.
func torEnded(p *process) error {
	last := "without a word"
	for _, l := range p.last() {
		if _, text, ok := strings.Cut(l, "[err] "); ok {
			last = text
		} else if _, text, ok := strings.Cut(l, "[warn] "); ok && !strings.Contains(text, "as root") {
			last = text
		}
	}
	if strings.Contains(last, "Failed to parse/validate config") || strings.Contains(last, "Reading config failed") {
		return &problem{reason: "tor does not accept its configuration: " + clip(last), lasting: true}
	}
	return fmt.Errorf("tor ended: %s", clip(last))
}

// logged takes a line of tor's log. Tor leaves addresses of destinations out of
// it (SafeLogging).
func (t *Tor) logged(line string) {
	_, text, ok := strings.Cut(line, "] ")
	switch {
	case !ok:
	case strings.Contains(line, "[warn]"), strings.Contains(line, "[err]"):
		t.log.Warn("tor says", "exit", t.name, "text", clip(text))
	default:
		t.log.Debug("tor says", "exit", t.name, "text", clip(text))
	}
}
