package cell_test

import (
	"testing"

	"github.com/personal-internet-cell/pic/cell"
)

// Of a key pair that ssh-keygen made; the fingerprint is what ssh-keygen -l printed.
const (
	hostKey         = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBRLYtbBwJ+XTArqarQz/hjMnfBYEc7UoCgnmfulGxab"
	hostFingerprint = "SHA256:L7KeLmegbntQlcAXvdBQX5IpWBDGyt0Ee9ucVvwz2sc"
)

func TestHostKeysAreReadAsOpenSSHDoes(t *testing.T) {
	key, fp, err := cell.ParseHostKey(hostKey + " root@server\n")
	if err != nil || key != hostKey || fp != hostFingerprint {
		t.Errorf("%q %q %v", key, fp, err)
	}
	for _, bad := range []string{
		"", "ssh-ed25519", "ssh-ed25519 !!!", "ssh-ed25519 AAAA", "ssh-rsa " + hostKey[12:],
		hostKey[:40], "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5",
	} {
		if k, _, err := cell.ParseHostKey(bad); err == nil {
			t.Errorf("%q was read as %q", bad, k)
		}
	}
}
