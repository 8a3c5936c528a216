package textdiff_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/personal-internet-cell/pic/internal/netnstest"
	"github.com/personal-internet-cell/pic/internal/textdiff"
)

func TestUnifiedDiff(t *testing.T) {
	for _, c := range []struct{ name, a, b, want string }{
		{"same", "x\n", "x\n", ""},
		{"from nothing", "", "x\ny\n", "@@ -0,0 +1,2 @@\n+x\n+y\n"},
		{"to nothing", "x\n", "", "@@ -1 +0,0 @@\n-x\n"},
		{"one line", "a\nb\nc\nd\ne\nf\ng\nh\n", "a\nb\nc\nd\nE\nf\ng\nh\n", "@@ -2,7 +2,7 @@\n b\n c\n d\n-e\n+E\n f\n g\n h\n"},
		{"two hunks", "1\n2\n3\n4\n5\n6\n7\n8\n9\n", "A\n2\n3\n4\n5\n6\n7\n8\nB\n", "@@ -1,4 +1,4 @@\n-1\n+A\n 2\n 3\n 4\n@@ -6,4 +6,4 @@\n 6\n 7\n 8\n-9\n+B\n"},
		{"close hunks are one", "1\n2\n3\n4\n5\n", "A\n2\n3\n4\nB\n", "@@ -1,5 +1,5 @@\n-1\n+A\n 2\n 3\n 4\n-5\n+B\n"},
		{"repeated lines", "{\n}\n{\n}\n", "{\n}\n{\n}\n{\n}\n", "@@ -2,3 +2,5 @@\n }\n {\n }\n+{\n+}\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := textdiff.Unified("x", c.a, c.b)
			if c.want != "" {
				c.want = "--- a/x\n+++ b/x\n" + c.want
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Fatal(d)
			}
		})
	}
}

// patch(1) knows whether a diff is one.
func TestDiffsApply(t *testing.T) {
	netnstest.Need(t, "patch")
	dir := t.TempDir()
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 5))
		a, b := randomTexts(r)
		d := textdiff.Unified("x", a, b)
		path := filepath.Join(dir, "x")
		if err := os.WriteFile(path, []byte(a), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("patch", "--quiet", "--fuzz=0", "--posix", path)
		cmd.Stdin = strings.NewReader(d)
		if d != "" {
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("seed %d: %v %s\n%s", seed, err, out, d)
			}
		}
		if got, err := os.ReadFile(path); string(got) != b && !(b == "" && err != nil) {
			t.Fatalf("seed %d: the diff does not lead to b\n%s", seed, d)
		}
	}
}

func randomTexts(r *rand.Rand) (string, string) {
	words := 2 + r.IntN(30)
	var a []string
	for range r.IntN(60) {
		a = append(a, fmt.Sprintf("line %d\n", r.IntN(words)))
	}
	b := append([]string(nil), a...)
	for range r.IntN(10) {
		switch i := r.IntN(len(b) + 1); {
		case r.IntN(2) == 0 || i == len(b):
			b = append(b[:i:i], append([]string{fmt.Sprintf("line %d\n", r.IntN(words))}, b[i:]...)...)
		default:
			b = append(b[:i:i], b[i+1:]...)
		}
	}
	return strings.Join(a, ""), strings.Join(b, "")
}

func TestDiffsOfHugeTextsAreBounded(t *testing.T) {
	const n = 200_000
	var a, b, c strings.Builder
	for i := range n {
		fmt.Fprintf(&a, "%d\n", i%7)
		fmt.Fprintf(&b, "%d\n", i%5)
		fmt.Fprintf(&c, "only here %d\n", i)
	}
	start := time.Now()
	for _, other := range []string{b.String(), c.String(), a.String()[:n]} {
		if d := textdiff.Unified("x", a.String(), other); len(d) > 2<<20 {
			t.Errorf("a diff of %d bytes", len(d))
		}
	}
	if d := time.Since(start); d > 20*time.Second {
		t.Errorf("three diffs took %v", d)
	}
}

func FuzzUnified(f *testing.F) {
	f.Add("a\nb\n", "a\nc\n")
	f.Add("", "\n\n")
	f.Fuzz(func(t *testing.T, a, b string) {
		d := textdiff.Unified("x", a, b)
		if same := strings.TrimSuffix(a, "\n") == strings.TrimSuffix(b, "\n"); (d == "") != same && a != "" && b != "" {
			t.Fatalf("%q", d)
		}
	})
}
