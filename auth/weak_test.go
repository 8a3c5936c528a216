package auth_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/personal-internet-cell/pic/auth"
)

func TestWeakPasswordsAreRefusedWithACure(t *testing.T) {
	for _, c := range []struct{ name, pw, says string }{
		{"short", "abcdefghijk", "11 characters; use at least 12"},
		{"short in characters, long in bytes", "ääääääöööüü", "11 characters"},
		{"empty", "", "0 characters"},
		{"long", strings.Repeat("kQ7 ", 65), "longer than 256 bytes"},
		{"not UTF-8", "quartz lantern \xff\xfe ovation", "UTF-8"},
		{"tab", "quartz lantern\tovation", "control character"},
		{"NUL", "quartz lantern\x00ovation", "control character"},
		{"C1 control", "quartz lantern\u0085ovation", "control character"},
		{"listed", "passwordpassword", "most used"},
		{"listed, other case", "PassWordPassWord", "most used"},
		{"listed, digits for letters", "p@ssw0rdp@ssw0rd", "most used"},
		{"listed, with marks", "correct horse battery staple", "most used"},
		{"listed, dressed up", "!!YouShallNotPass99", "most used"},
		{"one character", "zzzzzzzzzzzzzzzz", "repeats"},
		{"piece", "x7!x7!x7!x7!x7!", "repeats"},
		{"two halves", "Ty7#mQxTy7#mQx", "repeats"},
		{"few characters", "abaabbbaabababbaa", "few different"},
		{"telephone number", "+49 30 901820", "short number"},
		{"word and year", "Volkswagen2019!", "rows of keys"},
		{"two words and digits", "DragonSummer847", "rows of keys"},
		{"word with digits for letters", "5un5h1n3_1987", "rows of keys"},
		{"row of keys", "asdfghjkl;'987", "rows of keys"},
		{"rows of keys", "qwertyuiopzxcvbnm", "rows of keys"},
		{"sequence and word", "abcdefgh-monkey", "rows of keys"},
		{"user's name", "marguerite1987", "rows of keys"},
		{"cell's name", "marguerite-blueheron", "rows of keys"},
		{"names with marks", "Blueheron!Marguerite!", "rows of keys"},
	} {
		err := auth.CheckPassword(c.pw, "marguerite", "blueheron")
		var p *auth.Problem
		if !errors.As(err, &p) || p.Code != "invalid" || p.Status != 422 || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", c.name, err, c.says)
		}
		if err != nil && c.pw != "" && strings.Contains(err.Error(), c.pw) {
			t.Errorf("%s: the refusal holds the password", c.name)
		}
	}
}

func TestGoodPasswordsAreAccepted(t *testing.T) {
	for _, pw := range []string{
		good, "vL9#kQ2$xM7!", "correct otter mandolin spinach", "Mein Fahrrad hat zwei Räder", "прекрасная погода сегодня",
		"tvfnqzwhplxc", "84 zebras ate my toolbox", "日本語の長い合言葉を使います", strings.Repeat("kQ7z", 4) + "otter-mandolin",
		"Xk4-PzR7-mmQ2-vv9T", "marguerite hates wet gravel",
	} {
		if err := auth.CheckPassword(pw, "marguerite", "blueheron"); err != nil {
			t.Errorf("%q: %v", pw, err)
		}
	}
}

// The hints of one cell must not weaken another's rule.
func TestANameIsOnlyWeakWhereItIsAHint(t *testing.T) {
	if auth.CheckPassword("Zweibrueckener", "zweibrueckener") == nil {
		t.Error("the name itself is accepted")
	}
	if err := auth.CheckPassword("Zweibrueckener", "admin"); err != nil {
		t.Errorf("elsewhere: %v", err)
	}
}

func TestListsAreSortedDistinctAndLargeEnough(t *testing.T) {
	setup, common, base := auth.Lists()
	for _, c := range []struct {
		name, text               string
		least, shortest, longest int
		alphabet                 string
	}{
		{"words.txt", setup, 2048, 3, 8, "abcdefghijklmnopqrstuvwxyz"},
		{"basewords.txt", base, 800, 3, 20, "abcdefghijklmnopqrstuvwxyz"},
		{"common.txt", common, 1500, 12, 64, ""},
	} {
		lines := strings.Split(strings.TrimSuffix(c.text, "\n"), "\n")
		if len(lines) < c.least {
			t.Errorf("%s: %d lines, want %d", c.name, len(lines), c.least)
		}
		if !slices.IsSorted(lines) || len(slices.Compact(slices.Clone(lines))) != len(lines) {
			t.Errorf("%s: not sorted or not distinct", c.name)
		}
		for _, l := range lines {
			if len(l) < c.shortest || len(l) > c.longest || l != strings.ToLower(l) || c.alphabet != "" && strings.Trim(l, c.alphabet) != "" {
				t.Errorf("%s: %q", c.name, l)
			}
			if c.name == "common.txt" && auth.CheckPassword(l) == nil {
				t.Errorf("%q is listed and accepted", l)
			}
		}
	}
}

func FuzzCheckPassword(f *testing.F) {
	f.Add("quartz lantern ovation", "ada")
	f.Add("\xff\xfe", "")
	f.Add("İİİİİİİİİİİİİ", "İ")
	f.Fuzz(func(t *testing.T, pw, hint string) {
		if auth.CheckPassword(pw, hint) == nil && (len(pw) < 12 || len(pw) > 256) {
			t.Fatalf("accepted %q", pw)
		}
	})
}
