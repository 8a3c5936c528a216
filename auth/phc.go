package auth

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
)

// Caps of a hash that we are asked to compute. A hash comes from a secret
// file, which a restored backup may have brought: it must not make the cell
// allocate gigabytes or compute for minutes.
const (
	maxMemory  = 128 * 1024 // KiB
	maxTime    = 10
	maxThreads = 4
	maxPHC     = 256 // bytes of text
)

var errPHC = errors.New("not a password hash of a known kind")

// phc is an argon2id hash: $argon2id$v=19$m=65536,t=3,p=1$salt$key, with salt
// and key in base64 without padding (the PHC string format).
type phc struct {
	cost      Cost
	salt, key []byte
}

var phcBase64 = base64.RawStdEncoding.Strict()

func (h phc) String() string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version,
		h.cost.Memory, h.cost.Time, h.cost.Threads, phcBase64.EncodeToString(h.salt), phcBase64.EncodeToString(h.key))
}

// parsePHC reads exactly the form that String writes, within the caps.
func parsePHC(text string) (phc, error) {
	var h phc
	if len(text) > maxPHC {
		return phc{}, errPHC
	}
	parts := strings.Split(text, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != "v="+strconv.Itoa(argon2.Version) {
		return phc{}, errPHC
	}
	params := strings.Split(parts[3], ",")
	if len(params) != 3 {
		return phc{}, errPHC
	}
	memory, err1 := phcNumber(params[0], "m=", maxMemory)
	passes, err2 := phcNumber(params[1], "t=", maxTime)
	lanes, err3 := phcNumber(params[2], "p=", maxThreads)
	salt, err4 := phcBytes(parts[4], 8, 64)
	key, err5 := phcBytes(parts[5], 16, 64)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return phc{}, err
	}
	if memory < 8*lanes { // RFC 9106, section 3.1
		return phc{}, errPHC
	}
	h.cost = Cost{Memory: memory, Time: passes, Threads: uint8(lanes)}
	h.salt, h.key = salt, key
	return h, nil
}

func phcNumber(text, prefix string, most uint32) (uint32, error) {
	digits, ok := strings.CutPrefix(text, prefix)
	n, err := strconv.ParseUint(digits, 10, 32)
	// The round trip refuses leading zeros and signs: one hash, one text.
	if !ok || err != nil || n == 0 || uint32(n) > most || strconv.FormatUint(n, 10) != digits {
		return 0, fmt.Errorf("reading parameter %q: %w", prefix, errPHC)
	}
	return uint32(n), nil
}

// phcBytes decodes base64 of between least and most bytes. The decoder skips
// line breaks, so they are refused here.
func phcBytes(text string, least, most int) ([]byte, error) {
	b, err := phcBase64.DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") || len(b) < least || len(b) > most {
		return nil, errPHC
	}
	return b, nil
}
