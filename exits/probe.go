package exits

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"
)

const (
	testTimeout = 15 * time.Second
	maxEcho     = 4096 // bytes of an answer that are read
	// testName is looked up to see whether names are found through an exit
	// (RFC 2606 §3: reserved, and in everybody's cache).
	testName = "example.com"
)

// DefaultEcho are services that say which address they see. The first two need
// no name looked up.
func DefaultEcho() []string {
	return []string{"https://1.1.1.1/cdn-cgi/trace", "https://[2606:4700:4700::1111]/cdn-cgi/trace", "https://icanhazip.com/"}
}

// TestResult is what was seen through an exit.
type TestResult struct {
	// Error is why nothing was seen; "" for success.
	Error                          string
	Latency                        time.Duration
	PublicAddress4, PublicAddress6 netip.Addr
	// DNS says whether names are found through it; DNSError why not.
	DNS      bool
	DNSError string
}

// Test looks through an exit now: connects to a probe, asks an echo service
// for the public address, and looks a name up. It checks the exit's state
// again, too. The error is for an exit that is not there.
func (c *Controller) Test(ctx context.Context, id string) (TestResult, error) {
	c.mu.Lock()
	w := c.workers[id]
	c.mu.Unlock()
	if w == nil {
		return TestResult{}, fmt.Errorf("testing exit %q: there is none of that name", id)
	}
	ctx, cancel := context.WithTimeout(ctx, testTimeout)
	defer cancel()
	var out TestResult
	e := w.exit.Load()
	w.mu.Lock()
	ready := w.dialer != nil
	reason := w.health.reason
	w.mu.Unlock()
	if !ready {
		if reason == "" {
			reason = "the exit is switched off"
		}
		out.Error, out.DNSError = reason, reason
		return out, nil
	}
	defer w.lookNow()
	latency, err := w.examine(ctx)
	if err != nil {
		out.Error = err.Error()
	}
	out.Latency = latency
	if err == nil {
		out.PublicAddress4, out.PublicAddress6 = w.see(ctx)
	}
	switch {
	case c.conf.Lookup == nil:
		out.DNSError = "names are not looked up"
	default:
		if _, err := c.conf.Lookup(ctx, e.ID, testName); err != nil {
			out.DNSError = err.Error()
		} else {
			out.DNS = true
		}
	}
	return out, nil
}

// see asks the echo services for the public addresses and keeps them.
func (w *worker) see(ctx context.Context) (v4, v6 netip.Addr) {
	for _, service := range w.c.conf.Echo {
		if v4.IsValid() && v6.IsValid() {
			break
		}
		a, err := w.echo(ctx, service)
		if err != nil {
			w.c.log.Debug("asking for the public address", "exit", w.exit.Load().ID, "service", service, "error", err)
			continue
		}
		if a.Is4() && !v4.IsValid() {
			v4 = a
		} else if a.Is6() && !v6.IsValid() {
			v6 = a
		}
	}
	if v4.IsValid() || v6.IsValid() {
		w.mu.Lock()
		w.public.v4, w.public.v6 = v4, v6
		w.mu.Unlock()
	}
	return v4, v6
}

// echo asks one service through the exit.
func (w *worker) echo(ctx context.Context, service string) (netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, testTimeout/3)
	defer cancel()
	client := http.Client{
		Transport: &http.Transport{
			DialContext:            w.dialEcho,
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: 16 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, service, nil)
	if err != nil {
		return netip.Addr{}, err
	}
	res, err := client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return netip.Addr{}, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxEcho))
	if err != nil {
		return netip.Addr{}, err
	}
	return ParseEcho(b)
}

// dialEcho connects by an address: the machine's own resolver is not asked. A
// dialed exit's server finds names itself; for a routed one they are looked up
// through it.
func (w *worker) dialEcho(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddr(host); err != nil && w.upstream == nil {
		if w.c.conf.Lookup == nil {
			return nil, fmt.Errorf("looking up %s: nobody to ask", host)
		}
		found, err := w.c.conf.Lookup(ctx, w.exit.Load().ID, host)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			return nil, fmt.Errorf("looking up %s: it has no address", host)
		}
		host = found[0].String()
	}
	return w.dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, port))
}

// ParseEcho finds the address in the answer of an echo service: the answer is
// the address, or has a line ip=… .
func ParseEcho(b []byte) (netip.Addr, error) {
	for _, line := range bytes.Split(b, []byte("\n")) {
		line = bytes.TrimSpace(bytes.TrimPrefix(bytes.TrimSpace(line), []byte("ip=")))
		if a, err := netip.ParseAddr(string(line)); err == nil && a.Zone() == "" {
			return a.Unmap(), nil
		}
	}
	return netip.Addr{}, errors.New("the answer names no address")
}
