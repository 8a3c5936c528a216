package ntp

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Respond answers one packet without sockets; nil is silence.
func (s *Server) Respond(b []byte, src string) []byte {
	out, ok := s.respond(b, netip.MustParseAddrPort(src), time.Now())
	if !ok {
		return nil
	}
	return out[:]
}

// PanicOn makes every packet of that length panic.
func (s *Server) PanicOn(length int) {
	s.inject = func(b []byte) {
		if len(b) == length {
			panic("injected")
		}
	}
}

// KernelReading is what is made of an answer of adjtimex(2).
func KernelReading(tx unix.Timex, code int) Reading { return kernelReading(&tx, code) }

var (
	Disciplining = disciplining
	Timestamp    = timestamp
)
