// Command gotest runs `go test` and tells its story briefly: one closing line
// per package, everything a failed test printed, every privileged test that
// could not run. It owns one child process and its log. It must never hide a
// failure or a skip, and never succeed where go test did not.
//
//	gotest [-log FILE] [-tally FILE] [-no-skips] [--] ARGS OF GO TEST…
//
// With -tally, "passed failed skipped privileged" is appended to FILE, so that
// a script of several runs can add them up. With -no-skips a skipped test is a
// failure: a run that proves nothing must not look like one that does.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// event is a line of `go test -json` (go doc test2json).
type event struct {
	Action     string
	Package    string
	ImportPath string // of build output
	Test       string
	Output     string
	Elapsed    float64
}

// report collects what the events say.
type report struct {
	out     io.Writer
	pending map[string][]string // output by package and test, until its verdict
	passed  int
	failed  int
	skipped []string
	special int // skips for want of a privilege or a program
}

const privileged = "SKIPPED (privileged)" // printed by internal/netnstest

func main() {
	logName := flag.String("log", "", "keep everything in this `file`")
	tally := flag.String("tally", "", "append the counts to this `file`")
	noSkips := flag.Bool("no-skips", false, "a skipped test is a failure")
	flag.Parse()
	code, err := run(*logName, *tally, *noSkips, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "gotest:", err)
	}
	os.Exit(code)
}

func run(logName, tally string, noSkips bool, args []string) (int, error) {
	var raw io.Writer = io.Discard
	if logName != "" {
		f, err := os.Create(logName)
		if err != nil {
			return 1, err
		}
		defer f.Close()
		raw = f
	}
	c := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	c.Stderr = os.Stderr
	pipe, err := c.StdoutPipe()
	if err != nil {
		return 1, err
	}
	if err := c.Start(); err != nil {
		return 1, err
	}
	r := &report{out: os.Stdout, pending: map[string][]string{}}
	if err := r.read(pipe, raw); err != nil {
		_ = c.Wait()
		return 1, err
	}
	waitErr := c.Wait()
	fmt.Fprintf(r.out, "gotest: %d tests passed, %d failed, %d skipped, %d of them %s\n", r.passed, r.failed, len(r.skipped), r.special, privileged)
	if tally != "" {
		if err := r.tally(tally); err != nil {
			return 1, err
		}
	}
	var exit *exec.ExitError
	switch {
	case errors.As(waitErr, &exit):
		return max(1, exit.ExitCode()), nil
	case waitErr != nil:
		return 1, waitErr
	case r.failed > 0:
		return 1, errors.New("go test succeeded although a test failed")
	case noSkips && len(r.skipped) > 0:
		return 1, fmt.Errorf("skipped where nothing may be: %s", strings.Join(r.skipped, ", "))
	case noSkips && r.passed == 0:
		return 1, errors.New("no test ran")
	}
	return 0, nil
}

func (r *report) read(events io.Reader, raw io.Writer) error {
	s := bufio.NewScanner(events)
	s.Buffer(nil, 16<<20)
	for s.Scan() {
		var e event
		if json.Unmarshal(s.Bytes(), &e) != nil {
			fmt.Fprintln(r.out, s.Text()) // not an event: go itself says something
			fmt.Fprintln(raw, s.Text())
			continue
		}
		if _, err := io.WriteString(raw, e.Output); err != nil {
			return err
		}
		r.take(e)
	}
	return s.Err()
}

func (r *report) take(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "build-output":
		fmt.Fprint(r.out, e.Output)
	case "output":
		switch {
		case e.Test == "" && (strings.HasPrefix(e.Output, "ok ") || strings.HasPrefix(e.Output, "FAIL\t")):
			fmt.Fprint(r.out, e.Output)
		default:
			r.pending[key] = append(r.pending[key], e.Output)
		}
	case "pass":
		if e.Test != "" {
			r.passed++
		}
		delete(r.pending, key)
	case "skip":
		if e.Test != "" {
			r.skip(e, strings.Join(r.pending[key], ""))
		}
		delete(r.pending, key)
	case "fail":
		if e.Test != "" {
			r.failed++
		}
		fmt.Fprint(r.out, strings.Join(r.pending[key], ""))
		delete(r.pending, key)
	}
}

func (r *report) skip(e event, output string) {
	r.skipped = append(r.skipped, e.Test)
	for line := range strings.Lines(output) {
		if i := strings.Index(line, privileged); i >= 0 {
			r.special++
			fmt.Fprint(r.out, line[i:])
			return
		}
	}
}

func (r *report) tally(name string) error {
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := fmt.Fprintln(f, r.passed, r.failed, len(r.skipped), r.special); err != nil {
		return err
	}
	return f.Close()
}
