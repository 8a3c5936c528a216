package labtest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// Cell is the host with the real binary. Its state outlives Kill and Restart.
type Cell struct {
	*Host
	// Env is added to the cell's environment at the next start.
	Env []string

	lab   *Lab
	flags []string
	cmd   *exec.Cmd
	done  chan struct{}
	log   string
}

// State and Runtime are the cell's folders; Socket its API without a password.
func (c *Cell) State() string   { return filepath.Join(c.lab.dir, "state") }
func (c *Cell) Runtime() string { return filepath.Join(c.lab.dir, "runtime") }
func (c *Cell) Socket() string  { return filepath.Join(c.Runtime(), "pic.sock") }

// Start runs `pic serve` with the flags and waits until it is ready.
func (c *Cell) Start(flags ...string) {
	c.t.Helper()
	if c.lab.o.Binary == "" {
		c.t.Fatal("the household was built without a binary")
	}
	c.flags = flags
	c.log = filepath.Join(c.lab.logs, "pic")
	c.t.Cleanup(func() {
		c.Kill()
		if c.t.Failed() {
			c.t.Logf("the cell logged:\n%s", c.Log())
		}
	})
	c.launch()
}

func (c *Cell) launch() {
	c.t.Helper()
	_ = os.Remove(filepath.Join(c.Runtime(), "ready"))
	// The clock is the machine's, not the household's: no CAP_SYS_TIME.
	args := []string{
		"--bounding-set=-sys_time", "--inh-caps=-sys_time", "--", c.lab.o.Binary,
		"serve", "--state", c.State(), "--runtime", c.Runtime(),
	}
	c.cmd = c.command(context.Background(), "setpriv", append(args, c.flags...)...)
	c.cmd.Env = append(os.Environ(), c.Env...)
	f, err := os.OpenFile(c.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		c.t.Fatal(err)
	}
	defer f.Close()
	c.cmd.Stdout, c.cmd.Stderr = f, f
	if err := c.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) { _ = cmd.Wait(); close(done) }(c.cmd, c.done)
	c.Await(30 * time.Second)
}

// Running says whether a cell was started and not killed.
func (c *Cell) Running() bool { return c.cmd != nil }

// Await waits until the running cell says that it is ready.
func (c *Cell) Await(d time.Duration) {
	c.t.Helper()
	netnstest.Eventually(c.t, d, func() error {
		select {
		case <-c.done:
			c.t.Fatalf("the cell ended: %v\n%s", c.cmd.ProcessState, c.Log())
		default:
		}
		_, err := os.Stat(filepath.Join(c.Runtime(), "ready"))
		return err
	})
}

// Kill ends the cell with SIGKILL: no goodbye, as in a crash.
func (c *Cell) Kill() {
	if c.cmd == nil {
		return
	}
	_ = c.cmd.Process.Kill()
	<-c.done
	c.cmd = nil
}

// Restart kills the cell and starts it again with the same flags and state.
func (c *Cell) Restart() {
	c.t.Helper()
	c.Kill()
	c.launch()
}

// Log is what the cell has printed so far.
func (c *Cell) Log() string {
	b, _ := os.ReadFile(c.log)
	return string(b)
}

// CLI runs a subcommand of the binary against the running cell.
func (c *Cell) CLI(args ...string) string {
	c.t.Helper()
	return c.Exec(c.lab.o.Binary, append(args, "--socket", c.Socket())...)
}

// Answer of the API.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Decode reads the JSON body into v.
func (a Answer) Decode(v any) error {
	if err := json.Unmarshal(a.Body, v); err != nil {
		return fmt.Errorf("reading %d %s: %w", a.Status, a.Body, err)
	}
	return nil
}

// API asks the running cell over its unix socket, as root. A body is sent as
// JSON; headers are "Name: value".
func (c *Cell) API(method, path string, body any, headers ...string) Answer {
	c.t.Helper()
	a, err := c.TryAPI(method, path, body, headers...)
	if err != nil {
		c.t.Fatal(err)
	}
	return a
}

// TryAPI is API for a cell that may not answer.
func (c *Cell) TryAPI(method, path string, body any, headers ...string) (Answer, error) {
	var payload io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return Answer{}, err
		}
		payload = bytes.NewReader(b)
	}
	r, err := http.NewRequest(method, "http://pic"+path, payload)
	if err != nil {
		return Answer{}, err
	}
	r.Header.Set("Content-Type", "application/json")
	for _, h := range headers {
		k, v, _ := strings.Cut(h, ": ")
		r.Header.Set(k, v)
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", c.Socket())
	}
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	resp, err := client.Do(r)
	if err != nil {
		return Answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	return Answer{resp.StatusCode, resp.Header, b}, err
}
