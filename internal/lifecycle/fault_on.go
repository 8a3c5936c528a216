//go:build failpoint

package lifecycle

import (
	"os"
	"path/filepath"
)

// Fault panics when the folder that PIC_FAULTS names holds a file called name.
// The file is removed first, so that the panic comes once; one that is a folder
// stays, and so does the fault.
func Fault(name string) {
	dir := os.Getenv("PIC_FAULTS")
	if dir == "" {
		return
	}
	path := filepath.Join(dir, name)
	st, err := os.Stat(path)
	if err != nil || (!st.IsDir() && os.Remove(path) != nil) {
		return
	}
	panic("a test wants " + name + " to panic")
}
