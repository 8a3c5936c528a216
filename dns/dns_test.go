package dns_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/dns"
	"github.com/personal-internet-cell/pic/internal/lifecycle"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

func TestMain(m *testing.M) {
	netnstest.Main(m, netnstest.Helpers{"cell": cellHelper, "upstream": upstreamHelper, "spoof": spoofHelper, "sink": sinkHelper})
}

var _ lifecycle.Task = (*dns.Server)(nil)

var quiet = slog.New(slog.DiscardHandler)

func key(n byte) cell.Key {
	var b [32]byte
	b[0], b[31] = n, 1
	return cell.Key(base64.StdEncoding.EncodeToString(b[:]))
}

// household is a claimed cell with a LAN, two peers, services of every access
// and records of every view.
func household(t testing.TB) (*cell.State, cell.Facts) {
	t.Helper()
	s := cell.Factory([16]byte{1, 2, 3, 4, 5, 6}, "tunnel", key(1))
	s.Identity = cell.Identity{Name: "home", Mode: cell.ModePicNgo}
	s.Users = append(s.Users, cell.User{Name: "admin", Role: cell.RoleAdmin, PasswordHash: "pw"})
	s.Network.LAN = []cell.LAN{{
		Name: "wired", Interface: "lan0",
		Prefixes:  []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24"), netip.MustParsePrefix("fd77::/64")},
		Addresses: []netip.Addr{netip.MustParseAddr("192.168.7.1"), netip.MustParseAddr("fd77::1")},
	}}
	for _, x := range []struct {
		id     string
		access cell.Access
	}{{"files", cell.AccessGranted}, {"wiki", cell.AccessPeers}, {"media", cell.AccessLAN}, {"blog", cell.AccessInternet}, {"vault", cell.AccessAdmin}} {
		s.Services = append(s.Services, cell.Service{ID: x.id, Subdomain: x.id, Access: x.access, Enabled: true, Upstream: "http://172.20.1.2:80"})
	}
	s.Services[0].Bridge, s.Services[0].Egress = "br-files", "nl"
	s.Services[0].Prefix4, s.Services[0].Prefix6 = netip.MustParsePrefix("172.20.1.0/24"), netip.MustParsePrefix("fdaa:1::/64")
	s.Services[1].Bridge, s.Services[1].Prefix4 = "br-wiki", netip.MustParsePrefix("172.20.2.0/24")
	s.Services = append(s.Services, cell.Service{ID: "off", Bridge: "br-off", Prefix4: netip.MustParsePrefix("172.20.3.0/24"), Subdomain: "off", Access: cell.AccessPeers})
	s.Exits = append(s.Exits, cell.Exit{ID: "nl", Type: cell.ExitWireGuard, Enabled: true})
	for i, name := range []string{"laptop", "phone", "tor", "gone"} {
		v4, v6, err := s.FreeAddresses()
		if err != nil {
			t.Fatal(err)
		}
		s.Peers = append(s.Peers, cell.Peer{
			Name: name, PublicKey: key(byte(10 + i)), Address4: v4, Address6: v6, Enabled: name != "gone",
			Destinations: cell.FullTunnel, Trust: cell.TrustOwner,
		})
	}
	s.Peers[0].Services = []string{"files", "media", "vault"}
	s.Peers[2].Exit = "nl"
	s.DNS = cell.DNS{Public: true, Records: []cell.Record{
		{Name: "@", Type: "TXT", Value: `"v=spf1 -all"`, Views: []cell.View{cell.ViewInternet}},
		{Name: "nas", Type: "A", Value: "192.168.7.20"},
		{Name: "www", Type: "CNAME", Value: "nas"},
		{Name: "out", Type: "CNAME", Value: "example.org."},
		{Name: "*.apps", Type: "A", Value: "192.168.7.21", TTL: 60, Views: []cell.View{cell.ViewPeer}},
		{Name: "deep.empty", Type: "TXT", Value: "x"},
		{Name: "loop", Type: "CNAME", Value: "loop"},
		{Name: "mail", Type: "MX", Value: "10 nas"},
	}}
	for i := range 60 {
		s.DNS.Records = append(s.DNS.Records, cell.Record{Name: "big", Type: "TXT", Value: fmt.Sprintf(`"%060d"`, i)})
	}
	s.Normalize()
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	f := cell.Facts{
		Host: cell.Host{DNSPort: 53}, Uplink: cell.Uplink{Name: "up0", Addresses: []netip.Prefix{netip.MustParsePrefix("203.0.113.7/24"), netip.MustParsePrefix("fe80::7/64")}},
		PublicAddress4: netip.MustParseAddr("203.0.113.7"), Resolvers: []netip.AddrPort{netip.MustParseAddrPort("203.0.113.1:53")},
		Exits: map[string]cell.ExitFact{"nl": {State: cell.ExitUp, V6: true, DNS: []netip.AddrPort{exitResolver}}},
	}
	return s, f
}

// exitResolver is behind the household's exit.
var exitResolver = netip.MustParseAddrPort("10.64.0.1:53")

func compile(t testing.TB, s *cell.State, f cell.Facts) dns.Views {
	t.Helper()
	v, err := dns.Compile(s, f)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// start runs a server on a plan until the test ends.
func start(t testing.TB, c *dns.Config, v dns.Views) *dns.Server {
	t.Helper()
	if c.Logger == nil {
		c.Logger = quiet
	}
	s := dns.New(c)
	startServer(t, s, v)
	return s
}

func startServer(t testing.TB, s *dns.Server, v dns.Views) {
	t.Helper()
	if _, err := s.Apply(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	runServer(t, s)
}

// runServer runs s; stop ends it, at the latest with the test.
func runServer(t testing.TB, s *dns.Server) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Error("the server does not stop")
		}
	})
	t.Cleanup(stop)
	return stop
}

// inMemory is a server without sockets on the household's plan.
func inMemory(t testing.TB, edit func(*cell.State)) *dns.Server {
	st, f := household(t)
	if edit != nil {
		edit(st)
	}
	v := compile(t, st, f)
	v.Listen = nil
	return start(t, &dns.Config{Direct: noNetwork{t}}, v)
}

// noNetwork fails the test when a forwarder is asked.
type noNetwork struct{ t testing.TB }

func (n noNetwork) DialContext(_ context.Context, network, address string) (net.Conn, error) {
	n.t.Errorf("a forwarder was asked: %s %s", network, address)
	return nil, os.ErrPermission
}

const laptop, phone, torPeer, lanHost = "10.17.0.2", "10.17.0.3", "10.17.0.4", "192.168.7.9"

func question(name string, qtype uint16) *mdns.Msg {
	m := new(mdns.Msg)
	m.Id = 4711
	m.RecursionDesired = true
	m.Question = []mdns.Question{{Name: mdns.Fqdn(name), Qtype: qtype, Qclass: mdns.ClassINET}}
	return m
}

// ask sends a message through the server and reads the answer; nil is silence.
func ask(t testing.TB, s *dns.Server, m *mdns.Msg, link, src string, tcp bool) *mdns.Msg {
	t.Helper()
	wire, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return askWire(t, s, wire, link, src, tcp)
}

func askWire(t testing.TB, s *dns.Server, wire []byte, link, src string, tcp bool) *mdns.Msg {
	t.Helper()
	out := s.Serve(wire, link, src, tcp)
	if out == nil {
		return nil
	}
	r := new(mdns.Msg)
	if err := r.Unpack(out); err != nil {
		t.Fatalf("the answer can't be read: %v", err)
	}
	return r
}
