package cell_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/personal-internet-cell/pic/cell"
)

func TestChangedNamesResources(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*cell.State)
		want []string
	}{
		{"nothing", func(*cell.State) {}, nil},
		{"a field", func(s *cell.State) { s.Identity.Timezone = "Europe/Berlin" }, []string{"identity", "identity/timezone"}},
		{"an element", func(s *cell.State) { s.Peers[1].Note = "x" }, []string{"peers", "peers/b"}},
		{"one removed", func(s *cell.State) { s.Peers = s.Peers[1:] }, []string{"peers", "peers/a"}},
		{"one added", func(s *cell.State) { addPeer(t, s, "d", 9) }, []string{"peers", "peers/d"}},
		{"order", func(s *cell.State) { s.Peers[0], s.Peers[1] = s.Peers[1], s.Peers[0] }, []string{"peers"}},
		{"a list in a section", func(s *cell.State) { s.Network.LAN = append(s.Network.LAN, cell.LAN{Name: "lan"}) }, []string{"network", "network/lan"}},
		{"the same time, held otherwise", func(s *cell.State) { s.Users[0].Created = s.Users[0].Created.In(time.FixedZone("", 0)).UTC() }, nil},
		{"a shared slice", func(s *cell.State) { s.Peers[0].Services = []string{} }, nil},
		{"an address", func(s *cell.State) { s.Peers[2].Address4 = netip.MustParseAddr("10.17.0.99") }, []string{"peers", "peers/c"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := claimed()
			for i, n := range []string{"a", "b", "c"} {
				addPeer(t, s, n, byte(i+2))
			}
			s.Users[0].Created = time.Unix(1e9, 0).UTC()
			s.Normalize()
			e := s.Clone()
			c.edit(e)
			e.Normalize()
			if d := cmp.Diff(c.want, cell.Changed(s, e)); d != "" {
				t.Error(d)
			}
			settings, err := cell.Settings(s, e)
			if err != nil || (len(settings) == 0) != (c.want == nil || c.name == "order") {
				t.Errorf("settings %+v, %v", settings, err)
			}
		})
	}
}

func TestSettingsPointAtWhatDiffers(t *testing.T) {
	s := claimed()
	addPeer(t, s, "a", 2)
	addPeer(t, s, "b", 3)
	s.Normalize()
	e := s.Clone()
	e.Peers[1].Note = "x/y"
	e.Peers = e.Peers[1:]
	e.DNS.Records = []cell.Record{{Name: "www", Type: "A", Value: "192.0.2.1"}}
	got, err := cell.Settings(s, e)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, x := range got {
		lines = append(lines, x.Op+" "+x.Pointer)
	}
	want := []string{"replace /dns/records", "remove /peers/0", "replace /peers/0/note"}
	if d := cmp.Diff(want, lines); d != "" {
		t.Fatal(d)
	}
}
