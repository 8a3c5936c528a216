package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/personal-internet-cell/pic/api"
)

// damages are what can happen to a file; old is an earlier copy of it, or nil.
var damages = []struct {
	name string
	do   func(path string, old []byte) error
}{
	{"0 bytes", func(path string, _ []byte) error { return os.Truncate(path, 0) }},
	{"truncated", func(path string, _ []byte) error {
		st, err := os.Stat(path)
		if err != nil {
			return err
		}
		return os.Truncate(path, st.Size()/2)
	}},
	{"a flipped bit at the start", flip(func(int) int { return 2 })},
	{"a flipped bit in the middle", flip(func(n int) int { return n / 2 })},
	{"a flipped bit at the end", flip(func(n int) int { return n - 2 })},
	{"an old copy", func(path string, old []byte) error {
		if old == nil {
			return errNoOldCopy
		}
		return os.WriteFile(path, old, 0o600)
	}},
	{"the wrong owner", func(path string, _ []byte) error { return os.Chown(path, 12345, 12345) }},
	{"a symbolic link", func(path string, _ []byte) error {
		return sh(`mv "$1" "$1.real"; ln -s "$1.real" "$1"`, path)
	}},
	{"missing", func(path string, _ []byte) error { return os.Remove(path) }},
}

var errNoOldCopy = fmt.Errorf("this file has no older version")

func flip(at func(size int) int) func(string, []byte) error {
	return func(path string, _ []byte) error {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		b[at(len(b))] ^= 0x10
		return os.WriteFile(path, b, 0o600)
	}
}

func sh(script string, args ...string) error {
	if out, err := exec.Command("sh", append([]string{"-ec", script, "sh"}, args...)...).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// Every file of the state × everything that can happen to it, on the real
// binary. The cell comes up as what it was, or as recovered; it is never a
// factory-fresh one, and nobody gets in who could not before.
func TestEveryDamageToEveryStateFile(t *testing.T) {
	t.Parallel()
	h := settledHost(t) // revisions 1 (factory), 2 (claim), 3 (laptop)
	oldStartup, err := os.ReadFile(h.path("state/startup"))
	if err != nil {
		t.Fatal(err)
	}
	h.start(nil)
	h.want(201, "POST", "/api/peers", addPhone) // 4
	h.kill()
	h.save("base")
	old := map[string][]byte{"startup": oldStartup, "committed": oldStartup}
	if old["revisions/000004.json.gz"], err = os.ReadFile(h.path("state/revisions/000003.json.gz")); err != nil {
		t.Fatal(err)
	}
	files := []string{}
	err = filepath.WalkDir(h.path("state"), func(path string, d os.DirEntry, err error) error {
		if rel, _ := filepath.Rel(h.path("state"), path); err == nil && d.Type().IsRegular() && rel != "lock" {
			files = append(files, rel)
		}
		return err
	})
	if err != nil || len(files) < 8 {
		t.Fatal(files, err)
	}
	cases, recoveries := 0, 0
	for _, file := range files {
		for _, d := range damages {
			if often := file == "startup" || file == "revisions/000004.json.gz"; torture(0, 1) == 0 && !often && (d.name != "missing" || strings.HasPrefix(file, "secrets/")) {
				continue // the whole table is `make torture`
			}
			h.load("base")
			if err := d.do(h.path("state/"+file), old[file]); err == errNoOldCopy {
				continue
			} else if err != nil {
				t.Fatal(err)
			}
			t.Run(file+", "+d.name, func(t *testing.T) {
				h.t = t
				if h.damaged(file, d.name) {
					recoveries++
				}
			})
			h.t = t
			h.kill()
			cases++
		}
	}
	fmt.Printf("DAMAGE: %d files, %d cases, %d recovered, 0 open, 0 factory-fresh\n", len(files), cases, recoveries)
}

// damaged starts the cell on a damaged state and reports whether it says so.
func (h *host) damaged(file, what string) (recovered bool) {
	t := h.t
	h.start(nil)
	health := into[api.Health](t, h.want(200, "GET", "/health", "")).Status
	for _, path := range []string{"/api/status", "/api/peers", "/api/config", "/api/auth/users", "/api/revisions"} {
		if code := h.stranger(path); code != "401" && code != "503" {
			t.Errorf("%s on the web without a session: %s", path, code)
		}
	}
	if out := h.far.Exec("curl", "-sk", "--max-time", "5", "-H", "Content-Type: application/json", "-d", `{"step":"code","code":"a"}`, "https://192.168.77.2/api/setup/step"); !strings.Contains(out, `"code":"recovered"`) && !strings.Contains(out, `"status":4`) {
		t.Errorf("the setup answers: %s", out)
	}
	st := h.status()
	if health != "recovered" {
		if st.Source != "current" || !st.Cell.Claimed || st.Cell.Name != "home" || st.Peers.Total != 2 {
			t.Errorf("neither recovered nor what it was: %+v", st.Cell)
		}
		if must := file == "startup" || (file == "revisions/000004.json.gz"); must {
			t.Errorf("the damage went unnoticed")
		}
		h.want(201, "POST", "/api/peers", `{"name":"tablet","generate_key":true}`)
		return false
	}
	if st.Source != "recovered" {
		t.Errorf("status says %s", st.Source)
	}
	h.want(503, "POST", "/api/peers", addLaptop)
	for _, path := range []string{"/api/status", "/api/setup/status", "/api/auth/me"} {
		if code := h.stranger(path); code != "503" {
			t.Errorf("%s on the web: %s", path, code)
		}
	}
	said := h.ns.Exec(h.bin, "status", "--socket", h.path("run/pic.sock"))
	for _, word := range []string{"ALARM", "pic recover"} {
		if !strings.Contains(said, word) {
			t.Errorf("pic status does not say %q:\n%s", word, said)
		}
	}
	if !st.Cell.Claimed {
		t.Errorf("no committed revision was found: %s", said)
	}
	// The cure, and it lasts.
	h.ns.Exec(h.bin, "recover", "--socket", h.path("run/pic.sock"))
	again := func() {
		t.Helper()
		st := h.status()
		if st.Source != "current" || !st.Cell.Claimed || st.Cell.Name != "home" || st.Peers.Total < 1 {
			t.Errorf("after pic recover: %+v", st)
		}
		if code := h.stranger("/api/auth/me"); code != "401" {
			t.Errorf("the web after pic recover: %s", code)
		}
		if s := into[api.Health](t, h.want(200, "GET", "/health", "")).Status; s == "recovered" {
			t.Errorf("health after pic recover: %s", s)
		}
	}
	again()
	h.want(201, "POST", "/api/peers", `{"name":"tablet","generate_key":true}`)
	h.kill()
	h.start(nil)
	again()
	return true
}

// stranger is the status that the web gives a stranger on the uplink's network.
func (h *host) stranger(path string) string {
	h.t.Helper()
	out, _ := h.far.Try("curl", "-sk", "--max-time", "5", "-o", "/dev/null", "-w", "%{http_code}", "https://192.168.77.2"+path)
	return out
}

// A folder that lost everything but one kind of file is damaged, not fresh.
func TestALoneRemainderIsNotAFreshCell(t *testing.T) {
	t.Parallel()
	h := settledHost(t)
	h.save("base")
	for _, rest := range []string{"startup", "committed", "revisions", "secrets"} {
		t.Run(rest, func(t *testing.T) {
			h.t = t
			h.load("base")
			if err := sh(`cd "$1"; for f in startup committed revisions marks secrets history; do [ $f = "$2" ] || rm -rf $f; done`, h.path("state"), rest); err != nil {
				t.Fatal(err)
			}
			h.start(nil)
			defer h.kill()
			if s := into[api.Health](t, h.want(200, "GET", "/health", "")).Status; s != "recovered" {
				t.Errorf("only %s is left: health %s", rest, s)
			}
			if code := h.stranger("/api/setup/status"); code != "503" {
				t.Errorf("only %s is left: the setup answers %s", rest, code)
			}
		})
	}
}
