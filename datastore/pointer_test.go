package datastore_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/personal-internet-cell/pic/datastore"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// A startup that was renamed into place and could not be synced there names a
// revision that nobody was told of: it is put back at once, or a power cut
// would boot it. Exactly the sync of the folder fails, and only that.
func TestAPointerThatCannotBeSyncedIsPutBack(t *testing.T) {
	const folder = "PIC_TEST_POINTER"
	if dir := os.Getenv(folder); dir != "" {
		runtime.LockOSThread() // strace counts per thread
		s := open(t, dir)
		load(t, s)
		n := write(t, s, household(4))
		_, _ = os.Stderr.WriteString("MARK")
		if err := s.SetStartup(n); err == nil {
			t.Error("no error")
		}
		return
	}
	netnstest.Need(t, "strace")
	run := func(dir string, inject ...string) (log, out string) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "log")
		args := append([]string{"-f", "-y", "-o", file, "-e", "trace=fsync,write"}, inject...)
		c := exec.Command("strace", append(args, os.Args[0], "-test.run=^"+t.Name()+"$")...)
		c.Env = append(os.Environ(), folder+"="+dir)
		b, err := c.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(text), string(b)
	}
	// Once without a fault, to count the syncs before the one in question.
	dir := filepath.Join(t.TempDir(), "pic")
	filled(t, dir)
	log, _ := run(dir)
	before, _, ok := strings.Cut(log, `"MARK"`)
	if !ok {
		t.Fatalf("the helper did not get there:\n%s", log)
	}
	syncs := strings.Count(before, "fsync(")

	dir = filepath.Join(t.TempDir(), "pic")
	filled(t, dir)
	log, out := run(dir, "-e", fmt.Sprintf("inject=fsync:error=EIO:when=%d", syncs+2))
	_, after, _ := strings.Cut(log, `"MARK"`)
	if n := strings.Count(after, "(INJECTED)"); n != 1 || strings.Contains(out, "no error") || !strings.Contains(log, "<"+dir+">) = -1 EIO") {
		t.Fatalf("%d faults, want the folder's sync to fail:\n%s\n%s", n, log, out)
	}
	l := load(t, open(t, dir))
	if l.Source != datastore.Current || l.Revision != 4 || len(l.State.Peers) != 3 {
		t.Errorf("what boots is revision %d (%s), with %d peers: it was never acknowledged", l.Revision, l.Source, len(l.State.Peers))
	}
}

// A revision that is sound in itself and is not the one that was committed
// under its number is damage: another cell's file, or one that was edited.
func TestStartupFitsOneDocumentOnly(t *testing.T) {
	other := filepath.Join(t.TempDir(), "pic")
	s := open(t, other)
	load(t, s)
	commit(t, s, factory())
	for i := range 3 {
		commit(t, s, household(5+i))
	}
	const name = "revisions/000004.json.gz"
	foreign, err := os.ReadFile(filepath.Join(other, name))
	if err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func([]byte) []byte{
		"another cell's": func([]byte) []byte { return foreign },
		"edited":         edited,
	} {
		t.Run(what, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "pic")
			filled(t, dir)
			path := filepath.Join(dir, name)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, change(b), 0o600); err != nil {
				t.Fatal(err)
			}
			l := load(t, open(t, dir))
			if l.Source != datastore.Recovered || l.Revision != 3 || len(l.Problems) == 0 {
				t.Errorf("loaded revision %d as %s: %v", l.Revision, l.Source, l.Problems)
			}
		})
	}
}

// edited changes the document of a revision file and nothing of its header,
// with all sums of the compression right.
func edited(file []byte) []byte {
	zr, err := gzip.NewReader(bytes.NewReader(file))
	if err != nil {
		panic(err)
	}
	text, err := io.ReadAll(zr)
	if err != nil {
		panic(err)
	}
	changed := bytes.Replace(text, []byte(`"name":"p0"`), []byte(`"name":"q0"`), 1)
	if bytes.Equal(changed, text) {
		panic("nothing to edit")
	}
	var out bytes.Buffer
	zw := gzip.NewWriter(&out)
	if _, err := zw.Write(changed); err != nil {
		panic(err)
	}
	if err := zw.Close(); err != nil {
		panic(err)
	}
	return out.Bytes()
}
