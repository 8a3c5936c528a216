package tunnel_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/netnstest"
	"github.com/personal-internet-cell/pic/tunnel"
)

// request and reply are lines of JSON between a test and the process that
// plays the cell ("control").
type request struct {
	Op      string // apply, status, flush, close
	Facts   cell.Facts
	Device  string // of status; empty: the tunnel
	State   *cell.State
	Secrets map[cell.SecretRef]string
}

type reply struct {
	Changed bool
	Err     string
	Notices []cell.Notice
	Status  tunnel.Status
	Drifts  int // calls of the watch's trigger so far
}

// control is the cell's process: it owns a controller and does as it is told.
func control(args []string) error {
	h := &household{}
	c := h.controller(tunnel.NewHost(quiet, args[0] == "plain"), args[0] != "kernel")
	drift := make(chan struct{}, 100)
	watch := c.Watch(func() { drift <- struct{}{} })
	go func() { _ = watch.Run(bg) }()
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var q request
		if err := in.Decode(&q); err != nil {
			if errors.Is(err, io.EOF) {
				return c.Close()
			}
			return err
		}
		var (
			r   reply
			err error
		)
		switch q.Op {
		case "apply":
			h.Secrets = q.Secrets
			var d tunnel.Devices
			if d, err = tunnel.Compile(q.State, q.Facts); err == nil {
				r.Changed, err = c.Apply(bg, d)
			}
		case "status":
			if q.Device == "" {
				q.Device = cell.TunnelLink
			}
			r.Status, err = c.DeviceStatus(bg, q.Device)
		case "flush":
			err = c.Flush(bg)
		}
		if err != nil {
			r.Err = err.Error()
		}
		r.Notices, r.Drifts = c.Notices(), len(drift)
		if err := out.Encode(r); err != nil {
			return err
		}
	}
}

// remote is the test's end of a control process.
type remote struct {
	t    testing.TB
	in   *json.Encoder
	out  *json.Decoder
	Kill func() // as SIGKILL does: no clean end
}

// startControl starts a control process; mode is kernel, userspace or plain.
func startControl(t testing.TB, ns *netnstest.NS, mode string) *remote {
	t.Helper()
	c := ns.Self("control", mode)
	in, err := c.StdinPipe()
	must(t, err)
	out, w := io.Pipe()
	c.Stdout = w
	stop := netnstest.Start(t, c)
	t.Cleanup(func() { _ = w.Close() })
	return &remote{t, json.NewEncoder(in), json.NewDecoder(out), stop}
}

func (r *remote) do(q request) reply {
	r.t.Helper()
	must(r.t, r.in.Encode(q))
	var a reply
	must(r.t, r.out.Decode(&a))
	return a
}

func (r *remote) apply(h *household) reply {
	r.t.Helper()
	a := r.do(request{Op: "apply", State: h.State, Secrets: h.Secrets})
	if a.Err != "" {
		r.t.Fatal(a.Err)
	}
	return a
}

func (r *remote) status() tunnel.Status {
	r.t.Helper()
	a := r.do(request{Op: "status"})
	if a.Err != "" {
		r.t.Fatal(a.Err)
	}
	return a.Status
}

// member is a device that joins a tunnel, as its owner's own software would.
type member struct {
	Private, PSK, Server string
	Endpoint             string
	Port                 int
	Keepalive            time.Duration
	Addresses, Allowed   []netip.Prefix
	Kernel               bool
}

func (h *household) member(name, endpoint string, kernel bool) member {
	p, t := h.State.Peer(name), h.State.Network.Tunnel
	return member{
		Private: h.Private[name], PSK: h.Secrets[p.PresharedKey], Server: string(t.PublicKey), Endpoint: endpoint, Kernel: kernel,
		Addresses: []netip.Prefix{netip.PrefixFrom(p.Address4, t.Prefix4.Bits()), netip.PrefixFrom(p.Address6, t.Prefix6.Bits())},
		Allowed:   []netip.Prefix{t.Prefix4, t.Prefix6},
	}
}

func startMember(t testing.TB, ns *netnstest.NS, m member) (stop func()) {
	t.Helper()
	b, err := json.Marshal(m)
	must(t, err)
	return startHelper(t, ns, "join", string(b))
}

// startHelper starts a helper and waits until it has said that it is ready.
func startHelper(t testing.TB, ns *netnstest.NS, helper string, args ...string) (stop func()) {
	t.Helper()
	c := ns.Self(helper, args...)
	ready, w := io.Pipe()
	c.Stdout = w
	stop = netnstest.Start(t, c)
	line := make(chan error, 1)
	go func() { _, err := bufio.NewReader(ready).ReadString('\n'); line <- err }()
	t.Cleanup(func() { _ = w.Close() })
	select {
	case err := <-line:
		must(t, err)
	case <-time.After(20 * time.Second):
		t.Fatalf("helper %s is not ready", helper)
	}
	return stop
}

const memberLink = "member0"

func join(args []string) error {
	var m member
	if err := json.Unmarshal([]byte(args[0]), &m); err != nil {
		return err
	}
	k := tunnel.NewHost(quiet, false)
	set := m.embedded
	if m.Kernel {
		set = func() error { return errors.Join(k.AddLink(memberLink, 1420), m.kernel()) }
	}
	if err := set(); err != nil {
		return err
	}
	for _, a := range m.Addresses {
		if err := k.AddAddress(memberLink, a); err != nil {
			return err
		}
	}
	if err := k.SetUp(memberLink); err != nil {
		return err
	}
	fmt.Println("ready")
	stay()
	return nil
}

// stay waits to be killed. A plain select would be a deadlock to the runtime.
func stay() {
	ctx, stop := signal.NotifyContext(bg, syscall.SIGTERM)
	defer stop()
	<-ctx.Done()
}

func hexKey(s string) string {
	k, err := wgtypes.ParseKey(s)
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf("%x", k[:])
}

func (m member) embedded() error {
	t, err := tun.CreateTUN(memberLink, 1420)
	if err != nil {
		return err
	}
	d := device.NewDevice(t, conn.NewDefaultBind(), device.NewLogger(device.LogLevelError, ""))
	conf := fmt.Sprintf("private_key=%s\npublic_key=%s\npreshared_key=%s\n", hexKey(m.Private), hexKey(m.Server), hexKey(m.PSK))
	if m.Port != 0 {
		conf = fmt.Sprintf("listen_port=%d\n", m.Port) + conf
	}
	if m.Endpoint != "" {
		conf += fmt.Sprintf("endpoint=%s\npersistent_keepalive_interval=%d\n", m.Endpoint, int(m.Keepalive.Seconds()))
	}
	for _, a := range m.Allowed {
		conf += "allowed_ip=" + a.String() + "\n"
	}
	if err := d.IpcSet(conf); err != nil {
		return err
	}
	return d.Up()
}

func (m member) kernel() error {
	c, err := wgctrl.New()
	if err != nil {
		return err
	}
	defer c.Close()
	private, err1 := wgtypes.ParseKey(m.Private)
	server, err2 := wgtypes.ParseKey(m.Server)
	psk, err3 := wgtypes.ParseKey(m.PSK)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	p := wgtypes.PeerConfig{PublicKey: server, PresharedKey: &psk, PersistentKeepaliveInterval: &m.Keepalive}
	if m.Endpoint != "" {
		p.Endpoint = net.UDPAddrFromAddrPort(netip.MustParseAddrPort(m.Endpoint))
	}
	for _, a := range m.Allowed {
		p.AllowedIPs = append(p.AllowedIPs, net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())})
	}
	return c.ConfigureDevice(memberLink, wgtypes.Config{PrivateKey: &private, ListenPort: &m.Port, Peers: []wgtypes.PeerConfig{p}})
}

// echo sends every UDP packet back to where it came from.
func echo(args []string) error {
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(args[0])))
	if err != nil {
		return err
	}
	roomy(c)
	fmt.Println("ready")
	buf := make([]byte, 2048)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			return err
		}
		if _, err := c.WriteToUDPAddrPort(buf[:n], from); err != nil {
			return err
		}
	}
}

// roomy gives a socket room for what arrives while a busy machine runs
// something else: a loss must be the tunnel's, not the test's.
func roomy(c *net.UDPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		panic(err)
	}
	if err := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
	}); err != nil {
		panic(err)
	}
	if err != nil {
		panic(err)
	}
}

// tally is what a flow of numbered packets came to.
type tally struct {
	Sent, Back int
	// LongestGap is the longest time without an answer.
	LongestGap time.Duration
	Took       time.Duration
}

// flow sends numbered packets to an echo, as many as the rate gives in that
// time, and prints a tally after two seconds of grace. A busy machine makes it
// slower, never smaller; six times the time is the end in any case.
func flow(args []string) error {
	var rate int
	if _, err := fmt.Sscan(args[1], &rate); err != nil {
		return err
	}
	length, err := time.ParseDuration(args[2])
	if err != nil {
		return err
	}
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(args[0])))
	if err != nil {
		return err
	}
	defer c.Close()
	roomy(c)
	start := time.Now()
	result := make(chan tally)
	go func() {
		var r tally
		seen, last := map[uint32]bool{}, start
		buf := make([]byte, 2048)
		_ = c.SetReadDeadline(start.Add(6*length + 2*time.Second))
		for {
			n, err := c.Read(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil || n != 100 { // an ICMP error is a loss, not the end
				continue
			}
			r.LongestGap, last = max(r.LongestGap, time.Since(last)), time.Now()
			seen[uint32(buf[0])<<24|uint32(buf[1])<<16|uint32(buf[2])<<8|uint32(buf[3])] = true
		}
		r.Back = len(seen)
		result <- r
	}()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	total := int(length * time.Duration(rate) / time.Second)
	sent, pkt := 0, make([]byte, 100)
	for now := start; sent < total && now.Sub(start) < 6*length; now = <-tick.C {
		// Catch up after a pause, but not in one burst: queues on the way are finite.
		want := min(total, int(now.Sub(start)*time.Duration(rate)/time.Second))
		for burst := 0; sent < want && burst < 16; burst++ {
			pkt[0], pkt[1], pkt[2], pkt[3] = byte(sent>>24), byte(sent>>16), byte(sent>>8), byte(sent)
			_, _ = c.Write(pkt)
			sent++
		}
	}
	took := time.Since(start)
	_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
	r := <-result
	r.Sent, r.Took = sent, took
	return json.NewEncoder(os.Stdout).Encode(r)
}

// startFlow returns a function that waits for the flow's end.
func startFlow(t testing.TB, ns *netnstest.NS, to netip.AddrPort, rate int, length time.Duration) (wait func() (tally, error)) {
	t.Helper()
	c := ns.Self("flow", to.String(), fmt.Sprint(rate), length.String())
	out, err := c.StdoutPipe()
	must(t, err)
	must(t, c.Start())
	return func() (tally, error) {
		var r tally
		err := json.NewDecoder(out).Decode(&r)
		return r, errors.Join(err, c.Wait())
	}
}

// squat takes a UDP port.
func squat(args []string) error {
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(args[0])))
	if err != nil {
		return err
	}
	fmt.Println("ready")
	stay()
	return c.Close()
}
