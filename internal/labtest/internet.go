package labtest

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/net/dns/dnsmessage"
)

// publicNames is what the internet's name server knows.
var publicNames = map[string][]netip.Addr{
	PublicName + ".":    {netip.MustParseAddr(InternetWeb4), netip.MustParseAddr(InternetWeb6)},
	"time.example.org.": {netip.MustParseAddr(InternetNTP4)},
	"pool.ntp.org.":     {netip.MustParseAddr(InternetNTP4)},
	// An answer that points into the home network, which the cell must strip.
	RebindingName + ".": {netip.MustParseAddr(RouterLAN4)},
}

// internet opens the public servers: DNS on UDP and TCP, NTP, HTTP and HTTPS.
func internet(dnsLog string) ([]func() error, error) {
	names := &nameServer{log: dnsLog}
	var servers []func() error
	for _, a := range []string{InternetDNS4, InternetDNS6} {
		pc, err := net.ListenPacket("udp", net.JoinHostPort(a, "53"))
		if err != nil {
			return nil, err
		}
		l, err := net.Listen("tcp", net.JoinHostPort(a, "53"))
		if err != nil {
			return nil, err
		}
		servers = append(servers, func() error { return names.udp(pc) }, func() error { return names.tcp(l) })
	}
	clock, err := net.ListenPacket("udp", net.JoinHostPort(InternetNTP4, "123"))
	if err != nil {
		return nil, err
	}
	servers = append(servers, func() error { return ntp(clock) })
	for _, a := range []string{InternetWeb4, InternetWeb6} {
		for _, port := range []string{"80", "443"} {
			l, err := net.Listen("tcp", net.JoinHostPort(a, port))
			if err != nil {
				return nil, err
			}
			servers = append(servers, func() error { return web(l, port == "443") })
		}
	}
	return servers, nil
}

// nameServer answers A and AAAA of [publicNames] and logs every name asked.
type nameServer struct {
	log string
	mu  sync.Mutex
}

func (s *nameServer) udp(pc net.PacketConn) error {
	buf := make([]byte, 4096)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return err
		}
		if answer, err := s.answer(buf[:n]); err == nil {
			_, _ = pc.WriteTo(answer, from) // a client that is gone
		}
	}
}

func (s *nameServer) tcp(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			for {
				_ = c.SetDeadline(time.Now().Add(5 * time.Second))
				var length [2]byte // RFC 1035 §4.2.2
				if _, err := io.ReadFull(c, length[:]); err != nil {
					return
				}
				query := make([]byte, binary.BigEndian.Uint16(length[:]))
				if _, err := io.ReadFull(c, query); err != nil {
					return
				}
				answer, err := s.answer(query)
				if err != nil {
					return
				}
				if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
					return
				}
			}
		}()
	}
}

func (s *nameServer) answer(query []byte) ([]byte, error) {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil {
		return nil, err
	}
	q, err := p.Question()
	if err != nil {
		return nil, err
	}
	if err := s.note(q.Name.String()); err != nil {
		return nil, err
	}
	addrs, known := publicNames[strings.ToLower(q.Name.String())]
	r := dnsmessage.Header{ID: h.ID, Response: true, RecursionDesired: h.RecursionDesired, RecursionAvailable: true}
	if !known {
		r.RCode = dnsmessage.RCodeNameError
	}
	b := dnsmessage.NewBuilder(nil, r)
	b.EnableCompression()
	if err := b.StartQuestions(); err != nil {
		return nil, err
	}
	if err := b.Question(q); err != nil {
		return nil, err
	}
	if err := b.StartAnswers(); err != nil {
		return nil, err
	}
	rh := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 60}
	for _, a := range addrs {
		switch {
		case a.Is4() && q.Type == dnsmessage.TypeA:
			err = b.AResource(rh, dnsmessage.AResource{A: a.As4()})
		case a.Is6() && q.Type == dnsmessage.TypeAAAA:
			err = b.AAAAResource(rh, dnsmessage.AAAAResource{AAAA: a.As16()})
		}
		if err != nil {
			return nil, err
		}
	}
	return b.Finish()
}

func (s *nameServer) note(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := os.OpenFile(s.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = fmt.Fprintln(f, name)
	return err
}

// ntp answers like a stratum 1 server with the machine's own time (RFC 5905 §7.3).
func ntp(pc net.PacketConn) error {
	buf := make([]byte, 512)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return err
		}
		if n < 48 || buf[0]&7 != 3 { // mode 3, client
			continue
		}
		now := ntpTime(time.Now())
		a := make([]byte, 48)
		a[0] = buf[0]&0x38 | 4 // no leap warning, the client's version, mode 4
		a[1], a[2], a[3] = 1, buf[2], 0xec
		copy(a[12:16], "LAB\x00")
		copy(a[24:32], buf[40:48]) // origin is the client's transmit time
		for _, at := range []int{16, 32, 40} {
			binary.BigEndian.PutUint64(a[at:], now)
		}
		_, _ = pc.WriteTo(a, from)
	}
}

// ntpTime is seconds since 1900 in the upper half, their fraction in the lower.
func ntpTime(t time.Time) uint64 {
	const from1900to1970 = 2208988800
	return uint64(t.Unix()+from1900to1970)<<32 | uint64(t.Nanosecond())<<32/1e9
}

// web says who asked and what for.
func web(l net.Listener, secure bool) error {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "the internet says hello to %s, who asked for %s%s\n", r.RemoteAddr, r.Host, r.URL.Path)
	})
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	if !secure {
		return s.Serve(l)
	}
	cert, err := selfSigned(PublicName)
	if err != nil {
		return err
	}
	s.TLSConfig = cert
	return s.ServeTLS(l, "", "")
}

// service is a web application of the home network: it repeats what it was
// sent, streams, and echoes over a WebSocket.
func service(addr string) ([]func() error, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"host": r.Host, "path": r.URL.Path, "headers": r.Header, "remote": r.RemoteAddr})
	})
	mux.HandleFunc("/stream", func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		for i := range 3 {
			fmt.Fprintf(w, "part %d\n", i)
			if c.Flush() != nil {
				return
			}
		}
	})
	mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			return
		}
		defer c.CloseNow()
		for {
			kind, b, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if err := c.Write(r.Context(), kind, b); err != nil {
				return
			}
		}
	})
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	return []func() error{func() error { return s.Serve(l) }}, nil
}
