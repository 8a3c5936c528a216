package exits

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/exits/child"
	"github.com/personal-internet-cell/pic/exits/dialer"
	"github.com/personal-internet-cell/pic/exits/relay"
	"github.com/personal-internet-cell/pic/internal/cgroup"
)

// realParts are the parts of the cell itself.
func realParts(c *Config) *Parts {
	p := &Parts{Routed: routed}
	log := func(e *Exit) *slog.Logger { return c.Log.With("exit", e.ID) }
	p.Upstream = func(e *Exit, credentials cell.Secret, a *Around) (Upstream, error) {
		base := &dialer.Direct{Resolve: a.Resolve}
		if p := e.Proxy; p != nil {
			return judged{dialer.NewProxy(&dialer.ProxyConfig{
				Protocol: p.Protocol, Host: p.Host, Port: p.Port, Username: p.Username, Password: credentials, Base: base, Log: log(e),
			})}, nil
		}
		s := e.SSH
		return judged{dialer.NewSSH(&dialer.SSHConfig{
			Host: s.Host, Port: s.Port, User: s.User, Auth: s.Auth, Credential: credentials, HostKey: cmp.Or(s.HostKey, a.Pinned), Pin: a.Pin, Base: base, Log: log(e),
		})}, nil
	}
	p.Relay = func(e *Exit, dial DialFrom) Relay {
		// Packets come only where the firewall sends them, by what Check found.
		return transparent{relay.New(&relay.Config{ID: e.ID, Port: e.RelayPort, UDP: e.Proxy != nil && e.Proxy.Protocol == cell.ProxySOCKS5, Dial: dial, Log: log(e)})}
	}
	p.Socks = func(e *Exit, allow func(netip.Addr) bool, dial func(context.Context, string, string) (net.Conn, error)) Socks {
		return socksServer{relay.NewSOCKS(&relay.SOCKSConfig{ID: e.ID, Listen: e.Socks, Allow: allow, Dial: dial, Log: log(e)})}
	}
	dir, groups := filepath.Join(c.RuntimeDir, "exits"), cgroup.New()
	if c.Address != nil {
		p.OpenVPN = func(e *Exit, password, profile cell.Secret, changed func(), keep func() bool) Child {
			return program{child.NewOpenVPN(&child.OpenVPNConfig{
				ID: e.ID, Link: e.Link, Profile: profile, Username: e.OpenVPN.Username, Password: password, RuntimeDir: dir,
				Configure: c.Address, Keep: keep, Groups: groups, Changed: changed, Log: c.Log,
			})}
		}
	}
	p.Tor = func(e *Exit, changed func()) (Child, Upstream) {
		t := child.NewTor(&child.TorConfig{
			ID: e.ID, Countries: e.Tor.Countries, Bridges: e.Tor.Bridges,
			RuntimeDir: filepath.Join(c.RuntimeDir, "tor"), DataDir: filepath.Join(c.DataDir, "tor", e.ID),
			Groups: groups, Changed: changed, Log: c.Log,
		})
		return program{t}, judged{dialer.NewProxy(&dialer.ProxyConfig{Protocol: cell.ProxySOCKS5, Host: "localhost", Port: 9050, Base: unixSocket(t.SOCKSAddr()), Log: log(e)})}
	}
	p.Sweep = func(keep []string) error { return child.Sweep(dir, keep, c.Log) }
	return p
}

// lack reports whether a part that the exit consists of can't be made.
func (p *Parts) lack(e *Exit) bool {
	return e.Link != "" && p.Routed == nil || e.RelayPort != 0 && p.Relay == nil || len(e.Socks) > 0 && p.Socks == nil ||
		e.OpenVPN != nil && p.OpenVPN == nil || e.Tor != nil && p.Tor == nil || (e.SSH != nil || e.Proxy != nil) && p.Upstream == nil
}

// The types below are the parts as this room sees them.

// unixSocket is the base of a proxy that listens there, whatever its name.
type unixSocket string

func (u unixSocket) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", string(u))
}

type transparent struct{ *relay.Relay }

func (t transparent) CloseFrom(src netip.Addr) { t.Relay.CloseFrom(src) }

func (t transparent) Traffic() Traffic {
	s := t.Stats()
	return Traffic{Connections: s.Active + s.Flows, Received: s.BytesDown, Sent: s.BytesUp}
}

type socksServer struct{ *relay.SOCKS }

func (s socksServer) CloseFrom(src netip.Addr) { s.SOCKS.CloseFrom(src) }

type program struct{ supervised }

type supervised interface {
	Run(ctx context.Context) error
	Status() child.ChildStatus
}

func (p program) Status() ChildStatus {
	s := p.supervised.Status()
	return ChildStatus{State: s.State, Reason: s.Reason, Restarts: s.Restarts, Address4: s.Address4, Address6: s.Address6, DNS: s.DNS, Missing: s.Missing, Auth: s.Auth}
}

// judged is an upstream whose checks say what a person has to do.
type judged struct{ Upstream }

func (j judged) Check(ctx context.Context) error { return judge(j.Upstream.Check(ctx)) }

func judge(err error) error {
	if key, ok := errors.AsType[dialer.ErrHostKey](err); ok {
		return &Problem{Code: CodeHostKey, HostKey: key.Got, Text: changedKey}
	}
	if errors.Is(err, dialer.ErrAuth) {
		return &Problem{Code: CodeAuth, Text: "the server refuses the credentials (" + err.Error() + "): enter them again"}
	}
	return err
}
