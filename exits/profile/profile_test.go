package profile_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/exits/profile"
)

var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func parse(t cell.ExitType, text string) *cell.ExitDraft {
	return profile.Parse(cell.ExitPaste{Type: t, Config: text}, profile.Options{Now: now})
}

// made is the exit that a draft without refusals and questions becomes.
func made(t cell.ExitType, d *cell.ExitDraft) *cell.State {
	s := cell.Factory([16]byte{7}, "tunnel", "")
	e := cell.Exit{
		ID: "x", Name: d.Name, Type: t, Enabled: true, Address4: d.Address4, Address6: d.Address6,
		WireGuard: d.WireGuard, OpenVPN: d.OpenVPN, Tor: d.Tor, SSH: d.SSH, Proxy: d.Proxy,
	}
	if e.OpenVPN != nil {
		o := *e.OpenVPN
		o.Profile = "profile"
		e.OpenVPN = &o
	}
	s.Exits = []cell.Exit{e}
	return s
}

// inExits are the errors of the state that are about its exits.
func inExits(s *cell.State) (out []cell.FieldError) {
	bad, _ := s.Validate().(*cell.InvalidError)
	if bad == nil {
		return nil
	}
	for _, f := range bad.Fields {
		if strings.HasPrefix(f.Pointer, "/exits") {
			out = append(out, f)
		}
	}
	return out
}

// accepted fails unless the text is understood and makes a valid exit.
func accepted(t *testing.T, typ cell.ExitType, d *cell.ExitDraft) {
	t.Helper()
	if len(d.Refused) > 0 || len(d.Asks) > 0 {
		t.Fatalf("refused %v, asks %v", d.Refused, d.Asks)
	}
	if bad := inExits(made(typ, d)); len(bad) > 0 {
		t.Fatalf("the exit is not valid: %v", bad)
	}
}

// remarks are as a person reads them.
func remarks(rs []cell.ExitRemark) string {
	var b strings.Builder
	for _, r := range rs {
		fmt.Fprintln(&b, r)
	}
	return b.String()
}

// wants fails unless each of the texts is among the remarks, and no more.
func wants(t *testing.T, what string, got []cell.ExitRemark, want ...string) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d, want %d:\n%s", what, len(got), len(want), remarks(got))
		return
	}
	for i := range want {
		if !strings.Contains(got[i].String(), want[i]) {
			t.Errorf("%s %d: %q, want %q", what, i, got[i], want[i])
		}
	}
}

func TestWhatIsNoTextIsRefused(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"long":    {strings.Repeat("# x\n", 20000), "64 KiB"},
		"binary":  {"\xff\xfe[\x00", "UTF-8"},
		"control": {"[Interface]\nPrivateKey = \x1b[31m", "line 2: the line has control characters"},
		"nul":     {"[Interface]\n\n\x00", "line 3: the line has control"},
		"line":    {strings.Repeat("x", 9000), "line 1: the line is longer"},
	} {
		for _, typ := range []cell.ExitType{cell.ExitWireGuard, cell.ExitOpenVPN, cell.ExitSSHuttle, cell.ExitProxy, cell.ExitTor} {
			if d := parse(typ, c.text); len(d.Refused) != 1 || !strings.Contains(d.Refused[0].String(), c.want) {
				t.Errorf("%s as %s: %v", name, typ, d.Refused)
			}
		}
	}
	if d := parse(cell.ExitCell, "x"); len(d.Refused) == 0 {
		t.Error("a linked cell was made from a text")
	}
}

// fuzz checks what must hold of every text: no panic, a verdict, bounded
// remarks that never repeat a secret, and that what is accepted makes a valid exit.
func fuzz(f *testing.F, typ cell.ExitType, seeds ...string) {
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d := profile.Parse(cell.ExitPaste{Type: typ, Config: text}, profile.Options{Now: now, Installed: func(p string) bool { return p == "obfs4proxy" }})
		if len(d.Refused) > 100 || len(d.Warnings) > 100 {
			t.Errorf("%d refusals, %d warnings", len(d.Refused), len(d.Warnings))
		}
		for _, r := range append(d.Refused, d.Warnings...) {
			for _, s := range []cell.Secret{d.Credentials, d.PresharedKey} {
				if len(s.Reveal()) > 8 && strings.Contains(r.Text, s.Reveal()) {
					t.Errorf("a remark repeats a secret: %s", r)
				}
			}
			if strings.ContainsFunc(r.Text, func(c rune) bool { return c < 0x20 }) || len(r.Text) > 400 {
				t.Errorf("a remark of %d bytes: %q", len(r.Text), r.Text)
			}
		}
		if len(d.Refused) > 0 || len(d.Asks) > 0 {
			return
		}
		if bad := inExits(made(typ, d)); len(bad) > 0 {
			t.Errorf("accepted, but no valid exit: %v", bad)
		}
		if typ != cell.ExitOpenVPN {
			return
		}
		again := profile.Parse(cell.ExitPaste{Type: typ, Config: d.Profile.Reveal(), Username: d.OpenVPN.Username, Password: d.Credentials}, profile.Options{Now: now})
		if len(again.Refused) > 0 || again.Profile != d.Profile {
			t.Errorf("the normalised profile is not stable: %v\n%s\n%s", again.Refused, d.Profile.Reveal(), again.Profile.Reveal())
		}
	})
}
