package labtest

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// Chromium runs a script of playwright-core on h with args (as JSON in
// process.env.ARGS) and decodes the last line it prints into result. The
// script's other output is logged; a failure fails the test.
func (l *Lab) Chromium(h *Host, script string, args, result any) {
	l.t.Helper()
	netnstest.Need(l.t, "node", "chromium")
	ui, err := filepath.Abs(l.o.UI)
	if err != nil {
		l.t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(ui, "node_modules/playwright-core")); err != nil {
		l.t.Fatalf("the browser needs playwright-core: make ui (%v)", err)
	}
	path, err := filepath.Abs(script)
	if err != nil {
		l.t.Fatal(err)
	}
	in, err := json.Marshal(args)
	if err != nil {
		l.t.Fatal(err)
	}
	home := filepath.Join(l.dir, "browser")
	if err := os.MkdirAll(home, 0o700); err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	c := h.command(ctx, "node", path)
	c.Env = append(os.Environ(), "ARGS="+string(in), "PLAYWRIGHT_FROM="+filepath.Join(ui, "package.json"), "HOME="+home, "TMPDIR="+home)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	err = c.Run()
	lines := bytes.Split(bytes.TrimSpace(stdout.Bytes()), []byte("\n"))
	if err != nil {
		l.t.Fatalf("the browser: %v\n%s\n%s", err, stdout.String(), stderr.String())
	}
	if err := json.Unmarshal(lines[len(lines)-1], result); err != nil {
		l.t.Fatalf("the browser's last line: %v\n%s\n%s", err, stdout.String(), stderr.String())
	}
}
