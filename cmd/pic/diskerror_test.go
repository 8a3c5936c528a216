package main_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// What the disk or the system may refuse, on the real binary: the client hears
// it, nothing is acknowledged, the previous revision is whole, names are still
// answered, and it goes on without a restart when the fault is gone.
func TestErrorsOfTheSystemRefuseAndKeepWhatWas(t *testing.T) {
	t.Parallel()
	netnstest.Need(t, "strace", "prlimit", "dig")
	h := settledHost(t)
	h.save("base")
	injected := func(calls, fault string) func() func() {
		return func() func() { return h.inject(calls, fault) }
	}
	for _, c := range []struct {
		name    string
		says    string
		inflict func() (mend func())
	}{
		{"EIO in fsync", "input/output error", injected("fsync", "error=EIO")},
		{"EIO in the second fsync and later", "input/output error", injected("fsync", "error=EIO:when=2+")},
		{"EIO in rename", "input/output error", injected("?rename,?renameat,?renameat2", "error=EIO")},
		{"ENOSPC in fsync", "no space left", injected("fsync", "error=ENOSPC")},
		{"ENOSPC in rename", "no space left", injected("?rename,?renameat,?renameat2", "error=ENOSPC")},
		{"EDQUOT in fsync", "quota", injected("fsync", "error=EDQUOT")},
		// The log of who did what stays open, as a file system that the kernel
		// made read-only after an error would find it.
		{"EROFS in open", "read-only", injected("?open,openat", "error=EROFS")},
		{"EMFILE", "too many open files", func() func() {
			pid := fmt.Sprint(h.cmd.Process.Pid)
			if err := sh(`prlimit --pid "$1" --nofile=3:`, pid); err != nil {
				h.t.Fatal(err)
			}
			return func() {
				if err := sh(`prlimit --pid "$1" --nofile=4096:`, pid); err != nil {
					h.t.Fatal(err)
				}
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h.t = t
			h.load("base")
			h.start(nil)
			before := h.status().Revision
			zone := h.status().Cell.Domain
			keep := h.kept()
			if r, err := keep("GET", "/api/peers", ""); err != nil || r.status != 200 {
				t.Fatal(r.status, err)
			}
			mend := c.inflict()
			mended := false
			defer func() {
				if !mended {
					mend()
				}
			}()
			r, err := keep("POST", "/api/peers", addPhone)
			if err != nil || r.status != 507 || !strings.Contains(string(r.body), c.says) || !strings.Contains(string(r.body), `"code":"storage"`) {
				t.Errorf("the client hears %d %s %v, want 507 with %q", r.status, r.body, err, c.says)
			}
			if r, err = keep("GET", "/api/status", ""); err != nil || r.status != 200 || !strings.Contains(string(r.body), fmt.Sprintf(`"revision":%d,"source":"current"`, before)) {
				t.Errorf("during the fault the running revision is not %d: %v %s", before, err, r.body)
			}
			if err := h.named(zone); err != nil {
				t.Errorf("during the fault: %v", err)
			}
			mend()
			mended = true
			if state, kernel := h.peers(); !slices.Equal(state, []string{"laptop"}) || !slices.Equal(kernel, state) {
				t.Errorf("half applied: state %v, kernel %v", state, kernel)
			}
			h.want(201, "POST", "/api/peers", `{"name":"tablet","generate_key":true}`)
			h.kill()
			h.start(nil)
			if state, kernel := h.peers(); !slices.Equal(state, []string{"laptop", "tablet"}) || !slices.Equal(kernel, state) {
				t.Errorf("after a restart: state %v, kernel %v", state, kernel)
			}
			h.kill()
		})
	}
}

// A revision whose pointer was renamed and could not be synced was never
// acknowledged: a death right after the error must not bring it back.
func TestAnUnsyncedPointerIsNotWhatBoots(t *testing.T) {
	t.Parallel()
	netnstest.Need(t, "strace")
	h := settledHost(t)
	h.start(nil)
	// Of a commit's syncs: secrets (file, folder) × 2, revision (file, folder), pointer (file, folder).
	for n := 1; n <= 9; n++ {
		detach := h.inject("fsync", fmt.Sprintf("error=EIO:when=%d+", n))
		r, err := h.try("POST", "/api/peers", fmt.Sprintf(`{"name":"y%d","generate_key":true}`, n))
		detach()
		if err != nil {
			t.Fatal(err)
		}
		state, kernel := h.peers()
		if !slices.Equal(state, kernel) {
			t.Errorf("sync %d: state %v, kernel %v", n, state, kernel)
		}
		if has := slices.Contains(state, fmt.Sprintf("y%d", n)); has != (r.status == 201) {
			t.Errorf("sync %d: answered %d, running %v", n, r.status, has)
		}
		h.kill()
		h.start(nil)
		// strace counts by thread, so the putting back of the pointer may be hit as
		// well as its move: of a disk that takes neither nothing can be demanded.
		if after, _ := h.peers(); !slices.Equal(after, state) && !strings.Contains(h.log.String(), "putting startup back") {
			t.Errorf("sync %d, answered %d: %v before the death, %v after it", n, r.status, state, after)
		}
	}
}

// kept is try on one connection that stays open: with no descriptor left a
// cell can't take another.
func (h *host) kept() func(method, path, body string) (reply, error) {
	t := &http.Transport{MaxConnsPerHost: 1, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", h.path("run/pic.sock"))
	}}
	h.t.Cleanup(t.CloseIdleConnections)
	c := http.Client{Transport: t, Timeout: 30 * time.Second}
	return func(method, path, body string) (reply, error) {
		req, err := http.NewRequest(method, "http://pic"+path, strings.NewReader(body))
		if err != nil {
			return reply{}, err
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := c.Do(req)
		if err != nil {
			return reply{}, err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return reply{resp.StatusCode, resp.Header, b}, err
	}
}

// gateway is the tunnel's own address, where names are answered.
func (h *host) gateway() string {
	h.t.Helper()
	out := strings.TrimSpace(h.ns.Exec("sh", "-c", `ip -4 -o addr show dev pic0 | awk '{ sub("/.*", "", $4); print $4 }'`))
	if out == "" {
		h.t.Fatal("pic0 has no address")
	}
	return out
}

// named asks for the zone as the laptop would, and wants its answer.
func (h *host) named(zone string) error {
	h.t.Helper()
	// The laptop is the first peer; its address on lo makes us look like it.
	_, _ = h.ns.Try("ip", "addr", "add", h.laptop()+"/32", "dev", "lo")
	out, err := h.ns.Try("dig", "-b", h.laptop(), "+time=2", "+tries=1", "@"+h.gateway(), zone, "SOA")
	if err != nil || !strings.Contains(out, "status: NOERROR") {
		return fmt.Errorf("asking for %s: %v\n%s", zone, err, out)
	}
	return nil
}

// laptop is the address of the first peer, one after the gateway's.
func (h *host) laptop() string {
	return netip.MustParseAddr(h.gateway()).Next().String()
}
