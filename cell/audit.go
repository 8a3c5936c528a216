package cell

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// AuditEntry is one line of the record of who did what: sign-ins, refusals,
// changes of credentials and revisions. It never holds a secret.
type AuditEntry struct {
	// Seq counts from 1 without a gap; the log gives it.
	Seq  uint64    `json:"seq"`
	Time time.Time `json:"time"`
	// Event is a stable word such as login, refused, revision.
	Event string `json:"event"`
	// Outcome is ok, refused, or a revision's status.
	Outcome string `json:"outcome"`
	Who     Author `json:"who"`
	// Subject is what it was about: an operation's path, or a revision's message.
	Subject  string   `json:"subject"`
	Revision Revision `json:"revision,omitempty"`
	// Code is the refusal's problem code.
	Code      string `json:"code,omitempty"`
	RequestID string `json:"request_id,omitempty"`
	// Token is the id of the API token that spoke.
	Token string `json:"token,omitempty"`
	// Prev is SHA-256 of the entry before, in hex; the log gives it.
	Prev string `json:"prev"`
}

// AuditReport is what a check of the whole chain found.
type AuditReport struct {
	Entries uint64 `json:"entries"`
	First   uint64 `json:"first" doc:"number of the oldest kept entry"`
	Last    uint64 `json:"last"`
	Head    string `json:"head" doc:"SHA-256 of the last entry: note it elsewhere to notice a log that was rewritten as a whole"`
	// Broken is empty when the chain is whole, or names the first entry that is not.
	Broken string `json:"broken"`
}

// OneLine makes text of strangers safe to show and log: what does not print
// (control characters, line breaks, bidirectional overrides, bad UTF-8)
// becomes U+FFFD, and the rest is cut after most runes.
func OneLine(text string, most int) string {
	var b strings.Builder
	for _, r := range text {
		if most--; most < 0 {
			b.WriteRune('…')
			break
		}
		if r != ' ' && !unicode.IsPrint(r) {
			r = utf8.RuneError
		}
		b.WriteRune(r)
	}
	return b.String()
}
