package tunnel

import (
	"fmt"
	"maps"
	"slices"

	"github.com/personal-internet-cell/pic/cell"
)

// Notices are problems a person should know of, with their cures.
func (c *Controller) Notices() []cell.Notice {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]cell.Notice, 0, len(c.notices))
	for _, name := range slices.Sorted(maps.Keys(c.notices)) {
		out = append(out, c.notices[name]...)
	}
	return out
}

// notify holds a notice until its device is settled again.
func (c *Controller) notify(n cell.Notice) {
	c.notices[n.Subject] = append(c.notices[n.Subject], n)
}

// Codes of this package's notices.
const (
	NoticeUserspace = "tunnel_userspace"
	NoticeForeign   = "tunnel_foreign_link"
	NoticePortTaken = "tunnel_port_taken"
)

func userspaceNotice(name string) cell.Notice {
	return cell.Notice{
		Code: NoticeUserspace, Subject: name, Severity: cell.Warning,
		Text: "The tunnel runs inside pic, because this kernel has no WireGuard. It is slower, needs up to 250 MB of memory under load, and " +
			"pauses while pic is stopped: after a restart devices take up to half a minute to come back. " +
			"Run modprobe wireguard, or use a kernel with WireGuard (Linux 5.6 or later), and restart pic.",
	}
}

func foreignNotice(name, kind string) cell.Notice {
	return cell.Notice{
		Code: NoticeForeign, Subject: name, Severity: cell.Alarm,
		Text: fmt.Sprintf("There is a link named %s of kind %q that pic did not make, so the %s is off. "+
			"Stop the program that made it (another pic, perhaps), or run: ip link delete %s", name, kind, role(name), name),
	}
}

// role is what a link of ours is for.
func role(name string) string {
	if name == cell.TunnelLink {
		return "tunnel"
	}
	return "exit"
}

func portNotice(d *Device) cell.Notice {
	return cell.Notice{
		Code: NoticePortTaken, Subject: d.Name, Severity: cell.Alarm,
		Text: fmt.Sprintf("UDP port %d is taken by another program, so devices can't reach the tunnel there. "+
			"Find it with: ss -lunp 'sport = :%d' and stop it, or choose another listen port for the tunnel and set devices up again.", d.ListenPort, d.ListenPort),
	}
}
