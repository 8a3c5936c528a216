package main_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/api"
)

const (
	exitKey  = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo="
	exitPSK  = "FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE="
	exitFile = "[Interface]\nPrivateKey = " + exitKey + "\nAddress = 10.2.0.2/32\n[Peer]\nPublicKey = 3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=\n" +
		"PresharedKey = " + exitPSK + "\nAllowedIPs = 0.0.0.0/0\nEndpoint = 192.0.2.7:51820\n"
)

// pic runs a subcommand with in as its standard input.
func (h *host) pic(in string, args ...string) (out, problem string, err error) {
	h.t.Helper()
	cmd := exec.Command(h.bin, append(args, "--socket", h.path("run/pic.sock"))...)
	var o, e strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(in), &o, &e
	err = cmd.Run()
	return o.String(), e.String(), err
}

func (h *host) says(want, in string, args ...string) {
	h.t.Helper()
	out, problem, err := h.pic(in, args...)
	if err != nil || !strings.Contains(out, want) {
		h.t.Errorf("pic %s: %v %q %s", strings.Join(args, " "), err, out, problem)
	}
}

func (h *host) fails(want, in string, args ...string) {
	h.t.Helper()
	out, problem, err := h.pic(in, args...)
	if err == nil || !strings.Contains(problem, want) {
		h.t.Errorf("pic %s: %v %q %q, want %q", strings.Join(args, " "), err, out, problem, want)
	}
}

// The command line makes exits of what people have, and takes no secret as an argument.
func TestExitsFromTheCommandLine(t *testing.T) {
	h := newHost(t)
	h.claimed()
	file := func(name, text string) string {
		f := h.path(name)
		if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return f
	}
	h.says("nl\n", "", "exit", "add", "wireguard", file("nl.conf", exitFile), "--name", "nl")
	h.says("de\n", exitFile, "exit", "add", "wireguard", "-f", "-", "--name", "de")
	h.says("work\n", "", "exit", "add", "proxy", "socks5://ann@192.0.2.9:1080", "--password-file", file("pw", "p@ss\r\n"), "--name", "work")
	h.fails("seen by everybody", "", "exit", "add", "proxy", "socks5://ann:p@ss@192.0.2.9:1080")
	h.fails("no terminal to ask on", "", "exit", "add", "proxy", "socks5://ann@192.0.2.9:1080")
	h.fails("line 2: PostUp runs commands", "[Interface]\nPostUp = reboot\n", "exit", "add", "wireguard", "-f", "-")
	h.says("ssh\n", "pw\n", "exit", "add", "ssh", "ann@192.0.2.9", "--name", "ssh", "--password-file", "-")
	h.fails("one file only", exitFile, "exit", "add", "ssh", "-f", "-", "--password-file", "-")
	h.says("cuts off", "", "exit", "remove", "nl", "--move-to", "block", "--dry-run")
	out, _, err := h.pic("", "exit", "list")
	if err != nil || !strings.Contains(out, "wireguard_ext") || !strings.Contains(out, "work") {
		t.Errorf("%v %s", err, out)
	}
	var e api.Exit
	out, _, _ = h.pic("", "exit", "show", "work")
	if err := json.Unmarshal([]byte(out), &e); err != nil || e.Proxy == nil || !e.HasCredentials || strings.Contains(out, "p@ss") {
		t.Errorf("%v %s", err, out)
	}
	h.says("", "", "exit", "set", "work", "--enabled", "no", "--name", "office")
	h.says("disabled", "", "exit", "show", "work")
	h.says("wireguard-ext   wireguard_ext  2 of 10", "", "exit", "types")
	h.says("none yet", "", "exit", "host-key", "ssh")
	h.fails("no other key", "", "exit", "host-key", "ssh", "accept")
	h.fails("is no SSH exit", "", "exit", "host-key", "nl")

	h.says("away\n", "", "chain", "add", "away", "nl", "de", "block", "--hold", "30s", "--window", "mon,fri 22:00-06:00 block", "--window", "daily 09:00-17:00 de")
	h.says("nl → de → block", "", "chain", "list")
	h.says("mon,fri 22:00-06:00 block; daily 09:00-17:00 de", "", "chain", "list")
	h.says("", "", "chain", "set", "away", "de", "nl")
	h.says("de → nl", "", "chain", "list")
	h.fails("is no day", "", "chain", "set", "away", "--window", "sometimes 1:00-2:00 de")

	h.want(201, "POST", "/api/peers", addPhone)
	h.says("phone leaves by away\n", "", "peer", "set-exit", "phone", "away")
	h.says("phone leaves by block until ", "", "peer", "set-exit", "phone", "block", "--until", "2h")
	p := into[api.Peer](t, h.want(200, "GET", "/api/peers/phone", ""))
	if p.ExitThen != "away" || p.ExitUntil == nil || time.Until(*p.ExitUntil) < 110*time.Minute {
		t.Errorf("%+v", p)
	}
	h.fails("is used by peer phone", "", "chain", "remove", "away")
	h.says("", "", "chain", "remove", "away", "--move-to", "direct")
	h.says("", "", "exit", "remove", "nl")
	h.fails("there is no exit", "", "exit", "test", "nl")
}
