package relay_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/exits/relay"
)

// FuzzOrigin: control messages of any form are read or refused.
func FuzzOrigin(f *testing.F) {
	message := func(level, kind uint32, data string) []byte {
		b := binary.NativeEndian.AppendUint64(nil, uint64(16+len(data)))
		b = binary.NativeEndian.AppendUint32(b, level)
		b = binary.NativeEndian.AppendUint32(b, kind)
		return append(b, data...)
	}
	f.Add(message(0, 20, "\x02\x00\x00\x35\xc0\x00\x02\x01"))
	f.Add(message(41, 74, "\x0a\x00\x00\x35\x00\x00\x00\x00aaaaaaaaaaaaaaaa\x00\x00\x00\x00"))
	f.Add(message(0, 20, "\x02\x00"))
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, ok := relay.OriginOf(b)
		if ok != a.Addr().IsValid() {
			t.Errorf("%x: %v, %v", b, a, ok)
		}
	})
}

func TestOriginsAreRead(t *testing.T) {
	b := binary.NativeEndian.AppendUint64(nil, 16+8)
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = binary.NativeEndian.AppendUint32(b, 20)
	b = append(b, "\x02\x00\x00\x35\xc0\x00\x02\x01"...)
	if a, ok := relay.OriginOf(b); !ok || a != netip.MustParseAddrPort("192.0.2.1:53") {
		t.Error(a, ok)
	}
}

// FuzzSOCKSServer: whatever a client sends, it is answered or cut off, nothing
// panics, and the dialer sees no address of this host and no name with
// characters that break an address.
func FuzzSOCKSServer(f *testing.F) {
	for _, s := range []string{
		"\x05\x01\x00\x05\x01\x00\x01\xc6\x33\x64\x09\x00\x50GET /", "\x05\x01\x00\x05\x01\x00\x03\x04name\x00\x50", "\x05\x01\x00\x05\x01\x00\x03\x00\x00\x50",
		"\x05\x01\x00\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x50", "\x05\x01\x02\x05", "\x04\x01", "\x05\xff", "", "\x05\x01\x00\x05\x01\x00\x04aaaaaaaaaaaaaaaa\x00\x50",
	} {
		f.Add([]byte(s))
	}
	free, err := net.Listen("tcp", "127.0.0.1:0") // each process of the fuzzer has its own
	if err != nil {
		f.Fatal(err)
	}
	at := netip.MustParseAddrPort(free.Addr().String())
	_ = free.Close()
	var mu sync.Mutex
	var bad string
	k := relay.NewSOCKS(&relay.SOCKSConfig{
		ID: "fuzz", Listen: []netip.AddrPort{at},
		Allow: func(netip.Addr) bool { return true }, Handshake: time.Second,
		Dial: func(_ context.Context, _, address string) (net.Conn, error) {
			host, _, err := net.SplitHostPort(address)
			a, aerr := netip.ParseAddr(host)
			if err != nil || host == "" || (aerr == nil && a.Unmap().IsLoopback()) || strings.EqualFold(host, "localhost") {
				mu.Lock()
				bad = address
				mu.Unlock()
			}
			return nil, errors.New("nowhere")
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	f.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			f.Error(err)
		}
	})
	select {
	case <-k.Ready():
	case err := <-done:
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := net.Dial("tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(waitFor))
		_, _ = c.Write(b)
		_ = c.(*net.TCPConn).CloseWrite()
		if _, err := io.ReadAll(c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%q is not answered", b)
		}
		mu.Lock()
		defer mu.Unlock()
		if s := k.Stats(); s.Panics != 0 || bad != "" {
			t.Fatalf("%q: %+v, asked for %q", b, s, bad)
		}
	})
}
