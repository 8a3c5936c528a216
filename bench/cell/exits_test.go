//go:build bench

package cell_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/cell"
)

// TestExitSwitch is what a switch of a peer's exit costs with 50 exits, ten of
// each type, and 1,000 peers assigned to them: from the request to the answer,
// which comes when the change is durable and the kernel sends the peer's
// packets the other way. Exits of types that need a program or a key are
// configured and switched off; servers of the others are not there.
func TestExitSwitch(t *testing.T) {
	b := newBox(t)
	if err := os.WriteFile(b.path("init.json"), []byte(draft), 0o600); err != nil {
		t.Fatal(err)
	}
	b.start("PIC_INIT_FILE=" + b.path("init.json"))
	b.stop()
	b.stock(1000, func(s *cell.State) {
		for n := range 10 {
			add := func(e cell.Exit) {
				e.ID, e.Slot = fmt.Sprintf("%s-%d", strings.ReplaceAll(string(e.Type), "_", "-"), n), n
				s.Exits = append(s.Exits, e)
			}
			add(cell.Exit{Type: cell.ExitProxy, Enabled: true, Proxy: &cell.ProxyExit{Protocol: cell.ProxySOCKS5, Host: "192.0.2.1", Port: 1080}})
			add(cell.Exit{Type: cell.ExitSSHuttle, Enabled: true, SSH: &cell.SSHExit{Host: "192.0.2.2", Port: 22, User: "u", Auth: cell.SSHPassword}})
			add(cell.Exit{Type: cell.ExitWireGuard})
			add(cell.Exit{Type: cell.ExitOpenVPN})
			add(cell.Exit{Type: cell.ExitTor, Tor: &cell.TorExit{}})
		}
		for i := range s.Peers {
			s.Peers[i].Exit = s.Exits[i%50].ID
		}
	})
	b.start()
	switched := func(n int) time.Duration {
		var took []time.Duration
		for i := range n {
			body := fmt.Sprintf(`{"exit":%q}`, []string{"proxy-3", "sshuttle-7"}[i%2])
			began := time.Now()
			b.call("PUT", fmt.Sprintf("/api/connectivity/peers/stock-%d/exit", i/2), body)
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		return took[len(took)/2]
	}
	switched(10)
	say("P10", "switch a peer's exit, 50 exits, 1,000 assigned, p50 of 60", switched(60).Round(10*time.Microsecond), "≤ 50ms")
	if nft := b.ns.Exec("nft", "list", "map", "inet", "pic", "mark4"); !strings.Contains(nft, ":") {
		t.Error("no marks in the kernel")
	}
}
