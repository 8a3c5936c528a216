package main_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// inject has strace(1) put a fault into system calls of the running cell, as
// its -e inject= says, until the returned function is called. Calls are counted
// from now on, per thread.
func (h *host) inject(calls, fault string, more ...string) (detach func()) {
	h.t.Helper()
	args := append([]string{"-f", "-o", h.path("strace.log"), "-e", "trace=" + calls, "-e", "inject=" + calls + ":" + fault}, more...)
	c := exec.Command("strace", append(args, "-p", fmt.Sprint(h.cmd.Process.Pid))...)
	errs, err := c.StderrPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		h.t.Fatal(err)
	}
	attached := make(chan string, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r := bufio.NewReader(errs)
		line, _ := r.ReadString('\n')
		attached <- line
		_, _ = io.Copy(io.Discard, r)
	}()
	detach = func() {
		_ = c.Process.Signal(os.Interrupt)
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			_ = c.Process.Kill()
			<-ended
		}
		_ = c.Wait()
	}
	select {
	case line := <-attached:
		if !strings.Contains(line, "attached") && !h.gone() {
			detach()
			h.t.Fatalf("strace %s: %s", calls, line)
		}
	case <-time.After(10 * time.Second):
		detach()
		h.t.Fatalf("strace does not attach")
	}
	return detach
}

// gone reports whether the process has ended.
func (h *host) gone() bool {
	select {
	case <-h.done:
		return true
	default:
		return false
	}
}
