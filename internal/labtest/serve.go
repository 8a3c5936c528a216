package labtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const selfEnv = "PIC_LABTEST_SERVER"

// Main runs the server that this process was started for and ends the process;
// in any other process it returns at once. Call it first in TestMain and main:
// the household's servers are the program that built the household.
func Main() {
	v := os.Getenv(selfEnv)
	if v == "" {
		return
	}
	var args []string
	if err := json.Unmarshal([]byte(v), &args); err != nil || len(args) == 0 {
		fmt.Fprintln(os.Stderr, "labtest: no such server:", v)
		os.Exit(3)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, args[0], args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "labtest:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve opens every listener before it says so, and serves until ctx ends.
func serve(ctx context.Context, name string, args []string) error {
	if name == "stream" && len(args) == 3 {
		d, err := time.ParseDuration(args[2])
		if err != nil {
			return err
		}
		return stream(ctx, args[0], args[1], d)
	}
	if name == "ask-time" && len(args) == 1 {
		return askTime(args[0])
	}
	var servers []func() error
	var err error
	switch {
	case name == "internet" && len(args) == 1:
		servers, err = internet(args[0])
	case name == "service" && len(args) == 1:
		servers, err = service(args[0])
	case name == "sniff" && len(args) == 3:
		servers, err = sniff(args[0], args[1], args[2])
	case name == "flock" && len(args) == 4:
		var v4, v6 netip.Addr
		v4, err = netip.ParseAddr(args[0])
		if err == nil {
			v6, err = netip.ParseAddr(args[1])
		}
		servers = flock(v4, v6, args[2], args[3])
	default:
		return fmt.Errorf("no server %s with %d arguments", name, len(args))
	}
	if err != nil {
		return err
	}
	failed := make(chan error, len(servers))
	for _, s := range servers {
		go func() { failed <- s() }()
	}
	fmt.Println("ready")
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return errors.Join(errors.New("a server ended"), err)
	}
}
