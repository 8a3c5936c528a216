package dialer_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/exits/dialer"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// sshd is Debian's, on port 22, with a host key and one login key.
func sshd(t *testing.T, hostKey, login string, extra ...string) (stop func()) {
	t.Helper()
	dir := t.TempDir()
	conf := file(t, dir, "sshd_config", fmt.Sprintf(`Port 22
ListenAddress 127.0.0.1
HostKey %s
AuthorizedKeysFile %s
StrictModes no
UsePAM no
PasswordAuthentication yes
PermitRootLogin yes
PidFile none
MaxStartups 100
LogLevel VERBOSE
%s
`, file(t, dir, "host_key", hostKey), file(t, dir, "authorized_keys", login+"\n"), strings.Join(extra, "\n")))
	return daemon(t, "127.0.0.1:22", "/usr/sbin/sshd", "-D", "-e", "-f", conf)
}

// run keeps a dialer until the test ends or the returned function is called.
func run(t *testing.T, d *dialer.SSH) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(waitFor):
			t.Error("Run does not end")
		}
	})
	t.Cleanup(stop)
	return stop
}

func TestSSHThroughOpenSSH(t *testing.T) {
	if !inside(t, "/usr/sbin/sshd", "unshare") {
		return
	}
	internet(t)
	hostPublic, hostPrivate, _ := newKey(t)
	loginPublic, loginPrivate, _ := newKey(t)
	otherPublic, otherPrivate, _ := newKey(t)
	sshd(t, hostPrivate, loginPublic)
	config := func(auth cell.SSHAuth, credential string) *dialer.SSHConfig {
		return &dialer.SSHConfig{Host: "127.0.0.1", Port: 22, User: "root", Auth: auth, Credential: cell.NewSecret(credential), HostKey: hostPublic}
	}
	for _, c := range []*dialer.SSHConfig{config(cell.SSHKey, loginPrivate), config(cell.SSHPassword, "secret")} {
		d := dialer.NewSSH(c)
		if err := d.Check(t.Context()); err != nil { // not running: logs in once
			t.Fatalf("%s: %v", c.Auth, err)
		}
		stop := run(t, d)
		reaches(t, d)
		if err := d.Check(t.Context()); err != nil {
			t.Errorf("%s, running: %v", c.Auth, err)
		}
		_, err := talk(t.Context(), d, web4+":81", 1)
		want(t, "a destination where nobody listens", err, dialer.ErrRefused)
		_, err = d.DialContext(t.Context(), "udp", web4+":53")
		want(t, "UDP", err, dialer.ErrRefused)
		stop()
		_, err = talk(t.Context(), d, web4+":80", 1)
		want(t, "not running", err, dialer.ErrUpstream)
	}
	for _, c := range []*dialer.SSHConfig{
		config(cell.SSHKey, otherPrivate), config(cell.SSHPassword, "secreT"), config(cell.SSHKey, "no key at all"),
		{Host: "127.0.0.1", Port: 22, User: "nosuchuser", Auth: cell.SSHPassword, Credential: cell.NewSecret("secret"), HostKey: hostPublic},
	} {
		d := dialer.NewSSH(c)
		want(t, "wrong credentials", d.Check(t.Context()), dialer.ErrAuth)
		run(t, d)
		_, err := talk(t.Context(), d, web4+":80", 1)
		want(t, "a dial with wrong credentials", err, dialer.ErrAuth)
		began := time.Now()
		_, err = talk(t.Context(), d, web4+":80", 1) // told at once, not tried again
		want(t, "another dial", err, dialer.ErrAuth)
		if d := time.Since(began); d > time.Second {
			t.Errorf("a dial that can't succeed took %v", d)
		}
	}

	// The first key seen is pinned before the login, and then held to.
	var pinned []string
	c := config(cell.SSHKey, loginPrivate)
	c.HostKey, c.Pin = "", func(key string) error { pinned = append(pinned, key); return nil }
	d := dialer.NewSSH(c)
	for range 2 {
		if err := d.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(pinned, []string{hostPublic}) {
		t.Errorf("pinned %q, want once %q", pinned, hostPublic)
	}
	full := errors.New("the disk is full")
	c.Pin = func(string) error { return full }
	if err := dialer.NewSSH(c).Check(t.Context()); !errors.Is(err, full) {
		t.Errorf("a key that can't be kept: %v", err)
	}
	// A changed key, with or without the type of the pinned one on offer.
	for _, old := range []string{otherPublic, "ssh-rsa " + rsaPublic} {
		c := config(cell.SSHKey, loginPrivate)
		c.HostKey = old
		err := dialer.NewSSH(c).Check(t.Context())
		if e, ok := errors.AsType[dialer.ErrHostKey](err); !ok || e.Got != hostPublic || e.Want != old {
			t.Errorf("a changed host key: %v", err)
		}
	}
	c = config(cell.SSHKey, loginPrivate)
	c.HostKey = ""
	if e, ok := errors.AsType[dialer.ErrHostKey](dialer.NewSSH(c).Check(t.Context())); !ok || e.Got != hostPublic {
		t.Error("without a pin and without a way to pin, something was trusted")
	}
}

const rsaPublic = "AAAAB3NzaC1yc2EAAAADAQABAAABAQCX44r1r9BIhawprEGY3BcDy933n7yvixuhi6zlKax+kxc4pW0eNGiREwk+wKlDsTMRHZJlNs9h/rTkdg7WsCLeTtTwftd6JDXqyWge7PNEYwC5a5VnQgYQCpAZfpY8Rygv8NWom1WUSSMtYbd2jl+P/B466O037DpIB4OcYuFeuLoxMpzLmU42MJTCYaAvj0es6MApBwgbgtu5yAt8hIBKRKK0GYKDyWS/3Bpx6FySgc13Nvu8PdRx6ja72+bIU1xr0vBbg936i82Ny7r1jWJulIjgqrD9Vw78zaVcTV/J1qXsxsg+oYuzwKo9iiSrG66vk6NPPA6UcognhSQAnXAb"

// A server with keys of several types is asked for the pinned one.
func TestThePinnedTypeOfHostKeyIsAskedFor(t *testing.T) {
	if !inside(t, "/usr/sbin/sshd", "unshare") {
		return
	}
	hostPublic, hostPrivate, _ := newKey(t)
	loginPublic, loginPrivate, _ := newKey(t)
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(k, "")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(k)
	if err != nil {
		t.Fatal(err)
	}
	sshd(t, hostPrivate, loginPublic, "HostKey "+file(t, t.TempDir(), "rsa_key", string(pem.EncodeToMemory(block))))
	for _, pin := range []string{hostPublic, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))) + " a comment"} {
		d := dialer.NewSSH(&dialer.SSHConfig{Host: "127.0.0.1", Port: 22, User: "root", Auth: cell.SSHKey, Credential: cell.NewSecret(loginPrivate), HostKey: pin})
		if err := d.Check(t.Context()); err != nil {
			t.Errorf("%.11s…: %v", pin, err)
		}
	}
	d := dialer.NewSSH(&dialer.SSHConfig{Host: "127.0.0.1", Port: 22, User: "root", Auth: cell.SSHKey, Credential: cell.NewSecret(loginPrivate), HostKey: "no key"})
	want(t, "a pin that is no key", d.Check(t.Context()), dialer.ErrUpstream)
}

// A server that ends with many connections open must not look like the ends of
// what they carried; later ones get a new connection.
func TestALostSSHConnectionIsNoEndOfData(t *testing.T) {
	if !inside(t, "/usr/sbin/sshd", "unshare") {
		return
	}
	internet(t)
	hostPublic, hostPrivate, _ := newKey(t)
	loginPublic, loginPrivate, _ := newKey(t)
	sshd(t, hostPrivate, loginPublic)
	d := dialer.NewSSH(&dialer.SSHConfig{
		Host: "127.0.0.1", Port: 22, User: "root", Auth: cell.SSHKey, Credential: cell.NewSecret(loginPrivate),
		HostKey: hostPublic, Connections: 2, MaxChannels: 100,
	})
	run(t, d)
	conns := make([]net.Conn, 100)
	for i := range conns {
		c, err := d.DialContext(t.Context(), "tcp", web4+":80")
		if err != nil {
			t.Fatalf("channel %d: %v", i, err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(waitFor))
		conns[i] = c
	}
	_, err := d.DialContext(t.Context(), "tcp", web4+":80")
	want(t, "one channel too many", err, dialer.ErrRefused)

	// The processes of this namespace that serve a login.
	out, err := exec.Command("sh", "-c", `for p in $(ip netns pids "$(ip netns identify $$)"); do tr '\0' ' ' </proc/$p/cmdline | grep -q '^sshd: root' && kill -9 $p && echo killed; done; true`).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "killed") {
		t.Fatalf("%v %s", err, out)
	}
	for i, c := range conns {
		if _, err := io.ReadAll(c); !errors.Is(err, dialer.ErrUpstream) {
			t.Errorf("channel %d: reading after the loss: %v", i, err)
		}
		_ = c.Close()
	}
	netnstest.Eventually(t, waitFor, func() error {
		_, err := talk(t.Context(), d, web4+":80", 1)
		return err
	})
}

func TestDeadlinesAndCloseOfSSHConnectionsHold(t *testing.T) {
	if !inside(t, "/usr/sbin/sshd", "unshare") {
		return
	}
	internet(t)
	hostPublic, hostPrivate, _ := newKey(t)
	loginPublic, loginPrivate, _ := newKey(t)
	sshd(t, hostPrivate, loginPublic)
	d := dialer.NewSSH(&dialer.SSHConfig{Host: "127.0.0.1", Port: 22, User: "root", Auth: cell.SSHKey, Credential: cell.NewSecret(loginPrivate), HostKey: hostPublic})
	run(t, d)
	c, err := d.DialContext(t.Context(), "tcp", web4+":80")
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); !isTimeout(err) {
		t.Errorf("a read past its deadline: %v", err)
	}
	// The connection is still good.
	_ = c.SetReadDeadline(time.Time{})
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	_ = c.(interface{ CloseWrite() error }).CloseWrite()
	if b, err := io.ReadAll(c); err != nil || string(b) != "1 bytes" {
		t.Errorf("after the deadline: %q, %v", b, err)
	}
	_ = c.Close()

	c, err = d.DialContext(t.Context(), "tcp", web4+":80")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		done <- err
	}()
	_ = c.Close()
	select {
	case err := <-done:
		if err == nil {
			t.Error("a read of a closed connection returned data")
		}
	case <-time.After(waitFor):
		t.Error("Close does not end a read")
	}
}

func isTimeout(err error) bool {
	n, ok := errors.AsType[net.Error](err)
	return ok && n.Timeout()
}
