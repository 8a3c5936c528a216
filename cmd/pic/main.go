// Command pic is the Personal Internet Cell: `pic serve` is the appliance, the
// other subcommands talk to it over its local socket in the API's own words.
//
// It owns the wiring: which room gets which function of another. It must never
// hold logic that a room could hold.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// version is set by the linker.
var version = "devel"

const (
	defaultRuntime = "/run/pic"
	defaultState   = "/var/lib/pic"
)

// command is one subcommand: `pic NOUN VERB` or `pic VERB`.
type command struct {
	name  string // "peer add"
	args  string // for the usage line
	help  string
	flags func(*flag.FlagSet, *invocation)
	run   func(context.Context, *invocation) error
}

// invocation is one call of a subcommand.
type invocation struct {
	cmd    *command
	args   []string
	json   bool
	socket string
	out    io.Writer
	err    io.Writer
	in     io.Reader
	opt    options
	// stdinUsed: a flag has read standard input, which gives its text once.
	stdinUsed bool
}

// errUsage asks for the subcommand's usage line and exit status 2.
var errUsage = errors.New("usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run executes one command line and returns the exit status: 0 done, 1 failed,
// 2 not understood.
func run(ctx context.Context, args []string, in io.Reader, out, errw io.Writer) int {
	cmds := commands()
	if len(args) == 0 || args[0] == "help" || args[0] == "-h" || args[0] == "--help" {
		usage(out, cmds)
		return 0
	}
	cmd, rest := lookup(cmds, args)
	if cmd == nil {
		fmt.Fprintf(errw, "pic: there is no command %q; `pic help` lists them\n", strings.Join(args[:min(len(args), 2)], " "))
		return 2
	}
	inv := &invocation{cmd: cmd, out: out, err: errw, in: in}
	fs := flag.NewFlagSet("pic "+cmd.name, flag.ContinueOnError)
	fs.SetOutput(errw)
	fs.Usage = func() {
		fmt.Fprintf(errw, "usage: pic %s %s\n%s\n", cmd.name, cmd.args, cmd.help)
		fs.PrintDefaults()
	}
	fs.BoolVar(&inv.json, "json", false, "print JSON")
	fs.StringVar(&inv.socket, "socket", socketDefault(), "the cell's local socket")
	if cmd.flags != nil {
		cmd.flags(fs, inv)
	}
	pos, err := parse(fs, rest)
	if err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	inv.args = pos
	switch err := cmd.run(ctx, inv); {
	case err == nil:
		return 0
	case errors.Is(err, errUsage):
		fs.Usage()
		return 2
	default:
		fmt.Fprintf(errw, "pic: %v\n", err)
		return 1
	}
}

// parse lets flags stand before and after the arguments, as people write them.
func parse(fs *flag.FlagSet, args []string) ([]string, error) {
	var pos []string
	for {
		if err := fs.Parse(args); err != nil {
			return nil, err
		}
		args = fs.Args()
		if len(args) == 0 {
			return pos, nil
		}
		pos = append(pos, args[0])
		args = args[1:]
	}
}

func socketDefault() string {
	if s := os.Getenv("PIC_SOCKET"); s != "" {
		return s
	}
	return filepath.Join(defaultRuntime, "pic.sock")
}

func lookup(cmds []command, args []string) (*command, []string) {
	for n := min(2, len(args)); n > 0; n-- {
		name := strings.Join(args[:n], " ")
		if i := slices.IndexFunc(cmds, func(c command) bool { return c.name == name }); i >= 0 {
			return &cmds[i], args[n:]
		}
	}
	return nil, nil
}

func usage(w io.Writer, cmds []command) {
	fmt.Fprintf(w, "pic %s: a Personal Internet Cell\n\n", version)
	for _, c := range cmds {
		fmt.Fprintf(w, "  %-42s %s\n", strings.TrimSpace("pic "+c.name+" "+c.args), c.help)
	}
	fmt.Fprint(w, "\nEvery command takes --json and --socket PATH; `pic COMMAND -h` lists its flags.\n")
}

// commands is the table of subcommands.
func commands() []command {
	return slices.Concat(serveCommands(), stateCommands(), peerCommands(), exitCommands(), explainCommands(), adminCommands(), identityCommands(), earlyCommands())
}
