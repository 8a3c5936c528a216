package ntp_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/personal-internet-cell/pic/ntp"
)

const ms = time.Millisecond

func at(offset, distance time.Duration) ntp.Candidate {
	return ntp.Candidate{Offset: offset, Distance: distance, Jitter: 100 * time.Microsecond, Stratum: 2}
}

// RFC 5905 §11.2.1: whoever is outside the smallest interval that most agree on
// is a falseticker; without a majority nobody is believed.
func TestFalsetickersAreVotedOut(t *testing.T) {
	for _, c := range []struct {
		name    string
		in      []ntp.Candidate
		chimers []int
	}{
		{"one alone is believed", []ntp.Candidate{at(3*ms, 10*ms)}, []int{0}},
		{"two that agree", []ntp.Candidate{at(3*ms, 10*ms), at(5*ms, 10*ms)}, []int{0, 1}},
		{"two that disagree", []ntp.Candidate{at(0, 10*ms), at(time.Second, 10*ms)}, nil},
		{"one of three lies", []ntp.Candidate{at(0, 10*ms), at(time.Hour, 10*ms), at(2*ms, 10*ms)}, []int{0, 2}},
		{"one of three lies by years", []ntp.Candidate{at(0, 10*ms), at(-56*365*24*time.Hour, 10*ms), at(2*ms, 10*ms)}, []int{0, 2}},
		{"two of four lie together", []ntp.Candidate{at(0, 10*ms), at(ms, 10*ms), at(time.Second, 10*ms), at(time.Second+ms, 10*ms)}, nil},
		{"two of four lie apart", []ntp.Candidate{at(0, 10*ms), at(ms, 10*ms), at(time.Second, 10*ms), at(-time.Second, 10*ms)}, nil},
		{"two of five lie together", []ntp.Candidate{at(0, 10*ms), at(ms, 10*ms), at(-ms, 10*ms), at(time.Second, 10*ms), at(time.Second, 10*ms)}, []int{0, 1, 2}},
		{"two of five lie to both sides", []ntp.Candidate{at(time.Second, 10*ms), at(ms, 10*ms), at(-ms, 10*ms), at(0, 10*ms), at(-time.Second, 10*ms)}, []int{1, 2, 3}},
		{"three of five apart", []ntp.Candidate{at(0, ms), at(time.Second, ms), at(2*time.Second, ms), at(3*time.Second, ms), at(4*time.Second, ms)}, nil},
		{"touching ends", []ntp.Candidate{at(0, 10*ms), at(20*ms, 10*ms), at(10*ms, ms)}, []int{0, 1, 2}},
		{"nobody", nil, nil},
	} {
		chimers, _, _ := ntp.Select(c.in)
		if d := cmp.Diff(c.chimers, chimers); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
	}
}

// However fewer than half lie, the time found is within the honest ones' error.
func TestAMinorityOfLiarsNeverMovesTheClock(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 905))
	for range 20_000 {
		n := 3 + r.IntN(10)
		liars := r.IntN((n + 1) / 2)
		in := make([]ntp.Candidate, n)
		widest := time.Duration(0)
		for i := range in {
			d := ms + time.Duration(r.Int64N(int64(50*ms)))
			in[i] = at(time.Duration(r.Int64N(int64(2*d)))-d, d) // the truth, 0, is within d
			if i < liars {
				in[i].Offset = time.Duration(r.Int64N(int64(20*time.Second))) - 10*time.Second
			} else {
				widest = max(widest, d)
			}
		}
		r.Shuffle(n, func(i, j int) { in[i], in[j] = in[j], in[i] })
		chimers, survivors, offset := ntp.Select(in)
		// A liar within the honest intervals is none, one beyond may overlap by
		// its own width; so the bound is both.
		if len(chimers) == 0 || len(survivors) == 0 || offset.Abs() > 2*widest+60*ms {
			t.Fatalf("%d liars of %d moved the clock by %v (chimers %v): %+v", liars, n, offset, chimers, in)
		}
	}
}

func TestOutliersAreClusteredAwayAndTheRestWeighed(t *testing.T) {
	_, survivors, _ := ntp.Select([]ntp.Candidate{at(0, 50*ms), at(ms, 50*ms), at(-ms, 50*ms), at(30*ms, 50*ms)})
	if slices.Contains(survivors, 3) || len(survivors) != 3 {
		t.Errorf("survivors %v", survivors)
	}
	_, _, offset := ntp.Select([]ntp.Candidate{at(0, ms), at(10*ms, 9*ms)}) // weights 9:1
	if offset.Round(10*time.Microsecond) != ms {
		t.Errorf("combined %v", offset)
	}
	far := at(0, ms)
	far.Stratum = 5
	if _, survivors, _ := ntp.Select([]ntp.Candidate{far, at(0, 2*ms)}); survivors[0] != 1 {
		t.Errorf("a far stratum is preferred: %v", survivors)
	}
}

// RFC 5905 §10: a queue on one way shows as delay, and as half of it in the
// offset; the sample that met none is believed.
func TestTheFilterBelievesTheShortestWay(t *testing.T) {
	offset, dispersion, jitter := ntp.Filtered(
		[]time.Duration{40 * ms, 25 * ms, 2 * ms, 60 * ms, 45 * ms, 30 * ms, 20 * ms, 90 * ms, 12 * ms},
		[]time.Duration{100 * ms, 70 * ms, 20 * ms, 140 * ms, 110 * ms, 80 * ms, 60 * ms, 200 * ms, 40 * ms})
	if offset != 2*ms || jitter < 10*ms {
		t.Errorf("offset %v, jitter %v", offset, jitter)
	}
	if dispersion > 70*ms { // 16 s >> 8 would be one missing stage
		t.Errorf("a full filter has dispersion %v", dispersion)
	}
	for n, most := range []time.Duration{1: 8 * time.Second, 4: time.Second, 8: 100 * ms} {
		if most == 0 {
			continue
		}
		_, d, _ := ntp.Filtered(make([]time.Duration, n), make([]time.Duration, n))
		if d > most+ms || d < most/2-50*ms {
			t.Errorf("%d samples: dispersion %v, want about %v", n, d, most)
		}
	}
}
