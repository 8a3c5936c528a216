package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"runtime"
	"runtime/metrics"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/reconcile"
	"github.com/personal-internet-cell/pic/tunnel"
)

// stageCounts is what the engine asked of one stage since the start.
type stageCounts struct {
	applies, changes, failures, repairs uint64
	took                                time.Duration
}

// counts watches every Apply. It is safe for concurrent use.
type counts struct {
	changed map[string]func() map[string]int // what a stage's last Apply changed, by kind

	mu     sync.Mutex
	stages map[string]*stageCounts
	drift  map[string]uint64 // by kind of object
}

func newCounts(changed map[string]func() map[string]int) *counts {
	return &counts{changed: changed, stages: map[string]*stageCounts{}, drift: map[string]uint64{}}
}

func (c *counts) watch(stages []reconcile.Stage) []reconcile.Stage {
	for i, s := range stages {
		c.stages[s.Name()] = &stageCounts{}
		stages[i] = reconcile.Watched(s, c.seen)
	}
	return stages
}

// seen counts one Apply. What had to be changed although the same plan was in
// place before is drift.
func (c *counts) seen(a reconcile.Applied) {
	var kinds map[string]int
	if f := c.changed[a.Stage]; a.Again && f != nil {
		kinds = f()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stages[a.Stage]
	s.applies++
	s.took += a.Took
	if a.Changed {
		s.changes++
	}
	if a.Err != nil {
		s.failures++
	}
	if !a.Again {
		return
	}
	s.repairs++
	if len(kinds) == 0 {
		kinds = map[string]int{a.Stage: 1}
	}
	for k, n := range kinds {
		c.drift[k] += uint64(n)
	}
}

func (c *counts) metrics(m *api.Metrics) {
	c.mu.Lock()
	defer c.mu.Unlock()
	names := slices.Sorted(maps.Keys(c.stages))
	for _, f := range []struct {
		name, help string
		of         func(*stageCounts) float64
	}{
		{"pic_stage_applies_total", "Passes over a stage: how often it was compared with the world.", func(s *stageCounts) float64 { return float64(s.applies) }},
		{"pic_stage_changes_total", "Passes that changed something.", func(s *stageCounts) float64 { return float64(s.changes) }},
		{"pic_stage_failures_total", "Passes that failed.", func(s *stageCounts) float64 { return float64(s.failures) }},
		{"pic_stage_apply_seconds_total", "Time spent in passes.", func(s *stageCounts) float64 { return s.took.Seconds() }},
		{"pic_drift_repairs_total", "Passes that put back what others had changed.", func(s *stageCounts) float64 { return float64(s.repairs) }},
	} {
		m.Family(f.name, api.Counter, f.help)
		for _, n := range names {
			m.Value(f.of(c.stages[n]), "stage", n)
		}
	}
	m.Family("pic_drift_objects", api.Counter, "What others had changed and was put back since the start, by the kind of object.")
	for _, k := range slices.Sorted(maps.Keys(c.drift)) {
		m.Count(c.drift[k], "kind", k)
	}
}

// metrics asks every room. What can't be read is left out: a monitor then sees
// a gap and not a zero.
func (h *house) metrics(ctx context.Context, m *api.Metrics) {
	h.counts.metrics(m)
	h.tunnelMetrics(ctx, m)
	h.firewallMetrics(m)
	h.dnsMetrics(m)
	h.clockMetrics(m)
	h.webMetrics(m)
	processMetrics(m)
}

func (h *house) tunnelMetrics(ctx context.Context, m *api.Metrics) {
	st, err := h.tunnel.Status(ctx)
	if err != nil || st.Backend == "" {
		return
	}
	names := map[cell.Key]string{}
	if s, _ := h.engine.Running(); s != nil {
		for i := range s.Peers {
			names[s.Peers[i].PublicKey] = s.Peers[i].Name
		}
	}
	wireguardMetrics(m, &st, names)
}

// wireguardMetrics have the names and labels of mdlayher's wireguard_exporter.
func wireguardMetrics(m *api.Metrics, st *tunnel.Status, names map[cell.Key]string) {
	type peer struct {
		key string
		of  cell.Key
		tunnel.PeerStatus
	}
	peers := make([]peer, 0, len(st.Peers))
	online := 0
	for k, p := range st.Peers {
		peers = append(peers, peer{string(k), k, p})
		if p.Online {
			online++
		}
	}
	slices.SortFunc(peers, func(a, b peer) int { return cmp.Compare(a.key, b.key) })
	m.One("pic_peers_online", api.Gauge, "Peers with a handshake in the last 180 seconds.", float64(online))
	m.Family("pic_wireguard_userspace", api.Gauge, "1 when the tunnel runs inside the process.")
	m.Bool(st.Backend == tunnel.BackendUserspace)
	m.Family("wireguard_device_info", api.Gauge, "Metadata about a device.")
	m.Count(1, "device", st.Device, "public_key", string(st.PublicKey))
	m.Family("wireguard_peer_info", api.Gauge, "Metadata about a peer; public_key is the peer's.")
	for i := range peers {
		endpoint := ""
		if e := peers[i].Endpoint; e.IsValid() {
			endpoint = e.String()
		}
		m.Count(1, "device", st.Device, "public_key", peers[i].key, "endpoint", endpoint, "name", names[peers[i].of])
	}
	m.Family("wireguard_peer_allowed_ips_info", api.Gauge, "The prefixes that a peer may use as its source.")
	for i := range peers {
		for _, p := range peers[i].AllowedIPs {
			family := "ipv4"
			if p.Addr().Is6() {
				family = "ipv6"
			}
			m.Count(1, "device", st.Device, "public_key", peers[i].key, "allowed_ips", p.String(), "family", family)
		}
	}
	m.Family("wireguard_peer_receive_bytes_total", api.Counter, "Bytes received from a peer.")
	for i := range peers {
		m.Count(peers[i].ReceivedBytes, "device", st.Device, "public_key", peers[i].key)
	}
	m.Family("wireguard_peer_transmit_bytes_total", api.Counter, "Bytes sent to a peer.")
	for i := range peers {
		m.Count(peers[i].SentBytes, "device", st.Device, "public_key", peers[i].key)
	}
	m.Family("wireguard_peer_last_handshake_seconds", api.Gauge, "The last handshake with a peer in Unix time; 0 when there was none.")
	for i := range peers {
		at := uint64(0)
		if t := peers[i].LastHandshake; !t.IsZero() {
			at = uint64(t.Unix())
		}
		m.Count(at, "device", st.Device, "public_key", peers[i].key)
	}
}

func (h *house) firewallMetrics(m *api.Metrics) {
	counters, err := h.firewall.Counters()
	if err != nil {
		h.log.Debug("firewall counters not read", "error", err)
		return
	}
	for _, f := range []struct {
		name, help  string
		leak, bytes bool
	}{
		{"pic_firewall_forwarded_packets_total", "Packets that left by an interface with a mark.", false, false},
		{"pic_firewall_forwarded_bytes_total", "Bytes that left by an interface with a mark.", false, true},
		{"pic_exit_leak_packets_total", "Packets with an exit's mark that left by the uplink: must stay 0.", true, false},
	} {
		m.Family(f.name, api.Counter, f.help)
		for _, c := range counters {
			if c.Leak != f.leak {
				continue
			}
			n := c.Packets
			if f.bytes {
				n = c.Bytes
			}
			m.Count(n, "mark", fmt.Sprintf("0x%x", c.Mark), "interface", c.Interface)
		}
	}
}

func (h *house) dnsMetrics(m *api.Metrics) {
	st := h.dns.Status()
	m.Family("pic_dns_queries_total", api.Counter, "Answers by audience, response code and the exit by which others are asked for it (empty: the uplink).")
	for _, q := range h.dns.QueryCounts() {
		m.Count(q.Count, "view", q.View, "rcode", q.RCode, "exit", q.Exit)
	}
	m.One("pic_dns_cache_entries", api.Gauge, "Forwarded answers in the cache.", float64(st.Cache.Entries))
	m.Family("pic_dns_cache_lookups_total", api.Counter, "Look-ups in the cache of forwarded answers.")
	m.Count(st.Cache.Hits, "result", "hit")
	m.Count(st.Cache.Misses, "result", "miss")
	m.Count(st.Cache.Stale, "result", "stale")
	m.One("pic_dns_dropped_total", api.Counter, "Messages that were no queries.", float64(st.Dropped))
	m.One("pic_dns_limited_total", api.Counter, "Answers that told a source of the internet to come over TCP.", float64(st.Limited))
	m.Family("pic_dns_forwarder_up", api.Gauge, "1 while a forwarder answers.")
	seen := map[[3]string]bool{}
	for _, f := range st.Forwarders {
		if k := [3]string{string(f.Protocol), f.Address, f.Exit}; !seen[k] {
			seen[k] = true
			m.Bool(f.Healthy, "protocol", k[0], "address", k[1], "exit", k[2])
		}
	}
}

func (h *house) clockMetrics(m *api.Metrics) {
	st := h.ntp.Status()
	m.One("pic_ntp_offset_seconds", api.Gauge, "How far the clock is from its reference.", st.OffsetSeconds)
	m.Family("pic_ntp_synchronised", api.Gauge, "1 while the clock is synchronised.")
	m.Bool(st.Synchronised)
	m.One("pic_ntp_stratum", api.Gauge, "Stratum of the clock; 16 when not synchronised.", float64(st.Stratum))
	m.One("pic_ntp_root_delay_seconds", api.Gauge, "Round trip to the primary reference.", st.RootDelaySeconds)
	m.One("pic_ntp_root_dispersion_seconds", api.Gauge, "Bound of the error against the primary reference.", st.RootDispersionSeconds)
	m.One("pic_ntp_clients", api.Gauge, "Clients heard of within the last hour.", float64(st.Clients))
	m.Family("pic_ntp_requests_total", api.Counter, "Packets to the time server by what became of them.")
	m.Count(st.Answers, "result", "answered")
	m.Count(st.Limited, "result", "limited")
	m.Count(st.Dropped, "result", "dropped")
}

func (h *house) webMetrics(m *api.Metrics) {
	st := h.proxy.Stats()
	m.One("pic_proxy_connections", api.Gauge, "Connections to the web that are open.", float64(st.Connections))
	m.One("pic_proxy_requests_total", api.Counter, "Requests to the web.", float64(st.Requests))
	m.One("pic_proxy_refused_total", api.Counter, "Connections that were not admitted or over a limit.", float64(st.Refused))
	m.Family("pic_panics_total", api.Counter, "Panics that were recovered from, in the listeners of a subsystem.")
	m.Count(st.Panics, "subsystem", "proxy")
	m.Count(h.dns.Status().Panics, "subsystem", "dns")
	m.Count(h.ntp.Status().Panics, "subsystem", "ntp")

	// A name whose certificate was just renewed is served two: the later counts.
	type key struct{ name, issuer string }
	expiry := map[key]time.Time{}
	for _, c := range h.certs.Certificates() {
		k := key{c.Subject, c.Issuer}
		if len(c.Names) > 0 {
			k.name = c.Names[0]
		}
		if c.NotAfter.After(expiry[k]) {
			expiry[k] = c.NotAfter
		}
	}
	keys := slices.SortedFunc(maps.Keys(expiry), func(a, b key) int {
		return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.issuer, b.issuer))
	})
	m.Family("pic_cert_expiry_timestamp_seconds", api.Gauge, "When a certificate that is served ends, in Unix time.")
	for _, k := range keys {
		m.Count(uint64(max(0, expiry[k].Unix())), "name", k.name, "issuer", k.issuer)
	}
}

// processMetrics have the names that Prometheus' own clients use.
func processMetrics(m *api.Metrics) {
	m.One("go_goroutines", api.Gauge, "Goroutines that exist.", float64(runtime.NumGoroutine()))
	samples := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/cycles/total:gc-cycles"}}
	metrics.Read(samples)
	m.Family("go_memstats_heap_alloc_bytes", api.Gauge, "Bytes of live and unswept objects.")
	m.Count(samples[0].Value.Uint64())
	m.Family("pic_gc_cycles_total", api.Counter, "Garbage collections.")
	m.Count(samples[1].Value.Uint64())
	if resident, err := residentBytes(); err == nil {
		m.One("process_resident_memory_bytes", api.Gauge, "Memory of the process that is in RAM.", float64(resident))
	}
	if fds, err := os.ReadDir("/proc/self/fd"); err == nil {
		m.One("process_open_fds", api.Gauge, "Open file descriptors.", float64(len(fds)-1)) // less the one that reads
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err == nil {
		m.One("process_max_fds", api.Gauge, "How many may be open.", float64(limit.Cur))
	}
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err == nil {
		m.One("process_cpu_seconds_total", api.Counter, "Processor time in user and system mode.", seconds(use.Utime)+seconds(use.Stime))
	}
}

func seconds(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }

// residentBytes is the second number of /proc/self/statm, in pages (proc(5)).
func residentBytes() (uint64, error) {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, err
	}
	f := bytes.Fields(b)
	if len(f) < 2 {
		return 0, fmt.Errorf("reading statm: %d numbers", len(f))
	}
	pages, err := strconv.ParseUint(string(f[1]), 10, 64)
	return pages * uint64(os.Getpagesize()), err
}
