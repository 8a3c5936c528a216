package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// mutant is one breakage and the test that must notice it.
type mutant struct {
	guards string // the promise, in words
	file   string // slash-separated, from the root of the tree
	old    string // occurs exactly once in the file
	new    string
	test   string // a top-level test of the package
	in     string // the test's package, "" for the file's own
	tags   string // build tags beside the usual
	quick  bool
}

func (m *mutant) pkg() string {
	if m.in != "" {
		return m.in
	}
	return filepath.ToSlash(filepath.Dir(m.file))
}

// verdict is what became of a mutant.
type verdict string

const (
	caught   verdict = "caught"
	survived verdict = "SURVIVED"
	invalid  verdict = "NOT TRIED" // stale, does not compile, or its test did not run
)

// perMutant bounds one run of a test, building included.
const perMutant = 6 * time.Minute

type runner struct {
	root string // of the tree
	dir  string // temporary
	n    atomic.Int64
}

// apply is the file with the breakage in it.
func (m *mutant) apply(source string) (string, error) {
	switch n := strings.Count(source, m.old); {
	case m.old == m.new:
		return "", errors.New("it changes nothing")
	case n != 1:
		return "", fmt.Errorf("its place occurs %d times: the table is stale", n)
	}
	return strings.Replace(source, m.old, m.new, 1), nil
}

// try runs the mutant's test with the breakage in place.
func (r *runner) try(ctx context.Context, m *mutant) (verdict, string) {
	path, err := filepath.Abs(filepath.Join(r.root, filepath.FromSlash(m.file)))
	if err != nil {
		return invalid, err.Error()
	}
	source, err := os.ReadFile(path)
	if err != nil {
		return invalid, err.Error()
	}
	broken, err := m.apply(string(source))
	if err != nil {
		return invalid, err.Error()
	}
	base := filepath.Join(r.dir, fmt.Sprint(r.n.Add(1)))
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {path: base + ".go"}})
	if err == nil {
		err = errors.Join(os.WriteFile(base+".go", []byte(broken), 0o600), os.WriteFile(base+".json", overlay, 0o600))
	}
	if err != nil {
		return invalid, err.Error()
	}
	// By the environment, so that a test that builds the program breaks it too.
	ran, err := r.test(ctx, m.pkg(), m.tags, []string{m.test}, "GOFLAGS=-overlay="+base+".json")
	if err != nil {
		return invalid, err.Error()
	}
	switch ran.verdicts[m.test] {
	case "fail":
		return caught, ""
	case "pass":
		return survived, "the test is green although the line is broken"
	case "skip":
		return invalid, "the test was skipped: it needs a privilege or a program"
	}
	return invalid, "the test did not run:\n" + ran.output
}

// green runs every test that guards a mutant once without any.
func (r *runner) green(ctx context.Context, list []mutant) error {
	tests := map[[2]string][]string{}
	for i := range list {
		k := [2]string{list[i].pkg(), list[i].tags}
		if !slices.Contains(tests[k], list[i].test) {
			tests[k] = append(tests[k], list[i].test)
		}
	}
	for k, names := range tests {
		all, err := r.test(ctx, k[0], k[1], names)
		if err != nil {
			return err
		}
		for _, n := range names {
			ran := all
			if ran.verdicts[n] != "pass" { // once more alone: a busy machine is no news
				if ran, err = r.test(ctx, k[0], k[1], []string{n}); err != nil {
					return err
				}
			}
			if v := ran.verdicts[n]; v != "pass" {
				return fmt.Errorf("%s: %s is not green without a mutant (%q), so it can guard none:\n%s", k[0], n, v, ran.output)
			}
		}
	}
	return nil
}

// outcome is what `go test` told.
type outcome struct {
	verdicts map[string]string // by top-level test: pass, fail, skip
	output   string            // the end of it
}

func (r *runner) test(ctx context.Context, pkg, tags string, names []string, env ...string) (outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, perMutant)
	defer cancel()
	// A -vet would refuse some breakages as suspicious before a test sees them.
	c := exec.CommandContext(ctx, "go", "test", "-json", "-count=1", "-vet=off", "-timeout=5m", "-tags", strings.TrimSpace("nomsgpack "+tags),
		"-run", "^("+strings.Join(names, "|")+")$", "./"+pkg)
	c.Dir, c.Env, c.WaitDelay = r.root, append(os.Environ(), env...), 5*time.Second
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	if ctx.Err() != nil {
		return outcome{}, fmt.Errorf("running %s: %w", pkg, ctx.Err())
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return outcome{}, fmt.Errorf("running %s: %w", pkg, err)
	}
	return read(&out, errs.String()), nil
}

// read takes the verdicts out of `go test -json` (go doc test2json).
func read(events *bytes.Buffer, output string) outcome {
	o := outcome{verdicts: map[string]string{}}
	s := bufio.NewScanner(events)
	s.Buffer(nil, 16<<20)
	for s.Scan() {
		var e struct{ Action, Test, Output string }
		if json.Unmarshal(s.Bytes(), &e) != nil {
			output += s.Text() + "\n"
			continue
		}
		output += e.Output
		switch e.Action {
		case "pass", "fail", "skip":
			if e.Test != "" {
				o.verdicts[e.Test] = e.Action
			}
		}
	}
	o.output = output[max(0, len(output)-4000):]
	return o
}
