// Package labtest builds a household around the real binary: an internet with
// DNS, time and web servers, a home router, a LAN with a computer and a
// service, a cell, and two peers somewhere out there.
//
// It owns a set of network and mount namespaces, the processes in them, and a
// temporary folder, and removes all of them at the end. It must never touch
// the namespace it was started in, the machine's clock or its files: the cell
// runs without the right to set the clock, and every host has an /etc and a
// /run of its own.
//
//	phone ──┐                                    ┌── lan      (computer, Chromium)
//	laptop ─┤ internet 198.51.100.0/24 ── router ┤ 192.168.50.0/24
//	        │ 2001:db8:100::/64                  │ 2001:db8:50::/64
//	        └ DNS, NTP, web, canaries            ├── cell
//	                                             └── service  (HTTP, WebSocket)
package labtest

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// Addresses of the household. The internet's are documentation prefixes (RFC
// 5737, RFC 3849), so that nothing outside could be meant by them.
const (
	InternetDNS4  = "203.0.113.53"
	InternetDNS6  = "2001:db8:cafe::53"
	InternetNTP4  = "203.0.113.123"
	InternetWeb4  = "203.0.113.80"
	InternetWeb6  = "2001:db8:cafe::80"
	Canary4       = "203.0.113.200" // counted by [Lab.SinkCount], answers nothing
	Canary6       = "2001:db8:dead::1"
	PublicName    = "www.example.org" // resolves to InternetWeb4 and InternetWeb6
	RebindingName = "rebind.example.org"

	InternetGateway4 = "198.51.100.1"
	RouterPublic4    = "198.51.100.2"
	RouterPublic6    = "2001:db8:100::2"
	PhoneAddress4    = "198.51.100.10"
	LaptopAddress4   = "198.51.100.11"

	RouterLAN4     = "192.168.50.1"
	CellAddress4   = "192.168.50.2"
	CellAddress6   = "2001:db8:50::2"
	LANAddress4    = "192.168.50.10"
	ServiceAddress = "192.168.50.20"
	ServicePort    = "8080"
)

// Options of a household.
type Options struct {
	// Binary is the cell's program; it is only needed for [Cell.Start].
	Binary string
	// UI is the folder with the admin UI's package.json and node_modules,
	// where playwright-core is found; only needed for [Host.Chromium].
	UI string
}

// Lab is a household. Its parts stop when the test ends.
type Lab struct {
	Internet, Router, LAN, Phone, Laptop, Service *Host
	Cell                                          *Cell

	t    testing.TB
	o    Options
	dir  string
	logs string
}

// New builds the household: networks, servers, and the cell's namespace with
// no cell running in it yet.
func New(t testing.TB, o Options) *Lab {
	t.Helper()
	netnstest.Root(t)
	netnstest.Need(t, "nsenter", "setpriv", "nft")
	dir, err := os.MkdirTemp("", "piclab")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l := &Lab{t: t, o: o, dir: dir, logs: filepath.Join(dir, "logs")}
	if err := os.MkdirAll(l.logs, 0o755); err != nil {
		t.Fatal(err)
	}
	host := func(name string, resolvers ...string) *Host {
		return newHost(t, filepath.Join(dir, name), name, resolvers)
	}
	l.Internet = host("internet", InternetDNS4)
	l.Router = host("router", InternetDNS4)
	l.LAN = host("lan", InternetDNS4)
	l.Phone = host("phone", InternetDNS4)
	l.Laptop = host("laptop", InternetDNS4)
	l.Service = host("service", InternetDNS4)
	l.Cell = &Cell{Host: host("cell", InternetDNS4, InternetDNS6), lab: l}
	l.wire()
	l.Internet.serve("internet", l.dnsLog())
	l.Service.serve("service", net4(ServiceAddress, ServicePort))
	return l
}

func net4(addr, port string) string { return addr + ":" + port }

// wire connects the hosts. Both segments are bridges, so that a host more is
// one cable more.
func (l *Lab) wire() {
	l.t.Helper()
	in, ro := l.Internet, l.Router
	in.bridge("br0", InternetGateway4+"/24", "2001:db8:100::1/64")
	ro.bridge("br0", RouterLAN4+"/24", "2001:db8:50::1/64")
	in.port("br0", ro, "wan", RouterPublic4+"/24", RouterPublic6+"/64")
	in.port("br0", l.Phone, "eth0", PhoneAddress4+"/24", "2001:db8:100::10/64")
	in.port("br0", l.Laptop, "eth0", LaptopAddress4+"/24", "2001:db8:100::11/64")
	ro.port("br0", l.LAN, "eth0", LANAddress4+"/24", "2001:db8:50::10/64")
	ro.port("br0", l.Service, "eth0", ServiceAddress+"/24", "2001:db8:50::20/64")
	ro.port("br0", l.Cell.Host, "eth0", CellAddress4+"/24", CellAddress6+"/64")

	for _, h := range []*Host{ro, l.Phone, l.Laptop} {
		h.defaultRoute(InternetGateway4, "2001:db8:100::1")
	}
	for _, h := range []*Host{l.LAN, l.Service, l.Cell.Host} {
		h.defaultRoute(RouterLAN4, "2001:db8:50::1")
	}
	for _, a := range []string{InternetDNS4, InternetNTP4, InternetWeb4, Canary4} {
		in.Exec("ip", "addr", "add", a+"/32", "dev", "lo")
	}
	for _, a := range []string{InternetDNS6, InternetWeb6, Canary6} {
		in.Exec("ip", "addr", "add", a+"/128", "dev", "lo", "nodad")
	}
	in.Exec("ip", "-6", "route", "add", "2001:db8:50::/64", "via", RouterPublic6)
	for _, h := range []*Host{in, ro} {
		h.ns.Sysctl("net.ipv4.ip_forward", "1")
		h.ns.Sysctl("net.ipv6.conf.all.forwarding", "1")
	}
	// The home router as people have it: masquerading IPv4, WireGuard's port
	// forwarded to the cell, no unsolicited IPv6 but to that port.
	ro.nft(`
table ip nat {
	chain prerouting {
		type nat hook prerouting priority dstnat
		iifname wan udp dport 51820 dnat to ` + CellAddress4 + `
	}
	chain postrouting {
		type nat hook postrouting priority srcnat
		oifname wan masquerade
	}
}
table inet filter {
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state established,related accept
		iifname br0 accept
		udp dport 51820 accept
	}
}`)
	// The sink: canaries are swallowed, and counted before anything else.
	in.nft(`
table inet sink {
	counter canary {}
	chain prerouting {
		type filter hook prerouting priority raw
		ip daddr ` + Canary4 + ` counter name canary drop
		ip6 daddr ` + Canary6 + ` counter name canary drop
	}
}`)
}

// SinkCount is how many packets for [Canary4] and [Canary6] have arrived in
// the internet so far. A test of a leak first sees it rise once.
func (l *Lab) SinkCount() int {
	l.t.Helper()
	return l.Internet.counter("inet", "sink", "canary")
}

// DNSNames lists the names the internet's name server has been asked so far,
// with trailing dots, in order.
func (l *Lab) DNSNames() []string {
	l.t.Helper()
	b, err := os.ReadFile(l.dnsLog())
	if err != nil && !os.IsNotExist(err) {
		l.t.Fatal(err)
	}
	return strings.Fields(string(b))
}

func (l *Lab) dnsLog() string { return filepath.Join(l.logs, "dns-names") }

// Dir is the household's own folder; it is removed at the end.
func (l *Lab) Dir() string { return l.dir }

// Hosts lists every host of the household, the cell's included.
func (l *Lab) Hosts() []*Host {
	return []*Host{l.Internet, l.Router, l.LAN, l.Service, l.Phone, l.Laptop, l.Cell.Host}
}

// mustPrefix checks the constants above at the first use.
func mustPrefix(s string) string { return netip.MustParsePrefix(s).String() }
