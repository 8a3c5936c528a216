package dns

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"time"
)

// Cookies (RFC 7873) let a client prove over UDP that its address is its own.
// They are never required, only spare a client the rate limit.

const (
	clientCookie = 8 // bytes (RFC 7873 §4)
	serverCookie = 16
	cookieLife   = time.Hour       // RFC 9018 §4.3
	cookieAhead  = 5 * time.Minute // of a clock that was set back
)

// bakery makes and checks cookies with a secret of its own.
type bakery struct{ secret [32]byte }

// bake returns the whole option: the client's cookie and ours, in the layout
// of RFC 9018 §4 with HMAC-SHA-256 for its hash, as one server needs no
// agreement with others.
func (b *bakery) bake(client []byte, src netip.Addr, now time.Time) []byte {
	out := make([]byte, 0, clientCookie+serverCookie)
	out = append(out, client[:clientCookie]...)
	out = append(out, 1, 0, 0, 0) // version, reserved
	out = binary.BigEndian.AppendUint32(out, uint32(now.Unix()))
	h := hmac.New(sha256.New, b.secret[:])
	h.Write(out)
	h.Write(src.AsSlice())
	return append(out, h.Sum(nil)[:8]...)
}

// genuine reports whether the option holds a cookie that this server gave to
// that address within the last hour.
func (b *bakery) genuine(option []byte, src netip.Addr, now time.Time) bool {
	if len(option) != clientCookie+serverCookie {
		return false
	}
	at := time.Unix(int64(binary.BigEndian.Uint32(option[12:])), 0)
	if now.Sub(at) > cookieLife || at.Sub(now) > cookieAhead {
		return false
	}
	return hmac.Equal(option, b.bake(option, src, at))
}

// cookieLength is what RFC 7873 §5.2.2 allows: a client's cookie alone, or
// with a server's of 8 to 32 bytes.
func cookieLength(n int) bool { return n == clientCookie || (n >= 16 && n <= 40) }
