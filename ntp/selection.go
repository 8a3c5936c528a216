package ntp

import (
	"cmp"
	"iter"
	"slices"
	"time"
)

// minSurvivors is where clustering stops (RFC 5905 §7.2, NMIN).
const minSurvivors = 3

// candidate is a source that may be believed: reachable, synchronised, and
// within maxDistance.
type candidate struct {
	index    int // of the source
	stratum  uint8
	offset   time.Duration
	distance time.Duration // to the root: the error is not larger
	jitter   time.Duration
}

// intersect is the selection algorithm of RFC 5905 §11.2.1, after Marzullo: the
// smallest interval that holds the true time if fewer than half of the
// candidates lie. It returns those whose interval of correctness touches it;
// none when there is no majority. As later ntpd and chronyd, and unlike the
// RFC, it does not ask that midpoints lie inside: honest candidates of very
// different distance would find no majority.
func intersect(cs []candidate) []candidate {
	type edge struct {
		at   time.Duration
		kind int // -1 lower end, +1 upper end
	}
	edges := make([]edge, 0, 2*len(cs))
	for _, c := range cs {
		edges = append(edges, edge{c.offset - c.distance, -1}, edge{c.offset + c.distance, +1})
	}
	slices.SortFunc(edges, func(a, b edge) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.kind, b.kind)) })
	for allow := 0; 2*allow < len(cs); allow++ {
		low, okLow := reach(slices.Values(edges), len(cs)-allow, func(e edge) (time.Duration, int) { return e.at, -e.kind })
		high, okHigh := reach(reversed(edges), len(cs)-allow, func(e edge) (time.Duration, int) { return e.at, e.kind })
		if okLow && okHigh && low <= high {
			return slices.DeleteFunc(slices.Clone(cs), func(c candidate) bool { return c.offset+c.distance < low || c.offset-c.distance > high })
		}
	}
	return nil
}

// reach walks edges until n intervals are open, and returns where.
func reach[E any](edges iter.Seq[E], n int, step func(E) (time.Duration, int)) (time.Duration, bool) {
	open := 0
	for e := range edges {
		at, by := step(e)
		if open += by; open >= n {
			return at, true
		}
	}
	return 0, false
}

func reversed[E any](es []E) iter.Seq[E] {
	return func(yield func(E) bool) {
		for _, e := range slices.Backward(es) {
			if !yield(e) {
				return
			}
		}
	}
}

// cluster drops the outliers among truechimers (RFC 5905 §11.2.2): the one that
// disagrees most goes, until that gains nothing or three are left. The result
// begins with the best.
func cluster(cs []candidate) []candidate {
	out := slices.Clone(cs)
	slices.SortStableFunc(out, func(a, b candidate) int { return cmp.Compare(a.merit(), b.merit()) })
	for len(out) > minSurvivors {
		worst, most, least := 0, time.Duration(-1), out[0].jitter
		for i := range out {
			squares := 0.0
			for j := range out {
				squares += square(out[i].offset - out[j].offset)
			}
			if s := root(squares / float64(len(out)-1)); s > most {
				worst, most = i, s
			}
			least = min(least, out[i].jitter)
		}
		if most <= least {
			break
		}
		out = slices.Delete(out, worst, worst+1)
	}
	return out
}

// merit orders survivors: stratum first, then distance (RFC 5905 §11.2.1).
func (c *candidate) merit() time.Duration {
	return time.Duration(c.stratum)*maxDistance + c.distance
}

// combine weighs the survivors by the inverse of their distance (RFC 5905
// §11.2.3). cs must not be empty.
func combine(cs []candidate) (offset, jitter time.Duration) {
	var weights, sum, squares float64
	for _, c := range cs {
		w := 1 / max(c.distance, time.Microsecond).Seconds()
		weights += w
		// From the best, so that no precision is lost on years.
		sum += w * (c.offset - cs[0].offset).Seconds()
		squares += w * square(c.offset-cs[0].offset)
	}
	return cs[0].offset + time.Duration(sum/weights*float64(time.Second)), root(squares/weights + square(cs[0].jitter))
}
