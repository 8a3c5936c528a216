package main_test

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// probeEvery is the pause between two questions of one probe, ntpEvery that of
// one for the time, of which a client gets little. An answer may take
// probeWait; a datagram that has had none after datagramWait is lost.
const (
	probeEvery   = 20 * time.Millisecond
	ntpEvery     = 600 * time.Millisecond
	probeWait    = 5 * time.Second
	datagramWait = 500 * time.Millisecond
)

// seen is what a probe has met since it was last asked.
type seen struct {
	Answers  int           `json:"answers"`
	Failures int           `json:"failures"`
	Gap      time.Duration `json:"gap"` // the longest time without an answer, one that lasts included
	Slowest  []time.Duration
	Last     string `json:"last"` // the last failure
}

// p99 is the time in which all but one of a hundred answers came.
func (s seen) p99() time.Duration {
	if len(s.Slowest) == 0 {
		return 0
	}
	return s.Slowest[min(len(s.Slowest)-1, s.Answers/100)]
}

// probe asks one listener again and again.
type probe struct {
	ask   func(context.Context) error
	every time.Duration

	mu   sync.Mutex
	seen seen
	at   time.Time // of the last answer
}

func (p *probe) run() {
	for {
		ctx, cancel := context.WithTimeout(context.Background(), probeWait)
		begin := time.Now()
		err := p.ask(ctx)
		cancel()
		now := time.Now()
		p.mu.Lock()
		if err != nil {
			p.seen.Failures++
			p.seen.Last = err.Error()
		} else {
			p.seen.Answers++
			p.seen.Gap = max(p.seen.Gap, now.Sub(p.at)-p.every)
			p.at = now
			p.seen.note(now.Sub(begin))
		}
		p.mu.Unlock()
		pause := p.every
		if err != nil {
			pause = probeEvery // when it is back is what is to be found out
		}
		<-time.After(pause)
	}
}

// keepSlowest is one hundredth of the most answers that a p99 is asked of.
const keepSlowest = 300

// note keeps the slowest answers, slowest first.
func (s *seen) note(d time.Duration) {
	i := len(s.Slowest)
	for i > 0 && s.Slowest[i-1] < d {
		i--
	}
	if i == keepSlowest {
		return
	}
	s.Slowest = append(s.Slowest, 0)
	copy(s.Slowest[i+1:], s.Slowest[i:])
	s.Slowest[i] = d
	s.Slowest = s.Slowest[:min(len(s.Slowest), keepSlowest)]
}

func (p *probe) take() seen {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.seen
	s.Gap = max(s.Gap, time.Since(p.at)-p.every)
	p.seen = seen{}
	return s
}

// prober is a process of probes: its arguments are names and what they need. It
// prints what was seen since the last line for each line it reads.
func prober(args []string) error {
	probes := map[string]*probe{}
	for i := 0; i < len(args); i += 2 {
		name, arg := args[i], args[i+1]
		if name == "tunnel" {
			if err := joinTunnel(arg); err != nil {
				return err
			}
			continue
		}
		ask, err := asker(name, arg)
		if err != nil {
			return err
		}
		probes[name] = &probe{ask: ask, every: probeEvery, at: time.Now()}
		if name == "ntp" {
			probes[name].every = ntpEvery
		}
	}
	for _, p := range probes {
		go p.run()
	}
	out := json.NewEncoder(os.Stdout)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		report := map[string]seen{}
		for name, p := range probes {
			report[name] = p.take()
		}
		if err := out.Encode(report); err != nil {
			return err
		}
	}
	return nil
}

// joinTunnel brings a peer's configuration up on an interface of this process.
func joinTunnel(config string) error {
	var uapi, gateway strings.Builder
	var addrs []string
	for line := range strings.Lines(config) {
		k, v, _ := strings.Cut(line, "=")
		k, v = strings.TrimSpace(k), strings.TrimSpace(v)
		switch k {
		case "PrivateKey", "PublicKey", "PresharedKey":
			b, err := hexKey(v)
			if err != nil {
				return err
			}
			fmt.Fprintf(&uapi, "%s=%s\n", map[string]string{"PrivateKey": "private_key", "PublicKey": "public_key", "PresharedKey": "preshared_key"}[k], b)
		case "Endpoint":
			fmt.Fprintf(&uapi, "endpoint=%s\nallowed_ip=0.0.0.0/0\npersistent_keepalive_interval=1\n", v)
		case "Address":
			addrs = strings.Split(v, ",")
		case "DNS":
			gateway.WriteString(strings.TrimSpace(strings.Split(v, ",")[0]))
		}
	}
	t, err := tun.CreateTUN("wgt", 1420)
	if err != nil {
		return err
	}
	d := device.NewDevice(t, conn.NewDefaultBind(), device.NewLogger(device.LogLevelError, ""))
	if err := d.IpcSet(uapi.String()); err != nil {
		return fmt.Errorf("%w in %s", err, uapi.String())
	}
	if err := d.Up(); err != nil {
		return err
	}
	for _, c := range [][]string{
		{"ip", "addr", "add", strings.TrimSpace(addrs[0]), "dev", "wgt"},
		{"ip", "link", "set", "wgt", "up"},
		{"ip", "route", "replace", gateway.String(), "dev", "wgt"},
	} {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w: %s", c, err, out)
		}
	}
	return nil
}

// asker is the question of a probe; arg is an address, a URL or a path.
func asker(name, arg string) (func(context.Context) error, error) {
	query := func(network, qname string, edit func(*mdns.Msg)) func(context.Context) error {
		return func(ctx context.Context) error {
			m := new(mdns.Msg).SetQuestion(qname, mdns.TypeA)
			if edit != nil {
				edit(m)
			}
			wait := probeWait
			if network == "udp" {
				wait = datagramWait
			}
			r, _, err := (&mdns.Client{Net: network, Timeout: wait}).ExchangeContext(ctx, m, arg)
			if err == nil && (r.Rcode != mdns.RcodeSuccess || len(r.Answer) == 0) {
				err = fmt.Errorf("%v", r)
			}
			return err
		}
	}
	switch name {
	case "dns fast":
		return query("udp", "home.internal.", nil), nil
	case "dns slow": // a cookie goes the long way
		return query("udp", "home.internal.", func(m *mdns.Msg) {
			m.SetEdns0(1232, false)
			m.IsEdns0().Option = []mdns.EDNS0{&mdns.EDNS0_COOKIE{Code: mdns.EDNS0COOKIE, Cookie: "0123456789abcdef"}}
		}), nil
	case "dns tcp":
		return query("tcp", "home.internal.", nil), nil
	case "ntp":
		return func(ctx context.Context) error {
			c, err := (&net.Dialer{}).DialContext(ctx, "udp", arg)
			if err != nil {
				return err
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(datagramWait))
			q := make([]byte, 48)
			q[0] = 4<<3 | 3
			if _, err := c.Write(q); err != nil {
				return err
			}
			_, err = c.Read(q)
			return err
		}, nil
	}
	url, want := arg, 0
	if _, err := fmt.Sscanf(name, "%d", &want); err != nil {
		return nil, fmt.Errorf("there is no probe %q", name)
	}
	t := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	if path, found := strings.CutPrefix(arg, "unix:"); found {
		url = "http://pic/health"
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}
	}
	client := &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, "GET", url, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(r)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if _, err = io.Copy(io.Discard, resp.Body); err == nil && resp.StatusCode != want {
			err = fmt.Errorf("%s: %s, want %d", url, resp.Status, want)
		}
		return err
	}, nil
}

// watchers are the probes of a test.
type watchers struct {
	t  *testing.T
	in []io.Writer
	re []*json.Decoder
}

// watch starts a process of probes on a host.
func (w *watchers) watch(c *exec.Cmd) {
	w.t.Helper()
	in, err := c.StdinPipe()
	out, err2 := c.StdoutPipe()
	c.Stderr = os.Stderr
	if err := errors.Join(err, err2, c.Start()); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	w.in, w.re = append(w.in, in), append(w.re, json.NewDecoder(out))
}

// take is what all have seen since the last call.
func (w *watchers) take() map[string]seen {
	w.t.Helper()
	all := map[string]seen{}
	for i := range w.in {
		if _, err := io.WriteString(w.in[i], "\n"); err != nil {
			w.t.Fatal(err)
		}
		var one map[string]seen
		if err := w.re[i].Decode(&one); err != nil {
			w.t.Fatalf("the probes ended: %v", err)
		}
		for name, s := range one {
			all[name] = s
		}
	}
	return all
}

// add is what was seen in two spans that follow each other.
func (s seen) add(next seen) seen {
	s.Answers += next.Answers
	s.Failures += next.Failures
	s.Gap = max(s.Gap, next.Gap)
	s.Last = cmp.Or(next.Last, s.Last)
	for _, d := range next.Slowest {
		s.note(d)
	}
	return s
}

// round is what all have seen, until each has been answered, those named twice.
func (w *watchers) round(twice ...string) map[string]seen {
	w.t.Helper()
	all := map[string]seen{}
	netnstest.Eventually(w.t, 20*time.Second, func() error {
		for name, s := range w.take() {
			all[name] = all[name].add(s)
		}
		for name, s := range all {
			if s.Answers == 0 || s.Answers == 1 && slices.Contains(twice, name) {
				return fmt.Errorf("%s has answered %d times: %s", name, s.Answers, s.Last)
			}
		}
		return nil
	})
	return all
}

// watched starts probes of every listener of a claimed cell: a peer's, through
// the tunnel, those of the uplink's network, and those of the machine itself.
func (h *host) watched() *watchers {
	h.t.Helper()
	made := into[struct {
		Config string `json:"config"`
	}](h.t, h.want(201, "POST", "/api/peers", `{"name":"prober","generate_key":true}`))
	gateway := ""
	for line := range strings.Lines(made.Config) {
		if k, v, _ := strings.Cut(line, "="); strings.TrimSpace(k) == "DNS" {
			gateway = strings.TrimSpace(strings.Split(v, ",")[0])
		}
	}
	w := &watchers{t: h.t}
	w.watch(h.far.Self("prober",
		"tunnel", made.Config,
		"dns fast", gateway+":53", "dns slow", gateway+":53", "dns tcp", gateway+":53", "ntp", gateway+":123",
		"200 https", "https://192.168.77.2/health", "308 http", "http://192.168.77.2/"))
	w.watch(h.ns.Self("prober",
		"200 socket", "unix:"+h.path("run/pic.sock"), "401 plain api", "http://127.0.0.1:3000/api/status", "200 debug", "http://127.0.0.1:6060/debug/conditions"))
	return w
}
