package main_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// rebound is what a page of the attacker read after its name had come to mean
// the cell.
type rebound struct {
	Path   string
	Status int // 0: no answer
	Text   string
}

const rebindingPaths = `["/api/setup/status","/api/status","/api/auth/me","/api/config","/health","/api/openapi.json","/","/setup"]`

// rebindingPage asks its own origin for the API, as soon as the server that it
// came from is gone.
const rebindingPage = `<!doctype html><title>attack</title><body><script>
(async () => {
  await fetch("/gone").catch(() => {});
  const said = [];
  for (const path of ` + rebindingPaths + `) {
    let r = {Path: path, Status: 0, Text: ""};
    for (let i = 0; i < 5 && r.Status === 0; i++) {
      try {
        const a = await fetch(path, {cache: "no-store"});
        r = {Path: path, Status: a.status, Text: (await a.text()).slice(0, 300)};
      } catch (e) { r.Text = String(e); }
    }
    said.push(r);
  }
  document.body.textContent = "RESULT " + btoa(JSON.stringify(said)) + " END";
})();
</script>`

// attacker serves the page on 80 and 443 of an address until it is asked for
// /gone, then nothing there answers any more.
func attacker(args []string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"rebind.example"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		return err
	}
	srv := &http.Server{ReadHeaderTimeout: 5 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	gone := make(chan struct{})
	once := sync.OnceFunc(func() { close(gone) })
	srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		if r.URL.Path == "/gone" {
			once()
			return
		}
		fmt.Fprint(w, rebindingPage)
	})
	var wg sync.WaitGroup
	for _, port := range []string{"80", "443"} {
		l, err := net.Listen("tcp", net.JoinHostPort(args[0], port))
		if err != nil {
			return err
		}
		if port == "443" {
			l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
		}
		wg.Go(func() { _ = srv.Serve(l) })
	}
	fmt.Println("ready")
	<-gone
	_ = srv.Close()
	wg.Wait()
	return nil
}

// WEB-3 with a real browser: a page whose name means the attacker's server
// first and the cell afterwards gets no answer of the API, over HTTP, nor over
// HTTPS from somebody who clicks every warning away.
func TestARebindingPageGetsNoAnswerOfTheAPI(t *testing.T) {
	netnstest.Root(t)
	netnstest.Need(t, "chromium")
	t.Parallel()
	h := newHost(t)
	h.start(nil)
	t.Run("unclaimed, http", func(t *testing.T) { h.rebind(t, "http") })
	h.kill()
	h.claimed()
	t.Run("claimed, http", func(t *testing.T) { h.rebind(t, "http") })
	t.Run("claimed, https", func(t *testing.T) { h.rebind(t, "https") })
}

func (h *host) rebind(t *testing.T, scheme string) {
	// Two addresses of one name, in this order; the second counts when the first
	// refuses. An answer with a lifetime of zero does the same, but takes as long
	// as a browser keeps names.
	home := t.TempDir()
	hosts := filepath.Join(home, "hosts")
	if err := os.WriteFile(hosts, []byte("127.0.0.1 localhost\n192.168.77.1 rebind.example\n192.168.77.2 rebind.example\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	a := h.far.Self("attacker", "192.168.77.1")
	out, err := a.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stop := netnstest.Start(t, a)
	defer stop()
	if b := make([]byte, 6); true {
		if _, err := io.ReadFull(out, b); err != nil || string(b) != "ready\n" {
			t.Fatalf("the attacker says %q, %v", b, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	browser := []string{
		"chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-features=HttpsUpgrades,HttpsFirstBalancedMode,AsyncDns", "--ignore-certificate-errors",
		"--user-data-dir=" + filepath.Join(home, "profile"), "--virtual-time-budget=30000", "--dump-dom", scheme + "://rebind.example/",
	}
	c := h.far.Command("sh", append([]string{"-c", `mount --bind "$0" /etc/hosts && exec "$@"`, hosts}, browser...)...)
	c.Env = append(os.Environ(), "HOME="+home)
	var page, errs bytes.Buffer
	c.Stdout, c.Stderr = &page, &errs
	done := make(chan error, 1)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { done <- c.Wait() }()
	select {
	case err = <-done:
	case <-ctx.Done():
		_ = c.Process.Kill()
		err = ctx.Err()
	}
	_, text, ok := strings.Cut(page.String(), "RESULT ")
	text, _, ended := strings.Cut(text, " END")
	if err != nil || !ok || !ended {
		t.Fatalf("the attacker's page did not run: %v\n%s\n%s", err, page.String(), errs.String())
	}
	var said []rebound
	if err := json.NewDecoder(base64.NewDecoder(base64.StdEncoding, strings.NewReader(text))).Decode(&said); err != nil {
		t.Fatal(err)
	}
	reached := 0
	for _, r := range said {
		switch {
		case r.Status == http.StatusMisdirectedRequest && !strings.Contains(r.Text, "claimed") && !strings.Contains(r.Text, "version"):
			reached++
		case r.Status == 0 && scheme == "https": // no certificate for that name, so no request
			reached++
		default:
			t.Errorf("%s answers %d to the attacker's page: %s", r.Path, r.Status, r.Text)
		}
	}
	if reached != 8 {
		t.Errorf("%d of 8 questions came to the cell: %+v", reached, said)
	}
}
