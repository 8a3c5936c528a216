package labtest_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/internal/labtest"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// exitLab is a claimed cell with a phone outside and three exits to one host.
type exitLab struct {
	*labtest.Lab
	t    *testing.T
	exit *labtest.ExitHost
	wire string // what the cell sent by its uplink to port 53 and to the web
	pick int    // names are asked once
}

func newExitLab(t *testing.T) *exitLab {
	netnstest.Need(t, "wg", "wg-quick", "dig", "curl", "ping", "tcpdump", "nc")
	l := &exitLab{Lab: labtest.New(t, labtest.Options{Binary: binary(t)}), t: t}
	l.exit = l.NewExitHost()
	l.exit.Run()
	draft := filepath.Join(l.Dir(), "init.json")
	if err := os.WriteFile(draft, []byte(`{"cell_name":"home","domain_mode":"lan","timezone":"UTC","user":"admin","password":"`+password+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	l.Cell.Env = []string{"PIC_INIT_FILE=" + draft}
	l.Cell.Start("--firewall", "full")
	l.api(200, "PUT", "/api/config", map[string]any{"dns": map[string]any{"forwarders": []any{map[string]any{"protocol": "dns", "address": labtest.InternetDNS4 + ":53"}}}})
	var made struct {
		Config string
	}
	if err := l.Cell.API("POST", "/api/peers", map[string]any{"name": "phone", "generate_key": true}).Decode(&made); err != nil || made.Config == "" {
		t.Fatalf("adding the phone: %v %+v", err, made)
	}
	l.WGQuick(l.Phone, "phone", strings.Replace(made.Config, labtest.CellAddress4+":51820", labtest.RouterPublic4+":51820", 1))
	l.Handshake(l.Phone, "phone")

	probes := []string{labtest.InternetWeb4 + ":80"}
	l.api(201, "POST", "/api/connectivity/exits", map[string]any{"id": "wg", "type": "wireguard_ext", "config": l.exit.WireGuard, "probes": probes})
	l.api(201, "POST", "/api/connectivity/exits", map[string]any{"id": "ssh", "type": "sshuttle", "config": "root@" + labtest.ExitAddress4, "private_key": l.exit.SSHKey, "probes": probes})
	l.api(201, "POST", "/api/connectivity/exits", map[string]any{"id": "socks", "type": "proxy", "config": "socks5://" + labtest.ExitAddress4 + ":" + labtest.ExitSOCKSPort, "probes": probes})
	l.api(201, "POST", "/api/connectivity/chains", map[string]any{"id": "away", "name": "away", "members": []string{"wg", "socks"}, "hold": 5})
	for _, id := range []string{"wg", "ssh", "socks"} {
		l.becomes(id, "up")
	}
	l.wire = filepath.Join(l.Dir(), "uplink.pcap")
	sniffer := l.Cell.Command("tcpdump", "-Z", "root", "-i", "eth0", "-U", "-s", "0", "-w", l.wire, "outbound", "and", "(", "port", "53", "or", "host", labtest.InternetWeb4, "or", "host", labtest.InternetWeb6,
		"or", "host", labtest.Canary4, "or", "host", labtest.Canary6, ")")
	netnstest.Start(t, sniffer)
	return l
}

func (l *exitLab) api(want int, method, path string, body any) labtest.Answer {
	l.t.Helper()
	a := l.Cell.API(method, path, body)
	if a.Status != want {
		l.t.Fatalf("%s %s: %d %s, want %d", method, path, a.Status, a.Body, want)
	}
	return a
}

func (l *exitLab) becomes(exit, state string) {
	l.t.Helper()
	var st struct{ State, Reason string }
	netnstest.Eventually(l.t, time.Minute, func() error {
		if err := l.api(200, "GET", "/api/connectivity/exits/"+exit, nil).Decode(&st); err != nil || st.State != state {
			return fmt.Errorf("%s is %s (%s): %w", exit, st.State, st.Reason, err)
		}
		return nil
	})
}

// leaves assigns the phone and returns its way.
func (l *exitLab) leaves(exit string) (way string) {
	l.t.Helper()
	var got struct{ Way string }
	if err := l.api(200, "PUT", "/api/connectivity/peers/phone/exit", map[string]any{"exit": exit}).Decode(&got); err != nil {
		l.t.Fatal(err)
	}
	return got.Way
}

// name is one that nobody asked for before; its answer is that there is none.
func (l *exitLab) name(label string) string {
	l.pick++
	return fmt.Sprintf("%s-%d.example.org", label, l.pick)
}

// web is what the internet says to the phone.
func (l *exitLab) web(url string) (string, error) {
	out, err := l.Phone.Try("curl", "-sS", "-m", "4", url)
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return out, err
}

// works sees the phone leave from an address, by name and by number, and its
// names arrive.
func (l *exitLab) works(label, from string) {
	l.t.Helper()
	netnstest.Eventually(l.t, 45*time.Second, func() error {
		for _, url := range []string{"http://" + labtest.PublicName + "/", "http://" + labtest.InternetWeb4 + "/"} {
			if out, err := l.web(url); err != nil || !strings.Contains(out, "hello to "+from+":") {
				return fmt.Errorf("%s: %s: %w %q", label, url, err, out)
			}
		}
		return nil
	})
	name := l.name(label)
	if out := l.Phone.Exec("dig", "+tries=1", "+time=5", name, "A"); !strings.Contains(out, "status: NXDOMAIN") {
		l.t.Errorf("%s: a name that is nobody's:\n%s", label, out)
	}
	if !slices.ContainsFunc(l.DNSNames(), func(n string) bool { return strings.EqualFold(n, name+".") }) {
		l.t.Errorf("%s: %s did not arrive at the internet's name server", label, name)
	}
}

// refused sees that nothing of the phone's gets anywhere; at once, but for what
// goes into a tunnel whose other end is gone.
func (l *exitLab) refused(label string) {
	l.t.Helper()
	before := l.SinkCount()
	for _, url := range []string{"http://" + labtest.InternetWeb4 + "/", "http://[" + labtest.InternetWeb6 + "]/"} {
		began := time.Now()
		if out, err := l.web(url); err == nil {
			l.t.Errorf("%s: %s answers %q", label, url, out)
		} else if took := time.Since(began); took > 3*time.Second && label != "wg" {
			l.t.Errorf("%s: %s was not refused but left alone for %s", label, url, took)
		}
	}
	for range 2 {
		if out := l.Phone.Exec("dig", "+tries=1", "+time=5", l.name("canary"), "A"); !strings.Contains(out, "status: SERVFAIL") {
			l.t.Errorf("%s: a name:\n%s", label, out)
		}
	}
	l.canaries()
	if n := l.SinkCount() - before; n != 0 {
		l.t.Errorf("%s: %d canaries arrived", label, n)
	}
}

// canaries are packets to addresses where they are counted.
func (l *exitLab) canaries() {
	for _, a := range []string{labtest.Canary4, labtest.Canary6} {
		_, _ = l.Phone.Try("ping", "-c", "1", "-W", "1", a)
		_, _ = l.Phone.Try("curl", "-sS", "-m", "1", "http://"+bracketed(a)+":8080/canary")
		_, _ = l.Phone.Try("sh", "-c", "echo canary | timeout 1 nc -u "+a+" 9")
	}
}

func bracketed(a string) string {
	if strings.Contains(a, ":") {
		return "[" + a + "]"
	}
	return a
}

// sniffed counts what the sniffer on the cell's uplink saw of a word.
func (l *exitLab) sniffed(word string) int {
	l.t.Helper()
	b, err := os.ReadFile(l.wire)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		l.t.Fatal(err)
	}
	return bytes.Count(bytes.ToLower(b), []byte(word))
}

// TestExitsCarryAndNeverLeak is a day with exits: a phone leaves by a stock
// WireGuard server, by sshd and by a SOCKS5 server, names and all; they stop,
// and it is refused; a chain goes on by another; they come back.
func TestExitsCarryAndNeverLeak(t *testing.T) {
	l := newExitLab(t)
	// The positive control: by the uplink, the sniffer and the sink see it.
	if way := l.leaves("direct"); way != "direct" {
		t.Fatalf("the phone leaves by %q", way)
	}
	before := l.SinkCount()
	l.canaries()
	if l.SinkCount() == before {
		t.Fatal("no canary arrived although the phone leaves by the uplink: the sink is blind")
	}
	netnstest.Eventually(t, 20*time.Second, func() error { // the sniffer takes a moment to begin
		l.works("control", labtest.RouterPublic4)
		if l.sniffed("control-") == 0 || l.sniffed("get / http") == 0 {
			return errors.New("the sniffer is blind")
		}
		return nil
	})
	web, canaries := l.sniffed("get / http"), l.sniffed("canary")

	for _, exit := range []string{"wg", "ssh", "socks"} { // each switch is live
		if way := l.leaves(exit); way != exit {
			t.Errorf("the phone leaves by %q, not %s", way, exit)
		}
		l.works("canary-"+exit, labtest.ExitAddress4)
	}
	l.moved()

	t.Log("a chain goes on by the next exit")
	if way := l.leaves("away"); way != "wg" {
		t.Errorf("the chain leads by %q", way)
	}
	l.works("canary-chain", labtest.ExitAddress4)
	l.exit.Stop("wireguard", "ssh")
	l.refusedMeanwhile()
	netnstest.Eventually(t, time.Minute, func() error {
		var chain struct{ Way string }
		if err := l.api(200, "GET", "/api/connectivity/chains/away", nil).Decode(&chain); err != nil || chain.Way != "socks" {
			return fmt.Errorf("the chain leads by %s: %w", chain.Way, err)
		}
		return nil
	})
	l.works("canary-failover", labtest.ExitAddress4)

	t.Log("an exit that is down refuses")
	for _, exit := range []string{"ssh", "wg", "block"} {
		if exit != "block" {
			l.becomes(exit, "blocked")
		}
		l.leaves(exit)
		l.refused(exit)
	}
	if a := l.api(200, "GET", "/api/status", nil); !strings.Contains(string(a.Body), "exit_down") {
		t.Errorf("no notice of the exits that are down: %s", a.Body)
	}

	t.Log("they come back")
	l.exit.Run("wireguard", "ssh")
	for _, exit := range []string{"wg", "ssh"} {
		l.becomes(exit, "up")
		l.leaves(exit)
		l.works("canary-again-"+exit, labtest.ExitAddress4)
	}
	t.Log("a cell that was killed comes back with its exits")
	l.Cell.Restart()
	l.becomes("ssh", "up")
	l.works("canary-restart", labtest.ExitAddress4)

	if n := l.sniffed("canary") - canaries; n != 0 {
		t.Errorf("%d canaries on the uplink", n)
	}
	if n := l.sniffed("get / http") - web; n != 0 {
		t.Errorf("%d requests of the phone on the uplink", n)
	}
}

// refusedMeanwhile asks while an exit is gone and nobody knows yet.
func (l *exitLab) refusedMeanwhile() {
	l.t.Helper()
	before := l.SinkCount()
	_, _ = l.Phone.Try("dig", "+tries=1", "+time=2", l.name("canary"), "A")
	l.canaries()
	if n := l.SinkCount() - before; n != 0 {
		l.t.Errorf("%d canaries arrived while the chain did not know yet", n)
	}
}

// moved is KS-5 of a dialed exit: a connection that is open when its peer is
// moved ends, and nothing of it goes on by the new way.
func (l *exitLab) moved() {
	l.t.Helper()
	connections := func() int {
		var st struct{ Connections int }
		if err := l.api(200, "GET", "/api/connectivity/exits/socks", nil).Decode(&st); err != nil {
			l.t.Fatal(err)
		}
		return st.Connections
	}
	c := l.Phone.Command("nc", labtest.InternetWeb4, "80")
	in, err := c.StdinPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	defer in.Close()
	if err := c.Start(); err != nil {
		l.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	netnstest.Eventually(l.t, 10*time.Second, func() error {
		if connections() == 0 {
			return errors.New("the connection is not there")
		}
		return nil
	})
	l.leaves("wg")
	netnstest.Eventually(l.t, 5*time.Second, func() error {
		if n := connections(); n != 0 {
			return fmt.Errorf("%d connections are left in the exit that the phone was moved from", n)
		}
		return nil
	})
	_, _ = in.Write([]byte("GET / HTTP/1.0\r\n\r\n")) // by the new way it is nobody's
	select {
	case err := <-ended:
		var status *exec.ExitError
		if err != nil && !errors.As(err, &status) {
			l.t.Errorf("nc: %v", err)
		}
	case <-time.After(10 * time.Second):
		l.t.Error("the connection of a moved phone neither ends nor is refused")
		_ = c.Process.Kill()
		<-ended
	}
}
