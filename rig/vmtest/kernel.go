package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// kernelPackage pulls in Debian's kernel for virtual machines: small, quick to
// unpack under emulation, and with everything the tests want as modules.
const kernelPackage = "linux-image-cloud-amd64"

// modules are what tests may need; the kernel loads them when asked for.
const modules = `wireguard veth dummy bridge macvlan vrf tun ifb 8021q
nf_tables nft_chain_nat nft_ct nft_nat nft_masq nft_redir nft_reject_inet
nft_tproxy nft_socket nft_fib_inet nft_fib_ipv4 nft_fib_ipv6 nft_limit nft_log
nft_quota nft_numgen nft_hash nft_connlimit nft_objref nft_flow_offload
nf_flow_table_inet nft_compat xt_mark nf_conntrack_netlink nf_log_syslog
br_netfilter sch_netem sch_htb sch_ingress sch_fq sch_tbf cls_u32 act_mirred
inet_diag tcp_diag udp_diag netlink_diag overlay loop ext4 nvme tls`

//go:embed init.sh
var initScript []byte

// image is a kernel and the part of the initramfs that every run shares.
type image struct {
	dir string // in the cache
}

func (i image) kernel() string { return filepath.Join(i.dir, "vmlinuz") }
func (i image) base() string   { return filepath.Join(i.dir, "base.cpio") }

// prepare returns the image, making it on the first call. The cache key covers
// everything the image is made of, so an upgrade makes a new one.
func prepare(ctx context.Context, extra []string) (image, error) {
	for _, p := range []string{"qemu-system-x86_64", "busybox", "depmod", "modprobe", "dpkg-deb", "apt-get", "dash"} {
		if _, err := program(p); err != nil {
			return image{}, fmt.Errorf("%w: apt-get install -y --no-install-recommends qemu-system-x86 busybox-static kmod", err)
		}
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return image{}, err
	}
	cache = filepath.Join(cache, "pic-vmtest")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return image{}, err
	}
	lock, err := os.Create(filepath.Join(cache, "lock"))
	if err != nil {
		return image{}, err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return image{}, fmt.Errorf("locking %s: %w", cache, err)
	}
	names := append(strings.Fields(modules), extra...)
	slices.Sort(names)
	busybox, err := program("busybox")
	if err != nil {
		return image{}, err
	}
	bb, err := os.ReadFile(busybox)
	if err != nil {
		return image{}, err
	}
	h := sha256.New()
	fmt.Fprintln(h, "v1", kernelPackage, names)
	h.Write(initScript)
	h.Write(bb)
	img := image{filepath.Join(cache, hex.EncodeToString(h.Sum(nil)[:8]))}
	if _, err := os.Stat(img.kernel()); err == nil {
		return img, nil
	}
	root, err := fetchKernel(ctx, cache)
	if err != nil {
		return image{}, err
	}
	return img, img.build(ctx, root, names)
}

// fetchKernel downloads and unpacks the kernel package, once per cache.
func fetchKernel(ctx context.Context, cache string) (root string, err error) {
	root = filepath.Join(cache, "kernel")
	if _, err := os.Stat(root); err == nil {
		return root, nil
	}
	depends, err := output(ctx, "", "apt-cache", "depends", kernelPackage)
	if err != nil {
		return "", err
	}
	var pkg string
	for line := range strings.Lines(depends) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: "); ok && strings.HasPrefix(name, "linux-image") {
			pkg = name
		}
	}
	if pkg == "" {
		return "", fmt.Errorf("apt knows no %s: run apt-get update first", kernelPackage)
	}
	tmp, err := os.MkdirTemp(cache, "kernel-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if _, err := output(ctx, tmp, "apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", pkg); err != nil {
		return "", err
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(debs) != 1 {
		return "", fmt.Errorf("downloading %s left %d files", pkg, len(debs))
	}
	x := filepath.Join(tmp, "x")
	if _, err := output(ctx, tmp, "dpkg-deb", "-x", debs[0], x); err != nil {
		return "", err
	}
	version, err := kernelVersion(x)
	if err != nil {
		return "", err
	}
	if _, err := output(ctx, tmp, "depmod", "-b", x, version); err != nil {
		return "", err
	}
	return root, os.Rename(x, root)
}

func kernelVersion(root string) (string, error) {
	found, err := filepath.Glob(filepath.Join(root, "lib/modules/*"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("%s holds %d kernels, not one", root, len(found))
	}
	return filepath.Base(found[0]), nil
}

// build writes the shared initramfs: busybox, a shell, the modules, the init.
func (i image) build(ctx context.Context, root string, names []string) error {
	version, err := kernelVersion(root)
	if err != nil {
		return err
	}
	tmp := i.dir + ".tmp"
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	staged := filepath.Join(tmp, "modules")
	dir := filepath.Join("lib/modules", version)
	if err := os.MkdirAll(filepath.Join(staged, dir), 0o755); err != nil {
		return err
	}
	for _, name := range names {
		if err := stageModule(ctx, root, staged, version, name); err != nil {
			return err
		}
	}
	for _, meta := range []string{"modules.builtin", "modules.builtin.modinfo", "modules.order"} {
		if err := copyFile(filepath.Join(root, dir, meta), filepath.Join(staged, dir, meta)); err != nil {
			return err
		}
	}
	if _, err := output(ctx, "", "depmod", "-b", staged, version); err != nil {
		return err
	}
	if err := copyFile(filepath.Join(root, "boot/vmlinuz-"+version), filepath.Join(tmp, "vmlinuz")); err != nil {
		return err
	}
	w, err := createArchive(filepath.Join(tmp, "base.cpio"))
	if err != nil {
		return err
	}
	defer w.abort()
	for _, d := range []string{"bin", "sbin", "dev", "proc", "sys", "tmp", "run", "etc", "out", "root", "var", "usr"} {
		w.dir("/" + d)
	}
	w.tree(staged, "/")
	w.bytes("/init", initScript, 0o755)
	w.bytes("/etc/passwd", []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"), 0o644)
	w.bytes("/etc/group", []byte("root:x:0:\nnogroup:x:65534:\n"), 0o644)
	w.bytes("/etc/hosts", []byte("127.0.0.1 localhost\n::1 localhost\n"), 0o644)
	w.bytes("/etc/nsswitch.conf", []byte("hosts: files dns\n"), 0o644)
	busybox, err := program("busybox")
	if err != nil {
		return err
	}
	w.file(busybox, "/bin/busybox")
	applets, err := output(ctx, "", busybox, "--list")
	if err != nil {
		return err
	}
	for a := range strings.FieldsSeq(applets) {
		if a != "busybox" && a != "sh" { // see below
			w.symlink("busybox", "/bin/"+a)
		}
	}
	w.symlink("../bin/busybox", "/sbin/modprobe") // where the kernel looks for it
	// Busybox's own shell prefers its applets to PATH, which would hide the
	// programs added by -x: /bin/sh is the host's dash.
	dash, err := program("dash")
	if err != nil {
		return err
	}
	w.program(ctx, dash, "/bin/sh")
	if err := w.close(); err != nil {
		return err
	}
	if err := os.RemoveAll(staged); err != nil {
		return err
	}
	return os.Rename(tmp, i.dir)
}

// stageModule copies a module and what it depends on.
func stageModule(ctx context.Context, root, staged, version, name string) error {
	out, err := output(ctx, "", "modprobe", "-d", root, "-S", version, "--show-depends", name)
	if err != nil {
		return fmt.Errorf("the kernel %s has no module %s: %w", version, name, err)
	}
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "insmod" {
			continue
		}
		rel, err := filepath.Rel(root, f[1])
		if err != nil {
			return err
		}
		if err := copyFile(f[1], filepath.Join(staged, rel)); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o644)
}

// program finds a host program, also where an unprivileged PATH does not look.
func program(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	for _, d := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if p := filepath.Join(d, name); exec.Command(p).Err == nil {
			if st, err := os.Stat(p); err == nil && st.Mode()&0o111 != 0 {
				return p, nil
			}
		}
	}
	return "", fmt.Errorf("no program %s", name)
}

// output runs a host program in dir and returns its stdout.
func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	p, err := program(name)
	if err != nil {
		return "", err
	}
	c := exec.CommandContext(ctx, p, args...)
	c.Dir = dir
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return "", fmt.Errorf("%s: %w: %s", c, err, strings.TrimSpace(stderr.String()))
	}
	return string(out), err
}
