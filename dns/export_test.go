package dns

import (
	"net/netip"
	"time"

	mdns "github.com/miekg/dns"
)

// Serve answers one message as if it had come in by link from src, without
// sockets; nil is silence.
func (s *Server) Serve(wire []byte, link, src string, tcp bool) (out []byte) {
	from := origin{src: netip.MustParseAddr(src), link: link, tcp: tcp}
	if !tcp {
		if out = s.quick(wire, from, nil); out != nil {
			return out
		}
	}
	later := s.respond(wire, from, func(b []byte) { out = b })
	if later != nil {
		later()
	}
	return out
}

// Quick is the answer of the short way alone; nil is not taken.
func (s *Server) Quick(wire []byte, link, src string) []byte {
	return s.quick(wire, origin{src: netip.MustParseAddr(src), link: link}, nil)
}

// LongWay shuts the short way, before the server is used.
func (s *Server) LongWay() { s.longWay = true }

// PanicOn makes every query for a name panic.
func (s *Server) PanicOn(name string) {
	s.inject = func(asked string) {
		if asked == name {
			panic("injected")
		}
	}
}

// Accept runs the filter on a forwarder's message.
func Accept(m *mdns.Msg, name string, qtype uint16, rebind bool) (answer, ns []mdns.RR, rcode int, ttl uint32) {
	r, ttl := accept(m, key{name: name, qtype: qtype}, rebind)
	return r.answer, r.ns, r.rcode, ttl
}

var (
	ReverseZones = reverseZones
	Private      = private
)

// ResolveTimeout is how long a client waits at most.
const ResolveTimeout = resolveTimeout + time.Second

// Genuine reports whether a server with a secret of its own takes a cookie.
func Genuine(option []byte, src netip.Addr, now time.Time) bool {
	b := &bakery{secret: [32]byte{1}}
	return b.genuine(option, src, now)
}

// Bake is the cookie of the server that [Genuine] asks.
func Bake(client []byte, src netip.Addr, now time.Time) []byte {
	b := &bakery{secret: [32]byte{1}}
	return b.bake(client, src, now)
}

// Wire is what [newWired] makes: nil, or a body with the places of its TTLs.
func Wire(name string, qtype uint16, answer, ns []mdns.RR) (body []byte, ttls []int, ok bool) {
	w := newWired(name, qtype, answer, ns)
	if w == nil {
		return nil, nil, false
	}
	return w.body, w.ttls, true
}

// Answers reports whether m is taken for the answer to q.
func Answers(m, q *mdns.Msg) bool { return answers(m, q, true) }

var (
	ReadFrame   = readFrame
	InfoIndex   = infoIndex
	ReverseName = reverseName
	Parent      = parent
)
