package auth_test

import (
	"encoding/base32"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/cell"
)

// RFC 6238, appendix B, SHA-1, the last six of its eight digits.
func TestTOTPIsThatOfTheRFC(t *testing.T) {
	for at, want := range map[int64]string{59: "287082", 1111111109: "081804", 1111111111: "050471", 1234567890: "005924", 2000000000: "279037", 20000000000: "353130"} {
		if got := auth.TOTP([]byte("12345678901234567890"), time.Unix(at, 0)); got != want {
			t.Errorf("at %d: %s, want %s", at, got, want)
		}
	}
}

type factorRig struct {
	t      *testing.T
	clock  *clock
	store  *memory
	f      *auth.SecondFactors
	factor *cell.SecondFactor
	secret cell.Secret
	codes  []string
	good   bool
}

func newFactor(t *testing.T) *factorRig {
	r := &factorRig{t: t, clock: newClock(), store: newMemory(), good: true}
	r.restart()
	text, uri := r.f.Enrol("admin", "PIC home")
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "otpauth" || u.Host != "totp" || u.Query().Get("secret") != text {
		t.Fatalf("uri %s: %v", uri, err)
	}
	if _, err := r.f.Confirm("admin", "000000"); err == nil {
		t.Fatal("confirmed by a wrong code")
	}
	r.secret, err = r.f.Confirm("admin", r.code(cell.NewSecret(text)))
	if err != nil {
		t.Fatal(err)
	}
	codes, hashes := auth.NewRecoveryCodes()
	r.codes, r.factor = codes, &cell.SecondFactor{Secret: "totp-1", Recovery: hashes, Since: r.clock.Now()}
	return r
}

func (r *factorRig) restart() {
	r.f = auth.NewSecondFactors(&auth.SecondFactorsConfig{Store: r.store, Now: r.clock.Now, Plausible: func(time.Time) bool { return r.good }})
}

func (r *factorRig) code(s cell.Secret) string {
	raw, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(s.Reveal())
	if err != nil {
		r.t.Fatal(err)
	}
	return auth.TOTP(raw, r.clock.Now())
}

func (r *factorRig) check(code string) bool {
	r.t.Helper()
	right, err := r.f.Check("admin", r.factor, r.secret, code)
	if err != nil {
		r.t.Fatal(err)
	}
	return right
}

func TestACodeIsGoodOnceAlsoAcrossARestart(t *testing.T) {
	r := newFactor(t)
	code := r.code(r.secret)
	if !r.check(code[:3] + " " + code[3:]) {
		t.Fatal("the code of now is refused")
	}
	if r.check(code) {
		t.Error("replayed")
	}
	r.restart()
	if r.check(code) {
		t.Error("replayed after a restart")
	}
	r.clock.Add(30 * time.Second)
	if !r.check(r.code(r.secret)) {
		t.Error("the next code is refused")
	}
	if r.check(code) {
		t.Error("an older code counts after a newer one")
	}
	old := r.code(r.secret)
	r.clock.Add(90 * time.Second)
	if r.check(old) {
		t.Error("a code of 90 s ago counts")
	}
	for _, wrong := range []string{"", "0", "0000000", "abcdef", strings.Repeat("9", 64)} {
		if r.check(wrong) {
			t.Errorf("%q counts", wrong)
		}
	}
}

func TestRecoveryCodesAreGoodOnce(t *testing.T) {
	r := newFactor(t)
	if len(r.codes) != 10 || r.f.RecoveryLeft("admin", r.factor) != 10 {
		t.Fatal(r.codes)
	}
	for i, c := range r.codes {
		if i == 1 {
			c = strings.ToUpper(strings.ReplaceAll(c, "-", " "))
		}
		if !r.check(c) || r.check(c) {
			t.Errorf("code %d is not good once", i)
		}
		r.restart()
		if r.check(c) || r.f.RecoveryLeft("admin", r.factor) != 9-i {
			t.Errorf("code %d came back with a restart", i)
		}
	}
	for _, c := range r.codes {
		for _, h := range r.factor.Recovery {
			if strings.Contains(h, c) || strings.Contains(r.store.text("second-factors"), c) {
				t.Error("a code is stored")
			}
		}
	}
}

func TestWithoutAPlausibleClockOnlyRecoveryCodesCount(t *testing.T) {
	r := newFactor(t)
	r.good = false
	if _, err := r.f.Check("admin", r.factor, r.secret, r.code(r.secret)); !errors.Is(err, auth.ErrClock) {
		t.Errorf("checked by a wrong clock: %v", err)
	}
	if !r.check(r.codes[0]) {
		t.Error("recovery is blocked too")
	}
	r.good = true
	r.clock.Add(-24 * time.Hour) // before the factor was set up
	if _, err := r.f.Check("admin", r.factor, r.secret, r.code(r.secret)); !errors.Is(err, auth.ErrClock) {
		t.Errorf("a code of the past counts: %v", err)
	}
}

func TestWhatCannotBeRememberedIsRefused(t *testing.T) {
	r := newFactor(t)
	r.store.fail = errors.New("disk full")
	if right, err := r.f.Check("admin", r.factor, r.secret, r.codes[0]); right || err == nil {
		t.Errorf("accepted without remembering: %v %v", right, err)
	}
	r.store.fail = nil
	r.store.files["second-factors"] = []byte("{")
	r.restart()
	if r.check(r.codes[0]) || r.f.RecoveryLeft("admin", r.factor) != 0 {
		t.Error("a damaged file made used codes good again")
	}
	if r.check(r.code(r.secret)) {
		t.Error("a code from before the damage counts")
	}
	r.clock.Add(time.Minute)
	if !r.check(r.code(r.secret)) {
		t.Error("new codes are refused for ever")
	}
}

func TestEnrolmentEnds(t *testing.T) {
	r := newFactor(t)
	text, _ := r.f.Enrol("kid", "PIC home")
	r.clock.Add(10 * time.Minute)
	if _, err := r.f.Confirm("kid", r.code(cell.NewSecret(text))); err == nil {
		t.Error("confirmed after ten minutes")
	}
	if _, err := r.f.Confirm("nobody", "123456"); err == nil {
		t.Error("confirmed without an enrolment")
	}
}
