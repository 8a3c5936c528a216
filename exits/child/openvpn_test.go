package child_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/exits/child"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// vpnConfig is [child.OpenVPNConfig] as far as a test sets it.
type vpnConfig struct {
	Profile, Username, Password, Dir, Program string
	Keep                                      bool
}

func openvpnProcess(args []string) error {
	var c vpnConfig
	if err := json.Unmarshal([]byte(args[0]), &c); err != nil {
		return err
	}
	changed, wake := notifier()
	o := child.NewOpenVPN(&child.OpenVPNConfig{
		ID: "vpn", Link: "tun0", Profile: cell.NewSecret(c.Profile), Username: c.Username, Password: cell.NewSecret(c.Password),
		RuntimeDir: c.Dir, Program: c.Program, Configure: configureByIP, Keep: func() bool { return c.Keep }, Changed: changed, Log: quiet,
	})
	return runChild(o.Run, func() report { return report{ChildStatus: o.Status()} }, wake)
}

// authority signs for a test's servers and clients.
type authority struct {
	t    testing.TB
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  string
	n    int64
}

func newAuthority(t testing.TB) *authority {
	a := &authority{t: t}
	a.pem, _ = a.issue("ca", true, time.Now().Add(time.Hour))
	return a
}

// issue returns a certificate and its key, in PEM. The first one is the
// authority's own.
func (a *authority) issue(name string, server bool, until time.Time) (cert, key string) {
	a.t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(a.t, err)
	a.n++
	c := &x509.Certificate{
		SerialNumber: big.NewInt(a.n), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if server {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage, c.ExtKeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign, nil
		parent, signer = c, k
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &k.PublicKey, signer)
	must(a.t, err)
	if a.cert == nil {
		a.key = k
		a.cert, err = x509.ParseCertificate(der)
		must(a.t, err)
	}
	kd, err := x509.MarshalPKCS8PrivateKey(k)
	must(a.t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kd}))
}

// vpn is an openvpn server in a namespace, a cell, and a machine behind the
// server.
type vpn struct {
	t                  testing.TB
	ca                 *authority
	cell, server, far  *netnstest.NS
	dir                string // of the server's files
	runtime            string
	stop               func()
	certUntil, ownCert time.Time
}

func newVPN(t testing.TB) *vpn {
	t.Helper()
	netnstest.Root(t)
	netnstest.Need(t, "openvpn", "ping", "nft")
	later := time.Now().Add(time.Hour)
	v := &vpn{t: t, ca: newAuthority(t), cell: netnstest.New(t, "cell"), server: netnstest.New(t, "vpn"), far: netnstest.New(t, "far"), dir: t.TempDir(), certUntil: later, ownCert: later}
	v.runtime = filepath.Join(v.dir, "run")
	netnstest.Veth(v.cell, "wan", []string{"192.0.2.2/24", "2001:db8::2/64"}, v.server, "wire", []string{"192.0.2.1/24", "2001:db8::1/64"})
	netnstest.Veth(v.server, "tofar", []string{"198.51.100.1/24", "2001:db8:ff::1/64"}, v.far, "wire", []string{"198.51.100.10/24", "2001:db8:ff::10/64"})
	v.cell.Exec("ip", "route", "add", "default", "via", "192.0.2.1")
	v.server.Sysctl("net.ipv4.ip_forward", "1")
	v.server.Sysctl("net.ipv6.conf.all.forwarding", "1")
	v.far.Exec("ip", "route", "add", "10.9.0.0/24", "via", "198.51.100.1")
	v.far.Exec("ip", "route", "add", "fd09::/64", "via", "2001:db8:ff::1")
	return v
}

// serve starts the server. It pushes what an exit must not take: routes, and a
// default route.
func (v *vpn) serve() {
	v.t.Helper()
	cert, key := v.ca.issue("vpn.example.net", true, v.certUntil)
	for name, text := range map[string]string{
		"ca.crt": v.ca.pem, "s.crt": cert, "s.key": key,
		"verify": "#!/bin/sh\n[ \"$(sed -n 1p $1)\" = us\\'er ] && [ \"$(sed -n 2p $1)\" = 'pass \"word\" \\' ]\n",
	} {
		must(v.t, os.WriteFile(filepath.Join(v.dir, name), []byte(text), 0o700))
	}
	p := func(name string) string { return filepath.Join(v.dir, name) }
	v.stop = netnstest.Start(v.t, v.server.Command("openvpn",
		"--dev", "tun0", "--server", "10.9.0.0", "255.255.255.0", "--server-ipv6", "fd09::/64", "--topology", "subnet", "--proto", "udp6",
		"--ca", p("ca.crt"), "--cert", p("s.crt"), "--key", p("s.key"), "--dh", "none", "--disable-dco", "--keepalive", "1", "3",
		"--script-security", "2", "--auth-user-pass-verify", p("verify"), "via-file", "--tmp-dir", v.dir,
		"--push", "redirect-gateway def1 ipv6", "--push", "route 192.168.77.0 255.255.255.0", "--push", "route-ipv6 2001:db8:77::/48",
		"--push", "dhcp-option DNS 10.9.0.1", "--push", "dhcp-option DNS fd09::1", "--push", "dhcp-option DOMAIN evil.example", "--push", "block-ipv6", "--push", "setenv FOO bar"))
}

func (v *vpn) config() vpnConfig {
	cert, key := v.ca.issue("client", false, v.ownCert)
	return vpnConfig{
		Dir: v.runtime, Username: "us'er", Password: `pass "word" \`,
		Profile: "client\nproto udp\nremote 192.0.2.1 1194\nauth-user-pass\nremote-cert-tls server\nhand-window 5\nserver-poll-timeout 5\n" +
			"<ca>\n" + v.ca.pem + "</ca>\n<cert>\n" + cert + "</cert>\n<key>\n" + key + "</key>\n",
	}
}

func (v *vpn) start(c vpnConfig) *running { v.t.Helper(); return startChild(v.t, v.cell, "openvpn", c) }

// processes are the openvpns in the cell.
func (v *vpn) processes() string {
	out, _ := v.cell.Try("sh", "-c", "for p in $(ip netns pids "+v.cell.Name+"); do [ \"$(cat /proc/$p/comm 2>/dev/null)\" = openvpn ] && echo $p; done")
	return strings.TrimSpace(out)
}

// noneLeft waits until no openvpn and no link is left.
func (v *vpn) noneLeft() {
	v.t.Helper()
	netnstest.Eventually(v.t, 10*time.Second, func() error {
		if p := v.processes(); p != "" {
			return errors.New("processes left: " + p)
		}
		if out, err := v.cell.Try("ip", "link", "show", "tun0"); err == nil {
			return errors.New("left: " + out)
		}
		return nil
	})
}

// pings reaches the machine behind the server through the link.
func (v *vpn) pings() {
	v.t.Helper()
	for _, a := range []string{"198.51.100.10", "2001:db8:ff::10"} {
		netnstest.Eventually(v.t, 10*time.Second, func() error {
			out, err := v.cell.Try("ping", "-c1", "-W1", "-I", "tun0", a)
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
	}
}

func TestOpenVPNCarriesBothFamiliesAndLeavesRoutesAlone(t *testing.T) {
	t.Parallel()
	v := newVPN(t)
	v.serve()
	v.cell.Exec("nft", "add table inet t; add chain inet t o { type filter hook output priority 0; }; "+
		"add rule inet t o udp dport 1194 meta mark != 0x1 counter; add rule inet t o udp dport 1194 meta mark 0x1 counter")
	routes := func() string { return v.cell.Exec("ip", "route") + v.cell.Exec("ip", "rule") }
	before := routes()
	r := v.start(v.config())
	st := r.becomes(20*time.Second, cell.ExitUp, "")
	if st.Address4.String() != "10.9.0.2" || st.Address6.String() != "fd09::1000" {
		t.Errorf("addresses %s and %s", st.Address4, st.Address6)
	}
	if len(st.DNS) != 2 || st.DNS[0].String() != "10.9.0.1:53" || st.DNS[1].String() != "[fd09::1]:53" {
		t.Errorf("DNS %v", st.DNS)
	}
	// What the firewall does: the exit's table leads to the link.
	v.cell.Sh("for f in -4 -6; do ip $f route add default dev tun0 table 120; ip $f rule add oif tun0 lookup 120; done")
	v.pings()
	v.cell.Sh("for f in -4 -6; do ip $f rule del oif tun0 lookup 120; done")
	if after := routes(); after != before {
		t.Errorf("routes and rules were\n%sand are\n%s", before, after)
	}
	if out := v.cell.Exec("ip", "-6", "route"); strings.Contains(out, "77::") || strings.Contains(out, "default") || strings.Contains(out, "fd09::/64") {
		t.Errorf("a pushed route was taken:\n%s", out)
	}
	addrs := v.cell.Exec("ip", "-br", "address", "show", "dev", "tun0")
	if !strings.Contains(addrs, "10.9.0.2/32") || !strings.Contains(addrs, "fd09::1000/128") {
		t.Errorf("addresses %s", addrs)
	}
	out := v.cell.Exec("nft", "list", "chain", "inet", "t", "o")
	for line := range strings.Lines(out) {
		if none := strings.Contains(line, "packets 0 "); strings.Contains(line, "counter") && none != strings.Contains(line, "!=") {
			t.Errorf("mark %#x is not on the carrier packets:\n%s", cell.MarkBypass, out)
		}
	}
	// Secrets are in no file and no command line.
	if out, err := v.cell.Try("grep", "-r", "-e", "word", "-e", "PRIVATE KEY", v.runtime); err == nil {
		t.Errorf("a secret lies in the runtime directory: %s", out)
	}
	r.end()
	v.noneLeft()
}

func TestOpenVPNComesBackAfterItsServer(t *testing.T) {
	t.Parallel()
	v := newVPN(t)
	r := v.start(v.config())
	r.becomes(20*time.Second, cell.ExitConnecting, "nobody listens")
	v.serve()
	first := r.becomes(30*time.Second, cell.ExitUp, "")
	v.stop()
	lost := r.becomes(20*time.Second, cell.ExitConnecting, "silent")
	if lost.Address4.IsValid() || len(lost.DNS) != 0 {
		t.Errorf("a lost exit still has %s, %v", lost.Address4, lost.DNS)
	}
	v.serve()
	again := r.becomes(40*time.Second, cell.ExitUp, "")
	if again.Address4 != first.Address4 || again.Restarts != 0 {
		t.Errorf("%+v, before %+v", again, first)
	}
	r.end()
	v.noneLeft()
}

func TestOpenVPNSaysWhatAPersonHasToMend(t *testing.T) {
	past := time.Now().Add(-time.Hour)
	for _, x := range []struct {
		name, reason string
		auth         bool
		break_       func(*vpn, *vpnConfig)
	}{
		{"a wrong password", "refuses the user name or the password", true, func(_ *vpn, c *vpnConfig) { c.Password = "wrong" }},
		{"no password", "asks for a user name and a password", true, func(_ *vpn, c *vpnConfig) { c.Password = "" }},
		{"a password with a command in it", "control characters", true, func(_ *vpn, c *vpnConfig) { c.Password += "\nsignal SIGUSR1" }},
		{"an expired server", "server's certificate has expired", false, func(v *vpn, _ *vpnConfig) { v.certUntil = past }},
		{"our own certificate expired", "our certificate has expired", false, func(v *vpn, c *vpnConfig) { v.ownCert = past; *c = v.config() }},
		{"another authority", "not the one that the profile expects", false, func(v *vpn, c *vpnConfig) {
			other := newAuthority(v.t)
			c.Profile = strings.Replace(c.Profile, v.ca.pem, other.pem, 1)
		}},
		{"a client for a server", "not the one that the profile expects", false, func(_ *vpn, c *vpnConfig) {
			c.Profile = strings.Replace(c.Profile, "remote-cert-tls server", "verify-x509-name other.example.net name", 1)
		}},
		{"a broken key", "can't be read", false, func(_ *vpn, c *vpnConfig) {
			c.Profile = strings.Replace(c.Profile, "PRIVATE KEY-----\nM", "PRIVATE KEY-----\nQ", 1)
		}},
		{"a directive openvpn does not like", "does not accept the profile", false, func(_ *vpn, c *vpnConfig) { c.Profile += "tls-version-min 9.9\n" }},
		{"a directive of a program", `"up" is not allowed`, false, func(_ *vpn, c *vpnConfig) { c.Profile += "up /bin/sh\n" }},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			v := newVPN(t)
			c := v.config()
			x.break_(v, &c)
			v.serve()
			r := v.start(c)
			if st := r.becomes(25*time.Second, cell.ExitBlocked, x.reason); st.Auth != x.auth {
				t.Errorf("auth=%v", st.Auth)
			}
			r.end()
			v.noneLeft()
		})
	}
}

// The cell is killed and comes back: its openvpn is taken over, not lost and
// not doubled; with another configuration it is replaced.
func TestOpenVPNOutlivesTheCellAndIsTakenOver(t *testing.T) {
	t.Parallel()
	v := newVPN(t)
	v.serve()
	c := v.config()
	r := v.start(c)
	first := r.becomes(20*time.Second, cell.ExitUp, "")
	pid := v.processes()
	r.kill()
	if v.processes() != pid || pid == "" {
		t.Fatalf("processes %q, before %q", v.processes(), pid)
	}
	c.Keep = true
	r = v.start(c)
	st := r.becomes(10*time.Second, cell.ExitUp, "")
	if v.processes() != pid || st.Address4 != first.Address4 || len(st.DNS) != 2 {
		t.Fatalf("not taken over: %q, before %q; %+v", v.processes(), pid, st)
	}
	r.end() // it was asked to leave it running
	if v.processes() != pid {
		t.Fatalf("processes %q, before %q", v.processes(), pid)
	}
	c.Profile += "verb 3\n"
	c.Profile = strings.Replace(c.Profile, "verb 3\n", "reneg-sec 7200\n", 1)
	r = v.start(c)
	r.becomes(20*time.Second, cell.ExitUp, "")
	if p := v.processes(); p == pid || strings.Contains(p, "\n") {
		t.Fatalf("processes %q, before %q", p, pid)
	}
	r.kill()
	// Its exit is removed while no cell runs.
	must(t, child.Sweep(v.runtime, []string{"tun0"}, quiet))
	if v.processes() == "" {
		t.Fatal("swept what is to be kept")
	}
	must(t, child.Sweep(v.runtime, []string{"tun1"}, quiet))
	v.noneLeft()
	must(t, child.Sweep(v.runtime, nil, quiet))
}

func TestAHangingOpenVPNIsReplaced(t *testing.T) {
	t.Parallel()
	v := newVPN(t)
	v.serve()
	c := v.config()
	r := v.start(c)
	r.becomes(20*time.Second, cell.ExitUp, "")
	r.kill()
	pid := v.processes()
	v.cell.Exec("kill", "-STOP", pid)
	c.Username = "somebody else" // so that it is to be replaced
	r = v.start(c)
	r.becomes(40*time.Second, cell.ExitBlocked, "refuses")
	if strings.Contains(v.processes(), pid) {
		t.Fatal("the hanging one is still there")
	}
	r.end()
	v.noneLeft()
}

func TestAProgramThatEndsAtOnceIsBlockedAndTriedLessAndLess(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "openvpn")
	must(t, os.WriteFile(program, []byte("#!/bin/sh\necho 'it hurts'\nexit 1\n"), 0o700))
	o := child.NewOpenVPN(&child.OpenVPNConfig{ID: "vpn", Link: "tun0", Profile: cell.NewSecret("client\n"), RuntimeDir: t.TempDir(), Program: program, Log: quiet})
	if o.Status().State != cell.ExitDisabled {
		t.Fatal("not disabled before it runs")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- o.Run(ctx) }()
	netnstest.Eventually(t, 15*time.Second, func() error {
		if s := o.Status(); s.State != cell.ExitBlocked || !strings.Contains(s.Reason, "again and again: openvpn ended: it hurts") || s.Restarts != 3 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	cancel()
	must(t, <-done)
	if o.Status().State != cell.ExitDisabled {
		t.Fatal("not disabled after it ran")
	}
}

func TestAMissingProgramIsNamedWithItsCure(t *testing.T) {
	t.Parallel()
	o := child.NewOpenVPN(&child.OpenVPNConfig{ID: "vpn", Link: "tun0", Profile: cell.NewSecret("client\n"), RuntimeDir: t.TempDir(), Program: "/nonexistent/openvpn", Log: quiet})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- o.Run(ctx) }()
	netnstest.Eventually(t, 5*time.Second, func() error {
		if s := o.Status(); !s.Missing || s.State != cell.ExitBlocked || !strings.Contains(s.Reason, "apt install openvpn") || s.Restarts != 0 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	cancel()
	must(t, <-done)
}
