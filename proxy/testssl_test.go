package proxy_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// finding is an entry of testssl.sh's JSON file.
type finding struct {
	ID       string `json:"id"`
	Severity string `json:"severity"`
	Finding  string `json:"finding"`
}

// tlsAllowed reads testdata/testssl-allowed.txt: id # reason.
func tlsAllowed(t *testing.T) map[string]string {
	t.Helper()
	b, err := os.ReadFile("testdata/testssl-allowed.txt")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		id, reason, ok := strings.Cut(line, " # ")
		if !ok || strings.TrimSpace(reason) == "" {
			t.Errorf("testdata/testssl-allowed.txt: %q gives no reason", line)
		}
		out[strings.TrimSpace(id)] = reason
	}
	return out
}

// TLS-1: nothing that testssl.sh rates LOW or worse, but for what is allowed
// with a reason.
func TestNothingThatTestsslRates(t *testing.T) {
	netnstest.Root(t)
	netnstest.Need(t, "testssl", "curl")
	box, out := netnstest.New(t, "box"), netnstest.New(t, "out")
	netnstest.Veth(box, "eth0", []string{"192.168.1.10/24"}, out, "eth0", []string{"192.168.1.50/24"})
	netnstest.Start(t, box.Self("serve", "claimed"))
	netnstest.Eventually(t, 10*time.Second, func() error {
		if got, err := out.Try("curl", "-sk", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", "https://192.168.1.10/"); got != "200" {
			return fmt.Errorf("answered %q %w", got, err)
		}
		return nil
	})
	file := filepath.Join(t.TempDir(), "out.json")
	// Handshakes of many kinds take their time: the rest is for `make bench`.
	checks := []string{"--protocols", "--std", "--server-defaults", "--headers"}
	if os.Getenv("PIC_TESTSSL_FULL") != "" {
		checks = append(checks, "--fs", "--server-preference", "--vulnerable")
	}
	args := append([]string{"--quiet", "--color", "0", "--warnings", "batch", "--nodns", "none", "--ip", "192.168.1.10", "--jsonfile", file}, checks...)
	c := out.Command("testssl", append(args, "https://192.168.1.10/")...)
	text, err := c.CombinedOutput() // its status counts findings
	b, readErr := os.ReadFile(file)
	if readErr != nil {
		t.Fatalf("%v, %v\n%s", err, readErr, text)
	}
	var all []finding
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if len(all) < 40 {
		t.Fatalf("only %d findings: the scan did not run to its end\n%s", len(all), text)
	}
	allowed, seen := tlsAllowed(t), map[string]bool{}
	for _, f := range all {
		switch f.Severity {
		case "OK", "INFO", "DEBUG":
			continue
		}
		if seen[f.ID] = true; allowed[f.ID] == "" {
			t.Errorf("%s %s: %s", f.Severity, f.ID, f.Finding)
		}
	}
	for id := range allowed {
		if !seen[id] {
			t.Errorf("testdata/testssl-allowed.txt: %s was not found any more", id)
		}
	}
}
