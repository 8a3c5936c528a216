// Package rig_test holds what only a kernel with WireGuard can show. It runs
// inside the virtual machine of rig/vmtest: make vmtest.
package rig_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/internal/labtest"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

func TestMain(m *testing.M) {
	playRole()
	labtest.Main()
	os.Exit(m.Run())
}

// household starts a claimed cell in a household of the guest's.
func household(t *testing.T) *labtest.Lab {
	t.Helper()
	if os.Getenv("PIC_VMTEST") == "" {
		t.Skip("runs in the virtual machine: make vmtest")
	}
	binary, err := exec.LookPath("pic")
	if err != nil {
		t.Fatal(err)
	}
	// A stalled guest must not overflow a queue and look like a lossy cell.
	for key, value := range map[string]string{"rmem_max": "16777216", "wmem_max": "16777216", "netdev_max_backlog": "20000"} {
		if err := os.WriteFile("/proc/sys/net/core/"+key, []byte(value), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	l := labtest.New(t, labtest.Options{Binary: binary})
	init := filepath.Join(l.Dir(), "init.json")
	b, err := json.Marshal(map[string]string{
		"cell_name": "home", "domain_mode": "lan", "timezone": "UTC",
		"user": "admin", "password": "walrus lantern gravel sonnet 41",
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(init, b, 0o600); err != nil {
		t.Fatal(err)
	}
	l.Cell.Env = []string{"PIC_INIT_FILE=" + init}
	l.Cell.Start("--firewall", "full")
	if _, err := os.Stat(init); !os.IsNotExist(err) {
		t.Fatalf("the claim's file is still there: %v", err)
	}
	return l
}

// addPeer makes a peer on the cell and its tunnel on h, with the kernel's own
// WireGuard and the shown configuration, as wg-quick would.
func addPeer(t *testing.T, l *labtest.Lab, h *labtest.Host, fields map[string]any) {
	t.Helper()
	fields["generate_key"] = true
	a := l.Cell.API("POST", "/api/peers", fields)
	if a.Status != 201 {
		t.Fatalf("adding a peer: %d %s", a.Status, a.Body)
	}
	var made struct{ Config string }
	if err := a.Decode(&made); err != nil {
		t.Fatal(err)
	}
	h.Exec("ip", "link", "add", "wg0", "type", "wireguard")
	plain := ""
	for line := range strings.Lines(made.Config) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " = ")
		switch key {
		case "Address":
			for a := range strings.SplitSeq(value, ",") {
				h.Exec("ip", "addr", "add", strings.TrimSpace(a), "dev", "wg0")
			}
		case "MTU":
			h.Exec("ip", "link", "set", "wg0", "mtu", value)
		case "DNS": // nothing the kernel knows
		case "Endpoint": // the home router's outside
			plain += "Endpoint = " + labtest.RouterPublic4 + ":51820\n"
		default:
			plain += line
		}
	}
	h.WriteFile("/run/wg0.conf", plain)
	h.Exec("wg", "setconf", "wg0", "/run/wg0.conf")
	h.Exec("ip", "link", "set", "wg0", "up")
	// The far ends of the tests go through the tunnel, the endpoint does not.
	for _, to := range []string{labtest.InternetWeb4, labtest.Canary4} {
		h.Exec("ip", "route", "add", to, "dev", "wg0")
	}
	h.Exec("ip", "-6", "route", "add", labtest.Canary6, "dev", "wg0")
}

// Promise 5: the control plane may crash and restart; kernel WireGuard tunnels
// keep forwarding and lose nothing.
func TestTunnelsOutliveTheControlPlane(t *testing.T) {
	l := household(t)
	defer func() { // not a clean-up: those come when the hosts have ended
		for _, h := range []*labtest.Host{l.Phone, l.Cell.Host, l.Internet} {
			if t.Failed() {
				t.Logf("where packets were dropped on %s:\n%s\n%s", h.Name, h.Exec("ip", "-s", "link"), h.Exec("cat", "/proc/net/snmp"))
			}
		}
	}()
	if kind := l.Cell.Exec("ip", "-d", "link", "show", "pic0"); !strings.Contains(kind, "wireguard") {
		t.Fatalf("the cell does not use the kernel's WireGuard:\n%s", kind)
	}
	addPeer(t, l, l.Phone, map[string]any{"name": "phone"})
	if out, err := l.Phone.Try("ping", "-c", "3", "-W", "5", labtest.InternetWeb4); err != nil {
		t.Fatalf("no way through the tunnel: %v\n%s", err, out)
	}
	l.Handshake(l.Phone, "wg0")

	server := netip.MustParseAddrPort(labtest.InternetWeb4 + ":7000")
	// The rig itself must lose nothing, or the rest says nothing.
	if quiet := l.Stream(l.Phone, l.Internet, server, 5*time.Second)(); quiet.Up() != 0 || quiet.Down() != 0 {
		t.Fatalf("packets are lost with the control plane running: %v", quiet)
	}
	const length = 30 * time.Second
	kills := 0
	for round := 0; round < 3 && kills < 3; round++ { // a slow machine fits fewer kills into one
		wait := l.Stream(l.Phone, l.Internet, server, length)
		for start := time.Now(); time.Since(start) < length-6*time.Second; kills++ {
			l.Cell.Kill()
			<-time.After(time.Second) // dead for a while, then back
			l.Cell.Restart()
			<-time.After(time.Second)
		}
		loss := wait()
		t.Logf("%d kills so far: %v", kills, loss)
		if least := int(length.Seconds()) * 1000; loss.Client.Sent < least || loss.Server.Sent < least {
			t.Errorf("fewer than 1,000 packets a second: %v", loss)
		}
		if loss.Up() != 0 || loss.Down() != 0 {
			t.Errorf("packets were lost while the control plane was away: %v", loss)
		}
	}
	if kills < 3 {
		t.Errorf("only %d kills", kills)
	}
}

// Promise 1, as far as there are exits: a peer whose exit is down reaches
// nothing, with the control plane there or gone.
func TestKillSwitchOutlivesTheControlPlane(t *testing.T) {
	l := household(t)
	a := l.Cell.API("PUT", "/api/config", map[string]any{"exits": []any{
		map[string]any{"id": "nl", "type": "wireguard_ext", "slot": 0, "enabled": true},
	}})
	if a.Status != 200 {
		t.Fatalf("configuring an exit: %d %s", a.Status, a.Body)
	}
	addPeer(t, l, l.Laptop, map[string]any{"name": "laptop"})
	probe := func() int {
		before := l.SinkCount()
		_, _ = l.Laptop.Try("ping", "-c", "2", "-i", "0.2", "-W", "1", labtest.Canary4)
		_, _ = l.Laptop.Try("ping", "-c", "2", "-i", "0.2", "-W", "1", labtest.Canary6)
		_, _ = l.Laptop.Try("sh", "-c", fmt.Sprintf("echo x | nc -u -w 1 %s 7000; echo x | nc -w 1 %s 443", labtest.Canary4, labtest.Canary4))
		return l.SinkCount() - before
	}
	netnstest.Eventually(t, 10*time.Second, func() error { // a positive control
		if probe() == 0 {
			return fmt.Errorf("a direct peer's canary does not reach the internet")
		}
		return nil
	})
	if a := l.Cell.API("PUT", "/api/peers/laptop", map[string]any{"name": "laptop", "exit": "nl"}); a.Status != 200 {
		t.Fatalf("assigning the exit: %d %s", a.Status, a.Body)
	}
	if n := probe(); n != 0 {
		t.Errorf("%d canaries of a peer whose exit is down", n)
	}
	l.Cell.Kill()
	if n := probe(); n != 0 {
		t.Errorf("%d canaries after the control plane was killed", n)
	}
	l.Cell.Restart()
	if n := probe(); n != 0 {
		t.Errorf("%d canaries after the restart", n)
	}
}
