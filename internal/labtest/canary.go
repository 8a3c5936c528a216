package labtest

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// CanaryLabel is in every name and payload that a flock sends.
const CanaryLabel = "leakcanary"

// Canary is the pair of addresses that flock n sends to, 0 to 40: they belong
// to the internet's host, so that what arrives there is answered.
func Canary(n int) (v4, v6 netip.Addr) {
	return netip.AddrFrom4([4]byte{203, 0, 113, byte(210 + n)}), netip.MustParseAddr(fmt.Sprintf("2001:db8:dead::%x", 0x100+n))
}

// AddCanaries gives the internet's host the addresses of n flocks.
func (l *Lab) AddCanaries(n int) {
	l.t.Helper()
	for i := range n {
		v4, v6 := Canary(i)
		l.Internet.Exec("ip", "addr", "add", v4.String()+"/32", "dev", "lo")
		l.Internet.Exec("ip", "addr", "add", v6.String()+"/128", "dev", "lo", "nodad")
	}
}

// Probes are the kinds of packets a flock sends, each for IPv4 and IPv6 as far
// as it has both: thirteen in all.
var Probes = []string{
	"tcp4", "tcp6", "udp4", "udp6", "quic4", "quic6", "icmp4", "icmp6",
	"dns to the cell", "dns to a third party", "fragments", "another protocol", "multicast",
}

// Flock makes h send every probe, over and over, until the end of the test:
// to the canaries of number n, names to the resolver. marker is in payloads
// and names beside [CanaryLabel].
func (l *Lab) Flock(h *Host, n int, marker, resolver string) {
	l.t.Helper()
	v4, v6 := Canary(n)
	h.serve("flock", v4.String(), v6.String(), marker, resolver)
}

// flock is the sending process. Errors are the point: a closed way refuses.
func flock(v4, v6 netip.Addr, marker, resolver string) []func() error {
	payload := []byte(CanaryLabel + "-" + marker + ".") // the kernel may join several datagrams
	every := func(d time.Duration, f func(n int)) func() error {
		return func() error {
			for n := 0; ; n++ {
				f(n)
				time.Sleep(d)
			}
		}
	}
	udp := func(to netip.Addr, port uint16, b []byte) func(int) {
		return func(int) {
			c, err := net.Dial("udp", netip.AddrPortFrom(to, port).String())
			if err != nil {
				return
			}
			defer c.Close()
			for range 3 { // a refused datagram tells only the next one
				_, _ = c.Write(b)
			}
		}
	}
	// Connections are many at a time: one that hangs must not stop the rest.
	tcp := func(to netip.Addr) func(int) {
		busy := make(chan struct{}, 32)
		return func(n int) {
			select {
			case busy <- struct{}{}:
			default:
				return
			}
			go func() {
				defer func() { <-busy }()
				c, err := net.DialTimeout("tcp", netip.AddrPortFrom(to, uint16(8000+n%8)).String(), time.Second)
				if err != nil {
					return
				}
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(time.Second))
				_, _ = c.Write(payload)
			}()
		}
	}
	raw := func(network string, to netip.Addr, b []byte) func(int) {
		return func(int) {
			c, err := net.Dial(network, to.String())
			if err != nil {
				return
			}
			defer c.Close()
			_, _ = c.Write(b)
		}
	}
	ask := func(server string) func(int) {
		return func(n int) {
			q, err := question(fmt.Sprintf("n%d-%d.%s.%s.example.org.", n, time.Now().UnixNano(), marker, CanaryLabel))
			if err != nil {
				return
			}
			c, err := net.Dial("udp", net.JoinHostPort(server, "53"))
			if err != nil {
				return
			}
			defer c.Close()
			_, _ = c.Write(q)
			_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			_, _ = c.Read(make([]byte, 1500))
		}
	}
	big := append([]byte(CanaryLabel+"-"+marker+"."), make([]byte, 4000)...)
	return []func() error{
		every(25*time.Millisecond, tcp(v4)), every(25*time.Millisecond, tcp(v6)),
		every(20*time.Millisecond, udp(v4, 5000, payload)), every(20*time.Millisecond, udp(v6, 5000, payload)),
		every(20*time.Millisecond, udp(v4, 443, payload)), every(20*time.Millisecond, udp(v6, 443, payload)),
		every(20*time.Millisecond, raw("ip4:icmp", v4, echo(8, payload))), every(20*time.Millisecond, raw("ip6:ipv6-icmp", v6, echo(128, payload))),
		every(30*time.Millisecond, ask(resolver)), every(30*time.Millisecond, ask(v4.String())),
		every(40*time.Millisecond, udp(v4, 5001, big)),
		every(40*time.Millisecond, func(n int) { raw("ip4:132", v4, payload)(n); raw("ip6:47", v6, payload)(n) }),
		every(40*time.Millisecond, func(n int) {
			udp(netip.MustParseAddr("224.0.0.251"), 5353, payload)(n)
			udp(netip.MustParseAddr("239.255.255.250"), 1900, payload)(n)
		}),
	}
}

// echo is an ICMP echo request; the kernel sums ICMPv6, this sums ICMP (RFC 1071).
func echo(typ byte, payload []byte) []byte {
	b := append([]byte{typ, 0, 0, 0, 0, 1, 0, 1}, payload...)
	if typ != 8 {
		return b
	}
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i]) << 8
		if i+1 < len(b) {
			sum += uint32(b[i+1])
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(b[2:], ^uint16(sum))
	return b
}

func question(name string) ([]byte, error) {
	n, err := dnsmessage.NewName(name)
	if err != nil {
		return nil, err
	}
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: 7, RecursionDesired: true})
	if err := b.StartQuestions(); err != nil {
		return nil, err
	}
	if err := b.Question(dnsmessage.Question{Name: n, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}); err != nil {
		return nil, err
	}
	return b.Finish()
}

// Sighting is what a [Sniffer] has seen so far.
type Sighting struct {
	// To counts packets by destination, of the canaries only.
	To map[string]int `json:"to"`
	// Marked counts packets by the marker in their payload.
	Marked map[string]int `json:"marked"`
	// Inside counts packets with a source inside Prefixes.
	Inside int `json:"inside"`
	// Frames is all that was looked at.
	Frames int `json:"frames"`
	// Samples are the first packets of each kind, in words.
	Samples []string `json:"samples"`
}

// Sniffer watches the frames that a neighbour sends.
type Sniffer struct {
	l      *Lab
	socket string
}

// Watch counts what comes in from other by the bridge port that leads to it on
// at. Packets to the addresses in except (the far ends of exits, which carry
// canaries inside) are passed over; prefixes are sources that must never be seen.
func (l *Lab) Watch(at, other *Host, except []netip.Addr, prefixes []netip.Prefix) *Sniffer {
	l.t.Helper()
	s := &Sniffer{l, filepath.Join(l.dir, "sniff-"+at.Name+"-"+other.Name)}
	conf, err := json.Marshal(sniffConfig{Except: except, Prefixes: prefixes})
	if err != nil {
		l.t.Fatal(err)
	}
	at.serve("sniff", "p-"+other.Name, s.socket, string(conf))
	return s
}

// Seen asks the sniffer.
func (s *Sniffer) Seen() Sighting {
	s.l.t.Helper()
	var out Sighting
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", s.socket)
	}}}
	r, err := client.Get("http://sniffer/")
	if err != nil {
		s.l.t.Fatalf("asking the sniffer: %v", err)
	}
	defer r.Body.Close()
	if err := json.NewDecoder(r.Body).Decode(&out); err != nil {
		s.l.t.Fatalf("asking the sniffer: %v", err)
	}
	return out
}

type sniffConfig struct {
	Except   []netip.Addr
	Prefixes []netip.Prefix
}

type sniffer struct {
	conf sniffConfig
	mu   sync.Mutex
	seen Sighting
	kind map[string]int
}

// sniff reads whole frames of one interface, incoming ones only.
func sniff(dev, socket, conf string) ([]func() error, error) {
	s := &sniffer{seen: Sighting{To: map[string]int{}, Marked: map[string]int{}}, kind: map[string]int{}}
	if err := json.Unmarshal([]byte(conf), &s.conf); err != nil {
		return nil, err
	}
	i, err := net.InterfaceByName(dev)
	if err != nil {
		return nil, err
	}
	all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all))
	if err != nil {
		return nil, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index}); err != nil {
		return nil, err
	}
	_ = os.Remove(socket)
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		_ = json.NewEncoder(w).Encode(s.seen)
	})
	return []func() error{
		func() error { return (&http.Server{Handler: answer, ReadHeaderTimeout: 5 * time.Second}).Serve(l) },
		func() error {
			buf := make([]byte, 65536)
			for {
				n, from, err := unix.Recvfrom(fd, buf, 0)
				if errors.Is(err, syscall.EINTR) || errors.Is(err, syscall.ENETDOWN) {
					continue // the interface flaps: that is part of the test
				}
				if err != nil {
					return err
				}
				if a, ok := from.(*unix.SockaddrLinklayer); ok && a.Pkttype == unix.PACKET_OUTGOING {
					continue
				}
				s.frame(buf[:n])
			}
		},
	}, nil
}

func (s *sniffer) frame(b []byte) {
	const header = 14
	if len(b) < header+20 {
		return
	}
	var src, dst netip.Addr
	ip := b[header:]
	proto := 0
	switch binary.BigEndian.Uint16(b[12:]) {
	case unix.ETH_P_IP:
		src, dst, proto = netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20])), int(ip[9])
	case unix.ETH_P_IPV6:
		if len(ip) < 40 {
			return
		}
		src, dst, proto = netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40])), int(ip[6])
	default:
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen.Frames++
	for _, a := range s.conf.Except {
		if a == dst {
			return
		}
	}
	note := func(what string) {
		if s.kind[what]++; s.kind[what] <= 3 && len(s.seen.Samples) < 60 {
			s.seen.Samples = append(s.seen.Samples, fmt.Sprintf("%s: protocol %d from %s to %s, %d bytes %.60q", what, proto, src, dst, len(ip), ip[20:]))
		}
	}
	if a := dst.String(); strings.HasPrefix(a, "203.0.113.2") || strings.HasPrefix(a, "2001:db8:dead::") {
		s.seen.To[a]++
		note("to " + a)
	}
	text := strings.ToLower(string(ip))
	if i := strings.Index(text, CanaryLabel); i >= 0 {
		m := markerAt(text, i)
		s.seen.Marked[m]++
		note("marked " + m)
	}
	for _, p := range s.conf.Prefixes {
		if p.Contains(src) {
			s.seen.Inside++
			note("from inside")
		}
	}
}

// markerAt is the marker beside the label: behind a dash in payloads, before it
// in names.
func markerAt(text string, i int) string {
	word := func(s string) string {
		return s[:strings.IndexFunc(s+".", func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') })]
	}
	if rest := text[i+len(CanaryLabel):]; strings.HasPrefix(rest, "-") {
		return word(rest[1:])
	}
	// In a name the length of the label stands between the two (RFC 1035 §3.1).
	before := text[:max(i-1, 0)]
	j := strings.LastIndexFunc(before, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') })
	return before[j+1:]
}
