// Command mutants shows that the tests can fail: it breaks the program in one
// place after the other, each by a line, and runs the test that guards the
// promise broken. It owns a temporary folder; the tree is never written to,
// because the compiler is handed each broken file as an overlay. It must never
// count a mutant as caught that did not compile, whose place is gone, or whose
// test did not run.
//
//	go run ./rig/mutants [-j N] [-run REGEXP] [-quick] [-list]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"sync"
	"text/tabwriter"
	"time"
)

func main() {
	jobs := flag.Int("j", 2, "mutants at the same `time`")
	match := flag.String("run", "", "only mutants whose guard, file or test matches this `regexp`")
	quick := flag.Bool("quick", false, "only those that take a second or two")
	list := flag.Bool("list", false, "print the table and run nothing")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout, *jobs, *match, *quick, *list); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, jobs int, match string, quick, list bool) error {
	re, err := regexp.Compile(match)
	if err != nil {
		return err
	}
	chosen := slices.DeleteFunc(table(), func(m mutant) bool {
		return quick && !m.quick || !re.MatchString(m.guards+" "+m.file+" "+m.test)
	})
	if list {
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		for _, m := range chosen {
			fmt.Fprintf(w, "%s\t%s: %s\t%s\n", m.file, m.pkg(), m.test, m.guards)
		}
		return w.Flush()
	}
	if len(chosen) == 0 {
		return errors.New("no mutant matches")
	}
	dir, err := os.MkdirTemp("", "mutants-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	r := &runner{root: ".", dir: dir}
	return r.all(ctx, out, chosen, jobs)
}

// all proves that the named tests are green without a mutant, then tries every
// mutant and reports.
func (r *runner) all(ctx context.Context, out io.Writer, list []mutant, jobs int) error {
	began := time.Now()
	if err := r.green(ctx, list); err != nil {
		return err
	}
	fmt.Fprintf(out, "%d mutants; the tests that guard them are green without (%d s)\n", len(list), int(time.Since(began).Seconds()))
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		count = map[verdict]int{}
		next  = make(chan int)
	)
	for range max(jobs, 1) {
		wg.Go(func() {
			for i := range next {
				start := time.Now()
				v, detail := r.try(ctx, &list[i])
				mu.Lock()
				count[v]++
				fmt.Fprintf(out, "%-9s %3d s  %-55s %s\n", v, int(time.Since(start).Seconds()), list[i].pkg()+": "+list[i].test, list[i].guards)
				if v != caught {
					fmt.Fprintf(out, "          %s: %s\n", list[i].file, detail)
				}
				mu.Unlock()
			}
		})
	}
	for i := range list {
		next <- i
	}
	close(next)
	wg.Wait()
	fmt.Fprintf(out, "\n%d of %d mutants caught, %d survived, %d not tried (%d s)\n",
		count[caught], len(list), count[survived], count[invalid], int(time.Since(began).Seconds()))
	if count[caught] != len(list) {
		return errors.New("not every mutant was caught by its test")
	}
	return nil
}
