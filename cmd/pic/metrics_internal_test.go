package main

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/tunnel"
)

// manyPeers is a device with n peers that are all in use.
func manyPeers(n int) (*tunnel.Status, map[cell.Key]string) {
	st := &tunnel.Status{Device: "pic0", Backend: tunnel.BackendKernel, Up: true, Peers: map[cell.Key]tunnel.PeerStatus{}}
	names := map[cell.Key]string{}
	for i := range n {
		sum := sha256.Sum256([]byte{byte(i), byte(i >> 8)})
		k := cell.Key(base64.StdEncoding.EncodeToString(sum[:]))
		names[k] = fmt.Sprintf("peer%d", i)
		st.Peers[k] = tunnel.PeerStatus{
			AllowedIPs: []netip.Prefix{
				netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, byte(i >> 8), byte(i)}), 32),
				netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 14: byte(i >> 8), 15: byte(i)}), 128),
			},
			Endpoint:      netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}), 51820),
			LastHandshake: time.Unix(1_700_000_000, 0), ReceivedBytes: 123456789 * uint64(i+1), SentBytes: uint64(i), Online: true,
		}
	}
	return st, names
}

// All of 10,000 peers are in one answer: no family is full.
func TestMetricsOfTenThousandPeers(t *testing.T) {
	st, names := manyPeers(10_000)
	var m api.Metrics
	wireguardMetrics(&m, st, names)
	text := string(m.Text())
	if text[len(text)-len("pic_metrics_left_out 0\n"):] != "pic_metrics_left_out 0\n" {
		t.Fatal("samples were left out")
	}
	t.Logf("%d bytes", len(text))
}

func BenchmarkMetricsOfTenThousandPeers(b *testing.B) {
	st, names := manyPeers(10_000)
	b.ReportAllocs()
	for b.Loop() {
		var m api.Metrics
		wireguardMetrics(&m, st, names)
		b.ReportMetric(float64(len(m.Text())), "bytes/scrape")
	}
}
