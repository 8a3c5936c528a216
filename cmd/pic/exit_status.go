package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"net/netip"
	"strings"
	"time"

	"github.com/personal-internet-cell/pic/api"
)

// exitStates is api.Exits.Status.
func (h *house) exitStates(context.Context) map[string]api.ExitStatus {
	all, leaked := h.exitStatus()
	out := make(map[string]api.ExitStatus, len(all))
	s, _ := h.engine.Running()
	for i := range all {
		st := &all[i]
		if st.Chain {
			continue
		}
		x := api.ExitStatus{
			State: st.State, Reason: st.Reason, LatencyMS: milliseconds(st.Latency), PublicAddress4: shown(st.PublicAddress4), PublicAddress6: shown(st.PublicAddress6),
			RxBytes: int64(st.Received), TxBytes: int64(st.Sent), Connections: st.Connections, V6: st.V6, UDP: st.UDP, Restarts: st.Restarts, HostKey: st.HostKey,
		}
		if !st.Since.IsZero() {
			t := st.Since.UTC()
			x.Since = &t
		}
		if e := s.Exit(st.ID); e != nil {
			x.LeakedPackets = leaked[e.Mark()]
		}
		if st.PendingHostKey != "" {
			x.PendingHostKey = &api.ExitHostKey{Key: st.PendingHostKey, Fingerprint: fingerprint(st.PendingHostKey)}
		}
		out[st.ID] = x
	}
	return out
}

// chainTimes is api.Exits.Chains.
func (h *house) chainTimes(context.Context) map[string]time.Time {
	out := map[string]time.Time{}
	for _, st := range h.exits.Status() {
		if st.Chain && !st.Since.IsZero() {
			out[st.ID] = st.Since.UTC()
		}
	}
	return out
}

// testExit is api.Exits.Test.
func (h *house) testExit(ctx context.Context, id string) (api.ExitTest, error) {
	r, err := h.exits.Test(ctx, id)
	if err != nil {
		return api.ExitTest{}, err
	}
	out := api.ExitTest{
		OK: r.Error == "" && r.DNS, Time: time.Now().UTC(), PublicAddress4: shown(r.PublicAddress4), PublicAddress6: shown(r.PublicAddress6),
		LatencyMS: milliseconds(r.Latency), DNS: r.DNS,
	}
	seen := strings.TrimSpace(out.PublicAddress4 + " " + out.PublicAddress6)
	out.Checks = []api.Check{
		check("connection", r.Error, "a server on the internet is reached through the exit"),
		check("address", missingText(seen), "the internet sees "+seen),
		check("names", r.DNSError, "names are looked up through the exit"),
	}
	return out, nil
}

func missingText(seen string) string {
	if seen == "" {
		return "no service told which address it sees: the exit may block them"
	}
	return ""
}

func check(name, problem, good string) api.Check {
	if problem != "" {
		return api.Check{Name: name, Text: problem}
	}
	return api.Check{Name: name, OK: true, Text: good}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func shown(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// fingerprint of a host key as in authorized_keys, as ssh-keygen -l shows it;
// "" for what is no key.
func fingerprint(key string) string {
	f := strings.Fields(key)
	if len(f) < 2 {
		return ""
	}
	b, err := base64.StdEncoding.DecodeString(f[1])
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(b)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}
