package certs_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/internal/netnstest"
)

func TestMain(m *testing.M) {
	netnstest.Main(m, netnstest.Helpers{"web": webHelper})
}

// site is a host of the web in the test: a name or an address, and what its
// server shows.
type site struct {
	Host       string
	Chain, Key []byte // PEM
	good       bool
}

// webHelper serves sites by server name, or by the address where a client sent
// none, and prints "hello HOST" for each handshake that begins, "request HOST"
// for each request.
func webHelper([]string) error {
	var sites []site
	if err := json.NewDecoder(os.Stdin).Decode(&sites); err != nil {
		return err
	}
	var mu sync.Mutex
	say := func(what, host string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Println(what, host)
	}
	certificates := map[string]*tls.Certificate{}
	for _, s := range sites {
		c, err := tls.X509KeyPair(s.Chain, s.Key)
		if err != nil {
			return err
		}
		certificates[s.Host] = &c
	}
	host := func(name string, local net.Addr) string {
		if name == "" {
			name, _, _ = net.SplitHostPort(local.String())
		}
		return name
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		who := host(h.ServerName, h.Conn.LocalAddr())
		say("hello", who)
		return certificates[who], nil
	}}
	srv := &http.Server{ReadHeaderTimeout: 5 * time.Second, ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		say("request", host(r.TLS.ServerName, local))
		w.Header().Set("Content-Type", "text/html")
		if r.URL.Path == "/" {
			fmt.Fprint(w, page(sites))
		}
	})}
	l, err := net.Listen("tcp", ":443")
	if err != nil {
		return err
	}
	say("ready", "now")
	return srv.Serve(tls.NewListener(l, config))
}

// page fetches every site and writes down which answered.
func page(sites []site) string {
	var hosts []string
	for _, s := range sites {
		hosts = append(hosts, urlHost(s.Host))
	}
	list, _ := json.Marshal(hosts) // strings always can be
	return `<!doctype html><title>web</title><body><script>
const said = ` + string(list) + `.map(h => fetch("https://" + h + "/x", {mode: "no-cors"}).then(() => h + "=accepted", () => h + "=refused"));
Promise.all(said).then(all => { document.body.textContent = "RESULT " + all.join(" ") + " END" });
</script>`
}

func urlHost(h string) string {
	if strings.Contains(h, ":") {
		return "[" + h + "]"
	}
	return h
}

// ID-1 in a browser: Chromium, which trusts the cell's root, takes the cell's
// own names and private addresses, and refuses every other name and address
// signed with the stolen key. That it would take those of an authority without
// constraints shows what it refuses them for.
func TestChromiumHoldsTheStolenKeyToItsConstraints(t *testing.T) {
	netnstest.Root(t)
	netnstest.Need(t, "chromium", "certutil")
	t.Parallel()
	h := newHousehold(t, time.Now())
	parent, key := stolen(t, h)
	issuing := []byte(h.state.TLS.Authorities[0].Issuing)

	freeKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	free := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "an authority without constraints"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	freeDER, err := x509.CreateCertificate(rand.Reader, free, free, &freeKey.PublicKey, freeKey)
	if err != nil {
		t.Fatal(err)
	}

	leaf := func(host string, good bool) site {
		c, by, with, chain := x509.Certificate{DNSNames: []string{host}}, parent, key, issuing
		if ip := net.ParseIP(host); ip != nil {
			c = x509.Certificate{IPAddresses: []net.IP{ip}}
		}
		if strings.HasSuffix(host, "free.example") {
			by, with, chain = free, freeKey, nil
		}
		der, own := signed(t, c, by, with)
		pkcs8, err := x509.MarshalPKCS8PrivateKey(own)
		if err != nil {
			t.Fatal(err)
		}
		return site{
			host, append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), chain...),
			pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), good,
		}
	}
	sites := []site{
		leaf("files.home.internal", true), leaf("home.internal", true), leaf("192.168.1.10", true), leaf("free.example", true),
		leaf("example.com", false), leaf("evilhome.internal", false), leaf("other.internal", false),
		leaf("8.8.8.8", false), leaf("2001:4860:4860::8888", false),
	}

	n := netnstest.New(t, "web")
	var rules []string
	for _, s := range sites {
		switch ip := net.ParseIP(s.Host); {
		case ip == nil:
			rules = append(rules, "MAP "+s.Host+" 127.0.0.1")
		case ip.To4() != nil:
			n.Exec("ip", "addr", "add", s.Host+"/32", "dev", "lo")
		default:
			n.Exec("ip", "addr", "add", s.Host+"/128", "dev", "lo", "nodad")
		}
	}
	lines := serveSites(t, n, sites)

	home := t.TempDir()
	trust(t, home, "cell", []byte(h.state.TLS.Authorities[0].Root))
	trust(t, home, "free", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: freeDER}))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "ip", "netns", "exec", n.Name, "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-features=HttpsUpgrades", "--host-resolver-rules="+strings.Join(rules, ", "),
		"--user-data-dir="+filepath.Join(home, "profile"), "--virtual-time-budget=20000", "--dump-dom", "https://files.home.internal/")
	c.Env = append(os.Environ(), "HOME="+home, "XDG_DATA_HOME="+filepath.Join(home, ".local/share"))
	c.WaitDelay = 5 * time.Second
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil {
		t.Fatalf("%v\n%s\n%s", err, out.String(), errs.String())
	}
	_, said, ok := strings.Cut(out.String(), "RESULT ")
	said, _, ended := strings.Cut(said, " END")
	if !ok || !ended {
		t.Fatalf("the cell's own page was not shown:\n%s\n%s", out.String(), errs.String())
	}
	got := map[string]bool{}
	for one := range strings.FieldsSeq(said) {
		host, verdict, _ := strings.Cut(one, "=")
		got[host] = verdict == "accepted"
	}
	seen := lines()
	for _, s := range sites {
		if got[urlHost(s.Host)] != s.good {
			t.Errorf("%s: accepted %t, want %t", s.Host, got[urlHost(s.Host)], s.good)
		}
		if !seen["hello "+s.Host] {
			t.Errorf("%s: Chromium did not even begin a handshake", s.Host)
		}
		if seen["request "+s.Host] != s.good {
			t.Errorf("%s: a request was sent %t, want %t", s.Host, !s.good, s.good)
		}
	}
}

// serveSites starts the web; lines returns what it has printed so far.
func serveSites(t *testing.T, n *netnstest.NS, sites []site) (lines func() map[string]bool) {
	t.Helper()
	in, err := json.Marshal(sites)
	if err != nil {
		t.Fatal(err)
	}
	c := n.Self("web")
	r, w := io.Pipe()
	c.Stdin, c.Stdout = bytes.NewReader(in), w
	netnstest.Start(t, c)
	t.Cleanup(func() { _ = r.Close() })
	s := bufio.NewScanner(r)
	if !s.Scan() || s.Text() != "ready now" {
		t.Fatalf("the web says %q, %v", s.Text(), s.Err())
	}
	var mu sync.Mutex
	seen := map[string]bool{}
	go func() {
		for s.Scan() {
			mu.Lock()
			seen[s.Text()] = true
			mu.Unlock()
		}
	}()
	return func() map[string]bool {
		mu.Lock()
		defer mu.Unlock()
		out := map[string]bool{}
		for k := range seen {
			out[k] = true
		}
		return out
	}
}

// trust puts a root into the NSS databases that Chromium reads, where a person
// would import it.
func trust(t *testing.T, home, name string, root []byte) {
	t.Helper()
	file := filepath.Join(home, name+".pem")
	if err := os.WriteFile(file, root, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, db := range []string{".pki/nssdb", ".local/share/pki/nssdb"} {
		dir := filepath.Join(home, db)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "cert9.db")); err != nil {
			if out, err := exec.Command("certutil", "-N", "--empty-password", "-d", "sql:"+dir).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		}
		if out, err := exec.Command("certutil", "-A", "-d", "sql:"+dir, "-n", name, "-t", "C,,", "-i", file).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
}
