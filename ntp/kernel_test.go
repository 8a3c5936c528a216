package ntp_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"

	beevik "github.com/beevik/ntp"
	"golang.org/x/sys/unix"

	"github.com/personal-internet-cell/pic/internal/netnstest"
	"github.com/personal-internet-cell/pic/ntp"
)

// ownClock skips where the clock is not the test's to set: it is in the virtual
// machine of rig/vmtest only.
func ownClock(t *testing.T) {
	t.Helper()
	if os.Getenv("PIC_VMTEST") != "1" || os.Getpid() > 2000 {
		t.Skip("sets the clock: runs in the virtual machine only: make vmtest")
	}
}

// truth is a time that neither setting nor slewing the machine's clock moves:
// it goes by the raw quartz (Go's monotonic time is slewed with the clock).
type truth struct {
	base  time.Time
	start time.Duration
	ahead atomic.Int64 // nanoseconds
}

func newTruth() *truth {
	return &truth{base: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC), start: raw()}
}

func (u *truth) now() time.Time {
	return u.base.Add(raw() - u.start + time.Duration(u.ahead.Load()))
}

func raw() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_RAW, &ts); err != nil {
		panic(err)
	}
	return time.Duration(ts.Nano())
}

// wrong is how far the machine's clock is ahead.
func (u *truth) wrong() time.Duration { return time.Now().Round(0).Sub(u.now()) }

// reference is a stratum 1 server, written from RFC 5905 §7.3 and sharing no
// code with ours. It tells clock's time, lie later.
func reference(t *testing.T, clock func() time.Time, lie time.Duration) (addr string, stop func()) {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 512)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			if n < 48 {
				continue
			}
			stamp := func(out []byte, at time.Time) {
				since := at.Sub(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC))
				binary.BigEndian.PutUint32(out, 3155673600+uint32(since/time.Second))
				binary.BigEndian.PutUint32(out[4:], uint32(uint64(since%time.Second)<<32/1e9))
			}
			now := clock().Add(lie)
			var out [48]byte
			out[0], out[1], out[2], out[3] = 4<<3|4, 1, b[2], 0xec
			binary.BigEndian.PutUint32(out[8:], 10) // 0.15 ms
			copy(out[12:], "GPS")
			stamp(out[16:], now.Add(-time.Second))
			copy(out[24:], b[40:48])
			stamp(out[32:], now)
			stamp(out[40:], clock().Add(lie))
			_, _ = c.WriteTo(out[:], from)
		}
	}()
	stop = func() { c.Close(); <-done }
	t.Cleanup(stop)
	return c.LocalAddr().String(), stop
}

// follow starts a server that disciplines the machine's clock.
func follow(t *testing.T, m memory, servers ...string) *ntp.Server {
	t.Helper()
	s := ntp.New(&ntp.Config{Logger: quiet, Adjust: ntp.SystemClock{}, Memory: m, Built: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)})
	p := onLoopback(t, "127.0.0.1")
	p.Servers, p.Discipline = servers, true
	run(t, s, p)
	return s
}

// The machine comes up decades off, beside a server that lies: the kernel's
// clock is set to what the others say, the kernel and clients are told, and a
// slew after that never makes the clock jump.
func TestKernelClockIsSetAtStartAndSlewedLater(t *testing.T) {
	ownClock(t)
	u := newTruth()
	if w := u.wrong(); w.Abs() < 365*24*time.Hour {
		t.Fatalf("the machine should have come up years off: %v", time.Now())
	}
	t.Logf("the clock says %v", time.Now())
	var servers []string
	var stops []func()
	for _, lie := range []time.Duration{0, 0, time.Hour, 0} {
		a, stop := reference(t, u.now, lie)
		servers, stops = append(servers, a), append(stops, stop)
	}
	m := memory{}
	t.Run("cold start", func(t *testing.T) {
		s := follow(t, m, servers...)
		netnstest.Eventually(t, 40*time.Second, func() error {
			if w := u.wrong(); w.Abs() > 20*ms || !s.Told().Synchronised() {
				return fmt.Errorf("wrong by %v; %+v %+v", w, s.Status(), s.Told())
			}
			return nil
		})
		var tx unix.Timex
		if code, err := unix.Adjtimex(&tx); err != nil || code == 5 || tx.Status&unix.STA_UNSYNC != 0 {
			t.Errorf("the kernel is not told that it is synchronised: %d %v %+v", code, err, tx)
		}
		netnstest.Eventually(t, 5*time.Second, func() error {
			named := map[string]string{}
			for _, n := range s.Notices() {
				named[n.Code] = n.Subject
			}
			if named["clock_falseticker"] != servers[2] || named["clock_stepped"] == "" {
				return fmt.Errorf("%v", s.Notices())
			}
			return nil
		})
		r, err := beevik.QueryWithOptions(s.Status().Listeners[0].Address, beevik.QueryOptions{Timeout: 2 * time.Second})
		if err != nil || r.Validate() != nil || r.Stratum != 2 || r.ReferenceString() != "127.0.0.1" {
			t.Errorf("%v %+v", err, r)
		}
	})
	if t.Failed() || os.Getenv("PIC_CLOCK_COLD_ONLY") != "" {
		return
	}
	t.Run("slew", func(t *testing.T) {
		u.ahead.Add(int64(-300 * ms))
		s := follow(t, m, servers...)
		ctx, cancel := context.WithCancel(t.Context())
		jumped := make(chan time.Duration, 1)
		go func() { // by more than 10 % of the time that passed
			var worst time.Duration
			for last := u.wrong(); ctx.Err() == nil; {
				begin := raw()
				<-time.After(50 * ms)
				w := u.wrong()
				if d := (w - last).Abs(); d > (raw()-begin)/10+5*ms {
					worst = max(worst, d)
				}
				last = w
			}
			jumped <- worst
		}()
		netnstest.Eventually(t, time.Minute, func() error {
			if w := u.wrong(); w.Abs() > 40*ms {
				return fmt.Errorf("wrong by %v; %+v", w, s.Status())
			}
			return nil
		})
		cancel()
		if j := <-jumped; j > 0 {
			t.Errorf("the clock jumped by %v", j)
		}
	})
	t.Run("chronyd beside", func(t *testing.T) {
		netnstest.Need(t, "chronyd")
		dir := t.TempDir()
		c := exec.Command("chronyd", "-x", "-d", "-u", "root", "server 127.0.0.1", "pidfile "+dir+"/pid", "cmdport 0", "bindcmdaddress /")
		netnstest.Start(t, c)
		s := follow(t, m, servers...)
		netnstest.Eventually(t, 10*time.Second, func() error {
			if st := s.Status(); st.Mode != ntp.ModeOther {
				return fmt.Errorf("%+v", st)
			}
			return nil
		})
	})
	t.Run("sources lost", func(t *testing.T) {
		for _, stop := range stops {
			stop()
		}
		maxerror := func() int64 {
			var tx unix.Timex
			_, _ = unix.Adjtimex(&tx)
			return int64(tx.Maxerror)
		}
		before := maxerror()
		netnstest.Eventually(t, 5*time.Second, func() error {
			if now := maxerror(); now < before+500 { // 500 µs a second
				return fmt.Errorf("the kernel's error bound stays: %d, %d", before, now)
			}
			return nil
		})
	})
}
