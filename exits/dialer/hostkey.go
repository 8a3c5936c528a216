package dialer

import (
	"bytes"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
)

// hostKey is the pinned key of an SSH server.
type hostKey struct {
	pin func(key string) error

	mu   sync.Mutex
	text string // as in authorized_keys, "" before the first is seen
	key  ssh.PublicKey
}

func newHostKey(text string, pin func(string) error) (*hostKey, error) {
	h := &hostKey{pin: pin}
	if text == "" {
		return h, nil
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("reading the pinned host key: %w", err)
	}
	h.key, h.text = key, keyText(key)
	return h, nil
}

func keyText(k ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k)))
}

// check is an [ssh.HostKeyCallback]. It runs before we prove who we are, so a
// server with another key learns nothing of the credentials.
func (h *hostKey) check(_ string, _ net.Addr, key ssh.PublicKey) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.key != nil {
		if !bytes.Equal(h.key.Marshal(), key.Marshal()) {
			return ErrHostKey{Got: keyText(key), Want: h.text}
		}
		return nil
	}
	text := keyText(key)
	if h.pin == nil {
		return ErrHostKey{Got: text}
	}
	if err := h.pin(text); err != nil {
		return fmt.Errorf("pinning the host key: %w", err)
	}
	h.key, h.text = key, text
	return nil
}

// algorithms are those of the pinned key's type first: the first one of ours
// that the server has too is used (RFC 4253 §7.1), so a server that still has
// the pinned key shows it, and one that has not shows what it has now.
func (h *hostKey) algorithms() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var first, rest []string
	for _, a := range ssh.SupportedAlgorithms().HostKeys {
		switch {
		case strings.Contains(a, "-cert-"): // a certificate is not what is pinned
		case h.key != nil && (a == h.key.Type() || h.key.Type() == ssh.KeyAlgoRSA && strings.HasPrefix(a, "rsa-sha2-")):
			first = append(first, a)
		default:
			rest = append(rest, a)
		}
	}
	return slices.Concat(first, rest)
}
