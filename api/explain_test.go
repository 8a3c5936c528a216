package api_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/personal-internet-cell/pic/api"
)

func TestExplainIsAQuestionForAdmins(t *testing.T) {
	_, b := claimedRig(t)
	x := decode[api.Explanation](t, b.want(200, "POST", "/api/explain", m{"from": "phone", "to": "files"}))
	if x.Verdict != "dropped" || x.Reason != "phone to files" || x.Revision == 0 {
		t.Fatalf("%+v", x)
	}
	if p := b.want(422, "POST", "/api/explain", m{"from": "nobody", "to": "files"}).problem(); len(p.Errors) != 1 || p.Errors[0].Pointer != "/from" {
		t.Fatalf("%+v", p)
	}
	b.want(422, "POST", "/api/explain", m{"from": "phone", "to": "files", "protocol": "sctp"})
	b.want(422, "POST", "/api/explain", m{"from": "phone"})
}

func TestPolicyTestsAreReplacedAsOneList(t *testing.T) {
	_, b := claimedRig(t)
	b.want(201, "POST", "/api/peers", m{"name": "laptop", "generate_key": true})
	first := b.want(200, "PUT", "/api/firewall/policy", m{"items": []string{"laptop reaches internet", "laptop reaches cell"}})
	got := b.want(200, "GET", "/api/firewall/policy", nil)
	want := []api.PolicyResult{{Assertion: "laptop reaches internet", Result: "holds"}, {Assertion: "laptop reaches cell", Result: "holds"}}
	if d := cmp.Diff(want, decode[api.List[api.PolicyResult]](t, got).Items); d != "" || first.header.Get("Pic-Revision") == "" {
		t.Fatal(d)
	}
	tag := got.header.Get("ETag")
	b.want(200, "PUT", "/api/firewall/policy", m{"items": []string{}}, "If-Match", tag)
	b.want(412, "PUT", "/api/firewall/policy", m{"items": []string{"laptop reaches cell"}}, "If-Match", tag)
	if p := b.want(422, "PUT", "/api/firewall/policy", m{"items": []string{"laptop reaches nothing", "laptop does"}}).problem(); len(p.Errors) != 2 || p.Errors[1].Pointer != "/network/policy/1" {
		t.Fatalf("%+v", p)
	}
	if l := decode[api.List[api.PolicyResult]](t, b.want(200, "GET", "/api/firewall/policy", nil)); l.Items == nil || len(l.Items) != 0 {
		t.Fatalf("%+v", l)
	}
}
