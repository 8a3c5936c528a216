package main

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/datastore"
	"github.com/personal-internet-cell/pic/exits"
	"github.com/personal-internet-cell/pic/firewall"
)

func TestHostKeysOutliveTheProcess(t *testing.T) {
	dir := t.TempDir()
	open := func() *datastore.Store {
		s, err := datastore.Open(&datastore.Config{Dir: dir, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	p := &pinStore{history: s.History()}
	if key, err := p.LoadPin("home ssh.example:22"); key != "" || err != nil {
		t.Fatalf("%q, %v", key, err)
	}
	if err := p.SavePin("home ssh.example:22", "ssh-ed25519 AAAA"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open()
	t.Cleanup(func() { _ = s.Close() })
	if key, err := (&pinStore{history: s.History()}).LoadPin("home ssh.example:22"); key != "ssh-ed25519 AAAA" || err != nil {
		t.Errorf("%q, %v", key, err)
	}
	// A damaged file is not an empty one: every key would be accepted.
	if err := os.WriteFile(filepath.Join(dir, "history", pinsName), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := (&pinStore{history: s.History()}).LoadPin("home ssh.example:22"); err == nil {
		t.Error("a damaged file was read as one without keys")
	}
}

func TestExitsChosenForATimeLapse(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	at := func(d time.Duration) *time.Time { x := now.Add(d); return &x }
	s := &cell.State{Peers: []cell.Peer{{Name: "tv", ExitUntil: at(-time.Second)}, {Name: "laptop"}, {Name: "phone", ExitUntil: at(3 * time.Second)}, {Name: "box", ExitUntil: at(0)}}}
	names, wait := lapsed(s, now, 10*time.Second)
	if !slices.Equal(names, []string{"box", "tv"}) || wait != 3*time.Second+time.Millisecond {
		t.Errorf("%v, %s", names, wait)
	}
}

func TestRoutedExitsCountInTheFirewall(t *testing.T) {
	s := &cell.State{Exits: []cell.Exit{{ID: "wg", Type: cell.ExitWireGuard, Slot: 2}, {ID: "nl", Type: cell.ExitProxy}}}
	file := filepath.Join(t.TempDir(), "dev")
	if err := os.WriteFile(file, []byte("Inter-|   Receive\n face |bytes    packets\n    lo: 10 1\nwg_ext2:77 1 0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, leaked := mergeCounters([]exits.Status{{ID: "nl", Sent: 5, Received: 6}, {ID: "wg"}, {ID: "away", Chain: true}}, s, []firewall.Counter{
		{Mark: 0x12, Interface: "wg_ext2", Bytes: 1000, Packets: 3}, {Mark: 0x12, Interface: "eth0", Leak: true, Packets: 4},
	}, received(file))
	if got[0].Sent != 5 || got[0].Received != 6 || got[1].Sent != 1000 || got[1].Received != 77 || leaked[0x12] != 4 {
		t.Errorf("%+v, leaked %v", got, leaked)
	}
}
