package ntp_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	beevik "github.com/beevik/ntp"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/lifecycle"
	"github.com/personal-internet-cell/pic/internal/netnstest"
	"github.com/personal-internet-cell/pic/ntp"
)

func TestMain(m *testing.M) {
	netnstest.Main(m, netnstest.Helpers{"server": serverHelper})
}

var _ lifecycle.Task = (*ntp.Server)(nil)

var (
	quiet  = slog.New(slog.DiscardHandler)
	update = flag.Bool("update", false, "rewrite the golden files")
)

// fakeClock tells the system's time and claims what the test wants.
type fakeClock struct{ reading ntp.Reading }

func (fakeClock) Now() time.Time      { return time.Now() }
func (f fakeClock) Read() ntp.Reading { return f.reading }

func synchronised() fakeClock {
	return fakeClock{ntp.Reading{
		Stratum: 3, Reference: [4]byte{192, 0, 2, 1}, Updated: time.Now().Add(-10 * time.Second),
		RootDelay: 12 * time.Millisecond, RootDispersion: 2 * time.Millisecond, Source: "test",
	}}
}

func unsynchronised() fakeClock {
	return fakeClock{ntp.KernelReading(unix.Timex{Status: unix.STA_UNSYNC, Maxerror: 16_000_000}, 5)}
}

func household(t testing.TB) (*cell.State, cell.Facts) {
	t.Helper()
	key := cell.Key(base64.StdEncoding.EncodeToString(append([]byte{1}, make([]byte, 31)...)))
	s := cell.Factory([16]byte{1, 2, 3, 4, 5, 6}, "tunnel", key)
	s.Identity = cell.Identity{Name: "home", Mode: cell.ModeLAN}
	s.Users = append(s.Users, cell.User{Name: "admin", Role: cell.RoleAdmin, PasswordHash: "pw"})
	s.Network.LAN = []cell.LAN{
		{Name: "wired", Interface: "lan0", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24")}, Addresses: []netip.Addr{netip.MustParseAddr("192.168.7.1")}},
		{Name: "guests", Interface: "lan1", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.168.8.0/24")}},
	}
	s.Clock.Sources = []string{"time.example.org", "192.0.2.123:123"}
	s.Normalize()
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	return s, cell.Facts{}
}

func TestPlanOfAHousehold(t *testing.T) {
	s, f := household(t)
	p, err := ntp.Compile(s, f)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", "household.conf")
	if *update {
		if err := os.WriteFile(file, []byte(p.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), p.String()); d != "" {
		t.Fatal(d)
	}
	if again, _ := ntp.Compile(s, f); !again.Equal(p) {
		t.Fatal("two plans of one state differ")
	}
}

func TestAnUnclaimedCellTellsNobody(t *testing.T) {
	s, f := household(t)
	s.Users = nil
	if p, err := ntp.Compile(s, f); err != nil || !p.Equal(ntp.Sources{}) || p.String() != "" {
		t.Fatalf("%v %v", p, err)
	}
}

// everybody is a plan without listeners whose clients are the test's.
var everybody = ntp.Sources{Clients: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}}

func newServer(t testing.TB, c ntp.Clock, p ntp.Sources) *ntp.Server {
	t.Helper()
	s := ntp.New(&ntp.Config{Logger: quiet, Clock: c})
	run(t, s, p)
	return s
}

func run(t testing.TB, s *ntp.Server, p ntp.Sources) (stop func()) {
	t.Helper()
	if _, err := s.Apply(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Error("the server does not stop")
		}
	})
	t.Cleanup(stop)
	return stop
}

// onLoopback is a plan with free ports.
func onLoopback(t testing.TB, addrs ...string) ntp.Sources {
	t.Helper()
	p := everybody
	for _, a := range addrs {
		c, err := net.ListenPacket("udp", net.JoinHostPort(a, "0"))
		if err != nil {
			t.Fatal(err)
		}
		p.Listen = append(p.Listen, c.LocalAddr().(*net.UDPAddr).AddrPort())
		c.Close()
	}
	return p
}

func packet(version, mode uint8, length int) []byte {
	b := make([]byte, length)
	for i := range b {
		b[i] = byte(i)
	}
	if length > 0 {
		b[0] = version<<3 | mode
	}
	return b
}

// TIME-1: every version × mode × length; only clients of versions 1 to 4 with
// a whole header are answered, by 48 bytes, never by more than they sent.
func TestNothingIsAmplified(t *testing.T) {
	for _, clock := range []fakeClock{synchronised(), unsynchronised()} {
		s := newServer(t, clock, everybody)
		n := 0
		for version := range uint8(8) {
			for mode := range uint8(8) {
				for length := range 1100 {
					n++
					req := packet(version, mode, length)
					out := s.Respond(req, fmt.Sprintf("10.%d.%d.%d:999", n>>16, n>>8&255, n&255))
					answered := mode == 3 && version >= 1 && version <= 4 && length >= 48
					if (out != nil) != answered {
						t.Fatalf("version %d mode %d length %d: %d bytes", version, mode, length, len(out))
					}
					if !answered {
						continue
					}
					if len(out) > length || len(out) != 48 {
						t.Fatalf("version %d length %d: answered by %d bytes", version, length, len(out))
					}
					if out[0]>>3&7 != version || out[0]&7 != 4 || !bytes.Equal(out[24:32], req[40:48]) || out[2] != req[2] {
						t.Fatalf("version %d: % x", version, out)
					}
				}
			}
		}
	}
}

func TestAnUnsynchronisedClockSaysSo(t *testing.T) {
	out := newServer(t, unsynchronised(), everybody).Respond(packet(4, 3, 48), "10.0.0.1:123")
	if out[0]>>6 != 3 || out[1] != 16 || string(out[12:16]) != "INIT" || binary.BigEndian.Uint64(out[16:]) != 0 ||
		binary.BigEndian.Uint32(out[8:]) != 16<<16 {
		t.Fatalf("% x", out)
	}
}

// The kernel of the machine the tests run on: what is told must be what
// adjtimex(2) says, asked here a second time.
func TestTheKernelIsTakenAtItsWord(t *testing.T) {
	var tx unix.Timex
	code, err := unix.Adjtimex(&tx)
	if err != nil {
		t.Fatal(err)
	}
	out := newServer(t, nil, everybody).Respond(packet(4, 3, 48), "10.0.0.1:123")
	if code == 5 || tx.Status&unix.STA_UNSYNC != 0 {
		if out[0]>>6 != 3 || out[1] != 16 {
			t.Fatalf("the kernel is not synchronised, told: leap %d stratum %d", out[0]>>6, out[1])
		}
	} else if out[0]>>6 == 3 || out[1] != 10 {
		t.Fatalf("the kernel is synchronised, told: leap %d stratum %d", out[0]>>6, out[1])
	}
}

func TestKernelStates(t *testing.T) {
	for _, c := range []struct {
		name    string
		tx      unix.Timex
		code    int
		leap    uint8
		stratum uint8
		disp    time.Duration
	}{
		{"nobody disciplines", unix.Timex{Status: unix.STA_UNSYNC, Maxerror: 16_000_000}, 5, 3, 16, 16 * time.Second},
		{"the flag alone", unix.Timex{Status: unix.STA_UNSYNC, Maxerror: 10, Esterror: 10}, 0, 3, 16, 16 * time.Second},
		{"the code alone", unix.Timex{Maxerror: 10, Esterror: 10}, 5, 3, 16, 16 * time.Second},
		{"an error of 16 s", unix.Timex{Maxerror: 16_000_000, Esterror: 10}, 0, 3, 16, 16 * time.Second},
		{"a clock fault", unix.Timex{Status: unix.STA_CLOCKERR, Esterror: 10}, 0, 3, 16, 16 * time.Second},
		{"chronyd", unix.Timex{Status: unix.STA_PLL | unix.STA_NANO, Maxerror: 20_000, Esterror: 300, Offset: 1000}, 0, 0, 10, 20*time.Millisecond + time.Microsecond},
		{"timesyncd states no error", unix.Timex{Status: unix.STA_PLL, Maxerror: 500}, 0, 0, 10, 50*time.Millisecond + 500*time.Microsecond},
		{"an offset in microseconds counts", unix.Timex{Status: unix.STA_PLL, Maxerror: 1, Esterror: 1, Offset: -7000}, 0, 0, 10, 7*time.Millisecond + time.Microsecond},
		{"a leap second to come", unix.Timex{Status: unix.STA_INS, Maxerror: 1, Esterror: 1}, 1, 1, 10, time.Microsecond},
		{"a leap second to go", unix.Timex{Status: unix.STA_DEL, Maxerror: 1, Esterror: 1}, 2, 2, 10, time.Microsecond},
	} {
		r := ntp.KernelReading(c.tx, c.code)
		if r.Leap != c.leap || r.Stratum != c.stratum || r.RootDispersion != c.disp || r.Synchronised() != (c.leap != 3) {
			t.Errorf("%s: %+v", c.name, r)
		}
	}
}

func TestDisciplinersAreFoundByName(t *testing.T) {
	proc := t.TempDir()
	write := func(pid, comm string) {
		if err := os.MkdirAll(filepath.Join(proc, pid), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(proc, pid, "comm"), []byte(comm+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("1", "systemd")
	if got := ntp.Disciplining(proc); got != "" {
		t.Fatal(got)
	}
	write("77", "systemd-timesyn") // the kernel cuts names at 15 bytes
	if got := ntp.Disciplining(proc); got != "systemd-timesyncd" {
		t.Fatal(got)
	}
}

func TestTimestampsWrapIntoTheNextEra(t *testing.T) {
	for _, c := range []struct {
		at   time.Time
		want uint64
	}{
		{time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC), 2208988800 << 32},
		{time.Date(2036, 2, 7, 6, 28, 16, 500_000_000, time.UTC), 1 << 31}, // RFC 5905 §6, era 1 begins
	} {
		if got := ntp.Timestamp(c.at); got != c.want {
			t.Errorf("%v: %#x, want %#x", c.at, got, c.want)
		}
	}
}

func TestStrangersMeetSilence(t *testing.T) {
	s := newServer(t, synchronised(), everybody)
	if out := s.Respond(packet(4, 3, 48), "203.0.113.9:123"); out != nil {
		t.Fatal("a stranger is answered")
	}
	if out := s.Respond(packet(4, 3, 48), "10.0.0.1:0"); out != nil {
		t.Fatal("port 0 is answered")
	}
}

// RFC 5905 §7.4: too many packets earn RATE, then silence; others and
// patience are served.
func TestRateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, synchronised(), everybody)
		served, kissed, silent := 0, 0, 0
		ask := func(src string) {
			switch out := s.Respond(packet(4, 3, 48), src+":123"); {
			case out == nil:
				silent++
			case out[1] == 0 && string(out[12:16]) == "RATE" && out[0]>>6 == 3:
				kissed++
			default:
				served++
			}
		}
		for range 100 {
			ask("10.0.0.1")
		}
		if served != 16 || kissed != 1 || silent != 83 {
			t.Fatalf("served %d, kissed %d, silent %d", served, kissed, silent)
		}
		if ask("10.0.0.2"); served != 17 {
			t.Fatal("another client is not served")
		}
		time.Sleep(time.Minute)
		if ask("10.0.0.1"); served != 18 {
			t.Fatal("a client that waited is not served")
		}
		for range 60 { // one a second for a minute: a busy network behind one address
			time.Sleep(time.Second)
			ask("10.0.0.1")
		}
		if served != 78 || kissed != 1 {
			t.Fatalf("served %d, kissed %d", served, kissed)
		}
		st := s.Status()
		if st.Clients != 2 || st.Answers != 78 || st.Limited != 1 {
			t.Fatalf("%+v", st)
		}
		time.Sleep(2 * time.Hour)
		if n := s.Status().Clients; n != 0 {
			t.Fatalf("%d clients remembered", n)
		}
	})
}

func TestTheClientTableIsBounded(t *testing.T) {
	s := newServer(t, synchronised(), everybody)
	for i := range 20000 {
		s.Respond(packet(4, 3, 48), fmt.Sprintf("10.1.%d.%d:9", i>>8, i&255))
	}
	if n := s.Status().Clients; n != 8192 {
		t.Fatalf("%d clients", n)
	}
}

func TestBeevikAcceptsASynchronisedServerOnly(t *testing.T) {
	p := onLoopback(t, "127.0.0.1", "::1")
	newServer(t, synchronised(), p)
	for _, a := range p.Listen {
		for _, version := range []int{3, 4} {
			r, err := beevik.QueryWithOptions(a.String(), beevik.QueryOptions{Timeout: 2 * time.Second, Version: version})
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Validate(); err != nil || r.Stratum != 3 || r.ClockOffset.Abs() > time.Millisecond || r.RootDelay.Round(time.Millisecond) != 12*time.Millisecond ||
				r.ReferenceString() != "192.0.2.1" {
				t.Errorf("%s version %d: %v %+v", a, version, err, r)
			}
		}
	}
	q := onLoopback(t, "127.0.0.1")
	newServer(t, unsynchronised(), q)
	r, err := beevik.QueryWithOptions(q.Listen[0].String(), beevik.QueryOptions{Timeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Validate(); err == nil || r.Leap != beevik.LeapNotInSync || r.Stratum != 16 {
		t.Fatalf("%v %+v", err, r)
	}
}

// The receive timestamp is the kernel's: it lies before the server woke up.
func TestReceiveTimestampsComeFromTheKernel(t *testing.T) {
	p := onLoopback(t, "127.0.0.1")
	newServer(t, lateClock{synchronised()}, p)
	r, err := beevik.QueryWithOptions(p.Listen[0].String(), beevik.QueryOptions{Timeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if d := r.Timestamps.ServerXmit.Sub(r.Timestamps.ServerRecv); d < 59*time.Minute {
		t.Fatalf("received %v before it was sent: both are the clock's", d)
	}
}

// lateClock is an hour ahead of the kernel's.
type lateClock struct{ fakeClock }

func (lateClock) Now() time.Time { return time.Now().Add(time.Hour) }

func TestListenersComeAndGo(t *testing.T) {
	p := onLoopback(t, "127.0.0.1", "127.0.0.2")
	all := p.Listen
	p.Listen = all[:1]
	s := newServer(t, synchronised(), p)
	for _, want := range [][]netip.AddrPort{all, all[:1], all[1:]} {
		p.Listen = want
		if changed, err := s.Apply(t.Context(), p); err != nil || !changed {
			t.Fatalf("%v: changed %v, %v", want, changed, err)
		}
		if changed, err := s.Apply(t.Context(), p); err != nil || changed {
			t.Fatalf("%v again: changed %v, %v", want, changed, err)
		}
		for _, a := range all {
			_, err := beevik.QueryWithOptions(a.String(), beevik.QueryOptions{Timeout: 300 * time.Millisecond})
			up := false
			for _, w := range want {
				up = up || w == a
			}
			if up != (err == nil) {
				t.Errorf("%v of %v: %v", a, want, err)
			}
		}
	}
}

func TestATakenPortIsNamedAndTheOthersComeUp(t *testing.T) {
	p := onLoopback(t, "127.0.0.1", "127.0.0.2")
	other, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(p.Listen[0]))
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, synchronised(), everybody)
	changed, err := s.Apply(t.Context(), p)
	if err == nil || !changed || !strings.Contains(err.Error(), "127.0.0.1 port ") || !strings.Contains(err.Error(), "--ntp-port") {
		t.Fatalf("changed %v, %v", changed, err)
	}
	if m := ntp.Query(p.Listen[1].String()); m.Problem != "" {
		t.Fatalf("the other listener: %+v", m)
	}
	if n := s.Notices(); len(n) != 1 || n[0].Code != "ntp_listen" {
		t.Fatalf("%v", n)
	}
	other.Close()
	if changed, err := s.Apply(t.Context(), p); err != nil || !changed || len(s.Notices()) != 0 {
		t.Fatalf("after the port is free: changed %v, %v, %v", changed, err, s.Notices())
	}
}

func TestAPanicCostsOnePacket(t *testing.T) {
	p := onLoopback(t, "127.0.0.1")
	s := ntp.New(&ntp.Config{Logger: quiet, Clock: synchronised()})
	s.PanicOn(333)
	run(t, s, p)
	c, err := net.Dial("udp", p.Listen[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Write(packet(4, 3, 333))
	begin := time.Now()
	_, _ = c.Write(packet(4, 3, 48))
	_ = c.SetReadDeadline(begin.Add(time.Second))
	if n, err := c.Read(make([]byte, 100)); err != nil || n != 48 || s.Status().Panics != 1 {
		t.Fatalf("%d %v %+v", n, err, s.Status())
	}
}

func TestStatusComparesWithTheNamedServers(t *testing.T) {
	p := onLoopback(t, "127.0.0.1")
	newServer(t, synchronised(), p)
	q := everybody
	q.Servers = []string{p.Listen[0].String()}
	s := newServer(t, unsynchronised(), q)
	netnstest.Eventually(t, 5*time.Second, func() error {
		if m := s.Status().Servers; len(m) != 1 || m[0].Problem != "" || m[0].Stratum != 3 {
			return fmt.Errorf("%+v", m)
		}
		return nil
	})
	if st := s.Status(); st.Synchronised || st.Stratum != 16 || st.Leap != 3 || st.Running {
		t.Fatalf("a comparison is no synchronisation: %+v", st)
	}
}

func FuzzPacket(f *testing.F) {
	f.Add(packet(4, 3, 48))
	f.Add(packet(3, 6, 12))
	f.Add(packet(2, 7, 192))
	f.Add(packet(4, 3, 68))
	s := newServer(f, unsynchronised(), everybody)
	f.Fuzz(func(t *testing.T, b []byte) {
		out := s.Respond(b, "10.0.0.1:123")
		if len(out) > len(b) {
			t.Fatalf("%d bytes for %d", len(out), len(b))
		}
		if out != nil && (b[0]&7 != 3 || out[0]>>6 != 3) {
			t.Fatalf("% x for % x", out, b)
		}
	})
}
