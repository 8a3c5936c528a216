package dns

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/personal-internet-cell/pic/cell"
)

// Dialer opens connections to forwarders; [net.Dialer] is one. Networks are
// "udp" and "tcp", addresses are IP:port.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

const (
	restTime    = 30 * time.Second // a forwarder that failed is asked last for so long
	idleConn    = 8 * time.Second  // RFC 7766 §6.2.3 asks for seconds
	maxMismatch = 8                // wrong answers on one socket before TCP settles it
)

// upstream is one forwarder as reached through one exit.
type upstream struct {
	conf cell.Forwarder
	dial func() (Dialer, error)
	tls  *tls.Config
	web  *http.Client // DoH

	mu       sync.Mutex
	idle     net.Conn // DoT
	idleFrom time.Time
	fails    int
	retryAt  time.Time
	lastErr  string
	closed   bool
}

func newUpstream(c cell.Forwarder, roots *x509.CertPool, dial func() (Dialer, error)) *upstream {
	u := &upstream{conf: c, dial: dial, tls: &tls.Config{ServerName: c.ServerName, MinVersion: tls.VersionTLS12, RootCAs: roots}}
	if c.Protocol == cell.ForwardHTTPS {
		t := &http.Transport{
			// The URL names the server, the address is fixed: resolving the
			// resolver would need a resolver.
			DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return u.connect(ctx, "tcp") },
			TLSClientConfig:        u.tls.Clone(),
			ForceAttemptHTTP2:      true,
			MaxConnsPerHost:        4,
			IdleConnTimeout:        idleConn,
			ResponseHeaderTimeout:  attemptTimeout,
			MaxResponseHeaderBytes: 16 << 10,
			DisableCompression:     true,
		}
		u.web = &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	return u
}

func (u *upstream) close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = true
	if u.idle != nil {
		_ = u.idle.Close()
		u.idle = nil
	}
	if u.web != nil {
		u.web.CloseIdleConnections()
	}
}

func (u *upstream) resting(now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return now.Before(u.retryAt)
}

func (u *upstream) answered() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.fails, u.retryAt, u.lastErr = 0, time.Time{}, ""
}

func (u *upstream) failed(now time.Time, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.fails++
	u.retryAt, u.lastErr = now.Add(restTime), err.Error()
}

func (u *upstream) connect(ctx context.Context, network string) (net.Conn, error) {
	d, err := u.dial()
	if err != nil {
		return nil, err
	}
	return d.DialContext(ctx, network, u.conf.Address.String())
}

// exchange asks one question and returns the message that answers it.
func (u *upstream) exchange(ctx context.Context, k key) (*mdns.Msg, error) {
	q, err := newQuestion(k)
	if err != nil {
		return nil, err
	}
	switch u.conf.Protocol {
	case cell.ForwardTLS:
		return u.overTLS(ctx, q)
	case cell.ForwardHTTPS:
		return u.overHTTPS(ctx, q)
	}
	uctx, cancel := ctx, context.CancelFunc(func() {})
	if k.exit != "" {
		// Half the time is for TCP: the exit may swallow UDP.
		uctx, cancel = context.WithTimeout(ctx, exitTimeout/2)
	}
	m, err := u.overUDP(uctx, q)
	cancel()
	if err == nil && !m.Truncated {
		return m, nil
	}
	if err != nil && !errors.Is(err, errTryTCP) && k.exit == "" {
		return nil, err // an exit may carry TCP only
	}
	return u.overTCP(ctx, q)
}

// newQuestion draws an id and a spelling at random: together with the source
// port an answer from off the path has to guess them all (RFC 5452 §9.2,
// draft-vixie-dnsext-dns0x20).
func newQuestion(k key) (*mdns.Msg, error) {
	var seed [34]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return nil, fmt.Errorf("drawing a random id: %w", err)
	}
	name := []byte(k.name)
	for i, c := range name {
		// A letter after a backslash can't be: escapes are digits there or
		// the character itself.
		if c >= 'a' && c <= 'z' && seed[2+i/8%32]>>(i%8)&1 == 1 {
			name[i] = c - 'a' + 'A'
		}
	}
	m := &mdns.Msg{
		MsgHdr:   mdns.MsgHdr{Id: binary.BigEndian.Uint16(seed[:]), RecursionDesired: true, CheckingDisabled: k.cd},
		Question: []mdns.Question{{Name: string(name), Qtype: k.qtype, Qclass: mdns.ClassINET}},
	}
	m.SetEdns0(maxUDP, k.do) // and no client subnet: nobody's business
	return m, nil
}

// answers reports whether m answers q: same id, same question down to the
// case of its letters where exact.
func answers(m, q *mdns.Msg, exact bool) bool {
	if !m.Response || m.Id != q.Id || m.Opcode != mdns.OpcodeQuery || len(m.Question) != 1 {
		return false
	}
	a, b := m.Question[0], q.Question[0]
	if a.Qtype != b.Qtype || a.Qclass != b.Qclass {
		return false
	}
	if exact {
		return a.Name == b.Name
	}
	return mdns.CanonicalName(a.Name) == mdns.CanonicalName(b.Name)
}

// errTryTCP says that UDP can't tell the answer from a forged one.
var errTryTCP = errors.New("answers don't match the question")

func (u *upstream) overUDP(ctx context.Context, q *mdns.Msg) (*mdns.Msg, error) {
	wire, err := q.Pack()
	if err != nil {
		return nil, fmt.Errorf("packing the question: %w", err)
	}
	c, err := u.connect(ctx, "udp") // connected: the kernel drops other sources
	if err != nil {
		return nil, fmt.Errorf("reaching %s: %w", u.conf.Address, err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := c.Write(wire); err != nil {
		return nil, fmt.Errorf("asking %s: %w", u.conf.Address, err)
	}
	buf := make([]byte, maxQuery)
	for range maxMismatch {
		n, err := c.Read(buf)
		if err != nil {
			return nil, fmt.Errorf("waiting for %s: %w", u.conf.Address, err)
		}
		m := new(mdns.Msg)
		if m.Unpack(buf[:n]) == nil && answers(m, q, true) {
			return m, nil
		}
		if m.Response && m.Id == q.Id && answers(m, q, false) {
			return nil, errTryTCP // an old server that changes the case, or a guess
		}
	}
	return nil, errTryTCP
}

func (u *upstream) overTCP(ctx context.Context, q *mdns.Msg) (*mdns.Msg, error) {
	c, err := u.connect(ctx, "tcp")
	if err != nil {
		return nil, fmt.Errorf("reaching %s: %w", u.conf.Address, err)
	}
	defer c.Close()
	return u.overStream(ctx, c, q)
}

func (u *upstream) overTLS(ctx context.Context, q *mdns.Msg) (*mdns.Msg, error) {
	if c := u.takeIdle(); c != nil {
		if m, err := u.overStream(ctx, c, q); err == nil {
			u.giveIdle(c)
			return m, nil
		}
		_ = c.Close() // the server may have closed it meanwhile: once more on a new one
	}
	raw, err := u.connect(ctx, "tcp")
	if err != nil {
		return nil, fmt.Errorf("reaching %s: %w", u.conf.Address, err)
	}
	c := tls.Client(raw, u.tls)
	if err := c.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("verifying %s at %s: %w", u.conf.ServerName, u.conf.Address, err)
	}
	m, err := u.overStream(ctx, c, q)
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	u.giveIdle(c)
	return m, nil
}

func (u *upstream) takeIdle() net.Conn {
	u.mu.Lock()
	defer u.mu.Unlock()
	c := u.idle
	u.idle = nil
	if c != nil && time.Since(u.idleFrom) > idleConn {
		_ = c.Close()
		return nil
	}
	return c
}

func (u *upstream) giveIdle(c net.Conn) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed || u.idle != nil {
		_ = c.Close()
		return
	}
	u.idle, u.idleFrom = c, time.Now()
}

// overStream asks over TCP or TLS (RFC 1035 §4.2.2, RFC 7858 §3.3).
func (u *upstream) overStream(ctx context.Context, c net.Conn, q *mdns.Msg) (*mdns.Msg, error) {
	wire, err := q.Pack()
	if err != nil {
		return nil, fmt.Errorf("packing the question: %w", err)
	}
	_ = c.SetDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	// One write: some servers take the length alone for the whole (RFC 7766 §8).
	if _, err := c.Write(frame(wire)); err != nil {
		return nil, fmt.Errorf("asking %s: %w", u.conf.Address, err)
	}
	b, err := readFrame(c)
	if err != nil {
		return nil, fmt.Errorf("waiting for %s: %w", u.conf.Address, err)
	}
	return u.unpack(b, q)
}

func readFrame(r io.Reader) ([]byte, error) {
	var n [2]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(n[:]))
	_, err := io.ReadFull(r, b)
	return b, err
}

func (u *upstream) unpack(b []byte, q *mdns.Msg) (*mdns.Msg, error) {
	m := new(mdns.Msg)
	if err := m.Unpack(b); err != nil {
		return nil, fmt.Errorf("reading the answer of %s: %w", u.conf.Address, err)
	}
	if !answers(m, q, false) {
		return nil, fmt.Errorf("reading the answer of %s: it answers another question", u.conf.Address)
	}
	if m.Truncated {
		return nil, fmt.Errorf("reading the answer of %s: truncated although nothing limits it", u.conf.Address)
	}
	return m, nil
}

// overHTTPS asks by POST (RFC 8484 §4.1).
func (u *upstream) overHTTPS(ctx context.Context, q *mdns.Msg) (*mdns.Msg, error) {
	q.Id = 0 // RFC 8484 §4.1, for caches on the way
	wire, err := q.Pack()
	if err != nil {
		return nil, fmt.Errorf("packing the question: %w", err)
	}
	url := "https://" + u.conf.ServerName + u.conf.Path
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(wire))
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", url, err)
	}
	req.Header.Set("Content-Type", "application/dns-message")
	req.Header.Set("Accept", "application/dns-message")
	res, err := u.web.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", url, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "application/dns-message" {
		return nil, fmt.Errorf("asking %s: status %d, type %q", url, res.StatusCode, res.Header.Get("Content-Type"))
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, mdns.MaxMsgSize))
	if err != nil {
		return nil, fmt.Errorf("reading the answer of %s: %w", url, err)
	}
	return u.unpack(b, q)
}
