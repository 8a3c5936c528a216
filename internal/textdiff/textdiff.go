// Package textdiff renders how one text became another, in the unified format of
// diff -u, at a bounded cost. It owns nothing. It must never lose a line: the
// result applied to the old text gives the new one, or says that it was cut.
package textdiff

import (
	"fmt"
	"slices"
	"strings"
)

const (
	diffContext = 3
	// maxEdits bounds Myers' search within one stretch between two anchors;
	// beyond it the stretch is shown as removed and added whole.
	maxEdits = 400
	// maxDiffLines bounds the lines of a diff.
	maxDiffLines = 20000
)

// Unified renders how text a became b in the unified format of diff -u, or ""
// when they are the same. Its cost is bounded: lines that occur once in both
// anchor the comparison (patience diff), and the stretches between them are
// searched by Myers' greedy algorithm up to maxEdits.
func Unified(name, a, b string) string {
	if a == b {
		return ""
	}
	d := &differ{}
	d.a, d.b = d.intern(lines(a)), d.intern(lines(b))
	d.stretch(0, len(d.a), 0, len(d.b))
	return d.render(name)
}

func lines(s string) []string {
	if s == "" {
		return nil
	}
	return strings.SplitAfter(strings.TrimSuffix(s, "\n"), "\n")
}

// differ compares two texts as numbers, one per distinct line.
type differ struct {
	a, b  []int
	texts []string
	ids   map[string]int
	ops   []op // the whole of both texts, in order
}

// op is n lines that are kept (' '), removed ('-') or added ('+'), beginning
// at line a of the one text and b of the other.
type op struct {
	kind    byte
	a, b, n int
}

func (d *differ) intern(text []string) []int {
	if d.ids == nil {
		d.ids = map[string]int{}
	}
	out := make([]int, len(text))
	for i, l := range text {
		l = strings.TrimSuffix(l, "\n")
		id, ok := d.ids[l]
		if !ok {
			id = len(d.texts)
			d.ids[l] = id
			d.texts = append(d.texts, l)
		}
		out[i] = id
	}
	return out
}

func (d *differ) emit(kind byte, a, b, n int) {
	if n == 0 {
		return
	}
	if last := len(d.ops) - 1; last >= 0 && d.ops[last].kind == kind {
		d.ops[last].n += n
		return
	}
	d.ops = append(d.ops, op{kind, a, b, n})
}

// stretch compares a[a0:a1] with b[b0:b1].
func (d *differ) stretch(a0, a1, b0, b1 int) {
	head := 0
	for a0+head < a1 && b0+head < b1 && d.a[a0+head] == d.b[b0+head] {
		head++
	}
	tail := 0
	for a1-tail > a0+head && b1-tail > b0+head && d.a[a1-tail-1] == d.b[b1-tail-1] {
		tail++
	}
	d.emit(' ', a0, b0, head)
	a0, b0, a1, b1 = a0+head, b0+head, a1-tail, b1-tail
	switch {
	case a0 == a1 || b0 == b1:
		d.replace(a0, a1, b0, b1)
	default:
		if anchors := d.anchors(a0, a1, b0, b1); len(anchors) > 0 {
			for _, m := range anchors {
				d.stretch(a0, m[0], b0, m[1])
				d.emit(' ', m[0], m[1], 1)
				a0, b0 = m[0]+1, m[1]+1
			}
			d.stretch(a0, a1, b0, b1)
		} else {
			d.myers(a0, a1, b0, b1)
		}
	}
	d.emit(' ', a1, b1, tail)
}

func (d *differ) replace(a0, a1, b0, b1 int) {
	d.emit('-', a0, b0, a1-a0)
	d.emit('+', a1, b0, b1-b0)
}

// anchors are the lines that occur once in either stretch, as pairs of
// positions, of which the longest series that rises in both is kept.
func (d *differ) anchors(a0, a1, b0, b1 int) [][2]int {
	const many = -1
	inB := make(map[int]int, b1-b0)
	for j := b0; j < b1; j++ {
		if _, ok := inB[d.b[j]]; ok {
			inB[d.b[j]] = many
		} else {
			inB[d.b[j]] = j
		}
	}
	inA := make(map[int]int, a1-a0)
	for i := a0; i < a1; i++ {
		inA[d.a[i]]++
	}
	var pairs [][2]int // rising in a
	for i := a0; i < a1; i++ {
		if j, ok := inB[d.a[i]]; ok && j != many && inA[d.a[i]] == 1 {
			pairs = append(pairs, [2]int{i, j})
		}
	}
	return rising(pairs)
}

// rising returns the longest subsequence of pairs that rises in the second
// member too (patience sorting).
func rising(pairs [][2]int) [][2]int {
	var piles []int // index of each pile's top
	before := make([]int, len(pairs))
	for i, p := range pairs {
		k, _ := slices.BinarySearchFunc(piles, p[1], func(top, j int) int { return pairs[top][1] - j })
		before[i] = -1
		if k > 0 {
			before[i] = piles[k-1]
		}
		if k == len(piles) {
			piles = append(piles, i)
		} else {
			piles[k] = i
		}
	}
	if len(piles) == 0 {
		return nil
	}
	out := make([][2]int, len(piles))
	for i, k := piles[len(piles)-1], len(piles)-1; k >= 0; i, k = before[i], k-1 {
		out[k] = pairs[i]
	}
	return out
}

// myers finds the shortest edit script of a stretch (Myers, "An O(ND)
// Difference Algorithm and Its Variations", 1986, figure 2), or gives up.
func (d *differ) myers(a0, a1, b0, b1 int) {
	n, m := a1-a0, b1-b0
	limit := min(n+m, maxEdits)
	v := make([]int, 2*limit+3) // furthest x on diagonal k at v[k+limit+1]
	at := func(k int) *int { return &v[k+limit+1] }
	var trace [][]int
	for edits := 0; edits <= limit; edits++ {
		trace = append(trace, slices.Clone(v[limit+1-edits-1:limit+1+edits+2]))
		for k := -edits; k <= edits; k += 2 {
			x := *at(k - 1) + 1
			if k == -edits || (k != edits && *at(k - 1) < *at(k + 1)) {
				x = *at(k + 1)
			}
			for x < n && x-k < m && d.a[a0+x] == d.b[b0+x-k] {
				x++
			}
			*at(k) = x
			if x >= n && x-k >= m {
				d.script(trace, a0, b0, n, m)
				return
			}
		}
	}
	d.replace(a0, a1, b0, b1)
}

// script walks the trace back from (n, m) and emits the edits in order.
// trace[e] holds the diagonals -e-1 … e+1 as they were before the e-th round.
func (d *differ) script(trace [][]int, a0, b0, n, m int) {
	var back []op
	x, y := n, m
	for e := len(trace) - 1; e >= 0; e-- {
		at := func(k int) int { return trace[e][k+e+1] }
		k := x - y
		from := k - 1
		if k == -e || (k != e && at(k-1) < at(k+1)) {
			from = k + 1
		}
		px := at(from)
		py := px - from
		if e == 0 {
			px, py = 0, 0
		}
		sx, sy := px, py // where the diagonal of this round begins
		if e > 0 {
			if from == k-1 {
				sx++
			} else {
				sy++
			}
		}
		if x > sx {
			back = append(back, op{' ', a0 + sx, b0 + sy, x - sx})
		}
		if e > 0 && sx > px {
			back = append(back, op{'-', a0 + px, b0 + py, 1})
		} else if e > 0 {
			back = append(back, op{'+', a0 + px, b0 + py, 1})
		}
		x, y = px, py
	}
	slices.Reverse(back)
	for _, o := range back {
		d.emit(o.kind, o.a, o.b, o.n)
	}
}

// render writes the hunks with their context.
func (d *differ) render(name string) string {
	var out strings.Builder
	if !slices.ContainsFunc(d.ops, func(o op) bool { return o.kind != ' ' }) {
		return "" // they differ in the last line feed at most
	}
	fmt.Fprintf(&out, "--- a/%s\n+++ b/%s\n", name, name)
	written := 0
	for i := 0; i < len(d.ops); {
		if d.ops[i].kind == ' ' {
			i++
			continue
		}
		// The hunk reaches to the next stretch of kept lines that is longer
		// than two contexts.
		end := i
		for end+1 < len(d.ops) && (d.ops[end+1].kind != ' ' || (d.ops[end+1].n <= 2*diffContext && end+2 < len(d.ops))) {
			end++
		}
		written += d.hunk(&out, i, end)
		i = end + 1
		if written > maxDiffLines {
			out.WriteString("… the rest of this diff is too long to show\n")
			break
		}
	}
	return out.String()
}

// hunk writes ops[i:end+1] with what surrounds them and returns its lines.
func (d *differ) hunk(out *strings.Builder, i, end int) int {
	ops := slices.Clone(d.ops[i : end+1])
	if i > 0 {
		o := d.ops[i-1]
		n := min(o.n, diffContext)
		ops = slices.Insert(ops, 0, op{' ', o.a + o.n - n, o.b + o.n - n, n})
	}
	if end+1 < len(d.ops) {
		o := d.ops[end+1]
		ops = append(ops, op{' ', o.a, o.b, min(o.n, diffContext)})
	}
	var na, nb int
	for _, o := range ops {
		if o.kind != '+' {
			na += o.n
		}
		if o.kind != '-' {
			nb += o.n
		}
	}
	fmt.Fprintf(out, "@@ -%s +%s @@\n", span(ops[0].a, na), span(ops[0].b, nb))
	total := 0
	for _, o := range ops {
		for j := range o.n {
			if total++; total > maxDiffLines {
				return total
			}
			id := 0
			if o.kind == '+' {
				id = d.b[o.b+j]
			} else {
				id = d.a[o.a+j]
			}
			out.WriteByte(o.kind)
			out.WriteString(d.texts[id])
			out.WriteByte('\n')
		}
	}
	return total
}

// span is a range of lines in a hunk's header; an empty one names the line before it.
func span(start, n int) string {
	if n == 0 {
		return fmt.Sprintf("%d,0", start)
	}
	if n == 1 {
		return fmt.Sprint(start + 1)
	}
	return fmt.Sprintf("%d,%d", start+1, n)
}
