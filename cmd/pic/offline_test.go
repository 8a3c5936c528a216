package main_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// Without an internet (the far end of the uplink drops everything) names of the
// cell are answered within 10 s of a start, and the API answers as quickly as
// ever while questions for the forwarders pile up.
func TestOfflineTheCellAnswers(t *testing.T) {
	t.Parallel()
	netnstest.Need(t, "dig")
	h := settledHost(t)
	h.far.Sh("nft add table inet blackhole; nft add chain inet blackhole hole '{ type filter hook prerouting priority 0; policy drop; }'; nft add rule inet blackhole hole meta l4proto ipv6-icmp accept")
	began := time.Now()
	h.start(nil)
	zone := h.status().Cell.Domain
	gateway := h.gateway()
	netnstest.Eventually(t, 10*time.Second, func() error {
		return h.named(zone)
	})
	toDNS := time.Since(began)
	if toDNS > 10*time.Second {
		t.Errorf("from start to the first answer: %v", toDNS)
	}
	// 300 questions that nobody will answer, in the background.
	stop := netnstest.Start(t, h.ns.Command("sh", "-c", fmt.Sprintf(`i=0; while [ $i -lt 300 ]; do dig -b %s +time=2 +tries=1 @%s n$i.example >/dev/null & i=$((i+1)); [ $((i %% 20)) = 0 ] && wait; done; wait`, h.laptop(), gateway)))
	defer stop()
	var took []time.Duration
	for i := range 100 {
		path := []string{"/api/status", "/api/peers", "/api/dns/status", "/api/network/interfaces", "/api/revisions"}[i%5]
		began := time.Now()
		h.want(200, "GET", path, "")
		took = append(took, time.Since(began))
	}
	began = time.Now()
	h.want(201, "POST", "/api/peers", addPhone)
	commit := time.Since(began)
	slices.Sort(took)
	p99 := took[len(took)-2]
	fmt.Printf("OFFLINE: first answer of a name after %v, API p50 %v p99 %v, a commit %v\n", toDNS.Round(time.Millisecond), took[len(took)/2].Round(time.Millisecond), p99.Round(time.Millisecond), commit.Round(time.Millisecond))
	if p99 > time.Second {
		t.Errorf("p99 of the API with black-holed forwarders: %v", p99)
	}
}
