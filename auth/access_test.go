package auth_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/cell"
)

// The whole table: every access, every way of proving an identity, every role.
// A letter is a decision: A allow, U unauthenticated, F forbidden.
func TestAccessTable(t *testing.T) {
	vias := []auth.Via{auth.ViaNone, auth.ViaSession, auth.ViaToken, auth.ViaSocket, auth.ViaLink, auth.ViaMetrics, "forged"}
	roles := []cell.Role{"", cell.RolePeer, cell.RoleAdmin, "root"}
	letter := map[auth.Decision]byte{auth.Allow: 'A', auth.Unauthenticated: 'U', auth.Forbidden: 'F', auth.SetupRequired: 'S', auth.ReauthRequired: 'R'}
	// Columns: via (none, session, token, socket, link, metrics, forged), and
	// in each the roles (none, peer, admin, unknown).
	want := map[auth.Access]string{
		auth.AccessPublic:  "AAAA AAAA AAAA AAAA AAAA AAAA AAAA",
		auth.AccessSetup:   "AAAA AAAA AAAA AAAA AAAA AAAA AAAA",
		auth.AccessUser:    "UUUU FAAF FAAF FAAF FFFF FFFF FFFF",
		auth.AccessAdmin:   "UUUU FFAF FFAF FFAF FFFF FFFF FFFF",
		auth.AccessPeer:    "UUUU FAFF FAFF FAFF FFFF FFFF FFFF",
		auth.AccessCell:    "UUUU FFFF FFFF FFFF AAAA FFFF FFFF",
		auth.AccessLocal:   "UUUU FFFF FFFF FFAF FFFF FFFF FFFF",
		auth.AccessMetrics: "UUUU FFFF FFFF FFAF FFFF AAAA FFFF",
		"":                 "FFFF FFFF FFFF FFFF FFFF FFFF FFFF",
		"adminn":           "FFFF FFFF FFFF FFFF FFFF FFFF FFFF",
	}
	for _, a := range auth.Accesses() {
		if want[a] == "" {
			t.Errorf("access %s is not in the table", a)
		}
	}
	for access, row := range want {
		got := ""
		for i, via := range vias {
			if i > 0 {
				got += " "
			}
			for _, role := range roles {
				d := auth.Allowed(access, auth.Identity{User: "someone", Via: via, Role: role})
				got += string(letter[d])
				if (d.Problem() == nil) != (d == auth.Allow) {
					t.Errorf("%v has problem %v", d, d.Problem())
				}
			}
		}
		if got != row {
			t.Errorf("%q:\n got %s\nwant %s", access, got, row)
		}
	}
	if d := auth.Decision(0); d == auth.Allow || d.Problem() == nil || auth.Decision(99).Problem() == nil {
		t.Error("the zero decision allows")
	}
}

func TestBeforeTheClaimOnlyPublicAndSetupAreOpen(t *testing.T) {
	for _, a := range append(auth.Accesses(), "") {
		want := auth.SetupRequired
		if a == auth.AccessPublic || a == auth.AccessSetup {
			want = auth.Allow
		}
		if got := auth.Gate(a, false); got != want {
			t.Errorf("%q: %v", a, got)
		}
		if got := auth.Gate(a, true); got != auth.Allow {
			t.Errorf("%q after the claim: %v", a, got)
		}
	}
	if p := auth.SetupRequired.Problem(); p.Status != 428 || p.Code != "setup_required" || p.Link != "/setup" {
		t.Errorf("%+v", p)
	}
}

func TestReauthTable(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		via  auth.Via
		at   time.Time
		want auth.Decision
	}{
		{auth.ViaSession, now, auth.Allow},
		{auth.ViaSession, now.Add(-5 * time.Minute), auth.Allow},
		{auth.ViaSession, now.Add(-5*time.Minute - 1), auth.ReauthRequired},
		{auth.ViaSession, now.Add(time.Second), auth.ReauthRequired},
		{auth.ViaSession, time.Time{}, auth.ReauthRequired},
		{auth.ViaSocket, time.Time{}, auth.Allow},
		{auth.ViaToken, now, auth.Forbidden},
		{auth.ViaLink, now, auth.Forbidden},
		{auth.ViaMetrics, now, auth.Forbidden},
		{auth.ViaNone, now, auth.Unauthenticated},
		{"forged", now, auth.Forbidden},
	} {
		t.Run(fmt.Sprintf("%s %v", c.via, now.Sub(c.at)), func(t *testing.T) {
			if got := auth.Reauth(auth.Identity{Via: c.via, Role: cell.RoleAdmin, Reauthed: c.at}, now); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}
