package auth_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/cell"
)

const good = "quartz lantern ovation mosaic"

func TestHashIsArgon2idAtTheSpecifiedCostAndVerifies(t *testing.T) {
	p := auth.NewPasswords(nil)
	h := mustHash(t, p, good)
	if !strings.HasPrefix(h.Reveal(), "$argon2id$v=19$m=65536,t=3,p=1$") {
		t.Fatalf("hash begins %.40s", h.Reveal())
	}
	for pw, want := range map[string]bool{good: true, good + " ": false, "": false} {
		ok, rehash, err := p.Verify(t.Context(), h, pw)
		if ok != want || rehash || err != nil {
			t.Errorf("%q: ok %v, rehash %v, err %v", pw, ok, rehash, err)
		}
	}
}

func TestTwoHashesOfOnePasswordDiffer(t *testing.T) {
	p := auth.NewPasswords(&auth.PasswordsConfig{Cost: cheap()})
	one, two := mustHash(t, p, good), mustHash(t, p, good)
	if one.Reveal() == two.Reveal() {
		t.Fatal("the salt is not random")
	}
}

func TestOldCostsAndBcryptVerifyAndAskForARehash(t *testing.T) {
	old := auth.NewPasswords(&auth.PasswordsConfig{Cost: cheap()})
	now := auth.NewPasswords(&auth.PasswordsConfig{Cost: auth.Cost{Memory: 128, Time: 1, Threads: 1}})
	b, err := bcrypt.GenerateFromPassword([]byte(good), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	for name, h := range map[string]cell.Secret{"argon2id": mustHash(t, old, good), "bcrypt": cell.NewSecret(string(b))} {
		if ok, rehash, err := now.Verify(t.Context(), h, good); !ok || !rehash || err != nil {
			t.Errorf("%s: ok %v, rehash %v, err %v", name, ok, rehash, err)
		}
		if ok, rehash, err := now.Verify(t.Context(), h, "wrong"); ok || rehash || err != nil {
			t.Errorf("%s, wrong password: ok %v, rehash %v, err %v", name, ok, rehash, err)
		}
	}
}

// bcrypt reads 72 bytes; what comes after must not be ignored.
func TestBcryptRefusesPasswordsThatItWouldCut(t *testing.T) {
	p := auth.NewPasswords(&auth.PasswordsConfig{Cost: cheap()})
	long := strings.Repeat("0123456789ab", 6) // 72 bytes
	b, err := bcrypt.GenerateFromPassword([]byte(long), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	h := cell.NewSecret(string(b))
	if ok, _, _ := p.Verify(t.Context(), h, long); !ok {
		t.Fatal("the right password of 72 bytes is refused")
	}
	if ok, _, _ := p.Verify(t.Context(), h, long+"x"); ok {
		t.Fatal("a password that only begins right is accepted")
	}
}

// Every way of not getting in computes exactly one hash, whatever is stored.
func TestEveryAnswerCostsOneHash(t *testing.T) {
	var log logged
	p := auth.NewPasswords(&auth.PasswordsConfig{Cost: cheap(), Log: log.logger()})
	known := mustHash(t, p, good)
	b, _ := bcrypt.GenerateFromPassword([]byte(good), bcrypt.MinCost)
	verify := func(hash, pw string) func() {
		return func() { _, _, _ = p.Verify(t.Context(), cell.NewSecret(hash), pw) }
	}
	for name, try := range map[string]func(){
		"right":             verify(known.Reveal(), good),
		"wrong":             verify(known.Reveal(), "wrong"),
		"no such user":      func() { _ = p.Dummy(t.Context(), good) },
		"no hash":           verify("", good),
		"damaged hash":      verify("$argon2id$v=19$m=1", good),
		"hostile hash":      verify("$argon2id$v=19$m=4194304,t=3,p=1$c2FsdHNhbHRzYWx0$a2V5a2V5a2V5a2V5a2V5a2V5", good),
		"bcrypt":            verify(string(b), "wrong"),
		"bcrypt, too long":  verify(string(b), strings.Repeat("x", 73)),
		"bcrypt of cost 31": verify("$2a$31$"+string(b[7:]), good),
	} {
		before := p.Derivations()
		try()
		if n := p.Derivations() - before; n != 1 {
			t.Errorf("%s: %d hashes", name, n)
		}
	}
	if !strings.Contains(log.String(), "unreadable") {
		t.Error("a damaged hash was not logged")
	}
}

func TestAtMostTwoAtOnceEightWaitAndTheNextIsBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := auth.NewPasswords(nil)
		var mu sync.Mutex
		running, most := 0, 0
		gate := make(chan struct{})
		p.SetDerive(func([]byte, []byte, auth.Cost, uint32) []byte {
			mu.Lock()
			running++
			most = max(most, running)
			mu.Unlock()
			<-gate
			mu.Lock()
			running--
			mu.Unlock()
			return make([]byte, 32)
		})
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if err := p.Dummy(t.Context(), good); err != nil {
					t.Errorf("one of ten: %v", err)
				}
			})
		}
		synctest.Wait()
		if err := p.Dummy(t.Context(), good); !errors.Is(err, auth.ErrBusy) {
			t.Errorf("the eleventh: %v", err)
		}
		close(gate)
		wg.Wait()
		if most != 2 {
			t.Errorf("%d at once", most)
		}
		if err := p.Dummy(t.Context(), good); err != nil {
			t.Errorf("after the rush: %v", err)
		}
	})
}

func TestWaitingEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := auth.NewPasswords(&auth.PasswordsConfig{AtOnce: 1})
		gate := make(chan struct{})
		p.SetDerive(func([]byte, []byte, auth.Cost, uint32) []byte { <-gate; return nil })
		var wg sync.WaitGroup
		wg.Go(func() { _ = p.Dummy(t.Context(), good) })
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if ok, _, err := p.Verify(ctx, cell.Secret{}, good); ok || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("ok %v, err %v", ok, err)
		}
		close(gate)
		wg.Wait()
		if n := p.Derivations(); n != 1 {
			t.Errorf("%d hashes: the one that gave up was computed", n)
		}
	})
}

func TestHostileHashesAreRefused(t *testing.T) {
	tail := "$c2FsdHNhbHRzYWx0c2FsdA$a2V5a2V5a2V5a2V5a2V5a2V5a2V5a2V5a2V5a2V5a2U"
	if _, _, err := auth.ParsePHC("$argon2id$v=19$m=65536,t=3,p=1" + tail); err != nil {
		t.Fatalf("the model of the others is refused: %v", err)
	}
	for _, h := range []string{
		"", "$", "$argon2id$", "$argon2i$v=19$m=65536,t=3,p=1" + tail, "$argon2id$v=16$m=65536,t=3,p=1" + tail,
		"$argon2id$m=65536,t=3,p=1" + tail,
		"$argon2id$v=19$m=4194304,t=3,p=1" + tail, "$argon2id$v=19$m=65536,t=4294967295,p=1" + tail,
		"$argon2id$v=19$m=65536,t=3,p=255" + tail, "$argon2id$v=19$m=65536,t=3,p=0" + tail,
		"$argon2id$v=19$m=0,t=3,p=1" + tail, "$argon2id$v=19$m=7,t=3,p=1" + tail, "$argon2id$v=19$m=65536,t=0,p=1" + tail,
		"$argon2id$v=19$m=065536,t=3,p=1" + tail, "$argon2id$v=19$m=+65536,t=3,p=1" + tail,
		"$argon2id$v=19$m=-1,t=3,p=1" + tail, "$argon2id$v=19$t=3,m=65536,p=1" + tail,
		"$argon2id$v=19$m=65536,t=3,p=1,x=1" + tail, "$argon2id$v=19$m=65536,t=3" + tail,
		"$argon2id$v=19$m=65536,t=3,p=1$$", "$argon2id$v=19$m=65536,t=3,p=1$c2FsdA$a2V5a2V5a2V5a2V5a2V5a2V5",
		"$argon2id$v=19$m=65536,t=3,p=1$c2FsdHNhbHRzYWx0$a2V5",
		"$argon2id$v=19$m=65536,t=3,p=1" + tail + "$x", "$argon2id$v=19$m=65536,t=3,p=1" + tail + "=", "$argon2id$v=19$m=65536,t=3,p=1" + tail + "\n",
		"$argon2id$v=19$m=65536,t=3,p=1" + tail + strings.Repeat("A", 300),
	} {
		if _, _, err := auth.ParsePHC(h); err == nil {
			t.Errorf("accepted %q", h)
		}
	}
}

func FuzzPHC(f *testing.F) {
	f.Add("$argon2id$v=19$m=65536,t=3,p=1$c2FsdHNhbHRzYWx0c2FsdA$a2V5a2V5a2V5a2V5a2V5a2V5a2V5a2V5a2V5a2V5a2U")
	f.Add("$argon2id$v=19$m=4294967295,t=1,p=1$AAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAA")
	f.Add("$2a$10$abcdefghijklmnopqrstuv")
	f.Fuzz(func(t *testing.T, text string) {
		cost, back, err := auth.ParsePHC(text)
		if err != nil {
			return
		}
		if back != text {
			t.Fatalf("%q is read as %q", text, back)
		}
		if cost.Memory > 128*1024 || cost.Time > 10 || cost.Threads > 4 || cost.Memory < 8*uint32(cost.Threads) || cost.Time == 0 {
			t.Fatalf("%q asks for %+v", text, cost)
		}
	})
}
