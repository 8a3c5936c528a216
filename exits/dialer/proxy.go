package dialer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/personal-internet-cell/pic/cell"
)

// ProxyConfig describes somebody's proxy.
type ProxyConfig struct {
	Protocol cell.ProxyProtocol
	Host     string
	Port     uint16
	Username string // "" means no credentials
	Password cell.Secret
	Base     Dialer         // connects to the proxy; nil means &Direct{}
	Roots    *x509.CertPool // who may vouch for an HTTPS proxy; nil means the system's
	Timeout  time.Duration  // of a dial in all; 0 means 15 s
	Log      *slog.Logger   // nil means none
}

// Proxy dials through a SOCKS5 or HTTP proxy; each connection has a carrier of
// its own.
type Proxy struct {
	cfg     ProxyConfig
	addr    string
	tls     *tls.Config  // set for https
	udp     *atomic.Bool // the proxy relays UDP, as last seen
	buffers *pool
}

var _ Dialer = (*Proxy)(nil)

// NewProxy returns a dialer; nothing is connected yet. It copies cfg.
func NewProxy(cfg *ProxyConfig) *Proxy {
	p := &Proxy{
		cfg:     *cfg,
		addr:    net.JoinHostPort(cfg.Host, strconv.Itoa(int(cfg.Port))),
		udp:     new(atomic.Bool),
		buffers: new(pool),
	}
	if p.cfg.Base == nil {
		p.cfg.Base = &Direct{}
	}
	if p.cfg.Timeout == 0 {
		p.cfg.Timeout = handshakeTimeout
	}
	if p.cfg.Log == nil {
		p.cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Protocol == cell.ProxyHTTPS {
		p.tls = &tls.Config{
			ServerName: cfg.Host, RootCAs: cfg.Roots,
			MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
			ClientSessionCache: tls.NewLRUClientSessionCache(8), // of one proxy
		}
	}
	return p
}

// With returns the same proxy with other credentials: a tor keeps streams of
// different user names on different circuits (IsolateSOCKSAuth).
func (p *Proxy) With(username string, password cell.Secret) *Proxy {
	q := *p
	q.cfg.Username, q.cfg.Password = username, password
	return &q
}

// DialContext connects through the proxy. TCP connections of a SOCKS5 or HTTP
// proxy are the carrier itself, so they can be spliced; what an HTTP proxy
// sent along with its answer is left on a connection that has
// Unread() (head []byte, rest net.Conn). UDP needs a SOCKS5 proxy that relays
// it, and preserves datagrams; such a connection ends with its association.
func (p *Proxy) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	t, err := parseTarget(address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	switch network {
	case "tcp", "tcp4", "tcp6":
		return p.connect(ctx, t)
	case "udp", "udp4", "udp6":
		return p.associate(ctx, t)
	}
	return nil, fmt.Errorf("%w: a proxy carries no %s", ErrRefused, clip(network))
}

func (p *Proxy) connect(ctx context.Context, t target) (net.Conn, error) {
	c, err := p.carrier(ctx)
	if err != nil {
		return nil, err
	}
	out := c
	err = within(ctx, c, func() error {
		if p.cfg.Protocol == cell.ProxySOCKS5 {
			_, err := p.socks(c, cmdConnect, t)
			return err
		}
		head, err := p.httpConnect(c, t)
		if len(head) > 0 {
			out = &headed{Conn: c, head: head}
		}
		return err
	})
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return out, nil
}

// carrier connects to the proxy, inside TLS where it is one for HTTPS.
func (p *Proxy) carrier(ctx context.Context) (net.Conn, error) {
	c, err := p.cfg.Base.DialContext(ctx, "tcp", p.addr)
	if err != nil {
		if !errors.Is(err, ErrUpstream) {
			err = upstream("connecting to the proxy", err)
		}
		return nil, err
	}
	if p.tls == nil {
		return c, nil
	}
	tc := tls.Client(c, p.tls)
	if err := tc.HandshakeContext(ctx); err != nil {
		_ = c.Close()
		return nil, upstream("starting TLS with the proxy", err)
	}
	return tc, nil
}

// Check reports whether the proxy is there and lets us in, without a third
// party: a SOCKS5 proxy is asked for a UDP association, which also tells what
// UDP reports, an HTTP proxy for a connection to itself, which it may refuse.
func (p *Proxy) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	if p.cfg.Protocol != cell.ProxySOCKS5 {
		t, err := parseTarget(p.addr)
		if err != nil {
			return err
		}
		c, err := p.connect(ctx, t)
		if err == nil {
			return c.Close()
		}
		if errors.Is(err, ErrRefused) {
			return nil
		}
		return err
	}
	c, _, err := p.askUDP(ctx)
	if err == nil {
		_ = c.Close()
	}
	if errors.Is(err, ErrRefused) {
		return nil
	}
	return err
}

// UDP reports whether the proxy relays UDP, as the last Check or UDP dial
// found; false before.
func (p *Proxy) UDP() bool { return p.udp.Load() }

// Run returns when ctx ends: a proxy has no connection to keep.
func (p *Proxy) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Ready is closed from the start.
func (p *Proxy) Ready() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

func (p *Proxy) String() string { return "proxy " + p.addr }
