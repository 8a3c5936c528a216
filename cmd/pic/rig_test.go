package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

func TestMain(m *testing.M) {
	netnstest.Main(m, netnstest.Helpers{"hold": hold, "fire": fire, "prober": prober})
}

// hold takes a port until it is killed: network, address.
func hold(args []string) error {
	if args[0] == "udp" {
		c, err := net.ListenPacket("udp", args[1])
		if err != nil {
			return err
		}
		defer c.Close()
	} else {
		l, err := net.Listen("tcp", args[1])
		if err != nil {
			return err
		}
		defer l.Close()
	}
	fmt.Println("held")
	select {}
}

// binary builds the real program, once, with its failpoints.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "pic-bin-")
	if err != nil {
		return "", err
	}
	out := filepath.Join(dir, "pic")
	c := exec.Command("go", "build", "-tags", "nomsgpack failpoint", "-o", out, ".")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building: %w\n%s", err, b)
	}
	return out, nil
})

// host is a namespace with an uplink and a real cell in it.
type host struct {
	t       *testing.T
	ns, far *netnstest.NS
	bin     string
	dir     string
	cmd     *exec.Cmd
	done    chan struct{}
	log     *lockedBuffer
}

// lockedBuffer is written by the process and read by the test.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newHost(t *testing.T) *host {
	t.Helper()
	netnstest.Root(t)
	netnstest.Need(t, "nft", "setpriv", "curl")
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, ns: netnstest.New(t, "cell"), far: netnstest.New(t, "far"), bin: bin, dir: t.TempDir(), log: &lockedBuffer{}}
	netnstest.Veth(h.ns, "eth0", []string{"192.168.77.2/24", "fd77::2/64"}, h.far, "eth0", []string{"192.168.77.1/24", "fd77::1/64"})
	h.ns.Exec("ip", "route", "add", "default", "via", "192.168.77.1")
	t.Cleanup(func() {
		h.kill()
		if t.Failed() {
			t.Logf("the cell logged:\n%s", h.log.String())
		}
	})
	return h
}

func (h *host) path(name string) string { return filepath.Join(h.dir, name) }

const draft = `{"cell_name":"home","domain_mode":"lan","timezone":"UTC","user":"admin","password":"ultramarine kettle 93"}`

// start runs the cell; env is added to its environment, flags to its own.
func (h *host) start(env []string, flags ...string) {
	h.t.Helper()
	args := append([]string{"serve", "--state", h.path("state"), "--runtime", h.path("run")}, flags...)
	h.launch(env, h.bin, args...)
	h.await()
}

func (h *host) launch(env []string, program string, args ...string) {
	h.t.Helper()
	_ = os.Remove(h.path("run/ready"))
	h.cmd = exec.Command("ip", append([]string{"netns", "exec", h.ns.Name, program}, args...)...)
	h.cmd.Env = append(os.Environ(), env...)
	h.cmd.Stdout, h.cmd.Stderr = h.log, h.log
	if err := h.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.done = make(chan struct{})
	go func(c *exec.Cmd, done chan struct{}) { _ = c.Wait(); close(done) }(h.cmd, h.done)
}

func (h *host) await() {
	h.t.Helper()
	netnstest.Eventually(h.t, 20*time.Second, func() error {
		select {
		case <-h.done:
			h.t.Fatalf("the cell ended: %v\n%s", h.cmd.ProcessState, h.log.String())
		default:
		}
		_, err := os.Stat(h.path("run/ready"))
		return err
	})
}

func (h *host) ended(within time.Duration) {
	h.t.Helper()
	select {
	case <-h.done:
	case <-time.After(within):
		h.t.Fatalf("still running after %v", within)
	}
}

func (h *host) kill() {
	if h.cmd == nil || h.cmd.Process == nil {
		return
	}
	_ = h.cmd.Process.Kill()
	<-h.done
	h.cmd = nil
}

// claimed starts a claimed cell.
func (h *host) claimed(flags ...string) {
	h.t.Helper()
	file := h.path("init.json")
	if err := os.WriteFile(file, []byte(draft), 0o600); err != nil {
		h.t.Fatal(err)
	}
	h.start([]string{"PIC_INIT_FILE=" + file}, flags...)
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		h.t.Fatal("the init file, which holds the password, is still there")
	}
}

type reply struct {
	status int
	header http.Header
	body   []byte
}

// try calls the API on the local socket; an error means no answer came.
func (h *host) try(method, path, body string, header ...string) (reply, error) {
	t := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", h.path("run/pic.sock"))
	}}
	c := http.Client{Transport: t, Timeout: 30 * time.Second}
	var rd io.Reader
	if body != "" {
		rd = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, "http://pic"+path, rd)
	if err != nil {
		return reply{}, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, b}, err
}

func (h *host) want(status int, method, path, body string, header ...string) reply {
	h.t.Helper()
	r, err := h.try(method, path, body, header...)
	if err != nil {
		h.t.Fatalf("%s %s: %v", method, path, err)
	}
	if r.status != status {
		h.t.Fatalf("%s %s: %d, want %d: %s", method, path, r.status, status, r.body)
	}
	return r
}

func into[T any](t *testing.T, r reply) (v T) {
	t.Helper()
	if err := json.Unmarshal(r.body, &v); err != nil {
		t.Fatalf("decoding %s: %v", r.body, err)
	}
	return v
}

func (h *host) status() api.Status {
	h.t.Helper()
	return into[api.Status](h.t, h.want(200, "GET", "/api/status", ""))
}

// peers names the peers of the state, of the kernel's map, and of the zone.
func (h *host) peers() (state, kernel []string) {
	h.t.Helper()
	nft := h.ns.Exec("nft", "list", "map", "inet", "pic", "mark4")
	for _, p := range into[api.List[api.Peer]](h.t, h.want(200, "GET", "/api/peers", "")).Items {
		state = append(state, p.Name)
		if strings.Contains(nft, p.Address4+" ") {
			kernel = append(kernel, p.Name)
		}
	}
	if n := strings.Count(nft, " : 0x"); n != len(state) {
		h.t.Errorf("the kernel's map has %d peers, the state %d:\n%s", n, len(state), nft)
	}
	return state, kernel
}

func (h *host) term(within time.Duration) {
	h.t.Helper()
	_ = h.cmd.Process.Signal(syscall.SIGTERM)
	h.ended(within)
	h.cmd = nil
}
