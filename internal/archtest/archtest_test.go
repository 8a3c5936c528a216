// Package archtest_test holds the import rules of docs/architecture.md as a test.
package archtest_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/personal-internet-cell/pic/"

// allowed lists what each room may import of ours. "…" after a room means the
// room and what is below it. A room that is not listed may import nothing.
var allowed = map[string][]string{
	"cell":                {},
	"ui":                  {},
	"internal/lifecycle":  {},
	"internal/atomicfile": {},
	"internal/textdiff":   {},
	"internal/listen":     {},
	"internal/cgroup":     {},
	"datastore":           {"cell", "internal/atomicfile"},
	"reconcile":           {"datastore", "cell", "internal/lifecycle", "internal/textdiff"},
	"backup":              {"datastore", "cell", "internal/atomicfile", "internal/lifecycle"},
	"api":                 {"auth", "reconcile", "cell", "internal/lifecycle"},
	"dns":                 column, "ntp": column, "tunnel": column, "firewall": column, "proxy": column, "certs": column,
	"exits":       append([]string{"internal/cgroup", "exits/child", "exits/dialer", "exits/profile", "exits/relay"}, column...),
	"exits/child": append([]string{"internal/cgroup"}, column...), "exits/dialer": column, "exits/profile": column, "exits/relay": column,
	"ddns": column, "store": column, "links": column, "auth": column,
	"cmd/pic": {"*"}, "cmd/lab": {"*"},
}

var column = []string{"cell", "internal/lifecycle", "internal/atomicfile", "internal/listen"}

// testOnly rooms are imported by _test.go files (and each other) only.
var testOnly = []string{"internal/netnstest", "internal/scenario", "internal/archtest", "internal/labtest"}

// fences name the rooms that may import a third-party module (by prefix).
var fences = map[string][]string{
	"github.com/gin-gonic/gin":           {"api"},
	"github.com/danielgtaylor/huma":      {"api"},
	"github.com/miekg/dns":               {"dns", "ddns"},
	"github.com/google/nftables":         {"firewall"},
	"golang.zx2c4.com/wireguard":         {"tunnel"},
	"github.com/vishvananda/netlink":     {"tunnel", "firewall", "internal/netnstest"},
	"github.com/vishvananda/netns":       {"tunnel", "firewall", "internal/netnstest"},
	"github.com/caddyserver/certmagic":   {"certs"},
	"go.uber.org/zap":                    {"certs"},
	"github.com/moby/moby":               {"store"},
	"github.com/compose-spec/compose-go": {"store"},
	"github.com/beevik/ntp":              {"ntp"},
	"github.com/armon/go-socks5":         {"exits/relay"},
	"golang.org/x/crypto/ssh":            {"exits/dialer", "exits/profile"},
}

// stdOnly rooms import the standard library only.
var stdOnly = []string{"cell", "ui", "internal/lifecycle", "internal/atomicfile", "internal/textdiff", "internal/listen"}

// pureFiles (compile.go) may open no file or socket and read no clock.
var impure = []string{"os", "net", "time/tzdata", "os/exec", "syscall", "crypto/rand", "math/rand", "math/rand/v2"}

type imp struct {
	file, room string
	test       bool
	paths      []string
}

func imports(t *testing.T) []imp {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	var out []imp
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		if d.IsDir() && (d.Name() == "node_modules" || d.Name() == "testdata" || (strings.HasPrefix(d.Name(), ".") && rel != ".")) {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(p, ".go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		x := imp{file: rel, room: path.Dir(filepath.ToSlash(rel)), test: strings.HasSuffix(p, "_test.go")}
		for _, i := range f.Imports {
			s, _ := strconv.Unquote(i.Path.Value)
			x.paths = append(x.paths, s)
		}
		out = append(out, x)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 5 {
		t.Fatalf("only %d files seen in %s: the walk is broken", len(out), root)
	}
	return out
}

func TestImportRules(t *testing.T) {
	for _, x := range imports(t) {
		if problem := x.check(); problem != "" {
			t.Errorf("%s: %s", x.file, problem)
		}
	}
}

// The rules must be able to fail: each of these breaks one.
func TestImportRulesCatchABreakage(t *testing.T) {
	for _, x := range []imp{
		{file: "dns/a.go", room: "dns", paths: []string{module + "firewall"}},
		{file: "cell/a.go", room: "cell", paths: []string{"golang.org/x/crypto/bcrypt"}},
		{file: "dns/a.go", room: "dns", paths: []string{"github.com/google/nftables/expr"}},
		{file: "tunnel/compile.go", room: "tunnel", paths: []string{"os"}},
		{file: "tunnel/a.go", room: "tunnel", paths: []string{module + "internal/netnstest"}},
		{file: "util/a.go", room: "util", paths: []string{module + "cell"}},
	} {
		if x.check() == "" {
			t.Errorf("%s importing %v was not refused", x.file, x.paths)
		}
	}
}

func (x imp) check() string {
	rules, known := allowed[x.room]
	for _, p := range x.paths {
		own, ours := strings.CutPrefix(p, module)
		switch {
		case ours && slices.Contains(testOnly, own):
			if !x.test && !slices.Contains(testOnly, x.room) && x.room != "cmd/lab" { // the household, for people
				return "imports " + own + ", which is for tests only"
			}
		case ours && x.test: // tests in package x_test may wire rooms together
		case ours && slices.Contains(testOnly, x.room):
		case ours && !known:
			return "the room " + x.room + " is not in the rules; add it to docs/architecture.md and here, or move the file"
		case ours && own != x.room && !slices.Contains(rules, own) && !slices.Contains(rules, "*"):
			return "may not import " + own
		case !ours && !x.test && slices.Contains(stdOnly, x.room) && strings.Contains(strings.SplitN(p, "/", 2)[0], "."):
			return "imports " + p + "; this room is standard library only"
		case !ours && !x.test:
			for prefix, rooms := range fences {
				if strings.HasPrefix(p, prefix) && !slices.Contains(rooms, x.room) {
					return "imports " + p + ", which only " + strings.Join(rooms, ", ") + " may"
				}
			}
		}
		if path.Base(x.file) == "compile.go" && slices.Contains(impure, p) {
			return "a compile.go is pure and may not import " + p
		}
	}
	return ""
}

// No shelling out to what a library does (style card, "Kernel").
func TestNoShellingOut(t *testing.T) {
	for _, x := range imports(t) {
		if x.test || slices.Contains(testOnly, x.room) || strings.HasPrefix(x.room, "cmd/lab") || !slices.Contains(x.paths, "os/exec") {
			continue
		}
		b, err := os.ReadFile(filepath.Join("../..", x.file))
		if err != nil {
			t.Fatal(err)
		}
		for _, tool := range []string{`"ip"`, `"nft"`, `"wg"`, `"docker"`, `"iptables"`, `"sysctl"`} {
			if strings.Contains(string(b), "exec.Command("+tool) || strings.Contains(string(b), "exec.CommandContext(ctx, "+tool) {
				t.Errorf("%s shells out to %s", x.file, tool)
			}
		}
	}
}
