package ntp

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Leap indicator (RFC 5905 §7.3).
const (
	leapNone    = 0
	leapInsert  = 1 // the last minute of the day has 61 seconds
	leapDelete  = 2 // 59 seconds
	leapUnknown = 3 // not synchronised
)

const (
	stratumUnsynchronised = 16
	// stratumKernel is what a clock that another program disciplines is
	// offered as. The kernel knows that it is disciplined and how well, not
	// how far the reference is; 10 is the custom for "somebody local says so",
	// below every server that knows its distance.
	stratumKernel = 10
	// unstatedError is the dispersion of a clock whose daemon states no error
	// (systemd-timesyncd writes zeros): what a poll over the internet is good for.
	unstatedError = 50 * time.Millisecond
	maxDispersion = 16 * time.Second // RFC 5905 §7.2, MAXDISP
	phi           = 15e-6            // RFC 5905 §7.2, PHI: seconds of doubt per second
)

// refKernel is the reference identifier of a clock disciplined on this host:
// its address, 127.0.0.1 (RFC 5905 §7.3). It also keeps a client on this host
// from following itself.
var refKernel = [4]byte{127, 0, 0, 1}

// Reading is what a clock knows about itself.
type Reading struct {
	// Leap is 0 to 3; 3 means not synchronised, and nothing below counts then.
	Leap      uint8
	Stratum   uint8
	Reference [4]byte
	// Updated is when the clock was last corrected.
	Updated time.Time
	// RootDelay and RootDispersion bound the error: delay/2 + dispersion.
	RootDelay, RootDispersion time.Duration
	// Offset is how far the clock is known to be off right now.
	Offset time.Duration
	// Source names who disciplines the clock, for people.
	Source string
}

// Synchronised reports whether the clock may be relied on.
func (r Reading) Synchronised() bool { return r.Leap != leapUnknown }

// Clock tells the time and what it is worth. Implementations are safe for
// concurrent use.
type Clock interface {
	Now() time.Time
	Read() Reading
}

// KernelClock reads the kernel's clock and its state (adjtimex(2), read-only).
type KernelClock struct {
	mu       sync.Mutex
	maxerror int64
	updated  time.Time
	daemon   string
}

// Now is the system's time.
func (*KernelClock) Now() time.Time { return time.Now() }

// Read asks the kernel. Where that fails the clock counts as unsynchronised.
func (k *KernelClock) Read() Reading {
	var tx unix.Timex // Modes is zero: nothing is set
	code, err := unix.Adjtimex(&tx)
	if err != nil {
		return unsynchronised(fmt.Sprintf("the kernel does not tell: %v", err))
	}
	now := time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	// The kernel lets maxerror grow until the daemon sets it: where it fell,
	// the clock was corrected since.
	if maxerror := int64(tx.Maxerror); maxerror < k.maxerror || k.updated.IsZero() {
		k.updated = now
	}
	k.maxerror = int64(tx.Maxerror)
	r := kernelReading(&tx, code)
	if r.Synchronised() {
		r.Updated = k.updated
	}
	if k.daemon != "" {
		r.Source = k.daemon
	}
	return r
}

// look finds out who disciplines the clock. It walks through all processes,
// so packets don't wait for it.
func (k *KernelClock) look() {
	daemon := disciplining("/proc")
	k.mu.Lock()
	defer k.mu.Unlock()
	k.daemon = daemon
}

func unsynchronised(source string) Reading {
	return Reading{Leap: leapUnknown, Stratum: stratumUnsynchronised, Reference: [4]byte{'I', 'N', 'I', 'T'}, RootDispersion: maxDispersion, Source: source}
}

// kernelReading translates what adjtimex(2) returned.
func kernelReading(tx *unix.Timex, code int) Reading {
	const timeError = 5 // TIME_ERROR
	offset := time.Duration(tx.Offset) * time.Microsecond
	if tx.Status&unix.STA_NANO != 0 {
		offset = time.Duration(tx.Offset)
	}
	if code == timeError || tx.Status&(unix.STA_UNSYNC|unix.STA_CLOCKERR) != 0 || tx.Maxerror >= 16_000_000 {
		r := unsynchronised("nobody")
		r.Offset = offset
		return r
	}
	r := Reading{Stratum: stratumKernel, Reference: refKernel, Offset: offset, Source: "kernel"}
	switch {
	case tx.Status&unix.STA_INS != 0:
		r.Leap = leapInsert
	case tx.Status&unix.STA_DEL != 0:
		r.Leap = leapDelete
	}
	// maxerror is the bound on the distance to the root as its daemon gave it,
	// and grows by 500 ppm since; all of it goes into the dispersion.
	r.RootDispersion = time.Duration(tx.Maxerror) * time.Microsecond
	if tx.Esterror == 0 {
		r.RootDispersion += unstatedError
	}
	r.RootDispersion = min(r.RootDispersion+offset.Abs(), maxDispersion)
	return r
}

// disciplining returns the name of a running program that steers clocks, "" if
// there is none that is known.
func disciplining(proc string) string {
	names := map[string]string{
		"chronyd": "chronyd", "ntpd": "ntpd", "ntp-daemon": "ntpd-rs", "systemd-timesyn": "systemd-timesyncd",
		"openntpd": "openntpd", "phc2sys": "phc2sys",
	}
	files, err := filepath.Glob(filepath.Join(proc, "[0-9]*", "comm"))
	if err != nil {
		return ""
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // it ended meanwhile
		}
		if n := names[strings.TrimSpace(string(b))]; n != "" {
			return n
		}
	}
	return ""
}
