package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// kernelArgs: no waiting for entropy, no self tests, no mitigations against
// guests that do not exist. A panic reboots at once, which -no-reboot turns
// into the end of QEMU.
const kernelArgs = "console=ttyS0 panic=-1 reboot=t quiet random.trust_cpu=on nokaslr mitigations=off audit=0 apparmor=0 " +
	"nowatchdog tsc=reliable no_timer_check rcupdate.rcu_expedited=1 cryptomgr.notests"

// produced are the flags of a test binary that name a file it writes.
var produced = []string{"-test.coverprofile=", "-test.cpuprofile=", "-test.memprofile=", "-test.blockprofile=", "-test.mutexprofile=", "-test.trace="}

// initramfs writes the guest's file system: the shared part, then this run's.
// back maps names under the guest's /out to the host files that want them.
func (i image) initramfs(name string, o *options) (back map[string]string, err error) {
	own := name + ".own"
	a, err := createArchive(own)
	if err != nil {
		return nil, err
	}
	defer a.abort()
	ctx := context.Background()
	back = map[string]string{}
	a.dir("/t/bin")
	a.dir("/t/cwd")
	a.dir("/usr/bin")
	command := o.shell
	if len(o.args) > 0 {
		a.program(ctx, o.args[0], "/t/bin/test")
		command = "exec /t/bin/test"
		for n, arg := range o.args[1:] {
			for _, p := range produced {
				if file, ok := strings.CutPrefix(arg, p); ok {
					guest := fmt.Sprintf(".produced%d", n)
					back[guest] = file
					arg = p + "/out/" + guest
				}
			}
			command += " " + quote(arg)
		}
	}
	a.bytes("/t/cmd", []byte(command+"\n"), 0o644)
	env := "export PIC_VMTEST=1 OUT=/out TMPDIR=/tmp\n"
	for _, e := range o.env {
		k, v, _ := strings.Cut(e, "=")
		env += "export " + k + "=" + quote(v) + "\n"
	}
	a.bytes("/t/env", []byte(env), 0o644)
	if _, err := os.Stat("testdata"); err == nil { // where a Go test expects it
		a.tree("testdata", "/t/cwd/testdata")
	}
	for _, f := range o.files {
		from, to, ok := strings.Cut(f, ":")
		if !ok {
			to = path.Join("/t/cwd", filepath.Base(from))
		}
		a.tree(from, to)
	}
	for _, p := range o.programs {
		from, err := program(p)
		if err != nil {
			return nil, err
		}
		a.program(ctx, from, "/t/bin/"+filepath.Base(p))
	}
	if err := a.close(); err != nil {
		return nil, err
	}
	return back, concatenate(name, i.base(), own)
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func concatenate(to string, from ...string) error {
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	for _, name := range from {
		in, err := os.Open(name)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		in.Close()
		if err != nil {
			return err
		}
	}
	return out.Close()
}

// boot runs the machine and returns the guest's status. A guest that gave none
// is an error, whatever QEMU says.
func boot(ctx context.Context, img image, work string, o *options) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, o.limit)
	defer cancel()
	file := func(name string) string { return filepath.Join(work, name) }
	if err := os.WriteFile(file("out.img"), nil, 0o600); err != nil {
		return exitRig, err
	}
	if err := os.Truncate(file("out.img"), 1<<30); err != nil { // sparse
		return exitRig, err
	}
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none",
		"-machine", "pc", "-accel", "tcg,thread=multi",
		// Without SSSE3 and AVX the kernel takes its plain C ciphers, two to
		// three times as fast as emulated vector code; rdrand spares the guest
		// a second of waiting for entropy.
		"-cpu", "qemu64,+rdrand", "-smp", strconv.Itoa(o.cpus), "-m", strconv.Itoa(o.memory),
		"-kernel", img.kernel(), "-initrd", file("initrd"),
		"-append", strings.Join(append([]string{kernelArgs}, o.kernel...), " "),
		// Three serial ports: the kernel, the test, the status.
		"-chardev", "file,id=kernel,path=" + file("console"), "-serial", "chardev:kernel",
		"-chardev", "stdio,id=test,signal=off", "-serial", "chardev:test",
		"-chardev", "file,id=status,path=" + file("status"), "-serial", "chardev:status",
		"-drive", "if=none,id=out,format=raw,cache=unsafe,file=" + file("out.img"), "-device", "nvme,drive=out,serial=out",
	}
	c := exec.CommandContext(ctx, "qemu-system-x86_64", append(args, o.qemu...)...)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	c.WaitDelay = 5 * time.Second
	runErr := c.Run()
	console, _ := os.ReadFile(file("console"))
	if o.console != "" {
		if err := os.WriteFile(o.console, console, 0o644); err != nil {
			return exitRig, err
		}
	}
	for _, sign := range []string{"BUG: ", "Oops", "WARNING: CPU"} {
		if bytes.Contains(console, []byte(sign)) {
			fmt.Fprintf(os.Stderr, "vmtest: the guest's kernel complained:\n%s\n", tail(console, 40))
			break
		}
	}
	status, _ := os.ReadFile(file("status"))
	if code, err := strconv.Atoi(strings.TrimSpace(string(status))); err == nil {
		return code, nil
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return exitLimit, fmt.Errorf("no end within %v; the console's end:\n%s", o.limit, tail(console, 25))
	}
	return exitRig, fmt.Errorf("the machine ended without a status (%v); the console's end:\n%s", runErr, fromPanic(console))
}

// fromPanic is the console from the kernel's panic on, however long its trace,
// or else its end.
func fromPanic(console []byte) string {
	if i := bytes.LastIndex(console, []byte("Kernel panic")); i >= 0 {
		return string(console[i:])
	}
	return tail(console, 40)
}

func tail(b []byte, lines int) string {
	all := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// bringBack unpacks the guest's /out: the files a test flag named go where the
// flag said, the rest to dir (when not empty). Only plain files are taken, and
// none outside dir.
func bringBack(img, dir string, back map[string]string) error {
	if dir == "" && len(back) == 0 {
		return nil
	}
	f, err := os.Open(img)
	if err != nil {
		return err
	}
	defer f.Close()
	if dir != "" {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := path.Clean(h.Name)
		if h.Typeflag != tar.TypeReg || !filepath.IsLocal(name) {
			continue
		}
		to, wanted := back[name]
		if !wanted {
			if dir == "" {
				continue
			}
			to = filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
				return err
			}
		}
		if err := writeFrom(r, to); err != nil {
			return err
		}
	}
}

func writeFrom(r io.Reader, name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, r); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
