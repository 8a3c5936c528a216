package auth_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// household is a user database with one administrator besides root.
type household struct{ noGroup, damaged bool }

func (household) Name(uid uint32) (string, error) {
	if n, ok := map[uint32]string{0: "root", 1000: "ada", 1001: "bob", 1002: "eve"}[uid]; ok {
		return n, nil
	}
	return "", errors.New("no such user")
}

func (h household) Of(uid uint32) ([]uint32, error) {
	if h.damaged {
		return nil, errors.New("reading /etc/group")
	}
	return map[uint32][]uint32{1000: {1000, 990}, 1001: {1001, 27}}[uid], nil
}

func (h household) ID(group string) (uint32, error) {
	if h.noGroup || group != "pic-admin" {
		return 0, errors.New("no such group")
	}
	return 990, nil
}

func TestRootAndMembersOfTheGroupAreAdministrators(t *testing.T) {
	for _, c := range []struct {
		name   string
		groups household
		cred   auth.PeerCredentials
		user   string
		role   cell.Role
	}{
		{"root", household{}, auth.PeerCredentials{}, "root", cell.RoleAdmin},
		{"member", household{}, auth.PeerCredentials{UID: 1000, GID: 1000}, "ada", cell.RoleAdmin},
		{"primary group", household{}, auth.PeerCredentials{UID: 1002, GID: 990}, "eve", cell.RoleAdmin},
		{"member of another group", household{}, auth.PeerCredentials{UID: 1001, GID: 1001}, "bob", ""},
		{"group of root", household{}, auth.PeerCredentials{UID: 1001, GID: 0}, "bob", ""},
		{"unknown uid", household{}, auth.PeerCredentials{UID: 4242, GID: 4242}, "uid 4242", ""},
		{"no such group", household{noGroup: true}, auth.PeerCredentials{UID: 1000, GID: 1000}, "ada", ""},
		{"no such group, group 0", household{noGroup: true}, auth.PeerCredentials{UID: 1000}, "ada", ""},
		{"damaged database", household{damaged: true}, auth.PeerCredentials{UID: 1000, GID: 1000}, "ada", ""},
		{"damaged database, root", household{damaged: true, noGroup: true}, auth.PeerCredentials{}, "root", cell.RoleAdmin},
	} {
		who := auth.NewSocketPeers(&auth.SocketConfig{Groups: c.groups}).Identify(c.cred)
		want := auth.Identity{User: c.user, Role: c.role, Via: auth.ViaSocket, UID: c.cred.UID}
		if who != want {
			t.Errorf("%s: %+v", c.name, who)
		}
		if allowed := auth.Allowed(auth.AccessAdmin, who) == auth.Allow; allowed != (c.role == cell.RoleAdmin) {
			t.Errorf("%s: admin routes %v", c.name, allowed)
		}
	}
}

// serve answers on a unix socket with who is asking.
func serve(t *testing.T, path string, cfg *auth.SocketConfig) {
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	guard := auth.NewWebGuard(&auth.WebGuardConfig{})
	srv := &http.Server{
		ReadHeaderTimeout: time.Second,
		ConnContext:       auth.NewSocketPeers(cfg).ConnContext,
		Handler: guard.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			who, ok := auth.SocketIdentity(r.Context())
			fmt.Fprintf(w, "%v uid=%d role=%s %v", ok, who.UID, who.Role, auth.Allowed(auth.AccessLocal, who))
		})),
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(l) })
	t.Cleanup(func() { _ = srv.Close(); wg.Wait() })
}

func TestTheKernelSaysWhoIsAtTheOtherEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pic.sock")
	serve(t, path, nil)
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
	}}
	resp, err := client.Get("http://pic/api/status")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	want := fmt.Sprintf("true uid=%d ", os.Getuid())
	if !strings.HasPrefix(string(body), want) || os.Getuid() == 0 && !strings.HasSuffix(string(body), "role=admin allow") {
		t.Errorf("got %s", body)
	}
}

// Another uid connects for real: it must not become an administrator.
func TestAnotherUserOfTheMachineIsRefused(t *testing.T) {
	netnstest.Root(t)
	netnstest.Need(t, "curl")
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "pic-auth")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "pic.sock")
	serve(t, path, &auth.SocketConfig{Groups: household{}})
	for _, c := range []struct {
		uid, gid uint32
		want     string
	}{
		{65534, 65534, "true uid=65534 role= forbidden"},
		{65534, 990, "true uid=65534 role=admin allow"},
		{1000, 1000, "true uid=1000 role=admin allow"},
		{0, 0, "true uid=0 role=admin allow"},
	} {
		cmd := exec.CommandContext(t.Context(), curl, "-s", "-m", "5", "--unix-socket", path, "http://pic/api/status")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: c.uid, Gid: c.gid}}
		out, err := cmd.Output()
		if err != nil || string(out) != c.want {
			t.Errorf("uid %d, gid %d: %q, %v", c.uid, c.gid, out, err)
		}
	}
}

func TestARequestOverTheNetworkHasNoSocketIdentity(t *testing.T) {
	if who, ok := auth.SocketIdentity(t.Context()); ok || who != (auth.Identity{}) {
		t.Errorf("%+v", who)
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	ctx := auth.NewSocketPeers(nil).ConnContext(t.Context(), a)
	if _, ok := auth.SocketIdentity(ctx); ok {
		t.Error("a pipe is a unix socket")
	}
}
