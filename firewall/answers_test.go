package firewall_test

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/firewall"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// heard is one answer that arrived at a sender: a TCP reset, or an ICMP error.
// To names the packet that it answers, see [answerKey].
type heard struct {
	To     string
	Answer string
}

// answerKey tells packets of the samples apart: their source ports are unique,
// and an echo request's identifier is.
func answerKey(family int, protocol string, id uint16) string {
	return fmt.Sprintf("v%d %s %d", family, protocol, id)
}

// hearHelper listens at an interface until its input ends, and prints every
// reset and every ICMP error that came in.
func hearHelper(args []string) error {
	dev, err := net.InterfaceByName(args[0])
	if err != nil {
		return err
	}
	all := uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(all))
	if err != nil {
		return err
	}
	// A thousand packets may come before this process has its turn.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20); err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: dev.Index}); err != nil {
		return err
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000}); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); close(ended) }()
	fmt.Println("ready")
	var list []heard
	buf := make([]byte, 65536)
	for {
		n, from, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			select {
			case <-ended: // and nothing came since
				return json.NewEncoder(os.Stdout).Encode(list)
			default:
				continue
			}
		}
		if err != nil {
			return err
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if h, ok := answerIn(buf[:n]); ok {
			list = append(list, h)
		}
	}
}

// answerIn reads one IP packet.
func answerIn(b []byte) (heard, bool) {
	family, proto, l4, ok := transport(b)
	if !ok {
		return heard{}, false
	}
	switch {
	case proto == unix.IPPROTO_TCP && len(l4) >= 20 && l4[13]&4 != 0:
		return heard{answerKey(family, "tcp", binary.BigEndian.Uint16(l4[2:])), "rst"}, true
	case proto == unix.IPPROTO_ICMP && len(l4) > 8 && l4[0] == 3, proto == unix.IPPROTO_ICMPV6 && len(l4) > 8 && l4[0] == 1:
		f, p, inner, ok := transport(l4[8:])
		if !ok || len(inner) < 8 {
			return heard{}, false
		}
		name, id := map[byte]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp", unix.IPPROTO_ICMP: "icmp", unix.IPPROTO_ICMPV6: "icmp"}[p], binary.BigEndian.Uint16(inner)
		if name == "icmp" {
			id = binary.BigEndian.Uint16(inner[4:])
		}
		return heard{answerKey(f, name, id), fmt.Sprintf("icmp %d/%d", l4[0], l4[1])}, true
	}
	return heard{}, false
}

func transport(b []byte) (family int, proto byte, l4 []byte, ok bool) {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4 && len(b) >= int(b[0]&15)*4:
		return 4, b[9], b[int(b[0]&15)*4:], true
	case len(b) >= 40 && b[0]>>4 == 6:
		return 6, b[6], b[40:], true
	}
	return 0, 0, nil, false
}

// ear is a running hearHelper.
type ear struct {
	in  io.WriteCloser
	out *bufio.Reader
}

// listen hears what comes back to a side of the router, which answers without
// a limit from then on.
func (l *lab) listen(t *testing.T, n *netnstest.NS) *ear {
	t.Helper()
	// RFC 1812 §4.3.2.8 has routers limit their errors; a test wants them all.
	l.router.Sysctl("net.ipv4.icmp_ratemask", "0")
	l.router.Sysctl("net.ipv6.icmp.ratemask", "\n")
	c := n.Self("hear", "up0")
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	netnstest.Start(t, c)
	e := &ear{in, bufio.NewReader(out)}
	if line, err := e.out.ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("the helper says %q, %v", line, err)
	}
	return e
}

// all ends the listening and returns the answers by packet.
func (e *ear) all(t *testing.T) map[string]string {
	t.Helper()
	_ = e.in.Close()
	read := make(chan error, 1)
	var list []heard
	go func() { read <- json.NewDecoder(e.out).Decode(&list) }()
	select {
	case err := <-read:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(waitFor):
		t.Fatal("the listening helper does not end")
	}
	out := map[string]string{}
	for _, h := range list {
		out[h.To] = h.Answer
	}
	return out
}

// onTheWire is what an answer looks like, by family.
var onTheWire = map[firewall.Answer]map[int]string{
	firewall.Silence:         {4: "", 6: ""},
	firewall.TCPReset:        {4: "rst", 6: "rst"},
	firewall.AdminProhibited: {4: "icmp 3/13", 6: "icmp 1/1"},
	firewall.HostUnreachable: {4: "icmp 3/1", 6: "icmp 1/0"},
	firewall.NetUnreachable:  {4: "icmp 3/0", 6: "icmp 1/0"},
}

// Linux tells one source of unreachable destinations five times in a row and
// then once a second (ip_rt_error_burst, ip_rt_error_cost), in IPv4 only, and
// the limit is the whole machine's: a test may not move it. So there are many
// peers on the exit that is down, for few packets each.
const (
	manyTablets      = 90
	unreachableBurst = 5
)

// addTablets puts more peers on the exit of the tablet, and tells the router
// that all peers are behind the one interface, as WireGuard would have it.
func (l *lab) addTablets(s *cell.State) {
	for i := range manyTablets {
		addPeer(s, fmt.Sprintf("tablet%d", i), "work")
	}
	mac := strings.TrimSpace(l.peers.Exec("cat", "/sys/class/net/up0/address"))
	var batch strings.Builder
	for i := range s.Peers {
		for _, a := range []netip.Addr{s.Peers[i].Address4, s.Peers[i].Address6} {
			fmt.Fprintf(&batch, "neigh replace %s lladdr %s dev pic0\n", a, mac)
		}
	}
	l.router.Sh("ip -batch - <<'X'\n" + batch.String() + "X")
}

// wantAnswers compares, packet by packet, how what does not pass is answered:
// not at all, by a reset, or by which ICMP error.
func (l *lab) wantAnswers(t *testing.T, p firewall.Policy, packets []firewall.Packet, from []sender, ears map[*netnstest.NS]*ear) {
	t.Helper()
	answers := map[*netnstest.NS]map[string]string{}
	for n, e := range ears {
		answers[n] = e.all(t)
	}
	wrong, counts, told := 0, map[string]int{}, map[netip.Addr]int{}
	for i, pk := range packets {
		r := p.Trace(pk)
		if r.Passes() || pk.In == "" {
			continue
		}
		family, id := 4, pk.SrcPort
		if pk.Dst.Is6() {
			family = 6
		}
		if pk.Protocol == "icmp" {
			id = uint16(i)
		}
		want, got := onTheWire[r.Answer][family], answers[from[i].ns(l)][answerKey(family, pk.Protocol, id)]
		if r.Answer == firewall.HostUnreachable && family == 4 {
			if told[pk.Src]++; told[pk.Src] > unreachableBurst && got == "" {
				continue
			}
		}
		counts[fmt.Sprintf("v%d %q", family, want)]++
		if got != want {
			if wrong++; wrong <= 20 {
				t.Errorf("%s: %s %s → %s:%d: traced to the answer %q, the kernel gives %q (%+v)", from[i].name, pk.Protocol, pk.Src, pk.Dst, pk.DstPort, want, got, r)
			}
		}
	}
	t.Logf("answers: %v, %d wrong", counts, wrong)
	for _, want := range []string{`v4 ""`, `v6 ""`, `v4 "icmp 3/13"`, `v6 "icmp 1/1"`, `v4 "icmp 3/1"`, `v6 "icmp 1/0"`} {
		if counts[want] < 100 {
			t.Errorf("only %d packets are answered by %s: the sample proves little", counts[want], want)
		}
	}
}
