package child

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/atomicfile"
	"github.com/personal-internet-cell/pic/internal/cgroup"
)

// OpenVPNConfig is what an [OpenVPN] is made of.
type OpenVPNConfig struct {
	ID   string
	Link string // the exit's, such as tun0
	// Profile is the allow-listed profile, with its certificates inline.
	Profile cell.Secret
	// Username and Password are for auth-user-pass; Password alone unlocks an
	// encrypted key of the profile.
	Username string
	Password cell.Secret
	// RuntimeDir holds the management socket; made if need be.
	RuntimeDir string
	// Program is openvpn's path; "" looks for it.
	Program string
	// Configure gives the link exactly these addresses and this MTU and brings it
	// up. It is called again while the link is up, and changes nothing then.
	// openvpn does not do this: a server that pushes a large subnet would get a
	// route in the main table.
	Configure func(link string, mtu int, addresses []netip.Prefix) error
	// Keep is asked when Run's context ends: true leaves openvpn running, for the
	// next Run with the same configuration, also of another process. nil: false.
	Keep func() bool
	// Groups give openvpn limits of its own; nil: it has those of this process.
	Groups *cgroup.Tree
	// Changed is called after Status changed; may be nil.
	Changed func()
	Log     *slog.Logger
}

// OpenVPN is a supervised openvpn.
type OpenVPN struct {
	supervisor
	cfg  OpenVPNConfig
	link string
	as   *account // nil: as we are
}

// NewOpenVPN returns an openvpn that is not running yet.
func NewOpenVPN(c *OpenVPNConfig) *OpenVPN {
	o := &OpenVPN{cfg: *c, link: c.Link}
	o.name, o.log, o.changed = c.ID, c.Log, c.Changed
	o.status.State = cell.ExitDisabled
	o.as = lookup("pic-openvpn", "nobody")
	return o
}

func (o *OpenVPN) String() string         { return "openvpn of " + o.name }
func (o *OpenVPN) Ready() <-chan struct{} { return ready() }
func (o *OpenVPN) socket() string         { return socketOf(o.cfg.RuntimeDir, o.link) }

// closed is the folder below the runtime directory for openvpn's sockets, which
// openvpn itself makes open to everybody.
const closed = "openvpn"

func socketOf(dir, link string) string { return filepath.Join(dir, closed, link+".mgmt") }
func memoryOf(dir, link string) string { return filepath.Join(dir, closed, link+".json") }

// private makes dir, which others may pass through, and a folder in it that is
// ours alone.
func private(dir, name string) error {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return fmt.Errorf("making the runtime directory: %w", err)
	}
	if err := os.Chmod(dir, 0o711); err != nil { // also with another umask
		return fmt.Errorf("opening the runtime directory: %w", err)
	}
	p := filepath.Join(dir, name)
	if err := os.Mkdir(p, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("making the runtime directory: %w", err)
	}
	// Also with another umask, or when it was there.
	if err := os.Chmod(p, 0o700); err != nil {
		return fmt.Errorf("closing the runtime directory: %w", err)
	}
	return nil
}

func ready() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// Run keeps openvpn running until ctx is done. It then ends it, unless Keep says
// otherwise, and returns nil. Either way nothing leaks: what is routed to a link
// that is gone is unreachable.
func (o *OpenVPN) Run(ctx context.Context) error { return o.run(ctx, o.once) }

// memory is what the next process must know of an openvpn that is running.
type memory struct {
	Digest string `json:"digest"` // of all it was started with
	PID    int    `json:"pid"`
	Pushed pushed `json:"pushed"`
}

// once runs openvpn until it ends.
func (o *OpenVPN) once(ctx context.Context) error {
	directives, err := checkProfile(o.cfg.Profile.Reveal())
	if err != nil {
		return &problem{reason: err.Error(), lasting: true}
	}
	path, err := find(or(o.cfg.Program, "openvpn"), "openvpn")
	if err != nil {
		return err
	}
	if err := private(o.cfg.RuntimeDir, closed); err != nil {
		return err
	}
	args := o.arguments(directives)
	h := sha256.New()
	for _, s := range append([]string{path, o.cfg.Profile.Reveal(), o.cfg.Username, o.cfg.Password.Reveal()}, args...) {
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	s := &session{o: o, mem: memory{Digest: hex.EncodeToString(h.Sum(nil))}}
	conn, err := s.adopt()
	if err != nil {
		return err
	}
	if conn == nil {
		if conn, err = s.start(ctx, path, args); err != nil {
			return err
		}
	}
	return s.run(ctx, conn)
}

// adopt returns the connection to an openvpn that another process left running
// with this very configuration. One with another configuration is ended.
func (s *session) adopt() (net.Conn, error) {
	mem := recall(s.o.cfg.RuntimeDir, s.o.link)
	conn, err := net.DialTimeout("unix", s.o.socket(), time.Second)
	if err == nil && mem.Digest == s.mem.Digest {
		s.o.log.Info("found openvpn running", "exit", s.o.name, "pid", mem.PID)
		s.mem, s.adopted = mem, true
		return conn, nil
	}
	if err == nil {
		_ = conn.Close()
	}
	return nil, replace(s.o.cfg.RuntimeDir, s.o.link)
}

func recall(dir, link string) (m memory) {
	if b, err := os.ReadFile(memoryOf(dir, link)); err != nil || json.Unmarshal(b, &m) != nil {
		return memory{}
	}
	return m
}

func (s *session) remember() {
	b, err := json.Marshal(s.mem)
	if err == nil {
		err = atomicfile.Write(memoryOf(s.o.cfg.RuntimeDir, s.o.link), b, 0o600)
	}
	if err != nil { // the next process will replace this openvpn instead of taking it over
		s.o.log.Warn("remembering the openvpn failed", "exit", s.o.name, "error", err)
	}
}

// replace ends what runs with this link's management socket: it is asked, and
// killed when it does not answer.
func replace(dir, link string) error {
	socket, mem := socketOf(dir, link), recall(dir, link)
	if conn, err := net.DialTimeout("unix", socket, time.Second); err == nil {
		m := newManagement(conn)
		_ = conn.SetDeadline(time.Now().Add(stopWithin))
		err := m.send("signal SIGTERM")
		for err == nil {
			_, err = m.next()
		}
		_ = conn.Close()
		if errors.Is(err, os.ErrDeadlineExceeded) && isOpenVPN(mem.PID, socket) {
			_ = syscall.Kill(mem.PID, syscall.SIGKILL)
		}
	} else if isOpenVPN(mem.PID, socket) { // it hangs, or its socket was removed
		_ = syscall.Kill(mem.PID, syscall.SIGKILL)
	}
	for deadline := time.Now().Add(stopWithin); isOpenVPN(mem.PID, socket); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("ending an earlier openvpn: process %d stays", mem.PID)
		}
	}
	for _, f := range []string{socket, memoryOf(dir, link)} {
		if err := os.Remove(f); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("tidying the runtime directory: %w", err)
		}
	}
	return nil
}

// isOpenVPN reports whether pid is the openvpn with that management socket,
// and not a process that has its number now.
func isOpenVPN(pid int, socket string) bool {
	if pid <= 1 {
		return false
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && strings.Contains(string(b), "\x00"+socket+"\x00")
}

// Sweep ends every openvpn that an earlier process left running in dir, except
// those of the links in keep: their exit is gone.
func Sweep(dir string, keep []string, log *slog.Logger) error {
	files, err := filepath.Glob(socketOf(dir, "*"))
	if err != nil {
		return err
	}
	var errs []error
next:
	for _, f := range files {
		link := strings.TrimSuffix(filepath.Base(f), ".mgmt")
		for _, k := range keep {
			if k == link {
				continue next
			}
		}
		log.Info("ending an openvpn whose exit is gone", "link", link)
		errs = append(errs, replace(dir, link))
	}
	return errors.Join(errs...)
}

// start starts openvpn and connects to it.
func (s *session) start(ctx context.Context, path string, args []string) (net.Conn, error) {
	p, err := start(&command{
		path: path, args: args, stdin: s.o.cfg.Profile.Reveal(), log: s.o.log, line: s.early,
		groups: s.o.cfg.Groups, group: "openvpn-" + s.o.cfg.ID, limits: cgroup.Limits{Memory: 128 << 20, Tasks: 16},
	})
	if err != nil {
		return nil, err
	}
	s.process = p
	s.mem.PID = p.cmd.Process.Pid
	deadline := time.Now().Add(10 * time.Second)
	for {
		conn, err := net.DialTimeout("unix", s.o.socket(), time.Second)
		if err == nil {
			s.remember()
			return conn, nil
		}
		select {
		case <-p.done:
			return nil, s.ended()
		case <-ctx.Done():
			p.end(nil)
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			p.end(nil)
			return nil, errors.New("openvpn does not open its management socket")
		}
	}
}

func or(s, otherwise string) string {
	if s != "" {
		return s
	}
	return otherwise
}
