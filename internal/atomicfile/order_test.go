package atomicfile_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/personal-internet-cell/pic/internal/atomicfile"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// The order is the whole promise: the content is on the disk before it gets
// its name, and the name is before Write returns. Only the system calls show
// it; a power cut can't be had in a test.
func TestContentIsSyncedBeforeTheRenameAndTheFolderAfter(t *testing.T) {
	const writes = "PIC_TEST_WRITES"
	if path := os.Getenv(writes); path != "" {
		if err := atomicfile.Write(path, []byte("the content"), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	netnstest.Need(t, "strace")
	dir := t.TempDir()
	path, log := filepath.Join(dir, "state"), filepath.Join(t.TempDir(), "log")
	// -y names the file behind each descriptor.
	c := exec.Command("strace", "-f", "-y", "-o", log, "-e", "trace=write,fsync,fdatasync,/rename.*", os.Args[0], "-test.run=^"+t.Name()+"$")
	c.Env = append(os.Environ(), writes+"="+path)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	folder := regexp.QuoteMeta(dir)
	steps := []struct{ name, pattern string }{
		{"write", `write\(\d+<` + folder + `/\.tmp-state-[^>]*>, "the content"`},
		{"sync of the file", `f(data)?sync\(\d+<` + folder + `/\.tmp-state-`},
		{"rename", `rename(at2?)?\(.*` + folder + `/\.tmp-state-.*` + folder + `/state"`},
		{"sync of the folder", `fsync\(\d+<` + folder + `>\)`},
	}
	next := 0
	for line := range strings.Lines(string(b)) {
		if next < len(steps) && regexp.MustCompile(steps[next].pattern).MatchString(line) {
			next++
		}
	}
	if next < len(steps) {
		t.Errorf("no %s at its place among the system calls:\n%s", steps[next].name, b)
	}
}
