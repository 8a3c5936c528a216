package firewall

import (
	"os"
	"strings"

	"github.com/personal-internet-cell/pic/cell"
)

// look checks what the policy depends on and does not own, after an Apply.
func (c *Controller) look(p Policy) {
	c.notices.set(cell.Notice{Code: "firewall_rp_filter", Subject: "net.ipv4.conf.all.rp_filter", Severity: cell.Warning,
		Text: "The kernel drops answers that come back through exits, because net.ipv4.conf.all.rp_filter is 1. Set it to 0 or 2 in /etc/sysctl.d."},
		strictReversePath() && len(p.Forwarding) > 0)
}

// strictReversePath reports whether the machine's reverse-path filter is
// strict for all interfaces. Where the whole box is ours it was set to 0.
func strictReversePath() bool {
	b, err := os.ReadFile("/proc/sys/net/ipv4/conf/all/rp_filter")
	return err == nil && strings.TrimSpace(string(b)) == "1"
}
