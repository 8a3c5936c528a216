package auth

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync/atomic"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"

	"github.com/personal-internet-cell/pic/cell"
)

// Cost is what one argon2id derivation takes (RFC 9106, section 3.1).
type Cost struct {
	Memory  uint32 // KiB
	Time    uint32 // passes
	Threads uint8  // lanes
}

// DefaultCost is 64 MiB, three passes, one lane (RFC 9106, section 4, second
// recommended option, with one lane because two run at once).
func DefaultCost() Cost { return Cost{Memory: 64 * 1024, Time: 3, Threads: 1} }

// PasswordsConfig configures [NewPasswords]. The zero value is the product's.
type PasswordsConfig struct {
	Log    *slog.Logger // nil discards
	Cost   Cost         // zero: DefaultCost; tests use a smaller one
	AtOnce int          // derivations at once; zero: 2, which bounds memory at 128 MiB
	Queue  int          // waiting callers; zero: 8; one more gets ErrBusy
}

// Passwords hashes and verifies passwords, a bounded number at a time. It is
// safe for concurrent use.
type Passwords struct {
	log     *slog.Logger
	cost    Cost
	derive  func(password, salt []byte, c Cost, size uint32) []byte
	places  chan struct{} // running and waiting callers
	running chan struct{}
	count   atomic.Uint64
}

// bcryptMaxCost bounds an imported hash: cost 14 is about a second, and each
// step doubles it (31 would be days).
const bcryptMaxCost = 14

const (
	saltSize = 16
	keySize  = 32
)

// NewPasswords returns a verifier. cfg may be nil.
func NewPasswords(cfg *PasswordsConfig) *Passwords {
	var c PasswordsConfig
	if cfg != nil {
		c = *cfg
	}
	if c.Cost == (Cost{}) {
		c.Cost = DefaultCost()
	}
	if c.AtOnce <= 0 {
		c.AtOnce = 2
	}
	if c.Queue <= 0 {
		c.Queue = 8
	}
	return &Passwords{
		log:  orDiscard(c.Log),
		cost: c.Cost,
		derive: func(password, salt []byte, c Cost, size uint32) []byte {
			return argon2.IDKey(password, salt, c.Time, c.Memory, c.Threads, size)
		},
		places:  make(chan struct{}, c.AtOnce+c.Queue),
		running: make(chan struct{}, c.AtOnce),
	}
}

// Hash returns pw as an argon2id hash in PHC string format with a fresh salt.
// It waits for its turn until ctx ends, and returns ErrBusy when the queue is
// full. It does not judge the password: see [CheckPassword].
func (p *Passwords) Hash(ctx context.Context, pw string) (cell.Secret, error) {
	h := phc{cost: p.cost, salt: make([]byte, saltSize)}
	rand.Read(h.salt) // never fails (crypto/rand)
	err := p.turn(ctx, func() { h.key = p.derive([]byte(pw), h.salt, h.cost, keySize) })
	if err != nil {
		return cell.Secret{}, fmt.Errorf("hashing a password: %w", err)
	}
	return cell.NewSecret(h.String()), nil
}

// Verify compares pw with hash (argon2id in PHC format, or bcrypt). needsRehash
// is set with ok when the hash is not of today's kind and cost: hash again and
// store. A hash that can't be read refuses every password, at the usual cost,
// and is logged; err is only ErrBusy or the context's.
//
// A wrong password against a bcrypt hash takes bcrypt's time, not argon2id's,
// until its owner's next login replaces it.
func (p *Passwords) Verify(ctx context.Context, hash cell.Secret, pw string) (ok, needsRehash bool, err error) {
	text := hash.Reveal()
	if strings.HasPrefix(text, "$2") {
		return p.verifyBcrypt(ctx, text, pw)
	}
	h, err := parsePHC(text)
	if err != nil {
		if !hash.Empty() {
			p.log.Error("a stored password hash is unreadable", "error", err)
		}
		return false, false, p.Dummy(ctx, pw)
	}
	err = p.turn(ctx, func() {
		ok = subtle.ConstantTimeCompare(p.derive([]byte(pw), h.salt, h.cost, uint32(len(h.key))), h.key) == 1
	})
	if err != nil {
		return false, false, fmt.Errorf("verifying a password: %w", err)
	}
	return ok, ok && (h.cost != p.cost || len(h.key) != keySize || len(h.salt) != saltSize), nil
}

// Dummy spends what [Passwords.Verify] spends, for a user that does not exist,
// so that the time of an answer says nothing about who has an account.
func (p *Passwords) Dummy(ctx context.Context, pw string) error {
	salt := make([]byte, saltSize)
	if err := p.turn(ctx, func() { p.derive([]byte(pw), salt, p.cost, keySize) }); err != nil {
		return fmt.Errorf("verifying a password: %w", err)
	}
	return nil
}

// Derivations counts the hashes computed since the start, dummies included.
func (p *Passwords) Derivations() uint64 { return p.count.Load() }

func (p *Passwords) verifyBcrypt(ctx context.Context, hash, pw string) (ok, needsRehash bool, err error) {
	// bcrypt reads 72 bytes and ignores the rest: a longer password would
	// be compared by its beginning only.
	if cost, err := bcrypt.Cost([]byte(hash)); err != nil || cost > bcryptMaxCost || len(pw) > 72 {
		if len(pw) <= 72 {
			p.log.Error("a stored password hash is unreadable", "error", errors.Join(errPHC, err))
		}
		return false, false, p.Dummy(ctx, pw)
	}
	err = p.turn(ctx, func() { ok = bcrypt.CompareHashAndPassword([]byte(hash), []byte(pw)) == nil })
	if err != nil {
		return false, false, fmt.Errorf("verifying a password: %w", err)
	}
	return ok, ok, nil
}

// turn runs work when a place is free. What runs is not interruptible (argon2
// has no way to stop), so ctx only ends the wait.
func (p *Passwords) turn(ctx context.Context, work func()) error {
	select {
	case p.places <- struct{}{}:
	default:
		return ErrBusy
	}
	defer func() { <-p.places }()
	select {
	case p.running <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-p.running }()
	if err := ctx.Err(); err != nil {
		return err
	}
	p.count.Add(1)
	work()
	if len(p.places) == 1 && p.cost.Memory >= 16<<10 {
		// The last one out gives the derivation's memory back to the kernel: a
		// cell that sleeps after a login must not keep 64 MiB per password.
		debug.FreeOSMemory()
	}
	return nil
}

func orDiscard(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return log
}
