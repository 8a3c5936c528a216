package firewall_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/firewall"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// waitFor bounds every wait on a condition.
const waitFor = 10 * time.Second

func TestMain(m *testing.M) {
	netnstest.Main(m, netnstest.Helpers{
		"apply": applyHelper, "live": liveHelper, "send": sendHelper, "relay": relayHelper, "dial": dialHelper,
		"serve": serveHelper, "watch": watchHelper, "flap": flapHelper, "storm": stormHelper, "early": earlyHelper, "hear": hearHelper,
		"crowded": crowdedHelper,
	})
}

// order is what the helper process in a namespace is told.
type order struct {
	State *cell.State
	Facts cell.Facts
	Flush bool
}

// result is what it answers.
type result struct {
	Changed  []bool // of the first and the second Apply
	Notices  []cell.Notice
	Counters []firewall.Counter
}

func applyHelper([]string) error {
	var o order
	if err := json.NewDecoder(os.Stdin).Decode(&o); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Second)
	defer cancel()
	c := firewall.New(&firewall.Config{Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if o.Flush {
		return c.Flush(ctx)
	}
	p, err := firewall.Compile(o.State, o.Facts)
	if err != nil {
		return err
	}
	var r result
	for range 2 {
		changed, err := c.Apply(ctx, p)
		if err != nil {
			return err
		}
		r.Changed = append(r.Changed, changed)
	}
	r.Notices = c.Notices()
	if r.Counters, err = c.Counters(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// apply settles a state in a namespace, twice; the second time must change
// nothing. It reports whether the first did.
func apply(t testing.TB, n *netnstest.NS, s *cell.State, f cell.Facts) bool {
	t.Helper()
	r, err := tryApply(n, order{State: s, Facts: f})
	if err != nil {
		t.Fatal(err)
	}
	if r.Changed[1] {
		t.Fatal("applying the same policy again changed something")
	}
	return r.Changed[0]
}

func tryApply(n *netnstest.NS, o order) (result, error) {
	in, err := json.Marshal(o)
	if err != nil {
		return result{}, err
	}
	c := n.Self("apply")
	var out, errs bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(in), &out, &errs
	if err := c.Run(); err != nil {
		return result{}, fmt.Errorf("%w: %s", err, errs.String())
	}
	if o.Flush {
		return result{}, nil
	}
	var r result
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		return result{}, fmt.Errorf("%w: %s", err, out.String())
	}
	return r, nil
}

func TestTextIsAcceptedByNft(t *testing.T) {
	netnstest.Need(t, "nft")
	n := netnstest.New(t, "text")
	for _, scope := range []cell.Scope{cell.ScopeFull, cell.ScopeTunnel} {
		p, err := firewall.Compile(household(), facts(scope))
		if err != nil {
			t.Fatal(err)
		}
		f := t.TempDir() + "/policy.nft"
		if err := os.WriteFile(f, []byte(p.NFT()), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := n.Try("nft", "-c", "-f", f); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
}
