package main

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
)

// archive writes the "newc" cpio format, the one an initramfs is made of
// (Documentation/driver-api/early-userspace/buffer-format.rst of the kernel).
// The first error sticks and is returned by close.
type archive struct {
	f     *os.File
	w     *bufio.Writer
	inode uint32
	seen  map[string]bool // folders and libraries written already
	err   error
}

func createArchive(name string) (*archive, error) {
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	return &archive{f: f, w: bufio.NewWriterSize(f, 1<<20), seen: map[string]bool{"/": true}}, nil
}

// abort closes the file of an archive that was not finished; after close it
// does nothing that matters.
func (a *archive) abort() { _ = a.f.Close() }

// close writes the trailer.
func (a *archive) close() error {
	a.entry("TRAILER!!!", 0, nil)
	if a.err == nil {
		a.err = a.w.Flush()
	}
	if err := a.f.Close(); a.err == nil {
		a.err = err
	}
	return a.err
}

const (
	typeDir     = 0o040000
	typeFile    = 0o100000
	typeSymlink = 0o120000
)

// entry writes a header, the name and the data, each padded to four bytes.
func (a *archive) entry(name string, mode uint32, data []byte) {
	if a.err != nil {
		return
	}
	a.inode++
	pad := func(n int) {
		for ; n%4 != 0; n++ {
			_ = a.w.WriteByte(0) // bufio keeps the error
		}
	}
	// magic, then inode mode uid gid nlink mtime size, device numbers, name size, check
	fmt.Fprintf(a.w, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		a.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
	fmt.Fprintf(a.w, "%s\x00", name)
	pad(110 + len(name) + 1)
	_, a.err = a.w.Write(data)
	pad(len(data))
}

func (a *archive) dir(name string) {
	name = path.Clean(name)
	if a.seen[name] {
		return
	}
	a.dir(path.Dir(name))
	a.seen[name] = true
	a.entry(name[1:], typeDir|0o755, nil)
}

func (a *archive) bytes(name string, data []byte, perm uint32) {
	a.dir(path.Dir(name))
	a.entry(path.Clean(name)[1:], typeFile|perm, data)
}

func (a *archive) symlink(target, name string) {
	a.dir(path.Dir(name))
	a.entry(path.Clean(name)[1:], typeSymlink|0o777, []byte(target))
}

// file copies a host file, following links.
func (a *archive) file(from, name string) {
	if a.err != nil {
		return
	}
	st, err := os.Stat(from)
	if err != nil {
		a.err = err
		return
	}
	b, err := os.ReadFile(from)
	if err != nil {
		a.err = err
		return
	}
	a.bytes(name, b, uint32(st.Mode().Perm()))
}

// tree copies a host file or folder to name.
func (a *archive) tree(from, name string) {
	err := filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		to := path.Join(name, filepath.ToSlash(rel))
		if d.IsDir() {
			a.dir(to)
		} else {
			a.file(p, to)
		}
		return a.err
	})
	if a.err == nil {
		a.err = err
	}
}

var libraryPath = regexp.MustCompile(`/[^ ()]+\.so[^ ()]*`)

// program copies a host program and the shared libraries it is linked with.
func (a *archive) program(ctx context.Context, from, name string) {
	a.file(from, name)
	out, _ := exec.CommandContext(ctx, "ldd", from).Output() // fails for a static program
	for _, lib := range libraryPath.FindAllString(string(out), -1) {
		if !a.seen[lib] {
			a.seen[lib] = true
			a.file(lib, lib)
		}
	}
}
