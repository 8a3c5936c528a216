package main_test

import (
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/reconcile"
)

const (
	addLaptop = `{"name":"laptop","generate_key":true}`
	addPhone  = `{"name":"phone","generate_key":true}`
)

// settledHost is a claimed cell with one peer, killed, so that each case starts
// from a copy of its state.
func settledHost(t *testing.T) *host {
	h := newHost(t)
	h.claimed()
	h.want(201, "POST", "/api/peers", addLaptop)
	h.kill()
	return h
}

func (h *host) save(name string) {
	h.t.Helper()
	if out, err := exec.Command("cp", "-a", h.path("state"), h.path(name)).CombinedOutput(); err != nil {
		h.t.Fatalf("%v %s", err, out)
	}
}

func (h *host) load(name string) {
	h.t.Helper()
	if out, err := exec.Command("sh", "-ec", `rm -rf "$1"; cp -a "$2" "$1"`, "sh", h.path("state"), h.path(name)).CombinedOutput(); err != nil {
		h.t.Fatalf("%v %s", err, out)
	}
}

// The real binary is killed with SIGKILL at every arrow of the commit state
// machine and started again: nothing acknowledged is lost, nothing
// unacknowledged stays half-way, neither on disk nor in the kernel.
func TestKillAtEveryArrowOfACommit(t *testing.T) {
	h := settledHost(t)
	h.save("base")
	for _, c := range []struct {
		point string
		kept  string // yes, no, or either (killed between the durable step and its acknowledgement)
	}{
		{"validated", "no"},
		{"compiled", "no"},
		{"secrets", "no"},
		{"written", "no"},
		{"settled", "no"},
		{"startup-moved", "either"},
		{"startup", "either"},
	} {
		t.Run(c.point, func(t *testing.T) {
			h.t = t
			h.load("base")
			h.start([]string{"PIC_FAILPOINT=" + c.point})
			if r, err := h.try("POST", "/api/peers", addPhone); err == nil {
				t.Fatalf("the failpoint %s was not reached: %d %s", c.point, r.status, r.body)
			}
			h.ended(5 * time.Second)
			h.start(nil)
			state, kernel := h.peers()
			if !slices.Equal(state, kernel) {
				t.Errorf("state %v, kernel %v", state, kernel)
			}
			if has := slices.Contains(state, "phone"); (c.kept == "no" && has) || (c.kept == "yes" && !has) || !slices.Contains(state, "laptop") {
				t.Errorf("peers after the restart: %v", state)
			}
			// Life goes on, and numbers are never used twice.
			before := h.status().Revision
			r := h.want(201, "POST", "/api/peers", `{"name":"tablet","generate_key":true}`)
			if made, err := strconv.ParseUint(r.header.Get("Pic-Revision"), 10, 64); err != nil || cell.Revision(made) <= before {
				t.Errorf("revision %d after %d (%v)", made, before, err)
			}
			seen := map[cell.Revision]bool{}
			for _, i := range into[api.List[api.RevisionItem]](t, h.want(200, "GET", "/api/revisions", "")).Items {
				if seen[i.Number] {
					t.Errorf("revision %d twice", i.Number)
				}
				seen[i.Number] = true
			}
			h.kill()
			h.start(nil) // the acknowledged tablet is still there
			if state, _ := h.peers(); !slices.Contains(state, "tablet") {
				t.Errorf("an acknowledged peer is lost: %v", state)
			}
			h.kill()
		})
	}
}

func TestKillAroundAConfirmedCommit(t *testing.T) {
	h := settledHost(t)
	h.save("base")
	pending := func(t *testing.T) string {
		t.Helper()
		return h.want(202, "POST", "/api/peers", addPhone, "Confirm-Within", "60").header.Get("Pic-Revision")
	}
	gone := func(t *testing.T, n string) {
		t.Helper()
		h.start(nil)
		state, kernel := h.peers()
		if !slices.Equal(state, []string{"laptop"}) || !slices.Equal(kernel, state) {
			t.Fatalf("an unconfirmed peer stayed: state %v, kernel %v", state, kernel)
		}
		for _, i := range into[api.List[api.RevisionItem]](t, h.want(200, "GET", "/api/revisions", "")).Items {
			if fmt.Sprint(i.Number) == n && i.Status != cell.RevisionAutoReverted && i.Status != cell.RevisionReverted {
				t.Errorf("revision %s is %s", n, i.Status)
			}
		}
		h.kill()
	}
	run := func(name string, f func(t *testing.T)) {
		t.Run(name, func(t *testing.T) { h.t = t; h.load("base"); f(t) })
	}
	run("before the 202", func(t *testing.T) {
		h.start([]string{"PIC_FAILPOINT=pending"})
		if r, err := h.try("POST", "/api/peers", addPhone, "Confirm-Within", "60"); err == nil {
			t.Fatalf("the failpoint was not reached: %d", r.status)
		}
		h.ended(5 * time.Second)
		gone(t, "4")
	})
	run("while it waits", func(t *testing.T) {
		h.start(nil)
		n := pending(t)
		if _, kernel := h.peers(); !slices.Contains(kernel, "phone") {
			t.Fatal("the pending commit is not in force")
		}
		h.kill()
		gone(t, n)
	})
	run("by SIGTERM while it waits", func(t *testing.T) {
		h.start(nil)
		n := pending(t)
		h.term(5 * time.Second)
		gone(t, n)
	})
	run("in the revert", func(t *testing.T) {
		h.start([]string{"PIC_FAILPOINT=reverted"})
		n := pending(t)
		if r, err := h.try("POST", "/api/commits/"+n+"/revert", "{}"); err == nil {
			t.Fatalf("the failpoint was not reached: %d", r.status)
		}
		h.ended(5 * time.Second)
		gone(t, n)
	})
	run("in the confirmation", func(t *testing.T) {
		h.start([]string{"PIC_FAILPOINT=confirmed"})
		n := pending(t)
		if r, err := h.try("POST", "/api/commits/"+n+"/confirm", "{}"); err == nil {
			t.Fatalf("the failpoint was not reached: %d", r.status)
		}
		h.ended(5 * time.Second)
		h.start(nil)
		if state, kernel := h.peers(); !slices.Equal(state, kernel) {
			t.Fatalf("state %v, kernel %v", state, kernel)
		}
		h.kill()
	})
	run("after the confirmation", func(t *testing.T) {
		h.start(nil)
		n := pending(t)
		h.want(200, "POST", "/api/commits/"+n+"/confirm", "{}")
		h.kill()
		h.start(nil)
		if state, kernel := h.peers(); !slices.Contains(state, "phone") || !slices.Equal(state, kernel) {
			t.Fatalf("a confirmed peer is lost: %v %v", state, kernel)
		}
		h.kill()
	})
}

// The claim is one commit: killed in it, the cell is either unclaimed or whole.
func TestKillInTheClaim(t *testing.T) {
	h := newHost(t)
	h.start(nil)
	h.kill()
	h.save("fresh")
	for _, point := range []string{"secrets", "written", "settled", "startup-moved"} {
		t.Run(point, func(t *testing.T) {
			h.t = t
			h.load("fresh")
			file := h.path("init.json")
			if out, err := exec.Command("sh", "-c", `printf %s "$2" > "$1"`, "sh", file, draft).CombinedOutput(); err != nil {
				t.Fatal(err, string(out))
			}
			h.launch([]string{"PIC_FAILPOINT=" + point, "PIC_INIT_FILE=" + file}, h.bin, "serve", "--state", h.path("state"), "--runtime", h.path("run"))
			h.ended(20 * time.Second)
			h.start(nil)
			r, err := h.try("GET", "/api/config", "")
			if err != nil {
				t.Fatal(err)
			}
			if r.status == 200 {
				s := into[api.ConfigDoc](t, r)
				if !s.Claimed() || s.TLS.Signing() == nil || s.Identity.Name != "home" {
					t.Errorf("half a claim: %s", r.body)
				}
			} else if r.status != 428 {
				t.Errorf("%d %s", r.status, r.body)
			}
			h.kill()
		})
	}
}

// Every failpoint has a case above or below: a new arrow needs one too.
func TestEveryFailpointHasACase(t *testing.T) {
	covered := strings.Fields("validated compiled secrets written settled startup-moved startup pending confirmed reverted pruned secret-removed")
	for _, p := range reconcile.Failpoints() {
		if !slices.Contains(covered, p) {
			t.Errorf("no test kills the cell at %q", p)
		}
	}
}
