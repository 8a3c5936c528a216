package ntp_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/personal-internet-cell/pic/ntp"
)

// machine is a computer with a clock of its own, wrong by wrong, in the bubble
// of synctest, whose time is the true one. It slews as the kernel does.
type machine struct {
	mu                  sync.Mutex
	wrong, pending      time.Duration
	slewed              time.Duration // of wrong: by running fast or slow, not by being set
	frequency, corrects float64       // seconds per second: the quartz, and its correction
	adj                 ntp.Adjustment
	status              int32
	synchronised        bool
	last                time.Time
	denied              bool
	steps               []time.Duration
	writes              int
}

func (m *machine) run() {
	now := time.Now()
	if m.last.IsZero() {
		m.last = now
	}
	dt := now.Sub(m.last).Seconds()
	m.last = now
	done := time.Duration(float64(m.pending) * (1 - math.Exp(-dt/math.Exp2(float64(m.adj.Constant+2)))))
	m.pending -= done
	slewed := done + time.Duration((m.frequency+m.corrects)*dt*1e9)
	m.wrong += slewed
	m.slewed += slewed
}

func (m *machine) Now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.run()
	return time.Now().Round(0).Add(m.wrong)
}

func (m *machine) Read() ntp.Reading {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.run()
	r := unsynchronised().reading
	if m.synchronised {
		r = synchronised().reading
	}
	r.Offset = m.pending
	return r
}

func (m *machine) Permitted() bool { return !m.denied }

func (m *machine) State() (ntp.KernelState, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.run()
	return ntp.KernelState{Synchronised: m.synchronised, Pending: m.pending, Constant: m.adj.Constant, Status: m.status, Frequency: m.corrects * 1e6, Ahead: time.Hour + m.wrong - m.slewed}, nil
}

func (m *machine) Step(d time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.run()
	m.writes++
	m.wrong += d
	m.pending, m.synchronised = 0, false
	m.steps = append(m.steps, d)
	return nil
}

func (m *machine) Slew(a ntp.Adjustment) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.run()
	m.writes++
	if a.Offset.Abs() > 500*ms {
		return errors.New("the kernel clamps that")
	}
	m.corrects = a.Frequency * 1e-6
	m.pending, m.adj, m.synchronised = a.Offset, a, !a.Unsynchronised
	return nil
}

func (m *machine) error() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.run()
	return m.wrong
}

// server is a time server as the network shows it.
type server struct {
	bias, delay, jitter, queue time.Duration
	lost                       bool
	kiss                       string
	asked                      int
	rand                       *rand.Rand // its own, for servers are asked at once and in any order
}

type world struct {
	*machine
	mu      sync.Mutex
	servers map[string]*server
	other   string
	memory  memory
	s       *ntp.Server
}

// memory keeps history files.
type memory map[string][]byte

func (m memory) Load(name string) ([]byte, error) {
	if b, ok := m[name]; ok {
		return b, nil
	}
	return nil, fs.ErrNotExist
}
func (m memory) Save(name string, b []byte) error { m[name] = b; return nil }

func newWorld(m *machine, servers map[string]*server) *world {
	for name, s := range servers {
		s.rand = rand.New(rand.NewPCG(1, uint64(name[0])))
	}
	return &world{machine: m, servers: servers, memory: memory{}}
}

func (w *world) ask(name string) ntp.Reply {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.servers[name]
	s.asked++
	if s.lost {
		return ntp.Reply{Err: errors.New("i/o timeout")}
	}
	if s.kiss != "" {
		return ntp.Reply{Kiss: s.kiss, Err: errors.New("kiss of death")}
	}
	var noise, queue time.Duration
	if s.jitter > 0 {
		noise = time.Duration(s.rand.NormFloat64() * float64(s.jitter))
	}
	if s.queue > 0 {
		queue = time.Duration(s.rand.Int64N(int64(s.queue)))
	}
	return ntp.Reply{Offset: s.bias - w.error() + noise + queue/2, Delay: s.delay + queue, RootDispersion: ms, Stratum: 2}
}

func (w *world) set(name string, f func(*server)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(w.servers[name])
}

func (w *world) start(t *testing.T, mode ...func(*ntp.Sources)) (stop func()) {
	t.Helper()
	w.s = ntp.New(&ntp.Config{Logger: quiet, Clock: w.machine, Adjust: w.machine, Memory: w.memory, Built: time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)})
	w.s.Simulate(w.ask, func() string { w.mu.Lock(); defer w.mu.Unlock(); return w.other })
	p := everybody
	p.Discipline = true
	for name := range w.servers {
		p.Servers = append(p.Servers, name)
	}
	slices.Sort(p.Servers)
	for _, f := range mode {
		f(&p)
	}
	return run(t, w.s, p)
}

func (w *world) notices() []string {
	var out []string
	for _, n := range w.s.Notices() {
		out = append(out, n.Code)
	}
	return out
}

func (w *world) asked(name string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.servers[name].asked
}

func (m *machine) written() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.writes
}

func (m *machine) stepped() []time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.steps)
}

// after lets d pass.
func after(d time.Duration) { time.Sleep(d); synctest.Wait() }

func three() map[string]*server {
	return map[string]*server{"a": {delay: 10 * ms, jitter: 100 * time.Microsecond}, "b": {delay: 20 * ms, jitter: 200 * time.Microsecond}, "c": {delay: 15 * ms, jitter: 150 * time.Microsecond}}
}

func TestTheClockIsDisciplined(t *testing.T) {
	for _, c := range []struct {
		name    string
		machine *machine
		servers func(map[string]*server)
		wait    time.Duration
		within  time.Duration
		steps   int
	}{
		{"cold start decades behind", &machine{wrong: -56 * 365 * 24 * time.Hour}, nil, time.Minute, ms, 1},
		{"cold start years ahead", &machine{wrong: 12 * 365 * 24 * time.Hour}, nil, time.Minute, ms, 1},
		{"0.6 s is stepped at start", &machine{wrong: 600 * ms}, nil, time.Minute, ms, 1},
		{"0.4 s is slewed at start", &machine{wrong: -400 * ms}, nil, 3 * time.Minute, ms, 0},
		{"a quartz 80 ppm fast", &machine{wrong: 10 * ms, frequency: 80e-6}, nil, 6 * time.Hour, ms, 0},
		{"jitter of 5 ms", &machine{wrong: 100 * ms, frequency: 20e-6}, func(s map[string]*server) {
			for _, x := range s {
				x.jitter = 5 * ms
			}
		}, 6 * time.Hour, 5 * ms, 0},
		{"queues of 200 ms on one way", &machine{wrong: 300 * ms}, func(s map[string]*server) {
			for _, x := range s {
				x.queue = 200 * ms
			}
		}, 2 * time.Hour, 20 * ms, 0},
		{"a server an hour off", &machine{wrong: 300 * ms}, func(s map[string]*server) { s["b"].bias = time.Hour }, 10 * time.Minute, ms, 0},
		{"one server lost", &machine{wrong: 3 * time.Second}, func(s map[string]*server) { s["b"].lost = true }, 10 * time.Minute, ms, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(c.machine, three())
				if c.servers != nil {
					c.servers(w.servers)
				}
				w.start(t)
				after(c.wait)
				if e := w.error(); e.Abs() > c.within || len(w.stepped()) != c.steps {
					t.Errorf("wrong by %v, want %v; steps %v; %v", e, c.within, w.stepped(), w.s.Status())
				}
				r := w.s.Told()
				if !r.Synchronised() || r.Stratum != 3 || r.Reference != [4]byte{192, 0, 2, 1} || w.s.Status().Mode != ntp.ModeActive {
					t.Errorf("told: %+v", r)
				}
				if bound := r.RootDelay/2 + r.RootDispersion; bound < w.error().Abs() {
					t.Errorf("wrong by %v, and bounded by %v", w.error(), bound)
				}
			})
		})
	}
}

// A clock is never stepped but at the start, unless it is off by more than ten
// minutes, and then a notice says so.
func TestLaterStepsAreRareAndTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(&machine{}, three())
		w.start(t)
		after(10 * time.Minute)
		w.machine.mu.Lock()
		w.wrong += 2 * time.Second
		w.machine.mu.Unlock()
		after(20 * time.Minute)
		if e := w.error(); e.Abs() > 2*ms || len(w.stepped()) != 0 {
			t.Errorf("2 s are slewed: %v left, steps %v", e, w.stepped())
		}
		w.machine.mu.Lock()
		w.wrong -= time.Hour
		w.machine.mu.Unlock()
		after(20 * time.Minute)
		if e := w.error(); e.Abs() > 2*ms || len(w.stepped()) != 1 || !slices.Contains(w.notices(), "clock_stepped") {
			t.Errorf("an hour is stepped: %v left, steps %v, %v", e, w.stepped(), w.notices())
		}
	})
}

func TestAFalsetickerIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(&machine{wrong: -50 * 365 * 24 * time.Hour}, three())
		w.servers["b"].bias = 3 * time.Second
		w.start(t)
		after(2 * time.Minute)
		if e := w.error(); e.Abs() > 2*ms {
			t.Errorf("wrong by %v", e)
		}
		n := w.s.Notices()
		if i := slices.Index(w.notices(), "clock_falseticker"); i < 0 || n[i].Subject != "b" {
			t.Errorf("%v", n)
		}
	})
}

func TestWithoutAMajorityTheClockIsNotTouched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(&machine{wrong: time.Hour}, three())
		w.servers["a"].bias, w.servers["b"].bias = time.Minute, -time.Minute
		w.start(t)
		after(10 * time.Minute)
		if w.written() != 0 || !slices.Contains(w.notices(), "clock_no_majority") || w.s.Told().Synchronised() {
			t.Errorf("%d writes, %v", w.written(), w.notices())
		}
	})
	// One server of three is heard: nobody steps on its word.
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(&machine{wrong: time.Hour}, three())
		w.servers["a"].lost, w.servers["b"].lost = true, true
		w.start(t)
		after(10 * time.Minute)
		if len(w.stepped()) != 0 {
			t.Errorf("stepped by %v on one server's word", w.stepped())
		}
	})
}

// When the sources are gone the error bound grows, and the truth is told once
// it passes a second.
func TestLostSourcesAreAdmitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(&machine{}, three())
		w.start(t)
		after(10 * time.Minute)
		for name := range w.servers {
			w.set(name, func(s *server) { s.lost = true })
		}
		dispersion := func() uint32 {
			out := w.s.Respond(packet(4, 3, 48), "10.0.0.9:123")
			return uint32(out[8])<<24 | uint32(out[9])<<16 | uint32(out[10])<<8 | uint32(out[11])
		}
		before := dispersion()
		after(10 * time.Hour)
		if !w.s.Told().Synchronised() || dispersion() < before+30000 { // 0.5 s in 16.16
			t.Errorf("after 10 h: %+v, dispersion %d before, %d now", w.s.Told(), before, dispersion())
		}
		after(12 * time.Hour)
		if r := w.s.Told(); r.Synchronised() || r.Stratum != 16 {
			t.Errorf("after 22 h without sources: %+v", r)
		}
		for name := range w.servers {
			w.set(name, func(s *server) { s.lost = false })
		}
		after(time.Hour)
		if !w.s.Told().Synchronised() {
			t.Errorf("the sources are back: %v", w.s.Status())
		}
	})
}

// RFC 5905 §7.4.
func TestKissesAreObeyed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(&machine{}, three())
		w.servers["a"].kiss, w.servers["b"].kiss = "RATE", "DENY"
		w.start(t)
		after(time.Hour)
		if w.asked("a") > 10 || w.asked("b") != 1 || w.asked("c") < 10 {
			t.Errorf("asked %d after RATE, %d after DENY, %d otherwise", w.asked("a"), w.asked("b"), w.asked("c"))
		}
	})
}

func TestASteadyClockIsAskedForLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(&machine{}, three())
		w.start(t)
		after(24 * time.Hour)
		before := w.asked("a")
		after(24 * time.Hour)
		if n := w.asked("a") - before; n < 80 || n > 90 { // every 1,024 s: 84
			t.Errorf("asked %d times on the second day", n)
		}
	})
}

func TestTheClockIsLeftAlone(t *testing.T) {
	for _, c := range []struct {
		name  string
		setup func(*world)
		plan  func(*ntp.Sources)
		mode  ntp.Mode
	}{
		{"discipline off", nil, func(p *ntp.Sources) { p.Discipline = false }, ntp.ModeOff},
		{"no sources", nil, func(p *ntp.Sources) { p.Servers = nil }, ntp.ModeNoSources},
		{"another daemon", func(w *world) { w.other = "chronyd" }, nil, ntp.ModeOther},
		{"synchronised by somebody unknown", func(w *world) { w.synchronised = true }, nil, ntp.ModeOther},
		{"no CAP_SYS_TIME", func(w *world) { w.denied = true }, nil, ntp.ModeDenied},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(&machine{wrong: time.Hour}, three())
				if c.setup != nil {
					c.setup(w)
				}
				if c.plan == nil {
					c.plan = func(*ntp.Sources) {}
				}
				w.start(t, c.plan)
				after(time.Hour)
				if w.written() != 0 || w.s.Status().Mode != c.mode {
					t.Errorf("%d writes in mode %s, want %s", w.written(), w.s.Status().Mode, c.mode)
				}
			})
		})
	}
}

// A daemon that comes later gets the clock, and one that goes leaves it to us.
func TestTheClockChangesHands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(&machine{}, three())
		w.start(t)
		after(5 * time.Minute)
		if w.written() == 0 {
			t.Fatal("nothing was corrected")
		}
		w.mu.Lock()
		w.other = "chronyd"
		w.mu.Unlock()
		after(time.Minute)
		before := w.written()
		after(time.Hour)
		if w.written() != before || w.s.Status().Mode != ntp.ModeOther {
			t.Errorf("%d writes beside another daemon", w.written()-before)
		}
		w.mu.Lock()
		w.other = ""
		w.mu.Unlock()
		w.machine.mu.Lock()
		w.synchronised = false // the kernel gives up when nobody renews its maxerror
		w.machine.mu.Unlock()
		after(5 * time.Minute)
		if w.written() == before || w.s.Status().Mode != ntp.ModeActive {
			t.Errorf("not taken over: %s", w.s.Status().Mode)
		}
		// Somebody without a name writes.
		w.machine.mu.Lock()
		w.adj.Constant = 9
		w.machine.mu.Unlock()
		after(2 * time.Minute)
		if w.s.Status().Mode != ntp.ModeContested || !slices.Contains(w.notices(), "clock_contested") {
			t.Errorf("a foreign write is not seen: %s", w.s.Status().Mode)
		}
	})
}

// A time that has certainly passed is never gone back to.
func TestTheFloor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(&machine{}, three())
		stop := w.start(t)
		after(90 * time.Minute)
		stop()
		var kept struct{ Last time.Time }
		if err := json.Unmarshal(w.memory["clock"], &kept); err != nil || time.Since(kept.Last).Abs() > time.Second {
			t.Fatalf("%s, %v", w.memory["clock"], err)
		}
		// The machine comes up in 1999, with servers that confirm it.
		w.machine = &machine{wrong: -200 * 24 * time.Hour}
		for _, s := range w.servers {
			s.bias = -100 * 24 * time.Hour
		}
		w.start(t)
		after(time.Minute)
		if w.s.Plausible(w.Now()) || !w.s.Plausible(time.Now()) || len(w.stepped()) != 0 {
			t.Errorf("plausible at %v, steps %v", w.Now(), w.stepped())
		}
		if n := w.notices(); !slices.Contains(n, "clock_implausible") || !slices.Contains(n, "clock_sources_implausible") {
			t.Errorf("%v", n)
		}
	})
	// Damage is no time.
	s := ntp.New(&ntp.Config{Logger: quiet, Clock: synchronised(), Memory: memory{"clock": []byte("{")}, Built: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)})
	if !s.Plausible(time.Date(2020, 1, 1, 0, 0, 1, 0, time.UTC)) || s.Plausible(time.Date(2019, 1, 1, 0, 0, 0, 0, time.UTC)) {
		t.Error("the build time is not the floor")
	}
}

func TestOtherDaemonsAreFoundWithoutTheirProcesses(t *testing.T) {
	for _, c := range []struct{ file, content, want string }{
		{"run/chrony/chronyd.pid", strconv.Itoa(os.Getpid()), "chronyd"},
		{"run/chrony/chronyd.pid", "4194305", ""}, // above pid_max: it has died
		{"run/chrony/chronyd.pid", "nonsense", ""},
		{"run/ntpd.pid", strconv.Itoa(os.Getpid()) + "\n", "ntpd"},
		{"run/systemd/timesync/synchronized", "", "systemd-timesyncd"},
		{"proc/net/unix", "Num\n0: 2 0 0 2 1 7 /run/chrony/chronyd.sock\n", "chronyd"},
		{"proc/net/unix", "Num\n0: 2 0 0 2 1 7 /run/other.sock\n", ""},
	} {
		root := t.TempDir()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, c.file)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, c.file), []byte(c.content), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := ntp.AnotherDaemon(root); got != c.want {
			t.Errorf("%s with %q: %q, want %q", c.file, c.content, got, c.want)
		}
	}
}
