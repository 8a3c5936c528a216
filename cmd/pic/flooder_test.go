package main_test

import (
	"crypto/rand"
	wire "encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	mdns "github.com/miekg/dns"
)

// flooded is what a flood came to.
type flooded struct {
	Sent  int64 `json:"sent"`  // packets, or connections opened
	Held  int64 `json:"held"`  // connections that were open at the end
	Taken int64 `json:"taken"` // seconds
}

// flooder is a process that floods: kind, address, how long, and a peer's
// configuration for a flood that comes through the tunnel. Its connections come
// from the addresses 192.168.78.10 to .59.
func flooder(args []string) error {
	kind, target := args[0], args[1]
	d, err := time.ParseDuration(args[2])
	if err != nil {
		return err
	}
	if len(args) > 3 {
		if err := joinTunnel(args[3]); err != nil {
			return err
		}
	}
	// Many descriptors, and last in line for the processor: it is the attack
	// that is tested, not the machine.
	_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 20000, Max: 20000})
	_ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, 19)
	f := &flood{target: target, until: time.Now().Add(d), tunnel: len(args) > 3}
	run, known := map[string]func() error{
		"wireguard junk":  func() error { return f.packets(junk) },
		"dns names":       func() error { return f.packets(question(mdns.TypeA, "example.org.")) },
		"dns own names":   func() error { return f.packets(question(mdns.TypeTXT, "home.internal.")) },
		"dns any":         func() error { return f.packets(question(mdns.TypeANY, "home.internal.")) },
		"ntp":             func() error { return f.packets(timeRequest) },
		"spoofed dns":     func() error { return f.spoofed(53) },
		"spoofed tunnel":  func() error { return f.spoofed(51820) },
		"connections":     func() error { return f.connections(10_000, nil) },
		"tls half-open":   func() error { return f.connections(3000, clientHello[:40]) },
		"slow http":       func() error { return f.connections(3000, []byte("GET / HTTP/1.1\r\nHost: home.internal\r\n")) },
		"dns connections": func() error { return f.connections(3000, []byte{0, 40, 1}) },
	}[kind]
	if !known {
		return fmt.Errorf("there is no flood %q", kind)
	}
	if err := run(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(flooded{f.sent.Load(), f.held.Load(), int64(d.Seconds())})
}

// clientHello begins as a TLS handshake does (RFC 8446 §5.1) and is not finished.
var clientHello = append([]byte{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3}, make([]byte, 64)...)

type flood struct {
	target     string
	tunnel     bool // it comes from the peer's one address
	until      time.Time
	sent, held atomic.Int64
}

func (f *flood) over() bool { return time.Now().After(f.until) }

// packets sends as fast as it can, from a few sockets.
func (f *flood) packets(next func([]byte) []byte) error {
	var wg sync.WaitGroup
	for range 2 {
		c, err := net.Dial("udp", f.target)
		if err != nil {
			return err
		}
		defer c.Close()
		wg.Go(func() {
			buf := make([]byte, 0, 512)
			for i := 0; i%64 != 0 || !f.over(); i++ {
				if _, err := c.Write(next(buf[:0])); err == nil {
					f.sent.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return nil
}

// junk is what WireGuard may have to look at: handshakes and data of nobody.
func junk(b []byte) []byte {
	size := []int{148, 92, 64, 32, 400}[mrand.IntN(5)]
	b = b[:size]
	_, _ = rand.Read(b)
	b[0], b[1], b[2], b[3] = byte(1+mrand.IntN(4)), 0, 0, 0
	return b
}

func question(qtype uint16, under string) func([]byte) []byte {
	return func(b []byte) []byte {
		m := new(mdns.Msg).SetQuestion("r"+strconv.FormatUint(mrand.Uint64(), 36)+"."+under, qtype)
		out, err := m.PackBuffer(b[:cap(b)])
		if err != nil {
			panic(err)
		}
		return out
	}
}

func timeRequest(b []byte) []byte {
	b = b[:48]
	clear(b)
	b[0] = 4<<3 | 3
	return b
}

// spoofed sends DNS questions with a new source in each, as raw packets.
func (f *flood) spoofed(port uint16) error {
	host, _, err := net.SplitHostPort(f.target)
	if err != nil {
		return err
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_RAW, syscall.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	to := &syscall.SockaddrInet4{Addr: [4]byte(net.ParseIP(host).To4())}
	ask := question(mdns.TypeANY, "home.internal.")
	buf := make([]byte, 0, 512)
	for i := 0; i%64 != 0 || !f.over(); i++ {
		body := ask(buf[:0])
		p := make([]byte, 28, 28+len(body)) // RFC 791 §3.1, RFC 768
		p[0], p[8], p[9] = 0x45, 64, syscall.IPPROTO_UDP
		wire.BigEndian.PutUint16(p[2:], uint16(28+len(body)))
		wire.BigEndian.PutUint32(p[12:], 10<<24|mrand.Uint32()>>8)
		copy(p[16:], to.Addr[:])
		wire.BigEndian.PutUint16(p[20:], uint16(1024+mrand.IntN(60000)))
		wire.BigEndian.PutUint16(p[22:], port)
		wire.BigEndian.PutUint16(p[24:], uint16(8+len(body)))
		if syscall.Sendto(fd, append(p, body...), 0, to) == nil {
			f.sent.Add(1)
		}
	}
	return nil
}

// connections opens n and keeps them, each with its first bytes said and then a
// byte now and again; one that is closed is opened anew.
func (f *flood) connections(n int, say []byte) error {
	var wg sync.WaitGroup
	gate := make(chan struct{}, 200) // dials under way
	for i := range n {
		wg.Go(func() {
			for !f.over() {
				gate <- struct{}{}
				d := net.Dialer{Timeout: 2 * time.Second}
				if !f.tunnel {
					d.LocalAddr = &net.TCPAddr{IP: net.IPv4(192, 168, 78, byte(10+i%50))}
				}
				c, err := d.Dial("tcp", f.target)
				<-gate
				if err != nil {
					<-time.After(100 * time.Millisecond)
					continue
				}
				f.sent.Add(1)
				f.hold(c, say)
				<-time.After(50 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	return nil
}

// hold keeps a connection until it is closed or the flood is over.
func (f *flood) hold(c net.Conn, say []byte) {
	defer c.Close()
	if len(say) > 0 {
		_, _ = c.Write(say)
	}
	one := make([]byte, 1)
	for {
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		_, err := c.Read(one)
		var t net.Error
		switch {
		case f.over():
			f.held.Add(1)
			return
		case err == nil:
		case errors.As(err, &t) && t.Timeout():
			if len(say) > 0 {
				_, _ = c.Write([]byte{'x'})
			}
		default:
			return
		}
	}
}
