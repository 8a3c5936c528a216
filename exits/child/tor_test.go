package child_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/exits/child"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// torOptions is [child.TorConfig] as far as a test sets it.
type torOptions struct {
	Countries, Bridges, Extra []string
	Dir, Data, Program        string
}

func torProcess(args []string) error {
	var c torOptions
	if err := json.Unmarshal([]byte(args[0]), &c); err != nil {
		return err
	}
	changed, wake := notifier()
	t := child.NewTor(&child.TorConfig{
		ID: "onion", Countries: c.Countries, Bridges: c.Bridges, Extra: c.Extra, RuntimeDir: c.Dir, DataDir: c.Data, Program: c.Program, Changed: changed, Log: quiet,
	})
	return runChild(t.Run, func() report { return report{ChildStatus: t.Status(), SOCKS: t.SOCKSAddr()} }, wake)
}

// behindProcess is a server that says who called: over TCP, then it echoes.
func behindProcess(args []string) error {
	l, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			_, _ = fmt.Fprintf(c, "you are %s\n", c.RemoteAddr())
			_, _ = io.Copy(c, c)
		}()
	}
}

// namesProcess is a name server with one answer.
func namesProcess(args []string) error {
	c, err := net.ListenPacket("udp", args[0])
	if err != nil {
		return err
	}
	answer := netip.MustParseAddr(args[1]).As4()
	buf := make([]byte, 1500)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return err
		}
		if n < 17 {
			continue
		}
		end := 12
		for end < n && buf[end] != 0 {
			end += int(buf[end]) + 1
		}
		if end+5 > n {
			continue
		}
		a := append([]byte(nil), buf[:end+5]...)
		binary.BigEndian.PutUint16(a[2:], 0x8180)
		clear(a[6:12])
		if binary.BigEndian.Uint16(a[end+1:]) == 1 { // A
			a[7] = 1
			a = append(a, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4)
			a = append(a, answer[:]...)
		}
		if _, err := c.WriteTo(a, from); err != nil {
			return err
		}
	}
}

// throughProcess speaks through a SOCKS5 socket (RFC 1928): socket, user,
// destination. It prints what the server said first, and what it echoed.
func throughProcess(args []string) error {
	c, err := net.DialTimeout("unix", args[0], 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	dst := netip.MustParseAddrPort(args[2])
	ip := dst.Addr().As4()
	request := append([]byte{5, 1, 0, 1}, ip[:]...)
	for _, x := range []struct{ send, want []byte }{
		{[]byte{5, 1, 2}, []byte{5, 2}},
		{append(append([]byte{1, byte(len(args[1]))}, args[1]...), 1, 'x'), []byte{1, 0}}, // RFC 1929
		{binary.BigEndian.AppendUint16(request, dst.Port()), []byte{5, 0, 0}},
	} {
		if _, err := c.Write(x.send); err != nil {
			return err
		}
		answer := make([]byte, len(x.want))
		if _, err := io.ReadFull(c, answer); err != nil || string(answer) != string(x.want) {
			return errors.Join(fmt.Errorf("answer % x", answer), err)
		}
	}
	bound := map[byte]int64{1: 4 + 2, 4: 16 + 2}
	kind := make([]byte, 1)
	if _, err := io.ReadFull(c, kind); err != nil {
		return err
	}
	if _, err := io.CopyN(io.Discard, c, bound[kind[0]]); err != nil {
		return err
	}
	if _, err := io.WriteString(c, "hello tor\n"); err != nil {
		return err
	}
	buf := make([]byte, 200)
	for got := ""; !strings.HasSuffix(got, "hello tor\n"); {
		n, err := c.Read(buf)
		if err != nil {
			return err
		}
		got += string(buf[:n])
		fmt.Print(string(buf[:n]))
	}
	return nil
}

// onions is a tor network of its own: three authorities that relay too, and a
// relay that lets out.
type onions struct {
	client, relays, far *netnstest.NS
	authorities         []string // DirAuthority lines
}

func newOnions(t testing.TB) *onions {
	t.Helper()
	netnstest.Root(t)
	netnstest.Need(t, "tor", "tor-gencert", "nft", "nc")
	o := &onions{client: netnstest.New(t, "cell"), relays: netnstest.New(t, "relays"), far: netnstest.New(t, "far")}
	netnstest.Veth(o.client, "wan", []string{"192.0.2.2/24"}, o.relays, "wire", []string{"192.0.2.1/24"})
	netnstest.Veth(o.relays, "tofar", []string{"198.51.100.1/24"}, o.far, "wire", []string{"198.51.100.10/24"})
	o.client.Exec("ip", "route", "add", "default", "via", "192.0.2.1")
	address := func(i int) string { return fmt.Sprintf("10.77.%d.1", i) }
	dir := t.TempDir()
	var (
		wg   sync.WaitGroup
		errs [5]error
		auth [4]string
	)
	for i := 1; i <= 4; i++ {
		o.relays.Exec("ip", "address", "add", address(i)+"/32", "dev", "lo")
		must(t, os.MkdirAll(filepath.Join(dir, fmt.Sprint(i), "keys"), 0o700))
		if i == 4 {
			continue
		}
		wg.Go(func() {
			keys := filepath.Join(dir, fmt.Sprint(i), "keys")
			for _, name := range []string{"authority_identity_key", "authority_signing_key"} {
				k, err := rsa.GenerateKey(rand.Reader, 2048)
				if err == nil {
					err = os.WriteFile(filepath.Join(keys, name), pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k)}), 0o600)
				}
				if err != nil {
					errs[i] = err
					return
				}
			}
			out, err := o.relays.Try("sh", "-ec", `cd "$1"; echo pass | tor-gencert --reuse --passphrase-fd 0 -m 12 -a "$2:7000" \
				-i authority_identity_key -s authority_signing_key -c authority_certificate
			echo v3 $(sed -n 's/^fingerprint //p' authority_certificate)
			tor --list-fingerprint --quiet --ignore-missing-torrc -f none --defaults-torrc /dev/null --DataDirectory "$1/.." --ORPort 1 --Address "$2" --Nickname auth --DirAuthority 'x 127.0.0.1:1 ffffffffffffffffffffffffffffffffffffffff'`,
				"sh", keys, address(i))
			v3, print := "", ""
			for l := range strings.Lines(out) {
				if x, ok := strings.CutPrefix(l, "v3 "); ok {
					v3 = strings.TrimSpace(x)
				}
				if x, ok := strings.CutPrefix(l, "auth "); ok {
					print = strings.TrimSpace(x)
				}
			}
			if err == nil && (v3 == "" || print == "") {
				err = errors.New("no fingerprints")
			}
			if err != nil {
				errs[i] = fmt.Errorf("making authority %d: %w: %s", i, err, out)
			}
			auth[i] = fmt.Sprintf("DirAuthority auth%d orport=5000 v3ident=%s %s:7000 %s", i, v3, address(i), print)
		})
	}
	wg.Wait()
	must(t, errors.Join(errs[:]...))
	o.authorities = auth[1:]
	resolv := filepath.Join(dir, "resolv.conf")
	must(t, os.WriteFile(resolv, []byte("nameserver 10.77.4.1\n"), 0o644))
	netnstest.Start(t, o.relays.Self("names", "10.77.4.1:53", "198.51.100.10"))
	for i := 1; i <= 4; i++ {
		rc := fmt.Sprintf(`TestingTorNetwork 1
DataDirectory %s/%d
Nickname auth%d
Address %s
ORPort %s:5000
SocksPort 0
ContactInfo nobody
AssumeReachable 1
PathsNeededToBuildCircuits 0.67
ServerDNSDetectHijacking 0
ServerDNSAllowBrokenConfig 1
ServerDNSResolvConfFile %s
ServerDNSTestAddresses
Log notice stdout
%s
`, dir, i, i, address(i), address(i), resolv, strings.Join(o.authorities, "\n"))
		if i == 4 {
			// A relay that comes before the authorities waits long to come again.
			for a := 1; a <= 3; a++ {
				netnstest.Eventually(t, 40*time.Second, func() error {
					out, err := o.relays.Try("sh", "-c", "printf 'GET /tor/server/authority HTTP/1.0\\r\\n\\r\\n' | nc -w2 "+address(a)+" 7000")
					if !strings.Contains(out, "200 OK") {
						return fmt.Errorf("authority %d: %w: %s", a, err, out)
					}
					return nil
				})
			}
			rc += "ExitRelay 1\nExitPolicyRejectPrivate 0\nExitPolicy accept *:*\n"
		} else {
			rc += fmt.Sprintf(`DirPort %s:7000
AuthoritativeDirectory 1
V3AuthoritativeDirectory 1
ExitPolicy reject *:*
TestingV3AuthInitialVotingInterval 5
TestingV3AuthInitialVoteDelay 2
TestingV3AuthInitialDistDelay 2
V3AuthVotingInterval 10
V3AuthVoteDelay 2
V3AuthDistDelay 2
TestingAuthDirTimeToLearnReachability 0
TestingMinExitFlagThreshold 0
TestingDirAuthVoteExit *
TestingDirAuthVoteGuard *
TestingDirAuthVoteHSDir *
`, address(i))
		}
		c := o.relays.Command("tor", "-f", "-", "--defaults-torrc", "/dev/null")
		c.Stdin = strings.NewReader(rc)
		netnstest.Start(t, c)
	}
	// A client that gets a consensus without a way out waits for the next one.
	netnstest.Eventually(t, 60*time.Second, func() error {
		b, err := os.ReadFile(filepath.Join(dir, "1", "cached-microdesc-consensus"))
		if err == nil && !strings.Contains(string(b), "\ns Exit ") {
			err = errors.New("the consensus has no exit")
		}
		return err
	})
	return o
}

func TestTorLeavesByItsNetworkAlone(t *testing.T) {
	t.Parallel()
	o := newOnions(t)
	o.client.Exec("nft", "add table inet t; add chain inet t o { type filter hook output priority 0; }; "+
		"add rule inet t o oifname wan ip daddr != 10.77.0.0/16 counter; add rule inet t o oifname wan ip daddr 10.77.0.0/16 tcp dport { 5000, 7000 } counter")
	netnstest.Start(t, o.far.Self("behind", "198.51.100.10:7"))
	dir := t.TempDir()
	must(t, os.Chmod(filepath.Dir(dir), 0o755))
	c := torOptions{
		Dir: filepath.Join(dir, "run"), Data: filepath.Join(dir, "data", "onion"),
		Extra: append([]string{"TestingTorNetwork 1", "PathsNeededToBuildCircuits 0.67"}, o.authorities...),
	}
	must(t, os.MkdirAll(filepath.Dir(c.Data), 0o755))
	began := time.Now()
	r := startChild(t, o.client, "tor", c)
	r.becomes(10*time.Second, cell.ExitConnecting, "%: ")
	st := r.becomes(90*time.Second, cell.ExitUp, "")
	t.Logf("up after %v: %v", time.Since(began).Round(time.Second), r.seen)
	// A network this young and small does not always find its one way out at once.
	netnstest.Eventually(t, 30*time.Second, func() error {
		out, err := o.client.Self("through", st.SOCKS, "laptop", "198.51.100.10:7").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "you are 198.51.100.1:") || !strings.Contains(string(out), "hello tor") {
			return fmt.Errorf("%v: %s", err, out)
		}
		return nil
	})
	// Names, asked through the exit.
	if len(st.DNS) != 1 || !st.DNS[0].Addr().IsLoopback() {
		t.Fatalf("DNS %v", st.DNS)
	}
	netnstest.Need(t, "dig")
	netnstest.Eventually(t, 20*time.Second, func() error {
		out, err := o.client.Try("dig", "+short", "+tries=1", "+time=5", "@127.0.0.1", "-p", fmt.Sprint(st.DNS[0].Port()), "behind.example", "A")
		if strings.TrimSpace(out) != "198.51.100.10" {
			return fmt.Errorf("%v: %s", err, out)
		}
		return nil
	})
	// Nothing else listens, and nothing else was called.
	if out := o.client.Exec("ss", "-Hltn"); out != "" {
		t.Errorf("TCP listeners: %s", out)
	}
	if out := o.client.Exec("ss", "-Hlun"); strings.Count(out, "\n") != 1 || !strings.Contains(out, st.DNS[0].String()) {
		t.Errorf("UDP listeners: %s", out)
	}
	out2 := o.client.Exec("nft", "list", "chain", "inet", "t", "o")
	for line := range strings.Lines(out2) {
		if none := strings.Contains(line, "packets 0 "); strings.Contains(line, "counter") && none != strings.Contains(line, "!=") {
			t.Errorf("called others than relays, or none:\n%s", out2)
		}
	}
	if uid := o.client.Exec("sh", "-c", "stat -c %U /proc/"+torPID(t, o.client)); strings.TrimSpace(uid) != "debian-tor" {
		t.Errorf("tor runs as %s", uid)
	}
	// It dies, and comes back by itself.
	o.client.Exec("kill", "-KILL", torPID(t, o.client))
	netnstest.Eventually(t, 60*time.Second, func() error {
		if s := r.status(); s.State != cell.ExitUp || s.Restarts != 1 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	// Its owner dies: so does it.
	r.kill()
	noTor(t, o.client)
}

// torPID is the tor in a namespace.
func torPID(t testing.TB, ns *netnstest.NS) string {
	t.Helper()
	out, _ := ns.Try("sh", "-c", "for p in $(ip netns pids "+ns.Name+"); do [ \"$(cat /proc/$p/comm 2>/dev/null)\" = tor ] && echo $p; done")
	if strings.Count(out, "\n") != 1 {
		t.Fatalf("tors: %q", out)
	}
	return strings.TrimSpace(out)
}

func noTor(t testing.TB, ns *netnstest.NS) {
	t.Helper()
	netnstest.Eventually(t, 20*time.Second, func() error {
		if out := ns.Exec("sh", "-c", "for p in $(ip netns pids "+ns.Name+"); do cat /proc/$p/comm 2>/dev/null || true; done"); strings.Contains(out, "tor\n") {
			return errors.New("tor is still there")
		}
		return nil
	})
}
