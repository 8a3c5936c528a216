package cell_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/personal-internet-cell/pic/cell"
)

var assertions = []string{
	"laptop cannot reach files", "laptop reaches files", "tv leaves by nl", "tv leaves by direct",
	"from internet only 443/tcp 51820/udp", "from lan:home only nothing", "phone cannot reach laptop",
	"tv reaches internet", "peer:from reaches service:mail 993/tcp", "192.168.5.9 reaches cell 53/udp 53/tcp",
	"2001:db8::7 cannot reach 10.17.0.2", "lan:home cannot reach peer:laptop 22/tcp",
}

func TestAssertionsAreReadStrictly(t *testing.T) {
	for _, text := range assertions {
		a, err := cell.ParseAssertion(text)
		if err != nil || a.String() != text {
			t.Errorf("%q: %q, %v", text, a, err)
		}
	}
	for _, text := range []string{
		"", "laptop", "laptop reaches", "laptop  reaches files", " laptop reaches files", "laptop reaches files ",
		"laptop can reach files", "laptop cannot files", "Laptop reaches files", "laptop reaches files 443", "laptop reaches files 0/tcp",
		"laptop reaches files 65536/tcp", "laptop reaches files 0443/tcp", "laptop reaches files 443/sctp", "laptop reaches files 443/tcp 443/tcp",
		"from internet only", "from internet only nothing 443/tcp", "tv leaves by", "tv leaves by nl 443/tcp", "lan: reaches cell",
		"fe80::1%eth0 reaches cell", "laptop\treaches files", strings.Repeat("a", 400) + " reaches files",
	} {
		if a, err := cell.ParseAssertion(text); err == nil {
			t.Errorf("%q was read as %+v", text, a)
		}
	}
}

// A name that is not there is a mistake with its pointer, at once with all others.
func TestPolicyNamesMustExist(t *testing.T) {
	s := claimed()
	addPeer(t, s, "laptop", 2)
	addPeer(t, s, "mail", 3)
	s.Services = append(s.Services, cell.Service{ID: "mail", Subdomain: "mail", Access: cell.AccessGranted, Enabled: true})
	s.Network.Policy = []string{
		"laptop reaches internet", "phone reaches internet", "laptop reaches mail", "laptop reaches service:mail",
		"laptop leaves by nl", "internet leaves by direct", "lan:home reaches cell", "laptop reaches laptop", "laptop reaches internet",
	}
	var bad *cell.InvalidError
	if !errors.As(s.Validate(), &bad) {
		t.Fatal("all was found fine")
	}
	var got []string
	for _, f := range bad.Fields {
		got = append(got, f.Pointer)
	}
	want := []string{"/network/policy/1", "/network/policy/2", "/network/policy/4", "/network/policy/5", "/network/policy/6", "/network/policy/7", "/network/policy/8"}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatal(d, bad)
	}
}

func FuzzAssertion(f *testing.F) {
	for _, text := range assertions {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := cell.ParseAssertion(text)
		if err != nil {
			if strings.Contains(err.Error(), "\x00") {
				t.Fatalf("an error with a raw byte: %q", err)
			}
			return
		}
		again, err := cell.ParseAssertion(a.String())
		if d := cmp.Diff(a, again, cmpopts.EquateComparable(cell.Endpoint{})); err != nil || d != "" {
			t.Fatalf("%q became %q: %v %s", text, a, err, d)
		}
	})
}
