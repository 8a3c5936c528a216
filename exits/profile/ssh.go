package profile

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/personal-internet-cell/pic/cell"
)

const (
	pemBegin, pemEnd = "-----BEGIN ", "-----END "
	sshPort          = 22
)

// ssh reads a target (user@host:port, ssh://…, or a command line of ssh), and
// beside it, in any order, a private key in PEM and the server's host key.
func (p *parser) ssh(lines []line) {
	s := &cell.SSHExit{User: p.in.Username, Auth: cell.SSHKey}
	p.d.SSH = s
	var key strings.Builder
	targets, inKey := 0, 0
	for _, l := range lines {
		switch {
		case strings.HasPrefix(l.text, pemBegin) && inKey == 0:
			if key.Len() > 0 {
				p.refuse(l.n, "there is a second private key: keep one")
			}
			inKey = l.n
			key.WriteString(l.text + "\n")
		case inKey > 0:
			key.WriteString(l.text + "\n")
			if strings.HasPrefix(l.text, pemEnd) {
				inKey = 0
			}
		case l.text == "" || l.text[0] == '#':
		case strings.HasPrefix(l.text, "PuTTY-User-Key-File"):
			p.refuse(l.n, "this is a key of PuTTY: convert it with `puttygen key.ppk -O private-openssh -o key` and paste that")
			return
		case isHostKey(l.text):
			p.hostKey(l)
		default:
			if targets++; targets == 2 {
				p.refuse(l.n, "there is a second server: an exit leads to one")
			} else if targets == 1 {
				p.target(l, s)
			}
		}
	}
	switch {
	case inKey > 0:
		p.refuse(inKey, "the private key has no END line: copy the whole key")
		return
	case targets == 0:
		p.refuse(0, "there is no server: write user@host or user@host:port")
	}
	if targets > 0 && s.User == "" && s.Host != "" {
		p.ask("username")
	}
	if strings.ContainsFunc(s.User, func(r rune) bool { return r < 0x20 || r == 0x7f }) || len(s.User) > 255 {
		p.refuse(0, "the user's name must be one short line")
	}
	p.sshCredentials(s, key.String())
}

// sshOptions are options of ssh(1) that take a value and have a place here, and
// those without a value that change nothing for us.
var sshFlags = []string{"-N", "-T", "-f", "-q", "-C", "-4", "-6", "-v", "-n", "-a", "-x"}

func (p *parser) target(l line, s *cell.SSHExit) {
	const how = "the server must be user@host or user@host:port"
	f := strings.Fields(l.text)
	if f[0] == "ssh" || f[0] == "sshuttle" {
		f = f[1:]
	}
	var where []string
	for i := 0; i < len(f); i++ {
		value := ""
		if i+1 < len(f) {
			value = f[i+1]
		}
		switch {
		case slices.Contains(sshFlags, f[i]):
		case f[i] == "-p":
			n, err := strconv.ParseUint(value, 10, 16)
			if err != nil || n == 0 {
				p.refuse(l.n, "-p takes the server's port, 1 to 65535")
				return
			}
			s.Port = uint16(n)
			i++
		case f[i] == "-l":
			s.User = value
			i++
		case f[i] == "-D", f[i] == "-i":
			p.warn(l.n, "%s is not used: the cell makes its own connections and keeps the key itself", f[i])
			i++
		case strings.HasPrefix(f[i], "-"):
			p.refuse(l.n, "options of ssh other than -p and -l are not understood: %s", how)
			return
		default:
			where = append(where, f[i])
		}
	}
	if len(where) != 1 {
		p.refuse(l.n, how)
		return
	}
	t := strings.TrimSuffix(strings.TrimPrefix(where[0], "ssh://"), "/")
	if at := strings.LastIndexByte(t, '@'); at >= 0 {
		s.User, t = t[:at], t[at+1:]
		if strings.Contains(s.User, ":") {
			p.refuse(l.n, "a password does not belong in the server's line: enter it as the password")
			s.User = ""
		}
	}
	host, port, ok := splitHostPort(t)
	if !ok {
		p.refuse(l.n, how+"; an IPv6 address with a port stands in brackets")
		return
	}
	s.Host, p.d.Name = host, host
	if port != 0 {
		s.Port = port
	}
	if s.Port == 0 {
		s.Port = sshPort
	}
}

// isHostKey recognises a public key, also behind a host as in known_hosts.
func isHostKey(text string) bool {
	f := strings.Fields(text)
	return len(f) >= 2 && isKeyType(f[0]) || len(f) >= 3 && isKeyType(f[1])
}

func isKeyType(s string) bool {
	return strings.HasPrefix(s, "ssh-") || strings.HasPrefix(s, "ecdsa-sha2-") || strings.HasPrefix(s, "sk-")
}

func (p *parser) hostKey(l line) {
	text := l.text
	if f := strings.Fields(text); !isKeyType(f[0]) {
		text = strings.Join(f[1:], " ")
	}
	key, _, err := cell.ParseHostKey(text)
	switch {
	case err != nil:
		p.refuse(l.n, "the server's host key %v", err)
	case p.d.SSH.HostKey != "" && p.d.SSH.HostKey != key:
		p.refuse(l.n, "there is a second host key: keep one")
	default:
		if _, err := ssh.ParsePublicKey(mustBase64(key)); err != nil {
			p.refuse(l.n, "the server's host key is of a kind that is not understood: use its ed25519, ecdsa or rsa key")
			return
		}
		p.d.SSH.HostKey = key
	}
}

// mustBase64 is the blob of a key that cell.ParseHostKey has read.
func mustBase64(key string) []byte {
	_, b64, _ := strings.Cut(key, " ")
	b, _ := base64.StdEncoding.DecodeString(b64)
	return b
}

// sshCredentials chooses between the key and the password.
func (p *parser) sshCredentials(s *cell.SSHExit, pasted string) {
	given := p.in.PrivateKey.Reveal()
	switch {
	case given != "" && pasted != "":
		p.refuse(0, "there is a private key in the text and another beside it: give one")
	case given != "" || pasted != "":
		p.sshKey(given + pasted)
	case !p.in.Password.Empty():
		s.Auth = cell.SSHPassword
		p.d.Credentials = p.in.Password
	default:
		p.ask("private_key")
		p.ask("password")
	}
}

// maxRounds bounds the work that a key's passphrase costs (bcrypt_pbkdf; the
// default of ssh-keygen is 24).
const maxRounds = 512

func (p *parser) sshKey(text string) {
	text = strings.TrimSpace(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(strings.TrimPrefix(text, "\ufeff"))) + "\n"
	if len(text) > cell.MaxExitConfig {
		p.refuse(0, "the private key is too long: this is not the right file")
		return
	}
	if isHostKey(text) {
		p.refuse(0, "this is a public key: the private one is in the file without .pub")
		return
	}
	b, _ := pem.Decode([]byte(text))
	if b == nil {
		p.refuse(0, "the private key must be in PEM: it begins with -----BEGIN … PRIVATE KEY----- and has an END line")
		return
	}
	if b.Type == "ENCRYPTED PRIVATE KEY" {
		p.refuse(0, "the private key is locked in a form that is not understood: run `ssh-keygen -p -f key` with an empty new passphrase on a copy, and paste that")
		return
	}
	if rounds(b) > maxRounds {
		p.refuse(0, "the private key's passphrase is hardened with too many rounds: make a copy with `ssh-keygen -p -a 24 -f key`")
		return
	}
	key, err := ssh.ParseRawPrivateKey([]byte(text))
	locked := false
	if missing := (*ssh.PassphraseMissingError)(nil); errors.As(err, &missing) {
		if p.in.Passphrase.Empty() {
			p.ask("passphrase")
			return
		}
		locked = true
		if key, err = ssh.ParseRawPrivateKeyWithPassphrase([]byte(text), []byte(p.in.Passphrase.Reveal())); err != nil {
			p.refuse(0, "the passphrase does not open the private key: enter it again")
			return
		}
	}
	if err == nil {
		_, err = ssh.NewSignerFromKey(key)
	}
	if err != nil {
		p.refuse(0, "the private key can't be read: make one with `ssh-keygen -t ed25519` and add its .pub line to ~/.ssh/authorized_keys on the server")
		return
	}
	if locked { // kept open: nobody is there to enter a passphrase after a restart
		open, err := ssh.MarshalPrivateKey(key, "")
		if err != nil {
			p.refuse(0, "the private key can't be opened for keeping: run `ssh-keygen -p -f key` with an empty new passphrase on a copy, and paste that")
			return
		}
		text = string(pem.EncodeToMemory(open))
		p.warn(0, "the key is kept without its passphrase, among the cell's secrets: use a key of its own for this exit")
	}
	p.d.Credentials = cell.NewSecret(text)
}

// rounds is the work factor of a locked OpenSSH key, 0 for others (PROTOCOL.key).
func rounds(b *pem.Block) uint32 {
	const magic = "openssh-key-v1\x00"
	rest, ok := bytes.CutPrefix(b.Bytes, []byte(magic))
	if b.Type != "OPENSSH PRIVATE KEY" || !ok {
		return 0
	}
	next := func() []byte {
		if len(rest) < 4 || uint64(binary.BigEndian.Uint32(rest)) > uint64(len(rest)-4) {
			rest = nil
			return nil
		}
		n := binary.BigEndian.Uint32(rest)
		s := rest[4 : 4+n]
		rest = rest[4+n:]
		return s
	}
	next() // cipher
	next() // key derivation
	rest = next()
	next() // salt
	if len(rest) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(rest)
}
