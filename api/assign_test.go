package api_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/cell"
)

func TestAPeerIsMovedForGoodOrForATime(t *testing.T) {
	r, b := claimedRig(t)
	b.want(201, "POST", exitsPath, m{"type": "tor", "name": "nl"})
	b.want(201, "POST", "/api/peers", m{"name": "laptop", "generate_key": true})
	const path = "/api/connectivity/peers/laptop/exit"
	peer := func() *cell.Peer { s, _ := r.engine.Running(); return s.Peer("laptop") }
	x := decode[api.PeerExit](t, b.want(200, "PUT", path, m{"exit": "nl"}))
	if peer().Exit != "nl" || x.Exit != "nl" || x.Way != "nl" || x.Until != nil {
		t.Errorf("%+v", x)
	}
	until := time.Now().Add(2 * time.Hour).UTC().Truncate(time.Second)
	x = decode[api.PeerExit](t, b.want(200, "PUT", "/api/peers/laptop/exit", m{"exit": "block", "until": until}))
	if p := peer(); p.Exit != "block" || p.ExitThen != "nl" || !p.ExitUntil.Equal(until) || x.Then != "nl" || x.Way != "block" {
		t.Errorf("%+v %+v", p, x)
	}
	// Again for a time: afterwards as it was before the first.
	b.want(200, "PUT", path, m{"exit": "direct", "until": until})
	if p := peer(); p.Exit != "direct" || p.ExitThen != "nl" {
		t.Errorf("%+v", p)
	}
	b.want(200, "PUT", path, m{"exit": "nl", "until": until, "then": "direct"})
	got := decode[api.PeerExit](t, b.want(200, "GET", "/api/peers/laptop/exit", nil))
	if got.Then != "direct" || !got.Until.Equal(until) {
		t.Errorf("%+v", got)
	}
	b.want(200, "PUT", path, m{"exit": "nl"})
	if p := peer(); p.ExitUntil != nil || p.ExitThen != "" {
		t.Errorf("%+v", p)
	}
	for _, c := range []struct {
		body m
		want string
	}{
		{m{"exit": "gone"}, "/exit"},
		{m{"exit": "nl", "until": "2001-01-01T00:00:00Z"}, "/until"},
		{m{"exit": "nl", "then": "block"}, "/until"},
		{m{"exit": "nl", "until": until, "then": "gone"}, "/then"},
	} {
		if p := b.want(422, "PUT", path, c.body).problem(); len(p.Errors) != 1 || p.Errors[0].Pointer != c.want {
			t.Errorf("%v: %+v", c.body, p.Errors)
		}
	}
	b.want(404, "PUT", "/api/connectivity/peers/nobody/exit", m{"exit": "nl"})
	if p := decode[api.Preview](t, b.want(200, "PUT", path+"?dry_run=1", m{"exit": "direct"})); len(p.Cuts) == 0 {
		t.Error("a move cuts nothing off")
	}
	// The fields of a peer say the same.
	b.want(200, "PUT", "/api/peers/laptop", m{"exit_until": until, "exit_then": "block", "exit_choice": []string{"*"}, "socks": []string{"nl"}})
	p := decode[api.Peer](t, b.want(200, "PUT", "/api/peers/laptop", m{"note": "x"}))
	if p.Exit != "nl" || p.ExitThen != "block" || !p.ExitUntil.Equal(until) || cmp.Diff(p.ExitChoice, []string{"*"}) != "" || cmp.Diff(p.Socks, []string{"nl"}) != "" {
		t.Errorf("%+v", p)
	}
	p = decode[api.Peer](t, b.want(200, "PUT", "/api/peers/laptop", m{"exit": "direct"}))
	if p.ExitUntil != nil || p.ExitThen != "" {
		t.Errorf("%+v", p)
	}
	b.want(422, "PUT", "/api/peers/laptop", m{"socks": []string{"gone"}})
}

func TestAServiceLeavesByAnExit(t *testing.T) {
	r, b := claimedRig(t)
	b.want(201, "POST", exitsPath, m{"type": "tor", "name": "nl"})
	b.want(200, "PUT", "/api/config", m{"services": []m{{
		"id": "files", "name": "Files", "subdomain": "files", "access": "peers", "enabled": true, "bridge": "br-files", "prefix4": "172.20.1.0/24", "ports": []m{}, "capabilities": []string{},
	}}})
	const path = "/api/connectivity/services/files/egress"
	x := decode[api.ServiceEgress](t, b.want(200, "PUT", path, m{"exit": "nl"}))
	if s, _ := r.engine.Running(); s.Service("files").Egress != "nl" || x.Way != "nl" {
		t.Errorf("%+v", x)
	}
	if u := b.exit("nl").UsedBy; cmp.Diff(u, []string{"service files"}) != "" {
		t.Errorf("%v", u)
	}
	if p := b.want(422, "PUT", path, m{"exit": "gone"}).problem(); p.Errors[0].Pointer != "/exit" {
		t.Errorf("%+v", p)
	}
	b.want(404, "PUT", "/api/connectivity/services/nothing/egress", m{"exit": "nl"})
}

func TestChains(t *testing.T) {
	r, b := claimedRig(t)
	const path = "/api/connectivity/chains"
	for _, n := range []string{"nl", "de"} {
		b.want(201, "POST", exitsPath, m{"type": "tor", "name": n})
	}
	c := decode[api.Chain](t, b.want(201, "POST", path, m{"name": "Far away", "members": []string{"nl", "de", "block"}, "schedule": []m{{"days": []int{1, 5}, "from": 540, "until": 1020, "use": "de"}}}))
	if c.ID != "far-away" || c.Hold != 60 || c.Way != "block" || len(c.Schedule) != 1 {
		t.Errorf("%+v", c)
	}
	b.want(200, "PUT", "/api/config", m{"identity": m{"name": "house"}})
	a := b.want(200, "PUT", path+"/far-away", m{"hold": 5, "members": []string{"de"}})
	s, _ := r.engine.Running()
	if x := s.Chain("far-away"); x.Hold != 5 || cmp.Diff(x.Members, []string{"de"}) != "" || len(x.Schedule) != 1 || x.Name != "Far away" {
		t.Errorf("%+v", x)
	}
	b.want(200, "PUT", path+"/far-away", m{"hold": 6}, "If-Match", a.header.Get("ETag"))
	b.want(412, "PUT", path+"/far-away", m{"hold": 7}, "If-Match", a.header.Get("ETag"))
	for _, x := range []struct {
		body m
		want string
	}{
		{m{"name": "x"}, "/members"},
		{m{"name": "x", "members": []string{"gone"}}, "/members/0"},
		{m{"name": "x", "members": []string{"block", "nl"}}, "/members/0"},
		{m{"name": "x", "members": []string{"nl"}, "schedule": []m{{"from": 1, "until": 2, "use": "gone"}}}, "/schedule/0/use"},
	} {
		if p := b.want(422, "POST", path, x.body).problem(); len(p.Errors) != 1 || p.Errors[0].Pointer != x.want {
			t.Errorf("%v: %+v", x.body, p.Errors)
		}
	}
	b.want(409, "POST", path, m{"id": "nl", "members": []string{"de"}})
	b.want(409, "POST", exitsPath, m{"type": "tor", "id": "far-away"})
	if l := decode[api.List[api.Chain]](t, b.want(200, "GET", path, nil)); len(l.Items) != 1 {
		t.Errorf("%+v", l)
	}
	b.want(200, "GET", path+"/far-away", nil)
	b.want(404, "GET", path+"/nl", nil)
	b.want(204, "DELETE", path+"/far-away", nil)
	b.want(404, "DELETE", path+"/far-away", nil)
}

// Object by object: who may see and set the exit of which device, and to what.
func TestAPersonChoosesTheExitOfOwnDevicesOnly(t *testing.T) {
	r, admin := claimedRig(t)
	for _, n := range []string{"ann", "bob"} {
		admin.want(201, "POST", "/api/auth/users", m{"name": n, "role": "peer", "password": peerPassword})
	}
	for _, n := range []string{"nl", "de"} {
		admin.want(201, "POST", exitsPath, m{"type": "tor", "name": n})
	}
	admin.want(201, "POST", "/api/connectivity/chains", m{"name": "away", "members": []string{"nl"}})
	for name, f := range map[string]m{
		"anns":   {"owner": "ann", "exit": "de", "exit_choice": []string{"nl", "direct"}},
		"anns2":  {"owner": "ann", "exit_choice": []string{"*"}},
		"fixed":  {"owner": "ann"},
		"bobs":   {"owner": "bob", "exit_choice": []string{"*"}},
		"nobody": {"exit_choice": []string{"*"}},
	} {
		f["name"], f["generate_key"] = name, true
		admin.want(201, "POST", "/api/peers", f)
	}
	ann := r.browser()
	ann.login("ann", peerPassword)
	_, before := r.engine.Running()
	for _, c := range []struct {
		device, exit string
		want         int
	}{
		{"bobs", "nl", 404},
		{"nobody", "nl", 404},
		{"none", "nl", 404},
		{"fixed", "nl", 403},
		{"anns", "de", 403},
		{"anns", "block", 403},
		{"anns", "away", 403},
		{"anns2", "direct", 403},
		{"anns2", "", 403},
		{"anns2", "gone", 422},
	} {
		ann.want(c.want, "PUT", "/api/peer/exit", m{"device": c.device, "exit": c.exit})
	}
	ann.want(403, "PUT", "/api/peer/exit", m{"device": "anns", "exit": "nl"}, "Confirm-Within", "3600")
	if p := decode[api.Preview](t, ann.want(200, "PUT", "/api/peer/exit?dry_run=1", m{"device": "anns", "exit": "nl"})); len(p.Plans) != 0 || len(p.Settings) != 0 || len(p.Cuts) != 1 {
		t.Errorf("%+v", p)
	}
	for _, path := range []string{"/api/peers/anns/exit", "/api/connectivity/exits", "/api/connectivity/types", "/api/connectivity/exits/nl/test"} {
		ann.want(403, "GET", path, nil)
	}
	ann.want(403, "PUT", "/api/connectivity/peers/anns/exit", m{"exit": "nl"})
	if _, after := r.engine.Running(); after != before {
		t.Fatal("a refused choice made a revision")
	}
	ann.want(200, "PUT", "/api/peer/exit", m{"device": "anns", "exit": "nl"})
	ann.want(200, "PUT", "/api/peer/exit", m{"device": "anns2", "exit": "away"})
	ann.want(200, "PUT", "/api/peer/exit", m{"device": "anns2", "exit": "block"})
	s, _ := r.engine.Running()
	if s.Peer("anns").Exit != "nl" || s.Peer("anns2").Exit != "block" {
		t.Error("a choice was not made")
	}
	got := map[string]int{}
	for _, d := range decode[api.List[api.DeviceExit]](t, ann.want(200, "GET", "/api/peer/exits", nil)).Items {
		got[d.Device] = len(d.Choices)
	}
	if d := cmp.Diff(map[string]int{"anns": 2, "anns2": 4, "fixed": 0}, got); d != "" {
		t.Error(d)
	}
	admin.want(403, "GET", "/api/peer/exits", nil)
}

// What an administrator has set to follow is not undone by a choice before.
func TestAChoiceKeepsWhatFollows(t *testing.T) {
	r, admin := claimedRig(t)
	admin.want(201, "POST", "/api/auth/users", m{"name": "kid", "role": "peer", "password": peerPassword})
	admin.want(201, "POST", exitsPath, m{"type": "tor", "name": "nl"})
	admin.want(201, "POST", "/api/peers", m{"name": "tablet", "generate_key": true, "owner": "kid", "exit_choice": []string{"nl", "direct"}})
	admin.want(200, "PUT", "/api/peers/tablet/exit", m{"exit": "direct", "until": time.Now().Add(time.Hour), "then": "block"})
	kid := r.browser()
	kid.login("kid", peerPassword)
	kid.want(200, "PUT", "/api/peer/exit", m{"device": "tablet", "exit": "nl"})
	if s, _ := r.engine.Running(); s.Peer("tablet").Exit != "nl" || s.Peer("tablet").ExitThen != "block" || s.Peer("tablet").ExitUntil == nil {
		t.Errorf("%+v", s.Peer("tablet"))
	}
}
