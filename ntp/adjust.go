package ntp

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// KernelState is what the kernel's clock discipline is doing.
type KernelState struct {
	Synchronised bool
	// Pending is what the kernel is still slewing by.
	Pending time.Duration
	// Constant and Status are as adjtimex(2) gives them: they tell when another
	// program has written.
	Constant int64
	Status   int32
	// Frequency is the correction in force, in parts per million.
	Frequency float64
	// Ahead is the wall clock less the time since boot. Both are slewed alike, so
	// it changes only when the clock is set.
	Ahead time.Duration
}

// Adjustment is what the kernel is told after an update.
type Adjustment struct {
	// Offset is slewed away by the kernel's phase-locked loop: at most 0.5 s.
	Offset time.Duration
	// Constant is the loop's time constant, 2^(Constant+2) seconds.
	Constant int64
	// Frequency is the correction of the clock's rate, in parts per million, at
	// most 500. The kernel's loop does not change it by itself.
	Frequency float64
	// MaxError and EstimatedError are what the kernel tells other programs.
	MaxError, EstimatedError time.Duration
	Leap                     uint8
	// Unsynchronised: corrected, but not yet to be relied on.
	Unsynchronised bool
}

// Adjuster writes a clock. Tests have their own; [SystemClock] is the
// machine's.
type Adjuster interface {
	// Permitted reports whether this process may write.
	Permitted() bool
	State() (KernelState, error)
	Step(d time.Duration) error
	Slew(a Adjustment) error
}

// SystemClock writes the machine's clock (CAP_SYS_TIME). The kernel's own loop
// slews: should this process end, an offset still runs out and the frequency
// stays right.
type SystemClock struct{}

const maxPhase = 500 * time.Millisecond // the kernel's MAXPHASE

// ourStatus are the bits we write; a change to them is another program's.
const (
	unsyncBit = unix.STA_UNSYNC // the kernel sets it too
	ourStatus = unix.STA_PLL | unix.STA_FLL | unix.STA_FREQHOLD | unix.STA_UNSYNC | unix.STA_INS | unix.STA_DEL
)

// Permitted reports whether this process has CAP_SYS_TIME.
func (SystemClock) Permitted() bool {
	var data [2]unix.CapUserData
	err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0])
	return err == nil && data[0].Effective&(1<<unix.CAP_SYS_TIME) != 0
}

// State reads; nothing is written.
func (SystemClock) State() (KernelState, error) {
	var tx unix.Timex
	code, err := unix.Adjtimex(&tx)
	if err != nil {
		return KernelState{}, fmt.Errorf("reading the kernel's clock: %w", err)
	}
	ahead, err := readAhead()
	if err != nil {
		return KernelState{}, err
	}
	r := kernelReading(&tx, code)
	return KernelState{
		Synchronised: r.Synchronised(), Pending: r.Offset, Constant: int64(tx.Constant),
		Status: tx.Status & ourStatus, Frequency: float64(tx.Freq) / 65536, Ahead: ahead,
	}, nil
}

// readAhead takes the tightest of three readings, because a process may be held
// up between two clocks.
func readAhead() (ahead time.Duration, err error) {
	best := time.Duration(-1)
	for range 3 {
		var before, wall, after unix.Timespec
		if err := errors.Join(unix.ClockGettime(unix.CLOCK_BOOTTIME, &before), unix.ClockGettime(unix.CLOCK_REALTIME, &wall),
			unix.ClockGettime(unix.CLOCK_BOOTTIME, &after)); err != nil {
			return 0, fmt.Errorf("reading the clocks: %w", err)
		}
		if took := time.Duration(after.Nano() - before.Nano()); best < 0 || took < best {
			best, ahead = took, time.Duration(wall.Nano()-after.Nano())
		}
	}
	return ahead, nil
}

// Step adds d to the clock at once and forgets what was being slewed.
func (SystemClock) Step(d time.Duration) error {
	sec, nsec := d/time.Second, d%time.Second
	if nsec < 0 { // adjtimex(2): the fraction is never negative
		sec, nsec = sec-1, nsec+time.Second
	}
	tx := unix.Timex{Modes: unix.ADJ_SETOFFSET | unix.ADJ_NANO}
	setTimeval(&tx.Time, int64(sec), int64(nsec))
	if _, err := unix.Adjtimex(&tx); err != nil {
		return fmt.Errorf("stepping the clock: %w", explainTime(err))
	}
	none := unix.Timex{Modes: unix.ADJ_OFFSET | unix.ADJ_STATUS | unix.ADJ_NANO, Status: unix.STA_PLL | unix.STA_FREQHOLD | unix.STA_UNSYNC}
	if _, err := unix.Adjtimex(&none); err != nil {
		return fmt.Errorf("ending the slew: %w", explainTime(err))
	}
	return nil
}

// Slew hands an offset to the kernel's loop and says how good the clock is.
func (SystemClock) Slew(a Adjustment) error {
	tx := unix.Timex{Modes: unix.ADJ_OFFSET | unix.ADJ_STATUS | unix.ADJ_NANO | unix.ADJ_TIMECONST | unix.ADJ_FREQUENCY |
		unix.ADJ_MAXERROR | unix.ADJ_ESTERROR, Status: unix.STA_PLL | unix.STA_FREQHOLD}
	setLong(&tx.Offset, int64(a.Offset))
	setLong(&tx.Freq, int64(a.Frequency*65536))
	setLong(&tx.Constant, a.Constant)
	setLong(&tx.Maxerror, a.MaxError.Microseconds())
	setLong(&tx.Esterror, max(a.EstimatedError.Microseconds(), 1))
	if a.Unsynchronised {
		tx.Status |= unix.STA_UNSYNC
	}
	switch a.Leap {
	case leapInsert:
		tx.Status |= unix.STA_INS
	case leapDelete:
		tx.Status |= unix.STA_DEL
	}
	if _, err := unix.Adjtimex(&tx); err != nil {
		return fmt.Errorf("slewing the clock: %w", explainTime(err))
	}
	return nil
}

func explainTime(err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: needs the capability CAP_SYS_TIME", err)
	}
	return err
}

// setLong writes a kernel long, whose width is the machine's.
func setLong[T int32 | int64](to *T, v int64) { *to = T(v) }

func setTimeval(to *unix.Timeval, sec, fraction int64) {
	setLong(&to.Sec, sec)
	setLong(&to.Usec, fraction)
}
