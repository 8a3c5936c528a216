package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/datastore"
	"github.com/personal-internet-cell/pic/reconcile"
	"github.com/personal-internet-cell/pic/tunnel"
)

// watched is an observer of an engine with one stage, whose fate the test holds.
type watchedCell struct {
	*observer
	fail    error
	notices []cell.Notice
	device  tunnel.Status
	state   *cell.State
}

func observed(t *testing.T, peers int) *watchedCell {
	t.Helper()
	w := &watchedCell{device: tunnel.Status{Device: "pic0", Backend: tunnel.BackendKernel, Peers: map[cell.Key]tunnel.PeerStatus{}}}
	store, err := datastore.Open(&datastore.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	stage := reconcile.NewStage("dns", func(*cell.State, cell.Facts) (planText, error) { return "", nil },
		func(context.Context, planText) (bool, error) { return false, w.fail })
	engine, err := reconcile.New(&reconcile.Config{Store: store, Stages: []reconcile.Stage{stage}, Notices: []func() []cell.Notice{func() []cell.Notice { return w.notices }}})
	if err != nil {
		t.Fatal(err)
	}
	err = engine.Boot(t.Context(), func() (*cell.State, map[cell.SecretRef]cell.Secret, error) {
		private, public := tunnel.GenerateKey()
		ref := store.NewRef("wireguard")
		return cell.Factory([16]byte{7}, ref, public), map[cell.SecretRef]cell.Secret{ref: private}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	_, names := manyPeers(peers)
	w.state = &cell.State{}
	for k, n := range names {
		w.state.Peers = append(w.state.Peers, cell.Peer{Name: n, PublicKey: k})
	}
	w.observer = &observer{
		engine: engine, samples: datastore.OpenSamples(store), events: datastore.OpenEvents(store), started: time.Now(), lastLook: time.Now(),
		tunnel: func(context.Context) (tunnel.Status, error) { return w.device, nil },
	}
	return w
}

type planText string

func (p planText) String() string { return string(p) }

func (w *watchedCell) told() (out []string) {
	found, _ := w.events.List("", 0, 1000)
	for _, e := range slices.Backward(found) {
		out = append(out, strings.TrimSpace(fmt.Sprint(e.Kind, " ", e.Subject, " ", e.What)))
	}
	return out
}

func TestEventsAreTheDifferences(t *testing.T) {
	w := observed(t, 0)
	now := time.Now()
	w.look(now)
	w.look(now)
	w.notices = []cell.Notice{{Code: "dns_listen", Subject: "10.1.1.1:53", Text: "taken"}}
	w.look(now)
	w.notices = nil
	w.look(now)
	w.look(now)
	want := []string{"revision 1 running", "notice dns_listen 10.1.1.1:53 raised", "notice dns_listen 10.1.1.1:53 cleared"}
	if got := w.told(); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	w.conditions["dns"] = cell.Condition{Stage: "dns", State: cell.Failed, Reason: errors.New("taken").Error()}
	w.look(now)
	if got := w.told(); got[len(got)-1] != "condition dns in-sync" {
		t.Errorf("%q", got)
	}
}

func TestPeersComeAndGoAndTheirTrafficIsAddedUp(t *testing.T) {
	w := observed(t, 200)
	now := time.Now()
	step := func(f func(k cell.Key, i int) (rx uint64, online bool)) cell.Sample {
		now = now.Add(10 * time.Second)
		w.device.Peers = map[cell.Key]tunnel.PeerStatus{}
		for i := range w.state.Peers {
			k := w.state.Peers[i].PublicKey
			rx, online := f(k, i)
			w.device.Peers[k] = tunnel.PeerStatus{ReceivedBytes: rx, SentBytes: 2 * rx, Online: online}
		}
		s := cell.Sample{Peers: map[string]cell.Traffic{}}
		w.peers(now, w.state, 1, &w.device, &s)
		return s
	}
	// What the device counted before is not of now.
	if s := step(func(cell.Key, int) (uint64, bool) { return 1000, false }); s.Total.RxBytes != 0 || len(s.Peers) != 0 {
		t.Errorf("%+v", s)
	}
	if s := step(func(_ cell.Key, i int) (uint64, bool) { return 1000 + uint64(i), i < 3 }); s.Total.RxBytes != 199*200/2 || len(s.Peers) != 199 || w.count != 3 {
		t.Errorf("%+v", s.Total)
	}
	if got := w.told(); len(got) != 3 || !strings.HasSuffix(got[0], " online") {
		t.Errorf("%q", got)
	}
	// A device that was made anew counts from 0.
	if s := step(func(_ cell.Key, i int) (uint64, bool) { return uint64(i), i < 3 }); s.Total.RxBytes != 199*200/2 {
		t.Errorf("%+v", s.Total)
	}
	step(func(_ cell.Key, i int) (uint64, bool) { return uint64(i), i >= 3 })
	if got := w.told(); len(got) != 3+peerEvents+1 || got[len(got)-1] != "peer  more" {
		t.Errorf("%d events, the last %q", len(got), got[len(got)-1])
	}
}

func BenchmarkObserveTenThousandPeers(b *testing.B) {
	st, _ := manyPeers(10_000)
	w := &observer{}
	state := &cell.State{}
	for k := range st.Peers {
		state.Peers = append(state.Peers, cell.Peer{Name: string(k[:8]), PublicKey: k})
	}
	for b.Loop() {
		s := cell.Sample{Peers: map[string]cell.Traffic{}}
		w.peers(time.Now(), state, 1, st, &s)
	}
}

// The task looks by itself and ends with its context.
func TestTheObserverEndsWithItsContext(t *testing.T) {
	w := observed(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.task(slog.New(slog.DiscardHandler)).Run(ctx) }()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
