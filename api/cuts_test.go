package api_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/cell"
)

// Whatever way a change is asked for, its preview says what it cuts off, and
// changes nothing.
func TestEveryPreviewSaysWhatItCutsOff(t *testing.T) {
	r, b := claimedRig(t)
	_, empty := r.engine.Running()
	b.want(201, "POST", "/api/peers", m{"name": "laptop", "generate_key": true})
	b.want(201, "POST", "/api/peers", m{"name": "phone", "generate_key": true, "peers": []string{"laptop"}})
	b.want(201, "POST", "/api/dns/records", m{"name": "printer", "type": "A", "value": "192.168.7.20"})
	b.want(201, "POST", "/api/auth/users", m{"name": "kid", "role": "peer", "password": peerPassword})
	_, before := r.engine.Running()
	for _, c := range []struct {
		method, path string
		body         any
		want         string // kind and subject
	}{
		{"DELETE", "/api/peers/laptop?dry_run=1", nil, "peer laptop"},
		{"PUT", "/api/peers/phone?dry_run=1", m{"peers": []string{}}, "peer phone"},
		{"PUT", "/api/peers/phone?dry_run=1", m{"enabled": false}, "peer phone"},
		{"PUT", "/api/config?dry_run=1", m{"network": m{"tunnel": m{"listen_port": 51821}}}, "peer *"},
		{"POST", "/api/plan", m{"network": m{"tunnel": m{"listen_port": 51821}}}, "peer *"},
		{"DELETE", "/api/dns/records?name=printer&dry_run=1", nil, "name printer"},
		{"DELETE", "/api/auth/users/kid?dry_run=1", nil, "user kid"},
		{"POST", "/api/revisions/" + fmt.Sprint(empty) + "/rollback?dry_run=1", m{}, "peer laptop"},
		{"GET", "/api/revisions/" + fmt.Sprint(empty) + "/diff?against=" + fmt.Sprint(before), nil, "peer laptop"},
	} {
		p := decode[api.Preview](t, b.want(200, c.method, c.path, c.body))
		if !slices.ContainsFunc(p.Cuts, func(x cell.Cut) bool { return x.Kind+" "+x.Subject == c.want && x.Text != "" }) {
			t.Errorf("%s %s: %+v", c.method, c.path, p.Cuts)
		}
		if _, now := r.engine.Running(); now != before {
			t.Fatalf("%s %s made revision %d", c.method, c.path, now)
		}
	}
}
