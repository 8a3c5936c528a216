//go:build bench

// Package http_test measures HTTPS reverse proxies: ours, nginx, HAProxy and
// Caddy, each alone on one core, with load and upstream on another.
package http_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/certs"
	"github.com/personal-internet-cell/pic/internal/netnstest"
	"github.com/personal-internet-cell/pic/proxy"
)

const (
	host     = "web.home.internal"
	upstream = "127.0.0.1:9000"
	rounds   = 3
)

// seconds that one server is loaded in one round.
func seconds() string {
	if s := os.Getenv("PIC_BENCH_SECONDS"); s != "" {
		return s
	}
	return "5"
}

func TestMain(m *testing.M) {
	netnstest.Main(m, netnstest.Helpers{"pic": serve})
}

// serve runs our proxy on a port, with a profile of its CPU time if asked for.
func serve(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	port, err := strconv.ParseUint(args[0], 10, 16)
	if err != nil {
		return err
	}
	s := cell.Factory([16]byte{1}, "tunnel", "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
	s.Identity = cell.Identity{Name: "home", Mode: cell.ModeLAN}
	s.Users = []cell.User{{Name: "admin", Role: cell.RoleAdmin, PasswordHash: "pw"}}
	s.Services = []cell.Service{{ID: "web", Subdomain: "web", Access: cell.AccessLAN, Enabled: true, Upstream: "http://" + upstream}}
	r, err := proxy.Compile(s, cell.Facts{Host: cell.Host{HTTPSPort: uint16(port)}, Links: map[string]cell.LinkFact{
		"lo": {Addresses: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8")}},
	}})
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "certs")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	source, err := certs.New(&certs.Config{Dir: dir, Log: log})
	if err != nil {
		return err
	}
	srv := proxy.New(&proxy.Config{Local: http.NotFoundHandler(), TLS: source.TLSConfig(), HTTPSAddr: "127.0.0.1:" + args[0], Log: log})
	if _, err := srv.Apply(ctx, r); err != nil {
		return err
	}
	if path := os.Getenv("PIC_BENCH_PROFILE"); path != "" {
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	return srv.Run(ctx)
}

// peer is a server in the comparison.
type peer struct {
	name, version string
	port          int
	start         func(t *testing.T, b *bed)
	rps           []float64
	p99           []time.Duration
}

// bed is the namespace and the files of one run.
type bed struct {
	ns   *netnstest.NS
	dir  string
	pins []string // for the server, for the load
}

func (b *bed) write(t *testing.T, name, text string) string {
	t.Helper()
	p := filepath.Join(b.dir, name)
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return p
}

// pinned runs a program inside on the core of that index.
func (b *bed) pinned(core int, args ...string) *exec.Cmd {
	if b.pins == nil {
		return b.ns.Command(args[0], args[1:]...)
	}
	return b.ns.Command("taskset", append([]string{"-c", b.pins[core]}, args...)...)
}

func TestReverseProxies(t *testing.T) {
	netnstest.Need(t, "wrk", "nginx", "taskset")
	b := &bed{ns: netnstest.New(t, "http"), dir: t.TempDir()}
	if runtime.NumCPU() > 1 {
		b.pins = []string{"0", "1"}
	}
	if err := os.Chmod(b.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	certificate(t, b)
	hosts := b.write(t, "hosts", "127.0.0.1 "+host+"\n")
	nginx(t, b, 1, "upstream", fmt.Sprintf(`server { listen %s reuseport; location / { return 200 "%s"; } }`, upstream, strings.Repeat("x", 1024)))

	list := []*peer{
		{name: "pic", port: 8441, start: func(t *testing.T, b *bed) {
			c := b.ns.Self("pic", "8441")
			if b.pins != nil {
				c.Args = slices.Insert(c.Args, 4, "taskset", "-c", b.pins[0])
			}
			netnstest.Start(t, c)
			t.Cleanup(func() { // asked to stop, so that a profile is written
				_ = c.Process.Signal(syscall.SIGTERM)
				netnstest.Eventually(t, 5*time.Second, func() error {
					if _, err := b.ns.Try("sh", "-c", "ss -Hltn 'sport = :8441' | grep -q ."); err == nil {
						return fmt.Errorf("still listening")
					}
					return nil
				})
			})
		}},
		{name: "nginx", version: version("nginx", "-v"), port: 8442, start: func(t *testing.T, b *bed) {
			nginx(t, b, 0, "proxy", fmt.Sprintf(`upstream u { server %s; keepalive 64; keepalive_requests 100000000; }
server { listen 127.0.0.1:8442 ssl; server_name %s; ssl_certificate %s/cert.pem; ssl_certificate_key %s/key.pem; ssl_protocols TLSv1.3; keepalive_requests 100000000;
location / { proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto https; proxy_set_header X-Real-IP $remote_addr; } }`, upstream, host, b.dir, b.dir))
		}},
		{name: "haproxy", version: version("haproxy", "-v"), port: 8443, start: func(t *testing.T, b *bed) {
			conf := b.write(t, "haproxy.cfg", fmt.Sprintf(`global
    nbthread 1
    maxconn 4096
defaults
    mode http
    timeout client 30s
    timeout server 30s
    timeout connect 5s
    http-reuse always
frontend f
    bind 127.0.0.1:8443 ssl crt %s/both.pem alpn http/1.1 ssl-min-ver TLSv1.3
    http-request set-header X-Forwarded-Proto https
    option forwardfor
    default_backend u
backend u
    server s %s
`, b.dir, upstream))
			netnstest.Start(t, b.pinned(0, "haproxy", "-db", "-f", conf))
		}},
		{name: "caddy", version: version("caddy", "version"), port: 8444, start: func(t *testing.T, b *bed) {
			conf := b.write(t, "Caddyfile", fmt.Sprintf(`{
    admin off
    auto_https off
}
https://%s:8444 {
    tls %s/cert.pem %s/key.pem
    reverse_proxy %s
}
`, host, b.dir, b.dir, upstream))
			c := b.pinned(0, "caddy", "run", "--config", conf, "--adapter", "caddyfile")
			c.Env = append(os.Environ(), "HOME="+b.dir, "XDG_DATA_HOME="+b.dir, "XDG_CONFIG_HOME="+b.dir)
			netnstest.Start(t, c)
		}},
	}
	list = slices.DeleteFunc(list, func(p *peer) bool {
		if only := os.Getenv("PIC_BENCH_ONLY"); only != "" && only != p.name {
			return true
		}
		if _, err := exec.LookPath(p.name); p.name != "pic" && err != nil {
			fmt.Printf("SKIPPED %s: not installed\n", p.name)
			return true
		}
		return false
	})
	for range rounds {
		for _, p := range list {
			t.Run(p.name, func(t *testing.T) {
				p.start(t, b)
				url := fmt.Sprintf("https://%s:%d/", host, p.port)
				netnstest.Eventually(t, 10*time.Second, func() error {
					out, err := b.ns.Try("curl", "-sk", "-m", "2", "--resolve", fmt.Sprintf("%s:%d:127.0.0.1", host, p.port), "-o", "/dev/null", "-w", "%{http_code}", url)
					if out != "200" {
						return fmt.Errorf("%s answered %s %w", p.name, out, err)
					}
					return nil
				})
				p.load(t, b, hosts, url)
			})
		}
	}
	report(list)
}

func (p *peer) load(t *testing.T, b *bed, hosts, url string) {
	t.Helper()
	c := b.pinned(1, "sh", "-ec", fmt.Sprintf("mount --bind %s /etc/hosts; exec wrk -t1 -c64 -d%ss --latency %s", hosts, seconds(), url))
	out, err := c.CombinedOutput()
	rps := regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`).FindSubmatch(out)
	p99 := regexp.MustCompile(`99%\s+([0-9.]+[a-z]+)`).FindSubmatch(out)
	if err != nil || rps == nil || p99 == nil || bytes.Contains(out, []byte("Non-2xx")) {
		t.Fatalf("wrk against %s: %v\n%s", p.name, err, out)
	}
	n, err := strconv.ParseFloat(string(rps[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	d, err := time.ParseDuration(string(p99[1]))
	if err != nil {
		t.Fatal(err)
	}
	p.rps, p.p99 = append(p.rps, n), append(p.p99, d)
}

func median[T interface{ ~float64 | ~int64 }](v []T) T {
	s := slices.Sorted(slices.Values(v))
	if len(s) == 0 {
		return 0
	}
	return s[len(s)/2]
}

func report(list []*peer) {
	fmt.Printf("\nHTTPS reverse proxy, TLS 1.3, keep-alive, 1 KiB, 64 connections, one core for the proxy; median of %d rounds of %s s\n", rounds, seconds())
	fmt.Printf("%-9s %-24s %12s %10s %12s\n", "server", "version", "requests/s", "p99", "pic ÷ it")
	ours := 0.0
	for _, p := range list {
		if p.name == "pic" {
			ours = median(p.rps)
		}
		fmt.Printf("%-9s %-24s %12.0f %10v %12.2f\n", p.name, p.version, median(p.rps), median(p.p99), ours/median(p.rps))
	}
}

// version is what a program says of itself, the number only.
func version(name string, arg string) string {
	out, err := exec.Command(name, arg).CombinedOutput()
	if err != nil {
		return ""
	}
	return string(regexp.MustCompile(`[0-9]+\.[0-9]+\.[0-9]+`).Find(out))
}

func nginx(t *testing.T, b *bed, core int, name, servers string) {
	t.Helper()
	conf := b.write(t, name+".conf", fmt.Sprintf(`daemon off; user root; worker_processes 1; pid %s/%s.pid; error_log stderr error;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 100000000; keepalive_timeout 60s; %s }
`, b.dir, name, servers))
	netnstest.Start(t, b.pinned(core, "nginx", "-c", conf))
}

// certificate makes the key pair of the peers, of the kind that ours has.
func certificate(t *testing.T, b *bed) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{host}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	c := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	k := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	b.write(t, "cert.pem", string(c))
	b.write(t, "key.pem", string(k))
	b.write(t, "both.pem", string(c)+string(k))
}
