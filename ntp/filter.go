package ntp

import (
	"cmp"
	"math"
	"slices"
	"time"
)

const (
	filterStages  = 8                     // RFC 5905 §7.2, NSTAGE
	minDispersion = 5 * time.Millisecond  // RFC 5905 §7.2, MINDISP
	minJitter     = 10 * time.Microsecond // what reading clocks in userland is good for
	// maxDistance is the error bound beyond which a source is not used and we
	// are not synchronised (RFC 5905 §7.2, MAXDIST).
	maxDistance = time.Second
)

// sample is one measurement of one source.
type sample struct {
	// offset is what has to be added to the clock, beyond what the kernel was
	// already slewing by when it was measured: so a sample stays true while the
	// clock is being corrected.
	offset     time.Duration
	delay      time.Duration // to the source and back
	dispersion time.Duration // the doubt at the time of measuring
	at         time.Time     // monotonic
}

// doubt is the sample's dispersion now: it grows by phi (RFC 5905 §10).
func (s *sample) doubt(now time.Time) time.Duration { return s.dispersion + drift(now.Sub(s.at)) }

// drift is how far an undisciplined clock may go in d.
func drift(d time.Duration) time.Duration { return time.Duration(float64(max(d, 0)) * phi) }

// filter is the clock filter (RFC 5905 §10): of a source's last eight samples
// the one with the least distance is believed, because the delay that is not
// there can't be asymmetric.
type filter struct{ samples []sample }

// estimate is what a filter makes of its samples.
type estimate struct {
	offset, delay, dispersion, jitter time.Duration
	at                                time.Time
}

func (f *filter) add(s sample) {
	if len(f.samples) == filterStages {
		f.samples = slices.Delete(f.samples, 0, 1)
	}
	f.samples = append(f.samples, s)
}

// shift takes d, by which the clock was corrected, off every sample.
func (f *filter) shift(d time.Duration) {
	for i := range f.samples {
		f.samples[i].offset -= d
	}
}

// retune takes account of a frequency that was found wrong by that: older samples
// were measured while the clock still ran so.
func (f *filter) retune(by float64, now time.Time) {
	for i := range f.samples {
		f.samples[i].offset += time.Duration(by * float64(now.Sub(f.samples[i].at)))
	}
}

// estimate is false where there is no sample at all. A stage without a sample
// counts as 16 s of dispersion, so that four samples are needed before the
// source can be used.
func (f *filter) estimate(now time.Time) (estimate, bool) {
	if len(f.samples) == 0 {
		return estimate{}, false
	}
	sorted := slices.Clone(f.samples)
	distance := func(s *sample) time.Duration { return s.delay/2 + s.doubt(now) }
	slices.SortStableFunc(sorted, func(a, b sample) int { return cmp.Compare(distance(&a), distance(&b)) })
	best := sorted[0]
	e := estimate{offset: best.offset, delay: best.delay, at: best.at}
	squares := 0.0
	for i := range filterStages {
		d := maxDispersion
		if i < len(sorted) {
			d = min(sorted[i].doubt(now), maxDispersion)
			squares += square(sorted[i].offset - best.offset)
		}
		e.dispersion += d >> (i + 1)
	}
	e.jitter = max(root(squares/float64(max(len(sorted)-1, 1))), minJitter)
	return e, true
}

func square(d time.Duration) float64 { return d.Seconds() * d.Seconds() }

func root(seconds2 float64) time.Duration {
	return time.Duration(math.Sqrt(seconds2) * float64(time.Second))
}
