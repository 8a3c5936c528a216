package ntp

import (
	"encoding/binary"
	"net/netip"
	"time"
)

const (
	packetSize = 48 // the header of RFC 5905 §7.3; ours never has more
	modeClient = 3
	modeServer = 4
	// eraOffset is 1970 in seconds of NTP's era 0 (RFC 5905 §6); adding it in
	// 32 bits wraps into the right era of its own.
	eraOffset = 2208988800
	// precision is what reading the clock takes, about 2^-23 s.
	precision = -23
)

// request is what of a client's packet matters.
type request struct {
	version  uint8
	poll     uint8
	transmit [8]byte
}

// parse reads a packet. It reports false for everything that must meet
// silence: control and private messages (modes 6 and 7, the amplifiers),
// other servers' answers, versions that don't exist, short packets.
func parse(b []byte) (request, bool) {
	if len(b) < packetSize {
		return request{}, false
	}
	r := request{version: b[0] >> 3 & 7, poll: b[2], transmit: [8]byte(b[40:48])}
	return r, b[0]&7 == modeClient && r.version >= 1 && r.version <= 4
}

// answer is the server's packet (RFC 5905 §7.3, figure 30). Extension fields
// and MACs of the request are passed over: the answer has neither.
func answer(r request, c Reading, received, now time.Time) [packetSize]byte {
	var b [packetSize]byte
	if now.Before(received) { // the clock was stepped back in between
		now = received
	}
	b[0] = c.Leap<<6 | r.version<<3 | modeServer
	b[1] = c.Stratum
	b[2] = r.poll
	b[3] = byte(precision & 0xff)
	binary.BigEndian.PutUint32(b[4:], short(c.RootDelay))
	dispersion := c.RootDispersion
	if c.Synchronised() && !c.Updated.IsZero() { // RFC 5905 §7.3: it grows since the last update
		dispersion += time.Duration(float64(max(now.Sub(c.Updated), 0)) * phi)
	}
	binary.BigEndian.PutUint32(b[8:], short(min(dispersion, maxDispersion)))
	copy(b[12:16], c.Reference[:])
	if c.Synchronised() {
		binary.BigEndian.PutUint64(b[16:], timestamp(c.Updated))
	}
	copy(b[24:32], r.transmit[:])
	binary.BigEndian.PutUint64(b[32:], timestamp(received))
	binary.BigEndian.PutUint64(b[40:], timestamp(now))
	return b
}

// kissRate asks the client to send less (RFC 5905 §7.4). It tells no time.
func kissRate(r request) [packetSize]byte {
	var b [packetSize]byte
	b[0] = leapUnknown<<6 | r.version<<3 | modeServer
	b[2] = max(r.poll, 6) // log2 of seconds: a minute
	b[3] = byte(precision & 0xff)
	copy(b[12:16], "RATE")
	copy(b[24:32], r.transmit[:])
	// Receive and transmit as the client's own, so that nothing can be
	// computed from them (as ntpd does).
	copy(b[32:40], r.transmit[:])
	copy(b[40:48], r.transmit[:])
	return b
}

// timestamp is the 64-bit format of RFC 5905 §6.
func timestamp(t time.Time) uint64 {
	return uint64(uint32(t.Unix()+eraOffset))<<32 | uint64(t.Nanosecond())<<32/uint64(time.Second)
}

// short is the 32-bit format of RFC 5905 §6: seconds in 16.16, rounded up,
// because it bounds an error.
func short(d time.Duration) uint32 {
	if d <= 0 {
		return 0
	}
	return uint32(min((uint64(d)<<16+uint64(time.Second)-1)/uint64(time.Second), 0xffffffff))
}

// client reports whether a source is to be answered.
func (p *Sources) client(a netip.Addr) bool {
	for _, c := range p.Clients {
		if c.Contains(a) {
			return true
		}
	}
	return false
}
