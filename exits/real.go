package exits

import (
	"context"
	"errors"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/exits/dialer"
)

// realParts are the parts of the cell itself.
func realParts(c *Config) *Parts {
	return &Parts{Routed: routed, Upstream: func(e *Exit, credentials cell.Secret, a *Around) (Upstream, error) {
		base := &dialer.Direct{Resolve: a.Resolve}
		log := c.Log.With("exit", e.ID)
		if p := e.Proxy; p != nil {
			return judged{dialer.NewProxy(&dialer.ProxyConfig{
				Protocol: p.Protocol, Host: p.Host, Port: p.Port, Username: p.Username, Password: credentials, Base: base, Log: log,
			})}, nil
		}
		s := e.SSH
		key := s.HostKey
		if key == "" {
			key = a.Pinned
		}
		return judged{dialer.NewSSH(&dialer.SSHConfig{
			Host: s.Host, Port: s.Port, User: s.User, Auth: s.Auth, Credential: credentials, HostKey: key, Pin: a.Pin, Base: base, Log: log,
		})}, nil
	}}
}

// lack reports whether a part that the exit consists of can't be made.
func (p *Parts) lack(e *Exit) bool {
	return e.Link != "" && p.Routed == nil || e.RelayPort != 0 && p.Relay == nil || len(e.Socks) > 0 && p.Socks == nil ||
		(e.OpenVPN != nil || e.Tor != nil) && p.Child == nil || (e.SSH != nil || e.Proxy != nil) && p.Upstream == nil
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
