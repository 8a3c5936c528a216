package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os/user"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/personal-internet-cell/pic/cell"
)

// AdminGroup is the group whose members are administrators on the unix socket.
const AdminGroup = "pic-admin"

// PeerCredentials are what the kernel says about the process at the other end
// of a unix socket at the time it connected (unix(7), SO_PEERCRED).
type PeerCredentials struct {
	PID      int32
	UID, GID uint32
}

// Credentials asks the kernel who is at the other end of c.
func Credentials(c *net.UnixConn) (PeerCredentials, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return PeerCredentials{}, fmt.Errorf("reading peer credentials: %w", err)
	}
	var cred *unix.Ucred
	var inner error
	err = raw.Control(func(fd uintptr) {
		cred, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, inner); err != nil {
		return PeerCredentials{}, fmt.Errorf("reading peer credentials: %w", err)
	}
	return PeerCredentials{PID: cred.Pid, UID: cred.Uid, GID: cred.Gid}, nil
}

// Groups answers from a user database; the product uses the machine's,
// /etc/passwd and /etc/group (no cgo, so no NSS).
type Groups interface {
	// Name returns the login of uid, or an error.
	Name(uid uint32) (string, error)
	// Of returns the ids of the groups that uid belongs to.
	Of(uid uint32) ([]uint32, error)
	// ID returns the id of a group, or an error when there is none.
	ID(group string) (uint32, error)
}

// SocketConfig configures [NewSocketPeers]. The zero value is the product's.
type SocketConfig struct {
	Log    *slog.Logger // nil discards
	Group  string       // empty: AdminGroup
	Groups Groups       // nil: the machine's own database
}

// SocketPeers turns connections of the unix socket into identities.
type SocketPeers struct {
	log    *slog.Logger
	group  string
	groups Groups
}

// NewSocketPeers returns the reader of peer credentials. cfg may be nil.
func NewSocketPeers(cfg *SocketConfig) *SocketPeers {
	var c SocketConfig
	if cfg != nil {
		c = *cfg
	}
	if c.Group == "" {
		c.Group = AdminGroup
	}
	if c.Groups == nil {
		c.Groups = machineGroups{}
	}
	return &SocketPeers{log: orDiscard(c.Log), group: c.Group, groups: c.Groups}
}

// Identify says who cred is: an administrator for root and members of the
// group, else an identity without a role, which every route but the public
// ones refuses.
func (p *SocketPeers) Identify(cred PeerCredentials) Identity {
	who := Identity{Via: ViaSocket, UID: cred.UID, User: "uid " + strconv.FormatUint(uint64(cred.UID), 10)}
	if name, err := p.groups.Name(cred.UID); err == nil && name != "" {
		who.User = name
	}
	if cred.UID == 0 || p.member(cred) {
		who.Role = cell.RoleAdmin
	}
	return who
}

func (p *SocketPeers) member(cred PeerCredentials) bool {
	admin, err := p.groups.ID(p.group)
	if err != nil || admin == 0 {
		return false // no such group; and group 0 of a broken file admits nobody
	}
	if cred.GID == admin {
		return true
	}
	of, err := p.groups.Of(cred.UID)
	return err == nil && slices.Contains(of, admin)
}

type socketKey struct{}

// ConnContext is for http.Server.ConnContext of the unix socket's server: each
// request of the connection then carries its [SocketIdentity].
func (p *SocketPeers) ConnContext(ctx context.Context, c net.Conn) context.Context {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	cred, err := Credentials(uc)
	if err != nil {
		p.log.Error("a client of the unix socket could not be identified", "error", err)
		return context.WithValue(ctx, socketKey{}, Identity{Via: ViaSocket, UID: ^uint32(0)})
	}
	return context.WithValue(ctx, socketKey{}, p.Identify(cred))
}

// SocketIdentity returns who is at the other end of the unix socket; ok is
// false for a request that came over the network.
func SocketIdentity(ctx context.Context) (who Identity, ok bool) {
	who, ok = ctx.Value(socketKey{}).(Identity)
	return who, ok
}

type machineGroups struct{}

func (machineGroups) Name(uid uint32) (string, error) {
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return "", fmt.Errorf("looking up uid %d: %w", uid, err)
	}
	return u.Username, nil
}

func (machineGroups) Of(uid uint32) ([]uint32, error) {
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return nil, fmt.Errorf("looking up uid %d: %w", uid, err)
	}
	texts, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("looking up the groups of uid %d: %w", uid, err)
	}
	var out []uint32
	for _, t := range texts {
		if n, err := strconv.ParseUint(t, 10, 32); err == nil {
			out = append(out, uint32(n))
		}
	}
	return out, nil
}

func (machineGroups) ID(group string) (uint32, error) {
	g, err := user.LookupGroup(group)
	if err != nil {
		return 0, fmt.Errorf("looking up group %s: %w", group, err)
	}
	n, err := strconv.ParseUint(g.Gid, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("looking up group %s: %w", group, err)
	}
	return uint32(n), nil
}
