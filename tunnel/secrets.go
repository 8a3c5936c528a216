package tunnel

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"

	"github.com/personal-internet-cell/pic/cell"
)

// vault reads secrets and remembers a digest of each, so that a settled device
// is recognised without reading its keys from disk again. A value never
// changes under its reference, so a digest never goes stale.
type vault struct {
	read    func(cell.SecretRef) (cell.Secret, error)
	digests map[cell.SecretRef][sha256.Size]byte
}

func digest(s cell.Secret) [sha256.Size]byte { return sha256.Sum256([]byte(s.Reveal())) }

func (v *vault) is(ref cell.SecretRef, have cell.Secret) (bool, error) {
	if ref == "" {
		return have.Empty(), nil
	}
	d, ok := v.digests[ref]
	if !ok {
		if _, err := v.value(ref); err != nil {
			return false, err
		}
		d = v.digests[ref]
	}
	h := digest(have)
	return subtle.ConstantTimeCompare(d[:], h[:]) == 1, nil
}

// value returns the secret as a well-formed key, or the empty one for the
// empty reference.
func (v *vault) value(ref cell.SecretRef) (cell.Secret, error) {
	if ref == "" {
		return cell.Secret{}, nil
	}
	s, err := v.read(ref)
	if err != nil {
		return cell.Secret{}, err
	}
	k, err := decodeKey(s.Reveal())
	if err != nil {
		return cell.Secret{}, err
	}
	if s = encodeKey(k); s.Empty() {
		return s, errors.New("the key is all zero")
	}
	v.digests[ref] = digest(s)
	return s, nil
}

// keep forgets the references that no device of the plan names.
func (v *vault) keep(ds Devices) {
	used := map[cell.SecretRef]bool{}
	for i := range ds {
		used[ds[i].PrivateKey] = true
		for j := range ds[i].Peers {
			used[ds[i].Peers[j].PresharedKey] = true
		}
	}
	for ref := range v.digests {
		if !used[ref] {
			delete(v.digests, ref)
		}
	}
}
