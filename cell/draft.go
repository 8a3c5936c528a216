package cell

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// MaxExitConfig is the size of what may be pasted for an exit, in bytes.
const MaxExitConfig = 64 << 10

// ExitPaste is what a person gives to describe an exit: a file's text, a URL
// or lines, and what the text does not hold. Unused fields are empty.
type ExitPaste struct {
	Type ExitType
	// Config is the text, at most [MaxExitConfig] bytes.
	Config   string
	Username string
	Password Secret
	// PrivateKey is an SSH key in PEM; Passphrase opens it.
	PrivateKey Secret
	Passphrase Secret
}

// ExitDraft is what was understood of an [ExitPaste]. It is no exit yet: its
// secrets are values that have no reference. With Refused empty and Asks
// answered, an exit made of it passes [State.Validate].
type ExitDraft struct {
	// Name is a proposal for people: where the exit leads.
	Name               string
	Address4, Address6 netip.Addr
	WireGuard          *WireGuardExit // PresharedKey is empty: see below
	OpenVPN            *OpenVPNExit   // Profile is empty: see below
	Tor                *TorExit
	SSH                *SSHExit
	Proxy              *ProxyExit

	Credentials  Secret // as in [Exit.Credentials]
	PresharedKey Secret // of WireGuard
	Profile      Secret // of OpenVPN, normalised

	// Asks names what is still missing: username, password, private_key or passphrase.
	Asks []string
	// Warnings are lines that were understood but change nothing or bode ill.
	Warnings []ExitRemark
	// Refused are lines that must go before an exit can be made, each with its cure.
	Refused []ExitRemark
}

// ExitRemark is about one line of what was pasted; line 0 is the whole. Text
// never repeats a value of the line, which may be a secret.
type ExitRemark struct {
	Line int    `json:"line"`
	Text string `json:"text"`
}

func (r ExitRemark) String() string {
	if r.Line == 0 {
		return r.Text
	}
	return fmt.Sprintf("line %d: %s", r.Line, r.Text)
}

// ParseHostKey reads an SSH public key as a line of authorized_keys has it
// (type, base64, and perhaps a comment) and returns its canonical form and its
// fingerprint as OpenSSH shows it (SHA256:…).
func ParseHostKey(line string) (key, fingerprint string, err error) {
	f := strings.Fields(line)
	if len(f) < 2 || len(line) > 4096 {
		return "", "", errors.New("must be an SSH public key: its type and its base64 text, as in known_hosts")
	}
	blob, err := base64.StdEncoding.DecodeString(f[1])
	if err != nil || base64.StdEncoding.EncodeToString(blob) != f[1] {
		return "", "", errors.New("the key's base64 text is damaged: copy the whole line")
	}
	// RFC 4253 §6.6: strings with their lengths before them, the first of which
	// is the type; a line that was cut off ends inside one.
	fields := 0
	for rest := blob; len(rest) > 0; fields++ {
		if len(rest) < 4 || uint64(binary.BigEndian.Uint32(rest)) > uint64(len(rest)-4) {
			return "", "", errors.New("the key is cut off: copy the whole line")
		}
		n := int(binary.BigEndian.Uint32(rest))
		if fields == 0 && string(rest[4:4+n]) != f[0] {
			return "", "", errors.New("the key's text is of another type than it says: copy the whole line")
		}
		rest = rest[4+n:]
	}
	if fields < 2 {
		return "", "", errors.New("the key is cut off: copy the whole line")
	}
	sum := sha256.Sum256(blob)
	return f[0] + " " + f[1], "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:]), nil
}
