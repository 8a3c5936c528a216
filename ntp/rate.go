package ntp

import "time"

const (
	maxFrequency = 500 // parts per million; the kernel's MAXFREQ
	firstWindow  = 128 * time.Second
	lastWindow   = 4096 * time.Second
	// rateOutlier is an offset that no quartz explains: the clock was moved.
	rateOutlier = 100 * time.Millisecond
)

// rate finds out how much too slow the clock runs: what had to be corrected
// over a window, by its length. Windows grow, and with them the precision, as
// in a frequency-locked loop.
type rate struct {
	since  time.Time
	window time.Duration
	sum    time.Duration
}

// learn takes an offset that was not known before. It returns by how many
// seconds a second the rate is to be changed: mostly zero.
func (r *rate) learn(offset time.Duration, now time.Time) float64 {
	if r.since.IsZero() || offset.Abs() > rateOutlier {
		*r = rate{since: now, window: max(r.window, firstWindow)}
		return 0
	}
	r.sum += offset
	elapsed := now.Sub(r.since)
	if elapsed < r.window {
		return 0
	}
	wrong := r.sum.Seconds() / elapsed.Seconds()
	*r = rate{since: now, window: min(2*r.window, lastWindow)}
	return min(max(wrong, -maxFrequency*1e-6), maxFrequency*1e-6)
}
