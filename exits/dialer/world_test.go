package dialer_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/personal-internet-cell/pic/exits/dialer"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// waitFor is how long anything in these tests may take.
const waitFor = 15 * time.Second

// The internet of a namespace: addresses on its loopback interface.
const (
	web4, web6 = "192.0.2.1", "2001:db8::1"
	webName    = "web.example.test"
	webName4   = "four.example.test" // has no IPv6 address
)

// inside runs the calling test again, as a process in a namespace of its own
// with an internet in it, and returns true in that process.
func inside(t *testing.T, programs ...string) bool {
	t.Helper()
	if os.Getenv("PIC_TEST_INSIDE") == t.Name() {
		return true
	}
	netnstest.Need(t, programs...)
	n := netnstest.New(t, "dialer")
	n.Exec("ip", "addr", "add", web4+"/32", "dev", "lo")
	n.Exec("ip", "addr", "add", web6+"/128", "dev", "lo", "nodad")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := n.Command(self, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=90s")
	c.Env = append(os.Environ(), "PIC_TEST_INSIDE="+t.Name())
	out, err := c.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("inside the namespace: %v\n%s", err, out)
	}
	return false
}

// daemon starts a program that sees our /etc/hosts, our /etc/shadow and a /run
// of its own, and waits until something listens on addr.
func daemon(t *testing.T, addr string, args ...string) (stop func()) {
	t.Helper()
	dir := t.TempDir()
	// The password of root and nobody is "secret" (openssl passwd -6).
	const hash = "$6$picpicpi$5/8w7uUHvnCaUDp/jqutMSZLDTmkPQkmnsL3OvgmUf0DCuAR2Kbjm8RH4IQAgcqO1HM1XxUeMdheKnh7i80En."
	file(t, dir, "hosts", web4+" "+webName+" "+webName4+"\n"+web6+" "+webName+"\n127.0.0.1 localhost\n")
	file(t, dir, "shadow", "root:"+hash+":19000:0:99999:7:::\nnobody:"+hash+":19000:0:99999:7:::\n")
	script := `mount --bind "$1/hosts" /etc/hosts && mount --bind "$1/shadow" /etc/shadow && mount -t tmpfs run /run && mkdir /run/sshd && shift && exec "$@"`
	c := exec.CommandContext(t.Context(), "unshare", append([]string{"-m", "--propagation", "private", "sh", "-c", script, "sh", dir}, args...)...)
	c.WaitDelay = time.Second // its children have our pipe too
	stop = netnstest.Start(t, c)
	netnstest.Eventually(t, waitFor, func() error {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
		}
		return err
	})
	return stop
}

func file(t *testing.T, dir, name, text string) string {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// serve accepts on addr until the test ends; each connection is closed when
// handle returns.
func serve(t *testing.T, addr string, handle func(net.Conn)) (port uint16) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				handle(c)
			}()
		}
	}()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// count reads to the end and then says how much that was: only a connection
// that keeps half-closes can be told.
func count(c net.Conn) {
	n, _ := io.Copy(io.Discard, c)
	fmt.Fprintf(c, "%d bytes", n)
}

// internet serves count on port 80 of both families, and an echo of datagrams
// on port 53.
func internet(t *testing.T) {
	t.Helper()
	for _, a := range []string{web4, web6} {
		serve(t, net.JoinHostPort(a, "80"), count)
		u, err := net.ListenPacket("udp", net.JoinHostPort(a, "53"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = u.Close() })
		go func() {
			b := make([]byte, 65536)
			for {
				n, from, err := u.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = u.WriteTo(append([]byte("echo "), b[:n]...), from)
			}
		}()
	}
}

// talk sends n bytes to a counting server and returns its answer.
func talk(ctx context.Context, d dialer.Dialer, address string, n int) (string, error) {
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(waitFor)); err != nil {
		return "", err
	}
	if _, err := c.Write(make([]byte, n)); err != nil {
		return "", err
	}
	h, ok := c.(interface{ CloseWrite() error })
	if !ok {
		return "", errors.New("no half-close")
	}
	if err := h.CloseWrite(); err != nil {
		return "", err
	}
	b, err := io.ReadAll(c)
	return string(b), err
}

// reaches fails the test unless all the internet's servers are reached.
func reaches(t *testing.T, d dialer.Dialer) {
	t.Helper()
	for _, host := range []string{web4, web6, webName} {
		got, err := talk(t.Context(), d, net.JoinHostPort(host, "80"), 300_000)
		if err != nil || got != "300000 bytes" {
			t.Errorf("through %s to %s: %q, %v", d, host, got, err)
		}
	}
}

// want fails the test unless err is of the kind.
func want(t *testing.T, what string, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("%s: %v, want %v", what, err, kind)
	}
	for _, other := range []error{dialer.ErrAuth, dialer.ErrRefused, dialer.ErrUpstream} {
		if other != kind && errors.Is(err, other) {
			t.Errorf("%s is also %v: %v", what, other, err)
		}
	}
	if err != nil && strings.Contains(err.Error(), "secret") {
		t.Errorf("%s: the error tells the password: %v", what, err)
	}
}

// newKey makes a key: public as in authorized_keys, private as PEM.
func newKey(t *testing.T) (public, private string, signer ssh.Signer) {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(k, "")
	if err != nil {
		t.Fatal(err)
	}
	if signer, err = ssh.NewSignerFromKey(k); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))), string(pem.EncodeToMemory(block)), signer
}

// certificate makes one for 127.0.0.1 that ends at a time.
func certificate(t *testing.T, until time.Time) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	public, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: until.Add(-24 * time.Hour), NotAfter: until,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, public, k)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k}, pool
}
