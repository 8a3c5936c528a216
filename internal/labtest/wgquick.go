package labtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/internal/netnstest"
)

const wireguardModule = "golang.zx2c4.com/wireguard"

// wireguardGo builds the userspace WireGuard of the module that go.mod names:
// the client of a peer, where the kernel has none.
func wireguardGo(t testing.TB) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(cache, "pic-labtest", "wireguard-go")
	c := exec.Command("go", "build", "-o", bin, wireguardModule)
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("building wireguard-go: %v\n%s", err, out)
	}
	return bin
}

// WGQuick brings up a stock wg-quick configuration on h under the interface
// name, with the kernel's WireGuard or, where it has none, wireguard-go. The
// returned function takes it down again; the end of the test does too.
func (l *Lab) WGQuick(h *Host, name, config string) (down func()) {
	l.t.Helper()
	netnstest.Need(l.t, "wg-quick", "resolvconf")
	h.WriteFile("/etc/wireguard/"+name+".conf", config)
	h.Exec("chmod", "600", "/etc/wireguard/"+name+".conf")
	h.Exec("env", "WG_QUICK_USERSPACE_IMPLEMENTATION="+wireguardGo(l.t), "wg-quick", "up", name)
	up := true
	return func() {
		if up {
			up = false
			h.Exec("wg-quick", "down", name)
		}
	}
}

// Handshake waits for the first handshake of h's interface name.
func (l *Lab) Handshake(h *Host, name string) {
	l.t.Helper()
	netnstest.Eventually(l.t, 20*time.Second, func() error {
		out, err := h.Try("sh", "-c", `test "$(wg show `+name+` latest-handshakes | cut -f2)" -gt 0`)
		if err != nil {
			return &notYet{"a handshake on " + h.Name, out}
		}
		return nil
	})
}

type notYet struct{ what, seen string }

func (e *notYet) Error() string { return "no " + e.what + " " + e.seen }
