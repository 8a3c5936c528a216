package main_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// Where a system call may end the process: everything that a start and a commit
// do to the state folder, and the write of an answer; and up to which call of
// a thread. A name with ? need not exist on this architecture.
var killCalls = []struct {
	calls string
	upTo  int
}{
	{"write", 16},
	{"fsync", 3},
	{"?rename,?renameat,?renameat2", 2},
	{"?open,openat", 40},
	{"?fchmod,?fchmodat", 2},
	{"close", 40},
	{"?unlink,?unlinkat", 1},
	{"?pwrite64,?mkdirat,flock", 1},
}

// torture reads how many kills are asked for; CI does a few.
func torture(ci, all int) int {
	if os.Getenv("PIC_TORTURE") != "" {
		return all
	}
	return ci
}

// Killed at random moments while it commits, and started again each time: no
// change that was answered with 2xx is missing, no state is unreadable, and
// what the crashes left behind goes away.
func TestDeathAtRandomTimesLosesNothingAcknowledged(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	r := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	for v.kills < torture(80, 1000) {
		v.start(nil)
		v.compare()
		deadline := time.NewTimer(time.Duration(r.IntN(250_000)) * time.Microsecond)
		dead := make(chan struct{})
		go func(h *host) { <-deadline.C; _ = h.cmd.Process.Kill(); close(dead) }(v.host)
		v.commitUntilDeath(10_000)
		<-dead
		v.died()
	}
	v.verdict("random times")
}

// … and at the entry of the n-th system call of a kind, which meets every gap
// between two steps on the disk.
func TestDeathAtSystemCallsLosesNothingAcknowledged(t *testing.T) {
	t.Parallel()
	netnstest.Need(t, "strace")
	v := newVictim(t)
	r := rand.New(rand.NewPCG(2, uint64(time.Now().UnixNano())))
	met, starts := map[string]int{}, 0
	for i := 0; v.kills < torture(20, 1000); i++ {
		if i > torture(20, 1000)*8 {
			t.Fatalf("only %d of %d runs died: %v", v.kills, i, met)
		}
		k := killCalls[i%len(killCalls)]
		up := v.startTraced(k.calls, fmt.Sprintf("signal=SIGKILL:when=%d", 1+r.IntN(k.upTo)))
		if up && v.compare() {
			v.commitUntilDeath(4)
		} else {
			starts++
		}
		if v.doubtful != "" || !up {
			met[k.calls]++
			v.died()
		}
		v.kill()
	}
	if len(met) < 4 {
		t.Errorf("kills at %v only: the test does not reach what it is for", met)
	}
	v.verdict(fmt.Sprintf("system calls %v, %d of them in the start", met, starts))
}

// victim is a cell that is killed again and again on one state folder, and the
// book of what it acknowledged.
type victim struct {
	*host
	acked     []string
	doubtful  string // asked for when it died: may be there or not
	kills     int
	acks      int
	serial    int
	lost      int
	unread    int
	leftovers int // the most temporary files ever seen after a start
}

func newVictim(t *testing.T) *victim {
	return &victim{host: settledHost(t), acked: []string{"laptop"}}
}

func (v *victim) died() {
	v.ended(10 * time.Second)
	v.cmd = nil
	v.kills++
}

// startTraced starts the cell with a fault in its system calls, counted per
// thread from its first one, and reports whether it came up. One processor
// keeps the counts from being spread over many threads.
func (v *victim) startTraced(calls, fault string) bool {
	v.t.Helper()
	v.launch([]string{"GOMAXPROCS=1"}, "strace", "-D", "-f", "--seccomp-bpf", "-o", v.path("strace.log"), "-e", "trace="+calls, "-e", "inject="+calls+":"+fault,
		v.bin, "serve", "--state", v.path("state"), "--runtime", v.path("run"))
	up := false
	netnstest.Eventually(v.t, 30*time.Second, func() error {
		if v.gone() {
			return nil
		}
		_, err := os.Stat(v.path("run/ready"))
		up = err == nil
		return err
	})
	return up && !v.gone()
}

// compare holds the cell against the book, and reports false if it died meanwhile.
func (v *victim) compare() bool {
	v.t.Helper()
	r, err := v.try("GET", "/health", "")
	if err != nil {
		return false
	}
	if into[api.Health](v.t, r).Status == "recovered" {
		v.unread++
		v.t.Fatalf("after kill %d the state is unreadable", v.kills)
	}
	if r, err = v.try("GET", "/api/peers", ""); err != nil {
		return false
	}
	marks := v.ns.Exec("nft", "list", "map", "inet", "pic", "mark4")
	var state, kernel []string
	for _, p := range into[api.List[api.Peer]](v.t, r).Items {
		state = append(state, p.Name)
		if strings.Contains(marks, p.Address4+" ") {
			kernel = append(kernel, p.Name)
		}
	}
	if !slices.Equal(state, kernel) || strings.Count(marks, " : 0x") != len(state) {
		v.t.Fatalf("after kill %d: state %v, kernel %v", v.kills, state, kernel)
	}
	slices.Sort(state)
	want := slices.Sorted(slices.Values(v.acked))
	if v.doubtful != "" {
		if i := slices.Index(want, v.doubtful); slices.Contains(state, v.doubtful) && i < 0 {
			want = slices.Sorted(slices.Values(append(want, v.doubtful)))
		} else if !slices.Contains(state, v.doubtful) && i >= 0 {
			want = slices.Delete(want, i, i+1)
		}
	}
	for _, name := range want {
		if !slices.Contains(state, name) {
			v.lost++
		}
	}
	if !slices.Equal(state, want) {
		v.t.Fatalf("after kill %d: peers %v, acknowledged %v, in doubt %q", v.kills, state, want, v.doubtful)
	}
	v.acked, v.doubtful = want, ""
	tmp, _ := filepath.Glob(v.path("state/*/.tmp-*"))
	top, _ := filepath.Glob(v.path("state/.tmp-*"))
	if v.leftovers = max(v.leftovers, len(tmp)+len(top)); v.leftovers > 0 {
		v.t.Fatalf("temporary files outlive a start: %v %v", tmp, top)
	}
	return true
}

// commitUntilDeath adds and removes peers until no answer comes.
func (v *victim) commitUntilDeath(most int) {
	v.t.Helper()
	for range most {
		name, method, path, body, status := "", "POST", "/api/peers", "", 201
		if len(v.acked) > 3 {
			name = v.acked[len(v.acked)-1]
			method, path, status = "DELETE", "/api/peers/"+name, 204
		} else {
			v.serial++
			name = fmt.Sprintf("x%d", v.serial)
			body = fmt.Sprintf(`{"name":%q,"generate_key":true}`, name)
		}
		v.doubtful = name
		r, err := v.try(method, path, body)
		if err != nil {
			return
		}
		if r.status != status {
			v.t.Fatalf("%s %s: %d %s", method, path, r.status, r.body)
		}
		v.acks++
		v.doubtful = ""
		if method == "POST" {
			v.acked = append(v.acked, name)
		} else {
			v.acked = v.acked[:len(v.acked)-1]
		}
	}
}

// verdict starts the cell a last time and looks at what all the deaths left.
func (v *victim) verdict(how string) {
	v.t.Helper()
	began := time.Now()
	v.start(nil)
	took := time.Since(began)
	if !v.compare() {
		v.t.Fatal("the last start died")
	}
	before := v.orphans()
	v.want(201, "POST", "/api/peers", `{"name":"last","generate_key":true}`)
	netnstest.Eventually(v.t, 10*time.Second, func() error {
		if left := v.orphans(); len(left) > 0 {
			return fmt.Errorf("secrets that no revision names: %v", left)
		}
		return nil
	})
	fmt.Printf("TORTURE %s: kills %d, acknowledged %d, lost acknowledged %d, unreadable states %d, temporary files after a start %d, secrets without a revision %d at the end and 0 after the next change, last start %v\n",
		how, v.kills, v.acks, v.lost, v.unread, v.leftovers, len(before), took.Round(time.Millisecond))
}

// orphans are secrets that no kept revision names.
func (v *victim) orphans() (left []string) {
	v.t.Helper()
	var named bytes.Buffer
	revisions, err := filepath.Glob(v.path("state/revisions/*.json.gz"))
	if err != nil || len(revisions) == 0 {
		v.t.Fatal(err, revisions)
	}
	for _, name := range revisions {
		file, err := os.ReadFile(name)
		if err != nil {
			continue // pruned in the meantime
		}
		z, err := gzip.NewReader(bytes.NewReader(file))
		if err != nil {
			v.t.Fatalf("%s: %v", name, err)
		}
		if _, err := io.Copy(&named, z); err != nil {
			v.t.Fatalf("%s: %v", name, err)
		}
	}
	secrets, err := os.ReadDir(v.path("state/secrets"))
	if err != nil {
		v.t.Fatal(err)
	}
	for _, s := range secrets {
		if !strings.Contains(named.String(), `"`+s.Name()+`"`) {
			left = append(left, s.Name())
		}
	}
	return left
}
