package firewall

import (
	"fmt"
	"os"
	"strings"

	"github.com/google/nftables"

	"github.com/personal-internet-cell/pic/cell"
)

// look checks what the policy depends on and does not own, after an Apply.
// It only reads; what it can't read it passes over.
func (c *Controller) look(p Policy) {
	forwards := len(p.Forwarding) > 0
	c.notices.set(cell.Notice{
		Code: "firewall_rp_filter", Subject: "net.ipv4.conf.all.rp_filter", Severity: cell.Warning,
		Text: "The kernel drops answers that come back through exits, because net.ipv4.conf.all.rp_filter is 1. Set it to 0 or 2 in /etc/sysctl.d.",
	},
		forwards && strictReversePath())
	foreign, found := c.foreignDrop()
	c.notices.set(cell.Notice{
		Code: "firewall_foreign_drop", Subject: "forward", Severity: cell.Warning,
		Text: fmt.Sprintf("Another program's firewall (%s) drops what it does not know, so peers may not get out although the cell lets them. With ufw: ufw route allow in on pic0; ufw route allow out on pic0. With iptables: iptables -I FORWARD -i pic0 -j ACCEPT; iptables -I FORWARD -o pic0 -j ACCEPT, and the same with ip6tables.", foreign),
	},
		forwards && found)
	c.notices.set(cell.Notice{
		Code: "firewall_docker", Subject: "iptables-legacy", Severity: cell.Warning,
		Text: "Docker's firewall is in the old iptables tables, which the cell can't change, and drops what peers send. " + dockerCure,
	},
		forwards && legacyDocker())
}

// strictReversePath reports whether the machine's reverse-path filter is
// strict for all interfaces. Where the whole box is ours it was set to 0.
func strictReversePath() bool {
	b, err := os.ReadFile("/proc/sys/net/ipv4/conf/all/rp_filter")
	return err == nil && strings.TrimSpace(string(b)) == "1"
}

// foreignDrop is the function of that name, asked again when the ruleset has
// changed.
func (c *Controller) foreignDrop() (string, bool) {
	if c.still() && c.known.foreign != nil {
		return c.known.foreign.name, c.known.foreign.found
	}
	name, found := foreignDrop()
	if c.still() {
		c.known.foreign = &foreignChain{name, found}
	}
	return name, found
}

// foreignDrop names a forward chain of another program whose policy is drop:
// an accept of ours does not override it.
func foreignDrop() (string, bool) {
	c, err := dialNFT()
	if err != nil {
		return "", false
	}
	defer func() { _ = c.CloseLasting() }()
	chains, err := c.ListChains()
	if err != nil {
		return "", false
	}
	passed := map[nftables.TableFamily]bool{} // DOCKER-USER lets ours through
	for _, ch := range chains {
		passed[ch.Table.Family] = passed[ch.Table.Family] || ch.Table.Name == filterTable && ch.Name == dockerUser
	}
	for _, ch := range chains {
		ours := strings.HasPrefix(ch.Table.Name, "pic") && ch.Table.Family == nftables.TableFamilyINet ||
			passed[ch.Table.Family] && ch.Table.Name == filterTable && ch.Name == filterForward
		if !ours && ch.Hooknum != nil && *ch.Hooknum == *nftables.ChainHookForward && ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop {
			return ch.Table.Name + " " + ch.Name, true
		}
	}
	return "", false
}
