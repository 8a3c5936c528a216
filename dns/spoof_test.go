package dns_test

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// spoofPort is where answers to forged questions go.
const spoofPort = 5300

// spoofHelper sends questions in packets of its own making: args are source,
// destination and the types asked for; each is asked of every inner name. It
// prints how many it sent.
func spoofHelper(args []string) error {
	src, dst := netip.MustParseAddr(args[0]), netip.MustParseAddr(args[1])
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	n := 0
	for _, name := range innerNames {
		for _, qtype := range args[2:] {
			for _, m := range []*mdns.Msg{new(mdns.Msg), new(mdns.Msg)} {
				m.Id, m.RecursionDesired = uint16(n), true
				m.Question = []mdns.Question{{Name: name, Qtype: mdns.StringToType[qtype], Qclass: mdns.ClassINET}}
				if n%2 == 1 { // half of them the long way
					m.SetEdns0(4096, true)
					m.IsEdns0().Option = []mdns.EDNS0{&mdns.EDNS0_SUBNET{Code: mdns.EDNS0SUBNET, Family: 1, SourceNetmask: 32, Address: net.IPv4(10, 17, 0, 2)}}
				}
				b, err := m.Pack()
				if err != nil {
					return err
				}
				if err := unix.Sendto(fd, packet(src, dst, b), 0, &unix.SockaddrInet4{Addr: dst.As4()}); err != nil {
					return fmt.Errorf("sending from %s to %s: %w", src, dst, err)
				}
				n++
				if n%50 == 0 {
					time.Sleep(2 * time.Millisecond) // the socket's buffer must not be what stops them
				}
			}
		}
	}
	fmt.Println(n)
	return nil
}

// packet is an IPv4 packet with a UDP datagram to port 53, without checksum of
// its own (RFC 768 allows 0; the kernel fills in that of the header).
func packet(src, dst netip.Addr, payload []byte) []byte {
	b := make([]byte, 28, 28+len(payload))
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_UDP
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(b[20:], spoofPort)
	binary.BigEndian.PutUint16(b[22:], 53)
	binary.BigEndian.PutUint16(b[24:], uint16(8+len(payload)))
	return append(b, payload...)
}

// sinkHelper writes every datagram that comes to an address to a file.
func sinkHelper(args []string) error {
	c, err := net.ListenPacket("udp4", args[0])
	if err != nil {
		return err
	}
	f, err := os.OpenFile(args[1], os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	buf := make([]byte, 4096)
	for {
		n, _, err := c.ReadFrom(buf)
		if err != nil {
			return err
		}
		fmt.Fprintln(f, hex.EncodeToString(buf[:n]))
	}
}

// innerNames are asked for by those who pretend to be inside.
var innerNames = []string{
	"files.home.pic.ngo.", "wiki.home.pic.ngo.", "media.home.pic.ngo.", "vault.home.pic.ngo.", "nas.home.pic.ngo.", "WWW.home.PIC.ngo.",
	"laptop.peers.home.pic.ngo.", "a.apps.home.pic.ngo.", "home.internal.", "files.home.internal.", "2.0.17.10.in-addr.arpa.", "home.pic.ngo.", "secret.example.org.",
}

// DNS-5: packets that come in by the uplink with the source of a peer, of a LAN
// host or of a service get what the internet gets, wherever they are sent to.
func TestForgedSourcesFromTheUplinkSeeNothing(t *testing.T) {
	w := newWorld(t)
	st, f := household(t)
	x := wanted{st, f}
	w.apply(x)
	w.connect()
	sinks := map[string]string{}
	for addr, ns := range map[string]*netnstest.NS{laptop: w.peers, lanHost: w.lan, "172.20.2.2": w.wiki} {
		sinks[addr] = filepath.Join(t.TempDir(), "seen")
		netnstest.Start(t, ns.Self("sink", fmt.Sprintf("%s:%d", addr, spoofPort), sinks[addr]))
	}
	netnstest.Eventually(t, 5*time.Second, func() error {
		for _, file := range sinks {
			if _, err := os.Stat(file); err != nil {
				return err
			}
		}
		return nil
	})
	before := w.apply(x).Status
	sent := uint64(0)
	for src := range sinks {
		for _, dst := range []string{"203.0.113.7", "10.17.0.1", "192.168.7.1", "172.20.2.1"} {
			if dst == "172.20.2.1" {
				w.net.Exec("ip", "route", "replace", dst+"/32", "via", "203.0.113.7")
			}
			c := w.net.Self("spoof", src, dst, "A", "AAAA", "TXT", "ANY", "PTR", "CNAME", "SOA", "HTTPS", "MX")
			out, err := c.Output()
			if err != nil {
				t.Fatalf("%s to %s: %v", src, dst, err)
			}
			var n uint64
			if _, err := fmt.Sscan(string(out), &n); err != nil {
				t.Fatal(err)
			}
			sent += n
		}
	}
	after := before
	netnstest.Eventually(t, 5*time.Second, func() error {
		after = w.apply(x).Status
		if n := sum(after.Queries["internet"]) - sum(before.Queries["internet"]); n != sent {
			return fmt.Errorf("%d of %d forged questions were answered as the internet's", n, sent)
		}
		return nil
	})
	for _, view := range []string{string(cell.ViewPeer), string(cell.ViewLAN), "service", "unknown"} {
		if a, b := sum(after.Queries[view]), sum(before.Queries[view]); a != b {
			t.Errorf("the %s view answered %d forged questions", view, a-b)
		}
	}
	if after.Limited == before.Limited {
		t.Error("the flood was not limited")
	}
	for addr, file := range sinks {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		answers := 0
		for line := range strings.Lines(string(b)) {
			wire, err := hex.DecodeString(strings.TrimSpace(line))
			r := new(mdns.Msg)
			if err != nil || r.Unpack(wire) != nil {
				t.Fatalf("not a message: %s", line)
			}
			answers++
			w.noneInternal("forged by "+addr, r.String())
		}
		if answers == 0 {
			t.Errorf("no answer came to %s: the test sees nothing", addr)
		}
	}
	if asked, err := os.ReadFile(w.asked); err != nil || strings.Contains(string(asked), "secret.example.org.") {
		t.Errorf("a forged question was forwarded (%v)", err)
	}
}
