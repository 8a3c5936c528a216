package datastore_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/datastore"
)

func manyPeers(t testing.TB, n int) *cell.State {
	t.Helper()
	s := cell.Factory([16]byte{1}, "tunnel", "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
	s.Network.Tunnel.Prefix4 = s.Network.Tunnel.Reserved4
	v4, v6, err := s.FreeAddresses()
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		s.Peers = append(s.Peers, peer(i, v4, v6))
		v4, v6 = v4.Next(), v6.Next()
	}
	s.Normalize()
	return s
}

func peer(i int, v4, v6 netip.Addr) cell.Peer {
	var k [32]byte
	binary.BigEndian.PutUint32(k[1:], uint32(i+1))
	return cell.Peer{
		Name: fmt.Sprintf("peer-%d", i), PublicKey: cell.Key(base64.StdEncoding.EncodeToString(k[:])), Address4: v4, Address6: v6,
		Enabled: true, Destinations: cell.FullTunnel, Trust: cell.TrustFamily, Created: time.Unix(1e9, 0).UTC(),
	}
}

func addPeer(t testing.TB, s *cell.State, i int) {
	t.Helper()
	v4, v6, err := s.FreeAddresses()
	if err != nil {
		t.Fatal(err)
	}
	s.Peers = append(s.Peers, peer(i, v4, v6))
}

// TestRevisionsHoldTheDocumentWhateverWasKept edits at random: each file must
// be what an encoder that keeps nothing makes, and hold what json.Marshal makes.
func TestRevisionsHoldTheDocumentWhateverWasKept(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	dir := filepath.Join(t.TempDir(), "state")
	store, err := datastore.Open(&datastore.Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	s := manyPeers(t, 3000)
	for n := cell.Revision(1); n <= 40; n++ {
		if err := store.Write(cell.RevisionInfo{Number: n, Parent: n - 1}, s, []string{}); err != nil {
			t.Fatal(err)
		}
		file, err := os.ReadFile(filepath.Join(dir, "revisions", fmt.Sprintf("%06d.json.gz", n)))
		if err != nil {
			t.Fatal(err)
		}
		zr, err := gzip.NewReader(bytes.NewReader(file))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(zr) // checks sum and size
		if err != nil {
			t.Fatal(err)
		}
		want, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		_, document, _ := bytes.Cut(text, []byte("\n"))
		if !bytes.Equal(document, want) {
			t.Fatalf("revision %d holds another document than json.Marshal makes", n)
		}
		plain, err := datastore.WriteRevision(n, s)
		if err != nil {
			t.Fatal(err)
		}
		// Behind the header, in which the time differs, they are the same.
		if tail := len(plain) / 2; len(s.Peers) > 100 && !bytes.Equal(plain[len(plain)-tail:len(plain)-8], file[len(file)-tail:len(file)-8]) {
			t.Fatalf("revision %d depends on what was kept", n)
		}
		if got, _, err := store.State(n); err != nil || len(cell.Changed(got, s)) != 0 {
			t.Fatalf("revision %d can't be read as it was: %v", n, err)
		}
		next := s.Clone()
		for range 1 + r.IntN(3) {
			i := r.IntN(max(1, len(next.Peers)))
			if len(next.Peers) == 0 {
				break
			}
			switch r.IntN(6) {
			case 0:
				next.Peers = slices.Delete(next.Peers, i, i+1)
			case 1:
				next.Peers[i].Note = fmt.Sprint("<&> \u2028 ", n)
			case 2:
				next.Peers[i].Services = []string{"a", fmt.Sprint(n)}
			case 3:
				next.Peers[i].Name = fmt.Sprintf("renamed-%d", n)
			case 4:
				next.Identity.Timezone = fmt.Sprint("Zone/", n)
			default:
				addPeer(t, next, 10000+int(n)*10+r.IntN(10))
			}
		}
		if n == 30 {
			next.Peers = []cell.Peer{}
		}
		if n == 31 {
			addPeer(t, next, 1)
			addPeer(t, next, 2)
		}
		next.Normalize()
		s = next
	}
}

// BenchmarkWrite10000 is a revision of 10,000 peers, one of them changed.
func BenchmarkWrite10000(b *testing.B) {
	store, err := datastore.Open(&datastore.Config{Dir: filepath.Join(b.TempDir(), "state"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	s := manyPeers(b, 10_000)
	n := cell.Revision(0)
	for b.Loop() {
		n++
		next := s.Clone()
		next.Peers[int(n)%len(s.Peers)].Note = fmt.Sprint(n)
		if err := store.Write(cell.RevisionInfo{Number: n, Parent: n - 1}, next, []string{}); err != nil {
			b.Fatal(err)
		}
		s = next
	}
}
