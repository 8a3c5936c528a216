package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/personal-internet-cell/pic/api"
)

func adminCommands() []command {
	password := func(fs *flag.FlagSet, inv *invocation) {
		fs.BoolVar(&inv.opt.passwordStdin, "password-stdin", false, "read the password from standard input instead of asking")
	}
	return []command{
		{name: "setup-code", help: "the code that claims this cell", run: setupCode},
		{name: "doctor", help: "check the machine and say how to mend it", run: doctor},
		{name: "user list", help: "all users", run: userList},
		{
			name: "user add", args: "NAME", help: "add a user", run: userAdd,
			flags: func(fs *flag.FlagSet, inv *invocation) {
				password(fs, inv)
				fs.StringVar(&inv.opt.role, "role", "peer", "admin or peer")
			},
		},
		{name: "user remove", args: "NAME", help: "remove a user", run: userRemove, flags: writeFlags},
		{name: "user reset-password", args: "NAME", help: "set a user's password", run: userReset, flags: password},
		{
			name: "api", args: "METHOD PATH", help: "call any API operation", run: callAPI,
			flags: func(fs *flag.FlagSet, inv *invocation) {
				fs.StringVar(&inv.opt.data, "d", "", "the JSON body; @FILE reads it, - is standard input")
			},
		},
		{name: "openapi", help: "the API as OpenAPI 3.1", run: func(_ context.Context, inv *invocation) error {
			doc, err := openAPI()
			if err != nil {
				return err
			}
			return writeIndented(inv.out, doc)
		}},
		{name: "completion", args: "bash", help: "shell completion", run: completion},
		{name: "version", help: "this program's version", run: func(_ context.Context, inv *invocation) error {
			b, err := json.Marshal(map[string]string{"version": version, "go": runtime.Version(), "arch": runtime.GOARCH})
			if err != nil {
				return err
			}
			return inv.show(b, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "pic %s (%s, %s)\n", version, runtime.Version(), runtime.GOARCH)
				return err
			})
		}},
	}
}

func setupCode(ctx context.Context, inv *invocation) error {
	return fetch(ctx, inv, "/api/setup/code", func(w io.Writer, c api.SetupCode) error {
		fmt.Fprintf(w, "setup code: %s\ncertificate fingerprint (SHA-256): %s\n", c.Code, c.Fingerprint)
		for _, u := range c.URLs {
			fmt.Fprintf(w, "open %s\n", u)
		}
		return nil
	})
}

func userList(ctx context.Context, inv *invocation) error {
	return fetch(ctx, inv, "/api/auth/users", func(w io.Writer, l api.List[api.User]) error {
		var rows [][]string
		for _, u := range l.Items {
			rows = append(rows, []string{u.Name, string(u.Role), u.Created.Local().Format(time.DateOnly), strings.Join(u.Peers, ", ")})
		}
		return table(w, []string{"NAME", "ROLE", "SINCE", "PEERS"}, rows)
	})
}

// password asks twice on a terminal, or reads one line.
func (inv *invocation) password() (string, error) {
	if inv.opt.passwordStdin {
		line, err := bufio.NewReader(io.LimitReader(inv.in, 1024)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", err
		}
		return strings.TrimRight(line, "\r\n"), nil
	}
	f, is := inv.in.(*os.File)
	if !is || !term.IsTerminal(int(f.Fd())) {
		return "", errors.New("no terminal to ask for the password on: use --password-stdin")
	}
	fmt.Fprint(inv.err, "password: ")
	one, err := term.ReadPassword(int(f.Fd()))
	if err != nil {
		return "", err
	}
	fmt.Fprint(inv.err, "\nonce more: ")
	two, err := term.ReadPassword(int(f.Fd()))
	fmt.Fprintln(inv.err)
	if err != nil {
		return "", err
	}
	if !bytes.Equal(one, two) {
		return "", errors.New("the two passwords differ")
	}
	return string(one), nil
}

func userAdd(ctx context.Context, inv *invocation) error {
	if len(inv.args) != 1 {
		return errUsage
	}
	pw, err := inv.password()
	if err != nil {
		return err
	}
	return inv.mutate(ctx, http.MethodPost, "/api/auth/users", map[string]string{"name": inv.args[0], "role": inv.opt.role, "password": pw}, nil)
}

func userRemove(ctx context.Context, inv *invocation) error {
	if len(inv.args) != 1 {
		return errUsage
	}
	return inv.mutate(ctx, http.MethodDelete, "/api/auth/users/"+url.PathEscape(inv.args[0]), nil, nil)
}

func userReset(ctx context.Context, inv *invocation) error {
	if len(inv.args) != 1 {
		return errUsage
	}
	pw, err := inv.password()
	if err != nil {
		return err
	}
	return inv.mutate(ctx, http.MethodPost, "/api/auth/admin/reset-password", map[string]string{"user": inv.args[0], "password": pw}, nil)
}

// callAPI reaches every operation there is, so that the CLI lacks none.
func callAPI(ctx context.Context, inv *invocation) error {
	if len(inv.args) != 2 || !strings.HasPrefix(inv.args[1], "/") {
		return errUsage
	}
	var body any
	switch d := inv.opt.data; {
	case d == "":
	case d == "-":
		b, err := io.ReadAll(io.LimitReader(inv.in, 1<<20))
		if err != nil {
			return err
		}
		body = b
	case strings.HasPrefix(d, "@"):
		b, err := os.ReadFile(d[1:])
		if err != nil {
			return err
		}
		body = b
	default:
		body = []byte(d)
	}
	r, err := inv.client().call(ctx, strings.ToUpper(inv.args[0]), inv.args[1], body, nil)
	if err != nil {
		return err
	}
	return writeIndented(inv.out, r.body)
}

// completion prints a bash function made of the command table.
func completion(_ context.Context, inv *invocation) error {
	if len(inv.args) != 1 || inv.args[0] != "bash" {
		return errUsage
	}
	first, second := map[string]bool{}, map[string][]string{}
	var nouns []string
	for _, c := range commands() {
		n, v, two := strings.Cut(c.name, " ")
		if !first[n] {
			first[n] = true
			nouns = append(nouns, n)
		}
		if two {
			second[n] = append(second[n], v)
		}
	}
	fmt.Fprintf(inv.out, "_pic() {\n  local cur=${COMP_WORDS[COMP_CWORD]}\n  if [ \"$COMP_CWORD\" = 1 ]; then COMPREPLY=($(compgen -W %q -- \"$cur\")); return; fi\n  case ${COMP_WORDS[1]} in\n", strings.Join(nouns, " "))
	for _, n := range nouns {
		if len(second[n]) > 0 {
			fmt.Fprintf(inv.out, "    %s) [ \"$COMP_CWORD\" = 2 ] && COMPREPLY=($(compgen -W %q -- \"$cur\")) ;;\n", n, strings.Join(second[n], " "))
		}
	}
	_, err := fmt.Fprint(inv.out, "  esac\n}\ncomplete -F _pic pic\n")
	return err
}
