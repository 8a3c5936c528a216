// Command vmtest runs a test binary in a throw-away virtual machine with
// Debian's own kernel, so that tests meet kernel WireGuard and every nftables
// expression whatever the host's kernel lacks. It owns a cache folder and one
// QEMU process. It must never give the guest a network or report success for a
// guest that did not say so itself.
//
// It is made for `go test -exec`:
//
//	CGO_ENABLED=0 go test -p 1 -exec "bin/vmtest -x ip -x wg" ./rig/...
//	bin/vmtest -x ip -s 'ip link add wg0 type wireguard && ip link show wg0'
//
// The exit status is the test's own: 124 after the time limit, 125 when the
// machine ended without a status (a kernel panic, or QEMU could not start).
//
// QEMU emulates in software (TCG), so it runs wherever QEMU does, also inside
// another virtual machine; a run costs about three seconds.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// options are the command line.
type options struct {
	memory   int           // MiB of guest memory
	cpus     int           // virtual processors
	limit    time.Duration // wall clock for the whole run
	files    list          // SRC[:DST] to copy into the guest
	programs list          // host programs to add, with their libraries
	env      list          // NAME=VALUE
	modules  list          // kernel modules beside the default ones
	kernel   list          // words for the kernel's command line
	qemu     list          // words for QEMU's command line
	out      string        // host folder that receives the guest's /out
	console  string        // host file that receives the kernel's console
	shell    string        // shell text to run instead of a binary
	setup    bool          // only fill the cache
	args     []string      // the binary and its arguments
}

// list is a flag that may be given more than once.
type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(v string) error { *l = append(*l, v); return nil }

const (
	exitLimit = 124 // as timeout(1)
	exitRig   = 125 // the rig failed, not the test
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	code, err := run(ctx, os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "vmtest:", err)
	}
	stop()
	os.Exit(code)
}

func parse(args []string) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("vmtest", flag.ContinueOnError)
	f.IntVar(&o.memory, "m", 512, "guest memory in `MiB`")
	f.IntVar(&o.cpus, "c", 2, "virtual processors")
	f.DurationVar(&o.limit, "t", 5*time.Minute, "time limit for the whole run")
	f.Var(&o.files, "a", "add a file or folder, `SRC[:DST]`; DST is absolute in the guest")
	f.Var(&o.programs, "x", "add a host `program` with its shared libraries")
	f.Var(&o.env, "e", "set `NAME=VALUE` in the guest")
	f.Var(&o.modules, "M", "add a kernel `module` with its dependencies")
	f.Var(&o.kernel, "k", "add a kernel `parameter`")
	f.Var(&o.qemu, "q", "add a `word` to QEMU's command line")
	f.StringVar(&o.out, "o", "", "copy the guest's /out to this `folder`")
	f.StringVar(&o.console, "console", "", "keep the kernel's console in this `file`")
	f.StringVar(&o.shell, "s", "", "run this shell `text` instead of a binary")
	f.BoolVar(&o.setup, "setup", false, "fill the cache and stop")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	o.args = f.Args()
	if len(o.args) == 0 && o.shell == "" && !o.setup {
		f.Usage()
		return nil, errors.New("nothing to run: give a test binary or -s")
	}
	return o, nil
}

func run(ctx context.Context, args []string) (int, error) {
	o, err := parse(args)
	if err != nil {
		return exitRig, err
	}
	base, err := prepare(ctx, o.modules)
	if err != nil {
		return exitRig, fmt.Errorf("preparing the kernel: %w", err)
	}
	if o.setup {
		fmt.Println(base.dir)
		return 0, nil
	}
	work, err := os.MkdirTemp("", "vmtest-")
	if err != nil {
		return exitRig, err
	}
	defer os.RemoveAll(work)
	back, err := base.initramfs(filepath.Join(work, "initrd"), o)
	if err != nil {
		return exitRig, fmt.Errorf("building the initramfs: %w", err)
	}
	code, err := boot(ctx, base, work, o)
	if err != nil {
		return code, err
	}
	if err := bringBack(filepath.Join(work, "out.img"), o.out, back); err != nil {
		return exitRig, fmt.Errorf("bringing files back: %w", err)
	}
	return code, nil
}
