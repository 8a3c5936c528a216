package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/datastore"
	"github.com/personal-internet-cell/pic/internal/scenario"
	"github.com/personal-internet-cell/pic/reconcile"
)

// Each sentence of the grammar, in a state under which it holds and in one
// under which it does not.
func TestPolicyTestsSeeWhatBreaksThem(t *testing.T) {
	h := scenario.Load(t, "testdata/scenarios/household.txtar")
	peer := func(name string, edit func(*cell.Peer)) cell.Edit {
		return func(s *cell.State) error { edit(s.Peer(name)); return nil }
	}
	service := func(id string, edit func(*cell.Service)) cell.Edit {
		return func(s *cell.State) error { edit(s.Service(id)); return nil }
	}
	network := func(edit func(*cell.Network)) cell.Edit {
		return func(s *cell.State) error { edit(&s.Network); return nil }
	}
	for _, c := range []struct {
		test   string
		breaks cell.Edit
		says   string // the packet in the answer
	}{
		{"tv cannot reach files", peer("tv", func(p *cell.Peer) { p.Services = []string{"files"} }), "tcp 10.20.0.4 → 10.20.0.1:443 for files.home.internal is accepted"},
		{"tv cannot reach files", service("files", func(v *cell.Service) { v.Access = cell.AccessPeers }), "the service files"},
		{"lan:lan cannot reach files", service("files", func(v *cell.Service) { v.Access = cell.AccessLAN }), "192.168.7.2"},
		{"internet cannot reach files", service("files", func(v *cell.Service) { v.Access = cell.AccessInternet }), ""}, // the public web is off: holds
		{"phone reaches files", peer("phone", func(p *cell.Peer) { p.Services = nil }), "refused"},
		{"phone reaches files", service("files", func(v *cell.Service) { v.Access = cell.AccessAdmin }), "answers 403"},
		{"phone cannot reach laptop", peer("phone", func(p *cell.Peer) { p.Peers = []string{"laptop"} }), "10.20.0.2 → 10.20.0.3"},
		{"laptop reaches phone", peer("laptop", func(p *cell.Peer) { p.Peers = nil }), "dropped"},
		{"laptop reaches phone", peer("phone", func(p *cell.Peer) { p.Enabled = false }), "dropped"},
		{"laptop reaches lan:lan", peer("laptop", func(p *cell.Peer) { p.LAN = nil }), "192.168.7.2:443"},
		{"phone cannot reach lan:lan", peer("phone", func(p *cell.Peer) { p.LAN = []string{"lan"} }), "192.168.7.2"},
		{"phone cannot reach 192.168.7.9 22/tcp", peer("phone", func(p *cell.Peer) { p.LAN = []string{"lan"} }), "192.168.7.9:22"},
		{"laptop leaves by nl", peer("laptop", func(p *cell.Peer) { p.Exit = "" }), "leaves by eth0"},
		{"laptop leaves by nl", peer("laptop", func(p *cell.Peer) { p.Exit = "onion" }), "relay"},
		{"tv leaves by onion", peer("tv", func(p *cell.Peer) { p.Exit = "nl" }), "exit nl"},
		{"phone leaves by direct", func(s *cell.State) error {
			s.Network.Forwards = slices.Clone(s.Network.Forwards)
			s.Network.Forwards[0].Peer, s.Network.Forwards[0].Service = "", "mail"
			s.Peer("phone").Exit = "onion"
			return nil
		}, "onion"},
		{"files leaves by nl", service("files", func(v *cell.Service) { v.Egress = "" }), "172.20.1.2"},
		{"tv reaches internet", peer("tv", func(p *cell.Peer) { p.Exit = "nl" }), "can't be reached"},
		{"phone reaches internet", peer("phone", func(p *cell.Peer) { p.Enabled = false }), "dropped"},
		{"internet cannot reach laptop", network(func(n *cell.Network) { n.Forwards[0].Peer = "tv"; n.Forwards[0].Enabled = false }), ""}, // holds
		{"from internet only 51820/udp 7777/udp", network(func(n *cell.Network) { n.PublicWeb = true }), "203.0.113.7 → "},
		{"from internet only 51820/udp 7777/udp", func(s *cell.State) error {
			s.Network.Forwards = append(slices.Clone(s.Network.Forwards), cell.Forward{Name: "ssh", Protocol: cell.TCP, Port: 2222, TargetPort: 22, Peer: "phone", Enabled: true})
			return nil
		}, ":2222 is accepted"},
		{"from internet only 51820/udp 7777/udp", func(s *cell.State) error { s.DNS.Public = true; return nil }, ":53 is accepted"},
		{"from lan:lan only 443/tcp 80/tcp 53/udp 53/tcp 123/udp 51820/udp", network(func(n *cell.Network) { n.Tunnel.ListenPort = 51821 }), ":51821 is accepted"},
		{"from phone only 443/tcp 80/tcp 53/udp 53/tcp 123/udp", nil, ""},
		{"10.20.0.99 cannot reach internet", nil, ""},
		{"internet cannot reach phone 7778/udp", network(func(n *cell.Network) { n.Forwards[0].Port = 7778 }), ":7778 is accepted"},
	} {
		s := h.State.Clone()
		s.Network.Policy = []string{c.test}
		if strings.HasPrefix(c.test, "internet cannot reach laptop") {
			s.Network.Forwards = []cell.Forward{}
		}
		try := func() api.PolicyResult {
			s.Normalize()
			if err := s.Validate(); err != nil {
				t.Fatalf("%s: %v", c.test, err)
			}
			r, err := policyResults(s, h.Facts)
			if err != nil || len(r) != 1 {
				t.Fatalf("%s: %v", c.test, err)
			}
			return r[0]
		}
		if r := try(); r.Result != policyHolds {
			t.Errorf("%s: %+v", c.test, r)
		}
		if c.breaks == nil || len(s.Network.Forwards) == 0 {
			continue
		}
		if err := c.breaks(s); err != nil {
			t.Fatal(err)
		}
		want := policyFails
		if c.says == "" {
			want = policyHolds
		}
		if r := try(); r.Result != want || !strings.Contains(r.Text, c.says) {
			t.Errorf("%s, broken: %+v does not say %q", c.test, r, c.says)
		}
	}
}

// Without an uplink nothing can be said about the internet: that refuses
// nothing, and is no success either.
func TestPolicyTestsMayBeUnknown(t *testing.T) {
	h := scenario.Load(t, "testdata/scenarios/household.txtar")
	s := h.State.Clone()
	s.Network.Policy = []string{"from internet only 51820/udp", "tv leaves by onion", "phone reaches internet", "phone cannot reach laptop"}
	f := h.Facts
	f.Uplink = cell.Uplink{}
	results, err := policyResults(s, f)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range results {
		got = append(got, r.Result)
	}
	if d := cmp.Diff([]string{policyUnknown, policyUnknown, policyUnknown, policyHolds}, got); d != "" {
		t.Fatal(d)
	}
	if p, err := compilePolicy(s, f); err != nil || !strings.Contains(p.String(), "# unknown") {
		t.Fatal(p, err)
	}
}

// gate is an engine whose only stage is the policy tests.
func gate(t *testing.T, s *cell.State, f cell.Facts) *reconcile.Engine {
	t.Helper()
	store, err := datastore.Open(&datastore.Config{Dir: t.TempDir(), Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	e, err := reconcile.New(&reconcile.Config{
		Store: store, Facts: f, Now: time.Now,
		Stages: []reconcile.Stage{reconcile.Background(reconcile.NewStage("policy", compilePolicy, applyPolicy))},
	})
	if err != nil {
		t.Fatal(err)
	}
	err = e.Boot(t.Context(), func() (*cell.State, map[cell.SecretRef]cell.Secret, error) {
		secrets := map[cell.SecretRef]cell.Secret{}
		for _, ref := range s.SecretRefs() {
			secrets[ref] = cell.NewSecret("x")
		}
		return s, secrets, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// A commit under which a test fails is refused, with the test and the packet;
// nothing is written. What fails already keeps nobody from other changes.
func TestAFailingPolicyTestRefusesTheCommit(t *testing.T) {
	h := scenario.Load(t, "testdata/scenarios/household.txtar")
	s := h.State.Clone()
	s.Network.Policy = []string{"tv cannot reach files", "tv reaches internet", "phone reaches internet"}
	e := gate(t, s, h.Facts)
	_, before := e.Running()
	grant := func(s *cell.State) error { s.Peer("tv").Services = []string{"files"}; return nil }

	_, err := e.Commit(t.Context(), 0, grant, reconcile.Options{})
	var bad *cell.InvalidError
	if !errors.As(err, &bad) || len(bad.Fields) != 1 || bad.Fields[0].Pointer != "/network/policy/0" ||
		!strings.Contains(bad.Fields[0].Message, `"tv cannot reach files" would not hold: tcp 10.20.0.4 → 10.20.0.1:443`) {
		t.Fatalf("%v", err)
	}
	if _, err := e.Preview(0, grant); !errors.As(err, &bad) {
		t.Fatalf("the preview does not say so: %v", err)
	}
	if _, n := e.Running(); n != before {
		t.Fatalf("revision %d was written", n)
	}
	drop := func(s *cell.State) error {
		s.Network.Policy = slices.Clone(s.Network.Policy[1:])
		return grant(s)
	}
	if _, err := e.Commit(t.Context(), 0, drop, reconcile.Options{}); err != nil {
		t.Fatalf("without the test: %v", err)
	}

	// The world breaks both other tests: its relay's and uplink's peers expire.
	f := h.Facts
	f.Expired = []string{"phone", "tv"}
	s2, _ := e.Running()
	e2 := gate(t, s2, f)
	note := func(text string) cell.Edit {
		return func(s *cell.State) error { s.Peer("laptop").Note = text; return nil }
	}
	if _, err := e2.Commit(t.Context(), 0, note("a"), reconcile.Options{}); err != nil {
		t.Fatalf("what the world broke closes the cell: %v", err)
	}
	if _, err := e2.Commit(t.Context(), 0, func(s *cell.State) error {
		s.Network.Policy = []string{"phone reaches internet"} // one of the two failing ones goes
		return nil
	}, reconcile.Options{}); err != nil {
		t.Fatalf("fewer failing tests are worse: %v", err)
	}
	_, err = e2.Commit(t.Context(), 0, func(s *cell.State) error {
		s.Network.Policy = []string{"phone reaches internet", "laptop cannot reach files"}
		return nil
	}, reconcile.Options{})
	if !errors.As(err, &bad) {
		t.Fatalf("a new test that fails was let in: %v", err)
	}
}

// The nightly run sees what changed by itself, says so, and is quiet again
// when the cause has gone.
func TestPolicyTestsAreRunEveryNight(t *testing.T) {
	h := scenario.Load(t, "testdata/scenarios/household.txtar")
	s := h.State.Clone()
	s.Network.Policy = []string{"phone reaches internet"}
	synctest.Test(t, func(t *testing.T) {
		f, runs := h.Facts, 0
		n := newNightly(slog.New(slog.NewTextHandler(io.Discard, nil)), func() ([]api.PolicyResult, error) {
			runs++
			return policyResults(s, f)
		})
		changes := make(chan cell.Revision, 1)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		task := n.task(func(context.Context) <-chan cell.Revision { return changes })
		go func() { done <- task.Run(ctx) }()
		wait := func(d time.Duration, wantRuns, wantNotices int) {
			t.Helper()
			time.Sleep(d) // of the bubble's clock
			synctest.Wait()
			if got := n.notices(); runs != wantRuns || len(got) != wantNotices {
				t.Fatalf("%d runs, notices %v", runs, got)
			}
		}
		wait(23*time.Hour, 0, 0)
		wait(2*time.Hour, 1, 0)
		f.Expired = []string{"phone"}
		changes <- 7
		wait(time.Hour, 1, 0) // seen at night
		wait(24*time.Hour, 2, 1)
		if x := n.notices()[0]; x.Code != "policy_fails" || x.Subject != "phone reaches internet" || !strings.Contains(x.Text, "10.20.0.2 → ") {
			t.Fatalf("%+v", x)
		}
		f.Expired = nil
		changes <- 8
		wait(time.Minute, 3, 0)
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}
