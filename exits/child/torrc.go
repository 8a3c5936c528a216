package child

import (
	"crypto/rand"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// torrc is tor's configuration. It reaches tor on its standard input and lies in
// no file.
type torrc struct {
	dir, data          string
	countries, bridges []string
	extra              []string
	owner              int // process whose end is tor's
	password           string
	plugin             string // of obfs4; found by look
}

const geoIP = "/usr/share/tor/geoip"

// look finds what the configuration needs beside tor.
func (c *torrc) look() error {
	if len(c.countries) > 0 {
		if _, err := os.Stat(geoIP); err != nil {
			return &problem{reason: "tor does not know where its relays are: run apt install tor-geoipdb", missing: true}
		}
	}
	if slices.ContainsFunc(c.bridges, func(b string) bool { return strings.HasPrefix(b, "obfs4 ") }) {
		p, err := find("obfs4proxy", "obfs4proxy")
		if err != nil {
			return err
		}
		c.plugin = p
	}
	return nil
}

var (
	countryCode = regexp.MustCompile(`^[a-z]{2}$`)
	// bridgeLine is an optional transport, address:port, and words.
	bridgeLine = regexp.MustCompile(`^(obfs4 )?(\d{1,3}(\.\d{1,3}){3}|\[[0-9a-fA-F:.]+\]):\d{1,5}( [A-Za-z0-9+/=_-]+)*$`)
	plainPath  = regexp.MustCompile(`^/[A-Za-z0-9/._-]+$`)
)

// text refuses what could be another directive.
func (c *torrc) text() (string, error) {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	for _, p := range []string{c.dir, c.data} {
		if !plainPath.MatchString(p) {
			return "", fmt.Errorf("the folder %.100q can't be named to tor", p)
		}
	}
	hash, err := hashPassword(c.password)
	if err != nil {
		return "", err
	}
	line("DataDirectory %s", c.data)
	// The folder is closed to others, so the sockets need not be; and tor need
	// not own it.
	line("SOCKSPort unix:%s/socks WorldWritable IsolateSOCKSAuth", c.dir)
	line("ControlPort unix:%s/control WorldWritable", c.dir)
	line("HashedControlPassword %s", hash)
	line("__OwningControllerProcess %d", c.owner)
	// Names, for A, AAAA and PTR; tor can't listen for these on a file.
	line("DNSPort 127.0.0.1:auto")
	// What peers open, they open by address: they asked for the name before.
	line("ClientOnly 1")
	line("ClientUseIPv6 1")
	line("AvoidDiskWrites 1")
	line("MaxMemInQueues 128 MB")
	line("Log notice stdout")
	if len(c.countries) > 0 {
		codes := make([]string, len(c.countries))
		for i, x := range c.countries {
			if !countryCode.MatchString(x) {
				return "", fmt.Errorf("%.40q is no country's code", x)
			}
			codes[i] = "{" + x + "}"
		}
		line("ExitNodes %s", strings.Join(codes, ","))
		line("StrictNodes 1")
	}
	for _, x := range c.bridges {
		if !bridgeLine.MatchString(x) {
			return "", fmt.Errorf("%.60q is no bridge line", x)
		}
		line("Bridge %s", x)
	}
	if len(c.bridges) > 0 {
		line("UseBridges 1")
	}
	if c.plugin != "" {
		line("ClientTransportPlugin obfs4 exec %s", c.plugin)
	} else {
		line("NoExec 1")
	}
	for _, x := range c.extra {
		line("%s", x)
	}
	return b.String(), nil
}

// hashPassword is what HashedControlPassword wants: the iterated and salted S2K
// of RFC 4880 §3.7.1.3 with SHA-1, over 65536 bytes. The password is random and
// used once, so that is not the weak point. (A cookie would be a file of tor's
// user, which a root without CAP_DAC_OVERRIDE can't read.)
func hashPassword(password string) (string, error) {
	const indicator, count = 0x60, 65536
	salt := make([]byte, 8)
	if _, err := rand.Read(salt); err != nil {
		return "", fmt.Errorf("making a salt: %w", err)
	}
	if password == "" {
		return "", errors.New("no control password")
	}
	piece := append(slices.Clone(salt), password...)
	h := sha1.New()
	for left := count; left > 0; left -= len(piece) {
		h.Write(piece[:min(left, len(piece))])
	}
	return "16:" + strings.ToUpper(hex.EncodeToString(salt)+fmt.Sprintf("%02x", indicator)+hex.EncodeToString(h.Sum(nil))), nil
}

// owner is the user that a file belongs to.
func owner(i os.FileInfo) int {
	if s, ok := i.Sys().(*syscall.Stat_t); ok {
		return int(s.Uid)
	}
	return -1
}
