package api_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/exits/profile"
)

// exitWorld stands for what runs behind the exits. What people paste is read
// by the real parsers.
type exitWorld struct {
	mu     sync.Mutex
	status map[string]api.ExitStatus
	since  map[string]time.Time
}

func (w *exitWorld) set(id string, st api.ExitStatus) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.status == nil {
		w.status = map[string]api.ExitStatus{}
	}
	w.status[id] = st
}

func (w *exitWorld) house() api.Exits {
	return api.Exits{
		Parse: func(in cell.ExitPaste) *cell.ExitDraft { return profile.Parse(in, profile.Options{Now: time.Now()}) },
		Status: func(context.Context) map[string]api.ExitStatus {
			w.mu.Lock()
			defer w.mu.Unlock()
			out := map[string]api.ExitStatus{}
			for k, v := range w.status {
				out[k] = v
			}
			return out
		},
		Chains: func(context.Context) map[string]time.Time { return w.since },
		Test: func(_ context.Context, id string) (api.ExitTest, error) {
			if id == "broken" {
				return api.ExitTest{}, errors.New("the exit is blocked: no handshake")
			}
			return api.ExitTest{OK: true, PublicAddress4: "192.0.2.80", DNS: true, Checks: []api.Check{}}, nil
		},
		Proof: func(_ context.Context, id string) (api.ExitProof, error) {
			return api.ExitProof{Holds: true, Text: id + " holds", Probes: []api.ExitProbe{}}, nil
		},
		Installed: func(p string) bool { return p == "openvpn" },
	}
}

const (
	wgPrivate = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo="
	wgPSK     = "FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE="
	wgPeer    = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08="
	wgPasted  = "[Interface]\nPrivateKey = " + wgPrivate + "\nAddress = 10.2.0.2/32\n[Peer]\nPublicKey = " + wgPeer +
		"\nPresharedKey = " + wgPSK + "\nAllowedIPs = 0.0.0.0/0\nEndpoint = vpn.example.net:51820\n"
	exitsPath = "/api/connectivity/exits"
)

func (b *browser) exit(id string) api.Exit {
	b.t.Helper()
	return decode[api.Exit](b.t, b.want(200, "GET", exitsPath+"/"+id, nil))
}

func (r *rig) stored(id string) *cell.Exit {
	r.t.Helper()
	s, _ := r.engine.Running()
	e := s.Exit(id)
	if e == nil {
		r.t.Fatalf("there is no exit %s", id)
	}
	return e
}

func (r *rig) reveal(ref cell.SecretRef) string {
	r.t.Helper()
	if ref == "" {
		return ""
	}
	s, err := r.secret(ref)
	if err != nil {
		r.t.Fatal(err)
	}
	return s.Reveal()
}

func TestAWireGuardExitLivesFromAPastedFile(t *testing.T) {
	r, b := claimedRig(t)
	a := b.want(201, "POST", exitsPath, m{"type": "wireguard_ext", "name": "Netherlands (home)", "config": wgPasted})
	made := decode[api.Exit](t, a)
	if made.ID != "netherlands-home" || made.Kind != "routed" || made.Slot != 0 || made.Mark != 0x10 || made.Table != 110 || made.LinkName != "wg_ext0" || made.CatalogID != "wireguard-ext" ||
		made.State != cell.ExitConnecting || !made.HasCredentials || made.Address4 != "10.2.0.2" || made.Address6 != "" || !made.WireGuard.HasPresharedKey || made.WireGuard.Endpoint != "vpn.example.net:51820" {
		t.Errorf("%+v %+v", made, made.WireGuard)
	}
	for _, secret := range []string{wgPrivate, wgPSK} {
		if strings.Contains(string(a.body), secret) {
			t.Error("the answer has a secret")
		}
	}
	if d := cmp.Diff(made, b.exit(made.ID)); d != "" {
		t.Error(d)
	}
	e := r.stored(made.ID)
	if r.reveal(e.Credentials) != wgPrivate || r.reveal(e.WireGuard.PresharedKey) != wgPSK {
		t.Error("the secrets are not kept")
	}
	// Absent fields and secrets stay; a file replaces its own.
	one := *e
	b.want(200, "PUT", exitsPath+"/"+made.ID, m{"name": "nl", "wireguard": m{"mtu": 1380, "dns": []string{"10.2.0.1"}}, "probes": []string{"192.0.2.1:443"}, "socks": true})
	e = r.stored(made.ID)
	if e.Credentials != one.Credentials || e.WireGuard.PresharedKey != one.WireGuard.PresharedKey || e.WireGuard.MTU != 1380 || e.Name != "nl" || !e.Socks || e.WireGuard.Endpoint != one.WireGuard.Endpoint || one.WireGuard.MTU != 0 {
		t.Errorf("%+v %+v, was %+v", e, e.WireGuard, one.WireGuard)
	}
	b.want(200, "PUT", exitsPath+"/"+made.ID, m{"config": strings.Replace(wgPasted, "PresharedKey = "+wgPSK, "", 1)})
	if e := r.stored(made.ID); e.WireGuard.PresharedKey != "" || e.WireGuard.MTU != 0 || e.Name != "nl" || !e.Socks || e.Credentials == one.Credentials {
		t.Errorf("%+v %+v", e, e.WireGuard)
	}
	b.want(204, "DELETE", exitsPath+"/"+made.ID, nil)
	b.want(404, "GET", exitsPath+"/"+made.ID, nil)
}

func TestExitsOfEachType(t *testing.T) {
	r, b := claimedRig(t)
	for _, c := range []struct {
		body     m
		id, kind string
		mark     uint32
		check    func(api.Exit, *cell.Exit) bool
	}{
		{m{"type": "proxy", "config": "socks5://ann:p%40ss@proxy.example.net:1080"}, "proxy-example-net", "dialed", 0x50, func(x api.Exit, e *cell.Exit) bool {
			return x.Proxy.Username == "ann" && x.RelayPort == 12345 && r.reveal(e.Credentials) == "p@ss"
		}},
		{m{"type": "proxy", "name": "work", "proxy": m{"protocol": "http", "host": "192.0.2.9", "port": 3128}}, "work", "dialed", 0x51, func(x api.Exit, e *cell.Exit) bool {
			return x.Proxy.Host == "192.0.2.9" && !x.HasCredentials && x.RelayPort == 12346
		}},
		{m{"type": "sshuttle", "name": "server", "config": "ann@ssh.example.net:2222", "password": "let me in"}, "server", "dialed", 0x40, func(x api.Exit, e *cell.Exit) bool {
			return x.SSH.Port == 2222 && x.SSH.Auth == "password" && r.reveal(e.Credentials) == "let me in"
		}},
		{m{"type": "sshuttle", "name": "server", "ssh": m{"host": "other.example.net", "user": "bob"}, "password": "pw"}, "server-2", "dialed", 0x41, func(x api.Exit, e *cell.Exit) bool {
			return x.SSH.Port == 22 && x.SSH.User == "bob"
		}},
		{m{"type": "tor", "config": "nl, de"}, "tor", "dialed", 0x30, func(x api.Exit, e *cell.Exit) bool {
			return cmp.Equal(x.Tor.Countries, []string{"nl", "de"}) && x.RelayPort == 9040
		}},
		{m{"type": "tor", "name": "direct"}, "direct-2", "dialed", 0x31, func(x api.Exit, e *cell.Exit) bool { return len(x.Tor.Countries) == 0 }},
		{
			m{"type": "wireguard_ext", "name": "fields", "address4": "10.9.0.2/32", "private_key": wgPrivate, "wireguard": m{"peer_key": wgPeer, "endpoint": "192.0.2.7:51820", "allowed_ips": []string{"0.0.0.0/0"}}},
			"fields", "routed", 0x10, func(x api.Exit, e *cell.Exit) bool {
				return x.WireGuard.PublicKey != "" && x.Address4 == "10.9.0.2" && r.reveal(e.Credentials) == wgPrivate
			},
		},
	} {
		x := decode[api.Exit](t, b.want(201, "POST", exitsPath, c.body))
		if x.ID != c.id || x.Kind != c.kind || x.Mark != c.mark || !c.check(x, r.stored(x.ID)) {
			t.Errorf("%v: %+v", c.body, x)
		}
	}
	if l := decode[api.List[api.Exit]](t, b.want(200, "GET", "/api/routing/exits", nil)); len(l.Items) != 7 {
		t.Errorf("%d exits", len(l.Items))
	}
	types := decode[api.List[api.ExitTypeInfo]](t, b.want(200, "GET", "/api/connectivity/types", nil))
	got := map[cell.ExitType]string{}
	for _, x := range types.Items {
		got[x.Type] = fmt.Sprint(x.CatalogID, " ", x.Count, "/", x.Max, " ", x.Installed, " ", x.InstallCommand)
	}
	if d := cmp.Diff(map[cell.ExitType]string{
		"wireguard_ext": "wireguard-ext 1/10 true ", "openvpn": "openvpn-client 0/10 true ", "tor": "tor 2/10 false apt install tor", "sshuttle": "sshuttle 2/10 true ", "proxy": "proxy 2/10 true ",
	}, got); d != "" {
		t.Error(d)
	}
}

// Every mistake comes at once, with where it is and what to do.
func TestMistakesInExitsPointAtTheField(t *testing.T) {
	r, b := claimedRig(t)
	_, before := r.engine.Running()
	for _, c := range []struct {
		body m
		want string // pointers
	}{
		{m{"type": "wireguard_ext", "config": strings.Replace(wgPasted, "[Peer]", "PostUp = reboot\nTable = x\n[Peer]\nFoo = 1", 1)}, "/config /config"},
		{m{"type": "sshuttle", "config": "ann@b"}, "/private_key /password"},
		{m{"type": "sshuttle", "ssh": m{"host": "a b", "user": ""}, "password": "x"}, "/ssh/host /ssh/user"},
		{m{"type": "sshuttle", "ssh": m{"host": "a", "user": "b"}, "private_key": "nonsense"}, "/private_key"},
		{m{"type": "proxy", "config": "socks5://ann@h"}, "/password"},
		{m{"type": "proxy", "proxy": m{"host": "h"}}, "/proxy/port /proxy/protocol"},
		{m{"type": "tor", "tor": m{"countries": []string{"NL"}}, "probes": []string{"x"}}, "/probes/0"},
		{m{"type": "tor", "tor": m{"countries": []string{"NL"}}}, "/tor/countries/0"},
		{m{"type": "tor", "wireguard": m{}, "address4": "x"}, "/wireguard /address4"},
		{m{"type": "tor", "tor": m{}, "config": "nl"}, "/tor"},
		{m{"type": "openvpn", "username": "x"}, "/config"},
		{m{"type": "wireguard_ext", "private_key": "x"}, "/private_key"},
		{m{"type": "wireguard_ext", "private_key": wgPrivate, "wireguard": m{"peer_key": wgPeer, "endpoint": "x", "allowed_ips": []string{"0.0.0.0/0", "y"}, "preshared_key": "z"}}, "/wireguard/allowed_ips/1 /wireguard/preshared_key"},
		{m{"type": "wireguard_ext", "private_key": wgPrivate, "wireguard": m{"peer_key": wgPeer, "endpoint": "x", "allowed_ips": []string{"0.0.0.0/0"}}}, "/address4 /wireguard/endpoint"},
		{m{"type": "cell"}, "/type"},
	} {
		p := b.want(422, "POST", exitsPath, c.body).problem()
		var got []string
		for _, e := range p.Errors {
			got = append(got, e.Pointer)
			if e.Message == "" || strings.Contains(e.Message, wgPrivate) {
				t.Errorf("%v: %+v", c.body, e)
			}
		}
		if strings.Join(got, " ") != c.want || p.Code != "invalid" {
			t.Errorf("%v: %s %+v, want %s", c.body, p.Code, p.Errors, c.want)
		}
	}
	if p := b.want(422, "POST", exitsPath, m{"type": "wireguard_ext", "config": "[Interface]\nPostUp = x"}).problem(); !strings.Contains(p.Errors[0].Message, "PrivateKey") && !strings.Contains(fmt.Sprint(p.Errors), "line 2: PostUp") {
		t.Errorf("%+v", p.Errors)
	}
	if _, after := r.engine.Running(); after != before {
		t.Error("something was stored")
	}
}

func TestParsingStoresNothing(t *testing.T) {
	r, b := claimedRig(t)
	_, before := r.engine.Running()
	a := b.want(200, "POST", exitsPath+"/parse", m{"type": "wireguard_ext", "config": wgPasted + "Foo = bar\n"})
	x := decode[api.ExitParsed](t, a)
	if x.OK || len(x.Refused) != 1 || x.Refused[0].Line != 9 || x.Name != "vpn.example.net" || x.WireGuard == nil || !x.WireGuard.HasPresharedKey || strings.Contains(string(a.body), wgPSK) {
		t.Errorf("%+v", x)
	}
	x = decode[api.ExitParsed](t, b.want(200, "POST", exitsPath+"/parse", m{"type": "sshuttle", "config": "ann@b"}))
	if !x.OK || cmp.Diff(x.Asks, []string{"private_key", "password"}) != "" {
		t.Errorf("%+v", x)
	}
	if _, after := r.engine.Running(); after != before {
		t.Error("something was stored")
	}
}

func TestTenExitsOfATypeAndSlotsThatAreKept(t *testing.T) {
	r, b := claimedRig(t)
	for i := range 10 {
		x := decode[api.Exit](t, b.want(201, "POST", exitsPath, m{"type": "tor", "name": fmt.Sprint("t", i)}))
		if x.Slot != i {
			t.Fatalf("slot %d of %d", x.Slot, i)
		}
	}
	p := b.want(409, "POST", exitsPath, m{"type": "tor", "name": "eleventh"}).problem()
	if p.Code != "slots_used" || !strings.Contains(p.Detail, "remove one first") {
		t.Errorf("%+v", p)
	}
	b.want(201, "POST", exitsPath, m{"type": "proxy", "config": "socks5://h"}) // another type has its own
	b.want(204, "DELETE", exitsPath+"/t3", nil)
	for i := range 10 {
		if i != 3 && r.stored(fmt.Sprint("t", i)).Slot != i {
			t.Errorf("t%d moved to another slot", i)
		}
	}
	if x := decode[api.Exit](t, b.want(201, "POST", exitsPath, m{"type": "tor", "name": "new"})); x.Slot != 3 {
		t.Errorf("slot %d", x.Slot)
	}
	if p := b.want(409, "POST", exitsPath, m{"type": "proxy", "id": "t4", "config": "socks5://h"}).problem(); p.Code != "conflict" {
		t.Errorf("%+v", p)
	}
	b.want(422, "POST", exitsPath, m{"type": "proxy", "id": "not a label", "config": "socks5://h"})
}

func TestChangesOfExitsTakeTheUsualParameters(t *testing.T) {
	r, b := claimedRig(t)
	tor := m{"type": "tor", "name": "tor"}
	_, before := r.engine.Running()
	p := decode[api.Preview](t, b.want(200, "POST", exitsPath+"?dry_run=1", tor))
	if _, after := r.engine.Running(); after != before || !p.DryRun || len(p.Settings) != 1 || p.Settings[0].Op != "add" {
		t.Errorf("%d %+v", after, p)
	}
	tag := b.want(201, "POST", exitsPath, tor).header.Get("ETag")
	b.want(200, "PUT", exitsPath+"/tor", m{"name": "x"}, "If-Match", tag)
	if p := b.want(412, "PUT", exitsPath+"/tor", m{"name": "y"}, "If-Match", tag).problem(); p.Code != "precondition_failed" {
		t.Errorf("%+v", p)
	}
	a := b.want(202, "PUT", exitsPath+"/tor", m{"enabled": false}, "Confirm-Within", "30")
	b.want(200, "POST", "/api/commits/"+a.header.Get("Pic-Revision")+"/revert", m{})
	if x := b.exit("tor"); !x.Enabled || x.Name != "x" {
		t.Errorf("%+v", x)
	}
	b.want(200, "PUT", exitsPath+"/tor", m{"enabled": false})
	if x := b.exit("tor"); x.State != cell.ExitDisabled {
		t.Errorf("%+v", x)
	}
	for _, method := range []string{"GET", "POST"} {
		var body any
		if method == "POST" {
			body = m{}
		}
		if p := b.want(409, method, exitsPath+"/tor/test", body).problem(); !strings.Contains(p.Detail, "switched off") {
			t.Errorf("%+v", p)
		}
	}
}

// A password that is minutes old is not enough to change where traffic leaves to.
func TestExitsWantAFreshPassword(t *testing.T) {
	r, _ := claimedRig(t)
	want := map[string]bool{
		"POST " + exitsPath: true, "PUT " + exitsPath + "/{id}": true, "DELETE " + exitsPath + "/{id}": true, "POST " + exitsPath + "/{id}/host-key": true,
		"POST /api/connectivity/chains": true, "PUT /api/connectivity/chains/{id}": true, "DELETE /api/connectivity/chains/{id}": true,
	}
	for _, row := range r.api.Rows() {
		if strings.HasPrefix(row.Path, "/api/connectivity") || strings.HasPrefix(row.Path, "/api/peer/") {
			if got := row.Reauth; got != want[row.Method+" "+row.Path] {
				t.Errorf("%s %s: %v", row.Method, row.Path, got)
			}
		}
	}
}

func TestAnExitInUseIsNotRemovedSilently(t *testing.T) {
	r, b := claimedRig(t)
	for _, n := range []string{"nl", "de"} {
		b.want(201, "POST", exitsPath, m{"type": "tor", "name": n})
	}
	b.want(201, "POST", "/api/connectivity/chains", m{"name": "away", "members": []string{"nl", "de"}, "schedule": []m{{"from": 60, "until": 120, "use": "nl"}}})
	b.want(201, "POST", "/api/connectivity/chains", m{"name": "only", "members": []string{"nl"}})
	b.want(201, "POST", "/api/peers", m{"name": "laptop", "generate_key": true, "exit": "nl", "exit_choice": []string{"nl", "direct"}, "socks": []string{"nl"}})
	b.want(201, "POST", "/api/peers", m{"name": "phone", "generate_key": true, "exit": "away"})
	type refusal struct {
		Code, Detail string
		Cuts         []cell.Cut
	}
	p := decode[refusal](t, b.want(409, "DELETE", exitsPath+"/nl", nil))
	if p.Code != "in_use" || !strings.Contains(p.Detail, "peer laptop, peer phone, chain away, chain only") || len(p.Cuts) == 0 || !strings.Contains(fmt.Sprint(p.Cuts), "laptop") {
		t.Errorf("%+v", p)
	}
	for _, to := range []string{"nl", "nowhere"} {
		if p := b.want(422, "DELETE", exitsPath+"/nl?move_to="+to, nil).problem(); p.Errors[0].Pointer != "/move_to" {
			t.Errorf("%+v", p)
		}
	}
	if got := b.exit("nl").UsedBy; cmp.Diff(got, []string{"peer laptop", "peer phone", "chain away", "chain only"}) != "" {
		t.Errorf("%v", got)
	}
	pre := decode[api.Preview](t, b.want(200, "DELETE", exitsPath+"/nl?move_to=block&dry_run=1", nil))
	if len(pre.Cuts) == 0 {
		t.Error("the preview cuts nothing off")
	}
	b.want(204, "DELETE", exitsPath+"/nl", m{"move_to": "block"})
	s, _ := r.engine.Running()
	l := s.Peer("laptop")
	if l.Exit != "block" || len(l.Socks) != 0 || cmp.Diff(l.ExitChoice, []string{"direct"}) != "" || s.Peer("phone").Exit != "away" {
		t.Errorf("%+v", l)
	}
	// Chains lose the member, and never lead by the uplink for that.
	if c := s.Chain("away"); cmp.Diff(c.Members, []string{"de"}) != "" || c.Schedule[0].Use != "block" {
		t.Errorf("%+v", c)
	}
	if c := s.Chain("only"); cmp.Diff(c.Members, []string{"block"}) != "" {
		t.Errorf("%+v", c)
	}
	if p := decode[refusal](t, b.want(409, "DELETE", "/api/connectivity/chains/away", nil)); p.Code != "in_use" || !strings.Contains(p.Detail, "peer phone") {
		t.Errorf("%+v", p)
	}
	b.want(204, "DELETE", "/api/connectivity/chains/away?move_to=de", nil)
	if s, _ := r.engine.Running(); s.Peer("phone").Exit != "de" || s.Chain("away") != nil {
		t.Errorf("%+v", s.Peer("phone"))
	}
	b.want(204, "DELETE", "/api/connectivity/chains/only", nil)
}

func TestStatusIsMergedIntoExits(t *testing.T) {
	r, b := claimedRig(t)
	const old = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBRLYtbBwJ+XTArqarQz/hjMnfBYEc7UoCgnmfulGxab"
	b.want(201, "POST", exitsPath, m{"type": "sshuttle", "name": "s", "config": "ann@b", "password": "x"})
	since := time.Now().UTC().Truncate(time.Second)
	r.exits.set("s", api.ExitStatus{State: cell.ExitUp, Since: &since, LatencyMS: 12.5, PublicAddress4: "192.0.2.80", RxBytes: 7, Connections: 3, HostKey: old})
	x := b.exit("s")
	if x.State != cell.ExitUp || x.LatencyMS != 12.5 || x.PublicAddress4 != "192.0.2.80" || x.Connections != 3 || x.SSH.HostKey != old || !strings.HasPrefix(x.SSH.HostKeyFingerprint, "SHA256:") {
		t.Errorf("%+v %+v", x, x.SSH)
	}
	if got := decode[api.ExitTest](t, b.want(200, "POST", exitsPath+"/s/test", m{})); !got.OK || got.PublicAddress4 != "192.0.2.80" {
		t.Errorf("%+v", got)
	}
	if got := decode[api.ExitProof](t, b.want(200, "GET", exitsPath+"/s/proof", nil)); !got.Holds {
		t.Errorf("%+v", got)
	}
	b.want(201, "POST", exitsPath, m{"type": "tor", "name": "broken"})
	if p := b.want(409, "GET", exitsPath+"/broken/test", nil).problem(); !strings.Contains(p.Detail, "no handshake") {
		t.Errorf("%+v", p)
	}
}

// A changed host key counts only after a person has accepted exactly that key.
func TestAChangedHostKeyIsAcceptedByName(t *testing.T) {
	r, b := claimedRig(t)
	const (
		first  = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBRLYtbBwJ+XTArqarQz/hjMnfBYEc7UoCgnmfulGxab"
		second = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBRLYtbBwJ+XTArqarQz/hjMnfBYEc7UoCgnmfulGxac"
	)
	b.want(201, "POST", exitsPath, m{"type": "sshuttle", "name": "s", "config": "ann@b\n" + first + " comment", "password": "x"})
	if got := r.stored("s").SSH.HostKey; got != first {
		t.Fatal(got)
	}
	r.exits.set("s", api.ExitStatus{State: cell.ExitBlocked, PendingHostKey: &api.ExitHostKey{Key: second, Fingerprint: "SHA256:x"}})
	if x := b.exit("s"); x.PendingHostKey == nil || x.PendingHostKey.Key != second {
		t.Errorf("%+v", x)
	}
	b.want(409, "POST", exitsPath+"/s/host-key", m{"key": first}) // not the one that is shown
	b.want(422, "POST", exitsPath+"/s/host-key", m{"key": "ssh-ed25519 AAAA"})
	b.want(200, "POST", exitsPath+"/s/host-key", m{"key": second + " comment"})
	if got := r.stored("s").SSH.HostKey; got != second {
		t.Error(got)
	}
	// The same server keeps its key when other things change, another one does not.
	b.want(200, "PUT", exitsPath+"/s", m{"config": "bob@b"})
	if e := r.stored("s"); e.SSH.HostKey != second || e.SSH.User != "bob" || r.reveal(e.Credentials) != "x" || e.SSH.Auth != "password" {
		t.Errorf("%+v", e.SSH)
	}
	b.want(200, "PUT", exitsPath+"/s", m{"ssh": m{"host": "c"}})
	if got := r.stored("s").SSH.HostKey; got != "" {
		t.Errorf("another server has the first one's key: %s", got)
	}
	b.want(201, "POST", exitsPath, m{"type": "tor"})
	b.want(409, "POST", exitsPath+"/tor/host-key", m{"key": first})
}

// A new proxy without a user is not sent the old one's password.
func TestSecretsDoNotMoveToAnotherUser(t *testing.T) {
	r, b := claimedRig(t)
	b.want(201, "POST", exitsPath, m{"type": "proxy", "name": "p", "config": "socks5://ann:secret@h"})
	b.want(200, "PUT", exitsPath+"/p", m{"config": "socks5://ann@h:1081"})
	if e := r.stored("p"); r.reveal(e.Credentials) != "secret" || e.Proxy.Port != 1081 {
		t.Errorf("%+v", e.Proxy)
	}
	b.want(422, "PUT", exitsPath+"/p", m{"config": "socks5://bob@h"})
	b.want(200, "PUT", exitsPath+"/p", m{"config": "socks5://h"})
	if e := r.stored("p"); e.Credentials != "" || e.Proxy.Username != "" {
		t.Errorf("%+v", e.Proxy)
	}
}
