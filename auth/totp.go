package auth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // RFC 6238's default, and the only one every authenticator knows; HMAC does not need collision resistance
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/personal-internet-cell/pic/cell"
)

const (
	totpPeriod    = 30 // seconds (RFC 6238, section 4.1)
	totpDigits    = 6
	totpSecret    = 20 // bytes (RFC 4226, section 4, R6)
	totpSkew      = 1  // periods to either side (RFC 6238, section 5.2)
	enrolFor      = 10 * time.Minute
	enrolsAtMost  = 200
	recoveryBytes = 10 // 80 bits, 16 characters
	factorsFile   = "second-factors"
)

// ErrClock is returned instead of checking a code while the clock can't be
// right: a code of the past would count.
var ErrClock = &Problem{Status: http.StatusServiceUnavailable, Code: "clock_implausible", Detail: "The cell's clock is not right, so it can't check codes. Use a recovery code, or set the clock."}

var base32Plain = base32.StdEncoding.WithPadding(base32.NoPadding)

// TOTP is the code of a moment (RFC 6238, with the defaults of RFC 4226 §5).
func TOTP(secret []byte, at time.Time) string { return hotp(secret, step(at)) }

func step(at time.Time) uint64 { return uint64(max(0, at.Unix()) / totpPeriod) }

// hotp is RFC 4226, section 5.3.
func hotp(secret []byte, counter uint64) string {
	m := hmac.New(sha1.New, secret)
	m.Write(binary.BigEndian.AppendUint64(nil, counter))
	sum := m.Sum(nil)
	offset := sum[len(sum)-1] & 0x0f
	n := binary.BigEndian.Uint32(sum[offset:]) & 0x7fffffff
	return fmt.Sprintf("%0*d", totpDigits, n%1_000_000)
}

// SecondFactorsConfig configures [NewSecondFactors].
type SecondFactorsConfig struct {
	Store Store            // nil: what was used is forgotten with the process
	Now   func() time.Time // nil: time.Now
	// Plausible reports whether the clock can be right; nil: it is.
	Plausible func(now time.Time) bool
	Log       *slog.Logger // nil discards
}

// SecondFactors checks codes and remembers which were used: each is good once,
// also across a restart. The secrets are in the state. It is safe for
// concurrent use.
type SecondFactors struct {
	store     Store
	now       func() time.Time
	plausible func(time.Time) bool
	log       *slog.Logger

	mu      sync.Mutex // held while saving, so that a code counts once
	used    map[string]usedFactor
	unknown bool // the file was damaged: anything may have been used
	since   uint64
	enrols  map[string]enrolment
}

// usedFactor is what was used of one second factor.
type usedFactor struct {
	Secret   cell.SecretRef `json:"secret"` // a new secret starts afresh
	Step     uint64         `json:"step"`   // the last one that was used
	Recovery []string       `json:"recovery,omitempty"`
}

type enrolment struct {
	secret  []byte
	expires time.Time
}

type factorRecords struct {
	Version int                   `json:"version"`
	Used    map[string]usedFactor `json:"used"`
}

// NewSecondFactors loads what was used. When that can't be read, recovery
// codes are refused and only codes from now on count.
func NewSecondFactors(cfg *SecondFactorsConfig) *SecondFactors {
	f := &SecondFactors{store: cfg.Store, now: cfg.Now, plausible: cfg.Plausible, log: orDiscard(cfg.Log), used: map[string]usedFactor{}, enrols: map[string]enrolment{}}
	if f.now == nil {
		f.now = time.Now
	}
	if f.plausible == nil {
		f.plausible = func(time.Time) bool { return true }
	}
	var file factorRecords
	if err := load(f.store, factorsFile, &file); err != nil {
		f.log.Error("used codes are lost: recovery codes are refused until a new second factor is set up", "error", err)
		f.unknown, f.since = true, step(f.now())
	} else if file.Used != nil {
		f.used = file.Used
	}
	return f
}

// Enrol makes a secret for user, which [SecondFactors.Confirm] takes within ten
// minutes, and the URI that authenticators read from a QR code.
func (f *SecondFactors) Enrol(user, issuer string) (secret, uri string) {
	raw := make([]byte, totpSecret)
	rand.Read(raw)
	now := f.now()
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, e := range f.enrols {
		if !now.Before(e.expires) || len(f.enrols) >= enrolsAtMost {
			delete(f.enrols, name)
		}
	}
	f.enrols[user] = enrolment{raw, now.Add(enrolFor)}
	secret = base32Plain.EncodeToString(raw)
	q := url.Values{"secret": {secret}, "issuer": {issuer}}
	u := url.URL{Scheme: "otpauth", Host: "totp", Path: "/" + issuer + ":" + user, RawQuery: strings.ReplaceAll(q.Encode(), "+", "%20")}
	return secret, u.String()
}

// Confirm ends the enrolment of user if code is one of its secret.
func (f *SecondFactors) Confirm(user, code string) (secret cell.Secret, err error) {
	now := f.now()
	if !f.plausible(now) {
		return cell.Secret{}, ErrClock
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	e, ok := f.enrols[user]
	if !ok || !now.Before(e.expires) {
		return cell.Secret{}, &Problem{Status: http.StatusConflict, Code: "conflict", Detail: "Begin again: the secret was made more than ten minutes ago."}
	}
	if matched(e.secret, plainCode(code), now, 0) == 0 {
		return cell.Secret{}, &Problem{Status: http.StatusUnprocessableEntity, Code: "invalid", Detail: "That is not the code of now; check the clock of your device."}
	}
	delete(f.enrols, user)
	return cell.NewSecret(base32Plain.EncodeToString(e.secret)), nil
}

// NewRecoveryCodes makes the ten codes, shown once, and their hashes.
func NewRecoveryCodes() (codes, hashes []string) {
	for range cell.RecoveryCodes {
		raw := make([]byte, recoveryBytes)
		rand.Read(raw)
		c := base32Plain.EncodeToString(raw)
		codes = append(codes, strings.ToLower(c[:4]+"-"+c[4:8]+"-"+c[8:12]+"-"+c[12:]))
		hashes = append(hashes, recoveryHash(c))
	}
	return codes, hashes
}

func recoveryHash(plain string) string {
	sum := sha256.Sum256([]byte("recovery\x00" + plain))
	return hex.EncodeToString(sum[:])
}

// Check uses a code of user's second factor up. right is false for a wrong
// code and for one that was used before; an error means that nothing was
// decided, and must refuse.
func (f *SecondFactors) Check(user string, factor *cell.SecondFactor, secret cell.Secret, code string) (right bool, err error) {
	code = plainCode(code)
	f.mu.Lock()
	defer f.mu.Unlock()
	was, known := f.used[user]
	if !known || was.Secret != factor.Secret {
		was = usedFactor{Secret: factor.Secret}
		if f.unknown {
			was.Step, was.Recovery = f.since, factor.Recovery
		}
	}
	next := was
	if len(code) == totpDigits {
		now := f.now()
		if !f.plausible(now) || now.Before(factor.Since) {
			return false, ErrClock
		}
		raw, err := base32Plain.DecodeString(secret.Reveal())
		if err != nil {
			return false, errors.New("reading a second factor: its secret is no base32") // not err: it quotes the input
		}
		next.Step = matched(raw, code, now, was.Step)
		right = next.Step != 0
	} else {
		hash, found := recoveryHash(code), 0
		for _, h := range factor.Recovery { // all of them, so that time tells nothing
			found |= subtle.ConstantTimeCompare([]byte(h), []byte(hash))
		}
		right = found == 1 && !slices.Contains(was.Recovery, hash)
		next.Recovery = append(slices.Clone(was.Recovery), hash)
	}
	if !right {
		return false, nil
	}
	f.used[user] = next
	if err := save(f.store, factorsFile, &factorRecords{1, f.used}); err != nil {
		f.used[user] = was // the code was not used; it is also not accepted
		return false, err
	}
	return true, nil
}

// RecoveryLeft is how many recovery codes of user are unused.
func (f *SecondFactors) RecoveryLeft(user string, factor *cell.SecondFactor) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	was, known := f.used[user]
	if !known || was.Secret != factor.Secret {
		if f.unknown {
			return 0
		}
		return len(factor.Recovery)
	}
	left := 0
	for _, h := range factor.Recovery {
		if !slices.Contains(was.Recovery, h) {
			left++
		}
	}
	return left
}

// matched returns the step whose code it is, if later than after; else 0. All
// steps are compared whatever matches.
func matched(secret []byte, code string, now time.Time, after uint64) (found uint64) {
	at := step(now)
	for s := at - min(at, totpSkew); s <= at+totpSkew; s++ {
		if subtle.ConstantTimeCompare([]byte(hotp(secret, s)), []byte(code)) == 1 && s > after {
			found = s
		}
	}
	return found
}

// plainCode takes out what people and authenticators put between the
// characters.
func plainCode(code string) string {
	return strings.ToUpper(strings.NewReplacer(" ", "", "-", "", "\u00a0", "").Replace(strings.TrimSpace(code)))
}
