package main_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// Changes that lock somebody out, made as confirmed commits that nobody can
// confirm: all is as it was before 65 s are over, also when the process is
// killed within the window and started again.
func TestLockOutsUndoThemselves(t *testing.T) {
	t.Parallel()
	const window = 10 * time.Second
	changes := []struct{ method, path, body string }{
		{"DELETE", "/api/peers/laptop", ""},
		{"PUT", "/api/config", `{"network":{"tunnel":{"listen_port":51999}}}`},
		{"PUT", "/api/config", `{"identity":{"name":"elsewhere"}}`},
		{"PUT", "/api/peers/laptop", `{"name":"laptop","enabled":false}`},
	}
	h := settledHost(t)
	h.start(nil)
	world := func() string {
		t.Helper()
		st := h.status()
		return fmt.Sprintf("revision %d pending %v domain %s port %d web %s name %s\n%s%s", st.Revision, st.Pending != nil, st.Cell.Domain, st.WireGuard.ListenPort,
			h.stranger("/api/auth/me"), st.Cell.Name,
			h.ns.Exec("nft", "-s", "list", "map", "inet", "pic", "mark4"), h.ns.Exec("ss", "-Hlnu"))
	}
	want := world()
	slowest, kills, total := time.Duration(0), 0, torture(20, 100)
	r := rand.New(rand.NewPCG(3, uint64(time.Now().UnixNano())))
	for i := range total {
		c := changes[i%len(changes)]
		began := time.Now()
		rep := h.want(202, c.method, c.path, c.body, "Confirm-Within", fmt.Sprint(int(window.Seconds())))
		if now := world(); now == want {
			t.Fatalf("%s %s changes nothing: %d %s", c.method, c.path, rep.status, now)
		}
		if i%10 != 0 { // most die in the window; the others wait it out
			wait := time.NewTimer(time.Duration(r.IntN(300)) * time.Millisecond)
			<-wait.C
			h.kill()
			h.start(nil)
			kills++
		}
		for now := ""; now != want; now = world() {
			if time.Since(began) > 65*time.Second {
				t.Fatalf("%s %s %s: after 65 s still\n%s\nwant\n%s", c.method, c.path, c.body, now, want)
			}
		}
		slowest = max(slowest, time.Since(began))
	}
	fmt.Printf("LOCK-OUT: %d changes, %d of them with a kill in the window, all back; slowest %v (window %v)\n", total, kills, slowest.Round(time.Millisecond), window)
}
