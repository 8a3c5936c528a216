package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"os/signal"
	"sort"
	"strings"
	"syscall"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/certs"
	"github.com/personal-internet-cell/pic/dns"
	"github.com/personal-internet-cell/pic/exits"
	"github.com/personal-internet-cell/pic/firewall"
	"github.com/personal-internet-cell/pic/ntp"
	"github.com/personal-internet-cell/pic/proxy"
	"github.com/personal-internet-cell/pic/reconcile"
	"github.com/personal-internet-cell/pic/tunnel"
)

// The functions below turn one room's types into another's, so that neither
// has to know the other.

func (h *house) tunnelStatus(ctx context.Context) (api.TunnelStatus, error) {
	st, err := h.tunnel.Status(ctx)
	if err != nil {
		return api.TunnelStatus{}, err
	}
	out := api.TunnelStatus{Backend: string(st.Backend), Peers: make(map[cell.Key]api.PeerStats, len(st.Peers))}
	if out.Backend == "" {
		out.Backend = "none"
	}
	for k, p := range st.Peers {
		x := api.PeerStats{Online: p.Online, RxBytes: int64(p.ReceivedBytes), TxBytes: int64(p.SentBytes)}
		if p.Endpoint.IsValid() {
			x.Endpoint = p.Endpoint.String()
		}
		if !p.LastHandshake.IsZero() {
			t := p.LastHandshake.UTC()
			x.LastHandshake = &t
		}
		out.Peers[k] = x
	}
	return out, nil
}

func trust(a *cell.Authority, cellName, format string) (api.File, error) {
	switch format {
	case "der":
		b, err := certs.RootDER(a)
		return api.File{Name: cellName + "-root.cer", ContentType: "application/pkix-cert", Data: b}, err
	case "mobileconfig":
		b, err := certs.MobileConfig(a, cellName)
		return api.File{Name: cellName + ".mobileconfig", ContentType: "application/x-apple-aspen-config", Data: b}, err
	}
	b, err := certs.RootPEM(a)
	return api.File{Name: cellName + "-root.crt", ContentType: "application/x-pem-file", Data: b}, err
}

func (h *house) certificates() []api.Certificate {
	var out []api.Certificate
	for _, c := range h.certs.Certificates() {
		out = append(out, api.Certificate{
			Serial: c.Serial, Subject: c.Subject, Names: c.Names, Issuer: c.Issuer,
			NotBefore: c.NotBefore, NotAfter: c.NotAfter, Authority: c.Authority != "",
		})
	}
	return out
}

func (h *house) clock() api.ClockStatus {
	st := h.ntp.Status()
	return api.ClockStatus{
		Running: st.Running, Synchronised: st.Synchronised, Stratum: st.Stratum, Leap: st.Leap,
		OffsetSeconds: st.OffsetSeconds, RootDelay: st.RootDelaySeconds, RootDispersion: st.RootDispersionSeconds,
		Reference: st.Reference, Source: st.Source, Clients: st.Clients, Answers: st.Answers,
	}
}

func (h *house) dnsStatus() api.DNSStatus {
	st := h.dns.Status()
	out := api.DNSStatus{Listeners: []string{}, Queries: map[string]uint64{}, CacheSize: st.Cache.Entries, Panics: st.Panics, Limited: st.Limited, Quick: st.Quick}
	for _, l := range st.Listeners {
		out.Listeners = append(out.Listeners, strings.TrimSpace(l.Address+" "+l.Problem))
	}
	for view, codes := range st.Queries {
		for code, n := range codes {
			out.Queries[view+" "+code] = n
		}
	}
	return out
}

func dnsRecords(s *cell.State, f cell.Facts) ([]api.DNSRecord, error) {
	v, err := dns.Compile(s, f)
	if err != nil {
		return nil, err
	}
	var out []api.DNSRecord
	for _, z := range v.Zones {
		for _, r := range z.Records {
			if r.Type != "SOA" && r.Type != "NS" {
				out = append(out, api.DNSRecord{Name: strings.TrimSuffix(r.Name, "."), Type: r.Type, Value: r.Data, TTL: r.TTL, View: cell.View(z.View)})
			}
		}
	}
	return out, nil
}

// exports are the plans a person can read, by format.
func exports() map[string]func(*cell.State, cell.Facts) (string, error) {
	return map[string]func(*cell.State, cell.Facts) (string, error){
		"nft":   text(firewall.Compile),
		"wg":    text(tunnel.Compile),
		"zone":  text(dns.Compile),
		"ntp":   text(ntp.Compile),
		"proxy": text(proxy.Compile),
		"certs": text(certs.Compile),
		"exits": text(exits.Compile),
	}
}

func text[P fmt.Stringer](compile func(*cell.State, cell.Facts) (P, error)) func(*cell.State, cell.Facts) (string, error) {
	return func(s *cell.State, f cell.Facts) (string, error) {
		p, err := compile(s, f)
		if err != nil {
			return "", err
		}
		return p.String(), nil
	}
}

// reload answers SIGHUP: nothing is re-read, drift is repaired.
func (h *house) reload(ctx context.Context) error {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP)
	defer signal.Stop(c)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c:
			h.engine.Trigger("SIGHUP")
		}
	}
}

// serveDebug serves pprof and the engine's inside on a loopback address.
func (h *house) serveDebug(ctx context.Context) error {
	if h.flags.debug == "" {
		<-ctx.Done()
		return nil
	}
	l, err := net.Listen("tcp", h.flags.debug) // a loopback address: see serveFlags.host
	if err != nil {
		return fmt.Errorf("listening for --debug: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("/debug/state", func(w http.ResponseWriter, _ *http.Request) {
		s, n := h.engine.Running()
		writeJSON(w, map[string]any{"revision": n, "state": s, "facts": h.engine.Facts()})
	})
	mux.HandleFunc("/debug/plans", func(w http.ResponseWriter, _ *http.Request) { writePlans(w, h.engine.Plans()) })
	mux.HandleFunc("/debug/conditions", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, h.engine.Status()) })
	return h.serveHTTP(ctx, "debug", l, &http.Server{Handler: mux})
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(v)
}

func writePlans(w http.ResponseWriter, plans map[string]reconcile.Plan) {
	names := make([]string, 0, len(plans))
	for n := range plans {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		if plans[n] != nil {
			fmt.Fprintf(w, "=== %s\n%s\n", n, plans[n])
		}
	}
}
