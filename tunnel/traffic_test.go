package tunnel_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/netnstest"
	"github.com/personal-internet-cell/pic/tunnel"
)

// site is a cell and two machines, each on a wire of its own.
type site struct {
	t          testing.TB
	cell, a, b *netnstest.NS
	h          *household
	userspace  bool
}

func newSite(t testing.TB, userspace bool) *site {
	t.Helper()
	netnstest.Need(t, "ping")
	s := &site{t: t, cell: netnstest.New(t, "cell"), a: netnstest.New(t, "a"), b: netnstest.New(t, "b"), h: newHousehold(), userspace: userspace}
	netnstest.Veth(s.cell, "toa", []string{"192.0.2.1/29"}, s.a, "wire", []string{"192.0.2.2/29"})
	netnstest.Veth(s.cell, "tob", []string{"2001:db8::1/64"}, s.b, "wire", []string{"2001:db8::2/64"})
	s.h.add("a", "b")
	return s
}

func (s *site) control() *remote {
	s.t.Helper()
	mode := "kernel"
	if s.userspace {
		mode = "userspace"
	}
	return startControl(s.t, s.cell, mode)
}

// join starts both machines' own WireGuard: a over IPv4, b over IPv6.
func (s *site) join() {
	s.t.Helper()
	startMember(s.t, s.a, s.h.member("a", "192.0.2.1:51820", !s.userspace))
	startMember(s.t, s.b, s.h.member("b", "[2001:db8::1]:51820", !s.userspace))
}

func (s *site) gateways() []netip.Addr {
	t := s.h.State.Network.Tunnel
	return []netip.Addr{t.Gateway4(), t.Gateway6()}
}

// reaches pings the cell through the tunnel in both families.
func (s *site) reaches(ns *netnstest.NS, within time.Duration) {
	s.t.Helper()
	for _, gw := range s.gateways() {
		netnstest.Eventually(s.t, within, func() error {
			if out, err := ns.Try("ping", "-c1", "-W1", gw.String()); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
	}
}

func TestUserspaceTraffic(t *testing.T) { traffic(t, true) }

func TestKernelTraffic(t *testing.T) { needKernel(t); traffic(t, false) }

// One machine's packets keep going while the other peers come and go, and a
// removed one is cut off.
func traffic(t *testing.T, userspace bool) {
	s := newSite(t, userspace)
	c := s.control()
	if !c.apply(s.h).Changed || c.apply(s.h).Changed {
		t.Fatal("want a change, then none")
	}
	s.join()
	s.reaches(s.a, 10*time.Second)
	s.reaches(s.b, 10*time.Second)
	st := c.status()
	for name, from := range map[string]string{"a": "192.0.2.2", "b": "2001:db8::2"} {
		p := st.Peers[s.h.State.Peer(name).PublicKey]
		if !p.Online || p.Endpoint.Addr().String() != from || p.ReceivedBytes == 0 || p.SentBytes == 0 || time.Since(p.LastHandshake) > time.Minute {
			t.Fatalf("status of %s: %+v", name, p)
		}
	}
	gw := netip.AddrPortFrom(s.gateways()[0], 7)
	startHelper(t, s.cell, "echo", gw.String())
	wait := startFlow(t, s.a, gw, 1000, 3*time.Second)
	for i := range 20 {
		name := fmt.Sprintf("guest%d", i)
		s.h.add(name)
		c.apply(s.h)
		if i%2 == 0 {
			s.h.remove(name)
			c.apply(s.h)
		}
	}
	s.h.remove("b")
	c.apply(s.h)
	r, err := wait()
	must(t, err)
	if r.Sent != 3000 || r.Back != r.Sent {
		t.Fatalf("packets were lost while other peers changed: %+v", r)
	}
	if out, err := s.b.Try("ping", "-c2", "-W1", s.gateways()[0].String()); err == nil {
		t.Fatalf("a removed peer still gets answers: %s", out)
	}
	if _, ok := c.status().Peers[s.h.State.Peers[0].PublicKey]; !ok || len(c.status().Peers) != 11 {
		t.Fatalf("%d peers", len(c.status().Peers))
	}
	s.reaches(s.a, time.Second)
}

// Without segmentation offload, for kernels that break it.
func TestUserspacePlainTUNTraffic(t *testing.T) {
	s := newSite(t, true)
	startControl(t, s.cell, "plain").apply(s.h)
	s.join()
	s.reaches(s.a, 10*time.Second)
	s.reaches(s.b, 10*time.Second)
}

func TestUserspaceCarrierPacketsBearTheBypassMark(t *testing.T) {
	netnstest.Need(t, "nft")
	s := newSite(t, true)
	s.cell.Exec("nft", "add table inet t; add chain inet t o { type filter hook output priority 0; }; "+
		"add rule inet t o udp sport 51820 meta mark != 0x1 counter; add rule inet t o udp sport 51820 meta mark 0x1 counter")
	c := s.control()
	c.apply(s.h)
	s.join()
	s.reaches(s.a, 10*time.Second)
	s.reaches(s.b, 10*time.Second)
	out := s.cell.Exec("nft", "list", "chain", "inet", "t", "o")
	for line := range strings.Lines(out) {
		if none := strings.Contains(line, "packets 0 "); strings.Contains(line, "counter") && none != strings.Contains(line, "!=") {
			t.Fatalf("mark %#x is not on the carrier packets:\n%s", cell.MarkBypass, out)
		}
	}
}

func TestUserspacePortTaken(t *testing.T) { portTaken(t, true) }

func TestKernelPortTaken(t *testing.T) { needKernel(t); portTaken(t, false) }

func portTaken(t *testing.T, userspace bool) {
	s := newSite(t, userspace)
	free := startHelper(t, s.cell, "squat", "0.0.0.0:51820")
	c := s.control()
	refused := func() {
		t.Helper()
		a := c.do(request{Op: "apply", State: s.h.State, Secrets: s.h.Secrets})
		port := fmt.Sprint(s.h.State.Network.Tunnel.ListenPort)
		if !strings.Contains(a.Err, "UDP port "+port) || !strings.Contains(a.Err, tunnel.ErrPortTaken.Error()) {
			t.Fatalf("want the port %s and its cure, got %q", port, a.Err)
		}
	}
	refused()
	refused()
	free()
	c.apply(s.h)
	if c.apply(s.h).Changed {
		t.Fatal("the second pass changed something")
	}
	s.join()
	s.reaches(s.a, 10*time.Second)
	// A live tunnel that is told to move to a taken port stays where it is.
	free = startHelper(t, s.cell, "squat", "[::]:4500")
	s.h.State.Network.Tunnel.ListenPort = 4500
	refused()
	if st := c.status(); st.ListenPort != 51820 || !st.Up {
		t.Fatalf("the tunnel left its port: %+v", st)
	}
	s.reaches(s.a, time.Second)
	free()
	c.apply(s.h)
	if st := c.status(); st.ListenPort != 4500 {
		t.Fatalf("listens on %d", st.ListenPort)
	}
}

func TestUserspaceDriftIsNoticed(t *testing.T) { t.Parallel(); driftIsNoticed(t, true) }

func TestKernelDriftIsNoticed(t *testing.T) { needKernel(t); driftIsNoticed(t, false) }

func driftIsNoticed(t *testing.T, userspace bool) {
	s := newSite(t, userspace)
	c := s.control()
	c.apply(s.h)
	// Creation passes through "down": let its own event go by.
	quietFor(t, c, 700*time.Millisecond)
	for _, x := range [][]string{
		{"ip", "address", "del", s.gateways()[1].String() + "/64", "dev", "pic0"},
		{"ip", "link", "set", "pic0", "down"},
		{"ip", "link", "del", "pic0"},
	} {
		before := c.do(request{}).Drifts
		s.cell.Exec(x[0], x[1:]...)
		netnstest.Eventually(t, 5*time.Second, func() error {
			if c.do(request{}).Drifts == before {
				return fmt.Errorf("%v was not noticed", x)
			}
			return nil
		})
		if !c.apply(s.h).Changed || c.apply(s.h).Changed {
			t.Fatalf("after %v: want one repair", x)
		}
		quietFor(t, c, 700*time.Millisecond)
	}
	// Somebody else's link is none of our business.
	before := c.do(request{}).Drifts
	s.cell.Exec("ip", "link", "del", "toa")
	quietFor(t, c, 700*time.Millisecond)
	if c.do(request{}).Drifts != before {
		t.Fatal("another link's end was taken for ours")
	}
}

// quietFor waits until no drift has been reported for d.
func quietFor(t testing.TB, c *remote, d time.Duration) {
	t.Helper()
	n, since := -1, time.Now()
	netnstest.Eventually(t, 20*time.Second, func() error {
		if m := c.do(request{}).Drifts; m != n {
			n, since = m, time.Now()
		}
		if time.Since(since) < d {
			return errors.New("still changing")
		}
		return nil
	})
}

// The embedded device dies with its process: peers come back by themselves,
// after WireGuard's own time-out.
func TestUserspaceRestart(t *testing.T) {
	t.Parallel()
	s := newSite(t, true)
	c := s.control()
	if n := c.apply(s.h).Notices; len(n) != 1 || n[0].Code != tunnel.NoticeUserspace {
		t.Fatalf("notices %+v", n)
	}
	s.join()
	s.reaches(s.a, 10*time.Second)
	c.Kill()
	if out, err := s.a.Try("ping", "-c1", "-W1", s.gateways()[0].String()); err == nil {
		t.Fatalf("answered by a dead process: %s", out)
	}
	c = s.control()
	c.apply(s.h)
	s.reaches(s.a, 40*time.Second)
}

// The kernel's device does not even notice: no packet is lost in either
// direction while the process is killed, restarted and busy with other peers.
func TestKernelRestartLosesNoPacket(t *testing.T) {
	needKernel(t)
	s := newSite(t, false)
	c := s.control()
	c.apply(s.h)
	s.join()
	s.reaches(s.a, 10*time.Second)
	s.reaches(s.b, 10*time.Second)
	const length = 6 * time.Second
	type result struct {
		tally
		err error
	}
	results := make(chan result, 2)
	for i, ns := range []*netnstest.NS{s.a, s.b} {
		to := netip.AddrPortFrom(s.gateways()[i], 7)
		startHelper(t, s.cell, "echo", to.String())
		wait := startFlow(t, ns, to, 1000, length)
		go func() { r, err := wait(); results <- result{r, err} }()
	}
	restarts, applies := 0, 0
	var flows []result
	for len(flows) < 2 {
		name := fmt.Sprintf("guest%d", applies)
		s.h.add(name)
		c.apply(s.h)
		c.Kill()
		c = s.control()
		restarts++
		if c.apply(s.h).Changed {
			t.Fatal("a restart changed a settled device")
		}
		s.h.remove(name)
		c.apply(s.h)
		applies += 3
		select {
		case r := <-results:
			must(t, r.err)
			flows = append(flows, r)
		default:
		}
	}
	if restarts < 3 {
		t.Fatalf("only %d restarts while packets flowed", restarts)
	}
	for _, r := range flows {
		t.Logf("%d restarts, %d applies: %+v", restarts, applies, r.tally)
		if r.Sent != 6000 || r.Back != r.Sent {
			t.Errorf("lost %d of %d packets (%d restarts)", r.Sent-r.Back, r.Sent, restarts)
		}
	}
	if st := c.status(); st.Backend != tunnel.BackendKernel || len(st.Peers) != 2 {
		t.Fatalf("%+v", st)
	}
	c.do(request{Op: "flush"})
	if out, err := s.cell.Try("ip", "link", "show", "pic0"); err == nil {
		t.Fatalf("flush left %s", out)
	}
}
