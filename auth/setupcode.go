package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	_ "embed"
	"math/big"
	"strings"
	"sync"
	"time"
	"unicode"
)

// setupWords are the words of setup codes: sorted, distinct, a-z, 3 to 8
// letters, at least 2048, so that six of them hold 66 bits.
//
//go:embed words.txt
var setupWords string

const (
	setupCodeWords  = 6
	setupCodeTries  = 5
	setupCodePeriod = 30 * time.Minute
	setupCodeMax    = 256 // bytes of an answer that are looked at
)

// SetupCodeConfig configures [NewSetupCode].
type SetupCodeConfig struct {
	// OnRotate is told every code, the first when Run starts. It shows the
	// code to who stands before the machine, and must not call back. May be nil.
	OnRotate func(code string)
	Now      func() time.Time // nil: time.Now
}

// SetupCode is the one-time code that proves to an unclaimed cell that its
// owner is asking. It lives in memory only. It is safe for concurrent use, and
// a [lifecycle.Task] that changes the code every 30 minutes.
type SetupCode struct {
	onRotate func(string)
	now      func() time.Time
	words    []string

	telling sync.Mutex // serialises onRotate; taken before mu

	mu      sync.Mutex
	code    string // words with single spaces
	tries   int    // left
	until   time.Time
	retired bool
}

// NewSetupCode returns a guard with a first code. cfg may be nil.
func NewSetupCode(cfg *SetupCodeConfig) *SetupCode {
	var c SetupCodeConfig
	if cfg != nil {
		c = *cfg
	}
	if c.OnRotate == nil {
		c.OnRotate = func(string) {}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	s := &SetupCode{onRotate: c.OnRotate, now: c.Now, words: strings.Fields(setupWords)}
	s.renew(s.now())
	return s
}

// Current returns the code that counts now, six words with spaces between; ""
// once retired.
func (s *SetupCode) Current() string {
	s.mu.Lock()
	code, rotated := s.current()
	s.mu.Unlock()
	if rotated {
		s.tell()
	}
	return code
}

// Check compares input with the code, whatever its case and whether its words
// are parted by spaces, hyphens or commas. After five wrong answers the code
// changes: rotated is set, and triesLeft counts for the new one. A retired
// code is never right.
func (s *SetupCode) Check(input string) (ok bool, triesLeft int, rotated bool) {
	given := sha256.Sum256([]byte(NormaliseSetupCode(input)))
	s.mu.Lock()
	code, rotated := s.current()
	if s.retired {
		s.mu.Unlock()
		return false, 0, false
	}
	want := sha256.Sum256([]byte(code))
	if ok = subtle.ConstantTimeCompare(given[:], want[:]) == 1; ok {
		s.tries = setupCodeTries
	} else if s.tries--; s.tries <= 0 {
		s.renew(s.now())
		rotated = true
	}
	triesLeft = s.tries
	s.mu.Unlock()
	if rotated {
		s.tell()
	}
	return ok, triesLeft, rotated
}

// Retire ends the setup: there is no code any more, and Run tells none.
func (s *SetupCode) Retire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retired, s.code = true, ""
}

// Run tells the first code, and changes and tells it every 30 minutes until
// ctx ends or the code is retired. It then waits for ctx.
func (s *SetupCode) Run(ctx context.Context) error {
	s.tell()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		s.mu.Lock()
		_, rotated := s.current()
		retired := s.retired
		s.mu.Unlock()
		if retired {
			<-ctx.Done()
			return nil
		}
		if rotated {
			s.tell()
		}
	}
}

// Ready is closed: there is a code before Run runs.
func (*SetupCode) Ready() <-chan struct{} { return ready() }

func (*SetupCode) String() string { return "setup code" }

// current changes the code when its time is over, so that an old one is never
// right even if nobody runs Run. mu is held.
func (s *SetupCode) current() (code string, rotated bool) {
	if s.retired {
		return "", false
	}
	if now := s.now(); !now.Before(s.until) {
		s.renew(now)
		return s.code, true
	}
	return s.code, false
}

func (s *SetupCode) renew(now time.Time) {
	picked := make([]string, setupCodeWords)
	most := big.NewInt(int64(len(s.words)))
	for i := range picked {
		n, err := rand.Int(rand.Reader, most)
		if err != nil { // crypto/rand does not fail; a guessable code would be worse than none
			panic("reading random numbers: " + err.Error())
		}
		picked[i] = s.words[n.Int64()]
	}
	s.code, s.tries, s.until = strings.Join(picked, " "), setupCodeTries, now.Add(setupCodePeriod)
}

// tell shows the newest code. Two rotations at once may tell the same code
// twice, never an old one last.
func (s *SetupCode) tell() {
	s.telling.Lock()
	defer s.telling.Unlock()
	s.mu.Lock()
	code := s.code
	s.mu.Unlock()
	if code != "" {
		s.onRotate(code)
	}
}

// NormaliseSetupCode brings what a person typed into the form of a code: lower
// case, words parted by one space. Spaces, hyphens, commas and other
// punctuation part words. It is idempotent.
func NormaliseSetupCode(input string) string {
	if len(input) > setupCodeMax {
		return ""
	}
	words := strings.FieldsFunc(strings.ToLower(input), func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsPunct(r) || unicode.IsControl(r)
	})
	return strings.Join(words, " ")
}
