package tunnel_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"testing"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/netnstest"
	"github.com/personal-internet-cell/pic/tunnel"
)

func TestMain(m *testing.M) {
	netnstest.Main(m, netnstest.Helpers{
		"body":    runBody,
		"control": control,
		"join":    join,
		"echo":    echo,
		"flow":    flow,
		"squat":   squat,
	})
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// household is a claimed cell with the values of its secrets.
type household struct {
	State   *cell.State
	Secrets map[cell.SecretRef]string
	// Private keys of the peers' devices, by peer.
	Private map[string]string
}

func newHousehold() *household {
	private, public := tunnel.GenerateKey()
	s := cell.Factory([16]byte{1, 2, 3, 4, 5, 6}, "tunnel", public)
	s.Identity = cell.Identity{Name: "home", Mode: cell.ModeLAN}
	s.Users = append(s.Users, cell.User{Name: "admin", Role: cell.RoleAdmin, PasswordHash: "pw"})
	return &household{s, map[cell.SecretRef]string{"tunnel": private.Reveal()}, map[string]string{}}
}

// add lets a peer in, with a preshared key.
func (h *household) add(names ...string) {
	for _, name := range names {
		private, public := tunnel.GenerateKey()
		v4, v6, err := h.State.FreeAddresses()
		if err != nil {
			panic(err)
		}
		ref := cell.SecretRef("psk-" + name)
		h.Secrets[ref] = tunnel.GeneratePSK().Reveal()
		h.Private[name] = private.Reveal()
		h.State.Peers = append(h.State.Peers, cell.Peer{
			Name: name, PublicKey: public, PresharedKey: ref, Address4: v4, Address6: v6,
			Enabled: true, Destinations: cell.FullTunnel, Trust: cell.TrustOwner, Keepalive: 25,
		})
	}
}

func (h *household) remove(name string) {
	for i := range h.State.Peers {
		if h.State.Peers[i].Name == name {
			h.State.Peers = append(h.State.Peers[:i:i], h.State.Peers[i+1:]...)
			return
		}
	}
	panic("no peer " + name)
}

func (h *household) secret(ref cell.SecretRef) (cell.Secret, error) {
	v, ok := h.Secrets[ref]
	if !ok {
		return cell.Secret{}, errors.New("no such secret")
	}
	return cell.NewSecret(v), nil
}

func (h *household) plan() tunnel.Devices {
	if err := h.State.Validate(); err != nil {
		panic(err)
	}
	d, err := tunnel.Compile(h.State, cell.Facts{})
	if err != nil {
		panic(err)
	}
	return d
}

func (h *household) controller(k tunnel.Kernel, userspace bool) *tunnel.Controller {
	return tunnel.New(&tunnel.Config{Secret: h.secret, Log: quiet, Kernel: k, Userspace: userspace})
}

// settle applies the plan twice: the second pass must change nothing.
func settle(c *tunnel.Controller, d tunnel.Devices) (changed bool, err error) {
	changed, err = c.Apply(bg, d)
	if err != nil {
		return changed, err
	}
	again, err := c.Apply(bg, d)
	if err != nil {
		return changed, fmt.Errorf("second pass: %w", err)
	}
	if again {
		return changed, errors.New("the second pass changed something")
	}
	return changed, nil
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func testKey(n byte) cell.Key {
	var b [32]byte
	b[0], b[31] = n, 1
	return cell.Key(base64.StdEncoding.EncodeToString(b[:]))
}
