package certs_test

import (
	"context"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
)

// The lock of a process that was killed must not keep the next one from its
// certificates: certmagic alone would wait ten seconds, and the boot with it.
func TestTheLocksOfAKilledProcessHoldUpNobody(t *testing.T) {
	h := newHousehold(t, time.Now())
	plan := h.compile(t)
	dir := t.TempDir()
	dead := &certmagic.FileStorage{Path: dir}
	for _, name := range plan.Names {
		if err := dead.Lock(t.Context(), "issue_cert_"+name); err != nil {
			t.Fatal(err)
		}
	}
	c := h.controller(t, dir)
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	if _, err := c.Apply(ctx, plan); err != nil {
		t.Fatalf("behind a lock that nobody holds: %v", err)
	}
}
