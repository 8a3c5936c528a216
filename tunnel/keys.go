package tunnel

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/personal-internet-cell/pic/cell"
)

const keySize = 32

// GenerateKey makes a key pair for X25519, in the base64 that wg(8) reads.
func GenerateKey() (private cell.Secret, public cell.Key) {
	var k [keySize]byte
	_, _ = rand.Read(k[:]) // never fails, the program ends instead
	// RFC 7748 §5: clear the cofactor, fix the top bit.
	k[0] &= 248
	k[31] = k[31]&127 | 64
	private = encodeKey(k)
	public, _ = publicKey(k) // 32 bytes, clamped: a scalar by construction
	return private, public
}

// GeneratePSK makes a preshared key.
func GeneratePSK() cell.Secret {
	var k [keySize]byte
	_, _ = rand.Read(k[:])
	return encodeKey(k)
}

// PublicKey returns the public half of a private key. The error never holds
// the key.
func PublicKey(private cell.Secret) (cell.Key, error) {
	k, err := decodeKey(private.Reveal())
	if err != nil {
		return "", fmt.Errorf("reading the private key: %w", err)
	}
	return publicKey(k)
}

func publicKey(k [keySize]byte) (cell.Key, error) {
	p, err := ecdh.X25519().NewPrivateKey(k[:])
	if err != nil {
		return "", fmt.Errorf("reading the private key: %w", err)
	}
	return cell.Key(base64.StdEncoding.EncodeToString(p.PublicKey().Bytes())), nil
}

var errKey = errors.New("not a WireGuard key: 32 bytes in base64")

func decodeKey(s string) (k [keySize]byte, err error) {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil || len(b) != keySize {
		return k, errKey
	}
	return [keySize]byte(b), nil
}

// encodeKey returns k in base64, or the empty secret for the zero key, which
// WireGuard uses for "none".
func encodeKey(k [keySize]byte) cell.Secret {
	if k == [keySize]byte{} {
		return cell.Secret{}
	}
	return cell.NewSecret(base64.StdEncoding.EncodeToString(k[:]))
}
