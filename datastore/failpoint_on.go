//go:build failpoint

package datastore

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// failpoints counts the hits of this process.
var failpoints = struct {
	sync.Mutex
	hits map[string]int
}{hits: map[string]int{}}

// Failpoint kills the own process with SIGKILL when PIC_FAILPOINT is
// "name" or "name:n" and this is the n-th time that name is reached.
func Failpoint(name string) {
	want, count, _ := strings.Cut(os.Getenv("PIC_FAILPOINT"), ":")
	if want != name {
		return
	}
	failpoints.Lock()
	defer failpoints.Unlock()
	failpoints.hits[name]++
	n, err := strconv.Atoi(count)
	if err != nil {
		n = 1
	}
	if failpoints.hits[name] == n {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal arrives before anything else happens
	}
}

func failpoint(name string) { Failpoint(name) }
