package tunnel_test

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/tunnel"
)

const zero64 = "0000000000000000000000000000000000000000000000000000000000000000"

var (
	hex2, hex3 = hexOf(testKey(2)), hexOf(testKey(3))
	answer     = "private_key=77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a\nlisten_port=51820\nfwmark=1\n" +
		"public_key=" + hex2 + "\npreshared_key=" + hex3 + "\nprotocol_version=1\nendpoint=[2001:db8::1]:4500\n" +
		"last_handshake_time_sec=1700000000\nlast_handshake_time_nsec=5\ntx_bytes=7\nrx_bytes=9\npersistent_keepalive_interval=25\n" +
		"allowed_ip=10.17.0.2/32\nallowed_ip=fd02:304:506::2/128\nsomething_new=1\n" +
		"public_key=" + hex3 + "\npreshared_key=" + zero64 + "\nlast_handshake_time_sec=0\nlast_handshake_time_nsec=0\n"
)

func hexOf(k cell.Key) string {
	s, err := tunnel.FormatUAPI(&tunnel.Patch{Peers: []tunnel.PeerPatch{{PublicKey: k, Remove: true}}})
	if err != nil {
		panic(err)
	}
	return strings.TrimPrefix(strings.SplitN(s, "\n", 2)[0], "public_key=")
}

func TestDeviceIsReadAsItIs(t *testing.T) {
	got, err := tunnel.ParseUAPI(answer)
	must(t, err)
	want := tunnel.Observed{
		PublicKey: "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=", ListenPort: 51820, FirewallMark: 1,
		Peers: []tunnel.ObservedPeer{
			{
				PublicKey: testKey(2), PresharedKey: cell.NewSecret(string(testKey(3))), Endpoint: netip.MustParseAddrPort("[2001:db8::1]:4500"),
				LastHandshake: time.Unix(1700000000, 5), SentBytes: 7, ReceivedBytes: 9, Keepalive: 25 * time.Second,
				AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.17.0.2/32"), netip.MustParsePrefix("fd02:304:506::2/128")},
			},
			{PublicKey: testKey(3)},
		},
	}
	if d := cmp.Diff(want, got, cmpopts.EquateComparable(cell.Secret{}, netip.Prefix{}, netip.AddrPort{})); d != "" {
		t.Fatal(d)
	}
}

func TestBrokenAnswersAreRefusedWithoutQuotingThem(t *testing.T) {
	for _, text := range []string{
		"private_key=canary\n", "canary\n", "private_key=" + strings.Repeat("zc", 32) + "\n",
		"listen_port=canary\n", "fwmark=canary\n", "public_key=canary\n",
		"public_key=" + hex2 + "\npreshared_key=canary\n", "public_key=" + hex2 + "\nallowed_ip=1\n",
		"public_key=" + hex2 + "\nendpoint=1\n", "public_key=" + hex2 + "\npersistent_keepalive_interval=65536\n",
	} {
		if o, err := tunnel.ParseUAPI(text); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%q: %v %+v", text, err, o)
		}
	}
}

func TestPatchIsWrittenPeerByPeerAndNeverReplacesAll(t *testing.T) {
	mark, keep, none := uint32(1), 25*time.Second, cell.Secret{}
	psk := cell.NewSecret(string(testKey(9)))
	got, err := tunnel.FormatUAPI(&tunnel.Patch{FirewallMark: &mark, Peers: []tunnel.PeerPatch{
		{PublicKey: testKey(3), Remove: true},
		{PublicKey: testKey(2), PresharedKey: &psk, Keepalive: &keep, Endpoint: netip.MustParseAddrPort("[2001:db8::1]:4500"), AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.17.0.2/32")}},
		{PublicKey: testKey(4), PresharedKey: &none},
	}})
	must(t, err)
	want := "fwmark=1\npublic_key=" + hex3 + "\nremove=true\n" +
		"public_key=" + hex2 + "\npreshared_key=" + hexOf(testKey(9)) + "\nendpoint=[2001:db8::1]:4500\npersistent_keepalive_interval=25\nreplace_allowed_ips=true\nallowed_ip=10.17.0.2/32\n" +
		"public_key=" + hexOf(testKey(4)) + "\npreshared_key=" + zero64 + "\n"
	if d := cmp.Diff(want, got); d != "" {
		t.Fatal(d)
	}
}

func FuzzParseUAPI(f *testing.F) {
	f.Add(answer)
	f.Add("listen_port=1\n\npublic_key=x")
	f.Add("public_key=" + hex2 + "\nlast_handshake_time_nsec=-9223372036854775808\n")
	f.Fuzz(func(t *testing.T, text string) {
		o, err := tunnel.ParseUAPI(text)
		if err != nil {
			return
		}
		for _, p := range o.Peers {
			if b, err := hex.DecodeString(hexOf(p.PublicKey)); err != nil || len(b) != 32 {
				t.Fatalf("peer %q", p.PublicKey)
			}
			// What was read can be written again.
			if _, err := tunnel.FormatUAPI(&tunnel.Patch{Peers: []tunnel.PeerPatch{{
				PublicKey: p.PublicKey, PresharedKey: &p.PresharedKey,
				AllowedIPs: p.AllowedIPs, Keepalive: &p.Keepalive, Endpoint: p.Endpoint,
			}}}); err != nil {
				t.Fatal(err)
			}
		}
	})
}
