package profile_test

import (
	"bytes"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/exits/profile"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

func sshPaste(text, key, passphrase, password string) *cell.ExitDraft {
	return profile.Parse(cell.ExitPaste{
		Type: cell.ExitSSHuttle, Config: text, PrivateKey: cell.NewSecret(key), Passphrase: cell.NewSecret(passphrase), Password: cell.NewSecret(password),
	}, profile.Options{Now: now})
}

// keygen makes a key with ssh-keygen and returns it with its public line.
func keygen(t *testing.T, args ...string) (private, public string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "k")
	if out, err := exec.Command("ssh-keygen", append([]string{"-q", "-C", "someone@example", "-f", file}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen %v: %v: %s", args, err, out)
	}
	read := func(f string) string {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	return read(file), read(file + ".pub")
}

func TestSSHServersAreWrittenInManyWays(t *testing.T) {
	for text, want := range map[string]cell.SSHExit{
		"ann@example.net":                {Host: "example.net", Port: 22, User: "ann"},
		"# mine\nann@example.net:2222\n": {Host: "example.net", Port: 2222, User: "ann"},
		"ssh://ann@example.net:2222/":    {Host: "example.net", Port: 2222, User: "ann"},
		"ssh -N -p 2222 ann@example.net": {Host: "example.net", Port: 2222, User: "ann"},
		"ssh -l ann EXAMPLE.net":         {Host: "example.net", Port: 22, User: "ann"},
		"ann@[2001:db8::1]:2222":         {Host: "2001:db8::1", Port: 2222, User: "ann"},
		"ann@2001:db8::1":                {Host: "2001:db8::1", Port: 22, User: "ann"},
		"ann@mail@192.0.2.1":             {Host: "192.0.2.1", Port: 22, User: "ann@mail"},
	} {
		d := sshPaste(text, "", "", "let me in")
		if accepted(t, cell.ExitSSHuttle, d); d.SSH.Host != want.Host || d.SSH.Port != want.Port || d.SSH.User != want.User || d.SSH.Auth != cell.SSHPassword || d.Credentials.Reveal() != "let me in" {
			t.Errorf("%q: %+v", text, d.SSH)
		}
	}
	for text, want := range map[string]string{
		"":                                      "there is no server",
		"ann@":                                  "must be user@host",
		"ann@example.net:0":                     "must be user@host",
		"ann@example.net:70000":                 "must be user@host",
		"ann@999.1.1.1":                         "must be user@host",
		"ann:hunter2@example.net":               "a password does not belong",
		"ann@a.example\nann@b.example":          "line 2: there is a second server",
		"ssh -o ProxyCommand=x ann@b":           "options of ssh other than",
		"ssh -p x ann@b":                        "-p takes",
		"PuTTY-User-Key-File-3: ssh-ed25519\nx": "puttygen",
		"ann@b\n-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA": "line 2: the private key has no END line",
		"ann@b\nssh-ed25519 AAAA":                          "host key",
	} {
		if d := sshPaste(text, "", "", "x"); !strings.Contains(remarks(d.Refused), want) || strings.Contains(remarks(d.Refused), "hunter2") {
			t.Errorf("%q: want %q, got %s", text, want, remarks(d.Refused))
		}
	}
	if d := sshPaste("example.net", "", "", ""); len(d.Refused) > 0 || strings.Join(d.Asks, " ") != "username private_key password" {
		t.Errorf("%v %v", d.Asks, d.Refused)
	}
}

// Keys of each kind that ssh-keygen makes, in each form, log in.
func TestSSHKeysAreRead(t *testing.T) {
	netnstest.Need(t, "ssh-keygen")
	for _, kind := range [][]string{{"-t", "ed25519"}, {"-t", "ecdsa"}, {"-t", "rsa", "-b", "2048"}, {"-t", "rsa", "-b", "2048", "-m", "PEM"}, {"-t", "ecdsa", "-m", "PKCS8"}} {
		key, public := keygen(t, append(kind, "-N", "")...)
		for _, d := range []*cell.ExitDraft{
			sshPaste("ann@example.net", strings.ReplaceAll(key, "\n", "\r\n"), "", ""),
			sshPaste(key+"\nann@example.net", "", "", ""),
		} {
			accepted(t, cell.ExitSSHuttle, d)
			sameKey(t, d.Credentials, public)
		}
	}
	key, public := keygen(t, "-t", "ed25519", "-N", "open sesame", "-a", "4")
	if d := sshPaste("ann@b", key, "", ""); strings.Join(d.Asks, " ") != "passphrase" || !d.Credentials.Empty() {
		t.Errorf("locked: %v %v", d.Asks, d.Refused)
	}
	wants(t, "a wrong passphrase", sshPaste("ann@b", key, "wrong", "").Refused, "does not open the private key")
	d := sshPaste("ann@b", key, "open sesame", "")
	accepted(t, cell.ExitSSHuttle, d)
	sameKey(t, d.Credentials, public)
	wants(t, "warnings", d.Warnings, "kept without its passphrase")
	wants(t, "a public key", sshPaste("ann@b", public, "", "").Refused, "this is a public key")
	wants(t, "no key", sshPaste("ann@b", "hello", "", "").Refused, "must be in PEM")
	wants(t, "a broken key", sshPaste("ann@b", strings.Replace(key, "b3BlbnNzaC1rZXktdjE", "b3BlbnNzaC1rZXktdjA", 1), "x", "").Refused, "can't be read")
	wants(t, "two keys", sshPaste("ann@b\n"+key, key, "", "").Refused, "a private key in the text and another")
	b, _ := pem.Decode([]byte(key))
	at := bytes.Index(b.Bytes, []byte{0, 0, 0, 24, 0, 0, 0, 16}) + 24 // a string of a salt and the rounds
	copy(b.Bytes[at:], []byte{0x7f, 0, 0, 4})
	wants(t, "rounds", sshPaste("ann@b", string(pem.EncodeToMemory(b)), "x", "").Refused, "too many rounds")
	locked, _ := keygen(t, "-t", "rsa", "-b", "2048", "-m", "PKCS8", "-N", "open sesame")
	wants(t, "PKCS8", sshPaste("ann@b", locked, "open sesame", "").Refused, "locked in a form")

	// A host key as known_hosts has it.
	d = sshPaste("ann@b\n[b]:2222 "+public, "", "", "x")
	if accepted(t, cell.ExitSSHuttle, d); d.SSH.HostKey != strings.Join(strings.Fields(public)[:2], " ") {
		t.Errorf("%q", d.SSH.HostKey)
	}
	wants(t, "two host keys", sshPaste("ann@b\n"+public+keyLine, "", "", "x").Refused, "second host key")
}

const keyLine = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBRLYtbBwJ+XTArqarQz/hjMnfBYEc7UoCgnmfulGxab\n"

func sameKey(t *testing.T, private cell.Secret, public string) {
	t.Helper()
	s, err := ssh.ParsePrivateKey([]byte(private.Reveal()))
	if err != nil {
		t.Fatal(err)
	}
	got := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(s.PublicKey())))
	if want := strings.Join(strings.Fields(public)[:2], " "); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func FuzzSSH(f *testing.F) {
	fuzz(f, cell.ExitSSHuttle, "ssh -p 2222 ann@example.net\n"+keyLine, "ann@[2001:db8::1]:22\n-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n")
}

func FuzzSSHKey(f *testing.F) {
	f.Add("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU=\n-----END OPENSSH PRIVATE KEY-----\n", "")
	f.Fuzz(func(t *testing.T, key, passphrase string) {
		if d := sshPaste("ann@example.net", key, passphrase, ""); len(d.Refused) == 0 && len(d.Asks) == 0 {
			if _, err := ssh.ParsePrivateKey([]byte(d.Credentials.Reveal())); err != nil {
				t.Errorf("accepted, but no key: %v", err)
			}
		}
	})
}
