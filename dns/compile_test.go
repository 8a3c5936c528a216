package dns_test

import (
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	mdns "github.com/miekg/dns"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/dns"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Fatalf("%s (go test -update rewrites it):\n%s", file, d)
	}
}

func TestViewsOfAHousehold(t *testing.T) {
	s, f := household(t)
	s.DNS.Records = s.DNS.Records[:8]
	s.DNS.RebindAllow = []string{"plex.direct"}
	golden(t, "household.zone", compile(t, s, f).String())
}

func TestViewsOfANewCell(t *testing.T) {
	s := cell.Factory([16]byte{9}, "tunnel", key(1))
	golden(t, "unclaimed.zone", compile(t, s, cell.Facts{}).String())
	s.Users = append(s.Users, cell.User{Name: "admin", Role: cell.RoleAdmin, PasswordHash: "pw"})
	s.Identity = cell.Identity{Name: "home", Mode: cell.ModeLAN}
	golden(t, "lan-mode.zone", compile(t, s, cell.Facts{}).String())
}

// A plan in mode lan has no public name: asking for the public zone must not
// open the uplink.
func TestInternalNamesAreNeverPublic(t *testing.T) {
	s, f := household(t)
	s.Identity.Mode = cell.ModeLAN
	v := compile(t, s, f)
	if v.Uplink != "" || slices.ContainsFunc(v.Listen, func(a netip.AddrPort) bool { return a.Addr() == netip.MustParseAddr("203.0.113.7") }) {
		t.Fatalf("the uplink is served:\n%s", v)
	}
}

func TestCompileIsDeterministic(t *testing.T) {
	s, f := household(t)
	first := compile(t, s, f)
	for range 20 {
		if v := compile(t, s, f); !v.Equal(first) || v.String() != first.String() {
			t.Fatal("two plans of one state differ")
		}
	}
}

// What is printed must be what the notation's own reader understands.
func TestPlanIsZoneFileNotation(t *testing.T) {
	s, f := household(t)
	v := compile(t, s, f)
	for _, part := range strings.Split(v.String(), "\n; view ")[1:] {
		_, text, _ := strings.Cut(part, "\n")
		zp := mdns.NewZoneParser(strings.NewReader(text), "", "")
		n := 0
		for _, ok := zp.Next(); ok; _, ok = zp.Next() {
			n++
		}
		if err := zp.Err(); err != nil || n < 2 {
			t.Fatalf("%d records, %v in:\n%s", n, err, text)
		}
	}
}

func TestUnservableRecordsAreRefusedByPointer(t *testing.T) {
	for _, c := range []struct {
		name, pointer string
		record        cell.Record
	}{
		{"malformed MX", "/dns/records/68/value", cell.Record{Name: "a", Type: "MX", Value: "nonsense"}},
		{"malformed SRV", "/dns/records/68/value", cell.Record{Name: "_x._tcp", Type: "SRV", Value: "1 2 3"}},
		{"two records in one", "/dns/records/68/value", cell.Record{Name: "a", Type: "TXT", Value: "( a"}},
		{"only a comment", "/dns/records/68/value", cell.Record{Name: "a", Type: "TXT", Value: "; a"}},
		{"name too long", "/dns/records/68/value", cell.Record{Name: "a", Type: "CNAME", Value: strings.Repeat("abcdefgh.", 40)}},
		{"address of the cell", "/dns/records/68/name", cell.Record{Name: "pic", Type: "A", Value: "192.0.2.1"}},
		{"address of the apex", "/dns/records/68/name", cell.Record{Name: "@", Type: "A", Value: "192.0.2.1"}},
		{"address of a service", "/dns/records/68/name", cell.Record{Name: "files", Type: "AAAA", Value: "2001:db8::1"}},
		{"alias of a service", "/dns/records/68/name", cell.Record{Name: "files", Type: "CNAME", Value: "nas"}},
		{"address among the peers", "/dns/records/68/name", cell.Record{Name: "laptop.peers", Type: "A", Value: "192.0.2.1"}},
		{"alias beside an address", "/dns/records/68/name", cell.Record{Name: "nas", Type: "CNAME", Value: "www"}},
		{"text beside an alias", "/dns/records/68/name", cell.Record{Name: "www", Type: "TXT", Value: "x"}},
		{"second alias", "/dns/records/68/name", cell.Record{Name: "www", Type: "CNAME", Value: "mail"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, f := household(t)
			s.DNS.Records = append(s.DNS.Records, c.record)
			_, err := dns.Compile(s, f)
			var bad *cell.InvalidError
			if !errors.As(err, &bad) {
				t.Fatalf("compiled: %v", err)
			}
			if bad.Fields[0].Pointer != c.pointer {
				t.Fatalf("want %s, got %v", c.pointer, err)
			}
		})
	}
}

func TestReverseZonesCoverThePrefix(t *testing.T) {
	for prefix, want := range map[string][]string{
		"10.0.0.0/8":        {"10.in-addr.arpa."},
		"10.4.0.0/15":       {"4.10.in-addr.arpa.", "5.10.in-addr.arpa."},
		"10.17.0.0/16":      {"17.10.in-addr.arpa."},
		"10.17.2.0/23":      {"2.17.10.in-addr.arpa.", "3.17.10.in-addr.arpa."},
		"10.17.0.0/24":      {"0.17.10.in-addr.arpa."},
		"10.17.0.64/29":     {"0.17.10.in-addr.arpa."},
		"fd02:304:506::/64": {"0.0.0.0.6.0.5.0.4.0.3.0.2.0.d.f.ip6.arpa."},
	} {
		if d := cmp.Diff(want, dns.ReverseZones(netip.MustParsePrefix(prefix))); d != "" {
			t.Errorf("%s: %s", prefix, d)
		}
	}
	if n := len(dns.ReverseZones(netip.MustParsePrefix("10.0.0.0/9"))); n != 128 {
		t.Errorf("a /9 is %d zones, want 128", n)
	}
}

// A prefix of several reverse zones: each address lies in its own.
func TestReverseNamesOfALargeTunnel(t *testing.T) {
	st, f := household(t)
	st.Network.Tunnel.Prefix4 = netip.MustParsePrefix("10.17.0.0/22")
	st.Peers[1].Address4 = netip.MustParseAddr("10.17.3.77")
	v := compileNoListen(t, st, f)
	s := start(t, &dns.Config{Direct: noNetwork{t}}, v)
	for name, want := range map[string]string{"77.3.17.10": "phone.peers.home.pic.ngo.", "2.0.17.10": "laptop.peers.home.pic.ngo.", "78.3.17.10": ""} {
		r := ask(t, s, question(name+".in-addr.arpa.", mdns.TypePTR), "pic0", "10.17.3.77", false)
		got := ""
		if len(r.Answer) == 1 {
			got = r.Answer[0].(*mdns.PTR).Ptr
		}
		if got != want || !r.Authoritative {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestForwardersNeverLeadBackToTheCell(t *testing.T) {
	s, f := household(t)
	f.Resolvers = []netip.AddrPort{netip.AddrPortFrom(s.Network.Tunnel.Gateway4(), 53), netip.MustParseAddrPort("192.168.7.1:53"), netip.MustParseAddrPort("203.0.113.1:53")}
	v := compile(t, s, f)
	if len(v.Forwarders) != 1 || v.Forwarders[0].Address != f.Resolvers[2] {
		t.Fatalf("forwarders: %v", v.Forwarders)
	}
}

// Equal must notice a change of any field of a plan.
func TestEqualSeesEveryField(t *testing.T) {
	s, f := household(t)
	s.DNS.RebindAllow = []string{"plex.direct"}
	first := compile(t, s, f)
	n := 0
	var change func(v reflect.Value)
	change = func(v reflect.Value) {
		switch {
		case v.Type() == reflect.TypeFor[netip.Addr]() || v.Type() == reflect.TypeFor[netip.AddrPort]() || v.Type() == reflect.TypeFor[netip.Prefix]():
			old := v.Interface()
			v.SetZero()
			check(t, first, s, f, v.Type().String())
			v.Set(reflect.ValueOf(old))
			n++
		case v.Kind() == reflect.Struct:
			for i := range v.NumField() {
				change(v.Field(i))
			}
		case v.Kind() == reflect.Slice:
			if v.Len() == 0 {
				t.Fatalf("nothing to change in a %s", v.Type())
			}
			change(v.Index(0))
		case v.Kind() == reflect.String:
			old := v.String()
			v.SetString(old + "x")
			check(t, first, s, f, "string "+old)
			v.SetString(old)
			n++
		case v.Kind() == reflect.Bool:
			v.SetBool(!v.Bool())
			check(t, first, s, f, "yes or no")
			v.SetBool(!v.Bool())
			n++
		case v.CanUint():
			v.SetUint(v.Uint() + 1)
			check(t, first, s, f, "number")
			v.SetUint(v.Uint() - 1)
			n++
		case v.CanInt():
			v.SetInt(v.Int() + 1)
			check(t, first, s, f, "number")
			v.SetInt(v.Int() - 1)
			n++
		default:
			t.Fatalf("a field of kind %s", v.Kind())
		}
	}
	change(reflect.ValueOf(&first).Elem())
	if n < 20 || !first.Equal(compile(t, s, f)) {
		t.Fatalf("%d fields changed", n)
	}
}

func check(t *testing.T, changed dns.Views, s *cell.State, f cell.Facts, what string) {
	t.Helper()
	if changed.Equal(compile(t, s, f)) {
		t.Errorf("a changed %s goes unnoticed", what)
	}
}
