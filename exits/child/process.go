package child

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/personal-internet-cell/pic/internal/cgroup"
	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

const (
	// maxLine bounds a line that a program prints.
	maxLine = 4096
	// tailLines is how much of its output is kept for the reason of its end.
	tailLines = 20
	// stopWithin is how long a program may take to end before it is killed.
	stopWithin = 5 * time.Second
)

// command is a program to be started.
type command struct {
	path  string
	args  []string
	stdin string // its configuration, which so never lies in a file
	// as is the user to run as; nil: ours.
	as *account
	// with: the kernel ends the program with this process.
	with bool
	// group is the control group it gets, of groups; nil: none of its own.
	groups *cgroup.Tree
	group  string
	limits cgroup.Limits
	log    *slog.Logger
	// line is called for each line it prints, from one goroutine.
	line func(string)
}

// process is a program that runs.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed once it has ended and been read to the end
	err  error         // why; valid after done

	mu   sync.Mutex
	tail []string
}

func (p *process) print(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tail = append(p.tail, line); len(p.tail) > tailLines {
		p.tail = p.tail[1:]
	}
}

// last returns the last lines it printed.
func (p *process) last() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.tail...)
}

// start starts c. Who starts it waits for done.
func start(c *command) (*process, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making a pipe: %w", err)
	}
	p := &process{cmd: exec.Command(c.path, c.args...), done: make(chan struct{})}
	p.cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C", "HOME=/nonexistent"}
	p.cmd.Dir = "/"
	p.cmd.Stdin = strings.NewReader(c.stdin)
	p.cmd.Stdout, p.cmd.Stderr = w, w
	p.cmd.WaitDelay = time.Second                          // for its stdin
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a terminal's Ctrl-C is ours to handle
	if c.with {
		p.cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	if c.as != nil {
		p.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: c.as.uid, Gid: c.as.gid}
	}
	started := make(chan error, 1)
	go func() {
		// The death signal is tied to the thread that forked (golang/go#27505).
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		_ = w.Close()
		started <- err
		if err == nil {
			limit(p.cmd.Process.Pid)
			c.confine(p.cmd.Process.Pid)
			read(r, c, p)
			p.err = p.cmd.Wait()
			c.release()
		}
		_ = r.Close()
		close(p.done)
	}()
	if err := <-started; err != nil {
		<-p.done
		return nil, fmt.Errorf("starting %s: %w", c.path, err)
	}
	return p, nil
}

// read hands on what the program prints until it ends.
func read(r io.Reader, c *command, p *process) {
	b := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := b.ReadSlice('\n')
		if text := strings.TrimRight(string(line), "\r\n"); text != "" {
			p.print(text)
			if c.line != nil {
				_ = lifecycle.Protect(c.log, "output of "+filepath.Base(c.path), func() error { c.line(text); return nil })
			}
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// limit makes the program the one that ends when memory runs out, and keeps it
// from leaving its secrets in a core file. Best effort: it may have ended.
func limit(pid int) {
	_ = os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte("500"), 0o600)
	for resource, n := range map[int]uint64{unix.RLIMIT_CORE: 0, unix.RLIMIT_NOFILE: 4096} {
		_ = unix.Prlimit(pid, resource, &unix.Rlimit{Cur: n, Max: n}, nil)
	}
}

// confine puts the program into a control group. Without one it runs within the
// limits of the cell.
func (c *command) confine(pid int) {
	if c.groups == nil {
		return
	}
	if err := c.groups.Add(c.group, pid, c.limits); err != nil && !errors.Is(err, cgroup.ErrNotDelegated) {
		c.log.Warn("a program has no limits of its own", "program", filepath.Base(c.path), "error", err)
	}
}

func (c *command) release() {
	if c.groups == nil {
		return
	}
	if err := c.groups.Remove(c.group); err != nil {
		c.log.Warn("a program's limits were left behind", "program", filepath.Base(c.path), "error", err)
	}
}

// end makes the program end: by ask, which may be nil, or else by force.
func (p *process) end(ask func()) {
	if ask != nil {
		ask()
	} else {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
	}
	select {
	case <-p.done:
	case <-time.After(stopWithin):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// find returns the path of a program, or a problem with the command that
// installs it.
func find(name, packages string) (string, error) {
	if filepath.IsAbs(name) {
		if _, err := os.Stat(name); err == nil {
			return name, nil
		}
	} else if p, err := exec.LookPath(name); err == nil {
		return p, nil
	} else if p := "/usr/sbin/" + name; executable(p) {
		return p, nil
	}
	return "", &problem{reason: filepath.Base(name) + " is not installed: run apt install " + packages, missing: true}
}

func executable(path string) bool {
	i, err := os.Stat(path)
	return err == nil && i.Mode().IsRegular() && i.Mode()&0o111 != 0
}

// account is a user of the machine.
type account struct {
	name     string
	group    string
	uid, gid uint32
}

// lookup returns the first of the users that exists, nil when this process
// can't change users at all.
func lookup(names ...string) *account {
	if !capable(unix.CAP_SETUID) || !capable(unix.CAP_SETGID) || !capable(unix.CAP_CHOWN) || !capable(unix.CAP_KILL) {
		return nil
	}
	for _, name := range names {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		g, err3 := user.LookupGroupId(u.Gid)
		if err1 == nil && err2 == nil && err3 == nil && uid != 0 {
			return &account{name, g.Name, uint32(uid), uint32(gid)}
		}
	}
	return nil
}

// capable reports whether this process has a capability (capabilities(7)).
func capable(capability uint) bool {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var d [2]unix.CapUserData
	if err := unix.Capget(&h, &d[0]); err != nil {
		return false
	}
	return d[capability/32].Effective&(1<<(capability%32)) != 0
}
