package dns

import (
	"net/netip"
	"time"

	mdns "github.com/miekg/dns"
)

// Serve answers one message as if it had come in by link from src, without
// sockets; nil is silence.
func (s *Server) Serve(wire []byte, link, src string, tcp bool) (out []byte) {
	later := s.respond(wire, origin{src: netip.MustParseAddr(src), link: link, tcp: tcp}, func(b []byte) { out = b })
	if later != nil {
		later()
	}
	return out
}

// PanicOn makes every query for a name panic.
func (s *Server) PanicOn(name string) {
	s.inject = func(q *query) {
		if q.lower == name {
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
