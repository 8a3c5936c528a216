package auth

import (
	_ "embed"
	"fmt"
	"math"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"
)

// commonPasswords are well-known passwords of 12 and more characters, in lower
// case, sorted, one a line.
//
//go:embed common.txt
var commonPasswords string

// baseWords are the words that common passwords are made of, in lower case,
// sorted, one a line.
//
//go:embed basewords.txt
var baseWords string

// Bounds of a password.
const (
	PasswordMin = 12  // characters
	PasswordMax = 256 // bytes
)

// CheckPassword judges a new password. hints are names that a guesser would
// try: the user's, the cell's, the domain's. A refusal is a *[Problem] with
// code "invalid" whose text says what to do; it never holds the password.
func CheckPassword(pw string, hints ...string) error {
	if why := weakness(pw, hints); why != "" {
		return &Problem{Status: http.StatusUnprocessableEntity, Code: "invalid", Detail: why}
	}
	return nil
}

const advice = "Use four or more unrelated words, or let a password manager make one."

func weakness(pw string, hints []string) string {
	if !utf8.ValidString(pw) {
		return "The password is not valid UTF-8 text."
	}
	if strings.ContainsFunc(pw, unicode.IsControl) {
		return "The password holds a control character, such as a tab or a line break; leave it out."
	}
	if len(pw) > PasswordMax {
		return fmt.Sprintf("The password is longer than %d bytes; use a shorter one.", PasswordMax)
	}
	if n := utf8.RuneCountInString(pw); n < PasswordMin {
		return fmt.Sprintf("The password has %d characters; use at least %d.", n, PasswordMin)
	}
	lower := strings.ToLower(pw)
	for _, form := range forms(lower) {
		if listed(commonPasswords, form) {
			return "This is one of the most used passwords. " + advice
		}
	}
	var hinted []string
	for _, h := range hints {
		for _, part := range append(strings.FieldsFunc(strings.ToLower(h), notLetter), strings.ToLower(h)) {
			if utf8.RuneCountInString(part) >= 3 {
				hinted = append(hinted, part)
			}
		}
	}
	switch {
	case repeats(lower):
		return "The password repeats one short piece. " + advice
	case distinct(lower) < 5:
		return "The password uses too few different characters. " + advice
	case len(lower) < 16 && strings.Trim(lower, "0123456789 -./+") == "":
		return "The password is a short number, such as a date or a telephone number. " + advice
	case guessBits(lower, hinted) < weakBits:
		return "The password is made of names, common words, dates or rows of keys, which are tried first. " + advice
	}
	return ""
}

func notLetter(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }

// forms are the ways in which a listed password is dressed up: with digits for
// letters, with marks between words, with digits and marks at the ends.
func forms(lower string) []string {
	out := []string{lower}
	for _, one := range []rune{'i', 'l'} {
		f := fold(lower, one)
		out = append(out, f)
	}
	for _, f := range out[:3] {
		out = append(out, strings.Map(func(r rune) rune {
			if notLetter(r) {
				return -1
			}
			return r
		}, f))
	}
	trimmed := strings.TrimFunc(lower, func(r rune) bool { return !unicode.IsLetter(r) })
	return append(out, trimmed, fold(trimmed, 'i'), fold(trimmed, 'l'))
}

// fold undoes the usual replacements of letters, rune by rune; 1 becomes one.
func fold(lower string, one rune) string {
	return strings.Map(func(r rune) rune {
		switch r {
		case '0':
			return 'o'
		case '1', '!', '|':
			return one
		case '3', '€':
			return 'e'
		case '4', '@':
			return 'a'
		case '5', '$':
			return 's'
		case '7', '+':
			return 't'
		case '8':
			return 'b'
		case '9':
			return 'g'
		}
		return r
	}, lower)
}

// listed reports whether word is a line of list.
func listed(list, word string) bool {
	if word == "" {
		return false
	}
	for at := 0; ; {
		i := strings.Index(list[at:], word)
		if i < 0 {
			return false
		}
		start := at + i
		end := start + len(word)
		if (start == 0 || list[start-1] == '\n') && (end == len(list) || list[end] == '\n') {
			return true
		}
		at = start + 1
	}
}

// repeats reports whether text is a piece of less than 12 bytes, twice or more
// (the last time perhaps cut short).
func repeats(text string) bool {
	for size := 1; size < PasswordMin && 2*size <= len(text); size++ {
		if text[size:] == text[:len(text)-size] {
			return true
		}
	}
	return false
}

func distinct(text string) int {
	seen := map[rune]bool{}
	for _, r := range text {
		seen[r] = true
	}
	return len(seen)
}

// weakBits is what a password must be worth: three words of the list of base
// words, say. With ten tries in a quarter of an hour nobody gets there; the
// margin is for a stolen hash.
const weakBits = 30

// What the pieces of a password are worth to somebody who knows how people
// make them up, in bits.
const (
	bitsHint   = 2
	bitsWord   = 10
	bitsYear   = 7
	bitsWalk   = 6 // a row of keys, a sequence, one character again and again
	bitsDigit  = 3.3
	bitsLetter = 5
	bitsOther  = 6
	longestRun = 32 // runes of one piece

	longestWord = 20 // runes of a base word; the list is searched text
)

// guessBits is the least that text is worth over all ways of cutting it into
// pieces: names from hints, base words (plain or with digits for letters),
// years, rows of keys, sequences, and single characters.
func guessBits(lower string, hints []string) float64 {
	text := []rune(lower)
	folds := [][]rune{text, []rune(fold(lower, 'i')), []rune(fold(lower, 'l'))}
	least := make([]float64, len(text)+1)
	for i := 1; i <= len(text); i++ {
		least[i] = math.Inf(1)
	}
	for i := range text {
		for j := i + 1; j <= min(len(text), i+longestRun); j++ {
			if bits, ok := pieceBits(text, folds, hints, i, j); ok {
				least[j] = min(least[j], least[i]+bits)
			}
		}
	}
	return least[len(text)]
}

func pieceBits(text []rune, folds [][]rune, hints []string, i, j int) (float64, bool) {
	plain := string(text[i:j])
	switch n := j - i; {
	case n == 1 && unicode.IsDigit(text[i]):
		return bitsDigit, true
	case n == 1 && unicode.IsLetter(text[i]):
		return bitsLetter, true
	case n == 1:
		return bitsOther, true
	case n < 3:
		return 0, false
	case walk(plain):
		return bitsWalk, true
	case n == 4 && (strings.HasPrefix(plain, "19") || strings.HasPrefix(plain, "20")) && strings.Trim(plain, "0123456789") == "":
		return bitsYear, true
	}
	for _, f := range folds {
		piece := string(f[i:j])
		for _, h := range hints {
			if piece == h {
				return bitsHint, true
			}
		}
		if j-i <= longestWord && listed(baseWords, piece) {
			return bitsWord, true
		}
	}
	return 0, false
}

// walk reports whether piece is one character again and again, a sequence of
// the alphabet or of digits, or a row of keys; in either direction.
func walk(piece string) bool {
	runes := []rune(piece)
	step := runes[1] - runes[0]
	if step >= -1 && step <= 1 {
		same := true
		for i := 2; i < len(runes); i++ {
			same = same && runes[i]-runes[i-1] == step
		}
		if same {
			return true
		}
	}
	if len(runes) < 4 {
		return false
	}
	back := make([]rune, len(runes))
	for i, r := range runes {
		back[len(runes)-1-i] = r
	}
	return strings.Contains(keyRows, piece) || strings.Contains(keyRows, string(back))
}

// keyRows are rows and columns of keys: QWERTY, QWERTZ, AZERTY, the number pad.
const keyRows = "1234567890-= 01234567890 !@#$%^&*()_+ " +
	"qwertyuiop[] qwertyuiopasdfghjklzxcvbnm asdfghjkl;' zxcvbnm,./ " +
	"qwertzuiopü qwertzuiopasdfghjklyxcvbnm yxcvbnm,.- azertyuiop azertyuiopqsdfghjklmwxcvbn qsdfghjklm wxcvbn " +
	"1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik,9ol.0p;/ 1q2w3e4r5t6y7u8i9o0p q1w2e3r4t5y6u7i8o9p0 1a2b3c4d5e6f7g8h9i0j " +
	"a1b2c3d4e5f6g7h8i9j0 qazwsxedcrfvtgbyhnujmikolp 1qazxsw23edcvfr45tgbnhy67ujm !qaz@wsx#edc$rfv%tgb^yhn&ujm " +
	"qweasdzxc qwerasdfzxcv qweqweqwe asdasdasd zxczxczxc 123qweasdzxc 147258369 159357 789456123 741852963 963852741"
