package firewall_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/firewall"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// crowdedHelper applies one policy, opens as many descriptors as a busy cell
// has, and applies a second one, many times.
func crowdedHelper([]string) error {
	var orders [2]order
	if err := json.NewDecoder(os.Stdin).Decode(&orders); err != nil {
		return err
	}
	c := firewall.New(&firewall.Config{Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	settle := func(o order) error {
		p, err := firewall.Compile(o.State, o.Facts)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		_, err = c.Apply(ctx, p)
		return err
	}
	if err := settle(orders[0]); err != nil {
		return err
	}
	for range 1500 {
		if _, err := unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
			return fmt.Errorf("crowding the descriptors: %w", err)
		}
	}
	for i := range 40 {
		if err := settle(orders[(i+1)%2]); err != nil {
			return fmt.Errorf("change %d: %w", i, err)
		}
		if _, err := c.Counters(); err != nil {
			return fmt.Errorf("counters %d: %w", i, err)
		}
	}
	return nil
}

// A thousand connections must not keep the firewall from being changed: the
// library's select(2) knows only descriptors below 1024, and panics.
func TestManyDescriptorsDoNotStopTheFirewall(t *testing.T) {
	n := netnstest.New(t, "crowd")
	a, b := household(), household()
	b.Peers[2].Exit = "nl"
	in, err := json.Marshal([]order{{State: a, Facts: facts(cell.ScopeFull)}, {State: b, Facts: facts(cell.ScopeFull)}})
	if err != nil {
		t.Fatal(err)
	}
	cmd := n.Self("crowded")
	w, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = w.Write(in)
		_ = w.Close()
	}()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%.3000s", err, out)
	}
}
