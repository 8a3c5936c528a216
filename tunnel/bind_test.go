package tunnel_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"github.com/personal-internet-cell/pic/tunnel"
)

// A peer over IPv4 must not send the packets of a peer over IPv6 astray:
// wireguard-go's own carrier fails here.
func TestCarrierServesBothFamiliesAtOnce(t *testing.T) {
	b := tunnel.NewBind()
	fns, port, err := b.Open(0)
	must(t, err)
	if len(fns) != 2 || port == 0 {
		t.Fatalf("%d sockets on port %d", len(fns), port)
	}
	if _, _, err := b.Open(0); !errors.Is(err, conn.ErrBindAlreadyOpen) {
		t.Fatal(err)
	}
	var (
		peers []*net.UDPConn
		eps   []conn.Endpoint
	)
	// 127.0.0.9 is ours too, but not the address the kernel would answer from.
	for i, local := range []string{"127.0.0.9", "::1"} {
		a := netip.MustParseAddr(local)
		c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, port)))
		must(t, err)
		defer c.Close()
		must(t, c.SetDeadline(time.Now().Add(10*time.Second)))
		_, err = c.Write([]byte("hello"))
		must(t, err)
		bufs, sizes, got := make([][]byte, b.BatchSize()), make([]int, b.BatchSize()), make([]conn.Endpoint, b.BatchSize())
		for i := range bufs {
			bufs[i] = make([]byte, 100)
		}
		n, err := fns[i](bufs, sizes, got)
		must(t, err)
		from := c.LocalAddr().(*net.UDPAddr).AddrPort()
		if n != 1 || string(bufs[0][:sizes[0]]) != "hello" || got[0].DstToString() != from.String() {
			t.Fatalf("%d packets, %q from %s, want %s", n, bufs[0][:sizes[0]], got[0].DstToString(), from)
		}
		peers, eps = append(peers, c), append(eps, got[0])
	}
	for round := range 50 {
		for i := range peers {
			// More than one batch, and numbered.
			var bufs [][]byte
			for j := range b.BatchSize() + 2 {
				bufs = append(bufs, fmt.Appendf(nil, "%d %d %d", round, i, j))
			}
			must(t, b.Send(bufs, eps[i]))
			if i == 1 && round == 25 {
				eps[i].ClearSrc() // the kernel's choice is as good here
			}
			got := make([]byte, 100)
			for _, want := range bufs {
				n, err := peers[i].Read(got)
				must(t, err)
				if string(got[:n]) != string(want) {
					t.Fatalf("%s got %q, want %q", peers[i].LocalAddr(), got[:n], want)
				}
			}
		}
	}
	other := tunnel.NewBind()
	if _, _, err := other.Open(port); err == nil {
		t.Fatal("a taken port was opened")
	}
	must(t, b.Close())
	if _, err := fns[0](make([][]byte, 1), make([]int, 1), make([]conn.Endpoint, 1)); !errors.Is(err, net.ErrClosed) {
		t.Fatalf("after Close: %v", err)
	}
	_, again, err := other.Open(port)
	must(t, err)
	if again != port {
		t.Fatalf("port %d", again)
	}
	must(t, other.Close())
}
