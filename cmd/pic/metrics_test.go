package main_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// scrape reads the metrics on the local socket.
func (h *host) scrape() (series map[string]float64, counters map[string]bool) {
	h.t.Helper()
	series, counters = map[string]float64{}, map[string]bool{}
	for line := range strings.Lines(string(h.want(200, "GET", "/metrics", "").body)) {
		line = strings.TrimSpace(line)
		if f := strings.Fields(line); strings.HasPrefix(line, "#") {
			if f[1] == "TYPE" && f[3] == "counter" {
				counters[f[2]] = true
			}
			continue
		}
		i := strings.LastIndexByte(line, ' ')
		v, err := strconv.ParseFloat(line[i+1:], 64)
		if err != nil {
			h.t.Fatalf("%q", line)
		}
		if _, twice := series[line[:i]]; twice {
			h.t.Errorf("twice: %s", line)
		}
		series[line[:i]] = v
	}
	return series, counters
}

// The real cell's metrics: the names are there, they are true, no counter goes
// back over passes and commits, and what others break is counted as drift.
func TestTheRealCellsMetrics(t *testing.T) {
	h := newHost(t)
	h.claimed()
	h.want(201, "POST", "/api/peers", addPhone)
	h.ns.Exec("nft", "list", "table", "inet", "pic_acct")
	before, counters := h.scrape()
	key := into[api.Peer](t, h.want(200, "GET", "/api/peers/phone", "")).PublicKey
	for _, name := range []string{
		"pic_revision", "pic_ntp_offset_seconds", "process_resident_memory_bytes", "process_open_fds", "go_goroutines",
		fmt.Sprintf(`wireguard_peer_receive_bytes_total{device="pic0",public_key="%s"}`, key),
		fmt.Sprintf(`wireguard_peer_last_handshake_seconds{device="pic0",public_key="%s"}`, key),
		fmt.Sprintf(`wireguard_peer_info{device="pic0",public_key="%s",endpoint="",name="phone"}`, key),
		`pic_stage_condition{stage="firewall",state="in-sync"}`,
		`pic_drift_repairs_total{stage="firewall"}`,
	} {
		if _, there := before[name]; !there {
			t.Errorf("%s is missing", name)
		}
	}
	expires := 0
	for name, v := range before {
		if strings.HasPrefix(name, "pic_cert_expiry_timestamp_seconds{") {
			if expires++; v < float64(time.Now().Unix()) {
				t.Errorf("%s %v", name, v)
			}
		}
	}
	if _, n := before["pic_revision"], h.status().Revision; before["pic_revision"] != float64(n) || expires == 0 {
		t.Errorf("revision %v, want %d; %d certificates", before["pic_revision"], n, expires)
	}
	if before[`pic_drift_objects{kind="policy_rule"}`] != 0 {
		t.Error("drift where nobody changed anything")
	}

	h.ns.Exec("ip", "rule", "del", "pref", h.firstRule())
	netnstest.Eventually(t, 10*time.Second, func() error {
		now, _ := h.scrape()
		if now[`pic_drift_objects{kind="policy_rule"}`] != 1 || now[`pic_drift_repairs_total{stage="firewall"}`] < 1 {
			return fmt.Errorf("no drift counted: %v %v", now[`pic_drift_objects{kind="policy_rule"}`], now[`pic_drift_repairs_total{stage="firewall"}`])
		}
		return nil
	})
	for i := range 3 {
		h.want(201, "POST", "/api/peers", fmt.Sprintf(`{"name":"more%d","generate_key":true}`, i))
		h.want(202, "POST", "/api/firewall/restart", "{}")
	}
	after, _ := h.scrape()
	held := 0
	for name, v := range before {
		base, _, _ := strings.Cut(name, "{")
		if !counters[base] {
			continue
		}
		if held++; after[name] < v {
			t.Errorf("%s went back from %v to %v", name, v, after[name])
		}
	}
	if held < 30 || after[`pic_stage_applies_total{stage="dns"}`] < before[`pic_stage_applies_total{stage="dns"}`]+3 {
		t.Errorf("%d counters, %v applies of dns", held, after[`pic_stage_applies_total{stage="dns"}`])
	}
	if after[`pic_drift_objects{kind="policy_rule"}`] != 1 {
		t.Error("commits count as drift")
	}
}

// firstRule is the preference of a policy rule of ours.
func (h *host) firstRule() string {
	h.t.Helper()
	for line := range strings.Lines(h.ns.Exec("ip", "rule", "list")) {
		if strings.Contains(line, "fwmark") || strings.Contains(line, "iif pic0") {
			pref, _, _ := strings.Cut(line, ":")
			return pref
		}
	}
	h.t.Fatal("no policy rule of the cell's")
	return ""
}
